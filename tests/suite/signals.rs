// Signals, which end every command no matter what it is doing. Nothing that the command started
// stays behind.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sandmill::cluster::host_lock::HostLock;
use sandmill_tests::{
    Database, database, empty_database,
    host::{self, component, eventually, plugins, sandmill},
};

/// The exit code of a command that SIGTERM ended before it was done.
const TERMINATED: Option<i32> = Some(143);

/// A program that never ends and writes its process id to a file.
fn endless_program(folder: &Path, name: &str) -> String {
    let (path, pid) = (folder.join(name), folder.join("pid"));
    // A child that keeps the pipes open, as compilers have.
    let script = format!("#!/bin/sh\n/bin/sleep 3600 &\necho $$ > {0}.new\n/bin/mv {0}.new {0}\nwait\n", pid.display());
    host::script(&path, &script);
    path.display().to_string()
}

/// Waits until that program runs.
async fn until_running(folder: &Path) -> Pid {
    eventually("the program runs", async || {
        let pid = fs::read_to_string(folder.join("pid")).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    })
    .await
}

async fn until_gone(pid: Pid) {
    eventually("the program is gone", async || test_kill_process(pid).is_err().then_some(())).await;
}

async fn ended(child: &mut Child) -> ExitStatus {
    eventually("the command has ended", async || child.try_wait().unwrap()).await
}

async fn terminated(child: &mut Child) -> Option<i32> {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    ended(child).await.code()
}

fn run(database: &Database, folder: &Path, settings: &[String]) -> Command {
    let mut command = sandmill(&database.address);
    command.args(["run", "--plugins"]).arg(folder).stderr(Stdio::null());
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

/// The host kills a compiler that never ends, and leaves none of its files.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_host_that_compiles() {
    let database = database().await;
    for (arguments, code) in [(&[][..], Some(0)), (&["--until-caught-up"], TERMINATED)] {
        let (folder, work, cache) =
            (plugins(&["scripted"]), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let settings = [
            format!("compile.worker={}", endless_program(work.path(), "compiler")),
            format!("compile.cache={}", cache.path().display()),
        ];
        let mut host = run(&database, folder.path(), &settings).args(arguments).spawn().unwrap();
        let compiler = until_running(work.path()).await;
        assert_eq!(terminated(&mut host).await, code, "{arguments:?}");
        until_gone(compiler).await;
        let names = |folder: &Path| -> Vec<String> {
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names(cache.path()), ["key"], "no compiled code, not even a part");
        assert_eq!(names(folder.path()), ["scripted.wasm"], "no error file beside it");
        eventually("the lock is free", async || HostLock::acquire(&database.db, Default::default()).await.ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_signals_end_a_host_that_compiles() {
    let (database, work) = (database().await, tempfile::tempdir().unwrap());
    let folder = plugins(&["scripted"]);
    let settings = [
        format!("compile.worker={}", endless_program(work.path(), "compiler")),
        format!("compile.cache={}", work.path().join("cache").display()),
    ];
    let mut host = run(&database, folder.path(), &settings).spawn().unwrap();
    let compiler = until_running(work.path()).await;
    let pid = Pid::from_child(&host);
    for _ in 0..2 {
        let _ = kill_process(pid, Signal::TERM);
    }
    // The signals may arrive as one, or after the host has ended in order.
    assert!([Some(0), TERMINATED].contains(&ended(&mut host).await.code()));
    until_gone(compiler).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_host_that_waits_for_another_host() {
    let database = database().await;
    let holder = HostLock::acquire(&database.db, Default::default()).await.unwrap();
    let folder = plugins(&["scripted"]);
    let mut host = run(&database, folder.path(), &[]).spawn().unwrap();
    let session = database.db.connect("test").await.unwrap();
    // Its session for the lock exists, so it polls the lock.
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'sandmill host'";
    eventually("it waits for the lock", async || {
        (session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    assert_eq!(terminated(&mut host).await, Some(0));
    holder.ensure().await.unwrap();
}

/// A migration of a host or of `sandmill migrate`. Nothing waits in the database afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_cancels_a_migration_that_waits_for_a_lock() {
    let database = empty_database().await;
    let session = database.db.connect("test").await.unwrap();
    // The lock of migrations; its key is ASCII text.
    session.execute("select pg_advisory_lock(x'73616e646d696c6c'::bigint)", &[]).await.unwrap();
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let waiting = async |wanted: i64| {
        eventually(&format!("{wanted} sessions wait for a lock"), async || {
            (session.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == wanted).then_some(())
        })
        .await;
    };
    let folder = plugins(&["scripted"]);
    let mut migrate = sandmill(&database.address);
    migrate.arg("migrate");
    for (mut command, code) in [(run(&database, folder.path(), &[]), Some(0)), (migrate, TERMINATED)] {
        let mut child = command.spawn().unwrap();
        waiting(1).await;
        assert_eq!(terminated(&mut child).await, code);
        waiting(0).await;
    }
}

/// The server accepts connections and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_command_that_waits_for_the_database() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("postgresql://ada@{}/flights?sslmode=disable", listener.local_addr().unwrap());
    let folder = plugins(&["scripted"]);
    let run = ["run", "--plugins", folder.path().to_str().unwrap()];
    for arguments in [&run[..], &["status"], &["migrate"]] {
        let mut child = sandmill(&address).args(arguments).spawn().unwrap();
        let _connection = listener.accept().await.unwrap();
        assert_eq!(terminated(&mut child).await, TERMINATED, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_an_import_that_waits_for_input() {
    let database = database().await;
    let mut import = sandmill(&database.address).args(["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let session = database.db.connect("test").await.unwrap();
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'sandmill import'";
    eventually("it is connected", async || {
        (session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    assert_eq!(terminated(&mut import).await, TERMINATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_programs_that_plugin_commands_started() {
    let krate = tempfile::tempdir().unwrap();
    fs::write(krate.path().join("Cargo.toml"), "[package]\nname = \"p\"\nversion = \"0.1.0\"\n").unwrap();
    let (scripted, events) = (component("scripted"), krate.path().join("events.ndjson"));
    fs::write(&events, "").unwrap();
    let (scripted, events) = (scripted.to_str().unwrap(), events.to_str().unwrap());
    for (arguments, name) in [
        (&["build", krate.path().to_str().unwrap()][..], "cargo"),
        (&["check", scripted], "compiler"),
        (&["test", scripted, "--events", events], "compiler"),
    ] {
        let work = tempfile::tempdir().unwrap();
        let program = endless_program(work.path(), name);
        let path = std::env::join_paths([work.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let mut command = sandmill("");
        command.arg("plugin").args(arguments).env("PATH", path).stderr(Stdio::null());
        if name == "compiler" {
            let cache = work.path().join("cache");
            command.args(["--set", &format!("compile.worker={program}")]);
            command.args(["--set", &format!("compile.cache={}", cache.display())]);
        }
        let mut child = command.spawn().unwrap();
        let pid = until_running(work.path()).await;
        assert_eq!(terminated(&mut child).await, TERMINATED, "{arguments:?}");
        until_gone(pid).await;
    }
}

/// The private server also ends, although the demo has not started its plugins yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_demo_that_compiles() {
    let (folder, work) = (plugins(&["scripted"]), tempfile::tempdir().unwrap());
    let mut command = sandmill("");
    command.args(["demo", "--seconds", "0", "--plugins"]).arg(folder.path());
    command.args(["--set", &format!("compile.worker={}", endless_program(work.path(), "compiler"))]);
    command.args(["--set", &format!("compile.cache={}", work.path().join("cache").display())]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut demo = command.spawn().unwrap();
    let compiler = until_running(work.path()).await;
    assert_eq!(terminated(&mut demo).await, TERMINATED);
    until_gone(compiler).await;
}
