// Bad entries of the plugins folder: links across tenants, unusable files, unreadable folders. Each
// is reported once with its path, and all other plugins run.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::Path,
};

use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};
use sandmill::{
    db::{
        Db,
        embedded::{Embedded, Options},
        migrate,
    },
    plugins::history::{self, PluginStatus},
};
use sandmill_tests::{
    Database, database,
    host::{GOOD, Host, Process, component, eventually, place, sandmill, stderr, stdout, version},
};
use serde_json::{Value, json};

async fn listed(database: &Database) -> Vec<PluginStatus> {
    let session = database.db.connect("test").await.unwrap();
    // The tables do not exist before a host has started.
    history::list(&session).await.unwrap_or_default()
}

/// Waits until exactly these plugins run.
async fn until_run(database: &Database, wanted: &[&str]) {
    eventually(&format!("{wanted:?} run"), async || {
        let listed = listed(database).await;
        let run: Vec<&str> = listed.iter().filter(|listed| listed.runs()).map(|listed| &*listed.plugin).collect();
        (run == wanted).then_some(())
    })
    .await;
}

/// The digest of the version that a plugin runs.
async fn digest(database: &Database, plugin: &str) -> Option<String> {
    listed(database).await.into_iter().find(|listed| listed.plugin == plugin && listed.runs()).map(|it| it.digest)
}

async fn until_another(database: &Database, plugin: &str, than: &str) -> String {
    eventually(&format!("another version of {plugin} runs"), async || {
        digest(database, plugin).await.filter(|now| now != than)
    })
    .await
}

/// Waits until a plugin is rejected for a reason.
async fn until_rejected(database: &Database, plugin: &str, wanted: &str) {
    eventually(&format!("{plugin} is rejected: {wanted}"), async || {
        let listed = listed(database).await.into_iter().find(|listed| listed.plugin == plugin)?;
        listed.rejected.filter(|(_, reason, _)| reason.contains(wanted)).map(drop)
    })
    .await;
}

/// The problems that `sandmill plugins --json` lists, each with its path.
async fn not_run(database: &Database) -> Vec<(String, String)> {
    let mut command = sandmill(&database.address);
    command.args(["plugins", "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_string();
    let entries = shown["notRun"].as_array().unwrap();
    assert!(entries.iter().all(|entry| !text(entry, "remedy").is_empty()), "{shown}");
    entries.iter().map(|entry| (text(entry, "path"), text(entry, "problem"))).collect()
}

async fn until_not_run(database: &Database, wanted: &[(&str, &str)]) {
    eventually(&format!("the listed problems are {wanted:?}"), async || {
        let found = not_run(database).await;
        let same = found.len() == wanted.len()
            && found
                .iter()
                .zip(wanted)
                .all(|((path, problem), (at, begins))| path == at && problem.starts_with(begins));
        same.then_some(())
    })
    .await;
}

fn tenant(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// The lines of a log that contain all of these texts.
fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_code_and_settings_are_not_read_through_links() {
    let database = database().await;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (acme, mallory) = (tenant(folder.path(), "acme"), tenant(folder.path(), "mallory"));
    place(&acme, "pay.wasm", &version("scripted", GOOD[1]));
    place(&acme, "pay.toml", b"[settings]\nsecret = 'acme only'");
    place(&mallory, "own.wasm", &fs::read(component("scripted-by-stream")).unwrap());
    symlink("../acme/pay.wasm", mallory.join("stolen.wasm")).unwrap();
    symlink("../acme/pay.toml", mallory.join("own.toml")).unwrap();
    // Links in the places of error files lead to a file of the operator's.
    let precious = outside.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    for name in ["stolen.wasm.error", ".stolen.wasm.error.unfinished", ".mallory-stolen.error"] {
        symlink(&precious, mallory.join(name)).unwrap();
    }
    // Links to the whole folder, to another tenant's folder, and from the shared plugins to a
    // tenant's code.
    symlink(".", folder.path().join("selfdir")).unwrap();
    symlink("acme", folder.path().join("eve")).unwrap();
    symlink("acme/pay.wasm", folder.path().join("shared.wasm")).unwrap();

    let host = Host::start_in(&database, folder.path(), &[]);
    let out = "a link that leads out of its tenant's folder";
    until_rejected(&database, "mallory/stolen", out).await;
    until_rejected(&database, "mallory/own", "own.toml: a link that leads out of its tenant's folder").await;
    until_rejected(&database, "shared", "a link into the folder `acme`").await;
    until_run(&database, &["acme/pay"]).await;
    let not = "not read as a tenant's folder: a link to a folder";
    until_not_run(&database, &[("eve", not), ("selfdir", not)]).await;
    // The link was replaced by an error file, which shows nothing of the other tenant.
    let error = mallory.join("stolen.wasm.error");
    let reason = eventually("the reason is beside the link", async || {
        fs::symlink_metadata(&error).unwrap().is_file().then(|| fs::read_to_string(&error).unwrap())
    })
    .await;
    assert!(reason.starts_with(out) && !reason.contains("acme"), "{reason}");

    // Without the links, mallory's own plugin runs.
    fs::remove_file(mallory.join("stolen.wasm")).unwrap();
    fs::remove_file(mallory.join("own.toml")).unwrap();
    until_run(&database, &["acme/pay", "mallory/own"]).await;
    eventually("the error file is removed", async || (!error.exists()).then_some(())).await;
    host.stop().await;
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

/// The layout of a Kubernetes volume, for shared plugins and for a tenant's: visible names are
/// links, and an update replaces `..data`.
#[tokio::test(flavor = "multi_thread")]
async fn an_updated_kubernetes_volume_swaps_its_plugins() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let acme = tenant(folder.path(), "acme");
    let exchange = |folder: &Path, name: &str, day: &str, bytes: &[u8]| {
        place(&tenant(folder, day), name, bytes);
        symlink(day, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    exchange(folder.path(), "scripted.wasm", "..2026_11_28", &version("scripted", GOOD[1]));
    exchange(&acme, "own.wasm", "..2026_11_28", &version("scripted-by-stream", GOOD[1]));
    symlink("..data/scripted.wasm", folder.path().join("scripted.wasm")).unwrap();
    symlink("..data/own.wasm", acme.join("own.wasm")).unwrap();
    let host = Host::start_in(&database, folder.path(), &[]);
    until_run(&database, &["acme/own", "scripted"]).await;
    let first = (digest(&database, "scripted").await.unwrap(), digest(&database, "acme/own").await.unwrap());
    exchange(folder.path(), "scripted.wasm", "..2026_11_29", &version("scripted", GOOD[2]));
    until_another(&database, "scripted", &first.0).await;
    exchange(&acme, "own.wasm", "..2026_11_29", &version("scripted-by-stream", GOOD[2]));
    until_another(&database, "acme/own", &first.1).await;
    until_run(&database, &["acme/own", "scripted"]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_entry_is_reported_once_and_the_others_run() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let acme = tenant(folder.path(), "acme");
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    // A file that is no component, with a folder in the place of its error file; a pipe; a folder;
    // a folder in the place of a manifest.
    place(folder.path(), "bad.wasm", b"no component");
    fs::create_dir_all(path("bad.wasm.error/x")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path("pipe.wasm")).status().unwrap().success());
    fs::create_dir(path("folder.wasm")).unwrap();
    place(folder.path(), "red.wasm", &fs::read(component("plane-log")).unwrap());
    fs::create_dir(path("red.toml")).unwrap();
    // Misnamed and misplaced files.
    place(folder.path(), "X.WASM", b"");
    place(folder.path(), "lonely.toml", b"");
    fs::create_dir_all(path("no tenant")).unwrap();
    place(&path("no tenant"), "a.wasm", b"");
    fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"r\xe9d.wasm")), "").unwrap();
    place(&tenant(&acme, "deeper"), "a.wasm", b"");
    // A link by which a tenant could make the host watch the whole file system.
    symlink("/usr", acme.join("everything")).unwrap();

    let host = Process::start(&database, folder.path(), &[]);
    until_run(&database, &["scripted"]).await;
    let rejected = [
        ("bad", "not a WebAssembly component"),
        ("folder", "a directory and not a file"),
        ("pipe", "a pipe, socket or device"),
        ("red", "its manifest red.toml: a directory"),
    ];
    for (plugin, reason) in rejected {
        until_rejected(&database, plugin, reason).await;
    }
    let problems = [
        ("X.WASM", "its extension is not in lower case"),
        ("acme/deeper", "folders in a tenant's folder are not read"),
        ("bad.wasm.error", "a folder where the host writes why bad.wasm does not run"),
        ("lonely.toml", "a manifest without its component, lonely.wasm"),
        ("no tenant", "this folder is not read, because no tenant can have its name"),
        ("r\\xe9d.wasm", "its name is not printable UTF-8"),
    ];
    until_not_run(&database, &problems).await;
    let mut command = sandmill(&database.address);
    let shown = tokio::task::spawn_blocking(move || command.arg("plugins").output()).await.unwrap().unwrap();
    let line = "plugins folder: X.WASM: its extension is not in lower case; rename it to X.wasm\n";
    assert!(stdout(&shown).contains(line), "{}", stdout(&shown));

    // Each change causes another scan, which finds the same problems.
    let mut running = digest(&database, "scripted").await.unwrap();
    for change in 2..=5 {
        place(folder.path(), "scripted.wasm", &version("scripted", &format!("V{change:06}")));
        running = until_another(&database, "scripted", &running).await;
    }
    let log = host.log();
    for (plugin, reason) in rejected {
        let logged = lines(&log, &[&format!("{plugin}.wasm"), "rejected", reason]);
        assert_eq!(logged.len(), 1, "{plugin}: {logged:?}");
    }
    for (path, problem) in problems {
        // The log escapes backslashes.
        let logged = lines(&log, &[&path.replace('\\', "\\\\"), problem]);
        assert_eq!(logged.len(), 1, "{path}: {logged:?}");
    }
    assert_eq!(host.watches(), 2, "the plugins folder and that of acme are watched, without subfolders");

    // Fixed entries are no longer listed.
    fs::rename(path("X.WASM"), path("x.wasm")).unwrap();
    fs::remove_dir_all(path("no tenant")).unwrap();
    fs::remove_file(path("lonely.toml")).unwrap();
    until_not_run(&database, &[problems[1], problems[2], problems[5]]).await;
}

/// A database on its own server, whose socket any user may use.
async fn open_database() -> (Embedded, Database) {
    let server = Embedded::start(Options::default()).await.unwrap();
    let address = server.address();
    let log = server.log();
    let run = log.parent().unwrap();
    for (path, mode) in [(run.to_path_buf(), 0o711), (run.join(".s.PGSQL.5432"), 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let database = Database { db: Db::parse(&address).unwrap(), address };
    migrate::migrate(&mut database.db.connect("test").await.unwrap()).await.unwrap();
    (server, database)
}

/// Root can read everything, so if root runs the tests, the host runs without that capability.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_folder_keeps_its_plugins_running_and_affects_no_other() {
    let under: &[&str] = match geteuid().is_root() {
        true => &["setpriv", "--bounding-set", "-dac_override,-dac_read_search"],
        false => &[],
    };
    let (_server, database) = open_database().await;
    let folder = tempfile::tempdir().unwrap();
    let acme = tenant(folder.path(), "acme");
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    place(&acme, "own.wasm", &version("scripted-by-stream", GOOD[1]));
    let mode = |mode: u32| fs::set_permissions(&acme, fs::Permissions::from_mode(mode)).unwrap();
    let host = Process::start_under(under, &database, folder.path(), &[]);
    until_run(&database, &["acme/own", "scripted"]).await;
    let own = digest(&database, "acme/own").await.unwrap();
    let mut running = digest(&database, "scripted").await.unwrap();

    mode(0o000);
    let unread = [("acme", "this folder cannot be read; its plugins keep running: Permission denied")];
    until_not_run(&database, &unread).await;
    for change in 2..=4 {
        place(folder.path(), "scripted.wasm", &version("scripted", &format!("V{change:06}")));
        running = until_another(&database, "scripted", &running).await;
    }
    database.append("acme", "s", &[json!({})]).await;
    eventually("acme's plugin still handles events", async || {
        let status = listed(&database).await.into_iter().find(|listed| listed.plugin == "acme/own")?.processor;
        (database.status(&status).await?.handled >= 1).then_some(())
    })
    .await;
    assert_eq!(digest(&database, "acme/own").await, Some(own.clone()));
    let log = host.log();
    assert_eq!(lines(&log, &["acme", "cannot be read"]).len(), 1, "{log}");
    drop(host);

    // A start runs the readable plugins and keeps the records of the others.
    let host = Process::start_under(under, &database, folder.path(), &[]);
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[5]));
    until_another(&database, "scripted", &running).await;
    until_not_run(&database, &unread).await;
    assert!(listed(&database).await.iter().any(|listed| listed.plugin == "acme/own" && listed.digest == own));
    mode(0o755);
    until_run(&database, &["acme/own", "scripted"]).await;
    until_not_run(&database, &[]).await;
    // A file that cannot be read does not count as removed either.
    let file = acme.join("own.wasm");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    until_rejected(&database, "acme/own", "it cannot be read: Permission denied").await;
    until_run(&database, &["acme/own", "scripted"]).await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    eventually("nothing is rejected", async || {
        listed(&database).await.iter().all(|listed| listed.rejected.is_none()).then_some(())
    })
    .await;
    drop(host);
}

/// The files of an unreadable folder may still exist. So the shared processor does not handle the
/// events of a tenant whose own processor last ran from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_unreadable_at_a_start_keeps_its_tenants_events() {
    let under: &[&str] = match geteuid().is_root() {
        true => &["setpriv", "--bounding-set", "-dac_override,-dac_read_search"],
        false => &[],
    };
    let (_server, database) = open_database().await;
    let folder = tempfile::tempdir().unwrap();
    let acme = tenant(folder.path(), "acme");
    place(&acme, "own.wasm", &version("scripted", GOOD[1]));
    let host = Process::start_under(under, &database, folder.path(), &[]);
    until_run(&database, &["acme/own"]).await;
    database.append("acme", "s", &[json!({})]).await;
    database.settles("acme/scripted", &[]).await;
    drop(host);
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[2]));
    fs::set_permissions(&acme, fs::Permissions::from_mode(0o000)).unwrap();
    let host = Process::start_under(under, &database, folder.path(), &[]);
    database.append("acme", "s", &[json!({})]).await;
    database.append("globex", "s", &[json!({})]).await;
    database.settles("scripted", &[]).await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 1, "globex's event");
    fs::set_permissions(&acme, fs::Permissions::from_mode(0o755)).unwrap();
    database.settles("acme/scripted", &[]).await;
    assert_eq!(database.status("acme/scripted").await.unwrap().handled, 2);
    assert_eq!(database.status("scripted").await.unwrap().handled, 1);
    fs::remove_file(acme.join("own.wasm")).unwrap();
    eventually("the shared processor handles acme's events", async || {
        (database.status("scripted").await?.handled == 3).then_some(())
    })
    .await;
    drop(host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_short_of_file_descriptors_keeps_its_plugins_running_and_reloads_later() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    let host = Process::start(&database, folder.path(), &["rollout.poll-ms=1"]);
    until_run(&database, &["scripted"]).await;
    let running = digest(&database, "scripted").await.unwrap();
    // Open descriptors stay open, and no new one can be opened.
    let pid = Pid::from_raw(host.id() as i32);
    let before = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[2]));
    let words = ["cannot be read", "Too many open files"];
    eventually("the shortage is reported", async || (!lines(&host.log(), &words).is_empty()).then_some(())).await;
    // The host keeps scanning in the meantime.
    for _ in 0..200 {
        assert_eq!(digest(&database, "scripted").await.as_ref(), Some(&running));
    }
    prlimit(pid, Resource::Nofile, before).unwrap();
    until_another(&database, "scripted", &running).await;
    until_not_run(&database, &[]).await;
    let log = host.log();
    assert_eq!(lines(&log, &words).len(), 1, "{log}");
    assert_eq!(listed(&database).await[0].rejected, None);
}
