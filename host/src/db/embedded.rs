//! A private PostgreSQL server, for the demo, for development and for tests.
//!
//! It uses the server programs that are installed on this machine. It listens only on a socket in a
//! private directory, and trusts everyone who can enter that directory. It never runs as root. Its
//! data is temporary unless a directory is given.
//!
//! The server ends with its owner, even if the owner is killed. A small shell script, the watchdog,
//! waits for the end of a pipe that only the owner holds. It then stops the server and removes its
//! directory. Calls to the watchdog block their thread and need no runtime, so a server outlives
//! the runtime that started it.
//!
//! Unless [`Options::durable`] is set, nothing is flushed to disk. The server then survives its own
//! crash, as in [`crash`] and [`start_again`], but not a crash of the machine.
//!
//! [`crash`]: Embedded::crash
//! [`start_again`]: Embedded::start_again

mod error;
mod home;
mod programs;
mod settings;
mod watchdog;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

pub use error::EmbeddedError;
use home::ServerHome;
use watchdog::{ServerOrder, Watchdog, blocking, log_file, order};

use super::Db;

/// Options of a private server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The data directory; `None` means a temporary one.
    pub data: Option<PathBuf>,
    /// Whether commits must survive a crash of the machine.
    pub durable: bool,
    /// Settings that override the defaults, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

/// The way to end a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Ends sessions and writes everything, so the next start needs no recovery.
    Fast,
    /// Ends like a crash; the next start recovers from the log.
    Immediate,
}

/// A running private server. Dropping it stops the server at once, and returns when the server and
/// its temporary directory are gone.
#[derive(Debug)]
pub struct Embedded {
    watchdog: Arc<Mutex<Watchdog>>,
    run: PathBuf,
    version: String,
}

impl Embedded {
    /// Creates the data directory if it is missing, starts the server, and returns when it accepts
    /// connections.
    pub async fn start(options: Options) -> Result<Self, EmbeddedError> {
        blocking(move || Self::start_blocking(&options)).await
    }

    /// Starts a server, and waits on this thread until it accepts connections.
    fn start_blocking(options: &Options) -> Result<Self, EmbeddedError> {
        let home = ServerHome::prepare(options)?;
        let version = home.programs.version.to_string();
        let (create, run) = (home.create, home.run.path().to_owned());
        let watchdog = Watchdog::spawn(home, &settings::command_line(&run, options), options.durable)?;
        let server = Embedded { watchdog: Arc::new(Mutex::new(watchdog)), run, version };
        if create {
            order(&server.watchdog, &server.run, ServerOrder::Create)?;
        }
        order(&server.watchdog, &server.run, ServerOrder::Start)?;
        Ok(server)
    }

    /// The address of the server's first database, as its superuser.
    pub fn address(&self) -> String {
        self.address_of("postgres")
    }

    /// The address of one of its databases, as its superuser.
    pub fn address_of(&self, database: &str) -> String {
        format!("host={} port=5432 user=sandmill dbname={}", quoted(&self.run.to_string_lossy()), quoted(database))
    }

    /// The server's version, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's log file, which is removed with the server.
    pub fn log(&self) -> PathBuf {
        log_file(&self.run)
    }

    /// Creates a database: empty, or a copy of a database without connections.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<(), EmbeddedError> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let of_template = template.map(|t| format!(" template {}", quoted(t))).unwrap_or_default();
        let session = self.db()?.connect("private server").await?;
        session.batch_execute(&format!("create database {}{of_template}", quoted(name))).await?;
        Ok(())
    }

    fn db(&self) -> Result<Db, EmbeddedError> {
        Db::parse_complete(&self.address())
            .map_err(|error| EmbeddedError::Server { step: "get an address", log: error.to_string() })
    }

    /// Stops the server like a crash: it cuts every session and writes nothing. The data stays.
    pub async fn crash(&self) -> Result<(), EmbeddedError> {
        self.order(ServerOrder::Stop(Shutdown::Immediate)).await
    }

    /// Starts the stopped server again, with the same data and address.
    pub async fn start_again(&self) -> Result<(), EmbeddedError> {
        self.order(ServerOrder::Start).await
    }

    /// Stops the server cleanly and starts it again.
    pub async fn restart(&self) -> Result<(), EmbeddedError> {
        self.order(ServerOrder::Stop(Shutdown::Fast)).await?;
        self.start_again().await
    }

    /// Ends the server and removes its temporary directory.
    pub async fn stop(self, shutdown: Shutdown) -> Result<(), EmbeddedError> {
        self.order(ServerOrder::Stop(shutdown)).await?;
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }

    async fn order(&self, which: ServerOrder) -> Result<(), EmbeddedError> {
        let (watchdog, run) = (self.watchdog.clone(), self.run.clone());
        blocking(move || order(&watchdog, &run, which)).await
    }
}

/// A value of a connection string, in quotes if it needs them.
fn quoted(value: &str) -> String {
    if value.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '_' | '-' | '.')) && !value.is_empty() {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests;
