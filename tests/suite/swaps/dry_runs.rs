// Dry runs of new versions on events that were handled before.

use super::*;

/// A dry run that fails only with the new version prevents the swap, unless the manifest has
/// `dry-run = false`.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_its_dry_run_is_not_swapped_in() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version_with(&database, folder.path(), 3, &["limits.cpu-ms=5000"]).await;
    put(folder.path(), TRAPPING[2]);
    let why = "a dry run on the last 3 events failed, unlike the running version: tenant acme, the event at position 1 (Scripted): trap";
    until_error(folder.path(), "scripted", Some(why)).await;
    // Kill the dry run's sessions, and all others that read the log or documents. The next dry run
    // opens new ones.
    let session = database.db.connect("test").await.unwrap();
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database()
               and application_name ~ '^sandmill (dry run|read|documents)'";
    assert!(session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) >= 2);
    put(folder.path(), SPINNING[3]);
    let why = "failed, unlike the running version: none of 3 events was handled in 2 s; the running version handles 3";
    until_error(folder.path(), "scripted", Some(why)).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 4)]).await;
    let rejection = entries(&database, "scripted").await.into_iter().find(|entry| entry.event == "rejected").unwrap();
    let report = rejection.dry_run.unwrap();
    assert_eq!((report.events, report.lanes, report.handled, report.failed), (3, 1, 0, 1));

    put(folder.path(), TRAPPING[4]);
    until_error(folder.path(), "scripted", Some("position 1 (Scripted): trap")).await;
    // The version is rejected at a start too.
    host.stop().await;
    append(&database, "s", 1).await;
    fs::remove_file(folder.path().join("scripted.wasm.error")).unwrap();
    let (config, never) = (host::config(folder.path(), &[]), std::future::pending);
    let ended = app::run(&config, &database.db, Until::CaughtUp, never(), never()).await.unwrap();
    assert!(matches!(ended, Ended::CaughtUp { rejected: 1 }), "{ended:?}");
    until_versions(&database, "s", &[(GOOD[1], 5)]).await;
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 6)]).await;
    until_error(folder.path(), "scripted", Some("position 1 (Scripted): trap")).await;
    fs::write(folder.path().join("scripted.toml"), "dry-run = false").unwrap();
    until_event(&database, "scripted", "swapped", 1).await;
    until_error(folder.path(), "scripted", None).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A dry run's skips are counted and shown. They change neither documents nor dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_a_dry_run_are_reported_and_discarded() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 2).await;
    let skip = json!({"do": "skip", "code": "odd", "message": "it is"});
    database.append("acme", "s", &[skip, json!({})]).await;
    // The running version stops this lane at its second event.
    database.append("globex", "s", &[json!({}), json!({"do": "stop"}), json!({})]).await;
    until_versions(&database, "s", &[(GOOD[1], 3)]).await;
    eventually("the lane is blocked", async || {
        let status = database.status("scripted").await?;
        status.lanes_behind.iter().any(|lane| lane.state == "blocked").then_some(())
    })
    .await;
    let before = documents(&database, "scripted_log").await;
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    let swap = entries(&database, "scripted").await.pop().unwrap();
    let report = swap.dry_run.unwrap();
    // The dry run ends at the last handled position, so it includes only the first event of the
    // blocked lane.
    assert_eq!((report.lanes, report.skipped, report.failed), (2, 1, 0), "{report:?}");
    let why = report.why.clone().unwrap();
    assert!(why.contains("plugin"), "{why}");
    assert!(report.to_string().contains(", 1 skipped"), "{report}");
    assert_eq!(documents(&database, "scripted_log").await, before);
    let shown = command(&database, &["history", "scripted"]).await.unwrap();
    assert!(shown.contains("dry run: "), "{shown}");
    let json: Value =
        serde_json::from_str(&command(&database, &["history", "scripted", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["history"][0]["dryRun"]["skipped"], 1, "{json}");
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 3), (GOOD[2], 1)]).await;
    let swap = eventually("its lanes are counted", async || {
        entries(&database, "scripted").await.pop().filter(|entry| entry.lanes.is_some())
    })
    .await;
    assert!(swap.lanes >= Some(1) && swap.longest_ms > Some(0.0), "{swap:?}");
    host.stop().await;
    let session = database.db.connect("test").await.unwrap();
    let letters: i64 = session.query_one("select count(*) from sandmill.dead_letters", &[]).await.unwrap().get(0);
    assert_eq!(letters, 1);
}
