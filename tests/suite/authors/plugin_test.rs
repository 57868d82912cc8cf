// `sandmill plugin test`: a plugin handles events from a file with several batchings, and its
// documents are compared with each other and with the expected ones.

use std::{fs, path::PathBuf};

use sandmill_tests::host::{component, root, stderr, stdout};
use serde_json::{Value, json};

use super::{plugin, report};
use crate::flights::slice;

/// A temporary folder for the files of a test.
struct TestFolder(tempfile::TempDir);

impl TestFolder {
    fn new() -> Self {
        TestFolder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes lines, and returns the file's path.
    fn lines(&self, name: &str, lines: &[Value]) -> String {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }
}

/// An event for `scripted`.
fn event(tenant: &str, stream: &str, data: Value) -> Value {
    json!({"tenant": tenant, "stream": stream, "type": "Scripted", "data": data})
}

fn wasm(name: &str) -> String {
    component(name).to_str().unwrap().into()
}

/// The documents of the flights, in the form that `--expect` takes.
fn flights() -> Vec<Value> {
    let text = fs::read_to_string(root().join("example-plugins/data/flights-20000.expected.json")).unwrap();
    let documents: Vec<serde_json::Map<String, Value>> = serde_json::from_str(&text).unwrap();
    let line = |mut document: serde_json::Map<String, Value>| {
        let (tenant, id) = (document.remove("tenant"), document.remove("id"));
        json!({"collection": "route_performance", "tenant": tenant, "id": id, "data": document})
    };
    documents.into_iter().map(line).collect()
}

#[test]
fn flights_produce_the_known_documents_with_every_batching() {
    let (folder, known) = (TestFolder::new(), flights());
    let (expected, written) = (folder.lines("expected.ndjson", &known), folder.text("written.ndjson"));
    let (wasm, slice) = (wasm("route-performance"), slice());
    let test = ["test", &wasm, "--events", slice.to_str().unwrap()];
    let (code, found) = report(&[&test[..], &["--expect", &expected, "--write", &written]].concat());
    assert_eq!((code, &found["good"], &found["handled"]), (0, &json!(true), &json!(20_000)), "{found}");
    assert_eq!(found["documents"], json!({"route_performance": known.len()}));
    let batches: Vec<u64> =
        found["passes"].as_array().unwrap().iter().map(|p| p["batches"].as_u64().unwrap()).collect();
    assert!(batches[1] == 20_000 && batches[2] > 10 * batches[0], "{batches:?}");
    assert!(found["largestInstanceBytes"].as_u64().unwrap() > 1 << 20);
    // The written documents can be used with --expect.
    let lines = fs::read_to_string(&written).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, known);

    // Differences from the expected documents are listed.
    let mut wrong = known.clone();
    wrong[3]["data"]["flown"] = json!(-1);
    wrong[4]["id"] = json!("NO-WHERE");
    let wrong = folder.lines("wrong.ndjson", &wrong);
    let output = plugin(&[&test[..], &["--expect", &wrong]].concat());
    let printed = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let id = |at: usize| known[at]["id"].as_str().unwrap();
    for expected in [
        format!("differing: 1:\n  route_performance tenant 9E id {} at /flown: expected -1, found 18\n", id(3)),
        "missing: 1:\n  route_performance tenant 9E id NO-WHERE\n".into(),
        format!("unexpected: 1:\n  route_performance tenant 9E id {}\n", id(4)),
        "failed: the documents are not as expected\n".into(),
    ] {
        assert!(printed.contains(&expected), "{expected}: {printed}");
    }
}

/// A line for each document that differs from that of the first batching.
fn differing(passes: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for pass in passes.as_array().unwrap() {
        for document in pass["documents"]["differing"]["first"].as_array().unwrap() {
            let text = |key: &str| document[key].as_str().unwrap_or("nothing").to_string();
            let batching = pass["batching"].as_str().unwrap();
            let difference = ["collection", "tenant", "id", "path", "expected", "found"].map(text).join(" ");
            lines.push(format!("{batching}: {difference}"));
        }
    }
    lines
}

#[test]
fn a_result_that_depends_on_batches_is_reported_with_its_place() {
    let folder = TestFolder::new();
    let mut events = vec![event("acme", "quiet", json!({})); 30];
    events.push(event("acme", "loud", json!({"do": "count-batch"})));
    let events = folder.lines("events.ndjson", &events);
    let (code, found) = report(&["test", &wasm("scripted"), "--events", &events]);
    assert_eq!((code, &found["good"]), (1, &json!(false)));
    let reported = differing(&found["passes"]);
    assert_eq!(reported[0], "batches of 1: scripted_log acme loud /batch 31 1");
    assert!(reported[1].starts_with("random batches of 1 to 20: scripted_log acme loud /batch 31 "), "{reported:?}");
    assert_eq!(reported[2], "batches of 1, each in a fresh instance: scripted_log acme loud /batch 31 1");
    assert_eq!(reported.len(), 3, "the quiet stream's document is the same");
    let printed = stdout(&plugin(&["test", &wasm("scripted"), "--events", &events]));
    for expected in [
        "the result depends on batching: batches of 1 gave a different result from batches of up to 500\n",
        "  scripted_log tenant acme id loud at /batch: first 31, here 1\n",
        "failed: the result depends on batching; ",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    // The report is repeatable.
    assert_eq!(differing(&report(&["test", &wasm("scripted"), "--events", &events]).1["passes"]), reported);
}

#[test]
fn a_result_that_depends_on_an_instances_memory_is_reported() {
    let folder = TestFolder::new();
    let events = folder.lines("events.ndjson", &vec![event("acme", "s", json!({"do": "remember"})); 2]);
    let (code, found) = report(&["test", &wasm("scripted"), "--events", &events]);
    assert_eq!(code, 1);
    let reported = differing(&found["passes"]);
    assert_eq!(reported, [r#"batches of 1, each in a fresh instance: scripted_log acme s /saw "acme" """#]);
}

#[test]
fn skipped_events_are_reported_and_do_not_fail_the_test() {
    let folder = TestFolder::new();
    let skip = json!({"do": "skip", "code": "odd", "message": "not for me"});
    let mut events = vec![event("acme", "s", skip); 12];
    events.insert(0, event("acme", "s", json!({"do": "retry-until-attempt", "n": 3})));
    let events = folder.lines("events.ndjson", &events);
    let output = plugin(&["test", &wasm("scripted"), "--events", &events]);
    let printed = stdout(&output);
    assert!(output.status.success(), "{printed}");
    for expected in [
        "  13 events, 13 handled, 12 of them skipped\n",
        "skipped: 12, the first 10:\n  line 2, tenant acme: plugin:odd: not for me\n",
        "ok: the result does not depend on how events are batched",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}

#[test]
fn a_lane_that_stops_fails_the_test_and_leaves_other_lanes_running() {
    let folder = TestFolder::new();
    let retry = json!({"do": "retry", "code": "wait", "message": "for somebody"});
    let events = folder.lines(
        "events.ndjson",
        &[
            event("traps", "s", json!({})),
            event("traps", "s", json!({"do": "trap"})),
            event("traps", "s", json!({})),
            event("good", "s", json!({})),
            event("spins", "s", json!({"do": "spin"})),
            event("retries", "s", retry),
            event("stops", "s", json!({"do": "stop", "code": "closed"})),
            event("good", "s", json!({})),
        ],
    );
    let (code, found) = report(&["test", &wasm("scripted"), "--events", &events, "--set", "limits.cpu-ms=200"]);
    let stops: Vec<String> = found["stopped"]["first"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stop| format!("{} {} {} {}", stop["line"], stop["tenant"], stop["class"], stop["attempts"]))
        .collect();
    let expected = [
        r#"2 "traps" "trap" null"#,
        r#"5 "spins" "cpu-limit" null"#,
        r#"6 "retries" "plugin:wait" 3"#,
        r#"7 "stops" "plugin:closed" null"#,
    ];
    assert_eq!(stops, expected);
    // The event before the trap is handled, and so are all events of the good tenant.
    assert_eq!((code, &found["handled"], &found["waiting"]), (1, &json!(3), &json!(5)), "{found}");
    assert_eq!(differing(&found["passes"]), [""; 0], "a lane stops at the same event every time");
    let printed = stdout(&plugin(&["test", &wasm("scripted"), "--events", &events, "--set", "limits.cpu-ms=200"]));
    assert!(
        printed.contains("line 6, tenant retries, type Scripted: plugin:wait: for somebody (after 3 attempts)\n"),
        "{printed}"
    );
    assert!(printed.contains("failed: lanes stopped; "), "{printed}");
}

/// With lanes finer than a tenant, each document belongs to one lane, as on a host.
#[test]
fn a_lane_that_writes_another_lanes_document_stops() {
    let folder = TestFolder::new();
    let events = folder.lines(
        "events.ndjson",
        &[
            event("acme", "one", json!({})),
            event("acme", "two", json!({})),
            event("acme", "two", json!({"do": "write-to", "id": "one"})),
            event("acme", "one", json!({})),
        ],
    );
    let (code, found) = report(&["test", &wasm("scripted-by-stream"), "--events", &events]);
    let stop = &found["stopped"]["first"][0];
    assert_eq!((code, &stop["line"], &stop["lane"]), (1, &json!(3), &json!("two")), "{found}");
    let message = stop["message"].as_str().unwrap();
    assert!(message.contains("belongs to the lane `one`") && message.contains("partition by tenant"), "{message}");
    assert_eq!((&found["handled"], found["documents"]["scripted_stream_log"].as_u64()), (&json!(3), Some(2)));
}

#[test]
fn a_bad_input_file_is_reported_with_its_name_and_line() {
    let folder = TestFolder::new();
    let events = folder.lines("events.ndjson", &[event("acme", "s", json!({})), json!({"stream": "s"})]);
    let printed = |arguments: &[&str]| {
        let output = plugin(&[&["test"], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let (scripted, good) = (wasm("scripted"), folder.lines("good.ndjson", &[event("acme", "s", json!({}))]));
    let expected = format!("error: {events}: line 2: missing field `type` (column 14)\n");
    assert_eq!(printed(&[&scripted, "--events", &events]), expected);
    let document = json!({"collection": "scripted_log", "tenant": "acme", "id": "s", "data": {}});
    let twice = folder.lines("twice.ndjson", &[document.clone(), document]);
    let refused = printed(&[&scripted, "--events", &good, "--expect", &twice]);
    assert!(refused.starts_with(&format!("error: {twice}: line 2: names the same document as line 1")), "{refused}");
    let refused = printed(&[&wasm("bad-descriptor"), "--events", &good]);
    assert!(refused.contains("bad-descriptor.wasm does not run here: `describe` broke the contract"), "{refused}");
    let refused = printed(&[&scripted, "--events", &folder.text("nowhere")]);
    assert!(refused.contains("nowhere: No such file"), "{refused}");
}

#[test]
fn a_file_without_events_for_the_plugin_fails_the_test() {
    let folder = TestFolder::new();
    let events = folder.lines("events.ndjson", &[event("acme", "s", json!({}))]);
    let output = plugin(&["test", &wasm("route-performance"), "--events", &events]);
    let printed = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for expected in [
        "  1 event, 0 handled, 1 of other types or tenants\n",
        "note: no event has the type FlightFlown or FlightCancelled\n",
        "failed: no event was handled; ",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}

/// Settings, tenant settings and limits are read as by a host.
#[test]
fn the_manifest_beside_the_file_applies() {
    let folder = TestFolder::new();
    let copy = folder.path("scripted.wasm");
    fs::copy(component("scripted"), &copy).unwrap();
    let copy = copy.to_str().unwrap().to_string();
    let events = folder.lines("events.ndjson", &[event("acme", "s", json!({"do": "setting"}))]);
    let written = folder.text("written.ndjson");
    let test = ["test", &copy, "--events", &events, "--write", &written];
    fs::write(folder.path("scripted.toml"), "[settings]\nword = 'mug'").unwrap();
    let (code, found) = report(&test);
    assert_eq!((code, &found["good"]), (0, &json!(true)), "{found}");
    assert!(fs::read_to_string(&written).unwrap().contains(r#""setting":"mug""#));

    fs::write(folder.path("scripted.toml"), "[settings]\nword = 'mug'\n[tenants.acme.settings]\nword = 'cup'").unwrap();
    assert_eq!(report(&test).0, 0);
    assert!(fs::read_to_string(&written).unwrap().contains(r#""setting":"cup""#));
    fs::write(folder.path("scripted.toml"), "[tenants.acme.setings]\nword = 'cup'").unwrap();
    let typo = plugin(&["check", &copy]);
    assert!(stderr(&typo).contains("The nearest key is settings."), "{}", stderr(&typo));

    fs::write(folder.path("scripted.toml"), "[limits]\nmemory-mib = 1").unwrap();
    let little = plugin(&["check", &copy]);
    assert!(stdout(&little).contains("limits.memory-mib"), "{}", stdout(&little));
    fs::write(folder.path("scripted.toml"), "[limit]").unwrap();
    for command in [&test[..], &["check", &copy]] {
        let output = plugin(command);
        let printed = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert!(printed.contains("scripted.toml: ") && printed.contains("The nearest key is limits."), "{printed}");
    }
}
