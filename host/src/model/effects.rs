//! What a handler wants done, as data.

use std::{sync::Arc, time::Duration};

use super::ids::CollectionName;

/// A change to one document of the lane's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces it.
    Put {
        /// Where.
        collection: CollectionName,
        /// Which.
        id: Arc<str>,
        /// The whole document: JSON that [`super::json::check_document`] accepts.
        data: Arc<str>,
    },
    /// Deletes it, if it is there.
    Remove {
        /// Where.
        collection: CollectionName,
        /// Which.
        id: Arc<str>,
    },
}

impl Change {
    /// Bytes that it holds: those of its id and its document.
    pub fn bytes(&self) -> usize {
        match self {
            Change::Put { id, data, .. } => id.len() + data.len(),
            Change::Remove { id, .. } => id.len(),
        }
    }
}

/// An event that is set aside as a dead letter while its lane goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Index into the batch.
    pub index: usize,
    /// The author's name for the kind of failure; may be empty.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What becomes of a lane at the event that its handler stopped before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaltAction {
    /// Try again after the host's back-off, or not before so long has passed.
    Retry {
        /// As the handler wishes it.
        after: Option<Duration>,
    },
    /// Wait for a person.
    Stop,
}

/// The lane handled what stands before `index` and nothing from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Index into the batch.
    pub index: usize,
    /// What next.
    pub action: HaltAction,
    /// The author's name for the kind of failure; may be empty.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What one call led to. Changes come from events before the halt, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Documents to write.
    pub changes: Vec<Change>,
    /// Events set aside, by rising index, all below the halt.
    pub skipped: Vec<Skipped>,
    /// Where the lane stopped, if it did.
    pub halted: Option<Halt>,
}
