//! Reading an event store: a read-only view of one table layout.
//!
//! A source answers two questions: which transactions are visible now, and which events lie between two snapshots. Whoever follows
//! the log keeps [`Progress`] and asks for what comes after it; the source keeps nothing. Whatever the layout, an event that
//! was committed is in exactly one page of a follower's chain, a stream's events come in order, and no open transaction of
//! anybody holds back what others committed. `tests/src/conformance.rs` puts a layout through all of that.

pub mod native;

use std::sync::Arc;

use crate::{
    db,
    model::{
        cursor::{Difference, ParseError, Progress, Snapshot},
        event::{Event, Page},
        handler::BoxFuture,
        ids::TenantId,
    },
};

/// Why a page could not be read. The connection may be gone; the caller's term ends and begins anew.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// What the database said, or what became of the connection.
    #[error("read the log: {}", db::describe(.0))]
    Database(#[from] db::Error),
    /// The database's snapshot has a form we do not know.
    #[error("read the log: {0}")]
    Snapshot(#[from] ParseError),
    /// A row that breaks the layout's rules.
    #[error("read the log: event at position {position} {problem}")]
    Row {
        /// Which.
        position: i64,
        /// What is wrong with it.
        problem: String,
    },
}

/// How many events [`EventSource::last`] looks at.
pub const LOOKED_AT: usize = 5_000;

/// A reader's own session on an event store.
pub trait EventSource: Send + Sync {
    /// The transactions visible now.
    fn head(&mut self) -> BoxFuture<'_, Result<Snapshot, SourceError>>;

    /// What follows `after`: at most `limit` events (at least one), by position. A page without events still moves its `to`, as far as the
    /// snapshot moved.
    fn page<'a>(&'a mut self, after: &'a Progress, limit: usize) -> BoxFuture<'a, Result<Page, SourceError>>;

    /// One tenant's part of a difference: at most `limit` events, by position. Fewer mean that nothing is left of it.
    fn tenant_page<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        difference: &'a Difference,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>>;

    /// The last events up to a position, in the log's order: of a tenant or of all, and of these types or of all, at most `limit`. Looks among the last
    /// [`LOOKED_AT`] of the tenant or of all alone, so that rare types cost no walk through the log.
    fn last<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        types: Option<&'a [String]>,
        up_to: i64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>>;

    /// How many events follow a progress, of a tenant or of all, but for at most `limit` of them: whether there are many costs little.
    fn lag<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        from: &'a Progress,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, SourceError>>;
}

/// Opens sessions on one event store.
pub trait OpenSource: Send + Sync {
    /// A session for a reader, named for `pg_stat_activity`.
    fn open(&self, purpose: &str) -> BoxFuture<'_, Result<Box<dyn EventSource>, SourceError>>;
}
