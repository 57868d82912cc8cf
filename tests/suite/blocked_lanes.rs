// Very many lanes that wait for manual action. They are counted, shown in part, and cost nothing
// until they are resumed.

use std::collections::BTreeMap;

use sandmill::{app::Ended, processor::lane_checkpoints::TAKE_RESUMED};
use sandmill_tests::{
    Database, database,
    host::{Host, Process, catch_up, eventually, plugins, sandmill, stderr, stdout},
};
use serde_json::{Value, json};

const PLUGIN: &str = "scripted-by-stream";

/// Appends an event that stops its lane with this message to each of a tenant's streams.
async fn stop_streams(database: &Database, tenant: &str, streams: i64, message: &str) {
    let session = database.db.connect("test").await.unwrap();
    let data = json!({"do": "stop", "code": "closed", "message": message}).to_string();
    let append = "select count(*) from generate_series(1, $2::bigint) n,
                  sandmill.append($1, 's' || lpad(n::text, 6, '0'), '{Scripted}', array[$3::text::json])";
    session.query_one(append, &[&tenant, &streams, &data]).await.unwrap();
}

async fn number(database: &Database, sql: &str) -> i64 {
    let session = database.db.connect("test").await.unwrap();
    session.query_one(sql, &[]).await.unwrap().get(0)
}

async fn command(database: &Database, arguments: &[&str]) -> String {
    let mut command = sandmill(&database.address);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_blocked_lanes_are_counted_shown_in_part_and_resumed_at_once() {
    const LANES: i64 = 500;
    let database = database().await;
    // Two bytes per character: the reason must be cut between characters.
    stop_streams(&database, "many", LANES, &"é".repeat(950)).await;
    database.append("quiet", "s", &[json!({})]).await;
    let ended = catch_up(&database, &[PLUGIN], &[]).await;
    let Ended::Blocked(lanes) = &ended else { panic!("{ended:?}") };
    assert_eq!((lanes.len(), lanes.iter().len()), (LANES as usize, 20));
    assert_eq!(number(&database, "select max(octet_length(reason))::bigint from sandmill.lane_checkpoints").await, 999);

    let text = command(&database, &["status", "--json"]).await;
    assert!(text.len() < 100_000, "{} bytes", text.len());
    let status: Value = serde_json::from_str(&text).unwrap();
    let processor = &status["processors"][0];
    let counted = json!({"all": LANES, "blocked": LANES, "retrying": 0, "paused": 0, "catchingUp": 0});
    assert_eq!(processor["lanesCounted"], counted);
    assert_eq!(processor["lanesBehind"].as_array().unwrap().len(), 20);
    assert_eq!(processor["lanesBehind"][0]["key"], json!("s000001"));
    assert_eq!(
        (&processor["lagEvents"], &processor["lagEventsAtLeast"], &processor["unreadEvents"]),
        (&json!(LANES), &json!(true), &json!(0))
    );
    let table = command(&database, &["status", "--lanes", "3"]).await;
    assert!(table.contains("has 497 more lanes behind; `sandmill status --lanes 500`"), "{table}");
    let explained = command(&database, &["explain"]).await;
    assert!(explained.contains(" (and 499 more like it) has been blocked"), "{explained}");

    // New events of blocked lanes wait only in the log; other lanes continue.
    let host = Host::start(&database, &[PLUGIN], &[]);
    stop_streams(&database, "many", LANES, "again").await;
    database.append("quiet", "s", &[json!({})]).await;
    eventually("other lanes continue", async || {
        (number(&database, "select coalesce(max(version), 0) from sandmill.streams where tenant = 'quiet'").await == 2
            && database.status(PLUGIN).await?.unread_events == 0)
            .then_some(())
    })
    .await;
    assert_eq!(database.resume_lanes(PLUGIN, None).await, LANES as u64);
    let retried =
        "select count(*) from sandmill.lane_checkpoints where state = 'blocked' and attempts = 2 and not resumed";
    eventually("each lane has retried once", async || (number(&database, retried).await == LANES).then_some(())).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_about_stops_count_against_their_tenants_log_volume() {
    const LANES: i64 = 300;
    let database = database().await;
    stop_streams(&database, "loud", LANES, "no such order").await;
    let folder = plugins(&[PLUGIN]);
    let host = Process::start(&database, folder.path(), &["tenant-limits.log-kib-per-second=1"]);
    eventually("all lanes are blocked", async || {
        (database.status(PLUGIN).await?.lanes_counted.blocked == LANES).then_some(())
    })
    .await;
    let log = eventually("the log reports dropped lines", async || {
        Some(host.log()).filter(|log| log.contains("log lines over tenant-limits.log-kib-per-second were dropped"))
    })
    .await;
    let lines = log.lines().filter(|line| line.contains("the lane is blocked")).count();
    // A burst of ten seconds' volume, and what is added in the meantime.
    assert!((10..LANES as usize).contains(&lines), "{lines} lines");
}

/// A host looks for resumed lanes several times a second, so the cost must not grow with the number
/// of blocked ones.
#[tokio::test(flavor = "multi_thread")]
async fn the_search_for_resumed_lanes_reads_no_blocked_ones() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    session
        .batch_execute(
            "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
             values ('p', 'p', 'p', '', '', 'tenant', 1);
             insert into sandmill.generations (processor, generation, state) values ('p', 1, 'serving');
             insert into sandmill.lane_checkpoints (processor, generation, bucket, tenant, lane_key, progress, state, reason)
             select 'p', 1, 0, 't', n::text, '3:3:||', 'blocked', repeat('x', 200) from generate_series(1, 20000) n;
             update sandmill.lane_checkpoints set state = 'catching-up', resumed = true where lane_key in ('7', '8')",
        )
        .await
        .unwrap();
    session
        .batch_execute(&format!("prepare look (text, integer, smallint, smallint, bigint) as {TAKE_RESUMED}"))
        .await
        .unwrap();
    let mut read = BTreeMap::new();
    for round in ["first", "second"] {
        let plan = "explain (analyze, format json) execute look('p', 1, 0::smallint, 15::smallint, 5000)";
        let row = session.query_one(plan, &[]).await.unwrap();
        let plan: Value = serde_json::from_str(row.get::<_, sandmill::db::JsonText<'_>>(0).0).unwrap();
        assert!(plan.to_string().contains("lane_checkpoints_resumed"), "{plan:#}");
        read.insert(round, most_rows(&plan[0]["Plan"]));
    }
    // The second search may pass dead index entries of the first one.
    assert!(read["first"] == 2 && read["second"] <= 2, "the most rows that a step of the plan has read: {read:?}");
}

/// The most rows that a node of a plan has read, including those that it filtered out.
fn most_rows(node: &Value) -> i64 {
    let of = |key: &str| node[key].as_f64().unwrap_or(0.0) as i64;
    let own = (of("Actual Rows") + of("Rows Removed by Filter") + of("Rows Removed by Index Recheck"))
        * of("Actual Loops").max(1);
    let below = node["Plans"].as_array().into_iter().flatten().map(most_rows).max().unwrap_or(0);
    own.max(below)
}
