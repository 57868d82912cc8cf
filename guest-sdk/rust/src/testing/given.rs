//! Given-then tests: given these events, then these documents. The events are handled several
//! times, in batches of different sizes, because the outcome must not depend on that. As with a
//! host, types that the descriptor does not name are left out, and nothing is handled after a halt.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    panic::Location,
};

use serde_json::Value;

use super::{Lane, NewEvent, diff};
use crate::{Projector, raw};

/// Batch sizes to test besides all events at once.
const CUTS: [usize; 2] = [1, 2];

/// A test with its events. Skipped events and a halt must be asserted too, or the test fails when
/// this is dropped.
#[derive(Debug)]
pub struct Given<P: Projector> {
    events: Vec<NewEvent>,
    settings: Vec<(String, String)>,
    documents: Vec<(String, String, String)>,
    /// Set by the first assertion.
    outcome: Option<Outcome>,
    skips_asserted: bool,
    halt_asserted: bool,
    place: &'static Location<'static>,
    projector: PhantomData<P>,
}

/// Starts a test with events that `P` handles in one lane. The lane has no documents yet.
#[must_use = "assert the outcome: `.then(collection, documents)`"]
#[track_caller]
pub fn given<P: Projector>(events: impl IntoIterator<Item = NewEvent>) -> Given<P> {
    Given {
        events: events.into_iter().collect(),
        settings: Vec::new(),
        documents: Vec::new(),
        outcome: None,
        skips_asserted: false,
        halt_asserted: false,
        place: Location::caller(),
        projector: PhantomData,
    }
}

impl<P: Projector> Given<P> {
    /// Adds a setting.
    #[must_use = "assert the outcome: `.then(collection, documents)`"]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Adds a document that exists before the events, as JSON text or [`json!`](super::json).
    #[must_use = "assert the outcome: `.then(collection, documents)`"]
    pub fn document(mut self, collection: impl Into<String>, id: impl Into<String>, data: impl ToString) -> Self {
        self.documents.push((collection.into(), id.into(), data.to_string()));
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
        let mut expected = BTreeMap::new();
        for (id, data) in documents {
            let id = id.into();
            let value = parse(&id, &data.to_string());
            expected.insert(id, value);
        }
        let outcome = self.outcome();
        let none = BTreeMap::new();
        let found = outcome.documents.get(collection).unwrap_or(&none);
        let differences = diff::documents(&expected, found);
        assert!(
            differences.is_empty(),
            "the documents of {collection} are not the expected ones:\n{differences}{outcome}"
        );
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
        self.skips_asserted = true;
        let expected: Vec<(usize, &str)> = skipped.into_iter().collect();
        let outcome = self.outcome();
        let found: Vec<(usize, &str)> = outcome.skipped.iter().map(Failed::place_and_code).collect();
        assert_eq!(expected, found, "the skipped events are not the expected ones (left).\n{outcome}");
        self
    }

    /// Asserts that the lane stopped before this event: the index among the given events, counted
    /// from 0, and the code.
    #[track_caller]
    pub fn then_halted(mut self, place: usize, code: &str) -> Self {
        self.halt_asserted = true;
        let outcome = self.outcome();
        let found = outcome.halted.as_ref().map(Failed::place_and_code);
        assert_eq!(Some((place, code)), found, "the lane did not stop as expected (left).\n{outcome}");
        self
    }

    #[track_caller]
    fn outcome(&mut self) -> &Outcome {
        if self.outcome.is_none() {
            let whole = self.run(self.events.len().max(1));
            for size in CUTS {
                let cut = self.run(size);
                let differences = whole.differences(&cut);
                assert!(
                    differences.is_empty(),
                    "the outcome depends on the size of batches; expected is the outcome of all events at once, found that \
                     of {size} at a time:\n{differences}"
                );
            }
            self.outcome = Some(whole);
        }
        self.outcome.get_or_insert_default()
    }

    /// Handles the events in batches of a size.
    #[track_caller]
    fn run(&self, size: usize) -> Outcome {
        let descriptor: raw::Descriptor = P::describe().into();
        let mut lane = Lane::<P>::new("acme");
        self.settings.iter().for_each(|(key, value)| lane.set(key, value));
        self.documents.iter().for_each(|(collection, id, text)| lane.store(collection, id, text));
        let handled = |event: &raw::Event| match &descriptor.event_types {
            Some(types) => types.contains(&event.event_type),
            None => true,
        };
        let mut events: Vec<(usize, raw::Event)> = Vec::new();
        for (place, event) in self.events.iter().enumerate() {
            let event = lane.append(event.clone());
            events.extend(handled(&event).then_some((place, event)));
        }

        let mut outcome = Outcome::default();
        for batch in events.chunks(size) {
            let answer = lane.hand_over(batch.iter().map(|(_, event)| event.clone()).collect());
            let failed = |index: u32, code, message| {
                let (place, event) = &batch[index as usize];
                Failed { place: *place, event_type: event.event_type.clone(), code, message }
            };
            outcome.skipped.extend(answer.skipped.into_iter().map(|skip| failed(skip.index, skip.code, skip.message)));
            outcome.halted = answer.halted.map(|halt| failed(halt.index, halt.code, halt.message));
            if outcome.halted.is_some() {
                break;
            }
        }
        for ((collection, id), text) in &lane.store.documents {
            assert!(
                descriptor.collections.contains(collection),
                "the document {id} was put into the collection {collection}, which the descriptor does not list; a host \
                 would refuse that. Add `.collection({collection:?})` to the descriptor"
            );
            outcome.documents.entry(collection.clone()).or_default().insert(id.clone(), parse(id, text));
        }
        outcome
    }
}

impl<P: Projector> Drop for Given<P> {
    fn drop(&mut self) {
        let Some(outcome) = &self.outcome else { return };
        if std::thread::panicking() {
            return;
        }
        let place = self.place;
        assert!(
            self.skips_asserted || outcome.skipped.is_empty(),
            "{place}: events were skipped without an assertion. Add `.then_skipped(…)`, or correct the events.\n{outcome}"
        );
        assert!(
            self.halt_asserted || outcome.halted.is_none(),
            "{place}: the lane stopped without an assertion. Add `.then_halted(…)`, or correct the events.\n{outcome}"
        );
    }
}

/// The result of handling the events.
#[derive(Debug, Default)]
struct Outcome {
    documents: BTreeMap<String, BTreeMap<String, Value>>,
    skipped: Vec<Failed>,
    halted: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    place: usize,
    event_type: String,
    code: String,
    message: String,
}

impl Failed {
    fn place_and_code(&self) -> (usize, &str) {
        (self.place, &self.code)
    }
}

impl Outcome {
    fn differences(&self, other: &Outcome) -> String {
        let mut differences = String::new();
        let none = BTreeMap::new();
        let of = |outcome: &Outcome, collection: &String| {
            diff::documents(
                self.documents.get(collection).unwrap_or(&none),
                outcome.documents.get(collection).unwrap_or(&none),
            )
        };
        let collections: BTreeSet<&String> = self.documents.keys().chain(other.documents.keys()).collect();
        for collection in collections {
            differences += &of(other, collection);
        }
        let failed = |outcome: &Outcome| {
            let skipped: Vec<_> = outcome.skipped.iter().map(|failed| (failed.place, failed.code.clone())).collect();
            (skipped, outcome.halted.as_ref().map(|failed| (failed.place, failed.code.clone())))
        };
        if failed(self) != failed(other) {
            differences += &format!("  expected\n{self}  found\n{other}");
        }
        differences
    }
}

/// The events that failed, one line each.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs = self.skipped.iter().map(|failed| ("skipped", failed));
        for (verb, Failed { place, event_type, code, message }) in
            verbs.chain(self.halted.iter().map(|h| ("stopped before", h)))
        {
            writeln!(f, "  {verb} event {place}, {event_type}: {code}: {message}")?;
        }
        Ok(())
    }
}

#[track_caller]
#[allow(clippy::panic, reason = "this is how a test fails")]
fn parse(id: &str, text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => panic!("the document {id} is not JSON: {error}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

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
    fn each_collections_differences_are_reported_once() {
        let outcome = |number: u64| Outcome {
            documents: ["a", "b"]
                .map(|name| (name.into(), BTreeMap::from([("x".into(), json!({"n": number}))])))
                .into(),
            ..Outcome::default()
        };
        let differences = outcome(1).differences(&outcome(2));
        assert_eq!(differences, "  x /n: expected 1, found 2\n".repeat(2));
    }

    #[test]
    fn a_setting_that_does_not_parse_stops_the_lane() {
        given::<Sums>([added(2)]).setting("wrong", "maybe").then_empty("sums").then_halted(0, "invalid-setting");
    }
}
