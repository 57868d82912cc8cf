//! One host for each database: a session-level advisory lock, held as long as its connection lives.
//! A second host waits a while and leaves, or [stands by](HostLock::stand_by) until the first is
//! gone.
//!
//! It keeps two hosts from taking each other's terms away all day. It is not what protects the documents (a half-open connection can hold
//! it for minutes after its host died, and a host can lose it without noticing); that is the fence.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::db::{Db, Error, GenericClient, Session, Transaction, describe};

/// The lock's two numbers: "Sand" in ASCII, and 1 for the host.
const LOCK: (i32, i32) = (0x5361_6e64, 1);
/// How long a host waits for another one to end.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);
/// The same while a host stands by. Default 500 ms: nobody notices the difference, and the database
/// is asked twice a second for months. A statement that waits for the lock would not be asked
/// again, but its snapshot would keep VACUUM from removing rows all that time.
const RETRY_STANDING_BY: Duration = Duration::from_millis(500);
/// Between two lines that say that a host that stands by cannot reach the database.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// Between two looks whether the lock is still held. Default 1 s: until it is held again, commands
/// report that no host runs.
const LOOK: Duration = Duration::from_secs(1);
/// Makes the server notice within some 25 s that the machine of a host is gone, and with it the
/// lock. The usual settings of the kernel take two hours.
const KEEP_ALIVE: &str = "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3";

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another host has it.
    #[error(
        "another host works on this database{holder}; nothing was changed\nStop it first: one host runs a database's processors at a time."
    )]
    Held {
        /// Who, as far as the database tells.
        holder: String,
    },
    /// A session that is no host's has it.
    #[error(
        "session {pid} of the role {role} holds the lock that a host needs, and is no host; nothing was changed\nEnd it: select pg_terminate_backend({pid})"
    )]
    Taken {
        /// The session.
        pid: i32,
        /// Its role.
        role: String,
    },
    /// What the database said.
    #[error("take the host lock: {}", describe(.0))]
    Database(#[from] Error),
}

/// The right to be this database's host.
pub struct HostLock {
    db: Db,
    held: Mutex<Held>,
}

/// The session that holds the lock.
struct Held {
    session: Session,
    pid: i32,
    since: Instant,
}

impl Held {
    async fn by(session: Session) -> Result<Self, Error> {
        let since = Instant::now();
        let pid = session.query_one("select pg_backend_pid()", &[]).await?.get(0);
        Ok(Held { session, pid, since })
    }
}

impl HostLock {
    /// Takes the lock, waiting up to `patience` for whoever has it.
    pub async fn acquire(db: &Db, patience: Duration) -> Result<Self, LockError> {
        let held = Mutex::new(Held::by(acquire(db, patience).await?).await?);
        Ok(HostLock { db: db.clone(), held })
    }

    /// Takes the lock as soon as no other host has it. Changes nothing until then, and keeps
    /// waiting while the database is away.
    pub async fn stand_by(db: &Db) -> Self {
        let mut told = Told::default();
        loop {
            let held = async { Held::by(stand_by(db, &mut told).await?).await };
            match held.await {
                Ok(held) => return HostLock { db: db.clone(), held: Mutex::new(held) },
                Err(error) => told.away(db, &error),
            }
            tokio::time::sleep(RETRY_STANDING_BY).await;
        }
    }

    /// Makes sure that the lock is still ours, taking it again if its connection was lost and nobody else took it meanwhile.
    /// Returns the pid of the session that holds it.
    pub async fn ensure(&self) -> Result<i32, LockError> {
        let mut held = self.held.lock().await;
        if held.session.batch_execute("").await.is_err() {
            let new = Held::by(acquire(&self.db, PATIENCE).await?).await?;
            // Until this has gone well the lock counts as lost, so it is tried again.
            new.session.execute(include_str!("host_lock/moved.sql"), &[&held.pid]).await?;
            *held = new;
        }
        Ok(held.pid)
    }

    /// Takes the lock again whenever its connection was lost, until dropped. If another host has
    /// taken it meanwhile, that one's fences end the terms of this one.
    pub async fn keep(&self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.ensure().await {
                tracing::debug!(%error, "does not hold the host lock");
            }
        }
    }

    /// The time since which one session has held the lock, if it still does. The database has not
    /// crashed between then and this call.
    pub async fn unbroken_since(&self) -> Option<std::time::Instant> {
        let held = self.held.lock().await;
        held.session.batch_execute("").await.ok()?;
        Some(held.since.into_std())
    }
}

/// Whether a host works on this database.
pub async fn is_held(client: &impl GenericClient) -> Result<bool, Error> {
    Ok(holder(client).await?.is_some_and(|holder| holder.is_host))
}

/// Holds the lock until a transaction ends, so that no host works while it changes what hosts rely on. Does not wait for one that does.
pub async fn hold_within(transaction: &Transaction<'_>) -> Result<(), LockError> {
    let taken = transaction.query_one("select pg_try_advisory_xact_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
    if taken.get(0) { Ok(()) } else { Err(held(holder(transaction).await?)) }
}

/// A session that holds the lock once it has it.
async fn open(db: &Db) -> Result<Session, Error> {
    let session = db.connect("host").await?;
    session.batch_execute(KEEP_ALIVE).await?;
    Ok(session)
}

/// Tries to take the lock, and does not wait for it.
async fn take(session: &Session) -> Result<bool, Error> {
    let taken = session.query_one("select pg_try_advisory_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
    Ok(taken.get(0))
}

/// What a host that stands by has said.
#[derive(Default)]
struct Told {
    /// That another host works.
    other_host: bool,
    /// That the database is away, and when last.
    away: Option<Instant>,
}

impl Told {
    fn away(&mut self, db: &Db, error: &Error) {
        if self.away.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.away = Some(Instant::now());
            tracing::warn!(database = db.place(), "standing by, and the database is away: {}", describe(error));
        }
    }
}

/// Stands by in one session, and returns it with the lock.
async fn stand_by(db: &Db, told: &mut Told) -> Result<Session, Error> {
    let session = open(db).await?;
    if told.other_host {
        // What cut off this host has probably cut off the other one too, which takes the lock again
        // if it can. Patience spares both of them a change of places.
        tokio::time::sleep(PATIENCE).await;
    }
    loop {
        if take(&session).await? {
            if told.other_host {
                tracing::info!("the other host is gone; taking over");
            }
            return Ok(session);
        }
        if !told.other_host {
            let holder = holder(&*session).await?;
            told.other_host = true;
            match holder {
                Some(holder) if !holder.is_host => tracing::warn!("standing by: {}", held(Some(holder))),
                holder => tracing::info!("standing by: another host works on this database{}", place(&holder)),
            }
        }
        if told.away.take().is_some() {
            tracing::info!("standing by: the database is back, and another host works on it");
        }
        tokio::time::sleep(RETRY_STANDING_BY).await;
    }
}

async fn acquire(db: &Db, patience: Duration) -> Result<Session, LockError> {
    let until = Instant::now() + patience;
    let session = open(db).await?;
    let mut said = false;
    loop {
        if take(&session).await? {
            return Ok(session);
        }
        let holder = holder(&*session).await?;
        if Instant::now() >= until {
            return Err(held(holder));
        }
        if !said {
            said = true;
            tracing::info!(
                "another host works on this database{}; waiting up to {} s for it to end",
                place(&holder),
                patience.as_secs()
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The session that holds the lock.
struct Holder {
    pid: i32,
    since: Option<String>,
    address: Option<String>,
    role: Option<String>,
    is_host: bool,
}

async fn holder(client: &impl GenericClient) -> Result<Option<Holder>, Error> {
    let row = client.query_opt(include_str!("host_lock/holder.sql"), &[&LOCK.0, &LOCK.1]).await?;
    Ok(row.map(|row| Holder {
        pid: row.get(0),
        since: row.get(1),
        address: row.get(2),
        role: row.get(3),
        // Of sessions that this role may not see, only the lock is known.
        is_host: row.get::<_, Option<bool>>(4).unwrap_or(true),
    }))
}

fn held(holder: Option<Holder>) -> LockError {
    match holder {
        Some(Holder { pid, role: Some(role), is_host: false, .. }) => LockError::Taken { pid, role },
        holder => LockError::Held { holder: place(&holder) },
    }
}

/// Where the holder is, for people.
fn place(holder: &Option<Holder>) -> String {
    let Some(Holder { pid, since, address, .. }) = holder else { return String::new() };
    let from = address.as_ref().map_or_else(|| " on this machine".to_string(), |address| format!(" from {address}"));
    format!(" (database session {pid}{from}, since {})", since.as_deref().unwrap_or("an unknown time"))
}
