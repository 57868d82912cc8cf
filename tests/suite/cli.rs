// The command line's interface: help, colours, JSON, settings and exit codes. The exit codes of a
// second host (3) and of blocked lanes (4) are tested in `host` and `lanes`.

mod monitoring;

use std::process::{Command, Output};

use sandmill_tests::{
    Database, database, empty_database,
    host::{plugins, root, sandmill, stderr, stdout},
};
use serde_json::{Value, json};

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs a command on a database.
async fn run(address: &str, arguments: &[&str]) -> Output {
    let mut command = sandmill(address);
    command.args(arguments);
    output(command).await
}

/// The JSON lines that a command prints.
async fn lines(address: &str, arguments: &[&str]) -> Vec<Value> {
    let output = run(address, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The single JSON object that a command prints.
async fn object(address: &str, arguments: &[&str]) -> Value {
    let mut lines = lines(address, arguments).await;
    assert_eq!(lines.len(), 1, "{arguments:?}: {lines:?}");
    lines.remove(0)
}

/// Asserts that an object has exactly these keys.
fn assert_keys(value: &Value, keys: &[&str]) {
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    let found: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, expected, "{value}");
}

/// A database with a document of tenant `good` and a blocked lane of tenant `bad`.
async fn with_a_blocked_lane() -> Database {
    let database = database().await;
    database.append("bad", "s", &[json!({"do": "stop", "code": "closed", "message": "call \u{1b}[31mAnn"})]).await;
    database.append("good", "s", &[json!({})]).await;
    let folder = plugins(&["scripted"]);
    let folder = folder.path().to_str().unwrap();
    let ended = run(&database.address, &["run", "--until-caught-up", "--plugins", folder]).await;
    assert_eq!(ended.status.code(), Some(4), "{}", stderr(&ended));
    assert!(!stderr(&ended).contains('\u{1b}'), "{:?}", stderr(&ended));
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_commands_on_the_store_has_the_documented_keys() {
    let address = &empty_database().await.address;
    let migrated = object(address, &["migrate", "--ordering", "tenant", "--json"]).await;
    let keys = ["applied", "reanchored", "ordering", "maxEventBytes", "viewsSchema", "granted", "revoked"];
    assert_keys(&migrated, &keys);
    assert_eq!((&migrated["ordering"]["now"], &migrated["reanchored"]), (&json!("tenant"), &Value::Null));
    let repeated = object(address, &["migrate", "--json"]).await;
    let unchanged = keys.map(|key| (key.to_string(), if key == "applied" { json!([]) } else { Value::Null }));
    assert_eq!(repeated, Value::Object(unchanged.into_iter().collect()));
    let append = ["append", "--stream", "s", "--type", "T", "--data", "{}", "--id", "x", "--json"];
    assert_eq!(object(address, &append).await, json!({ "id": "x", "version": 1, "position": 1 }));
    let from_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(from_file.path(), r#"{"from": "file"}"#).unwrap();
    let at = format!("@{}", from_file.path().display());
    let append = ["append", "--stream", "f", "--type", "T", "--data", &at, "--metadata", &at, "--id", "y", "--json"];
    assert_eq!(object(address, &append).await, json!({ "id": "y", "version": 1, "position": 2 }));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"stream\":\"s\",\"type\":\"T\",\"data\":1}\n").unwrap();
    let imported = object(address, &["import", "--json", file.path().to_str().unwrap()]).await;
    assert_keys(&imported, &["imported", "repeated", "lines", "seconds"]);
    let events = lines(address, &["events", "--json"]).await;
    assert_eq!(events.len(), 3);
    assert_eq!((&events[1]["data"], &events[1]["metadata"]), (&json!({"from": "file"}), &json!({"from": "file"})));
    let keys = ["position", "tenant", "stream", "version", "type", "id", "recordedAt", "data", "metadata"];
    events.iter().for_each(|event| assert_keys(event, &keys));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_commands_on_processors_has_the_documented_keys() {
    let database = with_a_blocked_lane().await;
    let address = &database.address;
    let status = object(address, &["status", "--json"]).await;
    assert_keys(&status, &["host", "rejectedFiles", "replaced", "connection", "processors"]);
    let processor = &status["processors"][0];
    let keys = [
        "id",
        "plugin",
        "lagEvents",
        "lagEventsAtLeast",
        "lagSeconds",
        "unreadEvents",
        "rate",
        "handled",
        "paused",
        "measures",
        "deadLetters",
        "deadLettersAtLeast",
        "lastDeadLetter",
        "parkedStreams",
        "parkedEvents",
        "discarded",
        "shed",
        "lastShed",
        "held",
        "termError",
        "lanesCounted",
        "lanesBehind",
    ];
    assert_keys(processor, &keys);
    assert_keys(&processor["measures"], &["readMs", "commitMs", "commits", "hostMib", "instances", "logLinesLost"]);
    assert_keys(&processor["lanesCounted"], &["all", "blocked", "retrying", "paused", "catchingUp"]);
    let keys = ["tenant", "key", "state", "reason", "attempts", "eventPosition", "since"];
    assert_keys(&processor["lanesBehind"][0], &keys);
    let documents = lines(address, &["documents", "scripted_log", "--json"]).await;
    assert_eq!(documents.len(), 1);
    assert_keys(&documents[0], &["view", "tenant", "id", "version", "data"]);
    let processors = object(address, &["processors", "list", "--json"]).await;
    assert_keys(&processors, &["processors", "kept"]);
    let keys = ["id", "kind", "tenant", "plugin", "state", "collections"];
    assert_keys(&processors["processors"][0], &keys);
    assert_keys(&processors["processors"][0]["collections"][0], &["name", "view", "documents"]);
    for changed in [true, false] {
        let paused = object(address, &["pause", "scripted", "--tenant", "good", "--json"]).await;
        let expected = json!({ "processor": "scripted", "tenant": "good", "key": null, "changed": changed });
        assert_eq!(paused, expected);
    }
    object(address, &["pause", "scripted", "--json"]).await;
    let resumed = object(address, &["resume", "scripted", "--tenant", "good", "--json"]).await;
    assert_keys(&resumed, &["processor", "tenant", "key", "pausesLifted", "lanesResumed", "stillPaused"]);
    assert_eq!(resumed["pausesLifted"], json!(1));
    assert!(resumed["stillPaused"].as_str().unwrap().starts_with("by "), "{resumed}");
    let resumed = object(address, &["resume", "scripted", "--json"]).await;
    assert_eq!((&resumed["lanesResumed"], &resumed["stillPaused"]), (&json!(1), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_plugin_commands_has_the_documented_keys() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("door-watch");
    let created = object("", &["plugin", "new", "door-watch", "--json", "--dir", dir.to_str().unwrap()]).await;
    assert_keys(&created, &["dir", "files", "sdk"]);
    let (krate, out) = (root().join("example-plugins/route-performance"), folder.path().join("it.wasm"));
    let arguments = ["plugin", "build", krate.to_str().unwrap(), "--json", "-o", out.to_str().unwrap()];
    let built = object("", &arguments).await;
    assert_keys(&built, &["file", "package", "bytes", "seconds", "toolchain"]);
    assert_eq!((&built["file"], &built["package"]), (&json!(out), &json!("route-performance")));
    assert_eq!(built["bytes"], json!(std::fs::metadata(out).unwrap().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn config_print_shows_each_source_and_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("our.toml");
    std::fs::write(&file, "[limits]\ncpu-ms = 1\nwall-ms = 2222\n[processor]\npage-kib = 77\n").unwrap();
    let file = file.to_str().unwrap();
    let command = |arguments: &[&str]| {
        let mut command = sandmill("postgresql://ada:s3cret@db.example/flights");
        command.env("SANDMILL_LIMITS_CPU_MS", "345").args(["config", "print", "--config", file]);
        command.args(["--set", "limits.reads=9"]).args(arguments);
        output(command)
    };
    let printed = stdout(&command(&["--json"]).await);
    let settings: Value = serde_json::from_str(&printed).unwrap();
    let find = |key: &str| {
        let all = settings["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key} is missing")).clone()
    };
    for (key, value, origin) in [
        ("limits.changes", json!(20_000), json!({ "kind": "default" })),
        ("limits.wall-ms", json!(2_222), json!({ "kind": "file", "name": file })),
        ("limits.cpu-ms", json!(345), json!({ "kind": "environment", "name": "SANDMILL_LIMITS_CPU_MS" })),
        ("limits.reads", json!(9), json!({ "kind": "flag", "name": "--set" })),
    ] {
        let setting = find(key);
        assert_keys(&setting, &["key", "value", "default", "origin", "meaning"]);
        assert_eq!((&setting["value"], &setting["origin"]), (&value, &origin));
    }
    assert_eq!(find("limits.cpu-ms")["default"], json!(1_000));
    assert_eq!(find("database-url")["value"], json!("postgresql://ada:***@db.example/flights"));

    let table = stdout(&command(&["--changed"]).await);
    assert!(!table.contains("limits.changes") && !(printed + &table).contains("s3cret"), "{table}");
    let row = table.lines().find(|line| line.starts_with("limits.cpu-ms ")).unwrap();
    let words: Vec<&str> = row.split_whitespace().take(4).collect();
    assert_eq!(words, ["limits.cpu-ms", "345", "environment", "SANDMILL_LIMITS_CPU_MS"]);
    let flag = stdout(&command(&["--changed", "--database-url", "host=h password=s3cret"]).await);
    assert!(flag.contains("host=h password=***") && flag.contains("flag --database-url"), "{flag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn config_print_rejects_what_run_rejects_with_the_same_message() {
    for invalid in [
        &["--set", "limits.memory-mib=0"][..],
        &["--set", "limits.cpu=1"],
        &["--set", "log.format=yaml"],
        &["--config", "/nowhere.toml"],
        &["--database-url", "mysql://h/d"],
    ] {
        let (printed, ran) =
            (run("", &[&["config", "print"], invalid].concat()).await, run("", &[&["run"], invalid].concat()).await);
        assert_eq!((printed.status.code(), ran.status.code()), (Some(2), Some(2)), "{invalid:?}: {}", stderr(&ran));
        assert_eq!(stderr(&printed), stderr(&ran));
    }
}

/// A typo in `SANDMILL_LOG` must not silence the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_log_filter_is_rejected() {
    let config = |filter: &std::ffi::OsStr| {
        let mut command = sandmill("");
        command.env("SANDMILL_LOG", filter).args(["config", "print"]);
        output(command)
    };
    for (filter, problem) in [
        ("verbose", "`verbose` is not a level"),
        ("warn,sandmill::guest=loud", "`loud` is not a level"),
        ("sandmill::gest=debug", "`sandmill::gest` is not a part of the host; the nearest is sandmill::guest"),
        ("\u{1b}[2J", "`\u{fffd}[2J` is not a level"),
    ] {
        let output = config(filter.as_ref()).await;
        let errors = stderr(&output);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{filter}: {errors}");
        let allowed = "\nIt takes a level (off, error, warn, info, debug, trace), PART=LEVEL for one part of the host";
        assert!(errors.starts_with(&format!("error: variable SANDMILL_LOG: {problem}{allowed}")), "{errors}");
    }
    let bytes = std::os::unix::ffi::OsStrExt::from_bytes(b"inf\xff");
    assert_eq!(config(bytes).await.status.code(), Some(2));
    for filter in ["", "off", "Debug", "warn, sandmill::guest=info", "sandmill::plugins::reconciler=trace"] {
        let output = config(filter.as_ref()).await;
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_offer_visible_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run("", &["completions", shell]).await;
        let script = stdout(&output);
        for expected in ["until-caught-up", "documents", "migrate", "completions", "database-url"] {
            assert!(output.status.success() && script.contains(expected), "{shell}: {expected}");
        }
        assert!(!script.contains("compile-component"), "{shell}");
    }
}

/// The names of the commands on a help page, from the descriptions of a list of commands.
fn listed_commands(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let names = lines.filter_map(|line| line.split_once("  ")).map(|(name, _)| name);
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
    names.filter(is_name).map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_help_page_begins_with_an_example_and_fits_100_columns() {
    let help = stdout(&run("", &["--help"]).await);
    for expected in ["Exit codes:\n  0  done", "Events:\n", "Set up:\n", "\n  completions  "] {
        assert!(help.contains(expected), "{expected}: {help}");
    }
    let mut pages = vec![String::new()];
    for command in listed_commands(&help).into_iter().filter(|name| name != "help") {
        pages.push(command.clone());
        let help = stdout(&run("", &[&*command, "--help"]).await);
        let subcommands = help.split("\nCommands:\n").nth(1).and_then(|list| list.split("\n\n").next());
        let subcommands = listed_commands(subcommands.unwrap_or_default());
        pages.extend(subcommands.iter().filter(|name| *name != "help").map(|name| format!("{command} {name}")));
    }
    for expected in ["run", "explain", "plugins rollback", "processors remove", "config print", "plugin test"] {
        assert!(pages.iter().any(|page| page == expected), "{expected} is missing: {pages:?}");
    }
    for page in pages {
        let arguments: Vec<&str> = page.split_whitespace().chain(["--help"]).collect();
        let help = stdout(&run("", &arguments).await);
        let (opening, _) = help.split_once("\nUsage: ").unwrap_or_else(|| panic!("{page}: {help}"));
        let example = format!("sandmill {page}");
        assert!(opening.lines().skip(1).any(|line| line.contains(example.trim_end())), "{page}: {help}");
        assert!(page.is_empty() || help.contains("\nGlobal options:\n"), "{page}: {help}");
        // clap does not wrap the usage line.
        for line in help.lines().filter(|line| !line.starts_with("Usage: ")) {
            assert!(line.chars().count() <= 100, "{page}: over 100 columns: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_no_colours_and_no_escape_codes_of_plugins() {
    let database = with_a_blocked_lane().await;
    for arguments in [
        &["status"][..],
        &["status", "--wide"],
        &["documents", "scripted_log"],
        &["events"],
        &["config", "print"],
        &["pause", "nobody"],
        &["status", "--set", "x=1"],
        &["--help"],
        &["nothing"],
    ] {
        let output = run(&database.address, arguments).await;
        let printed = stdout(&output) + &stderr(&output);
        assert!(!printed.contains('\u{1b}') && !printed.is_empty(), "{arguments:?}: {printed:?}");
    }
    let status = stdout(&run(&database.address, &["status"]).await);
    assert!(status.contains("call \u{fffd}[31mAnn"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_documented_exit_code_and_a_remedy() {
    let (here, bare) = (database().await.address, empty_database().await.address);
    let nowhere = "postgresql://ada:s3cret@127.0.0.1:1/flights";
    let missing = bare.replace("dbname=", "dbname=no_such_");
    let append = ["append", "--stream", "s", "--type", "T", "--data"];
    let conflict = ["append", "--stream", "s", "--type", "T", "--data", "{}", "--expected-version", "7"];
    for (address, arguments, code, expected) in [
        (&*here, &["pause", "nobody"][..], 1, "none has run on this database yet; start one with `sandmill run"),
        (&here, &["pause", "No Body"], 2, "is not a valid processor id"),
        (&here, &["resume", "x", "--tenant", "a/b"], 2, "cannot be a tenant"),
        (&here, &["documents", "carts"], 1, "there is no collection `carts`"),
        (&here, &[&append[..], &["{"]].concat(), 2, "--data is not valid JSON"),
        (&here, &[&append[..], &["{}", "--metadata", "1"]].concat(), 2, "--metadata must be a JSON object"),
        (&here, &conflict, 5, "expected version 7; read it again and repeat the decision. Nothing was appended."),
        (&here, &["import", "/nowhere.ndjson"], 1, "cannot open /nowhere.ndjson"),
        (&here, &["run"], 2, "pass --plugins DIR"),
        (&bare, &["status"], 1, "Run `sandmill migrate` first."),
        (&bare, &["events", "--follow"], 1, "Run `sandmill migrate` first."),
        (nowhere, &["status"], 1, "cannot connect to the database flights at 127.0.0.1:1 as ada: "),
        (
            nowhere,
            &["run", "--until-caught-up", "--plugins", "."],
            1,
            "cannot connect to the database flights at 127.0.0.1:1 as ada: ",
        ),
        (nowhere, &["status"], 1, "that the server is running and listens there. `sandmill config print` shows"),
        (&missing, &["status"], 1, "Create the database, for example with `createdb`"),
        ("", &["status"], 2, "set DATABASE_URL="),
    ] {
        let output = run(address, arguments).await;
        let (errors, printed) = (stderr(&output), stdout(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
        assert!(printed.is_empty() && !errors.contains("s3cret"), "{printed}{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_privilege_is_reported_once_with_a_remedy() {
    let Database { db, address } = database().await;
    let session = db.connect("test").await.unwrap();
    let guest = "do $$ begin create role guest login; exception when duplicate_object then null; end $$";
    let rights = "grant usage on schema sandmill to guest; revoke create on schema public from public";
    session.batch_execute(&format!("{guest}; {rights}")).await.unwrap();
    for (command, problem, remedy) in [
        ("status", "permission denied", "Ask the owner of the tables to grant it"),
        ("migrate", "the role guest lacks rights", "grant usage, create on schema public to guest;"),
    ] {
        let output = run(&address.replace("user=sandmill", "user=guest"), &[command]).await;
        let errors = stderr(&output);
        assert_eq!((output.status.code(), errors.matches(problem).count()), (Some(1), 1), "{errors}");
        assert!(errors.contains(remedy), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_result_is_noted_on_standard_error() {
    let database = with_a_blocked_lane().await;
    for (arguments, expected) in [
        (&["events", "--tenant", "nobody"][..], "no matching events\n"),
        (&["documents", "scripted_log", "--tenant", "nobody", "--json"], "no matching documents in scripted_log\n"),
        (
            &["pause", "scripted", "--tenant", "typo", "--json"],
            "note: tenant typo has no events yet; check the spelling\n",
        ),
    ] {
        let output = run(&database.address, arguments).await;
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), expected));
    }
}
