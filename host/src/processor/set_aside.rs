//! Set-aside events, and operators' requests about them.
//!
//! A command writes a request into the row of a dead letter, a parked stream or a lane. The owner
//! of the lane carries it out ([`super::in_flight`]) and answers it in the transaction that commits
//! the results. Each request is returned once to a running host; a new term reads all that are
//! pending.

use std::{collections::HashMap, sync::Arc};

use super::{
    budgets::SetAsideCount,
    in_flight::{Request, RequestAction, SetAside, StreamPlace},
};
use crate::{
    db::{Error, Row, Session},
    model::{
        ids::{LaneKey, TenantId},
        share::Share,
    },
};

/// Rows that one statement changes. 5,000: about 20 ms for the database.
const AT_ONCE: i64 = 5_000;

/// The set-aside events and requests with which a term begins.
#[derive(Debug, Default)]
pub struct SetAsideState {
    /// Parked streams, with their lanes.
    pub streams: Vec<(LaneKey, Arc<str>, StreamPlace)>,
    /// Pending requests.
    pub requests: Vec<Request>,
    /// Numbers of dead letters and parked streams, by tenant.
    pub counts: HashMap<TenantId, SetAsideCount>,
}

/// Reads what was set aside in a share: its streams, the pending requests and the numbers.
pub async fn read(session: &Session, share: &Share) -> Result<SetAsideState, Error> {
    let params: [&(dyn crate::db::types::ToSql + Sync); 2] = [&share.processor.as_str(), &share.generation];
    let mut state = SetAsideState { counts: counts(session, share).await?, ..SetAsideState::default() };
    for row in session.query(include_str!("set_aside/streams.sql"), &params).await? {
        let Some(lane) = lane(&row, share) else { continue };
        let place = StreamPlace { next: row.get(3), last: row.get(4), events: row.get::<_, i64>(5).unsigned_abs() };
        state.streams.push((lane, row.get::<_, &str>(2).into(), place));
    }
    let rows = session.query(include_str!("set_aside/pending.sql"), &params).await?;
    state.requests = rows.iter().filter_map(|row| request(row, share)).collect();
    Ok(state)
}

/// Counts the dead letters and parked streams of each tenant.
pub async fn counts(session: &Session, share: &Share) -> Result<HashMap<TenantId, SetAsideCount>, Error> {
    let params: [&(dyn crate::db::types::ToSql + Sync); 2] = [&share.processor.as_str(), &share.generation];
    let rows = session.query(include_str!("set_aside/counts.sql"), &params).await?;
    let count = |row: &Row| {
        let [letters, streams] = [row.get::<_, i64>(1), row.get::<_, i64>(2)].map(i64::unsigned_abs);
        Some((TenantId::parse(row.get(0)).ok()?, SetAsideCount { letters, streams }))
    };
    Ok(rows.iter().filter_map(count).collect())
}

/// Takes new requests about a share: each is returned once. Also returns whether there may be more.
pub async fn take_requests(session: &Session, share: &Share) -> Result<(Vec<Request>, bool), Error> {
    let params: [&(dyn crate::db::types::ToSql + Sync); 3] = [&share.processor.as_str(), &share.generation, &AT_ONCE];
    let letters = session.query(include_str!("set_aside/take_letters.sql"), &params).await?;
    let streams = session.query(include_str!("set_aside/take_streams.sql"), &params).await?;
    let more = [&letters, &streams].iter().any(|rows| rows.len() as i64 == AT_ONCE);
    Ok((letters.iter().chain(&streams).filter_map(|row| request(row, share)).collect(), more))
}

/// A request from the columns tenant, lane key, position, stream and request.
fn request(row: &Row, share: &Share) -> Option<Request> {
    let subject = match (row.get::<_, Option<i64>>(2), row.get::<_, Option<&str>>(3)) {
        (Some(position), _) => SetAside::Letter(position),
        (None, stream) => SetAside::Stream(stream?.into()),
    };
    let action = match row.get(4) {
        "retry" | "drain" => RequestAction::Retry,
        "discard" => RequestAction::Discard,
        "discard-all" => RequestAction::DiscardAll,
        _ => return None,
    };
    Some(Request { lane: lane(row, share)?, subject, action })
}

/// The lane in the first two columns, if the share owns it.
fn lane(row: &Row, share: &Share) -> Option<LaneKey> {
    let lane = LaneKey { tenant: TenantId::parse(row.get(0)).ok()?, key: row.get::<_, &str>(1).into() };
    share.owns.contains(lane.bucket()).then_some(lane)
}
