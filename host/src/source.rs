//! Event sources: read-only access to event stores, one module for each table layout.
//!
//! A source answers two questions: which transactions are visible now, and which events lie between
//! two snapshots. A follower keeps its own [`Progress`] and asks for the events after it; the
//! source keeps nothing. In every layout, a committed event is in exactly one page of a follower's
//! chain, and the events of a stream come in order. An open transaction does not delay the events
//! of other transactions. `tests/src/conformance.rs` tests these properties of a layout.

pub mod native;

use std::{
    ops::{Deref, DerefMut, RangeInclusive},
    sync::Arc,
};

pub use crate::db::pool::{Borrower, ConnectionWait, Lease};
use crate::{
    db::{
        self,
        pool::{self, Pool},
    },
    model::{
        cursor::{Difference, ParseError, Progress, Snapshot},
        event::{Event, Page},
        handler::BoxFuture,
        ids::TenantId,
    },
};

/// Why events could not be read. The session may be lost, so the caller ends its term.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// An error of the database or of the connection.
    #[error("read the log: {}", db::describe(.0))]
    Database(#[from] db::Error),
    /// The database's snapshot has an unknown form.
    #[error("read the log: {0}")]
    Snapshot(#[from] ParseError),
    /// An event that was read before no longer exists.
    #[error(
        "read the log: the event at position {0} is gone; restore it, or remove the processors that have not handled it"
    )]
    Gone(i64),
    /// A row that breaks the layout's rules.
    #[error("read the log: event at position {position} {problem}")]
    Row {
        /// The event's position.
        position: i64,
        /// The broken rule.
        problem: String,
    },
}

impl SourceError {
    /// Whether the database could not return some row. If so, the session stays usable.
    pub fn is_about_a_row(&self) -> bool {
        matches!(self, SourceError::Database(error) if db::is_about_a_row(error))
    }
}

/// Bounds of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Maximum number of events.
    pub events: usize,
    /// Target number of bytes. A read ends early once it holds more than twice as many, but has at
    /// least one event.
    pub bytes: usize,
}

impl Limit {
    /// A bound on the number of events alone.
    pub fn events(events: usize) -> Self {
        Limit { events, bytes: usize::MAX }
    }

    /// Largest data and metadata that arrive with their event, in bytes; larger ones are deferred.
    /// It is twice an event's share of the bytes, within 2 to 64 KiB, so events of equal size all
    /// arrive with their data.
    pub fn inline_bytes(self) -> usize {
        (self.bytes.saturating_mul(2) / self.events.max(1)).clamp(INLINE_MIN, INLINE_MAX)
    }

    /// Bytes that a read may hold before it ends early.
    fn held_bytes(self) -> usize {
        self.bytes.saturating_mul(2)
    }
}

/// Lower bound of [`Limit::inline_bytes`]. 2 KiB: PostgreSQL stores larger values outside the row.
const INLINE_MIN: usize = 2 << 10;
/// Upper bound of [`Limit::inline_bytes`]. 64 KiB: larger values would delay every reader of the
/// page.
pub const INLINE_MAX: usize = 64 << 10;

/// A page of one tenant's events in a difference.
#[derive(Debug)]
pub struct TenantPage {
    /// The events by position.
    pub events: Vec<Arc<Event>>,
    /// Whether there may be more after the last one.
    pub more: bool,
}

/// The data of one deferred event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The event's position.
    pub position: i64,
    /// Bytes of its data and metadata. If even the compressed data exceeds the limit, its
    /// compressed size.
    pub bytes: u64,
    /// The limit for one event, in bytes.
    pub most: u64,
    /// Data and metadata as JSON texts; none if they exceed the limit.
    pub texts: Option<(Box<str>, Arc<str>)>,
}

/// Number of events that [`EventSource::last`] examines. 5,000: a bound on the cost of looking for
/// rare types.
pub const EXAMINED_EVENTS: usize = 5_000;

/// A reader's session on an event store.
pub trait EventSource: Send + Sync {
    /// Whether the session is known to be lost.
    fn is_closed(&self) -> bool;

    /// Sets the purpose that `pg_stat_activity` shows.
    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), SourceError>>;

    /// The transactions that are visible now.
    fn head(&mut self) -> BoxFuture<'_, Result<Snapshot, SourceError>>;

    /// The page after `after`: at most `limit` events, by position, but at least one if there is
    /// any. A page without events still ends at a later progress if the snapshot has moved. Large
    /// data is deferred, here and in the other reads.
    fn page<'a>(&'a mut self, after: &'a Progress, limit: Limit) -> BoxFuture<'a, Result<Page, SourceError>>;

    /// One tenant's events in a difference: at most `limit`, by position.
    fn tenant_page<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        difference: &'a Difference,
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>>;

    /// The last events up to a position, in the log's order: of one tenant or of all, of these
    /// types or of all, at most `limit`. It examines only the last [`EXAMINED_EVENTS`] events of
    /// that tenant, or of all, so rare types do not cost a scan of the log.
    fn last<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        types: Option<&'a [String]>,
        up_to: i64,
        limit: Limit,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>>;

    /// One tenant's events at these positions, by position: at most `limit`. Positions without an
    /// event are left out.
    fn at<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        positions: &'a [i64],
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>>;

    /// The events of a stream with these versions, in order: at most `limit`.
    fn of_stream<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        stream: &'a str,
        versions: RangeInclusive<i64>,
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>>;

    /// The data of deferred events in the order given: of as many as fit into `bytes`, but at least
    /// of the first. An event that exceeds `most` (or the store's limit, if `most` is none) has no
    /// texts and is the last.
    fn load<'a>(
        &'a mut self,
        positions: &'a [i64],
        bytes: usize,
        most: Option<u64>,
    ) -> BoxFuture<'a, Result<Vec<Body>, SourceError>>;

    /// The number of events that follow a progress, of one tenant or of all. At most `limit` are
    /// counted, so the cost is bounded.
    fn lag<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        from: &'a Progress,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, SourceError>>;
}

/// A way to open sessions on one event store.
pub trait OpenSource: Send + Sync {
    /// A session for a reader, named for `pg_stat_activity`.
    fn open(&self, purpose: &str) -> BoxFuture<'_, Result<Box<dyn EventSource>, SourceError>>;
}

/// A session on an event store, lent to readers.
pub struct SharedSource(Box<dyn EventSource>);

impl Deref for SharedSource {
    type Target = dyn EventSource;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for SharedSource {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl pool::PooledConnection for SharedSource {
    type Error = SourceError;

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), SourceError>> {
        self.0.assign(purpose)
    }

    fn is_refusal(error: &SourceError) -> bool {
        matches!(error, SourceError::Database(error) if <db::Session as pool::PooledConnection>::is_refusal(error))
    }
}

/// Sessions on one event store, shared by all readers.
pub type SourcePool = Pool<SharedSource>;

/// A pool of at most `most` sessions, opened on demand.
pub fn open_pool(source: Arc<dyn OpenSource>, most: usize) -> Arc<SourcePool> {
    Pool::new(most, move |purpose| {
        let source = source.clone();
        Box::pin(async move { Ok(SharedSource(source.open(&purpose).await?)) })
    })
}
