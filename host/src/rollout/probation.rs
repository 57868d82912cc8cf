//! The probation of a version after a swap (its *trial*): pure.
//!
//! A version that replaces another fails its trial if it newly blocks several lanes, or every lane
//! that it has handled so far. The reconciler then restores the previous version, which retries
//! these lanes.

use std::time::Duration;

use crate::processor::code::VersionStats;

/// The rules by which a version fails its trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probation {
    /// Length of the trial, seconds; 0 trusts every version.
    pub seconds: u64,
    /// Number of newly blocked lanes at which the version fails. One suffices if it has handled no
    /// event.
    pub lanes: usize,
}

/// The state of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The trial continues.
    OnTrial,
    /// The version has passed.
    Passed,
    /// The version has failed, with the reason.
    Failed(String),
}

impl Probation {
    /// Judges a version that has done this much in the time since it was swapped in.
    pub fn verdict(&self, done: &VersionStats, runs_for: Duration) -> Verdict {
        let trial = Duration::from_secs(self.seconds);
        let handled_nothing = done.events == 0 && done.failed > 0;
        if !trial.is_zero() && (done.failed >= self.lanes || handled_nothing) && runs_for <= trial {
            let lanes = if done.failed == 1 { "a lane".into() } else { format!("{} lanes", done.failed) };
            let handled = if handled_nothing { " and handled nothing" } else { "" };
            let why = done.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            return Verdict::Failed(format!("blocked {lanes}{handled} in the first {} s{why}", self.seconds));
        }
        if runs_for >= trial { Verdict::Passed } else { Verdict::OnTrial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::handler::Reason;

    #[test]
    fn several_newly_blocked_lanes_or_all_lanes_fail_a_trial() {
        let probation = Probation { seconds: 30, lanes: 3 };
        let verdict = |events, failed, after| {
            let done = VersionStats {
                events,
                failed,
                reason: Some(Reason::new("trap", "unreachable")),
                ..VersionStats::default()
            };
            probation.verdict(&done, Duration::from_secs(after))
        };
        assert_eq!(verdict(0, 0, 1), Verdict::OnTrial, "it has handled nothing yet");
        assert_eq!(verdict(5, 2, 1), Verdict::OnTrial);
        let failed = |why: &str| Verdict::Failed(format!("blocked {why} in the first 30 s: trap: unreachable"));
        assert_eq!(verdict(5, 3, 1), failed("3 lanes"));
        assert_eq!(verdict(0, 1, 1), failed("a lane and handled nothing"));
        assert_eq!(verdict(5, 2, 30), Verdict::Passed);
    }

    #[test]
    fn a_trial_of_zero_seconds_passes_every_version() {
        let trusting = Probation { seconds: 0, lanes: 3 };
        let done = VersionStats { failed: 9, ..VersionStats::default() };
        assert_eq!(trusting.verdict(&done, Duration::ZERO), Verdict::Passed);
    }
}
