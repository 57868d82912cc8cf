// Rollbacks of versions that began with a start of the host, or with a restart of their processor.

use sandmill_tests::handmade::listing;

use super::{retained::until_retained, *};

/// A host whose second version began with a start and has handled an event.
async fn upgraded_by_a_start(database: &Database, folder: &Path) -> Host {
    let host = first_version(database, folder, 1).await;
    until_retained(database, "scripted", 1).await;
    host.stop().await;
    put(folder, GOOD[2]);
    let host = Host::start_in(database, folder, &[]);
    append(database, "s", 1).await;
    until_versions(database, "s", &[(GOOD[1], 1), (GOOD[2], 1)]).await;
    until_retained(database, "scripted", 2).await;
    host
}

async fn until_first_version_handles_an_event(database: &Database) {
    append(database, "s", 1).await;
    until_versions(database, "s", &[(GOOD[1], 1), (GOOD[2], 1), (GOOD[1], 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_by_a_start_is_rolled_back_while_the_host_runs() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    let started = entries(&database, "scripted").await;
    assert_eq!(started[1].replaced, started[0].digest, "the start recorded the replaced version");
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    until_first_version_handles_an_event(&database).await;
    let nothing = command(&database, &["rollback", "scripted"]).await.unwrap_err();
    assert!(nothing.contains("no earlier version of"), "a rolled-back version does not count: {nothing}");
    let session = database.db.connect("test").await.unwrap();
    let records = "select json_build_array(command, processor, tenant, details) from sandmill.audit";
    let records = session.query(records, &[]).await.unwrap();
    let records: Vec<serde_json::Value> = records
        .iter()
        .map(|row| serde_json::from_str(row.get::<_, sandmill::db::JsonText<'_>>(0).0).unwrap())
        .collect();
    let [first, second] = [&started[0].digest, &started[1].digest];
    let details = json!({"plugin": "scripted", "from": second, "to": first, "reason": "manual rollback"});
    assert_eq!(records, [json!(["plugins rollback", "scripted", "", details])]);
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_by_a_start_is_rolled_back_before_the_next_start() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_first_version_handles_an_event(&database).await;
    until_error(folder.path(), "scripted", Some("this version was rolled back: manual rollback")).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// It does not matter which of the versions began with a start.
#[tokio::test(flavor = "multi_thread")]
async fn two_rollbacks_in_a_row_restore_the_version_before_both() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    put(folder.path(), GOOD[3]);
    until_event(&database, "scripted", "swapped", 1).await;
    until_retained(&database, "scripted", 3).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 2)]).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 2), (GOOD[1], 1)]).await;
    host.stop().await;
}

/// A version with another collection replaces its predecessor by a restart, and so does the
/// rollback.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_other_collections_is_rolled_back_by_a_restart() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "shop.wasm", &listing("shop", &["carts"]));
    let host = Host::start_in(&database, folder.path(), &[]);
    until_retained(&database, "shop", 1).await;
    place(folder.path(), "shop.wasm", &listing("shop", &["carts", "orders"]));
    until_event(&database, "shop", "restarted", 1).await;
    until_retained(&database, "shop", 2).await;
    command(&database, &["rollback", "shop"]).await.unwrap();
    until_event(&database, "shop", "rolled-back", 1).await;
    let history = entries(&database, "shop").await;
    let last = history.iter().rfind(|entry| entry.event == "rolled-back").unwrap();
    assert_eq!((&last.digest, &last.replaced), (&history[0].digest, &history[1].digest));
    append(&database, "s", 1).await;
    eventually("the restored version handles events", async || {
        let status = database.status("shop").await?;
        (status.unread_events == 0).then_some(())
    })
    .await;
    until_error(folder.path(), "shop", Some("this version was rolled back: manual rollback")).await;
    assert_eq!(listed(&database, "shop").await.unwrap().digest, history[0].digest);
    host.stop().await;
}

/// The previous version no longer fits the documents.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_reports_why_the_previous_version_cannot_start() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    let session = database.db.connect("test").await.unwrap();
    let rebuilt = "update sandmill.processors set read_model_version = 7 where id = 'scripted'";
    session.batch_execute(rebuilt).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_error(folder.path(), "scripted", Some("this version was rolled back: manual rollback")).await;
    until_error(
        folder.path(),
        "scripted",
        Some("cannot start: processor scripted was built with read-model version 7"),
    )
    .await;
    host.stop().await;
}
