// `sandmill explain`: each cause of a lag is named with its remedy.

use sandmill_tests::{
    Database, database,
    host::{Host, catch_up, eventually, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::{Value, json};

/// The findings of `sandmill explain --json`.
fn explain(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let output = sandmill(&database.address).args(["explain", "--json"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    report["findings"].as_array().unwrap().clone()
}

/// Waits for a finding that contains a text, and returns it.
async fn until_found(database: &Database, arguments: &[&str], what: &str) -> Value {
    eventually(&format!("a finding contains: {what}"), async || {
        explain(database, arguments).into_iter().find(|finding| finding["what"].as_str().unwrap().contains(what))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_of_a_lag_is_named() {
    let database = database().await;
    database.append("acme", "s", &[json!({}), json!({"do": "trap"})]).await;
    database.append("later", "s", &[json!({"do": "retry-after", "ms": 1_000_000, "code": "busy"})]).await;
    database.append("fine", "s", &[json!({})]).await;
    assert!(explain(&database, &[]).is_empty(), "no processor has ever run here");

    let host = Host::start(&database, &["scripted"], &["tenants.held.paused=true"]);
    database.scripted_settles(&["acme blocked trap", "later retrying plugin:busy"]).await;
    let blocked = until_found(&database, &["acme"], "lane acme has been blocked").await;
    assert_eq!((&blocked["gravity"], &blocked["processor"]), (&json!("stuck"), &json!("scripted")));
    assert!(blocked["remedy"].as_str().unwrap().ends_with("sandmill resume scripted --tenant acme"), "{blocked}");
    until_found(&database, &["scripted"], "lane later is retried automatically").await;
    assert!(explain(&database, &["fine"]).is_empty(), "this tenant is not behind");
    database.append("held", "s", &[json!({})]).await;
    until_found(&database, &["held"], "by the settings: tenants.held.paused").await;

    // A manual pause.
    let pause = sandmill(&database.address).args(["pause", "scripted", "--tenant", "fine"]).output().unwrap();
    assert!(pause.status.success(), "{}", stderr(&pause));
    let paused = eventually("the host has taken up the pause", async || {
        database.append("fine", "s", &[json!({})]).await;
        let found = explain(&database, &["fine"]).into_iter();
        found.into_iter().find(|finding| finding["what"].as_str().unwrap().contains("lane fine is paused by "))
    })
    .await;
    assert_eq!(paused["remedy"], json!("sandmill resume scripted --tenant fine"));

    // Another program's transaction that has locked the cursors and written.
    let mut other = database.db.connect("test").await.unwrap();
    other.batch_execute("set application_name = 'batch job'").await.unwrap();
    let held = other.client_mut().transaction().await.unwrap();
    held.batch_execute("select from sandmill.cursors for update; select pg_current_xact_id()").await.unwrap();
    database.append("fresh", "s", &[json!({})]).await;
    let waits = until_found(&database, &["scripted"], "for a lock held by session").await;
    assert!(waits["what"].as_str().unwrap().contains("(batch job, user "), "{waits}");
    assert!(waits["remedy"].as_str().unwrap().contains("pg_terminate_backend("), "{waits}");
    until_found(&database, &[], "events that it appended are handled once it commits").await;
    held.rollback().await.unwrap();
    database
        .scripted_settles(&[
            "acme blocked trap",
            "fine paused paused",
            "held paused paused",
            "later retrying plugin:busy",
        ])
        .await;
    host.stop().await;

    // No host, then a host with another plugin.
    until_found(&database, &[], "no host is running on this database").await;
    let host = Host::start(&database, &["scripted-by-stream"], &[]);
    until_found(
        &database,
        &["scripted"],
        "none of its plugins provides this processor, which last ran from scripted.wasm",
    )
    .await;
    host.stop().await;

    let unknown = sandmill(&database.address).args(["explain", "nobody"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        stderr(&unknown).contains("there is no processor `nobody` and no tenant `nobody` with events"),
        "{}",
        stderr(&unknown)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_is_reported_as_such() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let output = sandmill(&database.address).args(["explain", "acme"]).output().unwrap();
    assert_eq!(stdout(&output), "acme: nothing is behind\n");
    assert_scripted_log(&database, EVERY_EVENT).await;
}
