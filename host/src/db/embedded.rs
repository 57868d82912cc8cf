//! A private PostgreSQL server, for the demo, for development and for tests.
//!
//! It is made from the server programs found on this machine, listens on a socket in a private directory and on no network
//! address, trusts whoever can enter that directory, and never runs as root. It is gone with its owner, also when the owner was
//! killed: a small shell script, the watchdog, waits for the end of a pipe that only the owner holds, then stops the server and
//! removes its directory. Data is temporary unless a directory for it is given.
//!
//! Everything that waits for the watchdog does so on a blocking thread, so that a server outlives the runtime it was started on.
//! What may surprise: without `durable` nothing is flushed to disk. The server then survives its own crash (a [`crash`] and
//! [`start_again`] included) but not a crash of the machine.
//!
//! [`crash`]: Embedded::crash
//! [`start_again`]: Embedded::start_again

mod programs;

use std::{
    fs, io,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Db, Error, describe};
use programs::{Findings, Programs};

const WATCHDOG: &str = include_str!("embedded/watchdog.sh");

/// What a private server has unless told otherwise: enough for many sessions of tests or one demo on a small machine.
const SETTINGS: [(&str, &str); 10] = [
    ("listen_addresses", ""),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("shared_buffers", "256MB"),
    ("max_connections", "200"),
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "15min"),
    ("log_line_prefix", "%m [%p] %a: "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];
/// What a server has in addition that may lose its data when the machine crashes.
const NOT_DURABLE: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];

/// The longest directory for a socket. A socket's whole path may have 103 bytes at most on the narrowest system, and the
/// directory's own name and the socket's take 40 of them.
const LONGEST_PARENT: usize = 60;

/// What server to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the data is kept; nothing means a temporary directory.
    pub data: Option<PathBuf>,
    /// Whether commits must survive a crash of the machine.
    pub durable: bool,
    /// Settings on top of ours, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are ended and everything is written: the next start needs no recovery.
    Fast,
    /// As if it had crashed: the next start recovers from the log.
    Immediate,
}

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No usable server programs.
    #[error(
        "no PostgreSQL server programs of version 14 or newer were found. Looked at:\n{looked_at}\n\
         Install them (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; Alpine: apk add \
         postgresql; macOS: brew install postgresql@17), or set {variable} to the directory of postgres, initdb and pg_ctl.",
        variable = programs::VARIABLE
    )]
    NoPrograms {
        /// The places, one a line.
        looked_at: String,
    },
    /// The data was written by a version whose programs are not here.
    #[error(
        "the data in {} is of PostgreSQL {major}, whose server programs were not found. Looked at:\n{looked_at}\n\
         Install PostgreSQL {major}, or give another data directory.", .data.display()
    )]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// Its version.
        major: u32,
        /// The places, one a line.
        looked_at: String,
    },
    /// Started by root on a machine without an account for the server.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor `nobody` to run it as. \
         Start Sandmill as another user."
    )]
    NoAccount,
    /// A directory could not be prepared.
    #[error("cannot prepare {} for a private PostgreSQL server: {source}", .path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A step of the server's life failed.
    #[error("the private PostgreSQL server did not {step}. The end of its log:\n{log}")]
    Server {
        /// What it should have done.
        step: &'static str,
        /// The last lines it wrote.
        log: String,
    },
    /// The shell script that holds the server ended early.
    #[error("the watchdog of the private PostgreSQL server is gone: {0}. The server is gone with it; start again.")]
    Watchdog(#[source] io::Error),
    /// The server runs and refused a statement.
    #[error("the private PostgreSQL server refused: {}", describe(.0))]
    Database(#[from] Error),
}

/// A running private server. Dropping it stops the server at once and returns when it and its temporary directory are gone.
#[derive(Debug)]
pub struct Embedded {
    watchdog: Arc<Mutex<Watchdog>>,
    run: PathBuf,
    version: String,
}

impl Embedded {
    /// Creates the data directory where there is none, starts the server and returns when it answers.
    pub async fn start(options: Options) -> Result<Self, EmbeddedError> {
        blocking(move || Self::start_blocking(&options)).await
    }

    fn start_blocking(options: &Options) -> Result<Self, EmbeddedError> {
        let place = Place::prepare(options)?;
        let version = place.programs.version.to_string();
        let (create, run) = (place.create, place.run.path().to_owned());
        let watchdog = Watchdog::spawn(place, &options_text(&run, options), options.durable)?;
        let server = Embedded { watchdog: Arc::new(Mutex::new(watchdog)), run, version };
        if create {
            order(&server.watchdog, &server.run, Order::Create)?;
        }
        order(&server.watchdog, &server.run, Order::Start)?;
        Ok(server)
    }

    /// How to connect to the server's first database, as its superuser.
    pub fn address(&self) -> String {
        self.address_of("postgres")
    }

    /// How to connect to one of its databases.
    pub fn address_of(&self, database: &str) -> String {
        format!("host={} port=5432 user=sandmill dbname={}", quoted(&self.run.to_string_lossy()), quoted(database))
    }

    /// The server's version, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where the server writes its log; gone with the server.
    pub fn log(&self) -> PathBuf {
        log_file(&self.run)
    }

    /// Creates a database: empty, or as a copy of another one that nobody is connected to.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<(), EmbeddedError> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let of_template = template.map(|t| format!(" template {}", quoted(t))).unwrap_or_default();
        let session = self.db()?.connect("private server").await?;
        session.batch_execute(&format!("create database {}{of_template}", quoted(name))).await?;
        Ok(())
    }

    fn db(&self) -> Result<Db, EmbeddedError> {
        // The address is ours; that it does not parse would be as much a failure of the server as any other.
        Db::parse_whole(&self.address())
            .map_err(|error| EmbeddedError::Server { step: "get an address", log: error.to_string() })
    }

    /// Stops the server as a crash would: every session is cut, nothing is written. The data stays.
    pub async fn crash(&self) -> Result<(), EmbeddedError> {
        self.order(Order::Stop(Shutdown::Immediate)).await
    }

    /// Starts the server that was stopped, on the same data and the same address.
    pub async fn start_again(&self) -> Result<(), EmbeddedError> {
        self.order(Order::Start).await
    }

    /// Stops the server in good order and starts it again.
    pub async fn restart(&self) -> Result<(), EmbeddedError> {
        self.order(Order::Stop(Shutdown::Fast)).await?;
        self.start_again().await
    }

    /// Ends the server and removes its temporary directory.
    pub async fn stop(self, shutdown: Shutdown) -> Result<(), EmbeddedError> {
        self.order(Order::Stop(shutdown)).await?;
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }

    async fn order(&self, which: Order) -> Result<(), EmbeddedError> {
        let (watchdog, run) = (self.watchdog.clone(), self.run.clone());
        blocking(move || order(&watchdog, &run, which)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(EmbeddedError::Watchdog(io::Error::other(error))),
    }
}

/// The script and the two pipes to it.
#[derive(Debug)]
struct Watchdog {
    child: Child,
    /// As long as this is open the server may live.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    fn spawn(place: Place, options: &str, durable: bool) -> Result<Self, EmbeddedError> {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "sandmill-watchdog"]);
        command.arg(place.run.path()).arg(&place.data).arg(&place.programs.directory).arg(options);
        command.arg(if durable { "yes" } else { "no" });
        // Out of the terminal's foreground group, so that Ctrl-C reaches the owner alone and it decides how to end.
        command.process_group(0);
        // The server's user may not be allowed into our directory, and what is set for clients is not meant for it.
        command.current_dir("/").env("LC_ALL", "C");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(Account { uid, gid }) = place.account {
            command.uid(uid).gid(gid);
        }
        // Every descriptor that the standard library opens closes on exec, so that these three are all the script gets.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(EmbeddedError::Watchdog)?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(EmbeddedError::Watchdog(io::Error::other("no pipes to it")));
        };
        // From here on the watchdog removes the directory.
        let _ = place.run.keep();
        Ok(Watchdog { child, orders: Some(orders), answers: BufReader::new(answers) })
    }

    /// Gives one order and waits for its answer: whether the program behind it succeeded.
    fn ask(&mut self, order: &str) -> io::Result<bool> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(orders, "{order}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim() == "0")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.orders = None;
        // It ends once the server is stopped; PostgreSQL's own tool bounds how long that takes. Nobody is left to tell of a failure.
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
enum Order {
    Create,
    Start,
    Stop(Shutdown),
}

fn order(watchdog: &Mutex<Watchdog>, run: &Path, order: Order) -> Result<(), EmbeddedError> {
    let (word, step) = match order {
        Order::Create => ("create", "create its data directory"),
        Order::Start => ("start", "start"),
        Order::Stop(Shutdown::Fast) => ("fast", "stop"),
        Order::Stop(Shutdown::Immediate) => ("immediate", "stop"),
    };
    let mut watchdog = watchdog.lock().unwrap_or_else(PoisonError::into_inner);
    match watchdog.ask(word) {
        Ok(true) => Ok(()),
        Ok(false) => Err(EmbeddedError::Server { step, log: tail_of_log(run) }),
        Err(error) => Err(EmbeddedError::Watchdog(error)),
    }
}

/// A value of a connection string, in quotes where it needs them.
fn quoted(value: &str) -> String {
    if value.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '_' | '-' | '.')) && !value.is_empty() {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn log_file(run: &Path) -> PathBuf {
    run.join("server.log")
}

fn tail_of_log(run: &Path) -> String {
    match fs::read(log_file(run)) {
        Ok(log) => {
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(20)..]
                .iter()
                .map(|line| format!("  {line}"))
                .collect::<Vec<_>>()
                .join("\n")
        }
        Err(error) => format!("  (cannot be read: {error})"),
    }
}

/// Who the server runs as when its owner is root.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn find() -> Result<Self, EmbeddedError> {
        let id = |flag: &str, name: &str| -> Option<u32> {
            let output = Command::new("id").args([flag, name]).output().ok().filter(|o| o.status.success())?;
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        };
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Some(Account { uid: id("-u", name)?, gid: id("-g", name)? }))
            .ok_or(EmbeddedError::NoAccount)
    }
}

/// Where a server lives, ready for it.
struct Place {
    programs: Programs,
    account: Option<Account>,
    run: tempfile::TempDir,
    data: PathBuf,
    create: bool,
}

impl Place {
    fn prepare(options: &Options) -> Result<Self, EmbeddedError> {
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |source| EmbeddedError::Directory { path, source }
        };
        let kept = options.data.as_deref().map(|path| std::path::absolute(path).map_err(refused(path))).transpose()?;
        let existing = kept.as_deref().and_then(version_of_data);
        let findings = Findings::gather();
        let programs = match (findings.newest(existing), &kept, existing) {
            (Some(programs), _, _) => programs.clone(),
            (None, Some(data), Some(major)) => {
                return Err(EmbeddedError::OtherVersion { data: data.clone(), major, looked_at: findings.looked_at() });
            }
            (None, _, _) => return Err(EmbeddedError::NoPrograms { looked_at: findings.looked_at() }),
        };
        let account = match (rustix::process::geteuid().is_root(), &kept, existing) {
            (false, _, _) => None,
            // Data that is there already belongs to somebody, and PostgreSQL insists on being them.
            (true, Some(data), Some(_)) => {
                let metadata = fs::metadata(data).map_err(refused(data))?;
                Some(Account { uid: metadata.uid(), gid: metadata.gid() }).filter(|account| account.uid != 0)
            }
            (true, _, _) => Some(Account::find()?),
        };
        let parent = run_parent(account.is_some());
        let run = tempfile::Builder::new()
            .prefix("sandmill-pg-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(refused(&parent))?;
        let data = kept.unwrap_or_else(|| run.path().join("data"));
        if existing.is_none() {
            // What is missing above it is made as usual, since the server's user has to pass through.
            data.parent().map_or(Ok(()), fs::create_dir_all).map_err(refused(&data))?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(refused(&data))?;
        }
        if let Some(Account { uid, gid }) = account {
            chown(run.path(), Some(uid), Some(gid)).map_err(refused(run.path()))?;
            if existing.is_none() {
                chown(&data, Some(uid), Some(gid)).map_err(refused(&data))?;
            }
        }
        Ok(Place { programs, account, run, data, create: existing.is_none() })
    }
}

/// The major version that wrote a data directory.
fn version_of_data(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Where the run directory goes: the temporary directory, unless its name is too long for a socket, or may be closed to another
/// user whom the server runs as.
fn run_parent(other_user: bool) -> PathBuf {
    let usual = std::env::temp_dir();
    if other_user || usual.as_os_str().len() > LONGEST_PARENT { PathBuf::from("/tmp") } else { usual }
}

/// The server's command line, as the shell reads it.
fn options_text(run: &Path, options: &Options) -> String {
    let not_durable = if options.durable { &[][..] } else { &NOT_DURABLE[..] };
    let ours = SETTINGS.iter().chain(not_durable).map(|(name, value)| (*name, *value));
    let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let run = run.to_string_lossy();
    ours.chain(given)
        .chain([("unix_socket_directories", &*run)])
        .map(|(name, value)| format!("-c '{}'", format!("{name}={value}").replace('\'', r"'\''")))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests;
