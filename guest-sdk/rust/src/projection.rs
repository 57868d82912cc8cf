//! The output of a projector: changes to documents, events that were set aside, and the event
//! before which the lane stopped. Changes apply in the order in which they were made; of several to
//! one document the last one wins. Skipped events are kept in order, and a halt drops those behind
//! it, as the host requires.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::{Event, Failure, Halt, Skip, documents, raw};

/// The effects of a batch.
#[derive(Debug)]
pub struct Projection(raw::Projection);

impl Projection {
    /// A projection without effects: every event is acknowledged.
    pub fn new() -> Self {
        Projection(raw::Projection { changes: Vec::new(), skipped: Vec::new(), halted: None })
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
        let data = documents::text_of(collection, &id, document)?;
        self.put_text(collection, id, data);
        Ok(())
    }

    pub(crate) fn put_text(&mut self, collection: &str, id: String, data: String) {
        self.0.changes.push(raw::Change::Put(raw::Document { collection: collection.into(), id, data }));
    }

    /// Removes a document. No error if it does not exist.
    pub fn remove(&mut self, collection: &str, id: impl Into<String>) {
        let key = raw::DocumentKey { collection: collection.into(), id: id.into() };
        self.0.changes.push(raw::Change::Remove(key));
    }

    /// Sets an event aside as a dead letter. The lane continues. The event must have no effects.
    /// Events may be skipped in any order; the first reason for an event counts.
    pub fn skip(&mut self, event: Event<'_>, skip: Skip) {
        let skipped = &mut self.0.skipped;
        if let Err(place) = skipped.binary_search_by_key(&event.index(), |other| other.index) {
            let Skip { code, message } = skip;
            skipped.insert(place, raw::SkippedEvent { index: event.index(), code, message });
        }
    }

    /// Stops the lane before `event`. Effects of earlier events are kept. `event` and later ones
    /// must have no effects.
    pub fn halt(&mut self, event: Event<'_>, halt: Halt) {
        self.halt_at(event.index(), halt);
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
        match failure {
            Failure::Skip(skip) => {
                self.skip(event, skip);
                ControlFlow::Continue(())
            }
            Failure::Halt(halt) => {
                self.halt(event, halt);
                ControlFlow::Break(())
            }
        }
    }

    /// The projection of a batch that stopped before its first event.
    pub(crate) fn halted_at_once(halt: Halt) -> Self {
        let mut projection = Projection::new();
        projection.halt_at(0, halt);
        projection
    }

    fn halt_at(&mut self, index: u32, halt: Halt) {
        let Halt { action, code, message } = halt;
        self.0.skipped.retain(|skipped| skipped.index < index);
        self.0.halted = Some(raw::Halt { index, action, code, message });
    }
}

impl Default for Projection {
    fn default() -> Self {
        Projection::new()
    }
}

impl From<raw::Projection> for Projection {
    fn from(raw: raw::Projection) -> Self {
        Projection(raw)
    }
}

impl From<Projection> for raw::Projection {
    fn from(projection: Projection) -> Self {
        projection.0
    }
}
