//! Lanes behind their bucket's cursor.
//!
//! An exception says where a lane stands, why it stands there and when it goes on. It is written in the transaction in which the cursor
//! passes the lane, changed only by comparing the progress it had, and deleted only in a transaction that checks the cursor as
//! well. So a lane is either covered by the cursor or by its exception, never by both or none.

use std::time::{Duration, SystemTime};

use crate::{
    db::{Error, Row, Session},
    model::{
        cursor::Progress,
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
    },
};

/// Where a lane behind the cursor stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Exception {
    /// Everything up to here is handled.
    pub progress: Progress,
    /// What happens next.
    pub state: LaneState,
    /// How often the event it stands before has been tried.
    pub attempts: u32,
    /// Position of that event, where it is known.
    pub event_position: Option<i64>,
}

/// What happens next with a lane behind the cursor.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneState {
    /// It reads the log until it meets the tail.
    CatchingUp,
    /// It waits for a while.
    Retrying {
        /// Until when.
        at: SystemTime,
        /// Why.
        reason: Reason,
    },
    /// It failed, and waits for a person.
    Blocked(Reason),
    /// A person told it to wait.
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

    /// How long until it goes on by itself; none if it waits for a person.
    pub fn due_in(&self, now: SystemTime) -> Option<Duration> {
        match self {
            LaneState::CatchingUp => Some(Duration::ZERO),
            LaneState::Retrying { at, .. } => Some(at.duration_since(now).unwrap_or_default()),
            LaneState::Blocked(_) | LaneState::Paused(_) => None,
        }
    }
}

/// Reads all exceptions of a processor.
pub async fn read(session: &Session, processor: &ProcessorId) -> Result<Vec<(LaneKey, Exception)>, Error> {
    let rows = session.query(include_str!("exceptions/read.sql"), &[&processor.as_str()]).await?;
    Ok(rows.iter().filter_map(parse).collect())
}

/// A row as an exception; the table's own rules see to it that every row is one.
fn parse(row: &Row) -> Option<(LaneKey, Exception)> {
    let lane = LaneKey { tenant: TenantId::parse(row.get(0)).ok()?, key: row.get::<_, &str>(1).into() };
    let reason = Reason::new(row.get(6), row.get::<_, &str>(7));
    let state = match row.get(3) {
        "blocked" => LaneState::Blocked(reason),
        "paused" => LaneState::Paused(reason),
        "retrying" => LaneState::Retrying { at: row.get(5), reason },
        _ => LaneState::CatchingUp,
    };
    Some((
        lane,
        Exception {
            progress: row.get::<_, &str>(2).parse().ok()?,
            state,
            attempts: row.get::<_, i32>(4).try_into().unwrap_or(0),
            event_position: row.get(8),
        },
    ))
}

/// Lets lanes that wait try again: all of a processor, those of one tenant, or one lane. Returns how many there were.
pub async fn resume(session: &Session, processor: &str, tenant: Option<&str>, key: Option<&str>) -> Result<u64, Error> {
    session.execute(include_str!("exceptions/resume.sql"), &[&processor, &tenant, &key]).await
}
