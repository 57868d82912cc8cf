//! Tests of the private server, on the server programs of this machine: its privileges, its data,
//! its errors, and its end when the owner is killed.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::*;

/// Bound on starting or stopping a server on a slow machine; only a failure reaches it.
const PATIENCE: Duration = Duration::from_secs(300);
/// Environment variable of the process that a test starts from its own binary, to kill it.
const OWNER: &str = "SANDMILL_TEST_OWNS_A_SERVER";

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process runs. A zombie does not.
fn runs(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
        Err(_) => {
            rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        }
    }
}

fn postmaster(data: &Path) -> i32 {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

async fn one_text(server: &Embedded, sql: &str) -> String {
    let session = server.db().unwrap().connect("test").await.unwrap();
    session.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_temporary_server_runs_unprivileged_and_leaves_no_files() {
    let server = Embedded::start(Options {
        settings: vec![("cluster_name".into(), "it's quoted; $HOME".into())],
        ..Options::default()
    })
    .await
    .unwrap();
    assert_eq!(one_text(&server, "select current_setting('fsync')").await, "off");
    assert_eq!(one_text(&server, "select current_setting('listen_addresses')").await, "");
    assert_eq!(one_text(&server, "select current_setting('cluster_name')").await, "it's quoted; $HOME",);
    assert_eq!(
        one_text(
            &server,
            "select datcollate || ' ' || pg_encoding_to_char(encoding) from pg_database where datname = 'postgres'"
        )
        .await,
        "C UTF8"
    );
    let run = server.run.clone();
    assert_eq!(fs::metadata(&run).unwrap().mode() & 0o777, 0o700);
    let pid = postmaster(&run.join("data"));
    if let Ok(metadata) = fs::metadata(format!("/proc/{pid}")) {
        assert_ne!(metadata.uid(), 0);
    }
    server.stop(Shutdown::Fast).await.unwrap();
    assert!(!run.exists());
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_crash_keeps_committed_data_and_the_address() {
    let server = Embedded::start(Options::default()).await.unwrap();
    server.create_database("a \"name", None).await.unwrap();
    let address = server.address_of("a \"name");
    let session = Db::parse(&address).unwrap().connect("test").await.unwrap();
    session.batch_execute("create table public.kept as select 7 as n").await.unwrap();
    server.crash().await.unwrap();
    assert!(session.query_one("select 1", &[]).await.is_err());
    assert!(Db::parse(&address).unwrap().connect("test").await.is_err());
    server.start_again().await.unwrap();
    let session = Db::parse(&address).unwrap().connect("test").await.unwrap();
    let n: i32 = session.query_one("select n from public.kept", &[]).await.unwrap().get(0);
    assert_eq!(n, 7);
    server.restart().await.unwrap();
    assert!(fs::read_to_string(server.log()).unwrap().contains("not properly shut down"));
}

#[tokio::test]
async fn a_given_data_directory_is_kept() {
    // The server's user must have access, so not below a directory that only root may enter.
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options { data: Some(parent.path().join("nested/data")), durable: true, ..Options::default() };
    let server = Embedded::start(options.clone()).await.unwrap();
    assert_eq!(one_text(&server, "select current_setting('fsync')").await, "on");
    server.create_database("kept", None).await.unwrap();

    // A second owner fails, and does not harm the first one's server.
    let error = Embedded::start(options.clone()).await.unwrap_err();
    assert!(error.to_string().contains("postmaster.pid"), "{error}");
    assert_eq!(one_text(&server, "select 'unharmed'::text").await, "unharmed");

    drop(server);
    let server = Embedded::start(options).await.unwrap();
    assert_eq!(one_text(&server, "select datname::text from pg_database where datname = 'kept'").await, "kept");
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_its_log() {
    let settings = vec![("shared_buffers".to_owned(), "nonsense".to_owned())];
    let error = Embedded::start(Options { settings, ..Options::default() }).await.unwrap_err();
    assert!(error.to_string().contains("invalid value for parameter \"shared_buffers\""), "{error}");
}

/// Not a test: the process that the next test starts and kills.
#[tokio::test]
async fn an_owner_that_waits_to_be_killed() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let server = Embedded::start(Options::default()).await.unwrap();
    println!("OWNS {} {}", postmaster(&server.run.join("data")), server.run.display());
    // Ends only if its parent ended without killing it.
    let _ = io::stdin().lines().next();
}

#[test]
fn the_server_of_a_killed_owner_ends() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "db::embedded::tests::an_owner_that_waits_to_be_killed", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let owns = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.split_once("OWNS ").map(|(_, owns)| owns.to_owned()))
        .expect("the owner starts a server");
    let (pid, run) = owns.split_once(' ').unwrap();
    let (pid, run) = (pid.parse().unwrap(), Path::new(run));
    assert!(run.join(".s.PGSQL.5432").exists() && runs(pid));

    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the server is gone", || !runs(pid));
    until("its directory is gone", || !run.exists());
}
