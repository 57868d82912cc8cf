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

/// How events are dealt to lanes.
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
    /// How its events are dealt to lanes.
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
    /// `json-depth-limit`, `handle-limit`), or the plugin's own code behind `plugin:`.
    pub class: String,
    /// For people; ends with the remedy where there is one.
    pub message: String,
}

impl Reason {
    /// A reason. It is stored with the lane that it stops, so it has nothing in it that no column
    /// can hold, and no more than a person reads, whoever's words it quotes.
    pub fn new(class: &str, message: impl Into<String>) -> Self {
        /// More than any reason of the host's own has. Bytes.
        const MOST: usize = 4 << 10;
        let message = message.into();
        Reason { class: class.into(), message: text::cut(&message, MOST).replace('\0', "\u{fffd}") }
    }
}

impl Reason {
    /// Whether it is the plugin's own word, and no failure of it.
    pub fn is_plugins_own(&self) -> bool {
        self.class == "plugin" || self.class.starts_with("plugin:")
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

/// The right to make one call, given back when it is dropped.
pub struct Turn {
    _held: Option<Box<dyn Any + Send>>,
}

impl Turn {
    /// A turn that lasts as long as this is held.
    pub fn new(held: impl Any + Send) -> Self {
        Turn { _held: Some(Box::new(held)) }
    }

    /// A turn where nobody waits for one.
    pub fn free() -> Self {
        Turn { _held: None }
    }
}

/// Code that handles batches.
pub trait Handler: Send + Sync {
    /// Handles one batch of one lane. Batches of a lane come in order and never overlap.
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, Failure>>;

    /// Waits until one more call of a tenant may run, if there is a bound on them. Asked for before each call, and held until that has ended.
    fn turn<'a>(&'a self, tenant: &TenantId) -> BoxFuture<'a, Turn> {
        let _ = tenant;
        Box::pin(std::future::ready(Turn::free()))
    }

    /// How long one call may take by the clock on the wall, with everything in it.
    fn wall_time(&self) -> Duration;

    /// The same code with a memory of its own: nothing that it is called with is known to this one, nor the other way round.
    fn apart(self: Arc<Self>) -> Arc<dyn Handler>;

    /// Effects of this tenant were not committed: what the handler remembers of the calls that led to them must not be used again. Calls
    /// under way count among them.
    fn forget(&self, tenant: &TenantId) {
        let _ = tenant;
    }

    /// The same for every tenant.
    fn forget_all(&self) {}
}
