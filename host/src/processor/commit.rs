//! The commit transaction: documents, dead letters, appended events, lane checkpoints and progress,
//! all or nothing. Documents are written by `projections::documents`, and the rest, except for the
//! progress, by a module each.
//!
//! The last statement of every commit checks the term's fence and the progress that the commit
//! starts from. It comes last because it locks a row that other sessions may wait for, and writing
//! documents may take long. Events are appended just before it, because that locks streams. Each
//! commit borrows a session (see [`super::connections`]). All
//! statements are sent at once, and COMMIT is sent only after all of them have succeeded. So an
//! error before COMMIT means that nothing was committed. After an error of COMMIT itself the
//! outcome is unknown, and the term ends.

mod appends;
mod lanes;
mod letters;
mod sheds;
mod streams;

use std::{sync::Arc, time::Instant};

pub use appends::AppendRefusal;

use super::{
    connections::CommitSession,
    lane_checkpoints::{self, LaneCheckpoint, LaneRow},
    outcome::Outcome,
    report::RateReport,
    set_aside::{self, SetAsideState},
};
use crate::{
    cluster::fence::{self, Fence},
    db::{
        Error, Session, Statement, describe,
        pool::{Borrower, Lease, Pool},
    },
    failpoint,
    model::{
        cursor::Progress,
        ids::{CollectionName, LaneKey},
        share::Share,
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
    /// The event store refused the appends of some lanes. Nothing was committed. The term
    /// continues, and these lanes retry.
    #[error("the event store refused the appends of reactors")]
    Appends(AppendRefusal),
    /// Another session owns the share, or has changed its rows. Nothing was committed. The term
    /// ends.
    #[error("{0}")]
    Fenced(String),
    /// A statement failed for another reason, or the connection was lost. If COMMIT had been sent,
    /// the outcome is unknown. The term ends.
    #[error("{0}")]
    Lost(String),
}

/// The keys of the rows in the schema `sandmill` that a commit writes or refers to. If one of them
/// is violated, another program changed these rows; no plugin's data can cause it.
pub const OWN_KEYS: [&str; 12] = [
    "cursors_pkey",
    "cursors_processor_generation_fkey",
    "dead_letters_pkey",
    "dead_letters_processor_generation_fkey",
    "generations_pkey",
    "generations_processor_fkey",
    "lane_checkpoints_pkey",
    "lane_checkpoints_processor_generation_fkey",
    "parked_streams_pkey",
    "parked_streams_processor_generation_fkey",
    "sheds_pkey",
    "sheds_processor_generation_fkey",
];

/// Whether a key is one that only the host's own rows can violate, by its schema and name. Of the
/// tables of documents this is the primary key alone: other constraints there are an operator's.
fn is_own_key(schema: &str, name: &str) -> bool {
    match schema {
        "sandmill" => OWN_KEYS.contains(&name),
        "sandmill_documents" => name.ends_with("_pkey"),
        _ => false,
    }
}

impl CommitError {
    /// Classifies an error by its SQLSTATE and by the violated constraint, given with its schema.
    fn of(code: Option<&str>, constraint: Option<(&str, &str)>, text: String) -> Self {
        match code {
            // The schema raises this code if the fence is not current or a row is not as the term
            // left it.
            Some("SM412") => CommitError::Fenced(text),
            // Violations of foreign and of unique keys.
            Some("23503" | "23505") if constraint.is_none_or(|(schema, name)| is_own_key(schema, name)) => {
                CommitError::Lost(text)
            }
            // Values, constraints, sizes; appended events that the store refuses for their content.
            Some(code) if ["21", "22", "23", "54", "SM413", "SM422"].iter().any(|class| code.starts_with(class)) => {
                CommitError::Data(text)
            }
            _ => CommitError::Lost(text),
        }
    }
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        let constraint = error.as_db_error().and_then(|error| Some((error.schema()?, error.constraint()?)));
        CommitError::of(error.code().map(|code| code.code()), constraint, describe(&error))
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
    /// Changed documents of these outcomes.
    pub writes: &'a Writes,
    /// What runs have left to be written, besides the documents.
    pub outcomes: &'a [(&'a LaneKey, &'a Outcome)],
    /// Rate and measures, if a report is due.
    pub report: Option<&'a RateReport>,
}

/// The writer of one term's commits.
pub struct Committer {
    sessions: Arc<Pool<CommitSession>>,
    borrower: Borrower,
    /// When the term began, before it read anything.
    began: Instant,
    share: Share,
    fence: Fence,
    documents: DocumentWriter,
}

struct CommitStatements {
    move_cursor: Statement,
    /// Prepared only if there is something to append.
    append: Option<Statement>,
    leave: Statement,
    move_lanes: Statement,
    rejoin: Statement,
    dead_letters: Statement,
    answered: Statement,
    parked: Statement,
    moved_streams: Statement,
    shed: Statement,
}

impl CommitStatements {
    /// Prepares the statements that the session has not prepared yet.
    async fn on(session: &Session, outcomes: &[(&LaneKey, &Outcome)]) -> Result<Self, Error> {
        let append = match outcomes.iter().any(|(_, outcome)| !outcome.appends.is_empty()) {
            true => Some(session.prepared(include_str!("commit/append.sql")).await?),
            false => None,
        };
        let (move_cursor, leave, move_lanes, rejoin, dead_letters, answered, parked, moved_streams, shed) = tokio::try_join!(
            session.prepared(include_str!("commit/move_cursor.sql")),
            session.prepared(include_str!("commit/leave.sql")),
            session.prepared(include_str!("commit/move_lanes.sql")),
            session.prepared(include_str!("commit/rejoin.sql")),
            session.prepared(include_str!("commit/dead_letters.sql")),
            session.prepared(include_str!("commit/answered.sql")),
            session.prepared(include_str!("commit/parked.sql")),
            session.prepared(include_str!("commit/moved_streams.sql")),
            session.prepared(include_str!("commit/shed.sql")),
        )?;
        Ok(CommitStatements {
            move_cursor,
            append,
            leave,
            move_lanes,
            rejoin,
            dead_letters,
            answered,
            parked,
            moved_streams,
            shed,
        })
    }
}

/// The state that a term begins with, read under its fence.
pub struct TermStart {
    /// The term's committer, which holds the fence.
    pub committer: Committer,
    /// The progress of the share's cursor.
    pub stored: Progress,
    /// Lanes behind that progress.
    pub checkpoints: Vec<(LaneKey, LaneRow)>,
    /// What was set aside.
    pub set_aside: SetAsideState,
}

impl Committer {
    /// Begins a term: takes a fence for a share, and reads the state of the database under it.
    /// `host` is the pid of the session that holds the host lock. Sets `owned` as soon as the fence
    /// is taken, even if something fails later. None if the share no longer exists or owns other
    /// buckets.
    pub async fn begin(
        sessions: &Arc<Pool<CommitSession>>,
        share: Share,
        collections: &[CollectionName],
        host: i32,
        owned: &mut Option<(Share, Fence)>,
    ) -> Result<Option<TermStart>, Error> {
        let borrower = Borrower::of(&share.processor, "commit");
        let mut session = sessions.lend(&borrower).await?;
        // The session is older than this time, so it covers everything read from here on.
        let began = Instant::now();
        let Some((fence, stored)) = fence::take(&mut session.session, &share, host).await? else {
            session.give_back();
            return Ok(None);
        };
        *owned = Some((share.clone(), fence.clone()));
        // The fence comes first, so the rows include everything that an earlier owner committed.
        let checkpoints = lane_checkpoints::read(&session, &share).await?;
        let set_aside = set_aside::read(&session, &share).await?;
        let documents = DocumentWriter::open(&session, share.processor.owner(), collections).await?;
        session.give_back();
        let committer = Committer { sessions: sessions.clone(), borrower, began, share, fence, documents };
        Ok(Some(TermStart { committer, stored, checkpoints, set_aside }))
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

    /// The share that this term owns.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// The fence of this term.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Carries out a commit. The error says whether nothing has changed or the outcome is unknown.
    pub async fn commit(&self, commit: Commit<'_>) -> Result<(), CommitError> {
        let session = self.session().await?;
        let statements = CommitStatements::on(&session, commit.outcomes).await?;
        let documents = self.documents.prepare(&session, commit.writes).await?;
        let transaction = CommitTransaction { share: &self.share, fence: &self.fence, session: &session, statements };
        let committed = transaction.commit(commit, documents).await;
        // After rejected data the transaction was rolled back, so the session can be used again.
        if matches!(committed, Ok(()) | Err(CommitError::Data(_) | CommitError::Appends(_))) {
            session.give_back();
        }
        committed
    }

    /// Records for `status` why the processor reads nothing; an empty reason clears it. This is not
    /// part of a commit, and nothing depends on it.
    pub async fn record_wait(&self, reason: &str) -> Result<(), CommitError> {
        let session = self.session().await?;
        let statement = session.prepared(include_str!("commit/held.sql")).await?;
        session.execute(&statement, &[&self.share.processor.as_str(), &reason]).await?;
        session.give_back();
        Ok(())
    }
}

/// A commit under way.
struct CommitTransaction<'a> {
    share: &'a Share,
    fence: &'a Fence,
    session: &'a Session,
    statements: CommitStatements,
}

impl CommitTransaction<'_> {
    /// Sends all statements of the commit together, and COMMIT once all have succeeded.
    async fn commit(&self, commit: Commit<'_>, documents: PreparedWrites<'_>) -> Result<(), CommitError> {
        // Boxed, because the futures hold all parameters and would make the caller's future large.
        let work = Box::pin(async {
            let documents = async { Ok(documents.write(self.session).await?) };
            let rows = async {
                tokio::try_join!(biased;
                    self.write_letters(commit.outcomes),
                    self.delete_letters(commit.outcomes),
                    self.write_streams(commit.outcomes),
                    self.write_sheds(commit.outcomes),
                    self.leave(commit.left),
                    self.move_lanes(commit.moved),
                    self.rejoin(commit.rejoined),
                )?;
                Ok(())
            };
            let cursor = async { Ok(self.move_cursor(&commit).await?) };
            tokio::try_join!(biased; documents, rows, self.append(commit.outcomes), cursor).map(|_| ())
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

    /// Moves the cursor, even if only to where it is, with the commit's counts and its report.
    /// Fails the transaction if the fence is not current. Sent last, because it locks the row.
    async fn move_cursor(&self, commit: &Commit<'_>) -> Result<(), Error> {
        let Share { processor, generation, number, .. } = self.share;
        let (from, to) = (commit.from.to_string(), commit.to.to_string());
        let handled: i64 = commit.outcomes.iter().map(|(_, outcome)| outcome.counted() as i64).sum();
        let discarded: i64 = commit.outcomes.iter().map(|(_, outcome)| outcome.discarded as i64).sum();
        let shed: i64 = sheds::of(commit.outcomes).map(|(_, shed)| shed.events as i64).sum();
        let rate = commit.report.map(|report| report.rate);
        // Measures are plain numbers, so they always serialize.
        let measures =
            commit.report.map(|report| serde_json::to_string(&report.measures).unwrap_or_else(|_| "{}".into()));
        self.session
            .query(
                &self.statements.move_cursor,
                &[
                    &processor.as_str(),
                    generation,
                    number,
                    &self.fence.as_str(),
                    &from,
                    &to,
                    &handled,
                    &shed,
                    &discarded,
                    &rate,
                    &measures,
                ],
            )
            .await?;
        Ok(())
    }
}

/// The tenants and the keys of lanes, as two columns.
fn names<'a>(lanes: impl Iterator<Item = &'a LaneKey>) -> (Vec<&'a str>, Vec<&'a str>) {
    lanes.map(|lane| (lane.tenant.as_str(), &*lane.key)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: &str, constraint: Option<(&str, &str)>) -> &'static str {
        match CommitError::of(Some(code), constraint, String::new()) {
            CommitError::Data(_) => "data",
            CommitError::Appends(_) => "appends",
            CommitError::Fenced(_) => "fenced",
            CommitError::Lost(_) => "lost",
        }
    }

    #[test]
    fn a_violated_key_of_the_hosts_own_rows_ends_the_term() {
        for own in OWN_KEYS {
            let code = if own.ends_with("_fkey") { "23503" } else { "23505" };
            assert_eq!(class(code, Some(("sandmill", own))), "lost", "{own}");
        }
        assert_eq!(class("23505", Some(("sandmill_documents", "c17_1_pkey"))), "lost");
        assert_eq!(class("23505", None), "lost", "an unknown key");
    }

    #[test]
    fn a_constraint_that_a_plugins_data_violated_concerns_its_lane() {
        for (code, constraint) in [
            ("23505", Some(("sandmill", "events_tenant_id_key"))),
            ("23505", Some(("sandmill_documents", "c17_1_email"))),
            ("23503", Some(("public", "orders_customer_fkey"))),
            ("23514", Some(("sandmill", "dead_letters_check"))),
            ("22P05", None),
            ("54000", None),
        ] {
            assert_eq!(class(code, constraint), "data", "{code} {constraint:?}");
        }
    }

    #[test]
    fn a_failed_check_is_fenced_and_all_else_is_lost() {
        assert_eq!(class("SM412", None), "fenced");
        assert_eq!(class("57014", None), "lost");
        assert!(matches!(CommitError::of(None, None, String::new()), CommitError::Lost(_)));
    }
}
