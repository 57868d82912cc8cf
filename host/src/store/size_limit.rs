//! The size limit of an event, a setting of the store.
//!
//! `sandmill.append` and the import reject a larger event. On its way to a plugin, an event is in
//! memory several times: in a row, in a page, in the argument of a call, and in the plugin.
//! Lowering the limit does not change stored events.

use std::ops::RangeInclusive;

use serde_json::json;

use crate::db::{
    Error, Session,
    audit::{self, AuditEntry},
};

/// The limits that a store accepts, in bytes. Hardly any event fits below 1 KiB, and more than 32
/// MiB exceed a plugin's memory by default. The table has the same bounds.
pub const RANGE: RangeInclusive<u32> = 1 << 10..=32 << 20;

/// The limit for an event's data and metadata together, in bytes.
pub async fn max_event_bytes(session: &Session) -> Result<u32, Error> {
    let row = session.query_one("select max_event_bytes from sandmill.store", &[]).await?;
    Ok(row.get::<_, i32>(0).unsigned_abs())
}

/// Changes the limit for new events on behalf of `who`, and returns the former one.
pub async fn set_max_event_bytes(session: &mut Session, bytes: u32, who: &str) -> Result<u32, Error> {
    let before = max_event_bytes(session).await?;
    let limit = i32::try_from(bytes).unwrap_or(i32::MAX);
    let transaction = session.client_mut().transaction().await?;
    let sql = "update sandmill.store set max_event_bytes = $1 where max_event_bytes <> $1";
    if transaction.execute(sql, &[&limit]).await? > 0 {
        let details = json!({ "before": before, "now": bytes });
        audit::record(&transaction, &AuditEntry { details, ..AuditEntry::new(who, "migrate --max-event-bytes") })
            .await?;
    }
    transaction.commit().await?;
    Ok(before)
}
