//! The connections that all processors of a host share.
//!
//! Each kind of work has a pool of its own, so that commits never wait for slow reads: commits, reads of documents, reads of the log. Whoever
//! borrows from one pool holds nothing of another, except that a lane's reads of the log and of documents may be under way while its processor waits
//! for a session to commit on. Commits wait for nobody who waits, so all of them end.
//!
//! **Crashes.** A term reads events and documents that a crash of the database can take back, and must not commit what it made of them afterwards.
//! With a session of its own it could not, as the crash would have ended that session. A shared session may have been opened after the crash. So each
//! session for commits knows since when the database has not crashed while it lives, and a term uses only those for which that was before it began. A
//! session that is opened later asks a witness: the session of the host lock. If that answers, the database has not crashed since it was opened.

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

/// Connections that the host holds besides those of the pools: the host lock, noticing commits, plugins, tenants and metrics, and one for what
/// is seldom done.
const FIXED: usize = 6;
/// The least that a host needs: those and one of each pool.
pub const LEAST: usize = FIXED + 3;

/// How the connections that a host may hold are divided.
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
    /// Half of what is not needed otherwise for commits, a quarter each for the two kinds of reads. At least one of each.
    pub fn of(connections: usize) -> Self {
        let shared = connections.saturating_sub(FIXED).max(3);
        let documents = shared / 4;
        let (documents, sources) = (documents.max(1), documents.max(1));
        Shares { commits: shared - documents - sources, documents, sources }
    }
}

/// The pools from which processors borrow to write documents and to read them.
#[derive(Clone)]
pub struct Connections {
    /// For commits.
    pub commits: Arc<Pool<CommitSession>>,
    /// For reads of documents.
    pub documents: Arc<Pool<Session>>,
}

impl Connections {
    /// Pools of so many connections at most, none of which is open yet.
    pub fn new(db: &Db, host_lock: &Arc<HostLock>, shares: Shares) -> Self {
        let commits = commit_sessions(db, host_lock, shares.commits);
        Connections { commits, documents: documents::sessions(db, shares.documents) }
    }

    /// Processors that have waited for any connection for a second.
    fn waits(&self, pages: &Pages) -> BTreeSet<Arc<str>> {
        let documents = self.documents.waits(LASTING);
        let waits = self.commits.waits(LASTING).into_iter().chain(documents).chain(pages.waits(LASTING));
        waits.map(|wait| wait.processor).collect()
    }

    /// Says in the log and to `sandmill status` which processors wait for a connection, until told to stop.
    pub async fn report_waits(self, pages: Arc<Pages>, db: Db, mut stop: Stop) -> anyhow::Result<()> {
        let (mut reported, mut logged) = (BTreeSet::new(), None::<Instant>);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
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
                    "processors wait for a connection to the database; allow more with `connections`, or find out what keeps the others busy"
                );
            }
            tokio::select! {
                said = say(&db, &waits) => match said {
                    Ok(()) => reported = waits,
                    Err(error) => tracing::debug!(error = describe(&error), "cannot say which processors wait for a connection"),
                },
                () = stop.drain() => return Ok(()),
            }
        }
    }
}

/// How long a processor must have waited before that is reported. Default 1 s: shorter waits are no news.
const LASTING: Duration = Duration::from_secs(1);
/// Between two looks at those that wait.
const LOOK: Duration = Duration::from_millis(250);
/// Between two log lines about them.
const LOG_AGAIN: Duration = Duration::from_secs(30);
/// What `status` says of them.
const WORDS: &str = "waiting for a connection to the database; all that `connections` allows are busy";

async fn say(db: &Db, waits: &BTreeSet<Arc<str>>) -> Result<(), Error> {
    let ids: Vec<&str> = waits.iter().map(|id| &**id).collect();
    db.connect("waits").await?.execute(include_str!("connections/held.sql"), &[&ids, &WORDS]).await?;
    Ok(())
}

/// A session for commits.
pub struct CommitSession {
    pub(super) session: Session,
    /// While this session lives, the database has not crashed from then on.
    unbroken_since: Instant,
}

impl CommitSession {
    /// Whether what was read from a point in time on may be committed here.
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

impl pool::Connection for CommitSession {
    type Error = Error;

    fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        pool::Connection::assign(&mut self.session, purpose)
    }

    fn is_refusal(error: &Error) -> bool {
        <Session as pool::Connection>::is_refusal(error)
    }
}

/// Documents and cursor vanish together when a crash takes back what was not
/// flushed, and are made again from the log, so no commit waits for the disk.
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
    fn connections_are_divided_and_no_more_than_there_are() {
        for connections in LEAST..200 {
            let Shares { commits, documents, sources } = Shares::of(connections);
            assert_eq!(commits + documents + sources + FIXED, connections);
            assert!(documents >= 1 && sources >= 1 && commits >= documents.max(sources));
        }
        assert_eq!(Shares::of(0), Shares { commits: 1, documents: 1, sources: 1 });
        assert_eq!(Shares::of(40), Shares { commits: 18, documents: 8, sources: 8 });
    }
}
