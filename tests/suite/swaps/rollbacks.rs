// Rollbacks of versions that began with their processor: with a start of the host, or because more
// than the code differs.

use sandmill_tests::handmade::listing;

use super::{retained::until_retained, *};

/// A host that was stopped for an upgrade: its second version has begun with the start, and has
/// handled an event.
async fn upgraded_by_a_start(database: &Database, folder: &Path) -> Host {
    let host = first_version(database, folder, 1).await;
    until_retained(database, "scripted", 1).await;
    host.stop().await;
    put(folder, "V000002");
    let host = Host::start_in(database, folder, &[]);
    append(database, "s", 1).await;
    until_versions(database, "s", &[("V000001", 1), ("V000002", 1)]).await;
    until_retained(database, "scripted", 2).await;
    host
}

async fn runs_again(database: &Database) {
    append(database, "s", 1).await;
    until_versions(database, "s", &[("V000001", 1), ("V000002", 1), ("V000001", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_came_with_a_start_is_rolled_back_while_the_host_runs() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    let started = past(&database, "scripted").await;
    assert_eq!(started[1].replaced, started[0].digest, "what a start replaced is known");
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    runs_again(&database).await;
    let nothing = command(&database, &["rollback", "scripted"]).await.unwrap_err();
    assert!(nothing.contains("has run no other version"), "a version that was taken back is none: {nothing}");
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_came_with_a_start_is_rolled_back_before_the_next_start() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    runs_again(&database).await;
    until_error(folder.path(), "scripted", Some("this version was taken back: by a person")).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

/// Two rollbacks in a row lead past versions that were taken back, no matter what came by a start.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_before_two_that_were_taken_back_runs_again() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    put(folder.path(), "V000003");
    until_event(&database, "scripted", "swapped", 1).await;
    until_retained(&database, "scripted", 3).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1), ("V000002", 2)]).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1), ("V000002", 2), ("V000001", 1)]).await;
    host.stop().await;
}

/// A version with another collection takes over by a restart, and so does the one before it.
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
    let past = past(&database, "shop").await;
    let last = past.iter().rfind(|past| past.event == "rolled-back").unwrap();
    assert_eq!((&last.digest, &last.replaced), (&past[0].digest, &past[1].digest));
    append(&database, "s", 1).await;
    eventually("it handles events", async || {
        let status = database.status("shop").await?;
        (status.unread_events == 0).then_some(())
    })
    .await;
    until_error(folder.path(), "shop", Some("this version was taken back: by a person")).await;
    assert_eq!(listed(&database, "shop").await.unwrap().digest, past[0].digest);
    host.stop().await;
}

/// A version that does not fit the documents any more cannot take its place back at a start, and
/// the file's error says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_why_the_version_before_cannot_begin() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = upgraded_by_a_start(&database, folder.path()).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    let session = database.db.connect("test").await.unwrap();
    let rebuilt = "update sandmill.processors set read_model_version = 7 where id = 'scripted'";
    session.batch_execute(rebuilt).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_error(folder.path(), "scripted", Some("this version was taken back: by a person")).await;
    until_error(
        folder.path(),
        "scripted",
        Some("cannot begin: processor scripted was built with read-model version 7"),
    )
    .await;
    host.stop().await;
}
