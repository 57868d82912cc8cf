//! The lanes of a tenant that failed, read from the database alone, with the plugin that ran them.

use crate::{
    db::{Error, Session},
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
    },
};

/// A lane that is blocked, or that waits for its next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedLane {
    /// The lane.
    pub lane: LaneKey,
    /// Why it failed.
    pub reason: Reason,
    /// Number of attempts at the next event.
    pub attempts: u32,
    /// Position of that event, if it is known.
    pub event_position: Option<i64>,
    /// Everything up to here is handled.
    pub progress: String,
    /// The plugin that ran its processor last: the name of its file without the extension.
    pub plugin: String,
    /// SHA-256 of that file.
    pub digest: String,
    /// The author's version of that file.
    pub version: String,
}

/// Reads the failed lanes of a tenant in a processor's serving generation, or the one with this
/// key: blocked lanes first, then by key, at most `limit`. A lane whose tenant is over a rate has
/// not failed.
pub async fn find(
    session: &Session,
    processor: &ProcessorId,
    tenant: &TenantId,
    key: Option<&str>,
    limit: i64,
) -> Result<Vec<FailedLane>, Error> {
    let sql = include_str!("failed_lanes/find.sql");
    let rows = session.query(sql, &[&processor.as_str(), &tenant.as_str(), &key, &limit]).await?;
    let lane = |row: &crate::db::Row| FailedLane {
        lane: LaneKey { tenant: tenant.clone(), key: row.get::<_, &str>(0).into() },
        reason: Reason::new(row.get(1), row.get::<_, &str>(2)),
        attempts: row.get::<_, i32>(3).try_into().unwrap_or(0),
        event_position: row.get(4),
        progress: row.get(5),
        plugin: row.get(6),
        digest: row.get(7),
        version: row.get(8),
    };
    Ok(rows.iter().map(lane).collect())
}
