//! The rollout state of a processor: whether its current version is on trial, and which version a
//! rollback restores. Pure.
//!
//! ```text
//!                 swap                  passed
//!   Settled ───────────────▶ OnTrial ───────────────▶ Trusted
//!      ▲                      │   ▲       swap           │
//!      │       rollback       │   └──────────────────────┤
//!      └──────────────────────┴──────────────────────────┘
//! ```
//!
//! A swap during a trial starts the trial again and keeps the previous version, unless that is the
//! one swapped in. So two bad versions in a row lead back to the last good one. After a rollback
//! nothing can be restored, because the version that just failed would fail again. A swap to the
//! same code with a different manifest settles the state, except during a trial.

use std::time::{Duration, Instant};

/// A version of a plugin, identified by the digest of its file.
pub trait HasDigest {
    /// SHA-256 of its file.
    fn digest(&self) -> &str;
}

/// The rollout state of a processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RolloutState<V> {
    /// The processor began with its current version, or was rolled back to it: no version to
    /// restore.
    #[default]
    Settled,
    /// The current version is on trial.
    OnTrial {
        /// The version that a rollback restores.
        previous: V,
        /// When the trial began.
        since: Instant,
    },
    /// The current version has passed its trial.
    Trusted {
        /// The version that a rollback restores.
        previous: V,
    },
}

/// An event that changes a rollout state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutEvent<'a, V> {
    /// A version replaced another one.
    Swapped {
        /// The replaced version.
        replaced: V,
        /// The digest of the version that runs now.
        current: &'a str,
    },
    /// The current version has passed its trial.
    Passed,
    /// The previous version was restored.
    RolledBack,
}

impl<V: HasDigest> RolloutState<V> {
    /// The state after an event.
    pub fn after(self, event: RolloutEvent<'_, V>, now: Instant) -> Self {
        use RolloutEvent::{Passed, RolledBack, Swapped};
        use RolloutState::{OnTrial, Settled, Trusted};
        match (self, event) {
            (OnTrial { previous, .. }, Swapped { current, .. }) if previous.digest() != current => {
                OnTrial { previous, since: now }
            }
            // Only the manifest changed: a bad manifest is fixed by changing it back.
            (_, Swapped { replaced, current }) if replaced.digest() == current => Settled,
            (_, Swapped { replaced, .. }) => OnTrial { previous: replaced, since: now },
            (OnTrial { previous, .. } | Trusted { previous }, Passed) => Trusted { previous },
            (Settled, Passed) | (_, RolledBack) => Settled,
        }
    }

    /// How long the current version has been on trial; none if it is not.
    pub fn trial_time(&self, now: Instant) -> Option<Duration> {
        match self {
            RolloutState::OnTrial { since, .. } => Some(now.saturating_duration_since(*since)),
            RolloutState::Settled | RolloutState::Trusted { .. } => None,
        }
    }

    /// The version that a rollback restores.
    pub fn previous(&self) -> Option<&V> {
        match self {
            RolloutState::Settled => None,
            RolloutState::OnTrial { previous, .. } | RolloutState::Trusted { previous } => Some(previous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RolloutEvent::*, RolloutState::*, *};

    impl HasDigest for &str {
        fn digest(&self) -> &str {
            self
        }
    }

    fn swap<'a>(replaced: &'a str, current: &'a str) -> RolloutEvent<'a, &'a str> {
        Swapped { replaced, current }
    }

    /// The state after a sequence of events, one a second, and the time of the last event.
    fn after<'a>(events: impl IntoIterator<Item = RolloutEvent<'a, &'a str>>) -> (RolloutState<&'a str>, Instant) {
        let mut now = Instant::now();
        let mut state = Settled;
        for event in events {
            now += Duration::from_secs(1);
            state = state.after(event, now);
        }
        (state, now)
    }

    #[test]
    fn a_swap_begins_a_trial_that_ends_with_trust_or_a_rollback() {
        let (state, now) = after([swap("good", "new")]);
        assert_eq!(state, OnTrial { previous: "good", since: now });
        assert_eq!(state.trial_time(now + Duration::from_secs(5)), Some(Duration::from_secs(5)));
        assert_eq!(after([swap("good", "new"), Passed]).0, Trusted { previous: "good" });
        assert_eq!(after([swap("good", "new"), RolledBack]).0, Settled);
        assert_eq!(after([swap("good", "new"), Passed, RolledBack]).0, Settled, "a person may roll back any time");
    }

    #[test]
    fn two_bad_versions_lead_back_to_the_last_good_one() {
        let (state, now) = after([swap("good", "bad"), swap("bad", "worse")]);
        assert_eq!(state, OnTrial { previous: "good", since: now }, "the trial begins again");
        let (state, now) = after([swap("good", "better"), Passed, swap("better", "new")]);
        assert_eq!(state, OnTrial { previous: "better", since: now }, "a trusted version is restored");
    }

    #[test]
    fn a_version_that_returns_during_the_trial_of_its_successor_is_on_trial_itself() {
        let (state, now) = after([swap("good", "bad"), swap("bad", "good")]);
        assert_eq!(state, OnTrial { previous: "bad", since: now });
    }

    #[test]
    fn a_changed_manifest_is_no_version_to_restore() {
        assert_eq!(after([swap("good", "good")]).0, Settled);
        assert_eq!(after([swap("old", "good"), Passed, swap("good", "good")]).0, Settled);
        let (state, now) = after([swap("good", "new"), swap("new", "new")]);
        assert_eq!(state, OnTrial { previous: "good", since: now }, "the new version is still on trial");
    }

    #[test]
    fn without_a_trial_there_is_nothing_to_pass() {
        let (state, now) = after([Passed]);
        assert_eq!((state.trial_time(now), state.previous()), (None, None));
        assert_eq!(after([RolledBack, Passed]).0, Settled);
    }
}
