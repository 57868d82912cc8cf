// Set-aside events: dead letters that are handled again or discarded, parked streams, events that
// are skipped, and the budgets of all of them.

use std::{path::Path, process::Output};

use sandmill_tests::{
    Database, database,
    host::{
        CURED, GOOD, Host, Process, TRAPPING, eventually, eventually_or, place, plugins, sandmill, stderr, stdout,
        version,
    },
    ledger::{EVERY_EVENT, assert_scripted_log, documents},
};
use serde_json::{Value, json};

/// The events without those that trap.
const WITHOUT_TRAPS: &str = "coalesce(e.data->>'do', '') <> 'trap'";

const DEAD_LETTER: &[u8] = b"[failures.trap]\nthen = 'dead-letter'\n";
const PARK: &[u8] = b"[failures.trap]\nthen = 'park-stream'\n";

fn trap() -> Value {
    json!({"do": "trap"})
}

fn good() -> Value {
    json!({})
}

/// A plugins folder with `scripted` and this manifest.
fn folder(manifest: &[u8]) -> tempfile::TempDir {
    let folder = plugins(&["scripted"]);
    place(folder.path(), "scripted.toml", manifest);
    folder
}

/// Replaces the plugin by a version that handles events that ask for a trap, and waits until it
/// runs.
async fn cure(database: &Database, folder: &Path) {
    let digest = "select digest from sandmill.processors where id = 'scripted'";
    let session = database.db.connect("test").await.unwrap();
    let before: String = session.query_one(digest, &[]).await.unwrap().get(0);
    place(folder, "scripted.wasm", &version("scripted", CURED));
    eventually("the cured version runs", async || {
        let now: String = session.query_one(digest, &[]).await.unwrap().get(0);
        (now != before).then_some(())
    })
    .await;
}

/// Runs a command.
async fn run(database: &Database, arguments: &[&str]) -> Output {
    let mut command = sandmill(&database.address);
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs a command that succeeds, and returns its output.
async fn succeed(database: &Database, arguments: &[&str]) -> String {
    let output = run(database, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// What has become of the events that the processor's cursor or lanes have passed: handled,
/// discarded, dead letters, and waiting in parked streams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    handled: i64,
    discarded: i64,
    letters: i64,
    waiting: i64,
}

async fn counts(database: &Database) -> Counts {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select coalesce(sum(handled), 0)::bigint, coalesce(sum(discarded), 0)::bigint,
                      (select count(*) from sandmill.dead_letters),
                      (select coalesce(sum(events), 0)::bigint from sandmill.parked_streams)
               from sandmill.cursors";
    let row = session.query_one(sql, &[]).await.unwrap();
    Counts { handled: row.get(0), discarded: row.get(1), letters: row.get(2), waiting: row.get(3) }
}

/// Waits until the counts are these.
async fn until_counts(database: &Database, expected: Counts) {
    eventually_or("the counts are reached", async || {
        let found = counts(database).await;
        if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
    })
    .await;
}

/// The parked streams: name, first and last version that wait, class.
async fn parked(database: &Database) -> Vec<(String, i64, i64, String)> {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select stream, next_version, last_version, class from sandmill.parked_streams order by 1";
    let rows = session.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_handled_again_by_a_version_that_can_and_are_then_gone() {
    let database = database().await;
    let folder = folder(DEAD_LETTER);
    database.append("a", "s", &[good(), trap(), good(), trap()]).await;
    database.append("b", "s", &[trap(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 3, letters: 3, ..Counts::default() }).await;

    // The version that runs still fails. The letters stay, and their attempts are added up.
    let failed = run(&database, &["dead-letters", "retry", "scripted", "--tenant", "a", "--json"]).await;
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    let report: Value = serde_json::from_str(&stdout(&failed)).unwrap();
    let expected = json!({"processor": "scripted", "requested": 2, "handled": 0, "failedAgain": 2, "pending": 0, "hostRuns": true});
    assert_eq!(report, expected);
    let session = database.db.connect("test").await.unwrap();
    let attempts = "select array_agg(attempts order by position) from sandmill.dead_letters";
    let attempts: Vec<i32> = session.query_one(attempts, &[]).await.unwrap().get(0);
    assert_eq!(attempts, [2, 2, 1]);

    cure(&database, folder.path()).await;
    let one = succeed(&database, &["dead-letters", "retry", "scripted", "2"]).await;
    assert_eq!(one, "1 dead letter handled again\n");
    let rest = succeed(&database, &["dead-letters", "retry", "scripted", "--all"]).await;
    assert_eq!(rest, "2 dead letters handled again\n");
    until_counts(&database, Counts { handled: 6, ..Counts::default() }).await;
    // Each was folded once, although out of order.
    let counted: i64 =
        documents(&database, "scripted_log").await.values().filter_map(|data| data["count"].as_i64()).sum();
    assert_eq!(counted, 6);
    let none = run(&database, &["dead-letters", "retry", "scripted", "--all"]).await;
    assert_eq!((none.status.code(), stderr(&none).contains("has no such dead letters")), (Some(1), true));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_discarded_by_the_host_or_without_one() {
    let database = database().await;
    let folder = folder(DEAD_LETTER);
    database.append("a", "s", &[good(), trap(), trap(), trap(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 2, letters: 3, ..Counts::default() }).await;
    let by_host = succeed(&database, &["dead-letters", "discard", "scripted", "2"]).await;
    assert_eq!(by_host, "discarded 1 dead letter of scripted\n");
    assert_eq!(counts(&database).await, Counts { handled: 2, discarded: 1, letters: 2, waiting: 0 });
    host.stop().await;

    let session = database.db.connect("test").await.unwrap();
    let fence = "select fence from sandmill.cursors";
    let before: String = session.query_one(fence, &[]).await.unwrap().get(0);
    let refused = run(&database, &["dead-letters", "discard", "scripted", "--class", "trap"]).await;
    assert_eq!((refused.status.code(), stderr(&refused).contains("add --yes")), (Some(2), true));
    let by_command =
        succeed(&database, &["dead-letters", "discard", "scripted", "--class", "trap", "--yes", "--json"]).await;
    let report: Value = serde_json::from_str(&by_command).unwrap();
    assert_eq!((&report["discarded"], &report["by"]), (&json!(2), &json!("command")));
    assert_eq!(counts(&database).await, Counts { handled: 2, discarded: 3, ..Counts::default() });
    let after: String = session.query_one(fence, &[]).await.unwrap().get(0);
    assert_ne!(before, after, "an earlier owner can no longer commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_without_a_host_is_recorded_and_runs_at_the_next_start() {
    let database = database().await;
    let folder = folder(DEAD_LETTER);
    database.append("a", "s", &[good(), trap(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 2, letters: 1, ..Counts::default() }).await;
    host.stop().await;
    let recorded = succeed(&database, &["dead-letters", "retry", "scripted", "--all"]).await;
    assert!(
        recorded.starts_with("recorded: 1 dead letter of scripted will be handled again when a host next"),
        "{recorded}"
    );
    place(folder.path(), "scripted.wasm", &version("scripted", CURED));
    let folder_path = folder.path().to_str().unwrap();
    succeed(&database, &["run", "--until-caught-up", "--plugins", folder_path]).await;
    assert_eq!(counts(&database).await, Counts { handled: 3, ..Counts::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_stream_waits_in_order_while_the_tenants_other_streams_continue() {
    let database = database().await;
    let folder = folder(PARK);
    database.append("a", "bad", &[good(), trap(), good()]).await;
    database.append("a", "other", &[good(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 3, waiting: 2, ..Counts::default() }).await;
    database.append("a", "bad", &[good(), trap()]).await;
    database.append("a", "other", &[good()]).await;
    until_counts(&database, Counts { handled: 4, waiting: 4, ..Counts::default() }).await;
    assert_eq!(parked(&database).await, [("bad".into(), 2, 5, "trap".into())]);
    database.scripted_settles(&[]).await;
    assert_scripted_log(&database, "e.stream = 'other' or e.version = 1").await;
    let listed = succeed(&database, &["parked", "list", "--processor", "scripted"]).await;
    let words: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..5], ["scripted", "a", "bad@2", "4", "trap"], "{listed}");

    // The stream stays parked before the event that fails again.
    let failed = run(&database, &["parked", "drain", "scripted", "--tenant", "a", "bad"]).await;
    assert!(stdout(&failed).starts_with("stopped before bad@2 (trap: "), "{}{}", stdout(&failed), stderr(&failed));
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(counts(&database).await, Counts { handled: 4, waiting: 4, ..Counts::default() });

    cure(&database, folder.path()).await;
    let drained = succeed(&database, &["parked", "drain", "scripted", "--tenant", "a", "bad"]).await;
    assert_eq!(drained, "stream bad has no waiting events left\n");
    database.append("a", "bad", &[good()]).await;
    until_counts(&database, Counts { handled: 9, ..Counts::default() }).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// Restarts find the parked stream again.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_parked_stream_are_discarded_one_by_one_or_all() {
    let database = database().await;
    let folder = folder(PARK);
    database.append("a", "bad", &[trap(), good(), trap(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { waiting: 4, ..Counts::default() }).await;
    let first = succeed(&database, &["parked", "discard", "scripted", "--tenant", "a", "bad"]).await;
    assert!(first.starts_with("discarded one event of stream bad; 3 waiting events left."), "{first}");
    // The next one is handled, the one after it fails.
    let drained = run(&database, &["parked", "drain", "scripted", "--tenant", "a", "bad"]).await;
    assert!(stdout(&drained).starts_with("stopped before bad@3 "), "{}{}", stdout(&drained), stderr(&drained));
    assert_eq!(counts(&database).await, Counts { handled: 1, discarded: 1, letters: 0, waiting: 2 });
    host.stop().await;

    // Without a host the command discards by itself.
    let second = succeed(&database, &["parked", "discard", "scripted", "--tenant", "a", "bad", "--json"]).await;
    let report: Value = serde_json::from_str(&second).unwrap();
    assert_eq!((&report["waiting"], &report["hostRuns"]), (&json!(1), &json!(false)));
    assert_eq!(parked(&database).await, [("bad".into(), 4, 4, "trap".into())]);
    let host = Host::start_in(&database, folder.path(), &[]);
    database.append("a", "bad", &[good()]).await;
    until_counts(&database, Counts { handled: 1, discarded: 2, letters: 0, waiting: 2 }).await;
    let all = succeed(&database, &["parked", "discard", "scripted", "--tenant", "a", "bad", "--all"]).await;
    assert_eq!(all, "stream bad has no waiting events left\n");
    database.append("a", "bad", &[good()]).await;
    until_counts(&database, Counts { handled: 2, discarded: 4, ..Counts::default() }).await;
    host.stop().await;
    assert_scripted_log(&database, "e.version in (2, 6)").await;
    let missing = run(&database, &["parked", "drain", "scripted", "--tenant", "a", "bad"]).await;
    assert!(stderr(&missing).contains("scripted has no parked stream bad of tenant a"), "{}", stderr(&missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_lane_continues_after_a_skipped_event_with_a_host_or_without_one() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    database.append("a", "s", &[good(), trap(), good(), trap(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&["a blocked trap"]).await;
    let skipped = succeed(&database, &["skip", "scripted", "--tenant", "a"]).await;
    assert!(
        skipped.starts_with("requested: the lane of tenant a continues after the event at position 2 (trap: "),
        "{skipped}"
    );
    until_counts(&database, Counts { handled: 2, letters: 1, ..Counts::default() }).await;
    database.scripted_settles(&["a blocked trap"]).await;
    host.stop().await;

    let recorded = succeed(&database, &["skip", "scripted", "--tenant", "a"]).await;
    assert!(
        recorded.starts_with("recorded: the lane of tenant a will continue after the event at position 4 "),
        "{recorded}"
    );
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(counts(&database).await, Counts { handled: 3, letters: 2, ..Counts::default() });
    assert_scripted_log(&database, WITHOUT_TRAPS).await;
    let none = run(&database, &["skip", "scripted", "--tenant", "a"]).await;
    assert!(stderr(&none).contains("no lane of tenant a in scripted is blocked"), "{}", stderr(&none));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_over_its_tenants_budget_blocks_and_loses_nothing() {
    let database = database().await;
    let folder = folder(DEAD_LETTER);
    let skip = json!({"do": "skip", "code": "odd"});
    database.append("traps", "s", &[trap(), trap(), good(), trap(), good()]).await;
    database.append("skips", "s", &[skip.clone(), skip.clone(), good(), skip, good()]).await;
    database.append("fine", "s", &[trap(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &["tenant-limits.dead-letters=2"]);
    database.scripted_settles(&["skips blocked letters-limit", "traps blocked letters-limit"]).await;
    let session = database.db.connect("test").await.unwrap();
    let reason = "select reason from sandmill.lane_checkpoints where tenant = 'traps'";
    let reason: String = session.query_one(reason, &[]).await.unwrap().get(0);
    assert!(reason.contains("more than 2 dead letters") && reason.contains("failed as trap"), "{reason}");
    assert_eq!(counts(&database).await, Counts { handled: 3, letters: 5, ..Counts::default() });
    // Room is made, and the lanes continue.
    succeed(&database, &["dead-letters", "discard", "scripted", "--tenant", "traps", "--yes"]).await;
    succeed(&database, &["dead-letters", "discard", "scripted", "--tenant", "skips", "--yes"]).await;
    succeed(&database, &["resume", "scripted"]).await;
    until_counts(&database, Counts { handled: 5, discarded: 4, letters: 3, waiting: 0 }).await;
    host.stop().await;
}

/// Between the events that wait lie versions that the processor does not handle.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_discards_one_handled_event_at_a_time() {
    let database = database().await;
    let folder = folder(PARK);
    database.append("a", "bad", &[trap(), good(), good(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { waiting: 4, ..Counts::default() }).await;
    host.stop().await;
    let session = database.db.connect("test").await.unwrap();
    let changes = "update sandmill.events set type = 'Other' where version = 2;
                   update sandmill.processors set event_types = '{Scripted}';
                   update sandmill.parked_streams set events = 3";
    session.batch_execute(changes).await.unwrap();
    for expected in [(2, 4), (4, 4)] {
        succeed(&database, &["parked", "discard", "scripted", "--tenant", "a", "bad"]).await;
        let parked = parked(&database).await;
        assert_eq!((parked[0].1, parked[0].2), expected);
    }
    assert_eq!(counts(&database).await, Counts { discarded: 2, waiting: 1, ..Counts::default() });
}

/// The numbers of an earlier host count, and a processor that sheds does not pass events that wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_host_knows_what_was_set_aside() {
    let database = database().await;
    let folder = folder(DEAD_LETTER);
    let settings = ["tenant-limits.dead-letters=2"];
    database.append("a", "s", &[trap(), trap()]).await;
    let host = Host::start_in(&database, folder.path(), &settings);
    until_counts(&database, Counts { letters: 2, ..Counts::default() }).await;
    host.stop().await;
    database.append("a", "s", &[trap()]).await;
    let host = Host::start_in(&database, folder.path(), &settings);
    database.scripted_settles(&["a blocked letters-limit"]).await;
    host.stop().await;

    place(folder.path(), "scripted.toml", PARK);
    let host = Host::start_in(&database, folder.path(), &settings);
    database.resume(Some("a")).await;
    until_counts(&database, Counts { letters: 2, waiting: 1, ..Counts::default() }).await;
    host.stop().await;
    let sheds = ["processors.scripted.back-pressure=shed", "processors.scripted.shed-after-events=1000"];
    let host = Host::start_in(&database, folder.path(), &sheds);
    eventually("the term ends", async || {
        let error = database.status("scripted").await?.term_error?.error;
        error.contains("has parked streams, whose waiting events must not be shed").then_some(())
    })
    .await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_no_more_parked_streams_than_its_budget() {
    let database = database().await;
    let folder = folder(PARK);
    for stream in ["first", "second", "third"] {
        database.append("a", stream, &[good(), trap(), good()]).await;
    }
    let host = Host::start_in(&database, folder.path(), &["tenants.a.parked-streams=2"]);
    database.scripted_settles(&["a blocked letters-limit"]).await;
    assert_eq!(parked(&database).await.len(), 2);
    succeed(&database, &["parked", "discard", "scripted", "--tenant", "a", "first", "--all"]).await;
    succeed(&database, &["resume", "scripted"]).await;
    until_counts(&database, Counts { handled: 3, discarded: 2, letters: 0, waiting: 4 }).await;
    host.stop().await;
}

/// The database rejects the results of some events, and the policy sets them aside. Handled again,
/// they are rejected again, and stay until the cause is gone.
#[tokio::test(flavor = "multi_thread")]
async fn events_whose_results_the_database_rejects_can_be_set_aside() {
    let database = database().await;
    let folder = folder(b"[failures.refused-commit]\nthen = 'dead-letter'\n");
    database.append("first", "s", &[good()]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 1, ..Counts::default() }).await;
    let session = database.db.connect("test").await.unwrap();
    let table = database.table("scripted_log").await;
    session.batch_execute(&format!("create unique index picky on {table} (_id)")).await.unwrap();
    database.append("second", "s", &[good(), good()]).await;
    database.append("second", "t", &[good()]).await;
    database.append("third", "u", &[good()]).await;
    until_counts(&database, Counts { handled: 3, letters: 2, ..Counts::default() }).await;
    database.scripted_settles(&[]).await;
    let again = run(&database, &["dead-letters", "retry", "scripted", "--all", "--json"]).await;
    let report: Value = serde_json::from_str(&stdout(&again)).unwrap();
    assert_eq!((&report["handled"], &report["failedAgain"]), (&json!(0), &json!(2)), "{report}");
    database.append("second", "t", &[good()]).await;
    until_counts(&database, Counts { handled: 4, letters: 2, ..Counts::default() }).await;
    session.batch_execute("drop index sandmill_documents.picky").await.unwrap();
    succeed(&database, &["dead-letters", "retry", "scripted", "--all"]).await;
    until_counts(&database, Counts { handled: 6, ..Counts::default() }).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// Very many letters of many tenants, some of which still fail.
#[tokio::test(flavor = "multi_thread")]
async fn many_letters_are_handled_again_while_new_events_arrive() {
    let database = database().await;
    let folder = folder(DEAD_LETTER);
    for number in 0..8 {
        let events: Vec<Value> = (0..10).map(|n| if n % 2 == 0 { trap() } else { good() }).collect();
        database.append(&format!("t{number}"), "s", &events).await;
    }
    let host = Host::start_in(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 40, letters: 40, ..Counts::default() }).await;
    cure(&database, folder.path()).await;
    let appending = async {
        for _ in 0..10 {
            for number in 0..8 {
                database.append(&format!("t{number}"), "u", &[good()]).await;
            }
        }
    };
    let arguments = ["dead-letters", "retry", "scripted", "--all"];
    let ((), retried) = tokio::join!(appending, succeed(&database, &arguments));
    assert_eq!(retried, "40 dead letters handled again\n");
    until_counts(&database, Counts { handled: 160, ..Counts::default() }).await;
    host.stop().await;
    let counted: i64 =
        documents(&database, "scripted_log").await.values().filter_map(|data| data["count"].as_i64()).sum();
    assert_eq!(counted, 160);
}

/// A version on trial blocks a lane instead of parking its stream, and is rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_is_rolled_back_instead_of_parking_streams() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    place(folder.path(), "scripted.toml", PARK);
    database.append("a", "s", &[good(), good()]).await;
    let host = Host::start_in(&database, folder.path(), &["rollout.dry-run-events=0"]);
    until_counts(&database, Counts { handled: 2, ..Counts::default() }).await;
    place(folder.path(), "scripted.wasm", &version("scripted", TRAPPING[2]));
    eventually("the bad version is rolled back", async || {
        database.append("a", "s", &[good()]).await;
        let error = std::fs::read_to_string(folder.path().join("scripted.wasm.error")).ok()?;
        error.contains("this version was rolled back").then_some(())
    })
    .await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(parked(&database).await, []);
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// The host is killed at each step of the commits that park a stream, skip an event, handle letters
/// again and drain the stream. In the end each event was folded once, and streams in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_loses_and_repeats_no_set_aside_event() {
    for step in ["commit.begin:1", "commit.written:1", "commit.written:2", "commit.sent:1", "commit.answered:1"] {
        let database = database().await;
        let folder = folder(b"[failures.trap]\nthen = 'park-stream'\n[failures.'plugin:odd']\nthen = 'dead-letter'\n");
        let odd = json!({"do": "stop", "code": "odd"});
        database.append("a", "bad", &[good(), trap(), good()]).await;
        database.append("a", "fine", &[good(), odd, good()]).await;
        database.append("b", "fine", &[good(), good()]).await;
        let total = async |database: &Database| {
            let Counts { handled, discarded, letters, waiting } = counts(database).await;
            handled + discarded + letters + waiting
        };
        // Parks a stream and sets an event aside.
        killed_once(&database, folder.path(), step).await;
        catch_up(&database, folder.path(), None).await;
        assert_eq!(counts(&database).await, Counts { handled: 5, letters: 1, waiting: 2, discarded: 0 }, "{step}");

        // Requests are recorded while no host runs, and carried out by one that is killed.
        succeed(&database, &["dead-letters", "retry", "scripted", "--all"]).await;
        succeed(&database, &["parked", "drain", "scripted", "--tenant", "a", "bad"]).await;
        place(folder.path(), "scripted.wasm", &version("scripted", CURED));
        killed_once(&database, folder.path(), step).await;
        assert_eq!(total(&database).await, 8, "{step}");
        catch_up(&database, folder.path(), None).await;
        // The letter's event still fails: it asks to stop, not to trap.
        assert_eq!(counts(&database).await, Counts { handled: 7, letters: 1, ..Counts::default() }, "{step}");
        assert_scripted_log(&database, "e.data->>'do' is distinct from 'stop'").await;

        // A lane blocks, its event is skipped, and the letters are discarded by a host.
        place(folder.path(), "scripted.toml", b"");
        database.append("b", "fine", &[json!({"do": "stop", "code": "shut"}), good()]).await;
        catch_up(&database, folder.path(), None).await;
        succeed(&database, &["skip", "scripted", "--tenant", "b"]).await;
        killed_once(&database, folder.path(), step).await;
        catch_up(&database, folder.path(), None).await;
        assert_eq!(counts(&database).await, Counts { handled: 8, letters: 2, ..Counts::default() }, "{step}");
        assert_scripted_log(&database, "e.data->>'do' is distinct from 'stop'").await;
    }
}

/// Runs until caught up, and is killed at a step, unless there is no such step.
async fn killed_once(database: &Database, folder: &Path, step: &str) {
    let status = catch_up(database, folder, Some(step)).await;
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    assert!(killed || step.ends_with(":2") && status.success(), "{step}: {status}");
}

async fn catch_up(database: &Database, folder: &Path, failpoint: Option<&str>) -> std::process::ExitStatus {
    let mut command = sandmill(&database.address);
    command.args(["run", "--until-caught-up", "--set", "limits.cpu-ms=10000", "--plugins"]).arg(folder);
    if let Some(failpoint) = failpoint {
        command.env("SANDMILL_FAILPOINT", failpoint);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    output.status
}

/// Handling letters again does not wait for a lane that is blocked, and does not resume it.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_blocked_or_paused_lane_are_handled_when_it_may_run() {
    let database = database().await;
    let folder = folder(b"[failures.trap]\nthen = 'dead-letter'\n");
    let stop = json!({"do": "stop", "code": "shut"});
    database.append("blocked", "s", &[trap(), good(), stop, good()]).await;
    database.append("paused", "s", &[trap(), good()]).await;
    let host = Process::start(&database, folder.path(), &[]);
    until_counts(&database, Counts { handled: 2, letters: 2, ..Counts::default() }).await;
    database.scripted_settles(&["blocked blocked plugin:shut"]).await;
    succeed(&database, &["pause", "scripted", "--tenant", "paused"]).await;
    // The replacement of the plugin retries the blocked lane, which stops at the same event.
    cure(&database, folder.path()).await;
    let requested = succeed(&database, &["dead-letters", "retry", "scripted", "--all", "--detach"]).await;
    assert_eq!(requested, "requested: the host handles 2 dead letters of scripted again\n");
    until_counts(&database, Counts { handled: 3, letters: 1, ..Counts::default() }).await;
    let lanes = database.status("scripted").await.unwrap().lanes_behind;
    assert!(lanes.iter().any(|lane| lane.tenant == "blocked" && lane.state == "blocked"), "{lanes:?}");
    succeed(&database, &["resume", "scripted", "--tenant", "paused"]).await;
    until_counts(&database, Counts { handled: 4, ..Counts::default() }).await;
    assert_eq!(host.end().await, Some(0));
}
