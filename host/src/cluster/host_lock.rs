//! One host for each database: a session-level advisory lock, held as long as its connection lives.
//!
//! It keeps two hosts from taking each other's terms away all day. It is not what protects the documents (a half-open connection can hold
//! it for minutes after its host died, and a host can lose it without noticing); that is the fence.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

use crate::db::{Db, Error, GenericClient, Session, Transaction, describe};

/// The lock's two numbers: "Sand" in ASCII, and 1 for the host.
const LOCK: (i32, i32) = (0x5361_6e64, 1);
/// How long a host waits for another one to end.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);

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
    /// What the database said.
    #[error("take the host lock: {}", describe(.0))]
    Database(#[from] Error),
}

/// The right to be this database's host.
pub struct HostLock {
    db: Db,
    session: Mutex<Session>,
}

impl HostLock {
    /// Takes the lock, waiting up to `patience` for whoever has it.
    pub async fn acquire(db: &Db, patience: Duration) -> Result<Self, LockError> {
        let session = acquire(db, patience).await?;
        Ok(HostLock { db: db.clone(), session: Mutex::new(session) })
    }

    /// Makes sure that the lock is still ours, taking it again if its connection was lost and nobody else took it meanwhile.
    pub async fn ensure(&self) -> Result<(), LockError> {
        let mut session = self.session.lock().await;
        if session.batch_execute("").await.is_ok() {
            return Ok(());
        }
        *session = acquire(&self.db, PATIENCE).await?;
        Ok(())
    }
}

/// Whether a host works on this database.
pub async fn is_held(client: &impl GenericClient) -> Result<bool, Error> {
    Ok(!holder(client).await?.is_empty())
}

/// Holds the lock until a transaction ends, so that no host works while it changes what hosts rely on. Does not wait for one that does.
pub async fn hold_within(transaction: &Transaction<'_>) -> Result<(), LockError> {
    let taken = transaction.query_one("select pg_try_advisory_xact_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
    if taken.get(0) { Ok(()) } else { Err(LockError::Held { holder: holder(transaction).await? }) }
}

async fn acquire(db: &Db, patience: Duration) -> Result<Session, LockError> {
    let until = Instant::now() + patience;
    let session = db.connect("host").await?;
    let mut said = false;
    loop {
        let taken = session.query_one("select pg_try_advisory_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
        if taken.get(0) {
            return Ok(session);
        }
        let holder = holder(&*session).await?;
        if Instant::now() >= until {
            return Err(LockError::Held { holder });
        }
        if !said {
            said = true;
            tracing::info!(
                "another host works on this database{holder}; waiting up to {} s for it to end",
                patience.as_secs()
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn holder(client: &impl GenericClient) -> Result<String, Error> {
    let row = client.query_opt(include_str!("host_lock/holder.sql"), &[&LOCK.0, &LOCK.1]).await?;
    Ok(row.map_or_else(String::new, |row| {
        let (pid, since): (i32, Option<String>) = (row.get(0), row.get(1));
        let client: Option<String> = row.get(2);
        let from = client.map_or_else(|| " on this machine".to_string(), |client| format!(" from {client}"));
        format!(" (database session {pid}{from}, since {})", since.unwrap_or_else(|| "an unknown time".into()))
    }))
}
