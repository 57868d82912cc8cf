// What a monitor asks: whether something needs a person, told by an exit code alone.

use sandmill_tests::{
    Database, database,
    host::{Host, eventually_or, place, plugins, stderr, stdout},
};
use serde_json::{Value, json};

use super::{object, run};

/// The code of `status --check` and `explain --check` if something needs a person.
const ALARM: Option<i32> = Some(6);
const WELL: Option<i32> = Some(0);

/// Waits until the checks of `status` and `explain` end with these codes.
async fn checked(database: &Database, what: &str, status: Option<i32>, explain: Option<i32>) {
    eventually_or(what, async || {
        let asked = [
            run(&database.address, &["status", "--check"]).await,
            run(&database.address, &["explain", "--check"]).await,
        ];
        let said: Vec<String> = asked.iter().map(|output| stdout(output) + &stderr(output)).collect();
        let codes = [asked[0].status.code(), asked[1].status.code()];
        if codes == [status, explain] { Ok(()) } else { Err(format!("{codes:?}\n{}", said.join("\n"))) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_person_ends_a_check_with_6() {
    let database = database().await;
    let address = &database.address;
    let none = "no host runs on this database; start one with `sandmill run --plugins DIR`\n";
    // Nothing is behind, but nothing would move.
    checked(&database, "no host runs", ALARM, WELL).await;
    let status = run(address, &["status"]).await;
    assert_eq!(stdout(&status), format!("no processor has run on this database yet\n{none}"));
    let status = object(address, &["status", "--json"]).await;
    assert_eq!((&status["host"], &status["refusedFiles"]), (&json!(false), &json!([])));

    let folder = plugins(&["scripted"]);
    database.append("fine", "s", &[json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    checked(&database, "all is well", WELL, WELL).await;
    assert_eq!(object(address, &["status", "--json"]).await["host"], json!(true));
    let status = stdout(&run(address, &["status"]).await);
    assert!(!status.contains("no host") && !status.contains("refused"), "{status}");

    // What moves by itself, if later, is well.
    let later = json!({"do": "retry-after", "ms": 1_000_000, "code": "busy"});
    database.append("later", "s", &[later]).await;
    database.scripted_settles(&["later retrying plugin:busy"]).await;
    checked(&database, "a lane retries", WELL, WELL).await;

    // A file that the host does not run.
    place(folder.path(), "empty.wasm", b"");
    checked(&database, "a file is refused", ALARM, WELL).await;
    let status = stdout(&run(address, &["status"]).await);
    let told = |line: &str| line.starts_with("a file is refused: empty: ") && line.contains("the file is empty");
    assert!(status.lines().any(told), "{status}");
    let status = run(address, &["status", "--json", "--check"]).await;
    assert_eq!(status.status.code(), ALARM);
    let status: Value = serde_json::from_str(&stdout(&status)).unwrap();
    assert_eq!(status["refusedFiles"][0]["plugin"], json!("empty"));
    assert!(status["refusedFiles"][0]["reason"].as_str().unwrap().contains("the file is empty"), "{status}");
    std::fs::remove_file(folder.path().join("empty.wasm")).unwrap();
    checked(&database, "the file is gone", WELL, WELL).await;

    // An entry that looks like a plugin.
    place(folder.path(), "LOUD.WASM", b"");
    checked(&database, "an entry is not run", ALARM, WELL).await;
    let status = stdout(&run(address, &["status"]).await);
    assert!(status.contains("a file is refused: LOUD.WASM: "), "{status}");
    std::fs::remove_file(folder.path().join("LOUD.WASM")).unwrap();
    checked(&database, "the entry is gone", WELL, WELL).await;

    database.append("acme", "s", &[json!({"do": "trap"})]).await;
    database.scripted_settles(&["acme blocked trap", "later retrying plugin:busy"]).await;
    checked(&database, "a lane is blocked", ALARM, ALARM).await;
    // Of what is asked for alone.
    let fine = run(address, &["explain", "fine", "--check"]).await;
    assert_eq!(fine.status.code(), WELL, "{}", stdout(&fine));
    // Without the question there is no alarm.
    for command in ["status", "explain"] {
        assert_eq!(run(address, &[command]).await.status.code(), WELL);
    }
    host.stop().await;
    let status = stdout(&run(address, &["status"]).await);
    assert!(status.lines().any(|line| format!("{line}\n") == none), "{status}");
    checked(&database, "no host runs any more", ALARM, ALARM).await;
    assert_eq!(run(address, &["status", "--check", "--watch"]).await.status.code(), Some(2));
}

/// A processor whose plugin is gone, while its host runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_processor_without_its_plugin_needs_a_person() {
    let database = database().await;
    let folder = plugins(&["scripted", "scripted-by-stream"]);
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.settles("scripted", &[]).await;
    database.settles("scripted-by-stream", &[]).await;
    checked(&database, "both run", WELL, WELL).await;
    std::fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    checked(&database, "one is absent", ALARM, WELL).await;
    database.append("acme", "s", &[json!({})]).await;
    checked(&database, "it is behind as well", ALARM, ALARM).await;
    host.stop().await;
}
