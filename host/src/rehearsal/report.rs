//! What a rehearsal found, as data for whoever shows it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    compare::{self, Comparison, Listed},
    pass::{Did, Pass},
};

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Events given.
    pub events: usize,
    /// Of these, those of a type that the plugin does not take.
    pub other_types: usize,
    /// Handled the first time, skipped ones among them.
    pub handled: u64,
    /// Not handled, as their lane had stopped.
    pub waiting: u64,
    /// Types that the plugin takes and no event has.
    pub absent_types: Vec<String>,
    /// Events set aside, which become dead letters.
    pub skipped: Listed<SkippedEvent>,
    /// Lanes that stopped.
    pub stopped: Listed<Stop>,
    /// How many documents there are, by collection.
    pub documents: BTreeMap<String, usize>,
    /// Every time that the events were handled. The others are compared with the first.
    pub passes: Vec<PassReport>,
    /// How the documents differ from what was expected, if something was.
    pub expectation: Option<Comparison>,
}

/// An event that the plugin set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedEvent {
    /// The line it stands in.
    pub line: i64,
    /// Whose it is.
    pub tenant: String,
    /// Its id.
    pub event: String,
    /// The plugin's code, behind `plugin:`.
    pub class: String,
    /// The plugin's words.
    pub message: String,
}

/// Where a lane stopped, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// The line of the event that it stopped before.
    pub line: i64,
    /// Whose lane it is.
    pub tenant: String,
    /// The lane's key.
    pub lane: String,
    /// The event's id.
    pub event: String,
    /// The event's type.
    pub event_type: String,
    /// The kind of failure.
    pub class: String,
    /// What happened.
    pub message: String,
    /// How often it was tried, where the plugin asked for another try; none where it was stopped at once.
    pub attempts: Option<u32>,
}

/// The events handled once.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassReport {
    /// How they were cut.
    pub batching: String,
    /// Into how many batches.
    pub batches: u64,
    /// How long it took.
    pub seconds: f64,
    /// Events handled in a second.
    pub events_per_second: f64,
    /// How the documents differ from those of the first time.
    pub documents: Comparison,
    /// How the fate of events does.
    pub fates: Listed<EventDifference>,
}

/// An event that went otherwise than the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventDifference {
    /// Its line.
    pub line: i64,
    /// What became of it the first time.
    pub first: String,
    /// What became of it this time.
    pub here: String,
}

impl Report {
    pub(super) fn of(events: usize, mine: usize, passes: &[Pass]) -> Self {
        let mut report = Report {
            events,
            other_types: events - mine,
            handled: 0,
            waiting: 0,
            absent_types: Vec::new(),
            skipped: Listed::default(),
            stopped: Listed::default(),
            documents: BTreeMap::new(),
            passes: Vec::new(),
            expectation: None,
        };
        let Some(first) = passes.first() else { return report };
        report.handled = first.did.handled;
        report.waiting = first.did.waiting;
        report.skipped.extend(first.did.skipped.values().cloned());
        report.stopped.extend(first.did.stopped.values().cloned());
        for name in first.documents.keys() {
            *report.documents.entry(name.collection.to_string()).or_default() += 1;
        }
        report.passes = passes.iter().map(|pass| PassReport::of(pass, first)).collect();
        report
    }

    /// Whether all ways of cutting led to the same.
    pub fn is_same_every_time(&self) -> bool {
        self.passes.iter().all(PassReport::is_same)
    }

    /// Whether everything is as it should be: something was handled, no lane stopped, all ways of cutting led to the same, and that is what was
    /// expected.
    pub fn is_good(&self) -> bool {
        let expected = self.expectation.as_ref().is_none_or(Comparison::is_same);
        self.handled > 0 && self.stopped.total == 0 && self.is_same_every_time() && expected
    }
}

impl PassReport {
    fn of(pass: &Pass, first: &Pass) -> Self {
        let seconds = pass.took.as_secs_f64();
        PassReport {
            batching: pass.cut.to_string(),
            batches: pass.did.batches,
            seconds,
            events_per_second: pass.did.handled as f64 / seconds.max(1e-6),
            documents: compare::documents(&first.documents, &pass.documents),
            fates: differing_fates(&first.did, &pass.did),
        }
    }

    /// Whether it led to the same as the first time.
    pub fn is_same(&self) -> bool {
        self.documents.is_same() && self.fates.total == 0
    }
}

/// Events that were skipped or stopped a lane in one of two passes, or in both but otherwise. What a stop says may tell of its batch, so only
/// its kind counts.
fn differing_fates(first: &Did, here: &Did) -> Listed<EventDifference> {
    let fate = |did: &Did, line: i64| match (did.skipped.get(&line), did.stopped.get(&line)) {
        (_, Some(stop)) => format!("stopped its lane as {}", stop.class),
        (Some(skipped), None) => format!("was skipped as {}", skipped.class),
        (None, None) => "was handled, or stood behind a stop".into(),
    };
    let mut lines: Vec<i64> =
        [first, here].iter().flat_map(|d| d.skipped.keys().chain(d.stopped.keys())).copied().collect();
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
    fn what_became_of_an_event_is_compared_by_its_kind() {
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
        let did = |skipped: Vec<(i64, SkippedEvent)>| Did { skipped: skipped.into_iter().collect(), ..Did::default() };
        let first = did(vec![skipped(1, "plugin:odd", "in a batch of 7"), skipped(2, "plugin:odd", "")]);
        let here = did(vec![skipped(1, "plugin:odd", "in a batch of 1"), skipped(3, "plugin:even", "")]);
        let told: Vec<String> = differing_fates(&first, &here)
            .first
            .iter()
            .map(|fate| format!("{}: {} / {}", fate.line, fate.first, fate.here))
            .collect();
        let otherwise = "was handled, or stood behind a stop";
        assert_eq!(
            told,
            [
                format!("2: was skipped as plugin:odd / {otherwise}"),
                format!("3: {otherwise} / was skipped as plugin:even")
            ]
        );
    }
}
