//! Lane checkpoints: the rows of lanes that are behind the cursor.
//!
//! A lane checkpoint records a lane's progress, its state, and when it continues. It is inserted in
//! the transaction in which the cursor passes the lane. It is updated only if it still has the
//! expected progress, and deleted only in a transaction that also checks the cursor. So a lane is
//! covered either by the cursor or by its checkpoint, never by both or neither.
//!
//! There may be very many of them until their lanes are resumed. Reasons are bounded ([`Reason`])
//! and stay in the database. The host keeps only what a lane needs to continue ([`LaneRow`]), and
//! reads rows again only for lanes that were resumed.

use std::{sync::Arc, time::SystemTime};

use crate::{
    db::{Error, GenericClient, Row, Session},
    model::{
        cursor::Progress,
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
        share::Share,
    },
};

/// Rows that one statement reads or changes. 5,000: about 20 ms for the database, and about a
/// megabyte of memory.
const AT_ONCE: i64 = 5_000;

/// The statement of [`take_resumed`].
pub const TAKE_RESUMED: &str = include_str!("lane_checkpoints/take_resumed.sql");

/// The checkpoint of a lane behind the cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneCheckpoint {
    /// Everything up to here is handled.
    pub progress: Progress,
    /// What happens next.
    pub state: LaneState,
    /// Number of attempts at the next event.
    pub attempts: u32,
    /// Position of that event, if it is known.
    pub event_position: Option<i64>,
    /// The event to set aside when the lane continues, if there is one.
    pub skip: Option<Arc<Skip>>,
}

/// An event that its lane sets aside without a call, because an operator or a failure policy
/// decided so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Its position.
    pub position: i64,
    /// Why the lane stopped before it.
    pub reason: Reason,
}

/// A lane that was resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumedLane {
    /// The lane.
    pub lane: LaneKey,
    /// The event to set aside, if it is to continue after it.
    pub skip: Option<Arc<Skip>>,
}

/// What happens next to a lane behind the cursor.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneState {
    /// It reads the log until it rejoins the tail.
    CatchingUp,
    /// It waits for its next attempt.
    Retrying {
        /// The time of that attempt.
        at: SystemTime,
        /// The cause.
        reason: Reason,
    },
    /// It failed, and waits for manual action.
    Blocked(Reason),
    /// It is paused.
    Paused(Reason),
}

impl LaneState {
    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            LaneState::CatchingUp => "catching-up",
            LaneState::Retrying { .. } => "retrying",
            LaneState::Blocked(_) => "blocked",
            LaneState::Paused(_) => "paused",
        }
    }

    /// Why it does not move, if it does not.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            LaneState::CatchingUp => None,
            LaneState::Retrying { reason, .. } | LaneState::Blocked(reason) | LaneState::Paused(reason) => Some(reason),
        }
    }
}

/// The part of a lane checkpoint that the host keeps: everything but the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneRow {
    /// Everything up to here is handled.
    pub progress: Progress,
    /// What happens next.
    pub state: RowState,
    /// Number of attempts at the next event.
    pub attempts: u32,
    /// The event to set aside when the lane continues, if there is one.
    pub skip: Option<Arc<Skip>>,
}

/// A [`LaneState`] without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowState {
    /// It reads the log until it rejoins the tail.
    CatchingUp,
    /// It waits for its next attempt.
    Retrying {
        /// The time of that attempt.
        at: SystemTime,
    },
    /// It failed, and waits for manual action.
    Blocked,
    /// It is paused.
    Paused,
}

impl RowState {
    /// Whether it waits for manual action.
    pub fn needs_attention(self) -> bool {
        matches!(self, RowState::Blocked | RowState::Paused)
    }

    /// Whether it may continue.
    pub fn is_due(self, now: SystemTime) -> bool {
        match self {
            RowState::CatchingUp => true,
            RowState::Retrying { at } => at <= now,
            RowState::Blocked | RowState::Paused => false,
        }
    }
}

impl From<&LaneCheckpoint> for LaneRow {
    fn from(checkpoint: &LaneCheckpoint) -> Self {
        let state = match checkpoint.state {
            LaneState::CatchingUp => RowState::CatchingUp,
            LaneState::Retrying { at, .. } => RowState::Retrying { at },
            LaneState::Blocked(_) => RowState::Blocked,
            LaneState::Paused(_) => RowState::Paused,
        };
        let (progress, skip) = (checkpoint.progress.clone(), checkpoint.skip.clone());
        LaneRow { progress, state, attempts: checkpoint.attempts, skip }
    }
}

/// Reads all lane checkpoints of a share, in parts.
pub async fn read(session: &Session, share: &Share) -> Result<Vec<(LaneKey, LaneRow)>, Error> {
    let Share { processor, generation, owns, .. } = share;
    let mut read: Vec<(LaneKey, LaneRow)> = Vec::new();
    let statement = session.prepare(include_str!("lane_checkpoints/read.sql")).await?;
    let mut after = (String::new(), String::new());
    loop {
        let rows = session
            .query(
                &statement,
                &[&processor.as_str(), generation, &owns.first(), &owns.last(), &after.0, &after.1, &AT_ONCE],
            )
            .await?;
        for row in &rows {
            // Lanes of one tenant are adjacent and share its name; most share few snapshots as
            // well.
            let tenant =
                read.last().map(|(lane, _)| &lane.tenant).filter(|tenant| tenant.as_str() == row.get::<_, &str>(0));
            let Some(tenant) = tenant.cloned().or_else(|| TenantId::parse(row.get(0)).ok()) else { continue };
            let Some((lane, mut found)) = parse(tenant, row) else { continue };
            if let Some((_, before)) = read.last() {
                found.progress = found.progress.sharing(&before.progress);
            }
            read.push((lane, found));
        }
        match rows.last().filter(|_| rows.len() as i64 == AT_ONCE) {
            Some(last) => after = (last.get(0), last.get(1)),
            None => return Ok(read),
        }
    }
}

/// Parses the row of a tenant's lane. The table's constraints ensure that every row can be parsed.
fn parse(tenant: TenantId, row: &Row) -> Option<(LaneKey, LaneRow)> {
    let state = match row.get(3) {
        "blocked" => RowState::Blocked,
        "paused" => RowState::Paused,
        "retrying" => RowState::Retrying { at: row.get(5) },
        _ => RowState::CatchingUp,
    };
    let attempts = row.get::<_, i32>(4).try_into().unwrap_or(0);
    let lane = LaneKey { tenant, key: row.get::<_, &str>(1).into() };
    let skip = skip(row, 6);
    Some((lane, LaneRow { progress: row.get::<_, &str>(2).parse().ok()?, state, attempts, skip }))
}

/// The event that a lane sets aside when it continues, from three columns: position, class and
/// reason.
fn skip(row: &Row, first: usize) -> Option<Arc<Skip>> {
    let position = row.get::<_, Option<i64>>(first)?;
    Some(Arc::new(Skip { position, reason: Reason::new(row.get(first + 1), row.get::<_, &str>(first + 2)) }))
}

/// Resumes waiting lanes of the serving generation: all of a processor, those of one tenant, or one
/// lane. Returns their number.
pub async fn resume(
    client: &impl GenericClient,
    processor: &str,
    tenant: Option<&str>,
    key: Option<&str>,
) -> Result<u64, Error> {
    client.execute(include_str!("lane_checkpoints/resume.sql"), &[&processor, &tenant, &key]).await
}

/// Takes lanes of a share that were [resumed](resume): each is returned once. Also returns whether
/// there may be more.
pub async fn take_resumed(session: &Session, share: &Share) -> Result<(Vec<ResumedLane>, bool), Error> {
    let Share { processor, generation, owns, .. } = share;
    let params: [&(dyn crate::db::types::ToSql + Sync); 5] =
        [&processor.as_str(), generation, &owns.first(), &owns.last(), &AT_ONCE];
    let rows = session.query(TAKE_RESUMED, &params).await?;
    let more = rows.len() as i64 == AT_ONCE;
    let resumed = |row: &Row| Some(ResumedLane { lane: lane(row)?, skip: skip(row, 2) });
    Ok((rows.iter().filter_map(resumed).collect(), more))
}

/// Resumes all blocked lanes of a processor, and passes each of them to `each`.
pub async fn resume_blocked(session: &Session, processor: &str, mut each: impl FnMut(LaneKey)) -> Result<u64, Error> {
    let mut resumed = 0;
    loop {
        let sql = include_str!("lane_checkpoints/resume_blocked.sql");
        let rows = session.query(sql, &[&processor, &AT_ONCE]).await?;
        resumed += rows.len() as u64;
        rows.iter().filter_map(lane).for_each(&mut each);
        if (rows.len() as i64) < AT_ONCE {
            return Ok(resumed);
        }
    }
}

/// Resumes the lanes among these that are blocked, and returns them.
pub async fn resume_these(
    session: &Session,
    processor: &ProcessorId,
    lanes: &[LaneKey],
) -> Result<Vec<LaneKey>, Error> {
    let (tenants, keys): (Vec<&str>, Vec<&str>) = lanes.iter().map(|lane| (lane.tenant.as_str(), &*lane.key)).unzip();
    let sql = include_str!("lane_checkpoints/resume_these.sql");
    let rows = session.query(sql, &[&processor.as_str(), &tenants, &keys]).await?;
    Ok(rows.iter().filter_map(lane).collect())
}

/// Resumes the blocked lanes of a tenant whose own processor replaces this one. They then need
/// no attention: they wait until that processor ends, then retry.
pub async fn resume_replaced(session: &Session, processor: &ProcessorId, tenant: &TenantId) -> Result<u64, Error> {
    let params: [&(dyn crate::db::types::ToSql + Sync); 2] = [&processor.as_str(), &tenant.as_str()];
    session.execute(include_str!("lane_checkpoints/resume_replaced.sql"), &params).await
}

/// The first lanes of a processor that need attention, at most `most`, with their reasons, and the
/// number of all such lanes.
pub async fn needing_attention(
    session: &Session,
    processor: &ProcessorId,
    most: i64,
) -> Result<(Vec<(LaneKey, Reason)>, u64), Error> {
    let rows =
        session.query(include_str!("lane_checkpoints/needing_attention.sql"), &[&processor.as_str(), &most]).await?;
    let all = rows.first().map_or(0, |row| row.get::<_, i64>(4) as u64);
    let why = |row: &Row| Some((lane(row)?, Reason::new(row.get(2), row.get::<_, &str>(3))));
    Ok((rows.iter().filter_map(why).collect(), all))
}

fn lane(row: &Row) -> Option<LaneKey> {
    Some(LaneKey { tenant: TenantId::parse(row.get(0)).ok()?, key: row.get::<_, &str>(1).into() })
}
