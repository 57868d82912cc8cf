//! The one transaction: documents, dead letters, exceptions and progress, together or not at all.
//!
//! Every commit shows the term's fence and the progress it started from, in its last statements, so that no row that others wait for is locked
//! while documents are written. All statements travel at once and COMMIT goes out only after every one of them was answered
//! well. So an error before COMMIT means that nothing happened; an error of COMMIT itself means that nobody knows, and the term ends.

use std::time::SystemTime;

use super::exceptions::{Exception, LaneState};
use crate::{
    cluster::fence::Fence,
    db::{Error, Session, SqlState, Statement, describe},
    failpoint,
    model::{
        cursor::Progress,
        handler::Reason,
        ids::{BUCKETS, CollectionName, LaneKey, ProcessorId},
    },
    projections::documents::{Writer, Writes},
};

/// Why a commit did not happen, named by what happens next.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The data was refused. Nothing was committed; the term goes on without what was refused.
    #[error("{0}")]
    Data(String),
    /// Somebody else owns the processor, or wrote its rows. Nothing was committed; the term ends.
    #[error("{0}")]
    Fenced(String),
    /// The connection failed, perhaps after COMMIT was sent. Nobody knows what was committed; the term ends.
    #[error("{0}")]
    Lost(String),
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        let text = describe(&error);
        match error.code() {
            Some(code) if code.code() == "SM412" => CommitError::Fenced(text),
            // Classes 21 to 23 and 54: values, constraints, sizes. A unique violation of our own rows is no matter of data.
            Some(code)
                if *code != SqlState::UNIQUE_VIOLATION
                    && ["21", "22", "23", "54"].iter().any(|class| code.code().starts_with(class)) =>
            {
                CommitError::Data(text)
            }
            _ => CommitError::Lost(text),
        }
    }
}

/// An event that was set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its lane.
    pub lane: LaneKey,
    /// Where it stands in the log.
    pub position: i64,
    /// Its id.
    pub event_id: Box<str>,
    /// Kind and words.
    pub reason: Reason,
    /// How often it was tried.
    pub attempts: u32,
}

/// What a lane or a page led to, besides its progress.
#[derive(Default)]
pub struct Results {
    /// Documents.
    pub writes: Writes,
    /// Events set aside.
    pub dead_letters: Vec<DeadLetter>,
    /// Events handled since the last report, and how many a second: when it is time to say so.
    pub report: Option<(i64, f64)>,
}

/// A page, as it is committed.
pub struct PageCommit<'a> {
    /// What the cursor must say.
    pub from: &'a Progress,
    /// What it will say.
    pub to: &'a Progress,
    /// Lanes that it leaves behind.
    pub left: &'a [(LaneKey, Exception)],
    /// What its lanes led to.
    pub results: &'a Results,
}

/// A lane that reads for itself, as it is committed.
pub struct LaneCommit<'a> {
    /// Which.
    pub lane: &'a LaneKey,
    /// What its row must say.
    pub from: &'a Progress,
    /// Where it goes.
    pub to: LaneMove<'a>,
    /// What it led to.
    pub results: &'a Results,
}

/// Where a lane behind the cursor goes.
pub enum LaneMove<'a> {
    /// It stands elsewhere now, or for another reason.
    Moved(&'a Exception),
    /// It stands where the cursor does, and is one with it again.
    Rejoined(&'a Progress),
}

/// Commits on behalf of one term.
pub struct Committer {
    session: Session,
    processor: ProcessorId,
    digest: String,
    fence: Fence,
    documents: Writer,
    statements: Statements,
}

struct Statements {
    move_cursor: Statement,
    leave: Statement,
    move_lane: Statement,
    rejoin: Statement,
    dead_letters: Statement,
    report: Statement,
}

impl Committer {
    /// Prepares a term's session. Documents and cursor vanish together when a crash takes back what was not flushed, and are made again
    /// from the log, so no commit waits for the disk.
    pub async fn open(
        session: Session,
        processor: &ProcessorId,
        digest: &str,
        fence: Fence,
        collections: &[CollectionName],
    ) -> Result<Self, Error> {
        session.batch_execute("set synchronous_commit = off").await?;
        let statements = Statements {
            move_cursor: session.prepare(include_str!("commit/move_cursor.sql")).await?,
            leave: session.prepare(include_str!("commit/leave.sql")).await?,
            move_lane: session.prepare(include_str!("commit/move_lane.sql")).await?,
            rejoin: session.prepare(include_str!("commit/rejoin.sql")).await?,
            dead_letters: session.prepare(include_str!("commit/dead_letters.sql")).await?,
            report: session.prepare(include_str!("commit/report.sql")).await?,
        };
        let documents = Writer::open(&session, collections).await?;
        Ok(Committer { session, processor: processor.clone(), digest: digest.into(), fence, documents, statements })
    }

    /// The session, between two commits.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Commits a page.
    pub async fn page(&self, page: PageCommit<'_>) -> Result<(), CommitError> {
        let work = async {
            tokio::try_join!(biased;
                self.results(page.results),
                self.leave(page.left),
                self.move_cursor(page.from, page.to),
            )
        };
        self.transact(work).await
    }

    /// Commits a lane that reads for itself.
    pub async fn lane(&self, lane: LaneCommit<'_>) -> Result<(), CommitError> {
        let work = async { tokio::try_join!(biased; self.results(lane.results), self.move_lane(&lane)) };
        self.transact(work).await
    }

    async fn transact<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<(), CommitError> {
        failpoint::hit("commit.begin");
        let (begun, done) = tokio::join!(biased; self.session.batch_execute("begin"), work);
        if let Err(error) = begun.and(done.map(|_| ())) {
            // What the rollback says does not matter: without a connection there is nothing left to roll back.
            let _ = self.session.batch_execute("rollback").await;
            return Err(error.into());
        }
        failpoint::hit("commit.written");
        let mut commit = std::pin::pin!(self.session.batch_execute("commit"));
        let mut sent = false;
        let committed = std::future::poll_fn(|cx| {
            if sent {
                failpoint::hit("commit.sent");
            } else if cfg!(feature = "failpoints") {
                // One more turn, in which the connection's task writes it to the socket.
                cx.waker().wake_by_ref();
                sent = true;
            }
            commit.as_mut().poll(cx)
        });
        committed.await.map_err(|error| CommitError::Lost(describe(&error)))?;
        failpoint::hit("commit.answered");
        Ok(())
    }

    async fn results(&self, results: &Results) -> Result<(), Error> {
        tokio::try_join!(biased;
            self.documents.write(&self.session, &results.writes),
            self.set_aside(&results.dead_letters),
            self.report(results.report),
        )?;
        Ok(())
    }

    async fn set_aside(&self, letters: &[DeadLetter]) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        let tenants: Vec<&str> = letters.iter().map(|l| l.lane.tenant.as_str()).collect();
        let keys: Vec<&str> = letters.iter().map(|l| &*l.lane.key).collect();
        let positions: Vec<i64> = letters.iter().map(|l| l.position).collect();
        let ids: Vec<&str> = letters.iter().map(|l| &*l.event_id).collect();
        let classes: Vec<&str> = letters.iter().map(|l| l.reason.class.as_str()).collect();
        let messages: Vec<&str> = letters.iter().map(|l| l.reason.message.as_str()).collect();
        let attempts: Vec<i32> = letters.iter().map(|l| l.attempts as i32).collect();
        self.session
            .execute(
                &self.statements.dead_letters,
                &[
                    &self.processor.as_str(),
                    &self.digest,
                    &tenants,
                    &keys,
                    &positions,
                    &ids,
                    &classes,
                    &messages,
                    &attempts,
                ],
            )
            .await?;
        Ok(())
    }

    async fn report(&self, report: Option<(i64, f64)>) -> Result<(), Error> {
        if let Some((handled, rate)) = report {
            self.session.execute(&self.statements.report, &[&self.processor.as_str(), &handled, &rate]).await?;
        }
        Ok(())
    }

    async fn leave(&self, left: &[(LaneKey, Exception)]) -> Result<(), Error> {
        if left.is_empty() {
            return Ok(());
        }
        let buckets: Vec<i16> = left.iter().map(|(lane, _)| lane.bucket().into()).collect();
        let tenants: Vec<&str> = left.iter().map(|(lane, _)| lane.tenant.as_str()).collect();
        let keys: Vec<&str> = left.iter().map(|(lane, _)| &*lane.key).collect();
        let columns: Vec<Columns> = left.iter().map(|(_, exception)| Columns::of(exception)).collect();
        let progress: Vec<&str> = columns.iter().map(|c| c.progress.as_str()).collect();
        let states: Vec<&str> = columns.iter().map(|c| c.state).collect();
        let attempts: Vec<i32> = columns.iter().map(|c| c.attempts).collect();
        let next: Vec<Option<SystemTime>> = columns.iter().map(|c| c.next_at).collect();
        let classes: Vec<&str> = columns.iter().map(|c| c.class.as_str()).collect();
        let reasons: Vec<&str> = columns.iter().map(|c| c.reason.as_str()).collect();
        let positions: Vec<Option<i64>> = columns.iter().map(|c| c.event_position).collect();
        self.session
            .execute(
                &self.statements.leave,
                &[
                    &self.processor.as_str(),
                    &buckets,
                    &tenants,
                    &keys,
                    &progress,
                    &states,
                    &attempts,
                    &next,
                    &classes,
                    &reasons,
                    &positions,
                ],
            )
            .await?;
        Ok(())
    }

    async fn move_cursor(&self, from: &Progress, to: &Progress) -> Result<(), Error> {
        let (from, to) = (from.to_string(), to.to_string());
        self.session
            .query(
                &self.statements.move_cursor,
                &[&self.processor.as_str(), &self.fence.as_str(), &from, &to, &i64::from(BUCKETS)],
            )
            .await?;
        Ok(())
    }

    async fn move_lane(&self, commit: &LaneCommit<'_>) -> Result<(), Error> {
        let (processor, fence) = (self.processor.as_str(), self.fence.as_str());
        let bucket = i16::from(commit.lane.bucket());
        let (tenant, key) = (commit.lane.tenant.as_str(), &*commit.lane.key);
        let from = commit.from.to_string();
        match &commit.to {
            LaneMove::Rejoined(cursor) => {
                let cursor = cursor.to_string();
                self.session
                    .query(&self.statements.rejoin, &[&processor, &fence, &bucket, &tenant, &key, &from, &cursor])
                    .await?;
            }
            LaneMove::Moved(exception) => {
                let c = Columns::of(exception);
                self.session
                    .query(
                        &self.statements.move_lane,
                        &[
                            &processor,
                            &fence,
                            &bucket,
                            &tenant,
                            &key,
                            &from,
                            &c.progress,
                            &c.state,
                            &c.attempts,
                            &c.next_at,
                            &c.class,
                            &c.reason,
                            &c.event_position,
                        ],
                    )
                    .await?;
            }
        }
        Ok(())
    }
}

/// An exception as its row holds it.
struct Columns {
    progress: String,
    state: &'static str,
    attempts: i32,
    next_at: Option<SystemTime>,
    class: String,
    reason: String,
    event_position: Option<i64>,
}

impl Columns {
    fn of(exception: &Exception) -> Self {
        let reason = exception.state.reason();
        Columns {
            progress: exception.progress.to_string(),
            state: exception.state.name(),
            attempts: exception.attempts as i32,
            next_at: match exception.state {
                LaneState::Retrying { at, .. } => Some(at),
                _ => None,
            },
            class: reason.map_or_else(String::new, |r| r.class.clone()),
            reason: reason.map_or_else(String::new, |r| r.message.clone()),
            event_position: exception.event_position,
        }
    }
}
