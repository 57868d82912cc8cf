//! The events of a test and how they are handled: several times, in batches of different sizes,
//! because the outcome must not depend on that. As with a host, types that the descriptor does not
//! name are left out, and nothing is handled after a halt.

use std::panic::Location;

use super::{
    Lane, NewEvent,
    outcome::{Failed, Outcome, parse},
};
use crate::raw;

/// Batch sizes to test besides all events at once.
const CUTS: [usize; 2] = [1, 2];

/// The events of a test, what exists before them, and which failures it has asserted.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) events: Vec<NewEvent>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) documents: Vec<(String, String, String)>,
    pub(super) skips_asserted: bool,
    pub(super) halt_asserted: bool,
    place: &'static Location<'static>,
}

impl Scenario {
    #[track_caller]
    pub(super) fn new(events: impl IntoIterator<Item = NewEvent>) -> Self {
        Scenario {
            events: events.into_iter().collect(),
            settings: Vec::new(),
            documents: Vec::new(),
            skips_asserted: false,
            halt_asserted: false,
            place: Location::caller(),
        }
    }

    /// Runs the events with several batch sizes, and asserts that their outcomes do not differ.
    #[track_caller]
    pub(super) fn run_in_cuts<O>(&self, run: impl Fn(usize) -> O, differences: impl Fn(&O, &O) -> String) -> O {
        let whole = run(self.events.len().max(1));
        for size in CUTS {
            let differences = differences(&whole, &run(size));
            assert!(
                differences.is_empty(),
                "the outcome depends on the size of batches; expected is the outcome of all events at once, found that \
                 of {size} at a time:\n{differences}"
            );
        }
        whole
    }

    /// Handles the events in batches of a size. `handle` passes a batch to the plugin, with the
    /// place of each event among the given ones, and returns the failures in the answer.
    #[track_caller]
    pub(super) fn run<P>(
        &self,
        descriptor: &raw::Descriptor,
        size: usize,
        mut handle: impl FnMut(&mut Lane<P>, Vec<raw::Event>, &[usize]) -> (Vec<raw::SkippedEvent>, Option<raw::Halt>),
    ) -> Outcome {
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
            let places: Vec<usize> = batch.iter().map(|(place, _)| *place).collect();
            let (skipped, halted) = handle(&mut lane, batch.iter().map(|(_, event)| event.clone()).collect(), &places);
            let failed = |index: u32, code, message| {
                let (place, event) = &batch[index as usize];
                Failed { place: *place, event_type: event.event_type.clone(), code, message }
            };
            outcome.skipped.extend(skipped.into_iter().map(|skip| failed(skip.index, skip.code, skip.message)));
            outcome.halted = halted.map(|halt| failed(halt.index, halt.code, halt.message));
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
            let value = parse(&format!("the document {id}"), text);
            outcome.documents.entry(collection.clone()).or_default().insert(id.clone(), value);
        }
        outcome
    }

    /// Asserts, at the end of a test that has not failed, that no failure went without an
    /// assertion.
    pub(super) fn assert_complete(&self, outcome: &Outcome) {
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
