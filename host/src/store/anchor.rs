//! Re-anchoring: a check that the store's transaction ids (xids) belong to this cluster, and their
//! replacement if they do not.
//!
//! A cursor is a snapshot, which consists of xids, and xids have a meaning only in the cluster that
//! assigned them. After a restore from a dump, or any other move that copies rows, events and
//! cursors have xids that the new cluster will assign again. Events could then count as handled, or
//! be handled twice. So a host runs [`check`] before it starts, and [`reanchor`] gives the store
//! xids of this cluster.
//!
//! Re-anchoring changes no outcome. The old xids are enough to compute what each cursor and each
//! lane checkpoint has handled, in any cluster. Events that the same checkpoints have handled form
//! a class. Every class gets one low xid, long past in any cluster. Every checkpoint becomes a
//! snapshot in which exactly its classes are visible, and no later transaction. This takes one
//! transaction, rewrites all events, and blocks appends in the meantime.
//!
//! `sandmill.append` and the import reject a store of another cluster, but a plain INSERT does not.
//! An event that was inserted between the restore and re-anchoring has an xid of this cluster,
//! which may count as handled in the old snapshots. The transactions that wrote the rows show which
//! events these are (`anchor/since.sql`); they count as unhandled. If the rows do not show it,
//! nothing is changed, and the operator must name the first such position.

use serde_json::json;

use crate::{
    cluster::host_lock::{self, LockError},
    db::{
        Error, IsolationLevel, Row, Session, Transaction,
        audit::{self, AuditEntry},
        describe,
    },
    model::cursor::{ParseError, Progress, Snapshot, Xid},
};

/// The columns of the schema `sandmill` with xids or progress that are compared with those of later
/// transactions, as table and column. A [`reanchor`] rewrites all of them, and [`check`] reads
/// them.
pub const RENUMBERED: [(&str, &str); 3] =
    [("cursors", "progress"), ("events", "xid"), ("lane_checkpoints", "progress")];
/// The columns with progress that a [`reanchor`] leaves as they are, because they only show what
/// happened: nothing compares them with other xids.
pub const HISTORY: [(&str, &str); 2] = [("sheds", "from_progress"), ("sheds", "to_progress")];
/// The first xid that a transaction can have.
const FIRST_XID: Xid = 3;
/// Maximum number of classes. 500: hundreds of lanes with different progress result in as many, and
/// a new cluster has used more xids than that before the first connection.
const CLASSES_MAX: usize = 500;
/// Maximum wait of re-anchoring for appends in progress. 60 s: appends are part of transactions of
/// applications, which may take a while, and new appends queue behind re-anchoring.
const PATIENCE_FOR_APPENDS: &str = "60s";

/// Why the store's xids cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// Another cluster assigned them.
    #[error(
        "the event store belongs to another database cluster (system identifier {stored}; this one has {actual}), because it was \
         restored from a dump or moved. Its cursors refer to transactions of that cluster, so events would be missed or \
         handled twice.{}",
        REMEDY
    )]
    OtherCluster {
        /// The system identifier of the store's cluster.
        stored: i64,
        /// That of this cluster.
        actual: i64,
    },
    /// Future transactions are visible in a checkpoint.
    #[error(
        "a checkpoint of processor {processor}, {progress}, is ahead of this database, whose next transaction is {next}. \
         The database lost transactions or was restored from an older state, so new events would count as handled.{}",
        REMEDY
    )]
    ProgressAhead {
        /// The processor.
        processor: String,
        /// Its checkpoint, as a progress.
        progress: String,
        /// The next xid of this cluster.
        next: String,
    },
    /// An event has the xid of a future transaction.
    #[error(
        "the event at position {position} has transaction {xid}, but the next transaction of this database is {next}. It \
         was written in another cluster, and would be handled again when that number is assigned.{}",
        REMEDY
    )]
    EventAhead {
        /// The event's position.
        position: i64,
        /// Its xid.
        xid: String,
        /// The next xid of this cluster.
        next: String,
    },
    /// A database error.
    #[error("compare the event store with its cluster: {}", describe(.0))]
    Database(#[from] Error),
}

const REMEDY: &str = "\nRun `sandmill migrate --reanchor`: it gives events and cursors transaction numbers of this cluster. \
                      Events that were handled stay handled, and no other event counts as handled.";

/// Fails if the store's xids are not this cluster's.
pub async fn check(session: &Session) -> Result<(), AnchorError> {
    let row = session.query_one(include_str!("anchor/check.sql"), &[]).await?;
    let (stored, actual) = (row.get(0), row.get(1));
    if stored != actual {
        return Err(AnchorError::OtherCluster { stored, actual });
    }
    if let Some(processor) = row.get(3) {
        return Err(AnchorError::ProgressAhead { processor, progress: row.get(4), next: row.get(2) });
    }
    if let Some(position) = row.get(5) {
        return Err(AnchorError::EventAhead { position, xid: row.get(6), next: row.get(2) });
    }
    Ok(())
}

/// The report of a [`reanchor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReanchorReport {
    /// Events rewritten.
    pub events: u64,
    /// Distinct checkpoints of processors and lanes rewritten, without those before the first
    /// event.
    pub checkpoints: usize,
    /// The first position that was appended since the restore, from which on no event is handled.
    pub appended_from: Option<i64>,
}

/// Why the store was not re-anchored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReanchorError {
    /// A host is running on the database.
    #[error("re-anchor the event store")]
    Lock(#[from] LockError),
    /// There are more classes of events than low xids for them.
    #[error(
        "the {checkpoints} checkpoints of this store's processors and lanes divide its events into {classes} classes; at most \
         {max} are possible. Nothing was changed. Remove processors that are no longer needed (sandmill processors remove), \
         or let lanes catch up in the former cluster and dump it again."
    )]
    TooManyClasses {
        /// The number of distinct checkpoints.
        checkpoints: usize,
        /// The number of classes.
        classes: usize,
        /// The maximum number of classes.
        max: usize,
    },
    /// Some events may be of this cluster or of the former one.
    #[error(
        "{events} at positions {first} to {last} may have been appended since the restore; their rows do not show \
         whether they were. Nothing was changed. Look at them with `sandmill events --from {first}`, then name the first \
         position that was appended since the restore: sandmill migrate --reanchor --appended-from POSITION. If none was, \
         give a position after the last event.",
        events = if *.events == 1 { "1 event".to_string() } else { format!("{} events", .events) }
    )]
    Undecided {
        /// The number of these events.
        events: i64,
        /// The lowest of their positions.
        first: i64,
        /// The highest of their positions.
        last: i64,
    },
    /// A checkpoint that cannot be parsed.
    #[error("re-anchor the event store: {0}; nothing was changed")]
    Progress(#[from] ParseError),
    /// A database error.
    #[error("re-anchor the event store: {}; nothing was changed", describe(.0))]
    Database(#[from] Error),
}

/// Gives events, cursors and lane checkpoints xids of this cluster, in one transaction, on behalf
/// of `who`. Fails while a host is running. `appended_from` is the first position that was appended
/// since the restore, if the operator names it; otherwise the rows show it.
pub async fn reanchor(
    session: &mut Session,
    appended_from: Option<i64>,
    who: &str,
) -> Result<ReanchorReport, ReanchorError> {
    // Each statement must see what was committed before the locks were granted.
    let transaction =
        session.client_mut().build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    host_lock::take_within(&transaction).await?;
    transaction
        .batch_execute(&format!(
            "set local lock_timeout = '{PATIENCE_FOR_APPENDS}'; set local synchronous_commit = on; \
             lock table sandmill.events, sandmill.cursors, sandmill.lane_checkpoints in exclusive mode"
        ))
        .await?;
    // Taken after appends are blocked. Events of transactions that are running now and append later
    // are unhandled in every checkpoint.
    let now: Snapshot = one_text(&transaction.query_one("select pg_current_snapshot()::text", &[]).await?).parse()?;
    let appended_from = match appended_from {
        Some(position) => Some(position),
        None => appended_since(&transaction).await?,
    };
    let checkpoints = DistinctCheckpoints::read(&transaction, appended_from).await?;
    let classes = checkpoints.classes(&transaction).await?;
    let max = CLASSES_MAX.min(now.xmin().saturating_sub(FIRST_XID) as usize);
    if classes.len() > max {
        let checkpoints = checkpoints.progress.len();
        return Err(ReanchorError::TooManyClasses { checkpoints, classes: classes.len(), max });
    }
    let events = checkpoints.renumber(&transaction, &classes).await?;
    let before: Vec<String> = checkpoints.progress.iter().map(Progress::to_string).collect();
    let after: Vec<String> =
        (0..before.len()).map(|index| EventClass::seen_by(&classes, index, &now).to_string()).collect();
    transaction.execute(include_str!("anchor/move_lanes.sql"), &[&before, &after]).await?;
    transaction.execute(include_str!("anchor/move_cursors.sql"), &[&before, &after]).await?;
    let adopt =
        "update sandmill.store set system_identifier = control.system_identifier from pg_control_system() control";
    transaction.execute(adopt, &[]).await?;
    let details = json!({ "events": events, "checkpoints": before.len(), "appendedFrom": appended_from });
    audit::record(&transaction, &AuditEntry { details, ..AuditEntry::new(who, "migrate --reanchor") }).await?;
    transaction.commit().await?;
    Ok(ReanchorReport { events, checkpoints: before.len(), appended_from })
}

/// The position of the first event that was appended in this cluster after all cursors were
/// written.
async fn appended_since(transaction: &Transaction<'_>) -> Result<Option<i64>, ReanchorError> {
    let row = transaction.query_one(include_str!("anchor/since.sql"), &[]).await?;
    match (row.get(1), row.get(2), row.get(3)) {
        (events, Some(first), Some(last)) => Err(ReanchorError::Undecided { events, first, last }),
        _ => Ok(row.get(0)),
    }
}

fn one_text(row: &Row) -> &str {
    row.get(0)
}

/// The distinct checkpoints of processors and lanes, in old xids, as binds of statements.
struct DistinctCheckpoints {
    progress: Vec<Progress>,
    seen: Vec<String>,
    target: Vec<Option<String>>,
    last: Vec<Option<i64>>,
    /// The position from which on no event is handled.
    appended_from: Option<i64>,
}

impl DistinctCheckpoints {
    /// Reads the distinct checkpoints.
    async fn read(transaction: &Transaction<'_>, appended_from: Option<i64>) -> Result<Self, ReanchorError> {
        let rows = transaction.query(include_str!("anchor/checkpoints.sql"), &[]).await?;
        let progress: Vec<Progress> = rows.iter().map(|row| one_text(row).parse()).collect::<Result<_, _>>()?;
        Ok(DistinctCheckpoints {
            seen: progress.iter().map(|at| at.seen().to_string()).collect(),
            target: progress.iter().map(|at| at.target().map(Snapshot::to_string)).collect(),
            last: progress.iter().map(|at| at.remainder().and_then(|rest| rest.after)).collect(),
            progress,
            appended_from,
        })
    }

    /// Divides the events into classes, and gives each its xid.
    async fn classes(&self, transaction: &Transaction<'_>) -> Result<Vec<EventClass>, Error> {
        let sql = include_str!("anchor/classes.sql");
        let rows = transaction.query(sql, &[&self.seen, &self.target, &self.last, &self.appended_from]).await?;
        let class = |(row, xid): (&Row, Xid)| EventClass { handled: row.get(0), xid };
        Ok(rows.iter().zip(FIRST_XID..).map(class).collect())
    }

    /// Writes the xids of their classes to all events. Returns the number of events.
    async fn renumber(&self, transaction: &Transaction<'_>, classes: &[EventClass]) -> Result<u64, Error> {
        let names: Vec<&str> = classes.iter().map(|class| class.handled.as_str()).collect();
        let xids: Vec<String> = classes.iter().map(|class| class.xid.to_string()).collect();
        let sql = include_str!("anchor/renumber.sql");
        transaction.execute(sql, &[&self.seen, &self.target, &self.last, &names, &xids, &self.appended_from]).await
    }
}

/// The events that the same set of checkpoints has handled.
struct EventClass {
    /// One digit for each checkpoint: 1 if it has handled them, 0 if not.
    handled: String,
    /// The new xid of these events.
    xid: Xid,
}

impl EventClass {
    /// The new progress of the checkpoint with this index: the snapshot `now` without the classes
    /// that the checkpoint has not handled.
    fn seen_by(classes: &[EventClass], index: usize, now: &Snapshot) -> Progress {
        let unhandled = classes.iter().filter(|class| class.handled.as_bytes().get(index) == Some(&b'0'));
        Progress::at(now.without(unhandled.map(|class| class.xid)))
    }
}
