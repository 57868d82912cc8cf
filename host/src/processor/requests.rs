//! Operators' requests about set-aside events, written by commands.
//!
//! While a host runs the processor, a request is written into the row of its subject, and the host
//! carries it out ([`super::set_aside`]). Without a host, the command discards events itself, under
//! a new fence, so that a host that only seems to be gone can no longer commit. Requests that need
//! the plugin are recorded, and carried out when the processor next starts. Each request is
//! recorded in the audit log: `who` is the operator.

use std::sync::Arc;

use serde_json::json;

use super::{dead_letters::LetterFilter, removal};
use crate::{
    db::{
        Error, GenericClient, Row, Session,
        audit::{self, AuditEntry},
    },
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
    },
    source::native,
};

/// Which dead letters of a processor a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterSelection {
    /// Only the letter of the event at this position.
    pub position: Option<i64>,
    /// Only letters that match this filter; its processor is ignored.
    pub filter: LetterFilter,
}

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterAction {
    /// Handle their events again.
    Retry,
    /// Delete them.
    Discard,
}

/// What to do with the waiting events of a parked stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamAction {
    /// Handle them in order, until one fails.
    Drain,
    /// Discard the first.
    Discard,
    /// Discard all.
    DiscardAll,
}

/// The status of a request when its command returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// A host runs the processor, and carries it out.
    Requested,
    /// No host runs the processor, and the command has done it.
    Done,
    /// No host runs the processor. It is carried out when the processor next starts.
    Recorded,
}

/// The progress of requests about dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterProgress {
    /// Letters whose requests are not answered yet.
    pub pending: u64,
    /// Letters that still exist although their requests are answered: their events failed again.
    pub kept: u64,
}

/// A parked stream.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedStream {
    /// The processor.
    pub processor: String,
    /// The tenant.
    pub tenant: String,
    /// The key of the stream's lane.
    pub key: String,
    /// The stream.
    pub stream: String,
    /// Version of the first event that waits.
    pub next_version: i64,
    /// Version of the last event that waits.
    pub last_version: i64,
    /// Number of events that wait.
    pub events: i64,
    /// Position of the event that failed last.
    pub position: i64,
    /// The class of its failure.
    pub class: String,
    /// The failure, for people.
    pub message: String,
    /// Number of attempts at it.
    pub attempts: i32,
    /// Since when the stream is parked.
    pub since: std::time::SystemTime,
    /// When an event of it failed last.
    pub failed_at: std::time::SystemTime,
    /// The pending request; empty if there is none.
    pub request: String,
}

/// An event that its blocked lane sets aside at an operator's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipRequest {
    /// The lane.
    pub lane: LaneKey,
    /// The event's position.
    pub position: i64,
    /// Why the lane stopped.
    pub reason: Reason,
}

impl LetterAction {
    /// The command, as the audit log names it.
    fn command(self) -> &'static str {
        match self {
            LetterAction::Retry => "dead-letters retry",
            LetterAction::Discard => "dead-letters discard",
        }
    }

    fn name(self) -> &'static str {
        match self {
            LetterAction::Retry => "retry",
            LetterAction::Discard => "discard",
        }
    }
}

impl StreamAction {
    /// The command, as the audit log names it.
    fn command(self) -> &'static str {
        match self {
            StreamAction::Drain => "parked drain",
            StreamAction::Discard | StreamAction::DiscardAll => "parked discard",
        }
    }

    fn name(self) -> &'static str {
        match self {
            StreamAction::Drain => "drain",
            StreamAction::Discard => "discard",
            StreamAction::DiscardAll => "discard-all",
        }
    }
}

/// Requests an action for dead letters of a processor's serving generation, or discards them if no
/// host runs the processor. Returns the positions of the letters, except for those with an earlier
/// request that a host has begun to carry out.
pub async fn letters(
    session: &mut Session,
    processor: &ProcessorId,
    selection: &LetterSelection,
    action: LetterAction,
    who: &str,
) -> Result<(Vec<i64>, RequestStatus), Error> {
    let LetterSelection { position, filter } = selection;
    let LetterFilter { tenant, class, since, .. } = filter;
    let transaction = session.client_mut().transaction().await?;
    let runs = lock_processor(&transaction, processor).await?;
    let id = processor.as_str();
    let status = match (runs, action) {
        (false, LetterAction::Discard) => RequestStatus::Done,
        (false, LetterAction::Retry) => RequestStatus::Recorded,
        (true, _) => RequestStatus::Requested,
    };
    let (sql, last) = match status {
        RequestStatus::Done => {
            (include_str!("requests/discard_letters.sql"), uuid::Uuid::new_v4().simple().to_string())
        }
        RequestStatus::Recorded | RequestStatus::Requested => {
            (include_str!("requests/letters.sql"), action.name().to_string())
        }
    };
    let rows = transaction.query(sql, &[&id, position, tenant, class, since, &last]).await?;
    if let Some(first) = rows.first() {
        // The row names the tenant if all letters are of one.
        let only = Some(first.get::<_, &str>(1)).filter(|only| rows.iter().all(|row| row.get::<_, &str>(1) == *only));
        let details = json!({ "letters": rows.len(), "position": position, "class": class });
        let entry =
            AuditEntry { processor: Some(processor), tenant: only, details, ..AuditEntry::new(who, action.command()) };
        audit::record(&transaction, &entry).await?;
    }
    transaction.commit().await?;
    Ok((rows.iter().map(|row| row.get(0)).collect(), status))
}

/// Reads the progress of requests about these letters.
pub async fn letter_progress(
    session: &Session,
    processor: &ProcessorId,
    positions: &[i64],
) -> Result<LetterProgress, Error> {
    let row = session.query_one(include_str!("requests/progress.sql"), &[&processor.as_str(), &positions]).await?;
    let [all, pending] = [row.get::<_, i64>(0), row.get::<_, i64>(1)].map(i64::unsigned_abs);
    Ok(LetterProgress { pending, kept: all - pending })
}

/// Requests an action for a parked stream of a processor's serving generation, or discards its
/// events if no host runs the processor. The stream is given with its tenant. None if the stream is
/// not parked, or if an earlier request is being carried out.
pub async fn stream(
    session: &mut Session,
    processor: &ProcessorId,
    (tenant, stream): (&str, &str),
    action: StreamAction,
    who: &str,
) -> Result<Option<RequestStatus>, Error> {
    let transaction = session.client_mut().transaction().await?;
    let runs = lock_processor(&transaction, processor).await?;
    let id = processor.as_str();
    let (changed, status) = if !runs && action != StreamAction::Drain {
        let (fence, all) = (uuid::Uuid::new_v4().simple().to_string(), action == StreamAction::DiscardAll);
        let found = transaction.query_opt(include_str!("requests/waiting.sql"), &[&id, &tenant, &stream]).await?;
        let changed = match found {
            None => false,
            Some(row) => {
                let (next, last): (i64, i64) = (row.get(0), row.get(1));
                let types: Option<Vec<String>> = row.get(2);
                // Between the waiting events, others lie that the processor does not handle.
                let first = native::first_version(&transaction, tenant, stream, next..=last, types.as_deref()).await?;
                let sql = include_str!("requests/discard_stream.sql");
                let first = first.unwrap_or(next);
                transaction.query_one(sql, &[&id, &tenant, &stream, &all, &fence, &first]).await?;
                true
            }
        };
        (changed, RequestStatus::Done)
    } else {
        let sql = include_str!("requests/stream.sql");
        let changed = transaction.execute(sql, &[&id, &tenant, &stream, &action.name()]).await? > 0;
        (changed, if runs { RequestStatus::Requested } else { RequestStatus::Recorded })
    };
    if changed {
        let details = json!({ "stream": stream, "all": action == StreamAction::DiscardAll });
        let (processor, tenant) = (Some(processor), Some(tenant));
        let entry = AuditEntry { processor, tenant, details, ..AuditEntry::new(who, action.command()) };
        audit::record(&transaction, &entry).await?;
    }
    transaction.commit().await?;
    Ok(changed.then_some(status))
}

/// Finds a parked stream of a processor's serving generation.
pub async fn find_stream(
    session: &Session,
    processor: &ProcessorId,
    tenant: &str,
    stream: &str,
) -> Result<Option<ParkedStream>, Error> {
    let found = list_streams(session, Some(processor.as_str()), Some(tenant), Some(stream), None, 1).await?;
    Ok(found.into_iter().next())
}

/// Lists parked streams of serving generations, at most `limit`, by processor, tenant and stream;
/// with `after`, only those after that one.
pub async fn list_streams(
    session: &Session,
    processor: Option<&str>,
    tenant: Option<&str>,
    stream: Option<&str>,
    after: Option<&ParkedStream>,
    limit: i64,
) -> Result<Vec<ParkedStream>, Error> {
    let after = after.map_or(("", "", ""), |last| (&last.processor, &last.tenant, &last.stream));
    let sql = include_str!("requests/list_streams.sql");
    let rows = session.query(sql, &[&processor, &tenant, &stream, &after.0, &after.1, &after.2, &limit]).await?;
    Ok(rows.iter().map(parked_stream).collect())
}

fn parked_stream(row: &Row) -> ParkedStream {
    ParkedStream {
        processor: row.get(0),
        tenant: row.get(1),
        key: row.get(2),
        stream: row.get(3),
        next_version: row.get(4),
        last_version: row.get(5),
        events: row.get(6),
        position: row.get(7),
        class: row.get(8),
        message: row.get(9),
        attempts: row.get(10),
        since: row.get(11),
        failed_at: row.get(12),
        request: row.get(13),
    }
}

/// Lets the blocked lanes of a tenant continue after the event before which each stopped; with
/// `key`, one lane. The event becomes a dead letter. Lanes that are blocked before an unknown event
/// are left out.
pub async fn skip(
    session: &mut Session,
    processor: &ProcessorId,
    tenant: &str,
    key: Option<&str>,
    who: &str,
) -> Result<(Vec<SkipRequest>, RequestStatus), Error> {
    let transaction = session.client_mut().transaction().await?;
    let runs = lock_processor(&transaction, processor).await?;
    let rows = transaction.query(include_str!("requests/skip.sql"), &[&processor.as_str(), &tenant, &key]).await?;
    for row in &rows {
        let details = json!({ "position": row.get::<_, i64>(2), "class": row.get::<_, &str>(3) });
        let (processor, tenant, key) = (Some(processor), Some(tenant), Some(row.get(1)));
        audit::record(&transaction, &AuditEntry { processor, tenant, key, details, ..AuditEntry::new(who, "skip") })
            .await?;
    }
    transaction.commit().await?;
    let skipped = rows.iter().filter_map(|row| {
        Some(SkipRequest {
            lane: LaneKey { tenant: TenantId::parse(row.get(0)).ok()?, key: Arc::from(row.get::<_, &str>(1)) },
            position: row.get(2),
            reason: Reason::new(row.get(3), row.get::<_, &str>(4)),
        })
    });
    Ok((skipped.collect(), if runs { RequestStatus::Requested } else { RequestStatus::Recorded }))
}

/// Locks the processor's row, so that no term of it begins, and returns whether a host runs it.
async fn lock_processor(client: &impl GenericClient, processor: &ProcessorId) -> Result<bool, Error> {
    client.execute("select from sandmill.processors where id = $1 for update", &[&processor.as_str()]).await?;
    removal::is_running(client, processor).await
}
