//! The result of a handler's call, as data: document changes, dead letters, appended events, and
//! where it halted.

use std::{sync::Arc, time::Duration};

use super::{diagnostics::Diagnostics, ids::CollectionName, reaction::Append};

/// A change to one document of the lane's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces a document.
    Put {
        /// The document's collection.
        collection: CollectionName,
        /// The document's id, unique within the collection and the tenant.
        id: Arc<str>,
        /// The whole document: JSON that [`super::json::check_document`] accepts.
        data: Arc<str>,
    },
    /// Deletes a document if it exists.
    Remove {
        /// The document's collection.
        collection: CollectionName,
        /// The document's id.
        id: Arc<str>,
    },
}

impl Change {
    /// Bytes of the id and the document.
    pub fn bytes(&self) -> usize {
        match self {
            Change::Put { id, data, .. } => id.len() + data.len(),
            Change::Remove { id, .. } => id.len(),
        }
    }
}

/// An event that becomes a dead letter. Its lane continues after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Index into the batch.
    pub index: usize,
    /// The author's name for the kind of failure; may be empty.
    pub code: String,
    /// The author's explanation, for people.
    pub message: String,
}

/// The action on a lane whose handler halted before an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaltAction {
    /// Retries after the host's back-off.
    Retry {
        /// The shortest delay that the handler asks for, if any.
        after: Option<Duration>,
    },
    /// Blocks the lane until it is resumed manually.
    Stop,
}

/// A handler's early stop: it handled the events before `index`, and none from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Index into the batch.
    pub index: usize,
    /// What happens to the lane.
    pub action: HaltAction,
    /// The author's name for the kind of failure; may be empty.
    pub code: String,
    /// The author's explanation, for people.
    pub message: String,
}

/// The result of one call. Changes come only from events before the halt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Changes to documents, applied in this order.
    pub changes: Vec<Change>,
    /// Events that become dead letters, in ascending order of their index, all before the halt.
    pub skipped: Vec<Skipped>,
    /// Events to append, in the order of their causes, all before the halt.
    pub appends: Vec<Append>,
    /// Where the handler stopped early, if it did.
    pub halted: Option<Halt>,
    /// What the call left behind, if it skipped an event or halted.
    pub diagnostics: Option<Box<Diagnostics>>,
}
