// Failure policies: attempts, back-off, dead letters and stops, by class of failure.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sandmill::{
    model::handler::{Failure, Reason},
    processor::status::LaneBehind,
};
use sandmill_tests::{
    BEGIN, Database, database,
    host::{GOOD, Host, TRAPPING, eventually, place, plugins, sandmill, stderr, stdout, version},
    ledger::{EVERY_EVENT, assert_scripted_log},
    native::{Folding, NativeHost},
};
use serde_json::{Value, json};

/// The events without those that trap.
const WITHOUT_TRAPS: &str = "coalesce(e.data->>'do', '') <> 'trap'";

/// The dead letters of all processors, in the order of the log: position, tenant, class and
/// attempts.
async fn dead_letters(database: &Database) -> Vec<(i64, String, String, i32)> {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select position, tenant, class, attempts from sandmill.dead_letters order by position";
    let rows = session.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// Waits until the only lane behind meets a condition.
async fn lane_behind(database: &Database, condition: impl Fn(&LaneBehind) -> bool) -> LaneBehind {
    eventually("the lane gets there", async || {
        database.status("scripted").await?.lanes_behind.pop().filter(|lane| condition(lane))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_trap_are_set_aside_and_their_lane_continues() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    place(folder.path(), "scripted.toml", b"[failures.trap]\nthen = 'dead-letter'\n");
    let trap = json!({"do": "trap", "message": "at the second"});
    database.append("a", "s", &[json!({}), trap.clone(), json!({}), json!({}), trap.clone(), trap, json!({})]).await;
    database.append("b", "s", &[json!({}), json!({"do": "malformed-json"}), json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&["b blocked malformed-output"]).await;
    database.append("a", "s", &[json!({})]).await;
    database.scripted_settles(&["b blocked malformed-output"]).await;
    host.stop().await;
    let letter = |position| (position, "a".to_string(), "trap".to_string(), 1);
    assert_eq!(dead_letters(&database).await, [letter(2), letter(5), letter(6)]);
    let session = database.db.connect("test").await.unwrap();
    let described =
        "select bool_and(message like '%at the second%' and length(digest) = 64) from sandmill.dead_letters";
    assert!(session.query_one(described, &[]).await.unwrap().get::<_, bool>(0));
    assert_scripted_log(&database, &format!("{WITHOUT_TRAPS} and (e.tenant = 'a' or e.version = 1)")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_plugin_cannot_set_a_whole_history_aside() {
    let database = database().await;
    database.append("a", "s", &vec![json!({"do": "trap"}); 60]).await;
    database.append("b", "s", &vec![json!({"do": "trap"}); 60]).await;
    database.append("c", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &["processors.scripted.failures.trap.then=dead-letter"]);
    let lane = lane_behind(&database, |lane| lane.state == "blocked").await;
    let reason = lane.reason;
    assert!(reason.contains("set 100 events aside within 60 s"), "{reason}");
    host.stop().await;
    let letters = dead_letters(&database).await.len();
    assert!((100..120).contains(&letters), "{letters}");
    assert_scripted_log(&database, "e.tenant = 'c'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_counted_over_commits_and_restarts() {
    let database = database().await;
    let policy = |attempts: i32| {
        ["first-ms=100", "longest-s=1", "then=dead-letter", &format!("attempts={attempts}")]
            .map(|setting| format!("processors.scripted.failures.trap.{setting}"))
    };
    let start = |attempts| {
        let settings = policy(attempts);
        Host::start(&database, &["scripted"], &settings.each_ref().map(String::as_str))
    };
    // The last event passes at its third attempt, so it is not set aside.
    let events = [json!({}), json!({"do": "trap"}), json!({}), json!({"do": "trap", "n": 3})];
    database.append("a", "s", &events).await;
    database.append("b", "s", &[json!({})]).await;
    let host = start(1_000_000);
    let lane = lane_behind(&database, |lane| lane.attempts >= 2).await;
    assert_eq!(lane.state, "retrying");
    host.stop().await;
    let before = lane_behind(&database, |_| true).await.attempts;
    assert_eq!(dead_letters(&database).await, []);

    let host = start(before + 3);
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await, [(2, "a".into(), "trap".into(), before + 3)]);
    assert_scripted_log(&database, &format!("{WITHOUT_TRAPS} or e.data->>'n' = '3'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_too_slow_is_retried_and_then_blocks_its_lane() {
    let database = database().await;
    let settings = [
        "limits.cpu-ms=200",
        "processors.scripted.failures.load.first-ms=100",
        "processors.scripted.failures.load.attempts=2",
    ];
    database.append("passes", "s", &[json!({}), json!({"do": "spin", "n": 2}), json!({})]).await;
    database.append("stops", "s", &[json!({}), json!({"do": "spin"}), json!({})]).await;
    let host = Host::start(&database, &["scripted"], &settings);
    database.scripted_settles(&["stops blocked cpu-limit"]).await;
    assert_eq!(lane_behind(&database, |_| true).await.attempts, 2);
    // A resumed lane has as many attempts again.
    database.resume(Some("stops")).await;
    lane_behind(&database, |lane| lane.state == "blocked" && lane.attempts == 4).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await, []);
    assert_scripted_log(&database, "e.tenant = 'passes' or e.version = 1").await;
}

/// The policy allows a single attempt at each event, and the host is short of instances for longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_of_the_host_does_not_use_up_attempts() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({}), json!({})]).await;
    let calls = AtomicU32::new(0);
    let folding = Folding::failing(move |batch| {
        assert_eq!(batch.attempt, 1, "a shortage does not count");
        let is_short = calls.fetch_add(1, Relaxed) < 5;
        is_short.then(|| Failure::Retry(Reason::new("instances", "every instance was in use")))
    });
    let settings = [
        "processors.scripted.failures.attempts=1",
        "processors.scripted.failures.then=dead-letter",
        "processors.scripted.failures.host.first-ms=100",
    ];
    let host = NativeHost::start(&database, folding, &settings).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await, []);
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_own_stops_and_retries_follow_the_policy_of_their_code() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let manifest = "[failures.'plugin:closed']\nthen = 'dead-letter'\n\n\
                    [failures.'plugin:later']\nattempts = 3\nfirst-ms = 100\nlongest-s = 1\nthen = 'dead-letter'\n";
    place(folder.path(), "scripted.toml", manifest.as_bytes());
    let stop = json!({"do": "stop", "code": "closed"});
    database.append("a", "s", &[json!({}), stop, json!({"do": "retry-after", "ms": 1_000_000, "code": "later"})]).await;
    database.append("a", "s", &[json!({}), json!({"do": "stop", "code": "other"})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&["a blocked plugin:other"]).await;
    host.stop().await;
    let letter = |position, class: &str, attempts| (position, "a".to_string(), class.to_string(), attempts);
    assert_eq!(dead_letters(&database).await, [letter(2, "plugin:closed", 1), letter(3, "plugin:later", 3)]);
    assert_scripted_log(&database, "e.data->>'do' is null").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest_changes_the_policy_of_a_running_processor() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    database.append("a", "s", &[json!({}), json!({"do": "trap"}), json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&["a blocked trap"]).await;
    place(folder.path(), "scripted.toml", b"[failures]\nthen = 'dead-letter'\n");
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await.len(), 1);
    assert_scripted_log(&database, WITHOUT_TRAPS).await;
}

/// The operator's settings hold for a manifest that a tenant writes.
#[tokio::test(flavor = "multi_thread")]
async fn the_operators_settings_take_precedence_over_a_manifest() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    place(folder.path(), "scripted.toml", b"[failures.trap]\nattempts = 1000000\nthen = 'dead-letter'\n");
    database.append("a", "s", &[json!({}), json!({"do": "trap"})]).await;
    let settings = ["processors.scripted.failures.attempts=1", "processors.scripted.failures.then=stop"];
    let host = Host::start_in(&database, folder.path(), &settings);
    database.scripted_settles(&["a blocked trap"]).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_can_pause_the_whole_processor() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({"do": "trap", "n": 2}), json!({})]).await;
    let settings = ["processors.scripted.failures.trap.then=stop-processor"];
    let host = Host::start(&database, &["scripted"], &settings);
    eventually("the processor is paused", async || database.status("scripted").await?.paused).await;
    let lane = lane_behind(&database, |lane| lane.state == "blocked").await;
    assert!(lane.reason.starts_with("trap: "), "{}", lane.reason);
    // No other lane moves while it is paused, which begins within the interval at which pauses are
    // read.
    host.stop().await;
    let host = Host::start(&database, &["scripted"], &settings);
    database.append("b", "s", &[json!({})]).await;
    assert!(database.status("scripted").await.unwrap().paused.is_some(), "a pause survives a restart");
    let mut resume = sandmill(&database.address);
    resume.args(["resume", "scripted"]);
    let resumed = tokio::task::spawn_blocking(move || resume.output()).await.unwrap().unwrap();
    assert!(stdout(&resumed).starts_with("lifted 1 pause and resumed 1 lane"), "{}", stdout(&resumed));
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// The policy of both versions sets events aside at which they trap. The second one traps on every
/// event.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_is_rolled_back_instead_of_setting_events_aside() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    database.append("a", "s", &[json!({}), json!({"do": "trap"}), json!({})]).await;
    let settings = ["rollout.dry-run-events=0", "processors.scripted.failures.trap.then=dead-letter"];
    let host = Host::start_in(&database, folder.path(), &settings);
    database.scripted_settles(&[]).await;
    assert_eq!(dead_letters(&database).await.len(), 1);

    place(folder.path(), "scripted.wasm", &version("scripted", TRAPPING[2]));
    eventually("the bad version is rolled back", async || {
        database.append("a", "s", &[json!({})]).await;
        let error = std::fs::read_to_string(folder.path().join("scripted.wasm.error")).ok()?;
        error.contains("this version was rolled back").then_some(())
    })
    .await;
    database.append("a", "s", &[json!({"do": "trap"}), json!({})]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await.len(), 2, "the restored version sets events aside as before");
    assert_scripted_log(&database, WITHOUT_TRAPS).await;
}

/// No read of documents is answered for longer than several calls may take, and the policy would
/// set events aside after their last attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_answers_late_sets_nothing_aside_and_stops_no_lane() {
    let database = database().await;
    let settings = ["limits.wall-ms=1000", "processors.scripted.failures.then=dead-letter"];
    database.append("a", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &settings);
    database.scripted_settles(&[]).await;
    let session = database.db.connect("test").await.unwrap();
    let table = database.table("scripted_log").await;
    session.batch_execute(&format!("{BEGIN}; lock table {table}")).await.unwrap();
    for tenant in ["a", "b", "c"] {
        database.append(tenant, "t", &[json!({}), json!({})]).await;
    }
    eventually("each lane has tried three times", async || {
        let lanes = database.status("scripted").await?.lanes_behind;
        assert!(lanes.iter().all(|lane| lane.state != "blocked"), "{lanes:?}");
        (lanes.len() == 3 && lanes.iter().all(|lane| lane.attempts >= 3)).then_some(())
    })
    .await;
    session.batch_execute("rollback").await.unwrap();
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(dead_letters(&database).await, []);
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[test]
fn mistakes_in_policies_name_the_file_the_line_and_the_remedy() {
    let folder = plugins(&["scripted"]);
    place(folder.path(), "scripted.toml", b"max-batch-size = 5\n[failures.tarp]\nattempts = 3\n");
    let file = folder.path().join("scripted.wasm");
    let check = sandmill("").args(["plugin", "check"]).arg(&file).output().unwrap();
    let printed = format!("{}{}", stdout(&check), stderr(&check));
    assert!(!check.status.success(), "{printed}");
    for part in
        ["scripted.toml", "line 2: ", "unknown key or class `tarp` in a table of failures; the nearest is `trap`"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }

    let settings = folder.path().join("settings.toml");
    std::fs::write(&settings, "[processors.orders.failures.trap]\nattempts = 3\nthen = 'parked'\n").unwrap();
    let print = |arguments: &[&str]| {
        let mut command = sandmill("");
        command.args(["config", "print", "--changed", "--json"]).args(arguments).output().unwrap()
    };
    let wrong = print(&["--config", settings.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    for part in ["settings.toml", "line 3", "then = `parked` is unknown"] {
        assert!(stderr(&wrong).contains(part), "{part}: {}", stderr(&wrong));
    }

    let flag = "processors.orders.failures.plugin:card-declined.attempts=3";
    let printed = print(&["--set", flag]);
    let printed: Value = serde_json::from_str(&stdout(&printed)).unwrap();
    let setting = printed["settings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|setting| flag.starts_with(setting["key"].as_str().unwrap()));
    let expected = json!({
        "key": "processors.orders.failures.plugin:card-declined.attempts", "value": 3, "default": null,
        "origin": {"kind": "flag", "name": "--set"}, "meaning": "Maximum number of attempts at one event, 1 to 1000000",
    });
    assert_eq!(setting, Some(&expected));
}
