//! Why something is behind, as a person is told: whatever holds a lane back has a sentence, and what moves has none to fear.

use sandmill_tests::{
    Database, database,
    host::{Host, catch_up, eventually, sandmill, stderr, stdout},
    ledger::assert_scripted_log,
};
use serde_json::{Value, json};

/// What `sandmill explain --json` finds.
fn explain(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let output = sandmill(&database.address).args(["explain", "--json"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
    told["findings"].as_array().unwrap().clone()
}

/// Waits until a finding says this, and returns it.
async fn told(database: &Database, arguments: &[&str], what: &str) -> Value {
    eventually(&format!("it is explained by: {what}"), async || {
        explain(database, arguments).into_iter().find(|finding| finding["what"].as_str().unwrap().contains(what))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_holds_something_back_is_named() {
    let database = database().await;
    database.append("acme", "s", &[json!({}), json!({"do": "trap"})]).await;
    database.append("later", "s", &[json!({"do": "retry-after", "ms": 1_000_000, "code": "busy"})]).await;
    database.append("fine", "s", &[json!({})]).await;
    assert!(explain(&database, &[]).is_empty(), "nobody has ever run here");

    let host = Host::start(&database, &["scripted"], &["tenants.held.paused=true"]);
    database.scripted_settles(&["acme blocked trap", "later retrying plugin:busy"]).await;
    let blocked = told(&database, &["acme"], "lane acme is blocked").await;
    assert_eq!((&blocked["gravity"], &blocked["processor"]), (&json!("stuck"), &json!("scripted")));
    assert!(blocked["remedy"].as_str().unwrap().ends_with("sandmill resume scripted --tenant acme"), "{blocked}");
    told(&database, &["scripted"], "lane later tries again by itself").await;
    assert!(explain(&database, &["fine"]).is_empty(), "nothing of it is behind");
    database.append("held", "s", &[json!({})]).await;
    told(&database, &["held"], "by the settings: tenants.held.paused").await;

    // A person's pause.
    let pause = sandmill(&database.address).args(["pause", "scripted", "--tenant", "fine"]).output().unwrap();
    assert!(pause.status.success(), "{}", stderr(&pause));
    let paused = eventually("the host has taken up the pause", async || {
        database.append("fine", "s", &[json!({})]).await;
        let found = explain(&database, &["fine"]).into_iter();
        found.into_iter().find(|finding| finding["what"].as_str().unwrap().contains("lane fine is paused by "))
    })
    .await;
    assert_eq!(paused["remedy"], json!("sandmill resume scripted --tenant fine"));

    // Somebody's transaction that has locked the cursors, and another that has appended.
    let mut other = database.db.connect("test").await.unwrap();
    other.batch_execute("set application_name = 'batch job'").await.unwrap();
    let held = other.client_mut().transaction().await.unwrap();
    held.batch_execute("select from sandmill.cursors for update; select pg_current_xact_id()").await.unwrap();
    database.append("fresh", "s", &[json!({})]).await;
    let waits = told(&database, &["scripted"], "for a lock of session").await;
    assert!(waits["what"].as_str().unwrap().contains("(batch job, user "), "{waits}");
    assert!(waits["remedy"].as_str().unwrap().contains("pg_terminate_backend("), "{waits}");
    told(&database, &[], "what it appended is handled once it commits").await;
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

    // Without a host, and with one that has another plugin.
    told(&database, &[], "no host runs on this database").await;
    let host = Host::start(&database, &["scripted-by-stream"], &[]);
    told(&database, &["scripted"], "the host has recorded no file scripted.wasm in its plugins folder").await;
    host.stop().await;

    let nobody = sandmill(&database.address).args(["explain", "nobody"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        stderr(&nobody).contains("neither a processor nor a tenant with events called nobody"),
        "{}",
        stderr(&nobody)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_is_said_as_such() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let output = sandmill(&database.address).args(["explain", "acme"]).output().unwrap();
    assert_eq!(stdout(&output), "nothing of acme is behind\n");
    assert_scripted_log(&database, "true").await;
}
