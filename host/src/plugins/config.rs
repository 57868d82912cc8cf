//! Settings of the plugins folder and of rollouts: the section `[rollout]`.

use serde::{Deserialize, Serialize};

use super::signature::PublicKey;
use crate::rollout::probation::Probation;

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
    /// When a version that was swapped in fails its trial.
    pub(super) fn probation(&self) -> Probation {
        Probation { seconds: self.trial_seconds, lanes: self.trial_lanes }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named_with_the_range() {
        assert_eq!(Config { trial_seconds: 0, ..Config::default() }.check(), Ok(()));
        let wrong = Config { trial_lanes: 0, ..Config::default() };
        assert_eq!(wrong.check().unwrap_err(), "rollout.trial-lanes = 0 is out of range; it takes 1 to 1000");
        let wrong = Config { public_keys: vec!["ab".into()], ..Config::default() };
        assert!(wrong.check().unwrap_err().starts_with("rollout.public-keys: expected 64 hexadecimal digits"));
    }
}
