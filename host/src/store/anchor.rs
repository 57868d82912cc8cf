//! Whether the store's xids are this cluster's, and making them so.
//!
//! A cursor is a snapshot: numbers of transactions, which mean something only in the cluster that gave them out. Restored from a dump,
//! or moved to a new cluster in any other way that copies rows, events and cursors carry numbers that their new cluster gives out again:
//! events could be taken for handled, or be handled twice. So a host [`check`]s before it starts, and [`reanchor`] gives the store numbers of
//! this cluster.
//!
//! That changes no outcome. What each processor and each lane has handled is worked out with the old numbers, which is arithmetic and
//! holds anywhere. Events that were handled by the same ones form a class; every class gets one low xid, long past in any cluster, and every
//! progress becomes a snapshot that sees exactly its classes and nothing that is yet to come. It takes one transaction, rewrites all events,
//! and keeps applications from appending meanwhile.
//!
//! `sandmill.append` and the import refuse a foreign store, but a plain INSERT does not. An event that was written between the restore and
//! this has a number of this cluster, which the old snapshots may take for a handled one. Such events are found by who wrote their rows
//! (`anchor/since.sql`), and count as handled by nobody. Where rows do not tell enough, nothing is changed, and the operator says from which
//! position on.

use crate::{
    cluster::host_lock::{self, LockError},
    db::{Error, IsolationLevel, Row, Session, Transaction, describe},
    model::cursor::{ParseError, Progress, Snapshot, Xid},
};

/// The first xid that a transaction can have.
const FIRST_XID: Xid = 3;
/// How many classes there may be. 500: some hundred lanes far apart make as many, and a new cluster has used up more xids than that before
/// anybody connects.
const CLASSES_MAX: usize = 500;
/// How long re-anchoring waits for appends in flight. Default 60 s: an append's transaction is its application's, and may take a while;
/// everybody who appends waits behind it meanwhile.
const PATIENCE_FOR_APPENDS: &str = "60s";

/// Why the store's xids cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// They were given out by another cluster.
    #[error(
        "the event store was made in another database cluster (system identifier {stored}; this one has {actual}): it was restored from a dump or \
         moved, and its cursors name transactions of that cluster, so events would be skipped or handled twice{}",
        REMEDY
    )]
    OtherCluster {
        /// Which.
        stored: i64,
        /// This one.
        actual: i64,
    },
    /// Some progress has seen what has not happened yet.
    #[error(
        "processor {processor} stands at {progress}, ahead of this database, whose next transaction is {next}: the database lost transactions or was \
         restored from an older state, and new events would be taken for handled ones{}",
        REMEDY
    )]
    ProgressAhead {
        /// Whose.
        processor: String,
        /// Where it stands.
        progress: String,
        /// The xid that comes next.
        next: String,
    },
    /// Some event comes from the future.
    #[error(
        "the event at position {position} has transaction {xid}, and this database's next one is {next}: it was written in another cluster, and would be \
         handled again when that number comes{}",
        REMEDY
    )]
    EventAhead {
        /// Which.
        position: i64,
        /// Its transaction.
        xid: String,
        /// The xid that comes next.
        next: String,
    },
    /// What the database said.
    #[error("compare the event store with its cluster: {}", describe(.0))]
    Database(#[from] Error),
}

const REMEDY: &str = "\nRun `sandmill migrate --reanchor`: it gives events and cursors numbers of this cluster, and changes \
                      nothing about what has been handled.";

/// Refuses a store whose xids are not this cluster's.
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

/// What [`reanchor`] rewrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reanchored {
    /// Events.
    pub events: u64,
    /// Different places that processors and lanes stand at, but for those that have handled nothing.
    pub places: usize,
    /// From which position on events were appended since the restore, so that nobody has handled them.
    pub appended_from: Option<i64>,
}

/// Why nothing was rewritten.
#[derive(Debug, thiserror::Error)]
pub enum ReanchorError {
    /// A host is at work.
    #[error("re-anchor the event store")]
    Lock(#[from] LockError),
    /// More classes than there are numbers for.
    #[error(
        "processors and lanes of this store stand at {places} different places, which divide its events into {classes} classes; there is room \
         for {room}. Nothing was changed. Remove processors that are not needed any more (delete from sandmill.processors where id = …), or let \
         lanes catch up where the store came from, and take the dump again."
    )]
    TooManyClasses {
        /// Places.
        places: usize,
        /// Classes.
        classes: usize,
        /// How many there may be.
        room: usize,
    },
    /// Some events may be of this cluster or of the former one.
    #[error(
        "{events} at positions {first} to {last} may have been appended since the restore, and their rows do not tell. Nothing was changed. Look \
         at them with `sandmill events --from {first}`, then say from which position on events were appended since: sandmill migrate \
         --reanchor --appended-from POSITION; a position after the last event says that none was.",
        events = if *.events == 1 { "1 event".to_string() } else { format!("{} events", .events) }
    )]
    Undecided {
        /// How many.
        events: i64,
        /// The lowest of their positions.
        first: i64,
        /// The highest.
        last: i64,
    },
    /// A progress of unknown form.
    #[error("re-anchor the event store: {0}; nothing was changed")]
    Progress(#[from] ParseError),
    /// What the database said.
    #[error("re-anchor the event store: {}; nothing was changed", describe(.0))]
    Database(#[from] Error),
}

/// Gives events, cursors and lanes numbers of this cluster, all in one transaction. Refuses while a host is at work. `appended_from` is the
/// first position that was appended since the restore, where the operator says so; otherwise the rows tell.
pub async fn reanchor(session: &mut Session, appended_from: Option<i64>) -> Result<Reanchored, ReanchorError> {
    // Each statement sees what was committed before the locks were granted, whatever the server's default is.
    let transaction =
        session.client_mut().build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    host_lock::hold_within(&transaction).await?;
    transaction
        .batch_execute(&format!(
            "set local lock_timeout = '{PATIENCE_FOR_APPENDS}'; set local synchronous_commit = on; \
             lock table sandmill.events, sandmill.cursors, sandmill.lane_checkpoints in exclusive mode"
        ))
        .await?;
    // Taken when nobody can append any more: what is in flight here and appends later is still to come for everybody.
    let now: Snapshot = one_text(&transaction.query_one("select pg_current_snapshot()::text", &[]).await?).parse()?;
    let appended_from = match appended_from {
        Some(position) => Some(position),
        None => appended_since(&transaction).await?,
    };
    let places = Places::read(&transaction, appended_from).await?;
    let classes = places.classes(&transaction).await?;
    let room = CLASSES_MAX.min(now.xmin().saturating_sub(FIRST_XID) as usize);
    if classes.len() > room {
        return Err(ReanchorError::TooManyClasses { places: places.progress.len(), classes: classes.len(), room });
    }
    let events = places.renumber(&transaction, &classes).await?;
    let before: Vec<String> = places.progress.iter().map(Progress::to_string).collect();
    let after: Vec<String> = (0..before.len()).map(|place| Class::seen_by(&classes, place, &now).to_string()).collect();
    transaction.execute(include_str!("anchor/move_lanes.sql"), &[&before, &after]).await?;
    transaction.execute(include_str!("anchor/move_cursors.sql"), &[&before, &after]).await?;
    let adopt =
        "update sandmill.store set system_identifier = control.system_identifier from pg_control_system() control";
    transaction.execute(adopt, &[]).await?;
    transaction.commit().await?;
    Ok(Reanchored { events, places: before.len(), appended_from })
}

/// The first position of an event that was appended in this cluster after all cursors were written.
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

/// Where processors and lanes stand, by the old numbers: each place once, in the columns that statements take.
struct Places {
    progress: Vec<Progress>,
    seen: Vec<String>,
    target: Vec<Option<String>>,
    last: Vec<Option<i64>>,
    /// The position from which on nobody has handled anything.
    appended_from: Option<i64>,
}

impl Places {
    async fn read(transaction: &Transaction<'_>, appended_from: Option<i64>) -> Result<Self, ReanchorError> {
        let rows = transaction.query(include_str!("anchor/places.sql"), &[]).await?;
        let progress: Vec<Progress> = rows.iter().map(|row| one_text(row).parse()).collect::<Result<_, _>>()?;
        Ok(Places {
            seen: progress.iter().map(|at| at.seen().to_string()).collect(),
            target: progress.iter().map(|at| at.target().map(Snapshot::to_string)).collect(),
            last: progress.iter().map(|at| at.remainder().and_then(|rest| rest.after)).collect(),
            progress,
            appended_from,
        })
    }

    async fn classes(&self, transaction: &Transaction<'_>) -> Result<Vec<Class>, Error> {
        let sql = include_str!("anchor/classes.sql");
        let rows = transaction.query(sql, &[&self.seen, &self.target, &self.last, &self.appended_from]).await?;
        let class = |(row, xid): (&Row, Xid)| Class { handled: row.get(0), xid };
        Ok(rows.iter().zip(FIRST_XID..).map(class).collect())
    }

    async fn renumber(&self, transaction: &Transaction<'_>, classes: &[Class]) -> Result<u64, Error> {
        let names: Vec<&str> = classes.iter().map(|class| class.handled.as_str()).collect();
        let xids: Vec<String> = classes.iter().map(|class| class.xid.to_string()).collect();
        let sql = include_str!("anchor/renumber.sql");
        transaction.execute(sql, &[&self.seen, &self.target, &self.last, &names, &xids, &self.appended_from]).await
    }
}

/// Events that were handled by the same places.
struct Class {
    /// For each place 1 or 0.
    handled: String,
    /// What all of them get.
    xid: Xid,
}

impl Class {
    /// The progress of a place: a snapshot of now that does not see what the place has not handled.
    fn seen_by(classes: &[Class], place: usize, now: &Snapshot) -> Progress {
        let unhandled = classes.iter().filter(|class| class.handled.as_bytes().get(place) == Some(&b'0'));
        Progress::at(now.without(unhandled.map(|class| class.xid)))
    }
}
