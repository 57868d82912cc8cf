// Reactors: events that they append, exactly once, no matter what is killed or who else appends.

use std::path::Path;

use sandmill_tests::{
    BEGIN, Database, database,
    host::{Host, eventually, plugins, sandmill},
    ledger::{EVERY_EVENT, assert_log, documents},
};
use serde_json::{Value, json};

const PLUGIN: &str = "reacting";
const COLLECTION: &str = "reacting_log";

/// An event that leads to `count` events in a stream.
fn append(stream: &str, count: usize) -> Value {
    json!({"do": "append", "stream": stream, "count": count})
}

/// The same, to a stream at a version.
fn append_at(stream: &str, expected: impl Into<Value>) -> Value {
    json!({"do": "append", "stream": stream, "expected": expected.into()})
}

/// The versions of the events in a stream.
async fn versions(database: &Database, tenant: &str, stream: &str) -> Vec<i64> {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select version from sandmill.events where tenant = $1 and stream = $2 order by version";
    let rows = session.query(sql, &[&tenant, &stream]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Classes of dead letters, by position.
async fn letters(database: &Database) -> Vec<String> {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select class from sandmill.dead_letters order by position";
    session.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_events_name_their_cause_and_are_handled_like_all_others() {
    let database = database().await;
    database.append("acme", "order-1", &[append("points", 2), json!({}), append("points", 1)]).await;
    database.append("globex", "order-1", &[append("points", 1)]).await;
    let host = Host::start(&database, &[PLUGIN], &[]);
    database.settles(PLUGIN, &[]).await;
    // At the head of the log.
    database.append("acme", "order-2", &[append_at("points", 3), append_at("audit", "none")]).await;
    eventually("the last events are appended", async || {
        (versions(&database, "acme", "audit").await == [1]).then_some(())
    })
    .await;
    database.settles(PLUGIN, &[]).await;
    host.stop().await;
    assert_eq!(versions(&database, "acme", "points").await, [1, 2, 3, 4]);
    assert_eq!(versions(&database, "globex", "points").await, [1]);
    let session = database.db.connect("test").await.unwrap();
    let sql = "select count(*) from sandmill.events e join sandmill.events cause
                 on cause.tenant = e.tenant and cause.id = e.metadata->>'sandmill.cause'
               where e.type = 'Reacted' and e.metadata->>'sandmill.hops' = '1'
                 and e.metadata->>'sandmill.processor' = 'reacting' and cause.stream in ('order-1', 'order-2')";
    assert_eq!(session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 6);
    assert_log(&database, COLLECTION, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_appended_once_even_if_the_host_is_killed_at_any_step() {
    for step in ["commit.begin:1", "commit.written:1", "commit.sent:1", "commit.answered:1", "commit.written:2"] {
        let database = database().await;
        let folder = plugins(&[PLUGIN]);
        for tenant in ["acme", "globex"] {
            // The second event leads to one that leads to another.
            let chained = json!({"do": "append", "stream": "first", "data": append("second", 1)});
            database.append(tenant, "order-1", &[append("points", 3), chained, append("points", 1)]).await;
        }
        run_once(&database, folder.path(), Some(step)).await;
        // A run handles the events that are present when it starts.
        for _chained in 0..3 {
            run_once(&database, folder.path(), None).await;
        }
        for tenant in ["acme", "globex"] {
            assert_eq!(versions(&database, tenant, "points").await, [1, 2, 3, 4], "{step}");
            assert_eq!(versions(&database, tenant, "first").await, [1], "{step}");
            assert_eq!(versions(&database, tenant, "second").await, [1], "{step}");
        }
        assert_log(&database, COLLECTION, EVERY_EVENT).await;
    }
}

/// Runs until caught up, or is killed at a step.
async fn run_once(database: &Database, folder: &Path, failpoint: Option<&str>) {
    let mut command = sandmill(&database.address);
    command.args(["run", "--until-caught-up", "--set", "limits.cpu-ms=10000", "--plugins"]).arg(folder);
    if let Some(failpoint) = failpoint {
        command.env("SANDMILL_FAILPOINT", failpoint);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert_eq!(killed, failpoint.is_some(), "{failpoint:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_commits_nothing_and_is_known_to_the_next_attempt() {
    let database = database().await;
    database.append("acme", "points", &[json!({}), json!({})]).await;
    let counts = json!({"do": "count-conflicts", "stream": "points", "expected": "none"});
    database.append("acme", "order-1", &[append("audit", 1), counts, append("audit", 1)]).await;
    database.append("globex", "order-1", &[append("audit", 1)]).await;
    let host = Host::start(&database, &[PLUGIN], &[]);
    database.settles(PLUGIN, &[]).await;
    host.stop().await;
    assert_eq!(versions(&database, "acme", "points").await, [1, 2]);
    assert_eq!(versions(&database, "acme", "audit").await, [1, 2], "the effects of other events happen once");
    let found = documents(&database, COLLECTION).await;
    let document = &found[&("acme".to_string(), "order-1".to_string())];
    let expected = json!([{"cause": 0, "streamId": "points", "expected": "none", "actual": 2}]);
    assert_eq!((&document["conflicts"], &document["count"]), (&expected, &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_append_always_conflicts_follows_the_failure_policy() {
    let database = database().await;
    database.append("acme", "order-1", &[append("audit", 1), append_at("points", 7), append("audit", 1)]).await;
    let settings = [
        "processors.reacting.failures.append-conflict.attempts=2",
        "processors.reacting.failures.append-conflict.first-ms=100",
        "processors.reacting.failures.append-conflict.then=dead-letter",
    ];
    let host = Host::start(&database, &[PLUGIN], &settings);
    database.settles(PLUGIN, &[]).await;
    host.stop().await;
    assert_eq!(letters(&database).await, ["append-conflict"]);
    assert_eq!(versions(&database, "acme", "audit").await, [1, 2]);
    assert_eq!(versions(&database, "acme", "points").await, [0; 0]);
}

/// One stream exists, the other is created by a transaction that stays open.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_an_application_holds_delays_only_its_own_lanes() {
    for existing in [true, false] {
        let database = database().await;
        if existing {
            database.append("acme", "points", &[json!({})]).await;
        }
        let host = Host::start(&database, &[PLUGIN], &[]);
        let application = database.db.connect("application").await.unwrap();
        let hold = "select * from sandmill.append('acme', 'points', '{Held}', array['{}']::json[])";
        application.batch_execute(&format!("{BEGIN}; {hold}")).await.unwrap();
        database.append("acme", "order-1", &[append("points", 1)]).await;
        for order in 1..6 {
            database.append("globex", "order-1", &[append("points", 1)]).await;
            eventually("the other tenant's events are appended", async || {
                (versions(&database, "globex", "points").await.len() == order).then_some(())
            })
            .await;
        }
        let before = versions(&database, "acme", "points").await;
        assert_eq!(before, vec![1; usize::from(existing)], "nothing is appended past the application");
        application.batch_execute("commit").await.unwrap();
        let expected: Vec<i64> = (1..=2 + i64::from(existing)).collect();
        eventually("the lane continues", async || {
            (versions(&database, "acme", "points").await == expected).then_some(())
        })
        .await;
        database.settles(PLUGIN, &[]).await;
        host.stop().await;
        assert_log(&database, COLLECTION, EVERY_EVENT).await;
        assert_eq!(letters(&database).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reactors_that_answer_each_other_stop_at_the_hop_limit() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    for (tenant, hops) in [("acme", 31), ("globex", 32)] {
        let (data, metadata) = (append("points", 1).to_string(), json!({"sandmill.hops": hops}).to_string());
        let sql = "select * from sandmill.append($1, 's', '{Scripted}', array[$2]::text[]::json[], null, array[$3]::text[]::json[])";
        session.query(sql, &[&tenant, &data, &metadata]).await.unwrap();
    }
    let host = Host::start(&database, &[PLUGIN], &[]);
    database.settles(PLUGIN, &["globex blocked hop-limit"]).await;
    host.stop().await;
    assert_eq!(versions(&database, "acme", "points").await, [1]);
    assert_eq!(versions(&database, "globex", "points").await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_the_rules_blocks_only_its_own_lane() {
    let database = database().await;
    let deeds = ["bad-cause", "unordered-causes", "empty-append", "send", "timer"];
    for deed in deeds {
        database.append(deed, "s", &[append("points", 1), json!({"do": deed}), json!({})]).await;
    }
    database.append("good", "s", &[append("points", 1)]).await;
    let host = Host::start(&database, &[PLUGIN], &[]);
    let mut blocked: Vec<String> = deeds.iter().map(|deed| format!("{deed} blocked malformed-output")).collect();
    blocked.sort();
    let blocked: Vec<&str> = blocked.iter().map(String::as_str).collect();
    database.settles(PLUGIN, &blocked).await;
    host.stop().await;
    for tenant in deeds.iter().chain(&["good"]) {
        assert_eq!(versions(&database, tenant, "points").await, [1], "{tenant}");
    }
}
