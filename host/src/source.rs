//! Reading an event store: a read-only view of one table layout.
//!
//! A source answers two questions: which transactions are visible now, and which events lie between two snapshots. Whoever follows
//! the log keeps [`Progress`] and asks for what comes after it; the source keeps nothing. Whatever the layout, an event that
//! was committed is in exactly one page of a follower's chain, a stream's events come in order, and no open transaction of
//! anybody holds back what others committed. `tests/src/conformance.rs` puts a layout through all of that.

pub mod native;

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

pub use crate::db::pool::{Borrower, Lease, Wait};
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

/// Why a page could not be read. The connection may be gone; the caller's term ends and begins anew.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// What the database said, or what became of the connection.
    #[error("read the log: {}", db::describe(.0))]
    Database(#[from] db::Error),
    /// The database's snapshot has a form we do not know.
    #[error("read the log: {0}")]
    Snapshot(#[from] ParseError),
    /// An event that was read before is not there any more.
    #[error(
        "read the log: the event at position {0} is gone; restore it, or remove the processors that have not handled it"
    )]
    Gone(i64),
    /// A row that breaks the layout's rules.
    #[error("read the log: event at position {position} {problem}")]
    Row {
        /// Which.
        position: i64,
        /// What is wrong with it.
        problem: String,
    },
}

impl SourceError {
    /// Whether the database could not return some row, while the connection is as good as before.
    pub fn is_about_a_row(&self) -> bool {
        matches!(self, SourceError::Database(error) if db::is_about_a_row(error))
    }
}

/// Bounds of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At most this many events.
    pub events: usize,
    /// Bytes that they occupy. The reading ends early where they would be more than twice as many; it has at least one event.
    pub bytes: usize,
}

impl Limit {
    /// A bound on the number of events alone.
    pub fn events(events: usize) -> Self {
        Limit { events, bytes: usize::MAX }
    }

    /// Data and metadata of at most this many bytes arrive with their event; larger ones are deferred. Twice an event's share of
    /// the bytes, so that events of one size all arrive, within 2 to 64 KiB.
    pub fn inline_bytes(self) -> usize {
        (self.bytes.saturating_mul(2) / self.events.max(1)).clamp(INLINE_LEAST, INLINE_MOST)
    }

    /// What a reading may hold.
    fn held_bytes(self) -> usize {
        self.bytes.saturating_mul(2)
    }
}

/// The least that arrives with an event. Default 2 KiB: PostgreSQL keeps no larger values in the row itself.
const INLINE_LEAST: usize = 2 << 10;
/// The most that arrives with an event. Default 64 KiB: larger ones would make every reader of the page wait.
pub const INLINE_MOST: usize = 64 << 10;

/// One tenant's part of a difference.
#[derive(Debug)]
pub struct TenantPage {
    /// By position.
    pub events: Vec<Arc<Event>>,
    /// Whether there may be more behind the last one.
    pub more: bool,
}

/// The data of one event, read by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Which event.
    pub position: i64,
    /// Bytes of its data and metadata; of compressed data that is too large, compressed bytes.
    pub bytes: u64,
    /// The limit of one event, bytes.
    pub most: u64,
    /// Data and metadata as JSON text; none where they are larger than the limit.
    pub texts: Option<(Box<str>, Arc<str>)>,
}

/// How many events [`EventSource::last`] looks at.
pub const LOOKED_AT: usize = 5_000;

/// A reader's own session on an event store.
pub trait EventSource: Send + Sync {
    /// Whether its session is known to be lost.
    fn is_closed(&self) -> bool;

    /// Names its purpose, as `pg_stat_activity` shows it.
    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), SourceError>>;

    /// The transactions visible now.
    fn head(&mut self) -> BoxFuture<'_, Result<Snapshot, SourceError>>;

    /// What follows `after`: at most `limit` events (at least one), by position. A page without events still moves its `to`, as far as the
    /// snapshot moved. Large data is deferred, here and in the other readings.
    fn page<'a>(&'a mut self, after: &'a Progress, limit: Limit) -> BoxFuture<'a, Result<Page, SourceError>>;

    /// One tenant's part of a difference: at most `limit` events, by position.
    fn tenant_page<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        difference: &'a Difference,
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>>;

    /// The last events up to a position, in the log's order: of a tenant or of all, and of these types or of all, at most `limit`. Looks among the last
    /// [`LOOKED_AT`] of the tenant or of all alone, so that rare types cost no walk through the log.
    fn last<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        types: Option<&'a [String]>,
        up_to: i64,
        limit: Limit,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>>;

    /// The data of deferred events: of as many as fit into `bytes`, in the order given, at least of the first. One larger than
    /// `most`, or than the store allows, comes without its texts, and is the last.
    fn load<'a>(
        &'a mut self,
        positions: &'a [i64],
        bytes: usize,
        most: Option<u64>,
    ) -> BoxFuture<'a, Result<Vec<Body>, SourceError>>;

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

impl pool::Connection for SharedSource {
    type Error = SourceError;

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), SourceError>> {
        self.0.assign(purpose)
    }

    fn is_refusal(error: &SourceError) -> bool {
        matches!(error, SourceError::Database(error) if <db::Session as pool::Connection>::is_refusal(error))
    }
}

/// Sessions on one event store that all readers share.
pub type Sources = Pool<SharedSource>;

/// A pool of at most `most` sessions, opened on demand.
pub fn share(source: Arc<dyn OpenSource>, most: usize) -> Arc<Sources> {
    Pool::new(most, move |purpose| {
        let source = source.clone();
        Box::pin(async move { Ok(SharedSource(source.open(&purpose).await?)) })
    })
}
