// Real data: flights of 2013, and the read model that they must produce.

use std::path::Path;

use sandmill::app::Ended;
use sandmill_tests::{
    Database, database,
    host::{catch_up, root, sandmill, stderr, stdout},
    ledger::{assert_plane_log, documents},
};
use serde_json::Value;

pub(crate) fn slice() -> std::path::PathBuf {
    root().join("example-plugins/data/flights-20000.ndjson.gz")
}

/// Imports a file with the command line.
pub(crate) async fn import(database: &Database, file: &Path) -> String {
    let mut command = sandmill(&database.address);
    command.arg("import").arg(file);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// Asserts that `route_performance` has the documents of an expectation file.
pub(crate) async fn assert_routes(database: &Database, expectation: &Path) {
    let text = std::fs::read_to_string(expectation).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
    let expected = expected.into_iter().map(|mut document| {
        let fields = document.as_object_mut().unwrap();
        let (tenant, id) = (fields.remove("tenant").unwrap(), fields.remove("id").unwrap());
        ((tenant.as_str().unwrap().to_string(), id.as_str().unwrap().to_string()), document)
    });
    let expected: std::collections::BTreeMap<_, _> = expected.collect();
    assert_eq!(documents(database, "route_performance").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_flights_produce_the_known_read_model() {
    let database = database().await;
    import(&database, &slice()).await;
    let ended = catch_up(&database, &["route-performance", "plane-log"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
    assert_routes(&database, &root().join("example-plugins/data/flights-20000.expected.json")).await;
    assert_plane_log(&database).await;
}

/// The outcome does not depend on the bounds of pages and batches.
#[tokio::test(flavor = "multi_thread")]
async fn small_pages_produce_the_same_read_model() {
    let database = database().await;
    import(&database, &slice()).await;
    catch_up(&database, &["route-performance", "plane-log"], &["processor.page-events=337"]).await;
    assert_routes(&database, &root().join("example-plugins/data/flights-20000.expected.json")).await;
    assert_plane_log(&database).await;
}

/// All flights of 2013. The file lies outside the repository; the test is skipped without it.
#[tokio::test(flavor = "multi_thread")]
async fn all_flights_produce_the_known_read_model() {
    let data = root().parent().unwrap().join("shared/data");
    if !data.join("flights.ndjson.gz").is_file() {
        eprintln!("SKIPPED: all_flights_produce_the_known_read_model: {} does not exist", data.display());
        return;
    }
    let database = database().await;
    import(&database, &data.join("flights.ndjson.gz")).await;
    catch_up(&database, &["route-performance"], &[]).await;
    assert_eq!(documents(&database, "route_performance").await.len(), 439);
    assert_routes(&database, &data.join("expected.json")).await;
}
