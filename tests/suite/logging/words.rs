//! Hostile text of tenants and plugins, in every output: no character that controls a terminal or
//! ends a line leaves the host, and no list floods its reader.

use std::{path::Path, process::Output};

use sandmill::model::text;
use sandmill_tests::{
    Database, database, handmade,
    host::{Process, eventually, plugins, sandmill, stderr, stdout},
};
use serde_json::{Value, json};

/// Characters that control a terminal, end a line or reorder text, beside harmless ones.
pub(super) const WORDS: &str =
    "é \u{1b}[2J\u{1b}]0;owned\u{7} \u{9b}31m\u{85} \u{202e}gnp\u{2066}\u{200f} \u{2028}\u{2029}\r\u{7f}x";
/// A message that imitates a log line of the host with its fields.
pub(super) const FORGED: &str = "said\n2026-01-01T00:00:00Z  INFO processor=\"red\" tenant=\"quiet\" forged";

async fn run(database: &Database, arguments: &[&str]) -> Output {
    let mut command = sandmill(&database.address);
    command.args(arguments).env("SANDMILL_LOG", "info");
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

pub(super) fn assert_harmless(what: &str, text: &str) {
    let found: Vec<char> = text.chars().filter(|c| text::is_unsafe(*c) && *c != '\n').collect();
    assert!(found.is_empty(), "{what} has {found:?}:\n{}", text.escape_debug());
}

/// A database in which every name and message that an application may choose contains [`WORDS`],
/// and plugins that repeat them.
pub(super) async fn with_words_everywhere() -> (Database, tempfile::TempDir) {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let message = format!("{WORDS}{FORGED}");
    let deeds = [
        json!({"do": "shout", "message": message, "lines": 1}),
        json!({"do": "skip", "code": WORDS, "message": message}),
        json!({"pad": WORDS}),
    ];
    let stop = json!({"do": "stop", "code": WORDS, "message": message});
    for (stream, data) in [(format!("fine {WORDS}"), &deeds[..]), (format!("blocked {WORDS}"), &[stop])] {
        for (number, data) in data.iter().enumerate() {
            let metadata = json!({ "by": WORDS });
            let (id, event_type) = (format!("{stream} {number}"), format!("Type {WORDS}"));
            let sql = "select sandmill.append('acme', $1, array[$2::text], array[$3::text]::json[], null, array[$5::text]::json[], array[$4::text])";
            let (data, metadata) = (data.to_string(), metadata.to_string());
            session.query(sql, &[&stream, &event_type, &data, &id, &metadata]).await.unwrap();
        }
    }
    (database, plugins(&["scripted", "scripted-by-stream"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_controls_no_terminal_in_any_output() {
    let (database, folder) = with_words_everywhere().await;
    let dir = folder.path().to_str().unwrap();
    let ended = run(&database, &["run", "--until-caught-up", "--plugins", dir]).await;
    let log = stderr(&ended);
    assert_eq!(ended.status.code(), Some(4), "{log}");
    assert_harmless("the log", &log);
    assert!(log.lines().any(|line| line.contains("blocked: processor scripted-by-stream")), "{log}");
    // Forged fields are inside quotes, after the true ones. In the last line about a lane they
    // follow the lane's true name.
    let last_word = |line: &str| line.starts_with("blocked: processor scripted") && line.contains(", tenant acme");
    for line in log.lines().filter(|line| line.contains("forged") && !last_word(line)) {
        let truth = line.contains(r#" tenant="acme" "#)
            || line.contains(" lane=\"tenant acme")
            || !line.contains(r#" tenant="quiet""#);
        assert!(truth && !line.starts_with("2026-01-01"), "{line}");
    }

    let key = format!("blocked {WORDS}");
    let lane = ["scripted-by-stream", "--tenant", "acme", "--key", &key];
    let commands: Vec<Vec<&str>> = vec![
        vec!["status"],
        vec!["status", "--wide"],
        vec!["status", "--json"],
        vec!["explain"],
        vec!["explain", "acme"],
        vec!["explain", "--json"],
        vec!["plugins"],
        vec!["plugins", "--json"],
        vec!["plugins", "history", "scripted"],
        vec!["tenants"],
        vec!["tenants", "--json"],
        vec!["events"],
        vec!["events", "--json"],
        vec!["events", "--follow", "--from", "1", "--limit", "4"],
        vec!["documents", "scripted_stream_log"],
        vec!["documents", "scripted_stream_log", "--json"],
        [&["pause"], &lane[..]].concat(),
        [&["pause", "--json"], &lane[..]].concat(),
        [&["resume"], &lane[..]].concat(),
        [&["resume", "--json"], &lane[..]].concat(),
        vec!["append", "--stream", &key, "--type", WORDS, "--data", "{}", "--id", WORDS],
        vec!["append", "--stream", &key, "--type", WORDS, "--data", "{}", "--id", WORDS],
        vec!["append", "--stream", &key, "--type", WORDS, "--data", "{}", "--expected-version", "7"],
        vec!["append", "--stream", &key, "--type", WORDS, "--data", WORDS],
        vec!["import", "/nowhere/\u{202e}\u{9b}"],
        vec!["documents", "scripted_stream_log", "--id", WORDS],
    ];
    for arguments in commands {
        let output = run(&database, &arguments).await;
        let (printed, errors) = (stdout(&output), stderr(&output));
        assert!(!printed.is_empty() || !errors.is_empty(), "{arguments:?}");
        assert_harmless(&format!("{arguments:?}"), &printed);
        assert_harmless(&format!("{arguments:?}"), &errors);
        if arguments.contains(&"--json") {
            printed.lines().for_each(|line| _ = serde_json::from_str::<Value>(line).unwrap());
        }
    }
    // JSON output keeps the text unchanged.
    let events = stdout(&run(&database, &["events", "--json", "--from", "3", "--limit", "1"]).await);
    let event: Value = serde_json::from_str(&events).unwrap();
    assert_eq!((&event["data"]["pad"], &event["metadata"]["by"]), (&json!(WORDS), &json!(WORDS)));
}

/// A text as the bytes of a data segment.
fn bytes(text: &str) -> String {
    text.bytes().map(|byte| format!("\\{byte:02x}")).collect()
}

/// A plugin `wordy` that handles a number of event types with the same name of at most 200 bytes.
fn wordy(types: u32, name: &str) -> Vec<u8> {
    // The list begins at 64 KiB. Its option, pointer and length are at 16, 20 and 24 in the
    // descriptor.
    let pages = 2 + types * 8 / 65_536;
    let (length, end) = (name.len(), 65_536 + types * 8);
    let fields = format!(
        r#"(memory (export "memory") {pages}) (data (i32.const 3000) "{}")
        (func $describe (local $at i32)
            (local.set $at (i32.const 65536))
            (loop (i32.store (local.get $at) (i32.const 3000))
                  (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const {length}))
                  (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const {end}))))
            (i32.store8 (i32.const 1040) (i32.const 1))
            (i32.store (i32.const 1044) (i32.const 65536))
            (i32.store (i32.const 1048) (i32.const {types})))"#,
        bytes(name)
    );
    handmade::named("wordy", &fields)
}

fn put(folder: &Path, bytes: &[u8]) {
    sandmill_tests::host::place(folder, "wordy.wasm", bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_long_list_floods_neither_the_log_nor_its_error_file() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &wordy(1, "One"));
    let host = Process::start(&database, folder.path(), &["limits.memory-mib=64"]);
    eventually("the first version runs", async || database.status("wordy").await).await;
    let error = folder.path().join("wordy.wasm.error");
    let until_error = async |what: &str| {
        eventually(what, async || std::fs::read_to_string(&error).ok().filter(|text| text.contains(what))).await
    };
    // The rejection lists some of the new types, or only their number.
    put(folder.path(), &wordy(1_000, &"long name ".repeat(10)));
    let refused = until_error(" and 950 more").await;
    assert!(refused.len() < 17 << 10, "{} bytes: {refused:.200}", refused.len());
    put(folder.path(), &wordy(100_000, &"long name ".repeat(10)));
    let refused = until_error("lists 100000 event types").await;
    assert!(refused.len() < 17 << 10, "{} bytes: {refused:.200}", refused.len());
    put(folder.path(), &wordy(3, &format!("Type {WORDS}")));
    let refused = until_error("Type ").await;
    assert_harmless("the error file", &refused);
    let log = host.log();
    assert_harmless("the log", &log);
    assert!(log.len() < 256 << 10, "{} bytes", log.len());
    let plugins = run(&database, &["plugins"]).await;
    assert_harmless("plugins", &stdout(&plugins));
}
