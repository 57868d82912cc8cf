// `status --check` and `explain --check`: exit codes for monitoring.

use sandmill_tests::{
    Database, database,
    host::{Host, eventually_or, place, plugins, stderr, stdout},
};
use serde_json::{Value, json};

use super::{object, run};

/// The exit code if something needs attention.
const NEEDS_ATTENTION: Option<i32> = Some(6);
const OK: Option<i32> = Some(0);

/// Waits until `status --check` and `explain --check` exit with these codes.
async fn until_checks_exit(database: &Database, what: &str, status: Option<i32>, explain: Option<i32>) {
    eventually_or(what, async || {
        let outputs = [
            run(&database.address, &["status", "--check"]).await,
            run(&database.address, &["explain", "--check"]).await,
        ];
        let printed: Vec<String> = outputs.iter().map(|output| stdout(output) + &stderr(output)).collect();
        let codes = [outputs[0].status.code(), outputs[1].status.code()];
        if codes == [status, explain] { Ok(()) } else { Err(format!("{codes:?}\n{}", printed.join("\n"))) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_exits_with_6_if_something_needs_attention() {
    let database = database().await;
    let address = &database.address;
    let none = "no host is running on this database; start one with `sandmill run --plugins DIR`\n";
    // Nothing is behind, but new events would not be handled.
    until_checks_exit(&database, "no host is running", NEEDS_ATTENTION, OK).await;
    let status = run(address, &["status"]).await;
    assert_eq!(stdout(&status), format!("no processor has run on this database yet\n{none}"));
    let status = object(address, &["status", "--json"]).await;
    assert_eq!((&status["host"], &status["rejectedFiles"]), (&json!(false), &json!([])));

    let folder = plugins(&["scripted"]);
    database.append("fine", "s", &[json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    until_checks_exit(&database, "all is well", OK, OK).await;
    assert_eq!(object(address, &["status", "--json"]).await["host"], json!(true));
    let status = stdout(&run(address, &["status"]).await);
    assert!(!status.contains("no host") && !status.contains("rejected"), "{status}");

    // An automatic retry needs no attention.
    let later = json!({"do": "retry-after", "ms": 1_000_000, "code": "busy"});
    database.append("later", "s", &[later]).await;
    database.scripted_settles(&["later retrying plugin:busy"]).await;
    until_checks_exit(&database, "a lane retries", OK, OK).await;

    // A file that the host rejects.
    place(folder.path(), "empty.wasm", b"");
    until_checks_exit(&database, "a file is rejected", NEEDS_ATTENTION, OK).await;
    let status = stdout(&run(address, &["status"]).await);
    let names_it = |line: &str| line.starts_with("rejected plugin file empty: ") && line.contains("the file is empty");
    assert!(status.lines().any(names_it), "{status}");
    let status = run(address, &["status", "--json", "--check"]).await;
    assert_eq!(status.status.code(), NEEDS_ATTENTION);
    let status: Value = serde_json::from_str(&stdout(&status)).unwrap();
    assert_eq!(status["rejectedFiles"][0]["plugin"], json!("empty"));
    assert!(status["rejectedFiles"][0]["reason"].as_str().unwrap().contains("the file is empty"), "{status}");
    std::fs::remove_file(folder.path().join("empty.wasm")).unwrap();
    until_checks_exit(&database, "the file is gone", OK, OK).await;

    // An entry that looks like a plugin but is not one.
    place(folder.path(), "LOUD.WASM", b"");
    until_checks_exit(&database, "an entry is not run", NEEDS_ATTENTION, OK).await;
    let status = stdout(&run(address, &["status"]).await);
    assert!(status.contains("plugins folder: LOUD.WASM: "), "{status}");
    std::fs::remove_file(folder.path().join("LOUD.WASM")).unwrap();
    until_checks_exit(&database, "the entry is gone", OK, OK).await;

    database.append("acme", "s", &[json!({"do": "trap"})]).await;
    database.scripted_settles(&["acme blocked trap", "later retrying plugin:busy"]).await;
    until_checks_exit(&database, "a lane is blocked", NEEDS_ATTENTION, NEEDS_ATTENTION).await;
    // The check covers only the requested tenant.
    let fine = run(address, &["explain", "fine", "--check"]).await;
    assert_eq!(fine.status.code(), OK, "{}", stdout(&fine));
    // Without --check the exit code is 0.
    for command in ["status", "explain"] {
        assert_eq!(run(address, &[command]).await.status.code(), OK);
    }
    host.stop().await;
    let status = stdout(&run(address, &["status"]).await);
    assert!(status.lines().any(|line| format!("{line}\n") == none), "{status}");
    until_checks_exit(&database, "no host is running any more", NEEDS_ATTENTION, NEEDS_ATTENTION).await;
    assert_eq!(run(address, &["status", "--check", "--watch"]).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_without_its_plugin_needs_attention() {
    let database = database().await;
    let folder = plugins(&["scripted", "scripted-by-stream"]);
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.settles("scripted", &[]).await;
    database.settles("scripted-by-stream", &[]).await;
    until_checks_exit(&database, "both run", OK, OK).await;
    std::fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    until_checks_exit(&database, "one is absent", NEEDS_ATTENTION, OK).await;
    database.append("acme", "s", &[json!({})]).await;
    until_checks_exit(&database, "it is behind as well", NEEDS_ATTENTION, NEEDS_ATTENTION).await;
    host.stop().await;
}
