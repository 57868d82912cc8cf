//! Given-then tests of a projector: given these events, then these documents.

use std::marker::PhantomData;

use super::{NewEvent, outcome::Outcome, scenario::Scenario};
use crate::Projector;

/// A test with its events. Skipped events and a halt must be asserted too, or the test fails when
/// this is dropped.
#[derive(Debug)]
pub struct Given<P: Projector> {
    scenario: Scenario,
    /// Set by the first assertion.
    outcome: Option<Outcome>,
    projector: PhantomData<P>,
}

/// Starts a test with events that `P` handles in one lane. The lane has no documents yet.
#[must_use = "assert the outcome: `.then(collection, documents)`"]
#[track_caller]
pub fn given<P: Projector>(events: impl IntoIterator<Item = NewEvent>) -> Given<P> {
    Given { scenario: Scenario::new(events), outcome: None, projector: PhantomData }
}

impl<P: Projector> Given<P> {
    /// Adds a setting.
    #[must_use = "assert the outcome: `.then(collection, documents)`"]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.scenario.settings.push((key.into(), value.into()));
        self
    }

    /// Adds a document that exists before the events, as JSON text or [`json!`](super::json).
    #[must_use = "assert the outcome: `.then(collection, documents)`"]
    pub fn document(mut self, collection: impl Into<String>, id: impl Into<String>, data: impl ToString) -> Self {
        self.scenario.documents.push((collection.into(), id.into(), data.to_string()));
        self
    }

    /// Asserts that the collection has exactly these documents: ids and JSON, as text or
    /// [`json!`](super::json).
    #[track_caller]
    pub fn then<I: Into<String>, J: ToString>(
        mut self,
        collection: &str,
        documents: impl IntoIterator<Item = (I, J)>,
    ) -> Self {
        self.outcome().assert_documents(collection, documents);
        self
    }

    /// Asserts that the collection has no documents.
    #[track_caller]
    pub fn then_empty(self, collection: &str) -> Self {
        self.then::<&str, &str>(collection, [])
    }

    /// Asserts that exactly these events were skipped: the index among the given events, counted
    /// from 0, and the code.
    #[track_caller]
    pub fn then_skipped<'a>(mut self, skipped: impl IntoIterator<Item = (usize, &'a str)>) -> Self {
        self.scenario.skips_asserted = true;
        self.outcome().assert_skipped(skipped);
        self
    }

    /// Asserts that the lane stopped before this event: the index among the given events, counted
    /// from 0, and the code.
    #[track_caller]
    pub fn then_halted(mut self, place: usize, code: &str) -> Self {
        self.scenario.halt_asserted = true;
        self.outcome().assert_halted(place, code);
        self
    }

    #[track_caller]
    fn outcome(&mut self) -> &Outcome {
        if self.outcome.is_none() {
            let outcome = self.scenario.run_in_cuts(|size| self.run(size), Outcome::differences);
            self.outcome = Some(outcome);
        }
        self.outcome.get_or_insert_default()
    }

    /// Handles the events in batches of a size.
    #[track_caller]
    fn run(&self, size: usize) -> Outcome {
        self.scenario.run::<P>(&P::describe().into(), size, |lane, events, _| {
            let answer = lane.project(events);
            (answer.skipped, answer.halted)
        })
    }
}

impl<P: Projector> Drop for Given<P> {
    fn drop(&mut self) {
        if let Some(outcome) = &self.outcome {
            self.scenario.assert_complete(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;
    use crate::{
        Batch, Descriptor, Failure, Halt, Projection, fold, settings,
        testing::{event, json},
    };

    /// Sums numbers. Skips odd ones and retries at 100. With the setting `wrong`, it multiplies by
    /// the size of the batch, which is a bug.
    struct Sums;

    impl Projector for Sums {
        fn describe() -> Descriptor {
            crate::descriptor!("sums").event_types(["Added"]).collection("sums")
        }

        fn project(batch: &Batch) -> Result<Projection, Halt> {
            let wrong: bool = settings::parse("wrong")?.unwrap_or(false);
            let factor = if wrong { batch.len() as u64 } else { 1 };
            Ok(fold(
                batch,
                "sums",
                |event| match event.data::<u64>()? {
                    100 => Err(Failure::retry("hundred", "wait")),
                    number if number % 2 == 1 => Err(Failure::skip("odd", number.to_string())),
                    number => Ok((event.stream_id(), number)),
                },
                |sum: &mut BTreeMap<String, u64>, event, number| {
                    *sum.entry("sum".into()).or_default() += number * factor;
                    sum.insert("version".into(), event.stream_version());
                    Ok(())
                },
            ))
        }
    }

    fn added(number: u64) -> NewEvent {
        event("Added", number)
    }

    fn failure(test: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("the test should have failed");
        panic.downcast_ref::<String>().expect("a message").clone()
    }

    #[test]
    fn correct_assertions_pass() {
        given::<Sums>([added(2), event("Removed", 7), added(3), added(4), added(6).stream("other")])
            .document("sums", "stream-1", json!({"sum": 10}))
            .then("sums", [("stream-1", r#"{"version": 4, "sum": 16}"#), ("other", r#"{"sum":6,"version":1}"#)])
            .then_skipped([(2, "odd")])
            .then_empty("others");
        given::<Sums>([added(1), added(2), added(100), added(3)])
            .then("sums", [("stream-1", json!({"sum": 2, "version": 2}))])
            .then_skipped([(0, "odd")])
            .then_halted(2, "hundred");
        given::<Sums>([]).then_empty("sums").then_skipped([]);
    }

    #[test]
    fn wrong_and_missing_assertions_fail_with_the_difference() {
        let message =
            failure(|| drop(given::<Sums>([added(2), added(3)]).then("sums", [("stream-1", json!({"sum": 3}))])));
        let expected = "the documents of sums are not the expected ones:\n  stream-1 /sum: expected 3, found 2\n  \
                        stream-1 /version: expected nothing, found 1\n  skipped event 1, Added: odd: 3\n";
        assert_eq!(message, expected);
        let message = failure(|| drop(given::<Sums>([added(3)]).then_empty("sums")));
        assert!(message.contains("given.rs:") && message.contains("Add `.then_skipped(…)`"), "{message}");
        assert!(message.ends_with("\n  skipped event 0, Added: odd: 3\n"), "{message}");
        let message = failure(|| drop(given::<Sums>([added(100)]).then_empty("sums")));
        assert!(message.ends_with("\n  stopped before event 0, Added: hundred: wait\n"), "{message}");
        let message = failure(|| drop(given::<Sums>([added(2)]).then_skipped([(0, "odd")])));
        assert!(message.contains("the skipped events are not the expected ones"), "{message}");
    }

    #[test]
    fn an_outcome_that_depends_on_batch_sizes_fails() {
        let message = failure(|| drop(given::<Sums>([added(2), added(4)]).setting("wrong", "true").then_empty("sums")));
        assert!(message.starts_with("the outcome depends on the size of batches"), "{message}");
        assert!(message.ends_with("1 at a time:\n  stream-1 /sum: expected 12, found 6\n"), "{message}");
    }

    #[test]
    fn a_setting_that_does_not_parse_stops_the_lane() {
        given::<Sums>([added(2)]).setting("wrong", "maybe").then_empty("sums").then_halted(0, "invalid-setting");
    }
}
