//! Whether a version that has just come does what it should: pure.
//!
//! A version that takes another's place is on trial for a while. It fails it by blocking lanes that were not blocked before: several of them, or every lane that
//! it has had so far. Then the one before takes its place again, and the lanes try again with that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::signature::PublicKey;
use crate::processor::code::Done;

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Look at the plugins folder every so many milliseconds. Default 0: when the file system tells of a change, and every second; network file systems tell of
    /// none.
    pub poll_ms: u64,
    /// Public keys of Ed25519, in hexadecimal: with some, only plugins run that one of them has signed (`sandmill plugin sign`). Default none: every plugin may run.
    pub public_keys: Vec<String>,
    /// For how long a version that replaced another is on trial, seconds. Default 30; 0 trusts every version.
    pub trial_seconds: u64,
    /// So many lanes that it blocks meanwhile, and that were not blocked before, bring the one before it back. Default 3. One is enough if the version has handled
    /// nothing at all.
    pub trial_lanes: usize,
    /// On so many of a processor's last events a version is tried before it takes over, and nothing that it answers is kept. It does not take over if it fails where the one that
    /// runs does not, unless its manifest says `dry-run = false`. Default 100; 0 tries none.
    pub dry_run_events: usize,
    /// Versions of each plugin whose bytes the database keeps: the one that runs, and those that
    /// ran before it. Default 3: the one before is what a rollback goes back to, and one more if
    /// that was taken back as well.
    pub retained_versions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            poll_ms: 0,
            public_keys: Vec::new(),
            trial_seconds: 30,
            trial_lanes: 3,
            dry_run_events: 100,
            retained_versions: 3,
        }
    }
}

impl Config {
    /// Says which setting has a value that cannot work, with the values that can.
    pub fn check(&self) -> Result<(), String> {
        self.keys()?;
        let ranges = [
            ("poll-ms", self.poll_ms, 0, 60_000),
            ("trial-seconds", self.trial_seconds, 0, 86_400),
            ("trial-lanes", self.trial_lanes as u64, 1, 1_000),
            ("dry-run-events", self.dry_run_events as u64, 0, 10_000),
            ("retained-versions", self.retained_versions as u64, 2, 100),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("rollout.{name} = {value} is out of range; it takes {low} to {high}"));
            }
        }
        Ok(())
    }

    /// The keys that plugins may be signed with; none where no signature is asked for.
    pub fn keys(&self) -> Result<Vec<PublicKey>, String> {
        let parse = |text: &String| PublicKey::parse(text).map_err(|why| format!("rollout.public-keys: {why}"));
        self.public_keys.iter().map(parse).collect()
    }
}

/// How a trial stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    OnTrial,
    /// It has passed.
    Passed,
    /// It has not; why.
    Failed(String),
}

/// How the trial of a version stands that has been running for so long.
pub fn verdict(config: &Config, done: &Done, runs_for: Duration) -> Verdict {
    let trial = Duration::from_secs(config.trial_seconds);
    let handled_nothing = done.events == 0 && done.failed > 0;
    if !trial.is_zero() && (done.failed >= config.trial_lanes || handled_nothing) && runs_for <= trial {
        let lanes = if done.failed == 1 { "a lane".into() } else { format!("{} lanes", done.failed) };
        let handled = if handled_nothing { " and handled nothing" } else { "" };
        let why = done.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return Verdict::Failed(format!("blocked {lanes}{handled} in the first {} s{why}", config.trial_seconds));
    }
    if runs_for >= trial { Verdict::Passed } else { Verdict::OnTrial }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::handler::Reason;

    #[test]
    fn some_lanes_or_all_of_them_fail_a_trial() {
        let config = Config::default();
        let seconds = Duration::from_secs;
        let done =
            |events, failed| Done { events, failed, why: Some(Reason::new("trap", "unreachable")), ..Done::default() };
        assert_eq!(verdict(&config, &done(0, 0), seconds(1)), Verdict::OnTrial, "nobody has asked it yet");
        assert_eq!(verdict(&config, &done(5, 2), seconds(1)), Verdict::OnTrial);
        assert_eq!(
            verdict(&config, &done(5, 3), seconds(1)),
            Verdict::Failed("blocked 3 lanes in the first 30 s: trap: unreachable".into())
        );
        assert_eq!(
            verdict(&config, &done(0, 1), seconds(1)),
            Verdict::Failed("blocked a lane and handled nothing in the first 30 s: trap: unreachable".into())
        );
        assert_eq!(verdict(&config, &done(5, 2), seconds(30)), Verdict::Passed);
        let trusting = Config { trial_seconds: 0, ..config };
        assert_eq!(trusting.check(), Ok(()));
        let wrong = Config { trial_lanes: 0, ..Config::default() };
        assert_eq!(wrong.check().unwrap_err(), "rollout.trial-lanes = 0 is out of range; it takes 1 to 1000");
        let wrong = Config { public_keys: vec!["ab".into()], ..Config::default() };
        assert!(wrong.check().unwrap_err().starts_with("rollout.public-keys: expected 64 hexadecimal digits"));
        assert_eq!(verdict(&trusting, &done(0, 9), seconds(0)), Verdict::Passed);
    }
}
