//! The host lock: a session-level advisory lock that lets one host work on a database at a time.
//!
//! It is held as long as its session lives. A second host waits up to 10 s and exits, or [stands
//! by](HostLock::stand_by) until the first one ends. The lock prevents two hosts from ending each
//! other's terms again and again. It does not protect the documents; the fence does. A half-open
//! connection can keep the lock for about 25 s after its host's machine is gone, and a host can
//! lose the lock without noticing.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::db::{Db, Error, GenericClient, Session, Transaction, describe};

/// The two keys of the advisory lock: "Sand" in ASCII, and 1 for the host.
const LOCK: (i32, i32) = (0x5361_6e64, 1);
/// Time that a host waits for another one to end, unless it stands by.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two attempts to take the lock.
const RETRY: Duration = Duration::from_millis(200);
/// Time between two attempts of a standby host, which may wait for months. 500 ms: the delay of a
/// takeover is not noticeable. A single statement that waits for the lock would need no retries.
/// But its snapshot would keep VACUUM from removing dead rows during the whole wait.
const RETRY_STANDING_BY: Duration = Duration::from_millis(500);
/// Time between two log lines of a standby host about errors of the database.
const REPORT_AGAIN: Duration = Duration::from_secs(30);
/// Time between two checks that the lock is still held. 1 s: while a lost lock is not taken again,
/// commands report that no host runs.
const CHECK: Duration = Duration::from_secs(1);
/// Settings with which the server notices within about 25 s that a host's machine is gone, and
/// releases the lock. With the kernel's defaults that takes two hours.
const KEEP_ALIVE: &str = "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3";

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another host holds it.
    #[error(
        "another host is running on this database{holder}; nothing was changed\n\
         Stop it first: one host runs a database's processors at a time."
    )]
    Held {
        /// The description of the host's session, as far as the database shows it.
        holder: String,
    },
    /// A session that is not a host holds it.
    #[error(
        "session {pid} of the role {role} holds the lock that a host needs, but is not a host; nothing was changed\n\
         End it: select pg_terminate_backend({pid})"
    )]
    Taken {
        /// The session.
        pid: i32,
        /// Its role.
        role: String,
    },
    /// A database error.
    #[error("take the host lock: {}", describe(.0))]
    Database(#[from] Error),
}

/// The host lock of a database, held by a session of this host.
pub struct HostLock {
    db: Db,
    session: Mutex<LockSession>,
}

/// The session with which this host holds the lock.
struct LockSession {
    session: Session,
    pid: i32,
    since: Instant,
}

impl LockSession {
    async fn of(session: Session) -> Result<Self, Error> {
        let since = Instant::now();
        let pid = session.query_one("select pg_backend_pid()", &[]).await?.get(0);
        Ok(LockSession { session, pid, since })
    }
}

impl HostLock {
    /// Takes the lock. Waits up to `patience` for another holder to release it.
    pub async fn acquire(db: &Db, patience: Duration) -> Result<Self, LockError> {
        let session = LockSession::of(acquire(db, patience).await?).await?;
        Ok(HostLock { db: db.clone(), session: Mutex::new(session) })
    }

    /// Takes the lock as soon as no other session holds it. Changes nothing until then. Keeps
    /// waiting if the database is unreachable or reports an error.
    pub async fn stand_by(db: &Db) -> Self {
        let mut reports = StandbyReports::default();
        loop {
            let session = async { LockSession::of(stand_by(db, &mut reports).await?).await };
            match session.await {
                Ok(session) => return HostLock { db: db.clone(), session: Mutex::new(session) },
                Err(error) => reports.failed(db, &error),
            }
            tokio::time::sleep(RETRY_STANDING_BY).await;
        }
    }

    /// Ensures that this host holds the lock: takes it again if its session was lost. Fails if
    /// another session has taken it in the meantime. Returns the pid of the session that holds it.
    pub async fn ensure(&self) -> Result<i32, LockError> {
        let mut current = self.session.lock().await;
        if current.session.batch_execute("").await.is_err() {
            let new = LockSession::of(acquire(&self.db, PATIENCE).await?).await?;
            // If this fails, the lock still counts as lost and the next call retries.
            new.session.execute(include_str!("host_lock/moved.sql"), &[&current.pid]).await?;
            *current = new;
        }
        Ok(current.pid)
    }

    /// Takes the lock again whenever its session was lost, until dropped. If another host has taken
    /// it in the meantime, the fences of that host end this one's terms.
    pub async fn keep(&self) -> Infallible {
        loop {
            tokio::time::sleep(CHECK).await;
            if let Err(error) = self.ensure().await {
                tracing::debug!(%error, "does not hold the host lock");
            }
        }
    }

    /// The time since which the current session exists, if it still answers. The database has not
    /// crashed since that time.
    pub async fn unbroken_since(&self) -> Option<std::time::Instant> {
        let current = self.session.lock().await;
        current.session.batch_execute("").await.ok()?;
        Some(current.since.into_std())
    }
}

/// Whether a host works on this database.
pub async fn is_held(client: &impl GenericClient) -> Result<bool, Error> {
    Ok(holder(client).await?.is_some_and(|holder| holder.is_host))
}

/// Takes the lock until a transaction ends, so that no host starts while the transaction changes
/// data that hosts rely on. Fails immediately if a host holds the lock.
pub async fn take_within(transaction: &Transaction<'_>) -> Result<(), LockError> {
    let taken = transaction.query_one("select pg_try_advisory_xact_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
    if taken.get(0) { Ok(()) } else { Err(held_by(holder(transaction).await?)) }
}

/// Opens a session to take the lock with.
async fn open(db: &Db) -> Result<Session, Error> {
    let session = db.connect("host").await?;
    session.batch_execute(KEEP_ALIVE).await?;
    Ok(session)
}

/// Takes the lock if it is free. Returns whether it was.
async fn take(session: &Session) -> Result<bool, Error> {
    let taken = session.query_one("select pg_try_advisory_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
    Ok(taken.get(0))
}

/// The conditions that a standby host has reported in its log.
#[derive(Default)]
struct StandbyReports {
    /// Whether it has reported that another host runs.
    other_host: bool,
    /// When it last reported an error of the database, if the database has not answered since.
    failed: Option<Instant>,
}

impl StandbyReports {
    fn failed(&mut self, db: &Db, error: &Error) {
        if self.failed.is_none_or(|reported| reported.elapsed() >= REPORT_AGAIN) {
            self.failed = Some(Instant::now());
            tracing::warn!(database = db.summary(), "standing by: cannot connect to the database: {}", describe(error));
        }
    }
}

/// Waits for the lock on one session. Returns the session once it holds the lock.
async fn stand_by(db: &Db, reports: &mut StandbyReports) -> Result<Session, Error> {
    let session = open(db).await?;
    if reports.other_host {
        // An outage has probably disconnected the other host too. It takes the lock again if it
        // can, so waiting avoids an unnecessary takeover.
        tokio::time::sleep(PATIENCE).await;
    }
    loop {
        if take(&session).await? {
            if reports.other_host {
                tracing::info!("the other host is gone; taking over");
            }
            return Ok(session);
        }
        if !reports.other_host {
            let holder = holder(&*session).await?;
            reports.other_host = true;
            match holder {
                Some(holder) if !holder.is_host => tracing::warn!("standing by: {}", held_by(Some(holder))),
                holder => tracing::info!("standing by: another host is running on this database{}", in_words(&holder)),
            }
        }
        if reports.failed.take().is_some() {
            tracing::info!("standing by: the database answers again, and another host is running on it");
        }
        tokio::time::sleep(RETRY_STANDING_BY).await;
    }
}

/// Takes the lock on a new session. Waits up to `patience` for another holder to release it.
async fn acquire(db: &Db, patience: Duration) -> Result<Session, LockError> {
    let until = Instant::now() + patience;
    let session = open(db).await?;
    let mut reported = false;
    loop {
        if take(&session).await? {
            return Ok(session);
        }
        let holder = holder(&*session).await?;
        if Instant::now() >= until {
            return Err(held_by(holder));
        }
        if !reported {
            reported = true;
            tracing::info!(
                "another host is running on this database{}; waiting up to {} s for it to end",
                in_words(&holder),
                patience.as_secs()
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The session that holds the lock, as the database's statistics show it.
struct Holder {
    pid: i32,
    since: Option<String>,
    address: Option<String>,
    role: Option<String>,
    is_host: bool,
}

/// The session that holds the lock now, if there is one.
async fn holder(client: &impl GenericClient) -> Result<Option<Holder>, Error> {
    let row = client.query_opt(include_str!("host_lock/holder.sql"), &[&LOCK.0, &LOCK.1]).await?;
    Ok(row.map(|row| Holder {
        pid: row.get(0),
        since: row.get(1),
        address: row.get(2),
        role: row.get(3),
        // A role without the right to see the session sees only the lock.
        is_host: row.get::<_, Option<bool>>(4).unwrap_or(true),
    }))
}

/// The error for this holder of the lock.
fn held_by(holder: Option<Holder>) -> LockError {
    match holder {
        Some(Holder { pid, role: Some(role), is_host: false, .. }) => LockError::Taken { pid, role },
        holder => LockError::Held { holder: in_words(&holder) },
    }
}

/// A description of the holder's session, to be appended to a message.
fn in_words(holder: &Option<Holder>) -> String {
    let Some(Holder { pid, since, address, .. }) = holder else { return String::new() };
    let from = address.as_ref().map_or_else(|| " on this machine".to_string(), |address| format!(" from {address}"));
    format!(" (database session {pid}{from}, since {})", since.as_deref().unwrap_or("an unknown time"))
}
