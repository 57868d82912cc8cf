//! The size limit of an event, a setting of the store.
//!
//! `sandmill.append` and the import refuse a larger event. An event is held in memory several times on its way to a plugin: as a row,
//! in a page, as the argument of a call, and in the plugin. A limit that is lowered leaves larger events where they are.

use std::ops::RangeInclusive;

use crate::db::{Error, Session};

/// The limits that a store accepts, in bytes: below 1 KiB hardly any event fits, and more than 32 MiB do not fit into a plugin's
/// memory as it is by default. The table has the same bounds.
pub const RANGE: RangeInclusive<u32> = 1 << 10..=32 << 20;

/// The most bytes that an event's data and metadata may have together.
pub async fn max_event_bytes(session: &Session) -> Result<u32, Error> {
    let row = session.query_one("select max_event_bytes from sandmill.store", &[]).await?;
    Ok(row.get::<_, i32>(0).unsigned_abs())
}

/// Changes the limit for what is appended from now on, and returns the one before.
pub async fn set_max_event_bytes(session: &Session, bytes: u32) -> Result<u32, Error> {
    let before = max_event_bytes(session).await?;
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    session.execute("update sandmill.store set max_event_bytes = $1 where max_event_bytes <> $1", &[&bytes]).await?;
    Ok(before)
}
