//! What a processor does when some of its lanes cannot keep up, as whoever runs it chose: pure.
//!
//! Whatever is chosen, every queue has a bound, a lane that failed or was told to wait is left behind with its row and holds nobody, and the log's
//! head is looked at often while it changes and rarely while it does not (`consumer::wake`): that lies beneath all of them. The settings come from
//! a file or from flags; nothing here knows from where. What lockstep means for several processors together is [`super::lockstep`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::in_flight::{Bounds, Patience};
use crate::model::ids::{LaneKey, ProcessorId};

/// What happens when a lane cannot keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Nobody waits: a lane that holds too much reads the log for itself until it is one with the others again.
    #[default]
    Detach,
    /// All lanes of the processor wait: no page is read while the queue of any of them is full, and none is sent away for being slow. What
    /// is committed does not wait; quiet lanes see later events late.
    Pause,
    /// All processors that chose it wait for each other: none reads a page before all of them have committed what came before, with all lanes. One
    /// that is paused as a whole leaves the others alone until it goes on; one that is behind is waited for.
    Lockstep,
    /// Nobody waits and the latest counts: a lane, or the whole processor, that is too many events behind goes on at the head of the log. What it
    /// did not handle is counted in the transaction that moves it.
    Shed,
}

/// How one processor is treated: the one with the very id that the settings name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// What happens when a lane cannot keep up: `detach`, `pause`, `lockstep` or `shed`. Default `detach`: a slow lane is slow for itself alone.
    pub back_pressure: Strategy,
    /// How many events behind the head of the log a lane or the processor may be before it skips to the head; only with `shed`. No default
    /// (0), since skipping events is for whoever says so. Counted are events of any type, for a lane those of its tenant.
    pub shed_after_events: usize,
}

/// Checks the settings of processors by name, and says what is wrong and how to mend it.
pub fn check(processors: &BTreeMap<String, Settings>) -> Result<(), String> {
    for (name, settings) in processors {
        ProcessorId::parse(name).map_err(|problem| format!("processors.{name}: {problem}"))?;
        match (settings.back_pressure, settings.shed_after_events) {
            (Strategy::Shed, 0) => {
                return Err(format!(
                    "processors.{name}.back-pressure = shed skips events, and so wants its bound; set processors.{name}.shed-after-events, for instance to 100000"
                ));
            }
            (Strategy::Shed, _) | (_, 0) => {}
            (_, events) => {
                return Err(format!(
                    "processors.{name}.shed-after-events = {events} has no effect without processors.{name}.back-pressure = shed; set both or none"
                ));
            }
        }
    }
    Ok(())
}

/// Longer than anybody waits.
const UNENDING: Patience = Patience { first: Duration::from_secs(1 << 30), last: Duration::from_secs(1 << 30) };

impl Settings {
    /// The bounds of a processor's tracker under this strategy.
    pub(super) fn bounds(&self, bounds: Bounds) -> Bounds {
        Bounds {
            lane_events: self.shed_after().unwrap_or(usize::MAX),
            detaches: self.back_pressure != Strategy::Pause,
            ..bounds
        }
    }

    /// How long a commit waits for lanes that have not finished, where one would wait so long otherwise.
    pub(super) fn patience(&self, otherwise: Patience) -> Patience {
        if self.back_pressure == Strategy::Lockstep { UNENDING } else { otherwise }
    }

    /// How many pages are read ahead, where there would be so many otherwise.
    pub(super) fn pages_ahead(&self, otherwise: usize) -> usize {
        if self.back_pressure == Strategy::Lockstep { 1 } else { otherwise }
    }

    /// From how many events on somebody who is behind skips them.
    pub(super) fn shed_after(&self) -> Option<usize> {
        (self.back_pressure == Strategy::Shed).then_some(self.shed_after_events)
    }
}

/// Why no page is read although there may be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The queue of this lane is full.
    Full(LaneKey),
    /// The queues of many lanes are, together.
    FullTogether,
    /// This processor has not committed what came before.
    Waiting(ProcessorId),
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hold::Full(lane) => write!(f, "waiting for {lane}, whose queue is full (back-pressure pause)"),
            Hold::FullTogether => {
                f.write_str("waiting for its lanes, whose queues are full together (back-pressure pause)")
            }
            Hold::Waiting(processor) => write!(f, "waiting for {processor} (back-pressure lockstep)"),
        }
    }
}

/// How long somebody must have waited before it is told, and must not have waited before that is: what comes and goes with every page
/// is no news.
const LASTING: Duration = Duration::from_millis(250);

/// What is told of holds, to the database and so to people.
#[derive(Debug, Default)]
pub(super) struct Held {
    now: Option<Hold>,
    told: Option<Hold>,
    /// Since when it is as it is now.
    since: Option<Instant>,
}

impl Held {
    /// Takes note of why nothing is read, or that something may be.
    pub(super) fn note(&mut self, hold: Option<Hold>, now: Instant) {
        if self.now.is_some() != hold.is_some() || self.since.is_none() {
            self.since = Some(now);
        }
        self.now = hold;
    }

    /// After how long it should be told; none if that was done.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.now != self.told)?;
        Some(LASTING.saturating_sub(now.duration_since(since)))
    }

    /// What is to be told, in words: nothing at all when nothing holds it any more.
    pub(super) fn tell(&mut self) -> String {
        self.told = self.now.clone();
        self.told.as_ref().map_or_else(String::new, Hold::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_is_told_and_told_once() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let hold = || Some(Hold::Waiting(ProcessorId::parse("slow").unwrap()));
        let mut held = Held::default();
        held.note(None, at(0));
        assert_eq!(held.due(at(900)), None, "there is nothing to tell");
        held.note(hold(), at(1_000));
        assert_eq!(held.due(at(1_000)), Some(LASTING));
        held.note(None, at(1_100));
        assert_eq!(held.due(at(1_100)), None, "it came and went");
        held.note(hold(), at(1_200));
        held.note(hold(), at(1_400));
        assert_eq!(held.due(at(1_450)), Some(Duration::ZERO));
        assert_eq!(held.tell(), "waiting for slow (back-pressure lockstep)");
        assert_eq!(held.due(at(1_500)), None);
        held.note(None, at(1_600));
        assert_eq!(held.due(at(1_850)), Some(Duration::ZERO));
        assert_eq!(held.tell(), "");
        assert_eq!(held.due(at(1_900)), None);
    }

    #[test]
    fn a_bound_belongs_to_shedding_and_shedding_has_a_bound() {
        let settings = |back_pressure, shed_after_events| Settings { back_pressure, shed_after_events };
        let check = |name: &str, settings| check(&BTreeMap::from([(name.to_string(), settings)]));
        assert_eq!(check("p", settings(Strategy::Pause, 0)), Ok(()));
        assert_eq!(check("p", settings(Strategy::Shed, 5)), Ok(()));
        assert!(check("p", settings(Strategy::Shed, 0)).unwrap_err().contains("set processors.p.shed-after-events"));
        assert!(check("p", settings(Strategy::Pause, 5)).unwrap_err().contains("has no effect without"));
        assert!(check("No Name", Settings::default()).unwrap_err().starts_with("processors.No Name: "));
    }
}
