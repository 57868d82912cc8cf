//! The output of a projector: changes to documents, events that were set aside, and the event
//! before which the lane stopped. Changes apply in the order in which they were made; of several to
//! one document the last one wins. Skipped events are kept in order, and a halt drops those behind
//! it, as the host requires.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::{
    Event, Failure, Halt, Skip,
    bindings::sandmill::processor::packed_types::{self as packed, Text},
    documents,
    failure::Failures,
    raw,
    texts::{Texts, text},
};

/// The effects of a batch.
#[derive(Debug, Default)]
pub struct Projection {
    texts: Texts,
    changes: Vec<packed::Change>,
    /// The collection of the last change. Most answers are about one collection.
    collection: Option<Text>,
    failures: Failures,
}

impl Projection {
    /// A projection without effects: every event is acknowledged.
    pub fn new() -> Self {
        Projection::default()
    }

    /// A projection of events of which some have failed already.
    pub(crate) fn with_failures(failures: Failures) -> Self {
        Projection { failures, ..Projection::default() }
    }

    /// Creates or replaces a document. `document` must become a JSON object without the keys `_id`
    /// and `_version`, which belong to the host.
    ///
    /// # Errors
    ///
    /// A document that cannot be written as JSON, such as a map whose keys are not text, stops the
    /// lane with the code `unwritable-document`.
    pub fn put<T: Serialize>(&mut self, collection: &str, id: impl Into<String>, document: &T) -> Result<(), Halt> {
        let id = id.into();
        let data = self.texts.push_json(document).map_err(|error| documents::unwritable(collection, &id, &error))?;
        self.push_put(collection, &id, data);
        Ok(())
    }

    pub(crate) fn put_text(&mut self, collection: &str, id: &str, data: &str) {
        let data = self.texts.push(data);
        self.push_put(collection, id, data);
    }

    fn push_put(&mut self, collection: &str, id: &str, data: Text) {
        let (collection, id) = (self.push_collection(collection), self.texts.push(id));
        self.changes.push(packed::Change::Put(packed::Document { collection, id, data }));
    }

    fn push_collection(&mut self, name: &str) -> Text {
        let last = self.collection.filter(|last| self.texts.is(*last, name));
        *self.collection.insert(last.unwrap_or_else(|| self.texts.push(name)))
    }

    /// Removes a document. No error if it does not exist.
    pub fn remove(&mut self, collection: &str, id: impl Into<String>) {
        let (collection, id) = (self.push_collection(collection), self.texts.push(&id.into()));
        self.changes.push(packed::Change::Remove(packed::DocumentKey { collection, id }));
    }

    /// Sets an event aside as a dead letter. The lane continues. The event must have no effects.
    /// Events may be skipped in any order; the first reason for an event counts.
    pub fn skip(&mut self, event: Event<'_>, skip: Skip) {
        self.failures.skip(event.index(), skip);
    }

    /// Stops the lane before `event`. Effects of earlier events are kept. `event` and later ones
    /// must have no effects.
    pub fn halt(&mut self, event: Event<'_>, halt: Halt) {
        self.failures.halt(event.index(), halt);
    }

    /// Skips the event or stops before it, as the failure demands. Returns whether to continue with
    /// the next event:
    ///
    /// ```
    /// # use sandmill_guest::prelude::*;
    /// # fn handle(event: Event<'_>, projection: &mut Projection) -> Result<(), Failure> { Ok(()) }
    /// fn project(batch: &Batch) -> Projection {
    ///     let mut projection = Projection::new();
    ///     for event in batch.events() {
    ///         if let Err(failure) = handle(event, &mut projection)
    ///             && projection.fail(event, failure).is_break()
    ///         {
    ///             break;
    ///         }
    ///     }
    ///     projection
    /// }
    /// ```
    pub fn fail(&mut self, event: Event<'_>, failure: Failure) -> ControlFlow<()> {
        self.failures.fail(event.index(), failure)
    }

    /// The projection of a batch that stopped before its first event.
    pub(crate) fn halted_at_once(halt: Halt) -> Self {
        let mut projection = Projection::new();
        projection.failures.halt(0, halt);
        projection
    }
}

impl From<raw::Projection> for Projection {
    fn from(raw: raw::Projection) -> Self {
        let raw::Projection { changes, skipped, halted } = raw;
        let mut projection = Projection::with_failures(Failures { skipped, halted });
        for change in changes {
            match change {
                raw::Change::Put(document) => projection.put_text(&document.collection, &document.id, &document.data),
                raw::Change::Remove(key) => projection.remove(&key.collection, key.id),
            }
        }
        projection
    }
}

impl From<Projection> for raw::Projection {
    fn from(projection: Projection) -> Self {
        let packed::Projection { texts, changes, skipped, halted } = projection.into();
        let owned = |range| text(&texts, range).to_owned();
        let unpack = |change: &packed::Change| match *change {
            packed::Change::Put(packed::Document { collection, id, data }) => {
                raw::Change::Put(raw::Document { collection: owned(collection), id: owned(id), data: owned(data) })
            }
            packed::Change::Remove(packed::DocumentKey { collection, id }) => {
                raw::Change::Remove(raw::DocumentKey { collection: owned(collection), id: owned(id) })
            }
        };
        raw::Projection { changes: changes.iter().map(unpack).collect(), skipped, halted }
    }
}

impl From<Projection> for packed::Projection {
    fn from(projection: Projection) -> Self {
        let Projection { texts, changes, failures: Failures { skipped, halted }, .. } = projection;
        packed::Projection { texts: texts.into_string(), changes, skipped, halted }
    }
}
