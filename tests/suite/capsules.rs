// Failure capsules, and dead letters on another version: `dead-letters export`, `explain
// --capsule`, `plugin test --capsule` and `dead-letters retry --with`.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use sandmill::app::{self, Until};
use sandmill_tests::{
    Database, database,
    host::{GOOD, Host, TRAPPING, component, config, eventually, place, plugins, sandmill, stderr, stdout, version},
};
use serde_json::{Value, json};

/// Generous time limits, as the hosts of tests have them.
const UNHURRIED: [&str; 4] = ["--set", "limits.cpu-ms=10000", "--set", "limits.wall-ms=120000"];

/// Runs the plugins in a folder until all events are handled or their lanes are blocked.
async fn run_in(database: &Database, folder: &Path) {
    let config = config(folder, &[]);
    let never = std::future::pending;
    app::run(&config, &database.db, Until::CaughtUp, never(), never()).await.unwrap();
}

/// A folder with a version of `scripted` that traps on every event, and sets each aside.
fn trapping() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "scripted.toml", b"[failures.trap]\nthen = 'dead-letter'\n");
    place(folder.path(), "scripted.wasm", &version("scripted", TRAPPING[0]));
    folder
}

/// Runs a command on a database.
async fn run(database: &Database, arguments: &[&str]) -> Output {
    let mut command = sandmill(&database.address);
    command.args(arguments).args(UNHURRIED);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs a command on a database that must end well, and returns what it prints.
async fn succeed(database: &Database, arguments: &[&str]) -> String {
    let output = run(database, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// Runs a command that must fail, and returns its error.
async fn fail(database: &Database, arguments: &[&str]) -> String {
    let output = run(database, arguments).await;
    assert!(!output.status.success(), "{arguments:?}: {}", stdout(&output));
    stderr(&output)
}

/// Replays a capsule without a database: the exit code, the report, and what it prints for people.
fn replay(capsule: &Path, plugin: &Path) -> (i32, Value, String) {
    let run = |more: &[&str]| {
        let mut command = sandmill("");
        command.env_remove("DATABASE_URL").args(["plugin", "test", "--capsule"]).arg(capsule).arg(plugin).args(more);
        command.output().unwrap()
    };
    let (json, text) = (run(&["--json"]), run(&[]));
    assert_eq!(json.status.code(), text.status.code());
    let report = serde_json::from_str(&stdout(&json)).unwrap_or_else(|_| json!(stderr(&json)));
    (json.status.code().unwrap(), report, stdout(&text))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file that does not exist yet.
fn fresh(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_without_the_database_until_a_version_handles_it() {
    let (database, files) = (database().await, tempfile::tempdir().unwrap());
    let folder = plugins(&["scripted"]);
    place(folder.path(), "scripted.toml", b"[failures.trap]\nattempts = 2\nfirst-ms = 100\nthen = 'dead-letter'\n");
    let trap = "{ \"do\" : \"trap\",\n \"message\": \"at the second\" }";
    let data = ["{}", trap, "{}"].map(String::from);
    database.append_texts("acme", "s", &data).await;
    run_in(&database, folder.path()).await;

    let file = fresh(&files, "failure.json");
    let export = ["dead-letters", "export", "scripted", "2", "--plugins", text(folder.path()), "--out", text(&file)];
    let printed = succeed(&database, &export).await;
    for part in
        ["tenant acme, attempt 2: trap\n", "  here       the plugin failed with the same class\n", "note: the lane has"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let capsule = read(&file);
    assert_eq!(capsule["sandmillCapsule"], 1);
    let of = |pointer: &str| capsule.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {capsule:#}")).clone();
    let session = database.db.connect("test").await.unwrap();
    let letter = "select message, digest from sandmill.dead_letters";
    let letter = session.query_one(letter, &[]).await.unwrap();
    assert_eq!(of("/failure"), json!({"class": "trap", "message": letter.get::<_, &str>(0)}));
    assert_eq!((of("/plugin/digest"), of("/attempt")), (json!(letter.get::<_, &str>(1)), json!(2)));
    assert_eq!((of("/plugin/limits/cpu-ms"), of("/documentsAreLater")), (json!(10_000), json!(true)));
    assert_eq!(of("/plugin/failures/1/trap/then"), "dead-letter");
    // The third event was handled after the failure.
    assert_eq!((of("/documents/0/id"), of("/documents/0/data/count")), (json!("s"), json!(2)));
    let (backtrace, log) = (of("/backtrace"), of("/log"));
    assert!(backtrace.as_str().unwrap().contains("0: "), "{backtrace}");
    assert!(log.as_str().unwrap().contains("at the second"), "{log}");
    assert!(std::fs::read_to_string(&file).unwrap().contains(trap), "data is not spelt as it was written");

    let (code, report, printed) = replay(&file, &component("scripted"));
    assert_eq!((code, &report["outcome"]), (1, &json!("reproduced")), "{report:#}");
    assert_eq!(report["found"], report["expected"]);
    assert_eq!(report["digest"], report["capsuleDigest"]);
    assert!(printed.ends_with("\nfailed: reproduced\n"), "{printed}");

    // Another build traps in another way, and one passes.
    let other = fresh(&files, "other.wasm");
    std::fs::write(&other, version("scripted", TRAPPING[1])).unwrap();
    let (code, report, printed) = replay(&file, &other);
    assert_eq!((code, &report["outcome"]), (1, &json!("reproduced")), "{report:#}");
    assert!(printed.contains("note: this is another build ("), "{printed}");
    let fixed = fresh(&files, "capsule.json");
    let harmless = std::fs::read_to_string(&file).unwrap().replace("\"trap\",\n", "\"ok\",\n");
    std::fs::write(&fixed, harmless).unwrap();
    let (code, report, printed) = replay(&fixed, &component("scripted"));
    assert_eq!((code, &report["outcome"]), (0, &json!("handled")), "{report:#}");
    let change = &report["changes"][0];
    assert_eq!((&change["before"]["count"], &change["after"]["count"]), (&json!(2), &json!(3)), "{change}");
    assert!(
        printed.contains("  changed scripted_log s\n    /chain: ") && printed.contains("/count: 2 -> 3\n"),
        "{printed}"
    );
    assert!(printed.ends_with("\nok: not reproduced; the plugin handled the event\n"), "{printed}");
}

/// The words of tenants, which may occur only in files for them.
fn words(tenant: &str) -> [String; 4] {
    ["event", "metadata", "document", "setting"].map(|what| format!("{tenant}-{what}-word"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capsule_contains_nothing_of_another_tenant() {
    let (database, files) = (database().await, tempfile::tempdir().unwrap());
    let folder = plugins(&["scripted"]);
    let manifest = "only-tenants = ['acme', 'globex']\n[failures.trap]\nthen = 'dead-letter'\n[settings]\ncommon = 'common-word'\n\
                    [tenants.acme.settings]\nword = 'acme-setting-word'\n[tenants.globex.settings]\nword = 'globex-setting-word'\n";
    place(folder.path(), "scripted.toml", manifest.as_bytes());
    let session = database.db.connect("test").await.unwrap();
    for _ in 0..2 {
        for tenant in ["acme", "globex"] {
            let [event, metadata, document, _] = words(tenant);
            let shout = json!({"do": "shout", "message": event, "lines": 2}).to_string();
            let data = [
                shout,
                json!({"do": "setting"}).to_string(),
                json!({"do": "trap", "message": event}).to_string(),
                json!({"do": "malformed-json", "message": event}).to_string(),
            ];
            let metadata = vec![json!({"by": metadata}).to_string(); data.len()];
            let append = "select * from sandmill.append($1, $2, array_fill('Scripted'::text, array[4]), $3::text[]::json[], p_metadata => $4::text[]::json[])";
            session.query(append, &[&tenant, &document, &data.as_slice(), &metadata]).await.unwrap();
        }
    }
    run_in(&database, folder.path()).await;
    let settings = fresh(&files, "settings.toml");
    std::fs::write(&settings, "[tenants.globex]\nmemory-mib = 77\n[tenants.acme]\nmemory-mib = 99\n").unwrap();

    let position = "select position from sandmill.dead_letters where tenant = 'acme' and class = 'trap'";
    let position = session.query_one(position, &[]).await.unwrap().get::<_, i64>(0).to_string();
    let (letter, lane) = (fresh(&files, "letter.json"), fresh(&files, "lane.json"));
    let common = ["--plugins", text(folder.path()), "--config", text(&settings)];
    let export = ["dead-letters", "export", "scripted", &position, "--out", text(&letter)];
    let printed = succeed(&database, &[&export[..], &common].concat()).await;
    assert!(printed.contains("values of the plugin's settings (common, word)"), "{printed}");
    let explain = ["explain", "scripted", "--tenant", "acme", "--capsule", text(&lane)];
    succeed(&database, &[&explain[..], &common].concat()).await;
    for file in [&letter, &lane] {
        let content = std::fs::read_to_string(file).unwrap();
        assert!(!content.contains("globex"), "{content}");
        assert!(content.contains("common-word"), "{content}");
        for word in words("acme") {
            assert!(content.contains(&word), "{word}: {content}");
        }
        let (code, report, _) = replay(file, &component("scripted"));
        assert_eq!((code, &report["outcome"]), (1, &json!("reproduced")), "{report:#}");
    }
    assert_eq!(read(&letter)["plugin"]["tenantMemoryMib"], 99);
    let lane = read(&lane);
    assert_eq!((&lane["failure"]["class"], &lane["documentsAreLater"]), (&json!("malformed-output"), &json!(false)));

    // Without settings, the values are only where the plugin itself has stored them.
    let without = succeed(&database, &[&export[..5], &["-", "--without-settings"], &common].concat()).await;
    let capsule: Value = serde_json::from_str(&without).unwrap();
    assert_eq!(capsule["plugin"]["settings"], Value::Null);
    assert!(!capsule["plugin"].to_string().contains("word"), "{capsule:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_of_a_document_is_part_of_a_capsule() {
    let (database, files) = (database().await, tempfile::tempdir().unwrap());
    let folder = plugins(&["scripted-by-stream"]);
    database.append("acme", "one", &[json!({})]).await;
    run_in(&database, folder.path()).await;
    database.append("acme", "two", &[json!({}), json!({"do": "write-to", "id": "one"})]).await;
    database.append("acme", "three", &[json!({"do": "stop", "code": "closed"})]).await;
    run_in(&database, folder.path()).await;
    let file = fresh(&files, "failure.json");
    let explain = ["explain", "scripted-by-stream", "--tenant", "acme", "--capsule", text(&file), "--plugins"];
    let explain = [&explain[..], &[text(folder.path())]].concat();
    let several = fail(&database, &explain).await;
    assert!(several.contains("choose one with --key: `three`, `two`\n"), "{several}");
    assert!(!file.exists());
    succeed(&database, &[&explain[..], &["--key", "two"]].concat()).await;
    let (code, report, _) = replay(&file, &component("scripted-by-stream"));
    assert_eq!((code, &report["outcome"]), (1, &json!("reproduced")), "{report:#}");
    let message = report["found"]["message"].as_str().unwrap();
    assert!(message.contains("belongs to the lane `one`"), "{message}");

    succeed(&database, &[&explain[..], &["--key", "three"]].concat()).await;
    let (code, report, _) = replay(&file, &component("scripted-by-stream"));
    assert_eq!((code, &report["found"]["class"]), (1, &json!("plugin:closed")), "{report:#}");

    let none = fail(&database, &[&explain[..], &["--key", "four"]].concat()).await;
    assert!(
        none.contains("no lane of tenant acme in scripted-by-stream with the key `four` is blocked or retrying"),
        "{none}"
    );
    let usage = run(&database, &["explain", "--without-settings"]).await;
    assert_eq!(usage.status.code(), Some(2), "{}", stderr(&usage));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_gone_from_the_folder_is_taken_from_the_database() {
    let (database, files, folder) = (database().await, tempfile::tempdir().unwrap(), trapping());
    database.append("acme", "s", &[json!({}), json!({})]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    let session = database.db.connect("test").await.unwrap();
    eventually("the version is stored", async || {
        let stored = session.query("select from sandmill.components", &[]).await.unwrap();
        (!stored.is_empty()).then_some(())
    })
    .await;
    host.stop().await;
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[0]));

    let file = fresh(&files, "failure.json");
    let export = ["dead-letters", "export", "scripted", "1", "--plugins", text(folder.path()), "--out", text(&file)];
    let exported: Value =
        serde_json::from_str(&succeed(&database, &[&export[..], &["--json"]].concat()).await).unwrap();
    assert_eq!((&exported["reproduced"], &exported["documents"]), (&json!(true), &json!(1)), "{exported}");
    let absent = json!([{"collection": "scripted_log", "id": "s", "data": null}]);
    assert_eq!(read(&file)["documents"], absent);

    // A fixed build handles the event, and creates the document.
    let fixed = fresh(&files, "fixed.wasm");
    std::fs::write(&fixed, version("scripted", GOOD[0])).unwrap();
    let (code, report, printed) = replay(&file, &fixed);
    assert_eq!((code, &report["outcome"]), (0, &json!("handled")), "{report:#}");
    let change = &report["changes"][0];
    assert_eq!((&change["change"], &change["after"]["count"]), (&json!("created"), &json!(1)));
    assert!(printed.contains("note: this is another build (") && !printed.contains("does not contain"), "{printed}");

    session.batch_execute("delete from sandmill.retained_versions; delete from sandmill.components").await.unwrap();
    let gone = fail(&database, &export).await;
    for part in [
        "of the plugin scripted, which failed, is neither in the plugins folder",
        "--plugin FILE",
        "--without-documents",
    ] {
        assert!(gone.contains(part), "{part}: {gone}");
    }
    let other = succeed(&database, &[&export[..], &["--plugin", text(&fixed)]].concat()).await;
    assert!(other.contains("fixed.wasm is another build than the one that failed"), "{other}");
    assert!(other.contains("  here       the plugin handled the event\n"), "{other}");
    let without = succeed(&database, &[&export[..], &["--without-documents"]].concat()).await;
    assert!(without.contains("  documents  left out\n"), "{without}");
    let original = fresh(&files, "original.wasm");
    std::fs::write(&original, version("scripted", TRAPPING[0])).unwrap();
    let (code, report, printed) = replay(&file, &original);
    assert_eq!((code, &report["outcome"]), (1, &json!("reproduced")), "{report:#}");
    assert!(printed.contains("note: the capsule has no documents"), "{printed}");

    session.batch_execute("delete from sandmill.events where position = 1").await.unwrap();
    let gone = fail(&database, &export).await;
    assert!(
        gone.contains("the event at position 1 is no longer in the store, so the failure cannot be exported"),
        "{gone}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_capsule_or_plugin_is_refused() {
    let (database, files, folder) = (database().await, tempfile::tempdir().unwrap(), trapping());
    database.append("acme", "s", &[json!({})]).await;
    run_in(&database, folder.path()).await;
    let file = fresh(&files, "failure.json");
    let export = ["dead-letters", "export", "scripted", "1", "--plugins", text(folder.path()), "--out", text(&file)];
    succeed(&database, &export).await;
    let good = std::fs::read_to_string(&file).unwrap();
    let refused = |content: &[u8], plugin: &str| {
        let file = fresh(&files, "unusable.json");
        std::fs::write(&file, content).unwrap();
        let (code, error, _) = replay(&file, &component(plugin));
        assert_eq!(code, 1);
        error.as_str().unwrap().to_string()
    };
    for (content, expected) in [
        ("{\"good\": true}".to_string(), "it is not a failure capsule\nName a file"),
        (good.replace("\"sandmillCapsule\": 1", "\"sandmillCapsule\": 9"), "it is a failure capsule of format 9, and"),
        (good[..good.len() / 2].to_string(), "it is a failure capsule whose end is missing\n"),
        (good.replace("\"cpu-ms\"", "\"cpu-mss\""), "its limits cannot be used here: unknown field `cpu-mss`"),
    ] {
        let error = refused(content.as_bytes(), "scripted");
        assert!(error.contains("unusable.json: ") && error.contains(expected), "{expected}: {error}");
    }
    let binary = std::fs::read(component("scripted")).unwrap();
    assert!(refused(&binary, "scripted").contains("it is not a failure capsule"));
    let other = refused(good.as_bytes(), "scripted-by-stream");
    assert!(other.contains("is the plugin `scripted-by-stream`, and the failure is one of `scripted`"), "{other}");
    assert!(refused(good.as_bytes(), "bad-descriptor").contains("does not run here"), "{other}");
}

/// The documents of the database, and the number of dead letters.
async fn contents(database: &Database) -> (Vec<String>, i64) {
    let session = database.db.connect("test").await.unwrap();
    let table = database.table("scripted_log").await;
    let rows = session.query(&format!("select data::text from {table} order by 1"), &[]).await.unwrap();
    let letters = session.query_one("select count(*) from sandmill.dead_letters", &[]).await.unwrap();
    (rows.iter().map(|row| row.get(0)).collect(), letters.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_tried_on_another_version_in_order_and_nothing_is_written() {
    let (database, files, folder) = (database().await, tempfile::tempdir().unwrap(), trapping());
    let skip = json!({"do": "skip", "code": "odd", "message": "not for me"});
    database.append("acme", "s", &[json!({}), json!({}), skip.clone(), json!({})]).await;
    database.append("globex", "s", &[json!({}), json!({"do": "trap", "message": "once more"})]).await;
    run_in(&database, folder.path()).await;
    let before = contents(&database).await;
    assert_eq!(before, (Vec::new(), 6));
    let fixed = fresh(&files, "fixed.wasm");
    std::fs::write(&fixed, version("scripted", GOOD[0])).unwrap();
    let retry = ["dead-letters", "retry", "scripted", "--with", text(&fixed), "--plugins", text(folder.path())];

    let tried = run(&database, &[&retry[..], &["--all", "--json"]].concat()).await;
    assert_eq!(tried.status.code(), Some(1), "{}", stderr(&tried));
    let lines: Vec<Value> = stdout(&tried).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &Value| format!("{} {} {}", line["position"], line["tenant"], line["outcome"]).replace('"', "");
    let expected =
        ["1 acme handled", "2 acme handled", "3 acme skipped", "4 acme handled", "5 globex handled", "6 globex failed"];
    assert_eq!(lines.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!((&lines[2]["class"], &lines[2]["was"]["class"]), (&json!("plugin:odd"), &json!("plugin:odd")));
    assert_eq!(lines[5]["was"]["class"], "trap");
    assert_eq!(lines[5]["changes"], json!({"total": 0, "first": []}));
    // Each letter is handled over the results of those before it, of its own tenant.
    let counts = |line: &Value| {
        let change = &line["changes"]["first"][0];
        let differences = change["differences"]["first"].as_array().unwrap();
        let count = differences.iter().find(|difference| difference["path"] == "/count");
        count.map_or(change["change"].clone(), |count| json!([count["before"], count["after"]]))
    };
    assert_eq!(
        [0, 1, 3, 4].map(|at| counts(&lines[at])),
        [json!("created"), json!(["1", "2"]), json!(["2", "3"]), json!("created")]
    );

    let text_of = stdout(&run(&database, &[&retry[..], &["--tenant", "acme"]].concat()).await);
    for part in [
        "1  tenant acme: would be handled\n  created scripted_log s\n    + {\"",
        "2  tenant acme: would be handled\n  changed scripted_log s\n    /chain: ",
        "3  tenant acme: would be skipped again: plugin:odd: not for me\n",
        "would handle 3 of 4 dead letters; nothing was written\nsettings and limits: ",
    ] {
        assert!(text_of.contains(part), "{part}: {text_of}");
    }
    let one = succeed(&database, &[&retry[..], &["1"]].concat()).await;
    assert!(one.contains("would handle 1 of 1 dead letter;"), "{one}");
    let limited = run(&database, &[&retry[..], &["--all", "--limit", "2"]].concat()).await;
    assert!(stderr(&limited).contains("only the 2 with the highest positions are handled"), "{}", stderr(&limited));
    let again = run(&database, &[&retry[..], &["6"]].concat()).await;
    assert!(stdout(&again).contains("6  tenant globex: would fail again: trap: "), "{}", stdout(&again));
    for filter in [&["--class", "cpu-limit"][..], &["1", "--class", "cpu-limit"]] {
        let none = fail(&database, &[&retry[..], filter].concat()).await;
        assert_eq!(none, "error: there are no dead letters with processor scripted, class cpu-limit\n", "{filter:?}");
    }
    assert_eq!(contents(&database).await, before);

    for unusable in [&["retry", "scripted", "--limit", "3"][..], &["retry", "scripted", "--with", text(&fixed)]] {
        let output = run(&database, &[&["dead-letters"], unusable].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
    let other = component("scripted-by-stream");
    let other = fail(&database, &["dead-letters", "retry", "scripted", "--all", "--with", text(&other)]).await;
    assert!(other.contains("is the plugin `scripted-by-stream`, and the failure is one of `scripted`"), "{other}");
}

/// The documents that a retry would change may have grown since, and a retry reads them.
#[tokio::test(flavor = "multi_thread")]
async fn a_what_if_reads_the_committed_documents_and_large_events() {
    let (database, folder) = (database().await, plugins(&["scripted"]));
    place(folder.path(), "scripted.toml", b"[failures.trap]\nthen = 'dead-letter'\n");
    // The second event passes at its second attempt, and is stored apart from its page.
    let large = json!({"do": "trap", "n": 2, "id": "x".repeat(200_000)});
    database.append("acme", "s", &[json!({}), large, json!({})]).await;
    run_in(&database, folder.path()).await;
    let retry =
        ["dead-letters", "retry", "scripted", "2", "--json", "--with", text(&component("scripted"))].map(String::from);
    let tried = succeed(&database, &retry.each_ref().map(String::as_str)).await;
    let tried: Value = serde_json::from_str(&tried).unwrap();
    assert_eq!((&tried["outcome"], &tried["changes"]["total"]), (&json!("handled"), &json!(1)), "{tried:#}");
    let differences = tried["changes"]["first"][0]["differences"]["first"].to_string();
    assert!(differences.contains(r#"{"after":"3","before":"2","path":"/count"}"#), "{differences}");
}

/// With required signatures, a version that is found must be signed. A file that someone names need
/// not be.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_a_tenants_own_plugin_is_found_and_its_signature_checked() {
    let (database, files) = (database().await, tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("acme");
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(component("scripted"), own.join("renamed.wasm")).unwrap();
    std::fs::write(own.join("renamed.toml"), "[settings]\nword = 'own-word'\n[limits]\nreads = 77\n").unwrap();
    let skip = json!({"do": "skip", "code": "odd"});
    database.append("acme", "s", &[json!({"do": "setting"}), skip]).await;
    run_in(&database, folder.path()).await;
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("delete from sandmill.retained_versions; delete from sandmill.components").await.unwrap();

    let (file, key) = (fresh(&files, "failure.json"), fresh(&files, "signing.key"));
    let made = succeed(&database, &["plugin", "key", text(&key)]).await;
    let required = format!("rollout.public-keys={}", made.trim());
    let export = ["dead-letters", "export", "acme/scripted", "2", "--plugins", text(folder.path()), "--set", &required];
    let export = [&export[..], &["--out", text(&file)]].concat();
    let unsigned = fail(&database, &export).await;
    assert!(unsigned.contains("renamed.wasm does not run here: ") && unsigned.contains("sign"), "{unsigned}");
    succeed(&database, &[&export[..], &["--plugin", text(&own.join("renamed.wasm"))]].concat()).await;
    succeed(&database, &["plugin", "sign", text(&own.join("renamed.wasm")), "--key", text(&key)]).await;
    let printed = succeed(&database, &export).await;
    assert!(printed.contains("1 document, and 0 that do not exist\n"), "{printed}");
    let capsule = read(&file);
    let plugin = &capsule["plugin"];
    assert_eq!((&plugin["name"], &plugin["limits"]["reads"]), (&json!("acme/renamed"), &json!(77)), "{plugin:#}");
    assert_eq!((&plugin["settings"], &capsule["processor"]), (&json!({"word": "own-word"}), &json!("acme/scripted")));
    let (code, report, _) = replay(&file, &component("scripted"));
    assert_eq!((code, &report["outcome"]), (1, &json!("reproduced")), "{report:#}");
}
