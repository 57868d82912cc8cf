//! The failure policy of a processor: what happens to an event that could not be handled. Pure.
//!
//! Each failure has a class ([`Reason`](crate::model::handler::Reason)), and each class a family
//! ([`Blame`]). A policy answers one question: after this attempt at this one event, does the lane
//! try again, set the event aside as a dead letter, or stop, perhaps with the whole processor? It
//! counts attempts at the event, no matter how they failed. A shortage on the host never counts,
//! because it says nothing about the event.
//!
//! The settings of one class take precedence over those of its family, and these over the settings
//! for all classes, key by key. The operator's settings for the processor take precedence over the
//! plugin's manifest as a whole: a tenant writes the manifests of its own plugins, and an
//! operator's bound must hold for these too.
//!
//! A policy is part of a version of the code, so that a swap replaces both at once.

mod back_off;
pub mod breaker;
mod settings;

use std::time::Duration;

use super::{appends::HOP_LIMIT, budgets::LETTERS_LIMIT};
use back_off::{BackOff, LONGEST_REQUEST};
pub use settings::{CODE, FailureRule, FailureSettings, Then};

/// The family of a failure's class: who or what is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The event, or the code that handles it: it would fail again.
    Event,
    /// The load: the call needed more time or memory than it may have, which may pass.
    Load,
    /// The host, which was short of something that other calls hold. It passes.
    Host,
    /// The plugin, which gave a reason of its own.
    Plugin,
    /// An external cause: another writer of a stream.
    World,
}

/// Every class of a failure that the host produces, and its family. Plugins add `plugin` and
/// `plugin:CODE`.
const CLASSES: [(&str, Blame); 27] = [
    ("appends-limit", Blame::Event),
    ("changes-limit", Blame::Event),
    ("document-limit", Blame::Event),
    ("document-unreadable", Blame::Event),
    ("event-too-large", Blame::Event),
    ("event-unreadable", Blame::Event),
    (HOP_LIMIT, Blame::Event),
    ("json-depth-limit", Blame::Event),
    ("malformed-output", Blame::Event),
    ("output-limit", Blame::Event),
    ("read-limit", Blame::Event),
    ("reads-limit", Blame::Event),
    ("refused-call", Blame::Event),
    (LETTERS_LIMIT, Blame::Event),
    (REFUSED_COMMIT, Blame::Event),
    ("trap", Blame::Event),
    ("unreadable-data", Blame::Event),
    ("cpu-limit", Blame::Load),
    ("handle-limit", Blame::Load),
    ("memory-limit", Blame::Load),
    ("table-limit", Blame::Load),
    ("wall-time-limit", Blame::Load),
    ("instances", Blame::Host),
    ("plugin-memory-limit", Blame::Host),
    ("tenant-memory-limit", Blame::Host),
    (THROTTLED, Blame::Host),
    (APPEND_CONFLICT, Blame::World),
];

/// The class of a lane whose tenant has used up a rate. It waits for exactly as long as that takes,
/// so no setting applies to it.
const THROTTLED: &str = crate::tenants::rates::THROTTLED;

/// The class of a lane whose append expected another version of its stream.
pub const APPEND_CONFLICT: &str = "append-conflict";

/// The class of a lane whose data the database refused.
pub const REFUSED_COMMIT: &str = "refused-commit";

/// The class of a plugin's failure that has no code.
const PLUGIN: &str = "plugin";

impl Blame {
    /// The family of a class. A class that the host does not know is that of a handler that is part
    /// of the process; such a failure is treated like one of the event.
    pub fn of(class: &str) -> Blame {
        if class == PLUGIN || class.starts_with("plugin:") {
            return Blame::Plugin;
        }
        CLASSES.iter().find(|(known, _)| *known == class).map_or(Blame::Event, |(_, blame)| *blame)
    }

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Blame::Event => "event",
            Blame::Load => "load",
            Blame::Host => "host",
            Blame::Plugin => PLUGIN,
            Blame::World => "world",
        }
    }

    /// Maximum number of attempts if no setting says otherwise; none if there is no limit.
    fn attempts(self, wish: Wish) -> Option<u32> {
        match (self, wish) {
            (Blame::Host | Blame::World, _) | (_, Wish::Retry { .. }) => None,
            (Blame::Load, _) => Some(LOAD_ATTEMPTS),
            (Blame::Event | Blame::Plugin, _) => Some(1),
        }
    }

    /// The first delay if no setting says otherwise.
    fn first(self) -> Duration {
        match self {
            Blame::Event | Blame::Plugin | Blame::World => FIRST,
            Blame::Load | Blame::Host => FIRST_UNDER_LOAD,
        }
    }
}

/// Attempts at an event that fails under load. 10: with [`FIRST_UNDER_LOAD`] they take more than
/// five minutes, so a short disturbance never exhausts them.
const LOAD_ATTEMPTS: u32 = 10;
/// The delay after the first attempt, before jitter. 200 ms: longer than a short disturbance of the
/// database, and too short for a person to notice.
const FIRST: Duration = Duration::from_millis(200);
/// The same for failures under load and shortages on the host. 1 s: an immediate retry would add to
/// the load.
const FIRST_UNDER_LOAD: Duration = Duration::from_secs(1);
/// The longest delay that follows from attempts. 5 min: lanes recover within minutes after an
/// outage of hours.
const LONGEST: Duration = Duration::from_secs(300);

/// What the handler asked for when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: the call failed.
    None,
    /// A retry.
    Retry {
        /// The shortest delay, if it named one.
        after: Option<Duration>,
    },
    /// No further attempt.
    Stop,
}

/// An attempt at one event that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedAttempt<'a> {
    /// The class of the failure.
    pub class: &'a str,
    /// What the handler asked for.
    pub wish: Wish,
    /// The number of the attempt, from 1. Only attempts that count are numbered.
    pub attempt: u32,
    /// Whether the version that failed is on trial or under test. Such a version sets no event
    /// aside, so that its failures show. It retries only if the guest asks for it.
    pub on_probation: bool,
    /// Any number that differs between lanes.
    pub spread: u64,
}

/// What happens to the event and its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The lane tries again.
    Again {
        /// The delay before the next attempt.
        after: Duration,
        /// Whether the attempt counts.
        counts: bool,
    },
    /// The event becomes a dead letter, and the lane continues after it.
    SetAside,
    /// The event's stream is parked, and the lane continues without it.
    Park,
    /// The lane blocks.
    Stop,
    /// The lane blocks, and the processor is paused.
    StopProcessor,
}

/// A failure policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailurePolicy {
    /// The operator's settings for the processor, then those of the plugin's manifest.
    layers: [FailureSettings; 2],
    /// Whether a lane stops where the settings say that the stream is parked.
    stops_instead_of_parking: bool,
}

impl FailurePolicy {
    /// The policy of a manifest, under the operator's settings for the processor.
    pub fn new(operator: FailureSettings, manifest: FailureSettings) -> Self {
        FailurePolicy { layers: [operator, manifest], stops_instead_of_parking: false }
    }

    /// The same policy for lanes whose streams cannot be parked: such a lane stops instead.
    pub fn without_parking(self) -> Self {
        FailurePolicy { stops_instead_of_parking: true, ..self }
    }

    /// What happens after a failed attempt.
    ///
    /// A limit applies again after each such number of attempts. So a lane that blocked after its
    /// last attempt has as many again when it is resumed. The stored number keeps growing, because
    /// guests see it.
    pub fn verdict(&self, failed: &FailedAttempt<'_>) -> Verdict {
        let (blame, attempt) = (Blame::of(failed.class), failed.attempt.max(1));
        let rule = self.rule(failed.class, blame);
        let back_off = back_off(&rule, blame);
        if blame == Blame::Host {
            let after = back_off.delay(1, None, failed.spread.wrapping_add(attempt.into()));
            return Verdict::Again { after, counts: false };
        }
        if failed.class == LETTERS_LIMIT {
            return Verdict::Stop;
        }
        let limit = rule.attempts.or(blame.attempts(failed.wish)).map(|limit| limit.max(1));
        let (may_retry, requested) = match failed.wish {
            Wish::None => (!failed.on_probation, None),
            Wish::Retry { after } => (true, after),
            Wish::Stop => (false, None),
        };
        if may_retry && limit.is_none_or(|limit| !attempt.is_multiple_of(limit)) {
            let in_round = limit.map_or(attempt, |limit| (attempt - 1) % limit + 1);
            return Verdict::Again { after: back_off.delay(in_round, requested, failed.spread), counts: true };
        }
        match rule.then.unwrap_or_default() {
            _ if failed.on_probation => Verdict::Stop,
            Then::Stop => Verdict::Stop,
            Then::StopProcessor => Verdict::StopProcessor,
            Then::DeadLetter => Verdict::SetAside,
            Then::ParkStream if self.stops_instead_of_parking => Verdict::Stop,
            Then::ParkStream => Verdict::Park,
        }
    }

    /// The settings for a class, from all layers.
    fn rule(&self, class: &str, blame: Blame) -> FailureRule {
        let rules = self.layers.iter().flat_map(|layer| layer.rules(class, blame.name()));
        rules.fold(FailureRule::default(), |rule, weaker| rule.or(weaker))
    }
}

/// The delays under a rule. A first delay that is longer than the default ceiling raises it.
fn back_off(rule: &FailureRule, blame: Blame) -> BackOff {
    let first = rule.first_ms.map_or(blame.first(), Duration::from_millis);
    let longest = rule.longest_s.map(Duration::from_secs);
    BackOff {
        first,
        longest: longest.unwrap_or(LONGEST.max(first)),
        longest_request: longest.unwrap_or(LONGEST_REQUEST),
    }
}

#[cfg(test)]
mod tests;
