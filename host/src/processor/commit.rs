//! The commit transaction: documents, dead letters, lane checkpoints and progress, all or nothing.
//!
//! The last statements of every commit check the term's fence and the progress that the commit
//! starts from. They come last because they lock rows that other sessions may wait for, and writing
//! documents may take long. Each commit borrows a session (see [`super::connections`]). All
//! statements are sent at once, and COMMIT is sent only after all of them have succeeded. So an
//! error before COMMIT means that nothing was committed. After an error of COMMIT itself the
//! outcome is unknown, and the term ends.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    connections::CommitSession,
    lane_checkpoints::{self, LaneCheckpoint, LaneRow, LaneState},
    report::RateReport,
    shed::Shed,
};
use crate::{
    cluster::fence::{self, Fence},
    db::{
        Error, Session, SqlState, Statement, describe,
        pool::{Borrower, Lease, Pool},
    },
    failpoint,
    model::{
        cursor::Progress,
        handler::Reason,
        ids::{BUCKETS, CollectionName, LaneKey, ProcessorId},
    },
    projections::documents::{DocumentWriter, PreparedWrites, WriteError, Writes},
};

/// Why a commit failed. Each variant has its own consequence.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The database rejected the data. Nothing was committed. The term continues, and looks for the
    /// lane that wrote the data.
    #[error("{0}")]
    Data(String),
    /// Another session owns the processor, or has changed its rows. Nothing was committed. The term
    /// ends.
    #[error("{0}")]
    Fenced(String),
    /// A statement failed for another reason, or the connection was lost. If COMMIT had been sent,
    /// the outcome is unknown. The term ends.
    #[error("{0}")]
    Lost(String),
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        let text = describe(&error);
        match error.code() {
            // The schema raises this code if the fence is not current or a row is not as the term
            // left it.
            Some(code) if code.code() == "SM412" => CommitError::Fenced(text),
            // Classes 21 to 23 and 54: values, constraints, sizes. A unique violation concerns the
            // host's own rows, not the plugin's data.
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

impl From<WriteError> for CommitError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Database(error) => error.into(),
            WriteError::Missed { .. } => CommitError::Fenced(error.to_string()),
        }
    }
}

/// A dead letter: an event that was set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its lane.
    pub lane: LaneKey,
    /// Its position in the log.
    pub position: i64,
    /// Its id.
    pub event_id: Box<str>,
    /// The version of the code that set it aside, as SHA-256.
    pub digest: Arc<str>,
    /// Why it was set aside.
    pub reason: Reason,
    /// Number of attempts.
    pub attempts: u32,
}

/// The content of a commit: progress, and everything that is written together with it.
pub struct Commit<'a> {
    /// The cursor's progress before the commit.
    pub from: &'a Progress,
    /// The cursor's progress after it; equal if only lanes behind the cursor move.
    pub to: &'a Progress,
    /// Lanes that the cursor leaves behind, with their new checkpoints.
    pub left: &'a [(LaneKey, LaneCheckpoint)],
    /// Lanes behind the cursor that move, with the progress that each has before.
    pub moved: &'a [(LaneKey, Progress, LaneCheckpoint)],
    /// Lanes that the cursor covers again, with the progress that each has before.
    pub rejoined: &'a [(LaneKey, Progress)],
    /// Changed documents.
    pub writes: &'a Writes,
    /// New dead letters.
    pub dead_letters: &'a [DeadLetter],
    /// Counts of shed events, by lane.
    pub sheds: &'a [(LaneKey, Shed)],
    /// Number of events handled.
    pub handled: i64,
    /// Rate and measures, if a report is due.
    pub report: Option<&'a RateReport>,
}

/// The writer of one term's commits.
pub struct Committer {
    sessions: Arc<Pool<CommitSession>>,
    borrower: Borrower,
    /// When the term began, before it read anything.
    began: Instant,
    processor: ProcessorId,
    fence: Fence,
    documents: DocumentWriter,
}

struct CommitStatements {
    move_cursor: Statement,
    check_cursor: Statement,
    leave: Statement,
    move_lanes: Statement,
    rejoin: Statement,
    dead_letters: Statement,
    shed: Statement,
    report: Statement,
}

impl CommitStatements {
    /// Prepares the statements that the session has not prepared yet.
    async fn on(session: &Session) -> Result<Self, Error> {
        let (move_cursor, check_cursor, leave, move_lanes, rejoin, dead_letters, shed, report) = tokio::try_join!(
            session.prepared(include_str!("commit/move_cursor.sql")),
            session.prepared(include_str!("commit/check_cursor.sql")),
            session.prepared(include_str!("commit/leave.sql")),
            session.prepared(include_str!("commit/move_lanes.sql")),
            session.prepared(include_str!("commit/rejoin.sql")),
            session.prepared(include_str!("commit/dead_letters.sql")),
            session.prepared(include_str!("commit/shed.sql")),
            session.prepared(include_str!("commit/report.sql")),
        )?;
        Ok(CommitStatements { move_cursor, check_cursor, leave, move_lanes, rejoin, dead_letters, shed, report })
    }
}

/// The state that a term begins with, read under its fence.
pub struct TermStart {
    /// The term's committer, which holds the fence.
    pub committer: Committer,
    /// The progress of each bucket.
    pub cursors: Vec<(i16, Progress)>,
    /// Lanes behind that progress.
    pub checkpoints: Vec<(LaneKey, LaneRow)>,
}

impl Committer {
    /// Begins a term: takes a fence for a processor, and reads the state of the database under it.
    /// `host` is the pid of the session that holds the host lock.
    pub async fn begin(
        sessions: &Arc<Pool<CommitSession>>,
        processor: &ProcessorId,
        collections: &[CollectionName],
        host: i32,
    ) -> Result<TermStart, Error> {
        let borrower = Borrower::of(processor, "commit");
        let mut session = sessions.lend(&borrower).await?;
        // The session is older than this time, so it covers everything read from here on.
        let began = Instant::now();
        let (fence, cursors) = fence::take(&mut session.session, processor, host).await?;
        // The fence comes first, so the rows include everything that an earlier owner committed.
        let checkpoints = lane_checkpoints::read(&session, processor).await?;
        let documents = DocumentWriter::open(&session, processor.owner(), collections).await?;
        session.give_back();
        let (sessions, processor) = (sessions.clone(), processor.clone());
        let committer = Committer { sessions, borrower, began, processor, fence, documents };
        Ok(TermStart { committer, cursors, checkpoints })
    }

    /// Borrows a session on which this term may commit.
    pub async fn session(&self) -> Result<Lease<CommitSession>, CommitError> {
        let session = self.sessions.lend(&self.borrower).await.map_err(|error| CommitError::Lost(describe(&error)))?;
        if session.covers(self.began) {
            return Ok(session);
        }
        // The session is good for later terms.
        session.give_back();
        Err(CommitError::Lost("the connections of this term were lost, perhaps in a crash of the database".into()))
    }

    /// The fence of this term.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Carries out a commit. The error says whether nothing has changed or the outcome is unknown.
    pub async fn commit(&self, commit: Commit<'_>) -> Result<(), CommitError> {
        let session = self.session().await?;
        let statements = CommitStatements::on(&session).await?;
        let documents = self.documents.prepare(&session, commit.writes).await?;
        let transaction =
            CommitTransaction { processor: &self.processor, fence: &self.fence, session: &session, statements };
        let committed = transaction.commit(commit, documents).await;
        // After rejected data the transaction was rolled back, so the session can be used again.
        if matches!(committed, Ok(()) | Err(CommitError::Data(_))) {
            session.give_back();
        }
        committed
    }

    /// Records for `status` why the processor reads nothing; an empty reason clears it. This is not
    /// part of a commit, and nothing depends on it.
    pub async fn record_wait(&self, reason: &str) -> Result<(), CommitError> {
        let session = self.session().await?;
        let statement = session.prepared(include_str!("commit/held.sql")).await?;
        session.execute(&statement, &[&self.processor.as_str(), &reason]).await?;
        session.give_back();
        Ok(())
    }
}

/// A commit under way.
struct CommitTransaction<'a> {
    processor: &'a ProcessorId,
    fence: &'a Fence,
    session: &'a Session,
    statements: CommitStatements,
}

impl CommitTransaction<'_> {
    /// Sends all statements of the commit together, and COMMIT once all have succeeded.
    async fn commit(&self, commit: Commit<'_>, documents: PreparedWrites<'_>) -> Result<(), CommitError> {
        // Boxed, because the futures hold all parameters and would make the caller's future large.
        let work = Box::pin(async {
            let rows = async {
                tokio::try_join!(biased;
                    self.set_aside(commit.dead_letters),
                    self.shed(commit.sheds),
                    self.report(commit.report),
                    self.leave(commit.left),
                    self.move_lanes(commit.moved),
                    self.rejoin(commit.rejoined),
                    self.move_cursor(commit.from, commit.to, commit.handled),
                )?;
                Ok(())
            };
            let documents = async { Ok(documents.write(self.session).await?) };
            tokio::try_join!(biased; documents, rows).map(|_| ())
        });
        self.transact(work).await
    }

    /// Runs the statements of `work` in a transaction. Rolls it back if one of them fails.
    async fn transact(&self, work: impl Future<Output = Result<(), CommitError>>) -> Result<(), CommitError> {
        failpoint::hit("commit.begin");
        let (begun, done) = tokio::join!(biased; self.session.batch_execute("begin"), work);
        if let Err(error) = begun.map_err(CommitError::from).and(done) {
            // An error of the rollback does not matter: without a connection the transaction has
            // ended anyway.
            let _ = self.session.batch_execute("rollback").await;
            return Err(error);
        }
        failpoint::hit("commit.written");
        let mut commit = std::pin::pin!(self.session.batch_execute("commit"));
        let mut sent = false;
        let committed = std::future::poll_fn(|cx| {
            if sent {
                failpoint::hit("commit.sent");
            } else if cfg!(feature = "failpoints") {
                // One more poll, in which the connection's task writes COMMIT to the socket.
                cx.waker().wake_by_ref();
                sent = true;
            }
            commit.as_mut().poll(cx)
        });
        committed.await.map_err(|error| CommitError::Lost(describe(&error)))?;
        failpoint::hit("commit.answered");
        Ok(())
    }

    /// Stores dead letters.
    async fn set_aside(&self, letters: &[DeadLetter]) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        let tenants: Vec<&str> = letters.iter().map(|l| l.lane.tenant.as_str()).collect();
        let keys: Vec<&str> = letters.iter().map(|l| &*l.lane.key).collect();
        let positions: Vec<i64> = letters.iter().map(|l| l.position).collect();
        let ids: Vec<&str> = letters.iter().map(|l| &*l.event_id).collect();
        let digests: Vec<&str> = letters.iter().map(|l| &*l.digest).collect();
        let classes: Vec<&str> = letters.iter().map(|l| l.reason.class.as_str()).collect();
        let messages: Vec<&str> = letters.iter().map(|l| l.reason.message.as_str()).collect();
        let attempts: Vec<i32> = letters.iter().map(|l| i32::try_from(l.attempts).unwrap_or(i32::MAX)).collect();
        self.session
            .execute(
                &self.statements.dead_letters,
                &[
                    &self.processor.as_str(),
                    &digests,
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

    /// Stores the counts of shed events.
    async fn shed(&self, sheds: &[(LaneKey, Shed)]) -> Result<(), Error> {
        if sheds.is_empty() {
            return Ok(());
        }
        let (tenants, keys) = names(sheds.iter().map(|(lane, _)| lane));
        let from: Vec<String> = sheds.iter().map(|(_, shed)| shed.from.to_string()).collect();
        let to: Vec<String> = sheds.iter().map(|(_, shed)| shed.to.to_string()).collect();
        let events: Vec<i64> = sheds.iter().map(|(_, shed)| shed.events as i64).collect();
        let params: [&(dyn crate::db::types::ToSql + Sync); 6] =
            [&self.processor.as_str(), &tenants, &keys, &from, &to, &events];
        self.session.execute(&self.statements.shed, &params).await?;
        Ok(())
    }

    /// Stores the rate and the measures, if a report is due.
    async fn report(&self, report: Option<&RateReport>) -> Result<(), Error> {
        if let Some(RateReport { rate, measures }) = report {
            // Measures are plain numbers, so they always serialize.
            let measures = serde_json::to_string(measures).unwrap_or_else(|_| "{}".into());
            let params: [&(dyn crate::db::types::ToSql + Sync); 3] = [&self.processor.as_str(), rate, &measures];
            self.session.execute(&self.statements.report, &params).await?;
        }
        Ok(())
    }

    /// Inserts the checkpoints of lanes that the cursor leaves behind.
    async fn leave(&self, left: &[(LaneKey, LaneCheckpoint)]) -> Result<(), Error> {
        if left.is_empty() {
            return Ok(());
        }
        let buckets: Vec<i16> = left.iter().map(|(lane, _)| lane.bucket().into()).collect();
        let (tenants, keys) = names(left.iter().map(|(lane, _)| lane));
        let rows = CheckpointColumns::of(left.iter().map(|(_, checkpoint)| checkpoint));
        self.session
            .execute(
                &self.statements.leave,
                &[
                    &self.processor.as_str(),
                    &buckets,
                    &tenants,
                    &keys,
                    &rows.progress,
                    &rows.states,
                    &rows.attempts,
                    &rows.next_at,
                    &rows.classes,
                    &rows.reasons,
                    &rows.event_positions,
                ],
            )
            .await?;
        Ok(())
    }

    /// Updates the checkpoints of lanes behind the cursor.
    async fn move_lanes(&self, moved: &[(LaneKey, Progress, LaneCheckpoint)]) -> Result<(), Error> {
        if moved.is_empty() {
            return Ok(());
        }
        let (tenants, keys) = names(moved.iter().map(|(lane, ..)| lane));
        let before: Vec<String> = moved.iter().map(|(_, before, _)| before.to_string()).collect();
        let rows = CheckpointColumns::of(moved.iter().map(|(.., checkpoint)| checkpoint));
        self.session
            .query(
                &self.statements.move_lanes,
                &[
                    &self.processor.as_str(),
                    &tenants,
                    &keys,
                    &before,
                    &rows.progress,
                    &rows.states,
                    &rows.attempts,
                    &rows.next_at,
                    &rows.classes,
                    &rows.reasons,
                    &rows.event_positions,
                ],
            )
            .await?;
        Ok(())
    }

    /// Deletes the checkpoints of lanes that the cursor covers again.
    async fn rejoin(&self, rejoined: &[(LaneKey, Progress)]) -> Result<(), Error> {
        if rejoined.is_empty() {
            return Ok(());
        }
        let (tenants, keys) = names(rejoined.iter().map(|(lane, _)| lane));
        let before: Vec<String> = rejoined.iter().map(|(_, before)| before.to_string()).collect();
        self.session.query(&self.statements.rejoin, &[&self.processor.as_str(), &tenants, &keys, &before]).await?;
        Ok(())
    }

    /// Moves the cursor of every bucket, or only checks and locks it if it stays. Fails the
    /// transaction if the fence is not current. Sent last, because it locks the rows.
    async fn move_cursor(&self, from: &Progress, to: &Progress, handled: i64) -> Result<(), Error> {
        let (processor, fence, buckets) = (self.processor.as_str(), self.fence.as_str(), i64::from(BUCKETS));
        let (from, to) = (from.to_string(), to.to_string());
        if from == to {
            let params: [&(dyn crate::db::types::ToSql + Sync); 5] = [&processor, &fence, &from, &buckets, &handled];
            self.session.query(&self.statements.check_cursor, &params).await?;
        } else {
            let params: [&(dyn crate::db::types::ToSql + Sync); 6] =
                [&processor, &fence, &from, &to, &buckets, &handled];
            self.session.query(&self.statements.move_cursor, &params).await?;
        }
        Ok(())
    }
}

/// The tenants and the keys of lanes, as two columns.
fn names<'a>(lanes: impl Iterator<Item = &'a LaneKey>) -> (Vec<&'a str>, Vec<&'a str>) {
    lanes.map(|lane| (lane.tenant.as_str(), &*lane.key)).unzip()
}

/// Lane checkpoints, column by column.
#[derive(Default)]
struct CheckpointColumns {
    progress: Vec<String>,
    states: Vec<&'static str>,
    attempts: Vec<i32>,
    next_at: Vec<Option<SystemTime>>,
    classes: Vec<String>,
    reasons: Vec<String>,
    event_positions: Vec<Option<i64>>,
}

impl CheckpointColumns {
    fn of<'a>(checkpoints: impl Iterator<Item = &'a LaneCheckpoint>) -> Self {
        let mut columns = CheckpointColumns::default();
        for checkpoint in checkpoints {
            let reason = checkpoint.state.reason();
            columns.progress.push(checkpoint.progress.to_string());
            columns.states.push(checkpoint.state.name());
            columns.attempts.push(i32::try_from(checkpoint.attempts).unwrap_or(i32::MAX));
            columns.next_at.push(match checkpoint.state {
                LaneState::Retrying { at, .. } => Some(at),
                _ => None,
            });
            columns.classes.push(reason.map_or_else(String::new, |r| r.class.clone()));
            columns.reasons.push(reason.map_or_else(String::new, |r| r.message.clone()));
            columns.event_positions.push(checkpoint.event_position);
        }
        columns
    }
}
