//! The seam between the loop that follows the log and the code that handles events.
//!
//! A [`Handler`] gets a batch and returns [`Effects`] or a [`Failure`]; it commits nothing and knows no cursor. Plugins are handlers,
//! and so is whatever a test or a benchmark writes natively.

use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    effects::Effects,
    event::Batch,
    ids::{CollectionName, ProcessorId, TenantId},
    text,
};

/// A future that can be sent to a guest thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How events are dispatched to lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionBy {
    /// One lane for each tenant.
    Tenant,
    /// One lane for each stream of a tenant.
    EventStream,
    /// One lane for each value of a property: a JSON pointer (RFC 6901) into the event's data.
    DataProperty(String),
}

impl fmt::Display for PartitionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionBy::Tenant => f.write_str("tenant"),
            PartitionBy::EventStream => f.write_str("event-stream"),
            PartitionBy::DataProperty(pointer) => write!(f, "data-property({pointer})"),
        }
    }
}

/// Where a processor begins at its first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All of history, then live.
    Beginning,
    /// Only what is committed after its first start.
    Now,
}

/// What a plugin says it is, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The processor's name.
    pub id: ProcessorId,
    /// The author's version, for people.
    pub version: String,
    /// The event types it handles; none means all.
    pub event_types: Option<Vec<String>>,
    /// Every collection it reads or writes.
    pub collections: Vec<CollectionName>,
    /// How its events are dispatched to lanes.
    pub partition_by: PartitionBy,
    /// Where it begins.
    pub start: Start,
    /// Raised when documents written by earlier code must be built again.
    pub read_model_version: u32,
    /// At most so many events in one call.
    pub max_batch_size: Option<u32>,
    /// Whose events it handles; none means everybody's. Operators say so, and no plugin of itself.
    pub tenants: Option<Vec<TenantId>>,
}

impl Descriptor {
    /// A projector of all event types from the beginning, whose lanes are tenants.
    pub fn projector(id: ProcessorId, collections: Vec<CollectionName>) -> Self {
        Descriptor {
            id,
            version: String::new(),
            event_types: None,
            collections,
            partition_by: PartitionBy::Tenant,
            start: Start::Beginning,
            read_model_version: 1,
            max_batch_size: None,
            tenants: None,
        }
    }

    /// The same as a tenant's own, for that tenant's events alone.
    pub fn owned_by(&self, tenant: &TenantId) -> Self {
        Descriptor { id: self.id.owned_by(tenant), tenants: Some(vec![tenant.clone()]), ..self.clone() }
    }
}

/// Why an attempt ended badly, named by what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The same events would fail again: the batch is halved down to the culprit, whose lane blocks.
    Block(Reason),
    /// Something around the handler failed: the lane tries again later.
    Retry(Reason),
    /// The ground under the whole processor went away (its database connection, say): nothing of this term may be kept.
    EndTerm(String),
}

/// The kinds of failure an operator can tell apart, and what happened in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A stable name: `trap`, `malformed-output`, `refused-call`, `refused-commit`, `instances`, the name of a limit (`cpu-limit`,
    /// `wall-time-limit`, `reads-limit`, `read-limit`, `memory-limit`, `plugin-memory-limit`, `tenant-memory-limit`, `table-limit`, `output-limit`, `changes-limit`, `document-limit`,
    /// `json-depth-limit`, `handle-limit`), `document-unreadable`, `event-too-large` or `event-unreadable` for what was not read, or the
    /// plugin's own code behind `plugin:`.
    pub class: String,
    /// For people; ends with the remedy where there is one.
    pub message: String,
}

/// Bytes of a reason's message. Default 1,000: some lines for a person, and a bound for very many
/// lanes that stop.
pub const REASON_BYTES: usize = 1_000;
/// Bytes of a reason's class. Default 100: it is a name.
const CLASS_BYTES: usize = 100;

impl Reason {
    /// A reason. It is stored with the lane that it stops, so it is bounded and free of NUL, which
    /// no text column can hold.
    pub fn new(class: &str, message: impl Into<String>) -> Self {
        // U+FFFD has more bytes than the NUL it replaces.
        let stored = |words: &str, bytes| {
            text::within(&text::within(words, bytes).replace('\0', "\u{fffd}"), bytes).into_owned()
        };
        Reason { class: stored(class, CLASS_BYTES), message: stored(&message.into(), REASON_BYTES) }
    }
}

impl Reason {
    /// Whether it is the plugin's own word, and no failure of it.
    pub fn is_plugins_own(&self) -> bool {
        self.class == "plugin" || self.class.starts_with("plugin:")
    }

    /// Whether the event could not be read, so that no code has failed.
    pub fn is_about_the_event(&self) -> bool {
        matches!(&*self.class, "event-too-large" | "event-unreadable" | "unreadable-data")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

/// The documents that a handler may read while it works: those of its lane's tenant, with the effects of all earlier batches of the
/// lane and none of the current one.
pub trait Documents: Send + Sync {
    /// One entry for each id, in order; none where there is no such document.
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>>;
}

/// The right to make one call, released when dropped.
pub struct CallPermit {
    _held: Option<Box<dyn Any + Send>>,
}

impl CallPermit {
    /// A permit that releases `held` when it is dropped.
    pub fn new(held: impl Any + Send) -> Self {
        CallPermit { _held: Some(Box::new(held)) }
    }

    /// A permit of a handler that bounds no calls.
    pub fn unlimited() -> Self {
        CallPermit { _held: None }
    }
}

/// Whether a line about a tenant may be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRoom {
    /// It may.
    Room,
    /// The tenant's log volume is used up, and the line is counted. Now and then the number of such
    /// lines is reported.
    Full {
        /// The number to report now, if any.
        dropped: Option<u64>,
    },
}

/// Code that handles batches.
pub trait Handler: Send + Sync {
    /// Handles one batch of one lane. Batches of a lane come in order and never overlap.
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, Failure>>;

    /// Waits for the right to make one more call for a tenant. Callers hold the permit until the call
    /// has ended.
    fn permit<'a>(&'a self, tenant: &TenantId) -> BoxFuture<'a, CallPermit> {
        let _ = tenant;
        Box::pin(std::future::ready(CallPermit::unlimited()))
    }

    /// How long one call may take by the clock on the wall, with everything in it.
    fn wall_time(&self) -> Duration;

    /// Charges a line of this many bytes, which the host logs about a tenant, to the tenant's log
    /// volume, if that is bounded.
    fn log_room(&self, tenant: &TenantId, bytes: usize) -> LogRoom {
        let _ = (tenant, bytes);
        LogRoom::Room
    }

    /// A clone that shares code but no instances: neither sees what the other is called with.
    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler>;

    /// Effects of this tenant were not committed: what the handler remembers of the calls that led to them must not be used again. Calls
    /// under way count among them.
    fn forget(&self, tenant: &TenantId) {
        let _ = tenant;
    }

    /// The same for every tenant.
    fn forget_all(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_at_whole_characters() {
        let reason = Reason::new(&format!("plugin:{}", "k".repeat(500)), "x😀".repeat(1_000));
        assert_eq!((reason.class.len(), reason.message.len() <= REASON_BYTES), (100, true), "{reason}");
        assert!(reason.message.ends_with("😀…") || reason.message.ends_with("x…"), "{reason}");
        assert_eq!(Reason::new("trap", "a\0b").message, "a\u{fffd}b");
    }
}
