//! The interface between the loop that follows the log and the code that handles events.
//!
//! A [`Handler`] gets a batch and returns [`Effects`] or a [`CallFailure`]. It commits nothing and
//! knows no cursor. Plugins are handlers; tests and benchmarks bring native ones.

use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    diagnostics::Diagnostics,
    effects::Effects,
    event::Batch,
    ids::{CollectionName, TenantId},
    text,
};

/// A future that can be sent to a guest thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The failure of an attempt. The variants say what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The same events would fail again. The batch is halved until the failing event is found, and
    /// the failure policy decides about that event.
    Block(Reason),
    /// A resource that the handler needs failed or was short. The lane retries later.
    Retry(Reason),
    /// The term ends, and none of its state may be kept, because a resource of the whole processor
    /// is gone, such as its database connection.
    EndTerm(String),
}

/// The failure of a call, with what helps to find its cause.
///
/// Only a dead letter keeps the diagnostics. A reason alone stays with a lane that stops, because
/// very many lanes may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// The failure.
    pub failure: Failure,
    /// What the handler left behind, if anything.
    pub diagnostics: Option<Box<Diagnostics>>,
}

impl From<Failure> for CallFailure {
    fn from(failure: Failure) -> Self {
        CallFailure { failure, diagnostics: None }
    }
}

/// Why something failed or waits: a class for machines and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A stable name of the kind of failure:
    ///
    /// - of a call: `trap`, `malformed-output`, `refused-call`, `refused-commit`, `instances`;
    /// - the name of a limit: `cpu-limit`, `wall-time-limit`, `reads-limit`, `read-limit`,
    ///   `memory-limit`, `plugin-memory-limit`, `tenant-memory-limit`, `table-limit`,
    ///   `output-limit`, `changes-limit`, `document-limit`, `json-depth-limit`, `handle-limit`;
    /// - of data that cannot be read: `document-unreadable`, `event-too-large`,
    ///   `event-unreadable`, `unreadable-data`;
    /// - the plugin's own code after `plugin:`.
    pub class: String,
    /// An explanation for people. Ends with the remedy if there is one.
    pub message: String,
}

/// Maximum bytes of a reason's message. 1,000: a few lines for a person, and a bound on memory when
/// very many lanes stop.
pub const REASON_BYTES: usize = 1_000;
/// Maximum bytes of a reason's class. 100: it is a name.
const CLASS_BYTES: usize = 100;

impl Reason {
    /// A reason, bounded and without NUL: it is stored with the lane that it stops, and no text
    /// column can hold NUL.
    pub fn new(class: &str, message: impl Into<String>) -> Self {
        // U+FFFD has more bytes than the NUL it replaces.
        let stored = |given: &str, bytes| {
            text::within(&text::within(given, bytes).replace('\0', "\u{fffd}"), bytes).into_owned()
        };
        Reason { class: stored(class, CLASS_BYTES), message: stored(&message.into(), REASON_BYTES) }
    }
}

impl Reason {
    /// Whether the plugin itself gave this reason, which means that its code has not failed.
    pub fn is_plugins_own(&self) -> bool {
        self.class == "plugin" || self.class.starts_with("plugin:")
    }

    /// Whether the event could not be read, which means that no code has failed.
    pub fn is_about_the_event(&self) -> bool {
        matches!(&*self.class, "event-too-large" | "event-unreadable" | "unreadable-data")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

/// The documents that a handler may read during a call: those of its lane's tenant. They include
/// the effects of all earlier batches of the lane, and none of the current one.
pub trait Documents: Send + Sync {
    /// One entry per id, in the order of the ids; none if the document does not exist.
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>>;
}

/// A permit for one call, which is returned when dropped.
pub struct CallPermit {
    _held: Option<Box<dyn Any + Send>>,
}

impl CallPermit {
    /// A permit that drops `held` when it is dropped itself.
    pub fn new(held: impl Any + Send) -> Self {
        CallPermit { _held: Some(Box::new(held)) }
    }

    /// The permit of a handler that does not limit calls.
    pub fn unlimited() -> Self {
        CallPermit { _held: None }
    }
}

/// Whether a tenant's log volume has room for a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRoom {
    /// There is room: the line may be logged.
    Room,
    /// The volume is used up: the line is dropped and counted. The count is reported from time to
    /// time.
    Full {
        /// The number of dropped lines to report now, if any.
        dropped: Option<u64>,
    },
}

/// Code that handles batches of events.
pub trait Handler: Send + Sync {
    /// Handles one batch of one lane. Batches of a lane come in order and never overlap.
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, CallFailure>>;

    /// Waits for a permit to make one more call for a tenant. The caller keeps it until the call
    /// has ended.
    fn permit<'a>(&'a self, tenant: &TenantId) -> BoxFuture<'a, CallPermit> {
        let _ = tenant;
        Box::pin(std::future::ready(CallPermit::unlimited()))
    }

    /// Maximum wall-clock time of one call, including its reads of documents.
    fn wall_time(&self) -> Duration;

    /// Charges a line of this many bytes, which the host logs about a tenant, to the tenant's log
    /// volume. Handlers without such a bound always have room.
    fn log_room(&self, tenant: &TenantId, bytes: usize) -> LogRoom {
        let _ = (tenant, bytes);
        LogRoom::Room
    }

    /// A clone that shares the code but no instances: neither sees the effects of the other's
    /// calls.
    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler>;

    /// Discards all instances that remember calls for a tenant, including calls under way, because
    /// the effects of these calls were not committed.
    fn forget(&self, tenant: &TenantId) {
        let _ = tenant;
    }

    /// Discards all instances that remember calls, for every tenant.
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
