// Ids, each of which belongs to one processor: ids that were once written alike, rows of another
// owner, and names that PostgreSQL cuts.

use sandmill_tests::{
    database,
    host::{Host, component, with_id},
};
use serde_json::json;

use super::*;

/// Tenant `globex` gives its plugin an id that ends with the first part of another tenant's name.
/// Joined with hyphens, as ids once were, both would be the same.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_whose_names_would_join_to_one_id_have_processors_of_their_own() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let (globex, other) = ("globex", "acme-inc--globex");
    database.append(globex, "g", &vec![json!({}); 3]).await;
    database.append(other, "a", &vec![json!({}); 10]).await;
    give(folder.path(), globex, "x", &with_id("scripted-by-stream", "scripted--acme-inc"));
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counted(&database, "scripted_stream_log", "globex/scripted--acme-inc", 3).await;
    fs::remove_dir_all(folder.path().join(globex)).unwrap();
    until_ended(&database, &format!("{globex}/x")).await;

    // The other tenant's processor starts at the beginning of the log, with ten events to handle.
    give(folder.path(), other, "orders", &fs::read(component("scripted")).unwrap());
    until_counted(&database, "scripted_log", "acme-inc--globex/scripted", 10).await;
    assert_eq!(
        rows(&database, "select id, kind, tenant, family from sandmill.processors order by id").await,
        [
            "(acme-inc--globex/scripted,projector,acme-inc--globex,scripted)",
            "(globex/scripted--acme-inc,projector,globex,scripted--acme-inc)"
        ]
    );
    assert_eq!(json(&database, &["explain", "--json"]).await, json!({ "findings": [] }));

    // The processor without a plugin is behind with its own tenant's events only.
    database.append(globex, "g", &vec![json!({}); 2]).await;
    let found = eventually("the processor without a plugin is reported", async || {
        let shown = json(&database, &["explain", "--json"]).await;
        shown["findings"].as_array().unwrap().iter().find(|finding| finding["gravity"] == "stuck").cloned()
    })
    .await;
    assert_eq!(
        (found["processor"].as_str(), found["what"].as_str()),
        (
            Some("globex/scripted--acme-inc"),
            Some(
                "a host is running, but none of its plugins provides this processor, which last ran from globex/x.wasm"
            )
        )
    );
    database.settles("acme-inc--globex/scripted", &[]).await;
    assert_eq!(json(&database, &["explain", "acme-inc--globex/scripted", "--json"]).await, json!({ "findings": [] }));
    // Commands accept such an id.
    let paused = json(&database, &["pause", "acme-inc--globex/scripted", "--json"]).await;
    assert_eq!(paused["processor"], "acme-inc--globex/scripted");
    let resumed = json(&database, &["resume", "acme-inc--globex/scripted", "--json"]).await;
    assert_eq!(resumed["pausesLifted"], 1);
    host.stop().await;
}

/// Names of the greatest length that differ in their 64th byte, and names that differ only in case.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_differ_in_their_last_byte_or_in_capitals_are_different_tenants() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let long = |last: char| format!("{}{last}", "x".repeat(63));
    let tenants = [long('a'), long('b'), "Acme".into(), "acme".into(), "acme.eu".into(), "acme-eu".into()];
    for (number, tenant) in tenants.iter().enumerate() {
        database.append(tenant, "s", &vec![json!({}); number + 1]).await;
        give(folder.path(), tenant, "scripted", &fs::read(component("scripted")).unwrap());
    }
    let host = Host::start_in(&database, folder.path(), &[]);
    for (number, tenant) in tenants.iter().enumerate() {
        until_counted(&database, "scripted_log", &format!("{tenant}/scripted"), number as i64 + 1).await;
    }
    // The database cuts the session names of the two long tenants to the same text. Both processors
    // are still known to run.
    let names = "select distinct application_name from pg_stat_activity
                 where datname = current_database() and application_name like 'sandmill commit xx%'";
    assert_eq!(rows(&database, names).await.len(), 1);
    fs::remove_dir_all(folder.path().join(&tenants[1])).unwrap();
    until_ended(&database, &format!("{}/scripted", tenants[1])).await;
    database.append(&tenants[0], "s", &[json!({})]).await;
    database.append(&tenants[1], "s", &[json!({})]).await;
    until_counted(&database, "scripted_log", &format!("{}/scripted", tenants[0]), 2).await;
    let found = eventually("the processor without a plugin is reported", async || {
        let shown = json(&database, &["explain", "--json"]).await;
        let stuck = shown["findings"].as_array().unwrap().iter().filter(|finding| finding["gravity"] == "stuck");
        Some(stuck.cloned().collect::<Vec<Value>>()).filter(|stuck| !stuck.is_empty())
    })
    .await;
    let reported: Vec<_> =
        found.iter().map(|finding| (finding["processor"].clone(), finding["what"].clone())).collect();
    let gone = format!(
        "a host is running, but none of its plugins provides this processor, which last ran from {}/scripted.wasm",
        tenants[1]
    );
    assert_eq!(reported, [(json!(format!("{}/scripted", tenants[1])), json!(gone))]);
    host.stop().await;
}

/// A processor does not continue a row of another tenant or of another kind.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_with_a_row_of_another_owner_is_rejected_and_the_row_is_unchanged() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    // Rows that a later version of the host or a person may write.
    let row = "alter table sandmill.processors drop constraint processors_parts_check, drop constraint processors_kind_check;
               insert into sandmill.processors (id, kind, family, tenant, plugin, digest, version, partition_by, read_model_version)
               values ('acme/scripted', 'projector', 'scripted', 'mallory-the-tenant', 'p', 'd', 'v', 'tenant', 1),
                      ('scripted', 'reactor', 'scripted', '', 'p', 'd', 'v', 'tenant', 1)";
    database.db.connect("test").await.unwrap().batch_execute(row).await.unwrap();
    let all = "select id, kind, family, tenant, plugin, digest from sandmill.processors order by id";
    let before = rows(&database, all).await;
    let bytes = fs::read(component("scripted")).unwrap();
    give(folder.path(), "acme", "scripted", &bytes);
    place(folder.path(), "scripted.wasm", &bytes);
    let host = Host::start_in(&database, folder.path(), &[]);
    for (plugin, id) in [("acme/scripted", "acme/scripted"), ("scripted", "scripted")] {
        let error = until_error(folder.path(), plugin, &format!("the id {id} belongs to another processor")).await;
        assert!(error.contains("Give this plugin another id") && !error.contains("mallory"), "{error}");
    }
    host.stop().await;
    assert_eq!(rows(&database, all).await, before);
    assert_eq!(rows(&database, "select from sandmill.cursors").await, Vec::<String>::new());
}

/// Waits until a plugin whose file was removed has ended. Until then it may handle appended events.
async fn until_ended(database: &Database, plugin: &str) {
    let ended = format!("select from sandmill.plugin_versions where plugin = '{plugin}' and event = 'stopped'");
    eventually(&format!("{plugin} has ended"), async || (rows(database, &ended).await.len() == 1).then_some(())).await;
}
