// Starts of a host after rejections, rollbacks and crashes.

use super::*;

/// At a start, the version that ran last replaces a file that was rolled back or is broken.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_that_ran_last_runs_if_the_file_is_rejected_at_a_start() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    host.stop().await;
    let first = entries(&database, "scripted").await.remove(0).digest;

    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    let now = eventually("the refusal is recorded", async || {
        listed(&database, "scripted").await.filter(|now| now.rejected.is_some())
    })
    .await;
    assert_eq!(now.digest, first);
    until_error(folder.path(), "scripted", Some("this version was rolled back: manual rollback")).await;
    host.stop().await;

    // The file is broken while no host runs.
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 3)]).await;
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    // A good file takes over. Once it is removed, no former version runs in its place.
    put(folder.path(), GOOD[3]);
    append(&database, "s", 1).await;
    until_event(&database, "scripted", "swapped", 2).await;
    fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    until_event(&database, "scripted", "stopped", 1).await;
    host.stop().await;
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A version was rolled back while no host ran, and another does not fit the documents.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_restores_the_previous_version_as_a_running_host_does() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    host.stop().await;
    // With a different partitioning neither the file nor a former version can start.
    let sql = "update sandmill.processors set partition_by = 'event-stream' where id = 'scripted'";
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute(sql).await.unwrap();
    put(folder.path(), GOOD[3]);
    let host = Host::start_in(&database, folder.path(), &[]);
    until_error(folder.path(), "scripted", Some("partitioning by event-stream")).await;
    let last = eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    assert_eq!(last.digest, entries(&database, "scripted").await[0].digest, "the version that ran last is kept");
    host.stop().await;
    // With the old partitioning the former version starts, and the file is swapped in.
    session.batch_execute(&sql.replace("event-stream", "tenant")).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_event(&database, "scripted", "swapped", 2).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2), (GOOD[3], 1)]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// The next host runs the file in the folder, and each lane continues where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_during_a_swap_loses_nothing() {
    const ROUNDS: usize = 6;
    let mut random = Random::seeded();
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), GOOD[0]);
    for round in 0..ROUNDS {
        let process = Process::start(&database, folder.path(), &[]);
        until_event(&database, "scripted", "started", round + 1).await;
        for stream in ["a", "b"] {
            append(&database, stream, 30).await;
        }
        put(folder.path(), &format!("V{:06}", round + 1));
        // Kill the host before, during or after the swap.
        match random.below(4) {
            0 => {}
            1 => append(&database, "a", 5).await,
            2 => until_event(&database, "scripted", "swapped", 1).await,
            _ => {
                until_counted(&database, &["scripted_log"]).await;
            }
        }
        drop(process);
    }
    let process = Process::start(&database, folder.path(), &[]);
    append(&database, "a", 1).await;
    until_counted(&database, &["scripted_log"]).await;
    let last = format!("V{ROUNDS:06}");
    assert_eq!(versions(&database, "a").await.last().map(|(version, _)| version.clone()), Some(last));
    drop(process);
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
    for stream in ["a", "b"] {
        let versions = versions(&database, stream).await;
        assert!(versions.is_sorted_by(|(a, _), (b, _)| a < b), "{versions:?}");
    }
}
