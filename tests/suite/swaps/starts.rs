// A host's start, in the middle of what was going on with its plugins when the last one ended.

use super::*;

/// Where a file does not run at a start, what ran last does: one that was taken back, and one that is broken.
#[tokio::test(flavor = "multi_thread")]
async fn what_ran_last_goes_on_after_a_start() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    put(folder.path(), "V000002");
    until_event(&database, "scripted", "swapped", 1).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    host.stop().await;
    let first = past(&database, "scripted").await.remove(0).digest;

    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[("V000001", 2)]).await;
    let now = eventually("what runs is told", async || {
        listed(&database, "scripted").await.filter(|now| now.refused.is_some())
    })
    .await;
    assert_eq!(now.digest, first);
    until_error(folder.path(), "scripted", Some("this version was taken back: by a person")).await;
    host.stop().await;

    // The next file is broken, while nobody looks.
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[("V000001", 3)]).await;
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    // A good one takes over, and once it is gone nothing of the former is left to go on.
    put(folder.path(), "V000003");
    append(&database, "s", 1).await;
    until_event(&database, "scripted", "swapped", 2).await;
    fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    until_event(&database, "scripted", "stopped", 1).await;
    host.stop().await;
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    // The file was gone in between.
    eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

/// A version that is taken back while no host runs, and one that cannot begin with the documents there are: a start goes on with the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_back_as_a_running_host_does() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    put(folder.path(), "V000002");
    until_event(&database, "scripted", "swapped", 1).await;
    host.stop().await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[("V000001", 2)]).await;
    host.stop().await;
    // Without one, what is there cannot begin either: its lanes would be cut otherwise.
    let sql = "update sandmill.processors set partition_by = 'event-stream' where id = 'scripted'";
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute(sql).await.unwrap();
    put(folder.path(), "V000003");
    let host = Host::start_in(&database, folder.path(), &[]);
    until_error(folder.path(), "scripted", Some("partitioning by event-stream")).await;
    let last = eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    assert_eq!(last.digest, past(&database, "scripted").await[0].digest, "what ran last stays known");
    host.stop().await;
    // As it was again, what ran last begins, and the file takes over as it would have.
    session.batch_execute(&sql.replace("event-stream", "tenant")).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_event(&database, "scripted", "swapped", 2).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 2), ("V000003", 1)]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

/// A host that is killed somewhere in a swap: the next one runs what the folder says, from where each lane stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_during_a_swap_loses_nothing() {
    const ROUNDS: usize = 6;
    let mut random = Random::seeded();
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "V000000");
    for round in 0..ROUNDS {
        let process = Process::start(&database, folder.path(), &[]);
        until_event(&database, "scripted", "started", round + 1).await;
        for stream in ["a", "b"] {
            append(&database, stream, 30).await;
        }
        put(folder.path(), &format!("V{:06}", round + 1));
        // The swap may not have begun, be under way, or be over and at work.
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
    assert_log(&database, "scripted_log", "true").await;
    for stream in ["a", "b"] {
        let versions = versions(&database, stream).await;
        assert!(versions.is_sorted_by(|(a, _), (b, _)| a < b), "{versions:?}");
    }
}
