//! The seam between the loop that follows the log and the code that handles events.
//!
//! A [`Handler`] gets a batch and returns [`Effects`] or a [`Failure`]; it commits nothing and knows no cursor. Plugins are handlers,
//! and so is whatever a test or a benchmark writes natively.

use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    effects::Effects,
    event::Batch,
    ids::{CollectionName, ProcessorId, TenantId},
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
    /// Whose it is, if it is one tenant's own: then its id is made of the plugin's and the tenant's.
    pub owner: Option<TenantId>,
    /// The id that the plugin gives itself, where that is another one.
    pub given_id: Option<ProcessorId>,
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
            owner: None,
            given_id: None,
        }
    }

    /// What the processors have in common that one plugin becomes for several tenants: the id that it gives itself.
    pub fn family(&self) -> &str {
        self.given_id.as_ref().unwrap_or(&self.id).as_str()
    }

    /// The same as a tenant's own. The id is the plugin's and the tenant's with `--` between them, the latter in small letters with `-` for everything else; where that
    /// is not the tenant's very name, or too long for an id, it ends with a number made of the name.
    pub fn owned_by(&self, tenant: &TenantId) -> Self {
        /// As long as an id may be.
        const MOST: usize = 63;
        let name = tenant.as_str();
        let small = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() as char } else { '-' };
        let slug: String = name.bytes().map(small).collect();
        let plain = format!("{}--{slug}", self.id);
        let id = if slug == name && plain.len() <= MOST {
            plain
        } else {
            // FNV-1a (Fowler, Noll, Vo): the same everywhere and for ever.
            let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            let number = format!("-{:08x}", name.bytes().fold(0xcbf2_9ce4_8422_2325, hash) as u32);
            format!("{}{number}", plain.get(..MOST - number.len()).unwrap_or(&plain))
        };
        // Made of what an id is made of.
        let id = ProcessorId::parse(&id).unwrap_or_else(|_| self.id.clone());
        Descriptor {
            id,
            given_id: Some(self.id.clone()),
            owner: Some(tenant.clone()),
            tenants: Some(vec![tenant.clone()]),
            ..self.clone()
        }
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
    /// `json-depth-limit`, `handle-limit`), `document-unreadable`, `event-too-large` or `event-unreadable` for what was not read, or the plugin's own
    /// code behind `plugin:`.
    pub class: String,
    /// For people; ends with the remedy where there is one.
    pub message: String,
}

/// A reason's message is cut to this many bytes: there is one for each lane that stands, and each is held in memory.
const MESSAGE_BYTES: usize = 4_000;

impl Reason {
    /// A reason. It is stored with the lane that it stops, so it has nothing in it that no column can hold, whoever's words it quotes.
    pub fn new(class: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        Reason { class: class.into(), message: message.replace('\0', "\u{fffd}") }
    }
}

impl Reason {
    /// Whether it is the plugin's own word, and no failure of it.
    pub fn is_plugins_own(&self) -> bool {
        self.class == "plugin" || self.class.starts_with("plugin:")
    }

    /// Whether the event could not be read, so that no code has failed.
    pub fn is_about_the_event(&self) -> bool {
        matches!(&*self.class, "event-too-large" | "event-unreadable")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let message = Reason::new("trap", format!("x{}", "ü".repeat(5_000))).message;
        assert_eq!((message.len(), message.ends_with('ü')), (MESSAGE_BYTES - 1, true));
    }

    #[test]
    fn a_tenants_own_processor_has_an_id_of_its_own() {
        let descriptor = Descriptor::projector(ProcessorId::parse("cart-summary").unwrap(), Vec::new());
        let owned = |name: &str| descriptor.owned_by(&TenantId::parse(name).unwrap());
        let acme = owned("acme");
        assert_eq!((acme.id.as_str(), acme.family()), ("cart-summary--acme", "cart-summary"));
        assert_eq!(acme.tenants, Some(vec![TenantId::parse("acme").unwrap()]));
        let (dotted, capital) = (owned("acme.eu"), owned("Acme"));
        assert!(dotted.id.as_str().starts_with("cart-summary--acme-eu-"), "{}", dotted.id);
        assert!(capital.id != acme.id && capital.id.as_str().starts_with("cart-summary--acme-"), "{}", capital.id);
        let long = [owned(&"x".repeat(64)), owned(&format!("{}y", "x".repeat(63)))];
        assert!(long[0].id != long[1].id && long.iter().all(|one| one.id.as_str().len() == 63));
        assert_eq!(descriptor.family(), "cart-summary");
    }
}
