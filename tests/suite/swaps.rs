// Changes of the plugins folder while events are handled: a new version takes over, a bad one is
// rejected or rolled back, and no event is lost or handled twice.

mod away;
mod dry_runs;
mod ready;
mod recalls;
mod retained;
mod rollbacks;
mod starts;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use sandmill::{
    app::{self, Ended, Until},
    plugins::{
        history::{self, HistoryEntry, PluginStatus},
        signature::SecretKey,
    },
    processor::pauses,
};
use sandmill_tests::{
    Database, database,
    host::{
        self, GOOD, Host, Process, SPINNING, TRAPPING, component, eventually, place, sandmill, stderr, stdout, version,
    },
    ledger::{EVERY_EVENT, assert_log, documents, until_counted},
    random::Random,
};
use serde_json::{Value, json};

/// The versions that have handled a stream's events, in order, each with its number of events.
async fn versions(database: &Database, stream: &str) -> Vec<(String, i64)> {
    // The view does not exist before the plugin has started.
    let session = database.db.connect("test").await.unwrap();
    let sql = "select (data->'versions')::text from public.scripted_log where _partition = 'acme' and _id = $1";
    let Ok(Some(row)) = session.query_opt(sql, &[&stream]).await else { return Vec::new() };
    row.get::<_, Option<&str>>(0).map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default()
}

fn owned(versions: &[(&str, i64)]) -> Vec<(String, i64)> {
    versions.iter().map(|(version, events)| (version.to_string(), *events)).collect()
}

async fn append(database: &Database, stream: &str, events: usize) {
    database.append("acme", stream, &vec![json!({}); events]).await;
}

async fn until_versions(database: &Database, stream: &str, wanted: &[(&str, i64)]) {
    let wanted = owned(wanted);
    eventually(&format!("{stream} was handled by {wanted:?}"), async || {
        (versions(database, stream).await == wanted).then_some(())
    })
    .await;
}

async fn listed(database: &Database, plugin: &str) -> Option<PluginStatus> {
    let session = database.db.connect("test").await.unwrap();
    history::list(&session).await.ok()?.into_iter().find(|listed| listed.plugin == plugin)
}

/// A plugin's history, oldest first.
async fn entries(database: &Database, plugin: &str) -> Vec<HistoryEntry> {
    let session = database.db.connect("test").await.unwrap();
    // The tables do not exist before a host has started.
    let mut entries = history::entries(&session, plugin, 100).await.unwrap_or_default();
    entries.reverse();
    entries
}

async fn events(database: &Database, plugin: &str) -> Vec<String> {
    entries(database, plugin).await.into_iter().map(|entry| entry.event).collect()
}

async fn until_event(database: &Database, plugin: &str, wanted: &str, times: usize) {
    eventually(&format!("{plugin} was {wanted} {times} times"), async || {
        let events = events(database, plugin).await;
        (events.iter().filter(|event| *event == wanted).count() >= times).then_some(())
    })
    .await;
}

fn put(folder: &Path, mark: &str) {
    place(folder, "scripted.wasm", &version("scripted", mark));
}

fn error(folder: &Path, plugin: &str) -> Option<String> {
    fs::read_to_string(folder.join(format!("{plugin}.wasm.error"))).ok()
}

async fn until_error(folder: &Path, plugin: &str, wanted: Option<&str>) {
    eventually(&format!("the error beside {plugin} is {wanted:?}"), async || match (error(folder, plugin), wanted) {
        (None, None) => Some(()),
        (Some(error), Some(wanted)) => error.contains(wanted).then_some(()),
        _ => None,
    })
    .await;
}

/// A host whose first version has handled this many events.
async fn first_version(database: &Database, folder: &Path, events: usize) -> Host {
    first_version_with(database, folder, events, &[]).await
}

async fn first_version_with(database: &Database, folder: &Path, events: usize, settings: &[&str]) -> Host {
    put(folder, GOOD[1]);
    let host = Host::start_in(database, folder, settings);
    append(database, "s", events).await;
    until_versions(database, "s", &[(GOOD[1], events as i64)]).await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_continues_where_the_previous_one_stopped() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 3).await;
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 2).await;
    until_versions(&database, "s", &[(GOOD[1], 3), (GOOD[2], 2)]).await;
    // The entry is completed after the first event.
    let swap = eventually("the swap's first event is recorded", async || {
        entries(&database, "scripted").await.pop().filter(|entry| entry.first.is_some())
    })
    .await;
    assert_eq!((swap.replaced_last, swap.first), (Some(3), Some(4)));
    assert!(swap.gap_ms.is_some_and(|gap| gap >= 0.0));
    let started = &entries(&database, "scripted").await[0];
    assert_eq!((started.event.as_str(), &started.digest), ("started", &swap.replaced));
    let listed = listed(&database, "scripted").await.unwrap();
    assert_eq!((listed.digest, listed.processor.as_str(), listed.rejected), (swap.digest, "scripted", None));
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;

    // The next start runs the file from its cursor.
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 3), (GOOD[2], 3)]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_run_is_rejected_with_a_reason_and_the_version_before_keeps_running() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;

    // Half a file, as an unfinished copy leaves it, then the rest.
    let complete = version("scripted", GOOD[2]);
    fs::write(folder.path().join("scripted.wasm"), &complete[..complete.len() / 2]).unwrap();
    until_error(folder.path(), "scripted", Some("a damaged component")).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    let rejected = listed(&database, "scripted").await.unwrap().rejected.unwrap();
    assert!(rejected.1.contains("a damaged component"), "{rejected:?}");
    fs::write(folder.path().join("scripted.wasm"), &complete).unwrap();
    until_error(folder.path(), "scripted", None).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2), (GOOD[2], 1)]).await;
    assert_eq!(events(&database, "scripted").await, ["started", "rejected", "swapped"]);
    assert_eq!(listed(&database, "scripted").await.unwrap().rejected, None);

    // Half a file that was renamed into place is complete, and therefore rejected.
    place(folder.path(), "scripted.wasm", &complete[..complete.len() / 2]);
    until_error(folder.path(), "scripted", Some("a damaged component")).await;
    place(folder.path(), "scripted.wasm", &complete);
    until_error(folder.path(), "scripted", None).await;
    assert_eq!(events(&database, "scripted").await, ["started", "rejected", "swapped", "rejected"]);

    // A bad file is replaced by the file of the running version: the rejection is cleared, and
    // nothing is swapped.
    place(folder.path(), "scripted.wasm", b"no component");
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    place(folder.path(), "scripted.wasm", &complete);
    until_error(folder.path(), "scripted", None).await;
    eventually("nothing is refused", async || {
        listed(&database, "scripted").await.unwrap().rejected.is_none().then_some(())
    })
    .await;
    assert_eq!(events(&database, "scripted").await, ["started", "rejected", "swapped", "rejected", "rejected"]);

    // Each bad entry is rejected, and none affects the running plugin.
    fs::create_dir(folder.path().join("folder.wasm")).unwrap();
    std::os::unix::fs::symlink(component("plane-log"), folder.path().join("outside.wasm")).unwrap();
    fs::write(folder.path().join(".swp.wasm"), "x").unwrap();
    place(folder.path(), "twin.wasm", &version("scripted", GOOD[3]));
    place(folder.path(), "text.wasm", b"no component");
    until_error(folder.path(), "folder", Some("a directory")).await;
    until_error(folder.path(), "outside", Some("leads out of the plugins folder")).await;
    until_error(folder.path(), "twin", Some("claims the processor id scripted, which scripted.wasm already has")).await;
    until_error(folder.path(), "text", Some("not a WebAssembly component")).await;
    assert_eq!(error(folder.path(), ".swp"), None);
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2), (GOOD[2], 2)]).await;
    // The error file of a removed plugin is removed too.
    for name in ["twin", "text"] {
        fs::remove_file(folder.path().join(format!("{name}.wasm"))).unwrap();
        until_error(folder.path(), name, None).await;
    }
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_plugin_resumes_a_blocked_lane() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), TRAPPING[1]);
    let host = Host::start_in(&database, folder.path(), &[]);
    append(&database, "s", 3).await;
    eventually("the lane is blocked", async || {
        let status = database.status("scripted").await?;
        status.lanes_behind.iter().any(|lane| lane.state == "blocked").then_some(())
    })
    .await;
    // A second bad version is not rolled back: the lane was blocked before.
    put(folder.path(), TRAPPING[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    put(folder.path(), GOOD[3]);
    until_versions(&database, "s", &[(GOOD[3], 3)]).await;
    host.stop().await;
    assert_eq!(events(&database, "scripted").await, ["started", "swapped", "swapped"]);
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A swap retries blocked lanes, but not paused ones: those wait until the pause is lifted.
#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_plugin_leaves_a_paused_lane_waiting() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), TRAPPING[1]);
    let host = Host::start_in(&database, folder.path(), &[]);
    append(&database, "s", 3).await;
    let until_state = async |wanted: &str| {
        eventually(&format!("the lane is {wanted}"), async || {
            let status = database.status("scripted").await?;
            status.lanes_behind.iter().any(|lane| lane.state == wanted).then_some(())
        })
        .await;
    };
    until_state("blocked").await;
    let session = database.db.connect("test").await.unwrap();
    assert!(pauses::pause(&*session, "scripted", Some("acme"), None).await.unwrap());
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    until_state("paused").await;
    assert_eq!(versions(&database, "s").await, []);
    assert_eq!(pauses::lift(&*session, "scripted", Some("acme"), None).await.unwrap(), 1);
    until_versions(&database, "s", &[(GOOD[2], 3)]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_right_after_its_swap_is_rolled_back() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version_with(&database, folder.path(), 2, &["rollout.dry-run-events=0"]).await;
    put(folder.path(), TRAPPING[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 2).await;
    // The version before it handles the events on which it failed.
    until_versions(&database, "s", &[(GOOD[1], 4)]).await;
    until_error(folder.path(), "scripted", Some("this version was rolled back: blocked a lane and handled nothing"))
        .await;
    let back = entries(&database, "scripted").await.into_iter().find(|entry| entry.event == "rolled-back").unwrap();
    assert!(back.reason.contains("trap"), "{back:?}");
    assert_eq!((back.first, back.lanes), (None, None), "no figures for a version that ran before");
    assert_eq!(listed(&database, "scripted").await.unwrap().digest, back.digest);
    // Another file is swapped in.
    put(folder.path(), GOOD[3]);
    append(&database, "s", 1).await;
    until_error(folder.path(), "scripted", None).await;
    until_event(&database, "scripted", "swapped", 2).await;
    append(&database, "s", 1).await;
    eventually("the third version handles events", async || {
        versions(&database, "s").await.last().filter(|(version, _)| version == GOOD[3]).map(drop)
    })
    .await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A version that fails while the one before it is on trial is rolled back to the last trusted one.
#[tokio::test(flavor = "multi_thread")]
async fn two_bad_versions_are_rolled_back_to_the_good_one() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version_with(&database, folder.path(), 2, &["rollout.dry-run-events=0"]).await;
    for (number, bad) in [(1, TRAPPING[2]), (2, TRAPPING[3])] {
        put(folder.path(), bad);
        until_event(&database, "scripted", "swapped", number).await;
    }
    append(&database, "s", 2).await;
    until_versions(&database, "s", &[(GOOD[1], 4)]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A file with another processor id, whose collection belongs to a third processor.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_cannot_start_leaves_the_running_processor_alone() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    // Another processor owns the collection that the file lists.
    let session = database.db.connect("test").await.unwrap();
    let other = "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version) values ('other', 'other', '', '', '', 'tenant', 1)";
    session.batch_execute(other).await.unwrap();
    session
        .batch_execute("insert into sandmill.collections (name, processor, view) values ('scripted_stream_log', 'other', 'scripted_stream_log')")
        .await
        .unwrap();
    place(folder.path(), "scripted.wasm", &fs::read(component("scripted-by-stream")).unwrap());
    until_error(folder.path(), "scripted", Some("belongs to processor other")).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    // The start is retried although nothing in the folder changes.
    session.batch_execute("delete from sandmill.collections where processor = 'other'").await.unwrap();
    until_counted(&database, &["scripted_stream_log"]).await;
    until_error(folder.path(), "scripted", None).await;
    append(&database, "s", 1).await;
    until_counted(&database, &["scripted_stream_log"]).await;
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 2)]));
    host.stop().await;
}

async fn command(database: &Database, arguments: &[&str]) -> Result<String, String> {
    let mut command = sandmill(&database.address);
    command.arg("plugins").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    if output.status.success() { Ok(stdout(&output)) } else { Err(stderr(&output)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_rolls_a_version_back_and_retries_it() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    let nothing = command(&database, &["rollback", "scripted"]).await.unwrap_err();
    assert!(nothing.contains("no earlier version of"), "{nothing}");
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1)]).await;
    let shown = command(&database, &["rollback", "scripted", "--reason", "prices are wrong"]).await.unwrap();
    assert!(shown.contains("rolled back scripted from "), "{shown}");
    until_event(&database, "scripted", "rolled-back", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1), (GOOD[1], 1)]).await;
    until_error(folder.path(), "scripted", Some("this version was rolled back: prices are wrong")).await;
    let json: Value = serde_json::from_str(&command(&database, &["--json"]).await.unwrap()).unwrap();
    let why = json["plugins"][0]["rejected"]["reason"].as_str().unwrap();
    assert!(why.contains("sandmill plugins retry scripted"), "{why}");
    let shown = command(&database, &["history", "scripted"]).await.unwrap();
    assert!(shown.contains("prices are wrong") && shown.contains("rolled-back"), "{shown}");

    command(&database, &["retry", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "swapped", 2).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1), (GOOD[1], 1), (GOOD[2], 1)]).await;
    let unknown = command(&database, &["rollback", "nobody"]).await.unwrap_err();
    assert!(unknown.contains("there is no plugin nobody; known plugins: scripted"), "{unknown}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn added_removed_and_renamed_files_start_stop_and_keep_processors() {
    let database = database().await;
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("plugins");
    // An empty folder.
    fs::create_dir(&folder).unwrap();
    let host = Host::start_in(&database, &folder, &[]);
    append(&database, "s", 1).await;
    put(&folder, GOOD[1]);
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    // A renamed file keeps its processor.
    fs::rename(folder.join("scripted.wasm"), folder.join("renamed.wasm")).unwrap();
    until_event(&database, "renamed", "renamed", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    // The whole folder disappears and returns.
    fs::rename(&folder, above.path().join("aside")).unwrap();
    until_event(&database, "renamed", "stopped", 1).await;
    append(&database, "s", 1).await;
    fs::rename(above.path().join("aside"), &folder).unwrap();
    until_versions(&database, "s", &[(GOOD[1], 3)]).await;
    // Another folder replaces it.
    let other = above.path().join("other");
    fs::create_dir(&other).unwrap();
    place(&other, "renamed.wasm", &version("scripted", GOOD[2]));
    fs::rename(&folder, above.path().join("old")).unwrap();
    fs::rename(&other, &folder).unwrap();
    until_event(&database, "renamed", "swapped", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 3), (GOOD[2], 1)]).await;
    // A second plugin is added, and the first one removed.
    place(&folder, "by-stream.wasm", &fs::read(component("scripted-by-stream")).unwrap());
    until_counted(&database, &["scripted_stream_log"]).await;
    fs::remove_file(folder.join("renamed.wasm")).unwrap();
    until_event(&database, "renamed", "stopped", 2).await;
    append(&database, "s", 1).await;
    until_counted(&database, &["scripted_stream_log"]).await;
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 3), (GOOD[2], 1)]));
    host.stop().await;
    assert_log(&database, "scripted_stream_log", EVERY_EVENT).await;
}

/// A changed manifest takes effect although the component is unchanged, and a wrong one is
/// rejected.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest_is_reloaded_like_a_changed_file() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), GOOD[1]);
    place(folder.path(), "scripted.toml", b"max-batch-size = 2\ntenants = ['acme']");
    let host = Host::start_in(&database, folder.path(), &[]);
    let counting = vec![json!({"do": "count-batch"}); 5];
    database.append("other", "s", &counting).await;
    database.append("acme", "s", &counting).await;
    let batch = async || {
        let session = database.db.connect("test").await.unwrap();
        let sql = "select coalesce(max((data->>'count')::int8), 0), coalesce(max((data->>'batch')::int8), 0), count(*) from public.scripted_log";
        let row = session.query_one(sql, &[]).await.ok()?;
        Some((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)))
    };
    // A call gets at most `max-batch-size` events, and fewer on a busy machine, where they take
    // long.
    let handled = async |events: i64| {
        let found =
            eventually("all events are handled", async || batch().await.filter(|found| found.0 == events)).await;
        assert_eq!(found.2, 1, "one document");
        found.1
    };
    assert!(handled(5).await <= 2);
    // A wrong manifest changes nothing.
    place(folder.path(), "scripted.toml", b"max-batch-size = 2\n[limit]\ncpu-ms = 5");
    until_error(folder.path(), "scripted", Some("The nearest key is limits.")).await;
    place(folder.path(), "scripted.toml", b"max-batch-size = 4\ntenants = ['acme']\n[settings]\nword = 'mug'");
    until_error(folder.path(), "scripted", None).await;
    until_event(&database, "scripted", "swapped", 1).await;
    let mut events = 5;
    let larger = eventually("calls are larger", async || {
        database.append("acme", "s", &vec![json!({"do": "count-batch"}); 8]).await;
        events += 8;
        Some(handled(events).await).filter(|batch| *batch > 2)
    });
    assert!(larger.await <= 4);
    database.append("acme", "set", &[json!({"do": "setting"})]).await;
    eventually("the plugin reads its setting", async || {
        let documents = documents(&database, "scripted_log").await;
        let set = documents.get(&("acme".to_string(), "set".to_string()))?;
        (set["setting"] == "mug").then_some(())
    })
    .await;
    // An added tenant begins at the processor's cursor.
    fs::remove_file(folder.path().join("scripted.toml")).unwrap();
    until_event(&database, "scripted", "restarted", 1).await;
    database.append("other", "later", &vec![json!({}); 3]).await;
    eventually("all tenants' events are handled", async || (batch().await?.2 == 3).then_some(())).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "e.tenant = 'acme' or e.stream = 'later'").await;
}

/// A tenant's settings reach that tenant only, and no message shows them.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_settings_override_those_for_all_tenants() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let place = |manifest: &str| place(folder.path(), "scripted.toml", manifest.as_bytes());
    let host = first_version(&database, folder.path(), 1).await;
    let until_read = async |stream: &str, wanted: [(&str, Value); 2]| {
        for (tenant, word) in wanted {
            database.append(tenant, stream, &[json!({"do": "setting"})]).await;
            eventually(&format!("the plugin reads {word} for {tenant}"), async || {
                let documents = documents(&database, "scripted_log").await;
                (documents.get(&(tenant.to_string(), stream.to_string()))?["setting"] == word).then_some(())
            })
            .await;
        }
    };
    let manifest = "[settings]\nword = 'mug'\n[tenants.globex.settings]\nword = 'GLOBEX-SECRET'";
    place(manifest);
    until_event(&database, "scripted", "swapped", 1).await;
    until_read("one", [("acme", json!("mug")), ("globex", json!("GLOBEX-SECRET"))]).await;
    // A wrong manifest changes nothing.
    place("[tenants.globex.settings]\nword = 'OTHER-SECRET'");
    until_event(&database, "scripted", "swapped", 2).await;
    place(&manifest.replace("SECRET'", "SECRET"));
    until_error(folder.path(), "scripted", Some("line 4: ")).await;
    until_read("two", [("acme", Value::Null), ("globex", json!("OTHER-SECRET"))]).await;
    place(&format!("only-tenants = ['acme']\n{manifest}"));
    until_error(folder.path(), "scripted", Some("tenants.globex: only-tenants does not list globex")).await;
    // In a tenant's folder, settings of individual tenants are rejected.
    fs::create_dir(folder.path().join("acme")).unwrap();
    host::place(&folder.path().join("acme"), "x.toml", manifest.as_bytes());
    host::place(&folder.path().join("acme"), "x.wasm", &version("scripted-by-stream", GOOD[1]));
    until_error(folder.path(), "acme/x", Some("put its settings under [settings]")).await;
    host.stop().await;
    let shown = format!(
        "{:?} {:?} {:?}",
        entries(&database, "scripted").await,
        entries(&database, "acme/x").await,
        error(folder.path(), "scripted")
    );
    assert!(shown.contains("line 4") && !shown.contains("SECRET"), "{shown}");
}

/// A plugin in a tenant's folder handles that tenant's events only. Two tenants may have different
/// versions of one plugin.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_a_tenants_folder_handles_that_tenants_events_only() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    for (tenant, mark) in [("acme", GOOD[1]), ("Globex.eu", GOOD[2])] {
        fs::create_dir(folder.path().join(tenant)).unwrap();
        place(&folder.path().join(tenant), "scripted.wasm", &version("scripted", mark));
    }
    for tenant in ["acme", "Globex.eu", "other"] {
        database.append(tenant, "s", &[json!({}), json!({})]).await;
    }
    let of = async |view: &str, tenant: &str| {
        let session = database.db.connect("test").await.unwrap();
        let sql = format!("select (data->'versions')::text from public.\"{view}\" where _partition = $1");
        Some(session.query_opt(&sql, &[&tenant]).await.ok()??.get::<_, String>(0))
    };
    let until = async |view: &str, tenant: &str, wanted: &str| {
        eventually(&format!("{tenant}'s events are handled in {view}"), async || {
            (of(view, tenant).await? == wanted).then_some(())
        })
        .await;
    };
    until("scripted_log@acme", "acme", r#"[["V000001", 2]]"#).await;
    until("scripted_log@Globex.eu", "Globex.eu", r#"[["V000002", 2]]"#).await;
    // The shared plugin handles the events of tenants without their own plugin.
    put(folder.path(), GOOD[3]);
    until("scripted_log", "other", r#"[["V000003", 2]]"#).await;
    place(&folder.path().join("acme"), "scripted.toml", b"tenants = ['other']");
    until_error(folder.path(), "acme/scripted", Some("a plugin in the folder acme belongs to that tenant alone")).await;
    fs::remove_dir_all(folder.path().join("acme")).unwrap();
    until_event(&database, "acme/scripted", "stopped", 1).await;
    until("scripted_log", "acme", r#"[["V000003", 2]]"#).await;
    host.stop().await;
    assert_eq!(of("scripted_log@acme", "Globex.eu").await, None);
    assert_log(&database, "scripted_log", "e.tenant <> 'Globex.eu'").await;
    assert_log(&database, "\"scripted_log@acme\"", "e.tenant = 'acme'").await;
    assert_log(&database, "\"scripted_log@Globex.eu\"", "e.tenant = 'Globex.eu'").await;
}

/// If the settings name public keys, a file runs only with a valid signature of one of them.
#[tokio::test(flavor = "multi_thread")]
async fn only_signed_plugins_run_if_the_settings_require_it() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let theirs = SecretKey::of(&[2; 32]);
    let plugin = async |arguments: &[&str]| {
        let mut command = sandmill("");
        command.arg("plugin").args(arguments).current_dir(folder.path());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).trim().to_string()
    };
    let ours = plugin(&["key", "secret"]).await;
    assert_eq!(plugin(&["key", "secret"]).await, ours, "an existing key is kept");
    assert_eq!(fs::metadata(folder.path().join("secret")).unwrap().permissions().mode() & 0o777, 0o600);
    put(folder.path(), GOOD[1]);
    let keys = format!("rollout.public-keys={ours}");
    let host = Host::start_in(&database, folder.path(), &[&keys]);
    until_error(folder.path(), "scripted", Some("it has no signature")).await;
    let bytes = version("scripted", GOOD[1]);
    place(folder.path(), "scripted.wasm.sig", theirs.sign(&bytes).as_bytes());
    until_error(folder.path(), "scripted", Some("no key in rollout.public-keys has signed these bytes")).await;
    assert_eq!(plugin(&["sign", "scripted.wasm", "--key", "secret"]).await, "scripted.wasm.sig");
    until_error(folder.path(), "scripted", None).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    // Another file needs another signature. Until then the version before it keeps running.
    put(folder.path(), GOOD[2]);
    until_error(folder.path(), "scripted", Some("no key in rollout.public-keys has signed these bytes")).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    host.stop().await;
    // After a restart it still runs, but not without its key.
    append(&database, "s", 1).await;
    let other = format!("rollout.public-keys={}", theirs.public());
    let host = Host::start_in(&database, folder.path(), &[&other]);
    until_error(folder.path(), "scripted", Some("no key in rollout.public-keys has signed these bytes")).await;
    eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    host.stop().await;
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 2)]));
    let host = Host::start_in(&database, folder.path(), &[&keys]);
    until_versions(&database, "s", &[(GOOD[1], 3)]).await;
    host.stop().await;
}

/// Many swaps and broken files while many tenants append: no event is lost, repeated or reordered,
/// and each stream changes its version at most once per swap.
#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_lose_and_repeat_nothing() {
    const SWAPS: usize = 12;
    const TENANTS: usize = 10;
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), GOOD[0]);
    let host = Host::start_in(&database, folder.path(), &[]);
    until_event(&database, "scripted", "started", 1).await;
    let writing = async {
        let mut round = 0;
        loop {
            for tenant in 0..TENANTS {
                database.append(&format!("t{tenant}"), "s", &vec![json!({}); 20]).await;
            }
            round += 1;
            if events(&database, "scripted").await.iter().filter(|event| *event == "swapped").count() >= SWAPS {
                return round;
            }
        }
    };
    let swapping = async {
        for swap in 1..=SWAPS {
            if swap % 3 == 0 {
                fs::write(folder.path().join("scripted.wasm"), b"\0asm broken").unwrap();
                until_event(&database, "scripted", "rejected", swap / 3).await;
            }
            put(folder.path(), &format!("V{swap:06}"));
            until_event(&database, "scripted", "swapped", swap).await;
        }
    };
    let (rounds, ()) = tokio::join!(writing, swapping);
    until_counted(&database, &["scripted_log"]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
    for (lane, document) in documents(&database, "scripted_log").await {
        let versions: Vec<(String, i64)> = serde_json::from_value(document["versions"].clone()).unwrap();
        assert!(
            versions.is_sorted() && versions.iter().map(|(version, _)| version).is_sorted_by(|a, b| a < b),
            "{lane:?}: {versions:?}"
        );
        assert_eq!(versions.iter().map(|(_, events)| events).sum::<i64>(), 20 * rounds, "{lane:?}");
    }
    let seen: BTreeMap<String, ()> =
        entries(&database, "scripted").await.into_iter().map(|entry| (entry.digest, ())).collect();
    assert!(seen.len() > SWAPS, "{}", seen.len());
}
