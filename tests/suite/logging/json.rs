//! The log as JSON: one object per line, even with hostile text of plugins and applications.

use std::process::Output;

use sandmill_tests::host::{catch_up, sandmill, stderr, stdout};
use serde_json::{Value, json};

use super::words::{FORGED, WORDS, assert_harmless, with_words_everywhere};

/// The log of a command, line by line.
fn entries(output: &Output) -> Vec<Value> {
    let log = stderr(output);
    assert_harmless("the log", &log);
    let parse = |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")) };
    let entries: Vec<Value> = log.lines().map(parse).collect();
    for entry in &entries {
        let keys: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["fields", "level", "message", "target", "timestamp"], "{entry}");
        let (timestamp, level) = (entry["timestamp"].as_str().unwrap(), entry["level"].as_str().unwrap());
        assert!(timestamp.len() == 27 && timestamp.ends_with('Z'), "{entry}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&level), "{entry}");
        assert!(entry["fields"].is_object() && entry["message"].is_string(), "{entry}");
    }
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_log_is_one_object_per_line_and_keeps_every_text() {
    let (database, folder) = with_words_everywhere().await;
    let mut command = sandmill(&database.address);
    command.args(["run", "--until-caught-up", "--plugins"]).arg(folder.path());
    command.env("SANDMILL_LOG", "debug").env("SANDMILL_LOG_FORMAT", "json");
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(4), "{}", stderr(&ended));
    let entries = entries(&ended);
    let connected = entries.iter().find(|entry| entry["message"] == "connected").unwrap();
    assert_eq!((&connected["level"], &connected["target"]), (&json!("INFO"), &json!("sandmill::app")));
    assert!(connected["fields"]["database"].is_string(), "{connected}");
    // A plugin's text is a message, and nothing else.
    let message = format!("{WORDS}{FORGED}");
    let of_guest = entries.iter().find(|entry| entry["target"] == "sandmill::guest").unwrap();
    assert_eq!((&of_guest["message"], &of_guest["fields"]["tenant"]), (&json!(message), &json!("acme")));
    // The last line of the command has the same format.
    let last = |entry: &&Value| entry["message"].as_str().unwrap().starts_with("blocked: processor scripted");
    let last = entries.iter().find(last).unwrap();
    assert_eq!((&last["level"], &last["target"]), (&json!("ERROR"), &json!("sandmill")));
    assert!(stdout(&ended).is_empty());
}

/// Errors of commands are objects too, once the settings are read.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_command_is_an_object() {
    let database = sandmill_tests::database().await;
    catch_up(&database, &["scripted"], &[]).await;
    let run = |arguments: &[&str]| {
        let mut command = sandmill(&database.address);
        command.env("SANDMILL_LOG_FORMAT", "json").args(arguments).output().unwrap()
    };
    let output = run(&["documents", "nothing"]);
    let entries = entries(&output);
    assert_eq!((output.status.code(), entries.len(), &entries[0]["level"]), (Some(1), 1, &json!("ERROR")));
    assert!(entries[0]["message"].as_str().unwrap().starts_with("error: there is no collection `nothing`"));
    let output = run(&["status"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    // With an invalid format, the error is text.
    let output = run(&["status", "--set", "log.format=yaml"]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(error.starts_with("error: settings: unknown variant `yaml`") && error.contains("`text`"), "{error}");
}
