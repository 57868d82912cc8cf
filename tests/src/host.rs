//! Hosts under test: in this process, for tests that observe it, or in a separate process, for
//! tests that kill it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill::{
    app::{self, Ended, Until},
    config::Config,
    processor::{
        lane_checkpoints,
        status::{self, ProcessorStatus},
    },
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::Database;

/// The longest wait of a test for an event that must happen: many times what it takes on a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Generous time limits of calls and a long trial of new versions, for tests that are not about
/// them. The host's defaults assume a machine with free cores, which a test may not have.
const UNHURRIED: [&str; 3] = ["limits.cpu-ms=10000", "limits.wall-ms=120000", "rollout.trial-seconds=3600"];

/// Polls until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_or(what, async || ask().await.ok_or_else(String::new)).await
}

/// Polls until there is an answer. A timeout fails with the last state that was found instead.
pub async fn eventually_or<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(state) => assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}\n{state}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests have a parent").to_path_buf()
}

/// A component that `make plugins` built.
pub fn component(name: &str) -> PathBuf {
    let path = root().join("target/plugins").join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing; `make plugins` builds it", path.display());
    path
}

/// Marks of versions that handle every event.
pub const GOOD: [&str; 10] =
    ["V000000", "V000001", "V000002", "V000003", "V000004", "V000005", "V000006", "V000007", "V000008", "V000009"];
/// Marks of versions that trap on every event.
pub const TRAPPING: [&str; 5] = ["T000000", "T000001", "T000002", "T000003", "T000004"];
/// Marks of versions that never return from an event.
pub const SPINNING: [&str; 4] = ["S000000", "S000001", "S000002", "S000003"];

/// The mark of a version that folds events that ask for a trap.
pub const CURED: &str = "C000000";

/// A version of the guest `scripted`, or of one built from it. The mark has seven bytes; the guest
/// writes it to its documents. Its first letter selects what the version does: `T` traps on every
/// event, `S` spins, `C` also folds events that ask for a trap, and any other letter handles
/// events.
pub fn version(name: &str, mark: &str) -> Vec<u8> {
    const AS_BUILT: &[u8] = b"scripted-mark-0000000";
    let mut bytes = std::fs::read(component(name)).expect("read a component");
    let at = bytes.windows(AS_BUILT.len()).position(|window| window == AS_BUILT).expect("the component has its mark");
    let version = bytes.get_mut(at + AS_BUILT.len() - 7..at + AS_BUILT.len()).expect("seven bytes");
    version.copy_from_slice(mark.as_bytes());
    bytes
}

/// A component whose plugin gives itself another id of the same length.
pub fn with_id(name: &str, id: &str) -> Vec<u8> {
    assert_eq!(name.len(), id.len(), "only bytes are replaced");
    let mut bytes = std::fs::read(component(name)).expect("read a component");
    let places: Vec<usize> = bytes
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| *window == name.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "the component has its id");
    places.iter().for_each(|&at| bytes[at..at + id.len()].copy_from_slice(id.as_bytes()));
    bytes
}

/// Puts a file into a folder as tools should: written under another name, and renamed into place.
pub fn place(folder: &Path, name: &str, bytes: &[u8]) {
    let unfinished = folder.join(format!(".{name}.unfinished"));
    std::fs::write(&unfinished, bytes).expect("write a file");
    std::fs::rename(unfinished, folder.join(name)).expect("rename it into place");
}

/// Writes an executable shell script. Another process writes it: a file that this process has open
/// cannot be executed, and programs that other tests start inherit the descriptor for a moment.
pub fn script(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut child = shell.spawn().expect("start a shell");
    child.stdin.take().expect("a pipe to it").write_all(text.as_bytes()).expect("write a script");
    assert!(child.wait().expect("wait for a shell").success());
}

/// A plugins folder with these components, which `make plugins` built.
pub fn plugins(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("make a plugins folder");
    for name in names {
        std::fs::copy(component(name), folder.path().join(format!("{name}.wasm"))).expect("copy a component");
    }
    folder
}

/// The command line under test: `sandmill` with failpoints.
pub fn binary() -> PathBuf {
    let suite = std::env::current_exe().expect("this test's own path");
    suite.parent().and_then(Path::parent).expect("in target/PROFILE/deps").join("sandmill-under-test")
}

/// The cache of compiled code, which all tests share, so that each component is compiled once.
pub fn code_cache() -> PathBuf {
    root().join("target/tmp/compiled")
}

/// The compile settings of hosts in this process. It is not `sandmill`, so another binary compiles.
pub fn compile() -> sandmill::sandbox::compile::Config {
    sandmill::sandbox::compile::Config { worker: binary(), cache: code_cache(), ..Default::default() }
}

/// The settings of a test: a plugins folder, and further settings in the form `KEY=VALUE`.
pub fn config(folder: &Path, settings: &[&str]) -> Config {
    let ours = [
        format!("plugins={}", folder.display()),
        format!("compile.worker={}", binary().display()),
        format!("compile.cache={}", code_cache().display()),
    ];
    let settings = UNHURRIED.iter().chain(settings).map(|setting| setting.to_string());
    let flags = ours.into_iter().chain(settings).collect();
    let sources = sandmill::config::Sources { file: None, environment: Vec::new(), flags };
    Config::load(&sources).expect("a test's settings")
}

/// Runs plugins in this process until all present events are handled.
pub async fn catch_up(database: &Database, names: &[&str], settings: &[&str]) -> Ended {
    let folder = plugins(names);
    let config = config(folder.path(), settings);
    app::run(&config, &database.db, Until::CaughtUp, std::future::pending(), std::future::pending())
        .await
        .expect("run until caught up")
}

/// A host in this process.
pub struct Host {
    task: JoinHandle<anyhow::Result<Ended>>,
    drain: oneshot::Sender<()>,
    _folder: Option<tempfile::TempDir>,
}

impl Host {
    /// Starts plugins on a database.
    pub fn start(database: &Database, names: &[&str], settings: &[&str]) -> Host {
        let folder = plugins(names);
        let host = Host::start_in(database, folder.path(), settings);
        Host { _folder: Some(folder), ..host }
    }

    /// Starts the plugins in a folder on a database.
    pub fn start_in(database: &Database, folder: &Path, settings: &[&str]) -> Host {
        let config = config(folder, settings);
        let (drain, requested) = oneshot::channel();
        let db = database.db.clone();
        let task = tokio::spawn(async move {
            let drain = async {
                let _ = requested.await;
            };
            app::run(&config, &db, Until::Stopped, drain, std::future::pending()).await
        });
        Host { task, drain, _folder: None }
    }

    /// Drains the host and waits for its end.
    pub async fn stop(self) {
        let _ = self.drain.send(());
        self.task.await.expect("the host ends in order").expect("the host ends well");
    }

    /// Aborts the host immediately.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The command line under test, on a database.
pub fn sandmill(address: &str) -> Command {
    let mut command = Command::new(binary());
    on(&mut command, address);
    command
}

/// Sets the environment of a command that works on a database.
fn on(command: &mut Command, address: &str) {
    command.env("SANDMILL_COMPILE_CACHE", code_cache());
    command.env("DATABASE_URL", address).env("SANDMILL_LOG", "warn").env_remove("SANDMILL_CONFIG").stdin(Stdio::null());
}

/// A host in a separate process, which logs at `info`. Dropping it kills it.
pub struct Process {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Process {
    /// Starts the plugins in a folder on a database.
    pub fn start(database: &Database, folder: &Path, settings: &[&str]) -> Process {
        Process::start_under(&[], database, folder, settings)
    }

    /// Starts a host that is on standby while another host runs.
    pub fn stand_by(database: &Database, folder: &Path) -> Process {
        Process::spawn(&[], &["--standby"], database, folder, &[])
    }

    /// Starts the plugins through another program, which executes the host: its name and arguments,
    /// or nothing.
    pub fn start_under(program: &[&str], database: &Database, folder: &Path, settings: &[&str]) -> Process {
        Process::spawn(program, &[], database, folder, settings)
    }

    /// Starts `sandmill` with these arguments, through `program` if it is not empty, and collects
    /// its log.
    fn spawn(program: &[&str], arguments: &[&str], database: &Database, folder: &Path, settings: &[&str]) -> Process {
        let log = tempfile::NamedTempFile::new().expect("create a file for a host's log");
        let mut command = match program {
            [] => Command::new(binary()),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary());
                command
            }
        };
        on(&mut command, &database.address);
        command
            .arg("run")
            .args(arguments)
            .arg("--plugins")
            .arg(folder)
            .env("SANDMILL_LOG", "info")
            .stdout(Stdio::null());
        for setting in UNHURRIED.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let child = command.stderr(log.reopen().expect("open a host's log")).spawn().expect("start a host");
        Process { child, log }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.log.path()).expect("read a host's log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Asks the host to stop, and returns its exit code.
    pub async fn end(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the host runs");
        eventually("the host ends in order", async || self.child.try_wait().expect("wait for a host")).await.code()
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The number of folders and files that it watches with inotify.
    pub fn watches(&self) -> usize {
        let of = |fd: std::fs::DirEntry| std::fs::read_to_string(fd.path()).unwrap_or_default();
        let open = std::fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())).expect("the host runs");
        open.flatten().map(|fd| of(fd).lines().filter(|line| line.starts_with("inotify ")).count()).sum()
    }

    /// Its peak memory, MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the host runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The standard output of a finished command.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

/// The standard error of a finished command.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Database {
    /// Appends events with these data to one stream, one event each, of type `Scripted`.
    pub async fn append(&self, tenant: &str, stream: &str, data: &[serde_json::Value]) {
        let data: Vec<String> = data.iter().map(|value| value.to_string()).collect();
        self.append_texts(tenant, stream, &data).await;
    }

    /// Appends events of type `Scripted` to one stream, with the data as JSON texts.
    pub async fn append_texts(&self, tenant: &str, stream: &str, data: &[String]) {
        let session = self.db.connect("test").await.expect("connect");
        let types = vec!["Scripted"; data.len()];
        session
            .query("select * from sandmill.append($1, $2, $3, $4::text[]::json[])", &[&tenant, &stream, &types, &data])
            .await
            .expect("append");
    }

    /// The status of a processor, as `sandmill status` reads it.
    pub async fn status(&self, processor: &str) -> Option<ProcessorStatus> {
        let session = self.db.connect("test").await.expect("connect");
        let status = status::read(&session, 1_000).await.ok()?;
        status.processors.into_iter().find(|p| p.id == processor)
    }

    /// The lanes behind of a processor, as `tenant state class`, or as `tenant/key state class` if
    /// lanes are finer than tenants.
    pub async fn lanes_behind(&self, processor: &str) -> Vec<String> {
        let status = self.status(processor).await;
        let mut lanes = status.map(|status| status.lanes_behind).unwrap_or_default();
        lanes.sort_by(|one, other| (&one.tenant, &one.key).cmp(&(&other.tenant, &other.key)));
        lanes
            .iter()
            .map(|lane| {
                let class = lane.reason.split(": ").next().unwrap_or_default();
                let key = if lane.key == lane.tenant { String::new() } else { format!("/{}", lane.key) };
                format!("{}{key} {} {class}", lane.tenant, lane.state).trim_end().to_string()
            })
            .collect()
    }

    /// Waits until `scripted` has read all present events, and its lanes behind are these.
    pub async fn scripted_settles(&self, lanes_behind: &[&str]) {
        self.settles("scripted", lanes_behind).await;
    }

    /// Waits until a processor has read all present events, and its lanes behind are these.
    pub async fn settles(&self, processor: &str, lanes_behind: &[&str]) {
        eventually_or(
            &format!("{processor} has read all events and its lanes behind are {lanes_behind:?}"),
            async || {
                let status = self.status(processor).await.ok_or("the processor has not begun")?;
                if status.unread_events == 0 && self.lanes_behind(processor).await == lanes_behind {
                    return Ok(());
                }
                Err(self.standing().await)
            },
        )
        .await;
    }

    /// The state of every processor, every lane behind and every rejected file, for the message of
    /// a timeout.
    pub async fn standing(&self) -> String {
        let session = match self.db.connect("test").await {
            Ok(session) => session,
            Err(error) => return format!("the database is unavailable: {error}"),
        };
        let mut lines = Vec::new();
        match status::read(&session, 0).await {
            Err(error) => lines.push(format!("no status: {error}")),
            Ok(status) => lines.extend(status.processors.iter().map(|p| {
                let (lag, behind) = (p.unread_events, p.lanes_counted.all);
                format!("{}: lag {lag}, {behind} lanes behind, held {:?}, paused {:?}", p.id, p.held, p.paused)
            })),
        }
        let lanes = "select format('%s, lane %s/%s: %s (attempt %s, in %s, event %s) %s: %s', processor, tenant, lane_key, state, attempts,
                            next_at - now(), event_position, class, left(reason, 300))
                     from sandmill.lane_checkpoints order by 1";
        let rejected =
            "select format('%s is rejected: %s', plugin, left(refused, 300)) from sandmill.plugins where refused <> ''";
        for sql in [lanes, rejected] {
            match session.query(sql, &[]).await {
                Ok(rows) => lines.extend(rows.iter().map(|row| row.get::<_, String>(0))),
                Err(error) => lines.push(error.to_string()),
            }
        }
        lines.join("\n")
    }

    /// Resumes lanes of `scripted`, as `sandmill resume` does.
    pub async fn resume(&self, tenant: Option<&str>) -> u64 {
        self.resume_lanes("scripted", tenant).await
    }

    /// Resumes lanes of a processor, as `sandmill resume` does.
    pub async fn resume_lanes(&self, processor: &str, tenant: Option<&str>) -> u64 {
        let session = self.db.connect("test").await.expect("connect");
        lane_checkpoints::resume(&*session, processor, tenant, None).await.expect("resume")
    }
}
