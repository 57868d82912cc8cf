// Lanes finer than a tenant: by stream, and by a property of the data. The guarantees are those of
// lanes by tenant.

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
};

use sandmill::model::ids::{BUCKETS, LaneKey, TenantId};
use sandmill_tests::{
    Database, database,
    host::{Host, eventually, plugins, sandmill, stderr},
    ledger::{EVERY_EVENT, assert_log, documents, until_counted},
    native::{Gate, NativeHost},
    random::Random,
    writers::Writers,
};
use serde_json::json;

const PLUGINS: [&str; 3] = ["scripted", "scripted-by-stream", "scripted-by-property"];
const COLLECTIONS: [&str; 3] = ["scripted_log", "scripted_stream_log", "scripted_property_log"];
/// Pages smaller than differences, and queues so small that a lane behind is detached as soon as a
/// page waits for it.
const TIGHT: [&str; 2] = ["processor.page-events=20", "processor.lane-queue-kib=1"];

/// The lanes that documents of a collection belong to.
async fn lanes(database: &Database, collection: &str) -> BTreeSet<LaneKey> {
    let session = database.db.connect("test").await.unwrap();
    let sql = format!("select distinct _partition, coalesce(metadata->>'lane', _partition) from public.{collection}");
    let rows = session.query(&sql, &[]).await.unwrap();
    let lane = |tenant, key: &str| LaneKey { tenant: TenantId::parse(tenant).unwrap(), key: key.into() };
    rows.iter().map(|row| lane(row.get(0), row.get(1))).collect()
}

async fn assert_all_logs(database: &Database) {
    for collection in COLLECTIONS {
        assert_log(database, collection, EVERY_EVENT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_partitionings_fold_every_event_once() {
    let mut random = Random::seeded();
    let database = database().await;
    let host = Host::start(&database, &PLUGINS, &TIGHT[..1]);
    let writers = Writers::start(&database.db, &mut random, 8, 80);
    assert!(!writers.join().await.is_empty());
    until_counted(&database, &COLLECTIONS).await;
    host.stop().await;
    assert_all_logs(&database).await;

    let mut seen = Vec::new();
    for collection in COLLECTIONS {
        seen.push(lanes(&database, collection).await);
    }
    let counts: Vec<usize> = seen.iter().map(BTreeSet::len).collect();
    assert_eq!(counts, [5, 24, 15], "tenants, streams, and the values of a property that streams of a tenant share");
    let buckets: BTreeSet<u8> = seen.iter().flatten().map(LaneKey::bucket).collect();
    assert!(buckets.len() + 2 >= usize::from(BUCKETS), "lanes use few buckets: {buckets:?}");
}

/// One tenant has more lanes that hang than may run concurrently. Lanes of another tenant find a
/// slot, although the first tenant's lanes came first.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_very_many_lanes_leaves_slots_to_other_tenants() {
    let database = database().await;
    for stream in 0..20 {
        database.append("busy", &stream.to_string(), &[json!({})]).await;
    }
    let gate = Gate::default();
    let settings = ["processor.lanes-at-once=4", "scheduler.threads=2", "scheduler.tenant-threads=1"];
    let host = NativeHost::start(&database, gate.before("busy").by_stream(), &settings).await;
    for appended in 1..=3 {
        database.append("quiet", "s", &[json!({})]).await;
        eventually("the quiet tenant's event is handled", async || {
            let documents = documents(&database, "scripted_log").await;
            let count = |data: &serde_json::Value| data["count"].as_i64();
            (documents.get(&("quiet".into(), "s".into())).and_then(count) == Some(appended)).then_some(())
        })
        .await;
    }
    gate.open();
    until_counted(&database, &["scripted_log"]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// Only the writing lane stops, and the reason includes the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_another_lane_blocks_the_lane_that_writes_it() {
    let database = database().await;
    // The tenant's own name is a stream like any other.
    let streams = ["thief", "acme", "bystander"];
    for stream in ["owner", "thief", "acme", "bystander"] {
        database.append("acme", stream, &[json!({}), json!({})]).await;
    }
    let host = Host::start(&database, &["scripted-by-stream"], &TIGHT);
    database.settles("scripted-by-stream", &[]).await;
    for stream in &streams[..2] {
        database.append("acme", stream, &[json!({}), json!({"do": "write-to", "id": "owner"}), json!({})]).await;
    }
    for _ in 0..20 {
        database.append("acme", "owner", &[json!({}), json!({})]).await;
        database.append("acme", "bystander", &[json!({})]).await;
    }
    // The lane named like the tenant also owns the documents that it wrote first.
    database.append("acme", "other", &[json!({}), json!({"do": "write-to", "id": "acme"}), json!({})]).await;
    let behind =
        ["acme blocked malformed-output", "acme/other blocked malformed-output", "acme/thief blocked malformed-output"];
    database.settles("scripted-by-stream", &behind).await;
    let status = database.status("scripted-by-stream").await.unwrap();
    for lane in &status.lanes_behind {
        let owned = if lane.key == "other" { "acme" } else { "owner" };
        assert_eq!(
            lane.reason,
            format!(
                "malformed-output: wrote document `{owned}` of `scripted_stream_log`, which belongs to the lane `{owned}` that wrote it first; \
                 partition by tenant if lanes share documents"
            )
        );
    }
    host.stop().await;
    let kept = "e.stream in ('owner', 'bystander') or e.version <= 3 and e.stream <> 'other' or e.version = 1";
    assert_log(&database, "scripted_stream_log", kept).await;
}

/// Starts a host in a separate process, which runs until it is killed.
fn spawn(database: &Database, folder: &std::path::Path, failpoint: Option<&str>) -> Child {
    let mut command = run(database, folder);
    if let Some(failpoint) = failpoint {
        command.env("SANDMILL_FAILPOINT", failpoint);
    }
    command.stdout(Stdio::null()).spawn().unwrap()
}

fn run(database: &Database, folder: &std::path::Path) -> Command {
    let mut command = sandmill(&database.address);
    command.arg("run").arg("--plugins").arg(folder);
    for setting in TIGHT {
        command.args(["--set", setting]);
    }
    command
}

/// The number of events that all processors have committed, and the number of lanes that are behind
/// now.
async fn counted(database: &Database) -> (i64, i64) {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.scripted_stream_log)
                    + (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.scripted_property_log),
                      (select count(*) from sandmill.lane_checkpoints)";
    // Before the first start there are no such views.
    session.query_one(sql, &[]).await.map(|row| (row.get(0), row.get(1))).unwrap_or_default()
}

/// The kills come from outside and inside a commit, under load, while lanes leave and rejoin the
/// tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_while_lanes_leave_and_rejoin_loses_and_repeats_no_event() {
    let mut random = Random::seeded();
    let database = database().await;
    let folder = plugins(&PLUGINS[1..]);
    let writers = Writers::start_stubborn(&database.db, &mut random, 4);
    let inside = ["commit.written:9", "commit.sent:12", "commit.answered:7", "lanes.run:20"];
    let mut behind_at_most = 0;
    for round in 0..12 {
        let failpoint = (round % 3 == 2).then(|| inside[round / 3]);
        // These lanes leave and rejoin the tail even on a fast machine.
        for lane in 0..3 {
            let hesitant = [json!({"do": "retry-until-attempt", "n": 3}), json!({})];
            database.append(&format!("hesitant-{lane}"), &format!("s{round}"), &hesitant).await;
        }
        let mut child = spawn(&database, folder.path(), failpoint);
        let wanted = counted(&database).await.0 + 20 + random.below(200) as i64;
        let status = eventually("the host handles more events, or a failpoint kills it", async || {
            let (now, behind) = counted(&database).await;
            behind_at_most = behind_at_most.max(behind);
            if failpoint.is_none() && now >= wanted {
                child.kill().unwrap();
            }
            child.try_wait().unwrap()
        })
        .await;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "round {round}: {status}");
    }
    writers.stop().await;
    let mut last = run(&database, folder.path());
    last.arg("--until-caught-up");
    let output = tokio::task::spawn_blocking(move || last.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    for collection in &COLLECTIONS[1..] {
        assert_log(&database, collection, EVERY_EVENT).await;
    }
    assert!(behind_at_most > 1, "no lanes were left behind");
}

/// Lanes with unusual names block like others, and block no other lane.
#[tokio::test(flavor = "multi_thread")]
async fn any_value_of_a_property_names_a_lane() {
    let mut random = Random::seeded();
    let database = database().await;
    let host = Host::start(&database, &PLUGINS[2..], &TIGHT);
    // Longer than an index entry may be, and too random to be compressed.
    let long: String = (0..12_000).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
    let values =
        [json!("\u{1}"), json!(long), json!(null), json!(""), json!({"a": [1]}), json!(7), json!("ü/~\u{1f41a}")];
    for (index, value) in values.iter().enumerate() {
        let stop = json!({"lane": value, "do": "stop", "code": "enough"});
        let fine = json!({"lane": value});
        database.append("acme", &format!("s{index}"), &[fine.clone(), fine.clone(), stop, fine]).await;
    }
    database.append("acme", "other", &[json!({"lane": "other"})]).await;
    eventually("every lane is blocked", async || {
        let lanes = database.lanes_behind("scripted-by-property").await;
        // A null value and an empty one name the same lane.
        (lanes.len() == values.len() - 1 && lanes.iter().all(|lane| lane.ends_with("blocked plugin:enough")))
            .then_some(())
    })
    .await;
    database.append("acme", "other", &[json!({"lane": "other"})]).await;
    let other = ("acme".to_string(), "other".to_string());
    eventually("other lanes continue", async || {
        let documents = documents(&database, COLLECTIONS[2]).await;
        (documents.get(&other)?["count"] == 2).then_some(())
    })
    .await;
    host.stop().await;
    let before = "e.stream = 'other' or e.version < 3 and e.stream <> 's3'";
    assert_log(&database, COLLECTIONS[2], before).await;
}

/// The rest of the data does not matter, even if a parser cannot hold it. Each stream belongs to
/// one lane, so an event in a wrong lane would be blocked by the owner of its stream's document.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_stays_in_the_lane_of_its_property_no_matter_what_else_its_data_holds() {
    let database = database().await;
    let (nested, digits) = (format!("{}{}", "[".repeat(500), "]".repeat(500)), "9".repeat(900));
    let lanes = [
        ("north", [r#""north""#, r#""n\u006frth""#]),
        ("12345678901234567890123", ["12345678901234567890123", "12345678901234567890123.0"]),
        ("12345678901234567890124", ["12345678901234567890124", "1.2345678901234567890124e22"]),
        ("1", ["1", "1.0"]),
    ];
    for (stream, spellings) in lanes {
        let mut texts = Vec::new();
        for lane in spellings {
            texts.push(format!(r#"{{"lane":{lane}}}"#));
            // Values that the parser of the host, of the database or of this test cannot represent.
            for other in ["1e400", &nested, &digits, r#"{"lane":"south"}"#] {
                texts.push(format!(r#"{{"lane":{lane},"reading":{other}}}"#));
                texts.push(format!(r#"{{"lane":[],"reading":{other},"lane":{lane}}}"#));
            }
        }
        database.append_texts("acme", stream, &texts).await;
    }
    let host = Host::start(&database, &PLUGINS[2..], &TIGHT);
    database.settles("scripted-by-property", &[]).await;
    host.stop().await;
    assert_log(&database, COLLECTIONS[2], EVERY_EVENT).await;
    let expected: BTreeSet<String> = lanes.iter().map(|(key, _)| key.to_string()).collect();
    let found: BTreeSet<String> =
        self::lanes(&database, COLLECTIONS[2]).await.iter().map(|lane| lane.key.to_string()).collect();
    assert_eq!(found, expected);
}

/// A person can also pause and resume such lanes.
#[tokio::test(flavor = "multi_thread")]
async fn long_values_with_the_same_beginning_name_different_lanes() {
    let database = database().await;
    let value = |last: &str| "k".repeat(10_000) + last;
    let event = |last: &str, deed: &str| json!({"lane": value(last), "do": deed});
    database.append("acme", "blocked", &[event("a", "ok"), event("a", "stop")]).await;
    database.append("acme", "free", &[event("b", "ok"), event("b", "ok")]).await;
    let host = Host::start(&database, &PLUGINS[2..], &TIGHT);
    eventually("one lane is blocked, and the other has handled its events", async || {
        let behind = database.lanes_behind("scripted-by-property").await;
        if behind.len() != 1 || !behind[0].ends_with("blocked plugin") {
            return None;
        }
        let documents = documents(&database, COLLECTIONS[2]).await;
        (documents.get(&("acme".into(), "free".into()))?["count"] == 2).then_some(())
    })
    .await;
    let status = database.status("scripted-by-property").await.unwrap();
    let key = status.lanes_behind[0].key.clone();
    assert!(key.starts_with(&"k".repeat(512)) && key.len() == 579, "{key}");
    for command in ["pause", "resume"] {
        let mut command = host_command(&database, command);
        command.args(["scripted-by-property", "--tenant", "acme", "--key", &key]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    host.stop().await;
}

fn host_command(database: &Database, name: &str) -> Command {
    let mut command = sandmill(&database.address);
    command.arg(name);
    command
}

/// An event without a readable key is handled in no lane. It is shown as a blocked lane, and other
/// lanes continue.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_readable_key_blocks_a_lane_of_its_own() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    // As in a store whose checks were removed: no key can hold U+0000.
    session.batch_execute("alter table sandmill.events drop constraint events_data_check").await.unwrap();
    let texts = [r#"{"lane":"x"}"#, r#"{"lane":"\u0000"}"#, r#"{"lane":"\ud83d"}"#].map(String::from);
    database.append_texts("acme", "broken", &texts[1..]).await;
    database.append_texts("acme", "x", &texts[..1]).await;
    let host = Host::start(&database, &PLUGINS[2..], &TIGHT);
    let behind = ["acme/(unreadable) blocked unreadable-data"];
    database.settles("scripted-by-property", &behind).await;
    database.append_texts("acme", "x", &texts[..1]).await;
    database.settles("scripted-by-property", &behind).await;
    let reason = database.status("scripted-by-property").await.unwrap().lanes_behind[0].reason.clone();
    assert!(
        reason.contains("(data-property `/lane`): expected a key without U+0000 at byte 16; delete it"),
        "{reason}"
    );

    session.batch_execute("delete from sandmill.events where stream = 'broken'").await.unwrap();
    let mut command = host_command(&database, "resume");
    command.arg("scripted-by-property");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    database.settles("scripted-by-property", &[]).await;
    host.stop().await;
    assert_log(&database, COLLECTIONS[2], EVERY_EVENT).await;
}
