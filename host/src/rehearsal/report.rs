//! The report of a plugin test, as data for the command line.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    compare::{self, Comparison, Excerpt},
    pass::{Pass, PassResult, SkippedEvent, StoppedLane},
};

/// The result of a test.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestReport {
    /// Events in the file.
    pub events: usize,
    /// Events of types that the plugin does not subscribe to, or of tenants that it does not
    /// handle.
    pub unsubscribed: usize,
    /// Events handled in the first pass, including skipped ones.
    pub handled: u64,
    /// Events not handled in the first pass, because their lane had stopped.
    pub waiting: u64,
    /// Types that the plugin subscribes to and no event has.
    pub absent_types: Vec<String>,
    /// Events that the plugin skipped, which would become dead letters.
    pub skipped: Excerpt<SkippedEvent>,
    /// Lanes that stopped.
    pub stopped: Excerpt<StoppedLane>,
    /// Number of documents, by collection.
    pub documents: BTreeMap<String, usize>,
    /// All passes. The later ones are compared with the first.
    pub passes: Vec<PassReport>,
    /// Differences from the expected documents, if any were given.
    pub expectation: Option<Comparison>,
}

/// One pass over the events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassReport {
    /// Its batching, in words.
    pub batching: String,
    /// Number of batches.
    pub batches: u64,
    /// Its duration, seconds.
    pub seconds: f64,
    /// Events handled per second.
    pub events_per_second: f64,
    /// Differences of the documents from those of the first pass.
    pub documents: Comparison,
    /// Events whose outcome differs from that in the first pass.
    pub fates: Excerpt<EventDifference>,
}

/// An event with different outcomes in two passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventDifference {
    /// Its line.
    pub line: i64,
    /// Its outcome in the first pass.
    pub first: String,
    /// Its outcome in this pass.
    pub here: String,
}

impl TestReport {
    pub(super) fn of(events: usize, taken: usize, passes: &[Pass]) -> Self {
        let mut report = TestReport {
            events,
            unsubscribed: events - taken,
            handled: 0,
            waiting: 0,
            absent_types: Vec::new(),
            skipped: Excerpt::default(),
            stopped: Excerpt::default(),
            documents: BTreeMap::new(),
            passes: Vec::new(),
            expectation: None,
        };
        let Some(first) = passes.first() else { return report };
        report.handled = first.result.handled;
        report.waiting = first.result.waiting;
        report.skipped.extend(first.result.skipped.values().cloned());
        report.stopped.extend(first.result.stopped.values().cloned());
        for name in first.documents.keys() {
            *report.documents.entry(name.collection.to_string()).or_default() += 1;
        }
        report.passes = passes.iter().map(|pass| PassReport::of(pass, first)).collect();
        report
    }

    /// Whether all passes had the same results.
    pub fn is_same_every_time(&self) -> bool {
        self.passes.iter().all(PassReport::is_same)
    }

    /// Whether the test passed: events were handled, no lane stopped, and all passes had the same
    /// results, which are the expected ones.
    pub fn is_good(&self) -> bool {
        let expected = self.expectation.as_ref().is_none_or(Comparison::is_same);
        self.handled > 0 && self.stopped.total == 0 && self.is_same_every_time() && expected
    }
}

impl PassReport {
    fn of(pass: &Pass, first: &Pass) -> Self {
        let seconds = pass.took.as_secs_f64();
        PassReport {
            batching: pass.batching.to_string(),
            batches: pass.result.batches,
            seconds,
            events_per_second: pass.result.handled as f64 / seconds.max(1e-6),
            documents: compare::documents(&first.documents, &pass.documents),
            fates: differing_fates(&first.result, &pass.result),
        }
    }

    /// Whether it had the same results as the first pass.
    pub fn is_same(&self) -> bool {
        self.documents.is_same() && self.fates.total == 0
    }
}

/// The events whose outcome differs between two passes. Only the class of a skip or stop is
/// compared, since its message may mention the batch.
fn differing_fates(first: &PassResult, here: &PassResult) -> Excerpt<EventDifference> {
    let fate = |pass: &PassResult, line: i64| match (pass.skipped.get(&line), pass.stopped.get(&line)) {
        (_, Some(stop)) => format!("stopped its lane as {}", stop.class),
        (Some(skipped), None) => format!("was skipped as {}", skipped.class),
        (None, None) => "was handled, or its lane had stopped before it".into(),
    };
    let mut lines: Vec<i64> =
        [first, here].iter().flat_map(|pass| pass.skipped.keys().chain(pass.stopped.keys())).copied().collect();
    lines.sort_unstable();
    lines.dedup();
    let differing = lines.into_iter().filter_map(|line| {
        let (first, here) = (fate(first, line), fate(here, line));
        (first != here).then_some(EventDifference { line, first, here })
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_of_events_are_compared_by_class_and_not_by_message() {
        let skipped = |line: i64, class: &str, message: &str| {
            let event = SkippedEvent {
                line,
                tenant: "t".into(),
                event: "e".into(),
                class: class.into(),
                message: message.into(),
            };
            (line, event)
        };
        let pass = |skipped: Vec<(i64, SkippedEvent)>| PassResult {
            skipped: skipped.into_iter().collect(),
            ..PassResult::default()
        };
        let first = pass(vec![skipped(1, "plugin:odd", "in a batch of 7"), skipped(2, "plugin:odd", "")]);
        let here = pass(vec![skipped(1, "plugin:odd", "in a batch of 1"), skipped(3, "plugin:even", "")]);
        let fates: Vec<String> = differing_fates(&first, &here)
            .first
            .iter()
            .map(|fate| format!("{}: {} / {}", fate.line, fate.first, fate.here))
            .collect();
        let otherwise = "was handled, or its lane had stopped before it";
        assert_eq!(
            fates,
            [
                format!("2: was skipped as plugin:odd / {otherwise}"),
                format!("3: {otherwise} / was skipped as plugin:even")
            ]
        );
    }
}
