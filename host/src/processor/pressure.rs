//! Back-pressure: what a processor does when some of its lanes cannot keep up. Pure.
//!
//! Some rules hold for every strategy. Every queue has a bound. A lane that failed or is paused is
//! left behind with its row, and delays no other lane. The head of the log is polled often while it
//! changes and rarely while it does not (`consumer::wake`). [`super::lockstep`] has the strategy
//! that spans several processors.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::in_flight::{InFlightBounds, Patience};
use crate::model::ids::{LaneKey, ProcessorId};

/// A back-pressure strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// No lane waits: a lane whose queue exceeds its bound reads the log itself until it rejoins
    /// the tail.
    #[default]
    Detach,
    /// All lanes of the processor wait: no page is read while any lane's queue is full, and no lane
    /// is detached for being slow. Commits do not wait. Quiet lanes get later events late.
    Pause,
    /// All processors with this strategy wait for each other: none reads a page before all lanes of
    /// all of them have committed the previous one. A processor that is paused as a whole leaves
    /// until it is resumed. The others wait for one that is behind.
    Lockstep,
    /// No lane waits, and recent events matter most: a lane or processor that is too many events
    /// behind jumps to the head of the log. The events that it sheds are counted in the transaction
    /// that moves it.
    Shed,
}

/// How one processor treats lanes that cannot keep up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PressureSettings {
    /// The strategy.
    pub back_pressure: Strategy,
    /// Number of events behind the head of the log above which a lane or the processor jumps to the
    /// head; only with [`Strategy::Shed`].
    pub shed_after_events: usize,
}

/// A patience that never ends.
const UNENDING: Patience = Patience { first: Duration::from_secs(1 << 30), last: Duration::from_secs(1 << 30) };

impl PressureSettings {
    /// The bounds of a processor's tracker under this strategy.
    pub(super) fn bounds(&self, bounds: InFlightBounds) -> InFlightBounds {
        InFlightBounds {
            lane_events: self.shed_after().unwrap_or(usize::MAX),
            detaches: self.back_pressure != Strategy::Pause,
            ..bounds
        }
    }

    /// How long a commit waits for unfinished lanes under this strategy.
    pub(super) fn patience(&self, otherwise: Patience) -> Patience {
        if self.back_pressure == Strategy::Lockstep { UNENDING } else { otherwise }
    }

    /// How many pages are read ahead under this strategy.
    pub(super) fn pages_ahead(&self, otherwise: usize) -> usize {
        if self.back_pressure == Strategy::Lockstep { 1 } else { otherwise }
    }

    /// The number of events behind above which events are shed; none with other strategies.
    pub(super) fn shed_after(&self) -> Option<usize> {
        (self.back_pressure == Strategy::Shed).then_some(self.shed_after_events)
    }
}

/// Why no page is read although there may be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadWait {
    /// The queue of this lane is full.
    Full(LaneKey),
    /// The queues of all lanes together are full.
    FullTotal,
    /// This processor has not committed the previous page.
    Waiting(ProcessorId),
}

impl std::fmt::Display for ReadWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadWait::Full(lane) => write!(f, "waiting for {lane}, whose queue is full (back-pressure pause)"),
            ReadWait::FullTotal => {
                f.write_str("waiting for its lanes, whose queues are full in total (back-pressure pause)")
            }
            ReadWait::Waiting(processor) => write!(f, "waiting for {processor} (back-pressure lockstep)"),
        }
    }
}

/// How long a wait, or a time without one, must last before it is reported. 250 ms: short waits
/// with every page are normal.
const REPORT_AFTER: Duration = Duration::from_millis(250);

/// The report to the database of why nothing is read, for `status` and `explain`.
#[derive(Debug, Default)]
pub(super) struct WaitReport {
    now: Option<ReadWait>,
    reported: Option<ReadWait>,
    /// When the current wait, or the current time without one, began.
    since: Option<Instant>,
}

impl WaitReport {
    /// Records why nothing is read now; none if something may be read.
    pub(super) fn note(&mut self, wait: Option<ReadWait>, now: Instant) {
        if self.now.is_some() != wait.is_some() || self.since.is_none() {
            self.since = Some(now);
        }
        self.now = wait;
    }

    /// How long until a report is due; none if the last report is up to date.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.now != self.reported)?;
        Some(REPORT_AFTER.saturating_sub(now.duration_since(since)))
    }

    /// The text to report; empty if nothing prevents a read.
    pub(super) fn report(&mut self) -> String {
        self.reported = self.now.clone();
        self.reported.as_ref().map_or_else(String::new, ReadWait::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lasting_wait_is_reported_and_only_once() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let wait = || Some(ReadWait::Waiting(ProcessorId::parse("slow").unwrap()));
        let mut report = WaitReport::default();
        report.note(None, at(0));
        assert_eq!(report.due(at(900)), None, "there is nothing to report");
        report.note(wait(), at(1_000));
        assert_eq!(report.due(at(1_000)), Some(REPORT_AFTER));
        report.note(None, at(1_100));
        assert_eq!(report.due(at(1_100)), None, "the wait was too short");
        report.note(wait(), at(1_200));
        report.note(wait(), at(1_400));
        assert_eq!(report.due(at(1_450)), Some(Duration::ZERO));
        assert_eq!(report.report(), "waiting for slow (back-pressure lockstep)");
        assert_eq!(report.due(at(1_500)), None);
        report.note(None, at(1_600));
        assert_eq!(report.due(at(1_850)), Some(Duration::ZERO));
        assert_eq!(report.report(), "");
        assert_eq!(report.due(at(1_900)), None);
    }
}
