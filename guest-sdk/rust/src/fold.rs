//! Folds: projections in which each event changes one document.
//!
//! A batch is handled in three steps: find the document id of each event, read all documents at
//! once, apply the events in order. Each changed document is written once, in the order of first
//! use, so the result depends on the events only. A skipped event has no effects. A halt keeps the
//! effects of the events before it.

use std::{collections::HashMap, hash::Hash};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Batch, Event, Failure, Halt, Projection, documents, hash::Seeded};

/// Documents of a batch for which there is room at once. A map grows by hashing everything again.
const ROOM: usize = 256;

/// Folds the events of a batch into documents that begin as `D::default()`.
///
/// `locate` returns the id of an event's document and a value to keep, usually the parsed data.
/// `apply` changes the document. If `apply` fails, it must not have changed the document: check
/// first, then change.
pub fn fold<'b, D, K, F>(
    batch: &'b Batch,
    collection: &str,
    mut locate: impl FnMut(Event<'b>) -> Result<(K, F), Failure>,
    mut apply: impl FnMut(&mut D, Event<'b>, F) -> Result<(), Failure>,
) -> Projection
where
    D: Default + Serialize + DeserializeOwned,
    K: AsRef<str> + Eq + Hash,
{
    fold_entries(
        batch,
        collection,
        |event| locate(event).map(Some),
        |entry: &mut Option<D>, event, fact| apply(entry.get_or_insert_default(), event, fact),
    )
}

/// Like [`fold()`], for documents that can be removed. `locate` may return `None` for an event
/// without a document. `apply` gets `None` if the document does not exist, and leaves `None` to
/// remove it.
pub fn fold_entries<'b, D, K, F>(
    batch: &'b Batch,
    collection: &str,
    mut locate: impl FnMut(Event<'b>) -> Result<Option<(K, F)>, Failure>,
    mut apply: impl FnMut(&mut Option<D>, Event<'b>, F) -> Result<(), Failure>,
) -> Projection
where
    D: Serialize + DeserializeOwned,
    K: AsRef<str> + Eq + Hash,
{
    let mut projection = Projection::new();
    let seed = batch.events().next().map_or(0, |event| event.position());
    let mut numbers = HashMap::<K, usize, _>::with_capacity_and_hasher(batch.len().min(ROOM), Seeded(seed));
    let mut touches = Vec::with_capacity(batch.len());
    for event in batch.events() {
        match locate(event) {
            Ok(None) => {}
            Ok(Some((id, fact))) => {
                let next = numbers.len();
                touches.push((event, *numbers.entry(id).or_insert(next), fact));
            }
            Err(failure) => {
                if projection.fail(event, failure).is_break() {
                    break;
                }
            }
        }
    }
    if touches.is_empty() {
        return projection;
    }

    let mut ids = vec![""; numbers.len()];
    for (id, number) in &numbers {
        ids[*number] = id.as_ref();
    }
    let found = documents::read(collection, &ids);
    let mut entries: Vec<Entry<'_, D>> = found.texts().map(Entry::unread).collect();

    for (event, number, fact) in touches {
        let entry = &mut entries[number];
        let outcome = entry.read(collection, ids[number]).map_err(Failure::from).and_then(|document| {
            let before = document.is_some();
            let outcome = apply(document, event, fact);
            // A failing `apply` must not create the document that it may have inserted.
            if outcome.is_err() && !before {
                *document = None;
            }
            outcome
        });
        match outcome {
            Ok(()) => entry.changed = true,
            Err(failure) => {
                if projection.fail(event, failure).is_break() {
                    break;
                }
            }
        }
    }

    for (id, entry) in ids.into_iter().zip(entries) {
        if let Err(halt) = entry.write(collection, id, &mut projection) {
            return Projection::halted_at_once(halt);
        }
    }
    projection
}

/// A document while a batch is folded into it.
struct Entry<'t, D> {
    /// The host's text, parsed at first use, so that an unreadable document fails only the events
    /// that need it.
    text: Option<&'t str>,
    existed: bool,
    document: Option<D>,
    changed: bool,
}

impl<'t, D: Serialize + DeserializeOwned> Entry<'t, D> {
    fn unread(text: Option<&'t str>) -> Self {
        Entry { existed: text.is_some(), text, document: None, changed: false }
    }

    fn read(&mut self, collection: &str, id: &str) -> Result<&mut Option<D>, Halt> {
        if let Some(text) = self.text.take() {
            self.document = Some(documents::parse(collection, id, text)?);
        }
        Ok(&mut self.document)
    }

    fn write(self, collection: &str, id: &str, projection: &mut Projection) -> Result<(), Halt> {
        match self.document {
            Some(document) if self.changed => projection.put(collection, id, &document),
            None if self.changed && self.existed => {
                projection.remove(collection, id);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{
        Descriptor, Projector,
        testing::{Lane, event},
    };

    #[derive(Deserialize)]
    struct Step<'e> {
        id: &'e str,
        add: i64,
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Sum {
        sum: i64,
    }

    /// Sums that skip an event below zero, retry at 99, and remove a document at zero.
    struct Sums;

    impl Projector for Sums {
        fn describe() -> Descriptor {
            crate::descriptor!("sums").collection("sums")
        }

        fn project(batch: &Batch) -> Result<Projection, Halt> {
            Ok(fold_entries(
                batch,
                "sums",
                |event| {
                    let step: Step<'_> = event.data()?;
                    Ok((step.add != 0).then_some((step.id, step)))
                },
                |entry: &mut Option<Sum>, _event, step| {
                    let sum = entry.get_or_insert_default();
                    if step.add == 99 {
                        return Err(Failure::retry("not-yet", "99"));
                    }
                    if sum.sum + step.add < 0 {
                        return Err(Failure::skip("below-zero", step.id));
                    }
                    sum.sum += step.add;
                    if sum.sum == 0 {
                        *entry = None;
                    }
                    Ok(())
                },
            ))
        }
    }

    fn step(id: &str, add: i64) -> crate::testing::NewEvent {
        event("Step", format!(r#"{{"id":"{id}","add":{add}}}"#))
    }

    #[test]
    fn a_batch_writes_each_changed_document_once() {
        let mut lane = Lane::<Sums>::new("acme");
        let answer = lane.handle([step("b", 1), step("a", 2), step("b", 3), step("c", 0)]);
        assert_eq!(answer.changes.len(), 2);
        assert_eq!(lane.text("sums", "b"), Some(r#"{"sum":4}"#));
        assert_eq!(lane.text("sums", "a"), Some(r#"{"sum":2}"#));
        assert_eq!(lane.text("sums", "c"), None);
        lane.handle([step("a", 5)]);
        assert_eq!(lane.text("sums", "a"), Some(r#"{"sum":7}"#));
    }

    #[test]
    fn the_outcome_does_not_depend_on_where_batches_end() {
        let steps = || [step("a", 2), step("b", -1), step("a", -2), step("b", 4), step("a", 1), step("b", -3)];
        let mut whole = Lane::<Sums>::new("acme");
        whole.handle(steps());
        let mut single = Lane::<Sums>::new("acme");
        for step in steps() {
            single.handle([step]);
        }
        assert_eq!(whole.texts("sums"), single.texts("sums"));
        assert_eq!(whole.texts("sums"), [("a", r#"{"sum":1}"#), ("b", r#"{"sum":1}"#)]);
    }

    #[test]
    fn a_document_that_becomes_none_is_removed() {
        let mut lane = Lane::<Sums>::new("acme");
        lane.handle([step("a", 2)]);
        let answer = lane.handle([step("a", -2)]);
        assert!(matches!(answer.changes[..], [crate::raw::Change::Remove(_)]));
        assert_eq!(lane.texts("sums"), []);
        let answer = lane.handle([step("a", 2), step("a", -2)]);
        assert!(answer.changes.is_empty(), "the document was created and removed within the batch");
    }

    #[test]
    fn a_skipped_event_changes_no_document() {
        let mut lane = Lane::<Sums>::new("acme");
        let answer = lane.handle([step("a", -2), event("Step", "[]"), step("b", 1)]);
        let codes: Vec<_> = answer.skipped.iter().map(|skipped| (skipped.index, skipped.code.as_str())).collect();
        assert_eq!(codes, [(0, "below-zero"), (1, "invalid-data")]);
        assert_eq!(lane.texts("sums"), [("b", r#"{"sum":1}"#)]);
    }

    #[test]
    fn a_halt_keeps_the_effects_of_earlier_events() {
        let mut lane = Lane::<Sums>::new("acme");
        let answer = lane.handle([step("a", 1), step("b", 99), step("a", 5), event("Step", "[]")]);
        assert_eq!(answer.halted.map(|halt| (halt.index, halt.code)), Some((1, "not-yet".to_owned())));
        assert!(answer.skipped.is_empty(), "events after the halt are not skipped");
        assert_eq!(lane.texts("sums"), [("a", r#"{"sum":1}"#)]);
    }

    #[test]
    fn an_unreadable_document_stops_only_before_an_event_that_needs_it() {
        let mut lane = Lane::<Sums>::new("acme");
        lane.store("sums", "b", "{}");
        let answer = lane.handle([step("a", 1), step("b", 1), step("a", 1)]);
        assert_eq!(answer.halted.map(|halt| (halt.index, halt.code)), Some((1, "unreadable-document".to_owned())));
        assert_eq!(lane.texts("sums"), [("a", r#"{"sum":1}"#), ("b", "{}")]);
    }
}
