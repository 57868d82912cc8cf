//! The commonest projection: each event belongs to one document and changes it.
//!
//! A batch is handled in three steps: find each event's document id, read all documents at once, apply the events in order. Each
//! changed document is written once, in the order of first touch, so the answer depends on the events alone. A failure concerns
//! its own event: a skipped one leaves no trace, a halt keeps what the events before it did.

use std::{collections::HashMap, hash::Hash};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Batch, Event, Failure, Halt, Projection, documents};

/// Folds the batch's events into documents that begin as `D::default()`.
///
/// `locate` says for one event the id of its document and what to remember of it, usually its parsed data; `apply` changes the
/// document. An `apply` that fails must not have changed the document yet: check first, then change.
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

/// As [`fold()`], for documents that come and go: `locate` may answer `None` for an event that concerns no document, and `apply`
/// sees `None` where there is no document and leaves `None` to remove it.
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
    let mut numbers = HashMap::<K, usize>::new();
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
    let mut entries: Vec<Entry<D>> =
        documents::get_many_text(collection, &ids).into_iter().map(Entry::unread).collect();

    for (event, number, fact) in touches {
        let entry = &mut entries[number];
        let outcome = entry.read(collection, ids[number]).map_err(Failure::from).and_then(|document| {
            let before = document.is_some();
            let outcome = apply(document, event, fact);
            // A document that `apply` was only given to look at does not come into being by failing.
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

/// One document while a batch is folded into it.
struct Entry<D> {
    /// What the host has, parsed at the first touch, so that an unreadable document concerns only the events that need it.
    text: Option<String>,
    existed: bool,
    document: Option<D>,
    changed: bool,
}

impl<D: Serialize + DeserializeOwned> Entry<D> {
    fn unread(text: Option<String>) -> Self {
        Entry { existed: text.is_some(), text, document: None, changed: false }
    }

    fn read(&mut self, collection: &str, id: &str) -> Result<&mut Option<D>, Halt> {
        if let Some(text) = self.text.take() {
            self.document = Some(documents::parse(collection, id, &text)?);
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

    /// Adds up; skips what would fall below zero, waits at 99, and a sum of zero is no document.
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
    fn events_meet_their_documents_once() {
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
    fn a_document_can_go() {
        let mut lane = Lane::<Sums>::new("acme");
        lane.handle([step("a", 2)]);
        let answer = lane.handle([step("a", -2)]);
        assert!(matches!(answer.changes[..], [crate::raw::Change::Remove(_)]));
        assert_eq!(lane.texts("sums"), []);
        let answer = lane.handle([step("a", 2), step("a", -2)]);
        assert!(answer.changes.is_empty(), "it came and went within the batch");
    }

    #[test]
    fn a_skipped_event_leaves_no_trace() {
        let mut lane = Lane::<Sums>::new("acme");
        let answer = lane.handle([step("a", -2), event("Step", "[]"), step("b", 1)]);
        let codes: Vec<_> = answer.skipped.iter().map(|skipped| (skipped.index, skipped.code.as_str())).collect();
        assert_eq!(codes, [(0, "below-zero"), (1, "invalid-data")]);
        assert_eq!(lane.texts("sums"), [("b", r#"{"sum":1}"#)]);
    }

    #[test]
    fn a_halt_keeps_what_came_before_it() {
        let mut lane = Lane::<Sums>::new("acme");
        let answer = lane.handle([step("a", 1), step("b", 99), step("a", 5), event("Step", "[]")]);
        assert_eq!(answer.halted.map(|halt| (halt.index, halt.code)), Some((1, "not-yet".to_owned())));
        assert!(answer.skipped.is_empty(), "what lies behind the halt is not skipped either");
        assert_eq!(lane.texts("sums"), [("a", r#"{"sum":1}"#)]);
    }

    #[test]
    fn an_unreadable_document_concerns_only_its_events() {
        let mut lane = Lane::<Sums>::new("acme");
        lane.store("sums", "b", "{}");
        let answer = lane.handle([step("a", 1), step("b", 1), step("a", 1)]);
        assert_eq!(answer.halted.map(|halt| (halt.index, halt.code)), Some((1, "unreadable-document".to_owned())));
        assert_eq!(lane.texts("sums"), [("a", r#"{"sum":1}"#), ("b", "{}")]);
    }
}
