// The sandbox of a running host. No matter what a guest does, it stops only its own tenant's lane,
// and the reason names the limit or the fault. The submodules test the parts of the sandbox.

mod compile;
mod limits;
mod tenants;
mod warm;
mod wasi;

use sandmill::{app::Ended, sandbox::Limits};
use sandmill_tests::{
    calls::{sandbox, unhurried},
    database,
    host::{Host, catch_up, component},
    ledger::{EVERY_EVENT, assert_scripted_log, documents},
};
use serde_json::json;

/// Limits that are reached quickly.
const TIGHT: [&str; 4] = ["limits.cpu-ms=200", "limits.memory-mib=32", "limits.output-mib=4", "limits.document-kib=64"];

/// Runs a deed in the tenant `bad` between two good events, beside a good tenant. Returns the
/// reason for which the lane is blocked.
async fn reason_of(deed: serde_json::Value, settings: &[&str]) -> String {
    let database = database().await;
    database.append("good", "g", &[json!({}), json!({})]).await;
    database.append("bad", "b", &[json!({}), deed.clone(), json!({})]).await;
    database.append("good", "g", &[json!({})]).await;
    // A call over a limit on time or memory would be tried again for minutes.
    let settings: Vec<&str> = [&["processors.scripted.failures.load.attempts=1"], settings].concat();
    let ended = catch_up(&database, &["scripted"], &settings).await;
    let Ended::Blocked(lanes) = ended else { panic!("{deed}: {ended:?}") };
    assert_eq!(lanes.len(), 1, "{deed}: {lanes:?}");
    let lane = lanes.iter().next().and_then(|lane| lane.lane.as_ref());
    assert_eq!(lane.map(|lane| lane.tenant.as_str()), Some("bad"));
    // The good tenant continued, and the event before the deed is committed.
    assert_scripted_log(&database, "e.tenant = 'good' or e.version = 1").await;
    let status = database.status("scripted").await.unwrap();
    assert_eq!((status.unread_events, status.lanes_behind.len()), (0, 1), "{deed}");
    let lane = &status.lanes_behind[0];
    assert_eq!((lane.tenant.as_str(), lane.state.as_str(), lane.event_position), ("bad", "blocked", Some(4)), "{deed}");
    lane.reason.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_deed_blocks_only_its_own_lane_with_a_reason() {
    let deeds = [
        (json!({"do": "trap"}), "trap: panicked at "),
        (json!({"do": "spin"}), "cpu-limit: computed for more than 200 ms in one call (limits.cpu-ms)"),
        (json!({"do": "bomb"}), "memory-limit: asked for "),
        (json!({"do": "recurse"}), "trap: out of bounds memory access: a wild pointer, or a recursion"),
        (
            json!({"do": "giant", "mib": 6}),
            "output-limit: passed more data to the host than one call may (limits.output-mib)",
        ),
        (
            json!({"do": "giant", "mib": 1}),
            "document-limit: document `x` of `scripted_log` has 1025 KiB; 64 are allowed",
        ),
        (json!({"do": "malformed-json"}), "malformed-output: document `x` of `scripted_log`: not JSON at byte "),
        (json!({"do": "not-object"}), "malformed-output: document `x` of `scripted_log`: not a JSON object"),
        (json!({"do": "foreign-collection"}), "malformed-output: wrote to collection `"),
        (json!({"do": "empty-id"}), "malformed-output: wrote a document with an id of 0 bytes"),
        (json!({"do": "long-id"}), "malformed-output: wrote a document with an id of 513 bytes"),
        (
            json!({"do": "reserved-key"}),
            "malformed-output: document `x` of `scripted_log`: the key `_id` belongs to the host",
        ),
        (json!({"do": "nul"}), "malformed-output: document `x` of `scripted_log`: a string holds U+0000"),
        (
            json!({"do": "surrogate"}),
            "malformed-output: document `x` of `scripted_log`: a string holds an unpaired surrogate",
        ),
        (json!({"do": "deep"}), "json-depth-limit: document `x` of `scripted_log`: nested deeper than 128 levels"),
        (json!({"do": "halt-out-of-range"}), "malformed-output: halted at index "),
        (json!({"do": "skip-out-of-order"}), "malformed-output: skipped index "),
        (json!({"do": "read-foreign"}), "refused-call: read collection `"),
        (json!({"do": "stop", "code": "closed", "message": "wait for me"}), "plugin:closed: wait for me"),
    ];
    // Four at a time, since each has its own database and host.
    for deeds in deeds.chunks(4) {
        let checks = deeds.iter().map(async |(deed, expected)| {
            let reason = reason_of(deed.clone(), &TIGHT).await;
            assert!(reason.starts_with(expected), "{deed}:\n  expected {expected}…\n  found    {reason}");
        });
        futures_util::future::join_all(checks).await;
    }
}

/// CPU time does not end this call, wall-clock time does.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_its_wall_time_blocks_only_its_own_lane() {
    let reason = reason_of(json!({"do": "spin"}), &["limits.cpu-ms=3600000", "limits.wall-ms=300"]).await;
    assert_eq!(reason, "wall-time-limit: took more than 300 ms for one call (limits.wall-ms)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_the_output_limit_is_halved_until_it_passes() {
    let database = database().await;
    for stream in (0..30).map(|number| format!("s{number}")) {
        // Each event puts a document of 1 MiB, and then the stream's ordinary one in its place.
        database.append("acme", &stream, &[json!({"do": "giant", "mib": 1, "id": stream})]).await;
    }
    let ended = catch_up(&database, &["scripted"], &["limits.output-mib=4", "limits.document-kib=2048"]).await;
    assert!(matches!(ended, Ended::CaughtUp { .. }), "{ended:?}");
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// The second settings leave so few instances that most calls need a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_remembers_nothing_of_another_tenant() {
    let database = database().await;
    for settings in [&[][..], &["limits.instances=4", "limits.warm-instances=1"]] {
        let host = Host::start(&database, &["scripted"], settings);
        for _ in 0..3 {
            for tenant in ["a", "b", "c"] {
                database.append(tenant, "s", &[json!({"do": "remember"})]).await;
                database.append(tenant, "t", &[json!({"do": "remember"})]).await;
                database.scripted_settles(&[]).await;
                for ((tenant, stream), document) in documents(&database, "scripted_log").await {
                    let saw = document["saw"].as_str().unwrap();
                    assert!(saw.is_empty() || saw == tenant, "{tenant}, {stream}: {saw}");
                }
            }
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_plugin_is_rejected_with_its_defect() {
    let sandbox = sandbox(Limits { instances: 4, ..unhurried() });
    let guests = sandmill_tests::host::root().join("tests/guests");
    let refused = |bytes: &[u8]| sandbox.load(bytes).err().expect("it is rejected").to_string();
    let wat = |name: &str| wat::parse_file(guests.join(name)).unwrap();
    assert!(refused(&wat("core_module.wat")).starts_with("a core module, not a component\n"));
    let foreign = refused(&wat("foreign_import.wat"));
    assert!(foreign.contains(", which this host does not offer\n"), "{foreign}");
    assert!(refused(b"hello").starts_with("not a WebAssembly component: "));
    assert!(refused(b"").starts_with("not a WebAssembly component: the file is empty\n"));
    let bad = refused(&std::fs::read(component("bad-descriptor")).unwrap());
    assert!(bad.starts_with("`describe` broke the contract: "), "{bad}");
}
