// What is in the plugins folder is what runs: files that come, change, break, go and come back, while events are handled.

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
    host::{self, Host, Process, component, eventually, place, sandmill, stderr, stdout, version},
    ledger::{assert_log, documents, until_counted},
    random::Random,
};
use serde_json::{Value, json};

/// How many events of a stream which versions have handled, one after the other.
async fn versions(database: &Database, stream: &str) -> Vec<(String, i64)> {
    // Until a plugin has begun there is no such view.
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

/// What happened to a plugin, in order.
async fn past(database: &Database, plugin: &str) -> Vec<HistoryEntry> {
    let session = database.db.connect("test").await.unwrap();
    // Until a host has begun there are no such tables.
    let mut past = history::entries(&session, plugin, 100).await.unwrap_or_default();
    past.reverse();
    past
}

async fn events(database: &Database, plugin: &str) -> Vec<String> {
    past(database, plugin).await.into_iter().map(|past| past.event).collect()
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

/// A host whose first version has handled so many events.
async fn first_version(database: &Database, folder: &Path, events: usize) -> Host {
    first_version_with(database, folder, events, &[]).await
}

async fn first_version_with(database: &Database, folder: &Path, events: usize, settings: &[&str]) -> Host {
    put(folder, "V000001");
    let host = Host::start_in(database, folder, settings);
    append(database, "s", events).await;
    until_versions(database, "s", &[("V000001", events as i64)]).await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_takes_over_where_the_former_one_ended() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 3).await;
    put(folder.path(), "V000002");
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 2).await;
    until_versions(&database, "s", &[("V000001", 3), ("V000002", 2)]).await;
    // What was known then is completed when the first event has come.
    let swap = eventually("the swap's first event is known", async || {
        past(&database, "scripted").await.pop().filter(|past| past.first.is_some())
    })
    .await;
    assert_eq!((swap.replaced_last, swap.first), (Some(3), Some(4)));
    assert!(swap.gap_ms.is_some_and(|gap| gap >= 0.0));
    let started = &past(&database, "scripted").await[0];
    assert_eq!((started.event.as_str(), &started.digest), ("started", &swap.replaced));
    let listed = listed(&database, "scripted").await.unwrap();
    assert_eq!((listed.digest, listed.processor.as_str(), listed.refused), (swap.digest, "scripted", None));
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;

    // The next start runs what is there, from where it stands.
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[("V000001", 3), ("V000002", 3)]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why_and_leaves_the_former_one_running() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;

    // Half a file, as a copy under way leaves it, and then the rest.
    let whole = version("scripted", "V000002");
    fs::write(folder.path().join("scripted.wasm"), &whole[..whole.len() / 2]).unwrap();
    until_error(folder.path(), "scripted", Some("a damaged component")).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 2)]).await;
    let refused = listed(&database, "scripted").await.unwrap().refused.unwrap();
    assert!(refused.1.contains("a damaged component"), "{refused:?}");
    fs::write(folder.path().join("scripted.wasm"), &whole).unwrap();
    until_error(folder.path(), "scripted", None).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 2), ("V000002", 1)]).await;
    assert_eq!(events(&database, "scripted").await, ["started", "refused", "swapped"]);
    assert_eq!(listed(&database, "scripted").await.unwrap().refused, None);

    // What runs is put there once more after something that cannot: nothing is wrong any more, and nothing has changed.
    place(folder.path(), "scripted.wasm", b"no component");
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    place(folder.path(), "scripted.wasm", &whole);
    until_error(folder.path(), "scripted", None).await;
    eventually("nothing is refused", async || {
        listed(&database, "scripted").await.unwrap().refused.is_none().then_some(())
    })
    .await;
    assert_eq!(events(&database, "scripted").await, ["started", "refused", "swapped", "refused"]);

    // None of these is one, and none of them is in the way.
    fs::create_dir(folder.path().join("folder.wasm")).unwrap();
    std::os::unix::fs::symlink(component("plane-log"), folder.path().join("outside.wasm")).unwrap();
    fs::write(folder.path().join(".swp.wasm"), "x").unwrap();
    place(folder.path(), "twin.wasm", &version("scripted", "V000003"));
    place(folder.path(), "text.wasm", b"no component");
    until_error(folder.path(), "folder", Some("a directory")).await;
    until_error(folder.path(), "outside", Some("leads out of the plugins folder")).await;
    until_error(folder.path(), "twin", Some("claims the processor id scripted, which scripted.wasm already has")).await;
    until_error(folder.path(), "text", Some("not a WebAssembly component")).await;
    assert_eq!(error(folder.path(), ".swp"), None);
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 2), ("V000002", 2)]).await;
    // What is gone is nobody's mistake any more.
    for name in ["twin", "text"] {
        fs::remove_file(folder.path().join(format!("{name}.wasm"))).unwrap();
        until_error(folder.path(), name, None).await;
    }
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mended_plugin_gets_a_blocked_lane_going() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "T000001");
    let host = Host::start_in(&database, folder.path(), &[]);
    append(&database, "s", 3).await;
    eventually("the lane is blocked", async || {
        let status = database.status("scripted").await?;
        status.lanes_behind.iter().any(|lane| lane.state == "blocked").then_some(())
    })
    .await;
    // One that fails as well is no reason to go back: the lane was blocked before.
    put(folder.path(), "T000002");
    until_event(&database, "scripted", "swapped", 1).await;
    put(folder.path(), "V000003");
    until_versions(&database, "s", &[("V000003", 3)]).await;
    host.stop().await;
    assert_eq!(events(&database, "scripted").await, ["started", "swapped", "swapped"]);
    assert_log(&database, "scripted_log", "true").await;
}

/// A new version lets blocked lanes try again, but not past a pause: what somebody told to wait is not handled until they say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_mended_plugin_leaves_a_paused_lane_waiting() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "T000001");
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
    assert!(pauses::pause(&session, "scripted", Some("acme"), None).await.unwrap());
    put(folder.path(), "V000002");
    until_event(&database, "scripted", "swapped", 1).await;
    until_state("paused").await;
    assert_eq!(versions(&database, "s").await, []);
    assert_eq!(pauses::lift(&session, "scripted", Some("acme"), None).await.unwrap(), 1);
    until_versions(&database, "s", &[("V000002", 3)]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_right_after_its_swap_is_taken_back() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version_with(&database, folder.path(), 2, &["rollout.dry-run-events=0"]).await;
    put(folder.path(), "T000002");
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 2).await;
    // Taken back, and what it failed at is handled by the one before.
    until_versions(&database, "s", &[("V000001", 4)]).await;
    until_error(folder.path(), "scripted", Some("this version was taken back: blocked a lane and handled nothing"))
        .await;
    let back = past(&database, "scripted").await.into_iter().find(|past| past.event == "rolled-back").unwrap();
    assert!(back.reason.contains("trap"), "{back:?}");
    assert_eq!((back.first, back.lanes), (None, None), "it came over long ago");
    assert_eq!(listed(&database, "scripted").await.unwrap().digest, back.digest);
    // Another file is taken again.
    put(folder.path(), "V000003");
    append(&database, "s", 1).await;
    until_error(folder.path(), "scripted", None).await;
    until_event(&database, "scripted", "swapped", 2).await;
    append(&database, "s", 1).await;
    eventually("the third version handles events", async || {
        versions(&database, "s").await.last().filter(|(version, _)| version == "V000003").map(drop)
    })
    .await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

/// A version that fails while the one before it is still on trial leads back to the last that has proved itself.
#[tokio::test(flavor = "multi_thread")]
async fn two_bad_versions_lead_back_to_the_good_one() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version_with(&database, folder.path(), 2, &["rollout.dry-run-events=0"]).await;
    for (number, bad) in [(1, "T000002"), (2, "T000003")] {
        put(folder.path(), bad);
        until_event(&database, "scripted", "swapped", number).await;
    }
    append(&database, "s", 2).await;
    until_versions(&database, "s", &[("V000001", 4)]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

/// What cannot begin instead of what runs ends nothing: another id whose collection is not free, and more collections than are.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_begin_anew_leaves_the_former_one_running() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    // Another host's processor owns the documents that this one wants.
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
    until_versions(&database, "s", &[("V000001", 2)]).await;
    // It is asked again: nothing in the folder has to change for that.
    session.batch_execute("delete from sandmill.collections where processor = 'other'").await.unwrap();
    until_counted(&database, &["scripted_stream_log"]).await;
    until_error(folder.path(), "scripted", None).await;
    append(&database, "s", 1).await;
    until_counted(&database, &["scripted_stream_log"]).await;
    assert_eq!(versions(&database, "s").await, owned(&[("V000001", 2)]));
    host.stop().await;
}

async fn command(database: &Database, arguments: &[&str]) -> Result<String, String> {
    let mut command = sandmill(&database.address);
    command.arg("plugins").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    if output.status.success() { Ok(stdout(&output)) } else { Err(stderr(&output)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_take_a_version_back_and_let_it_run_again() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    let nothing = command(&database, &["rollback", "scripted"]).await.unwrap_err();
    assert!(nothing.contains("has run no other version"), "{nothing}");
    put(folder.path(), "V000002");
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1), ("V000002", 1)]).await;
    let told = command(&database, &["rollback", "scripted", "--reason", "prices are wrong"]).await.unwrap();
    assert!(told.contains("is taken back"), "{told}");
    until_event(&database, "scripted", "rolled-back", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1), ("V000002", 1), ("V000001", 1)]).await;
    until_error(folder.path(), "scripted", Some("this version was taken back: prices are wrong")).await;
    let json: Value = serde_json::from_str(&command(&database, &["--json"]).await.unwrap()).unwrap();
    let why = json["plugins"][0]["refused"]["why"].as_str().unwrap();
    assert!(why.contains("sandmill plugins retry scripted"), "{why}");
    let shown = command(&database, &["history", "scripted"]).await.unwrap();
    assert!(shown.contains("prices are wrong") && shown.contains("rolled-back"), "{shown}");

    command(&database, &["retry", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "swapped", 2).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1), ("V000002", 1), ("V000001", 1), ("V000002", 1)]).await;
    let unknown = command(&database, &["rollback", "nobody"]).await.unwrap_err();
    assert!(unknown.contains("there is no plugin nobody; there are: scripted"), "{unknown}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_go_and_change_their_names() {
    let database = database().await;
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("plugins");
    // There is none yet, and then an empty one.
    fs::create_dir(&folder).unwrap();
    let host = Host::start_in(&database, &folder, &[]);
    append(&database, "s", 1).await;
    put(&folder, "V000001");
    until_versions(&database, "s", &[("V000001", 1)]).await;
    // Another name is no other processor.
    fs::rename(folder.join("scripted.wasm"), folder.join("renamed.wasm")).unwrap();
    until_event(&database, "renamed", "renamed", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 2)]).await;
    // The folder goes, with all that is in it, and comes back.
    fs::rename(&folder, above.path().join("aside")).unwrap();
    until_event(&database, "renamed", "stopped", 1).await;
    append(&database, "s", 1).await;
    fs::rename(above.path().join("aside"), &folder).unwrap();
    until_versions(&database, "s", &[("V000001", 3)]).await;
    // Another folder takes its place.
    let other = above.path().join("other");
    fs::create_dir(&other).unwrap();
    place(&other, "renamed.wasm", &version("scripted", "V000002"));
    fs::rename(&folder, above.path().join("old")).unwrap();
    fs::rename(&other, &folder).unwrap();
    until_event(&database, "renamed", "swapped", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 3), ("V000002", 1)]).await;
    // A second plugin, beside it, and the first one goes.
    place(&folder, "by-stream.wasm", &fs::read(component("scripted-by-stream")).unwrap());
    until_counted(&database, &["scripted_stream_log"]).await;
    fs::remove_file(folder.join("renamed.wasm")).unwrap();
    until_event(&database, "renamed", "stopped", 2).await;
    append(&database, "s", 1).await;
    until_counted(&database, &["scripted_stream_log"]).await;
    assert_eq!(versions(&database, "s").await, owned(&[("V000001", 3), ("V000002", 1)]));
    host.stop().await;
    assert_log(&database, "scripted_stream_log", "true").await;
}

/// What an operator says beside the file: taken without the file being touched, and said where it is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_taken_like_a_change_of_the_file() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "V000001");
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
    // The other tenant's events are none of its business. A call gets no more events than it may, and
    // fewer where they cost much: on a busy machine they do now and then.
    let handled = async |events: i64| {
        let found =
            eventually("all events are handled", async || batch().await.filter(|found| found.0 == events)).await;
        assert_eq!(found.2, 1, "one document");
        found.1
    };
    assert!(handled(5).await <= 2);
    // A mistake leaves it as it was.
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
    eventually("the plugin is told what was set for it", async || {
        let documents = documents(&database, "scripted_log").await;
        let set = documents.get(&("acme".to_string(), "set".to_string()))?;
        (set["setting"] == "mug").then_some(())
    })
    .await;
    // Whoever comes begins where the processor stands.
    fs::remove_file(folder.path().join("scripted.toml")).unwrap();
    until_event(&database, "scripted", "restarted", 1).await;
    database.append("other", "later", &vec![json!({}); 3]).await;
    eventually("everybody's events are handled", async || (batch().await?.2 == 3).then_some(())).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "e.tenant = 'acme' or e.stream = 'later'").await;
}

/// One tenant's values reach that tenant alone, and no message shows one.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_settings_of_its_own_over_those_of_all() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let place = |manifest: &str| place(folder.path(), "scripted.toml", manifest.as_bytes());
    let host = first_version(&database, folder.path(), 1).await;
    let until_told = async |stream: &str, wanted: [(&str, Value); 2]| {
        for (tenant, word) in wanted {
            database.append(tenant, stream, &[json!({"do": "setting"})]).await;
            eventually(&format!("{tenant} is told {word}"), async || {
                let documents = documents(&database, "scripted_log").await;
                (documents.get(&(tenant.to_string(), stream.to_string()))?["setting"] == word).then_some(())
            })
            .await;
        }
    };
    let manifest = "[settings]\nword = 'mug'\n[tenants.globex.settings]\nword = 'GLOBEX-SECRET'";
    place(manifest);
    until_event(&database, "scripted", "swapped", 1).await;
    until_told("one", [("acme", json!("mug")), ("globex", json!("GLOBEX-SECRET"))]).await;
    // A changed manifest is taken like a changed plugin, and a mistake leaves all as it was.
    place("[tenants.globex.settings]\nword = 'OTHER-SECRET'");
    until_event(&database, "scripted", "swapped", 2).await;
    place(&manifest.replace("SECRET'", "SECRET"));
    until_error(folder.path(), "scripted", Some("line 4: ")).await;
    until_told("two", [("acme", Value::Null), ("globex", json!("OTHER-SECRET"))]).await;
    place(&format!("only-tenants = ['acme']\n{manifest}"));
    until_error(folder.path(), "scripted", Some("tenants.globex: only-tenants does not list globex")).await;
    // In a tenant's folder there is nobody else.
    fs::create_dir(folder.path().join("acme")).unwrap();
    host::place(&folder.path().join("acme"), "x.toml", manifest.as_bytes());
    host::place(&folder.path().join("acme"), "x.wasm", &version("scripted-by-stream", "V000001"));
    until_error(folder.path(), "acme/x", Some("put its settings under [settings]")).await;
    host.stop().await;
    let told = format!(
        "{:?} {:?} {:?}",
        past(&database, "scripted").await,
        past(&database, "acme/x").await,
        error(folder.path(), "scripted")
    );
    assert!(told.contains("line 4") && !told.contains("SECRET"), "{told}");
}

/// What lies in a tenant's folder is that tenant's alone, and two tenants may have versions of their own of one plugin.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_folder_is_its_own() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    for (tenant, mark) in [("acme", "V000001"), ("Globex.eu", "V000002")] {
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
    // Everybody's handles the events of tenants that have none of their own.
    put(folder.path(), "V000003");
    until("scripted_log", "other", r#"[["V000003", 2]]"#).await;
    place(&folder.path().join("acme"), "scripted.toml", b"tenants = ['other']");
    until_error(folder.path(), "acme/scripted", Some("a plugin in the folder acme is that tenant's alone")).await;
    fs::remove_dir_all(folder.path().join("acme")).unwrap();
    until_event(&database, "acme/scripted", "stopped", 1).await;
    until("scripted_log", "acme", r#"[["V000003", 2]]"#).await;
    host.stop().await;
    assert_eq!(of("scripted_log@acme", "Globex.eu").await, None);
    assert_log(&database, "scripted_log", "e.tenant <> 'Globex.eu'").await;
    assert_log(&database, "\"scripted_log@acme\"", "e.tenant = 'acme'").await;
    assert_log(&database, "\"scripted_log@Globex.eu\"", "e.tenant = 'Globex.eu'").await;
}

/// Where the settings name keys, only files run that one of them has signed as they are.
#[tokio::test(flavor = "multi_thread")]
async fn only_signed_plugins_run_where_that_is_asked_for() {
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
    assert_eq!(plugin(&["key", "secret"]).await, ours, "a key that is there is kept");
    assert_eq!(fs::metadata(folder.path().join("secret")).unwrap().permissions().mode() & 0o777, 0o600);
    put(folder.path(), "V000001");
    let keys = format!("rollout.public-keys={ours}");
    let host = Host::start_in(&database, folder.path(), &[&keys]);
    until_error(folder.path(), "scripted", Some("it has no signature")).await;
    let bytes = version("scripted", "V000001");
    place(folder.path(), "scripted.wasm.sig", theirs.sign(&bytes).as_bytes());
    until_error(folder.path(), "scripted", Some("no key in rollout.public-keys has signed these bytes")).await;
    assert_eq!(plugin(&["sign", "scripted.wasm", "--key", "secret"]).await, "scripted.wasm.sig");
    until_error(folder.path(), "scripted", None).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1)]).await;
    // Another file needs another signature, and until it has one the former goes on.
    put(folder.path(), "V000002");
    until_error(folder.path(), "scripted", Some("no key in rollout.public-keys has signed these bytes")).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 2)]).await;
    host.stop().await;
    // So it does after a start, but not without its key.
    append(&database, "s", 1).await;
    let other = format!("rollout.public-keys={}", theirs.public());
    let host = Host::start_in(&database, folder.path(), &[&other]);
    until_error(folder.path(), "scripted", Some("no key in rollout.public-keys has signed these bytes")).await;
    eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    host.stop().await;
    assert_eq!(versions(&database, "s").await, owned(&[("V000001", 2)]));
    let host = Host::start_in(&database, folder.path(), &[&keys]);
    until_versions(&database, "s", &[("V000001", 3)]).await;
    host.stop().await;
}

/// Many swaps and broken files while many tenants write: nothing is lost, repeated or reordered, and each stream's versions change once a swap at most.
#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_lose_and_repeat_nothing() {
    const SWAPS: usize = 12;
    const TENANTS: usize = 10;
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "V000000");
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
                until_event(&database, "scripted", "refused", swap / 3).await;
            }
            put(folder.path(), &format!("V{swap:06}"));
            until_event(&database, "scripted", "swapped", swap).await;
        }
    };
    let (rounds, ()) = tokio::join!(writing, swapping);
    until_counted(&database, &["scripted_log"]).await;
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
    for (lane, document) in documents(&database, "scripted_log").await {
        let versions: Vec<(String, i64)> = serde_json::from_value(document["versions"].clone()).unwrap();
        assert!(
            versions.is_sorted() && versions.iter().map(|(version, _)| version).is_sorted_by(|a, b| a < b),
            "{lane:?}: {versions:?}"
        );
        assert_eq!(versions.iter().map(|(_, events)| events).sum::<i64>(), 20 * rounds, "{lane:?}");
    }
    let seen: BTreeMap<String, ()> =
        past(&database, "scripted").await.into_iter().map(|past| (past.digest, ())).collect();
    assert!(seen.len() > SWAPS, "{}", seen.len());
}
