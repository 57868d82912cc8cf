//! The connections that all processors of a host share.
//!
//! There are three pools: for commits, for reads of documents, and for reads of the log. So commits
//! never wait for slow reads. A task that holds a session of one pool does not wait for another
//! pool. While a processor waits for a session to commit on, reads of its lanes may be under way.
//! Neither these reads nor commits need a second session to finish, so there is no deadlock.
//!
//! **Crashes.** A crash of the database can undo events and documents that a term has read. The
//! term must not commit results that are based on them. If the term had its own session, the crash
//! would end that session and the term. A shared session, however, may have been opened after the
//! crash. So each commit session records `unbroken_since`. This is normally when the host lock's
//! session was opened: as long as that session answers, the database has not crashed since then. A
//! term uses only commit sessions whose `unbroken_since` is not later than the term's beginning.

use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    cluster::host_lock::HostLock,
    consumer::pages::Pages,
    db::{
        Db, Error, Session, describe,
        pool::{self, Pool},
    },
    model::handler::BoxFuture,
    projections::documents,
    supervisor::Stop,
};

/// Connections that the host uses besides the pools: for the host lock, the poll for commits,
/// plugins, tenants and metrics, and one for rare work.
const FIXED: usize = 6;
/// The fewest connections that a host can run with: the [`FIXED`] ones, and one of each pool.
pub const MIN_CONNECTIONS: usize = FIXED + 3;

/// The division of a host's connections among the pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For commits.
    pub commits: usize,
    /// For reads of documents.
    pub documents: usize,
    /// For reads of the log.
    pub sources: usize,
}

impl Shares {
    /// Divides the connections that the host does not need for itself: half for commits and a
    /// quarter for each kind of read, at least one each.
    pub fn of(connections: usize) -> Self {
        let shared = connections.saturating_sub(FIXED).max(3);
        let documents = shared / 4;
        let (documents, sources) = (documents.max(1), documents.max(1));
        Shares { commits: shared - documents - sources, documents, sources }
    }
}

/// The pools from which processors borrow sessions to write and to read documents.
#[derive(Clone)]
pub struct Connections {
    /// For commits.
    pub commits: Arc<Pool<CommitSession>>,
    /// For reads of documents.
    pub documents: Arc<Pool<Session>>,
}

impl Connections {
    /// Pools with these shares, without any open connection.
    pub fn new(db: &Db, host_lock: &Arc<HostLock>, shares: Shares) -> Self {
        let commits = commit_sessions(db, host_lock, shares.commits);
        Connections { commits, documents: documents::sessions(db, shares.documents) }
    }

    /// Processors that have waited for a connection of any pool for at least a second.
    fn waits(&self, pages: &Pages) -> BTreeSet<Arc<str>> {
        let documents = self.documents.waits(LASTING);
        let waits = self.commits.waits(LASTING).into_iter().chain(documents).chain(pages.waits(LASTING));
        waits.map(|wait| wait.processor).collect()
    }

    /// Reports in the log and in `sandmill status` which processors wait for a connection. Ends
    /// when it is asked to stop.
    pub async fn report_waits(self, pages: Arc<Pages>, db: Db, mut stop: Stop) -> anyhow::Result<()> {
        let (mut reported, mut logged) = (BTreeSet::new(), None::<Instant>);
        loop {
            tokio::select! {
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = stop.drain() => return Ok(()),
            }
            let waits = self.waits(&pages);
            if waits == reported {
                continue;
            }
            if let Some(first) = waits.first()
                && logged.is_none_or(|logged| logged.elapsed() >= LOG_AGAIN)
            {
                logged = Some(Instant::now());
                tracing::warn!(
                    processors = waits.len(), %first,
                    "processors wait for a connection to the database; raise `connections`, or find out what keeps the existing ones busy"
                );
            }
            tokio::select! {
                stored = store(&db, &waits) => match stored {
                    Ok(()) => reported = waits,
                    Err(error) => tracing::debug!(error = describe(&error), "cannot store which processors wait for a connection"),
                },
                () = stop.drain() => return Ok(()),
            }
        }
    }
}

/// How long a processor must have waited before that is reported. 1 s: shorter waits are normal
/// under load.
const LASTING: Duration = Duration::from_secs(1);
/// Time between two checks of the waiting processors.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two log lines about waiting processors.
const LOG_AGAIN: Duration = Duration::from_secs(30);
/// The reason that `status` shows for a waiting processor.
const REASON: &str = "waiting for a connection to the database; all that `connections` allows are busy";

async fn store(db: &Db, waits: &BTreeSet<Arc<str>>) -> Result<(), Error> {
    let ids: Vec<&str> = waits.iter().map(|id| &**id).collect();
    db.connect("waits").await?.execute(include_str!("connections/held.sql"), &[&ids, &REASON]).await?;
    Ok(())
}

/// A session for commits.
pub struct CommitSession {
    pub(super) session: Session,
    /// The database has not crashed since this time, as long as this session lives.
    unbroken_since: Instant,
}

impl CommitSession {
    /// Whether a term that began at this time may commit here.
    pub(super) fn covers(&self, began: Instant) -> bool {
        self.unbroken_since <= began
    }
}

impl Deref for CommitSession {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl pool::PooledConnection for CommitSession {
    type Error = Error;

    fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        pool::PooledConnection::assign(&mut self.session, purpose)
    }

    fn is_refusal(error: &Error) -> bool {
        <Session as pool::PooledConnection>::is_refusal(error)
    }
}

/// A pool of sessions for commits. Commits do not wait for the disk: a crash undoes documents and
/// cursor together, and both are rebuilt from the log.
fn commit_sessions(db: &Db, host_lock: &Arc<HostLock>, most: usize) -> Arc<Pool<CommitSession>> {
    let (db, host_lock) = (db.clone(), host_lock.clone());
    Pool::new(most, move |purpose| {
        let (db, host_lock) = (db.clone(), host_lock.clone());
        Box::pin(async move {
            let session = db.connect(&purpose).await?;
            session.batch_execute("set synchronous_commit = off").await?;
            let opened = Instant::now();
            let unbroken_since = host_lock.unbroken_since().await.map_or(opened, |since| since.min(opened));
            Ok(CommitSession { session, unbroken_since })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_never_empty_and_add_up_to_the_bound() {
        for connections in MIN_CONNECTIONS..200 {
            let Shares { commits, documents, sources } = Shares::of(connections);
            assert_eq!(commits + documents + sources + FIXED, connections);
            assert!(documents >= 1 && sources >= 1 && commits >= documents.max(sources));
        }
        assert_eq!(Shares::of(0), Shares { commits: 1, documents: 1, sources: 1 });
        assert_eq!(Shares::of(40), Shares { commits: 18, documents: 8, sources: 8 });
    }
}
