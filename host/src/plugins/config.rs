//! The settings of the plugins folder and of rollouts: the section `[rollout]`.

use serde::{Deserialize, Serialize};

use super::signature::PublicKey;
use crate::rollout::probation::Probation;

/// The section `[rollout]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Interval between two scans of the plugins folder, milliseconds. Default 0: scan when the
    /// file system reports a change, and every second. Set it for network file systems, which
    /// report none.
    pub poll_ms: u64,
    /// Ed25519 public keys in hexadecimal. If there are any, only plugins signed with one of them
    /// run (`sandmill plugin sign`). Default none: unsigned plugins run.
    pub public_keys: Vec<String>,
    /// Length of the trial after a swap, seconds. A version that fails its trial is rolled back.
    /// Default 30: a broken version mostly fails on its first events; 0 trusts every version.
    pub trial_seconds: u64,
    /// Number of newly blocked lanes that fails a trial. Lanes that were blocked before the swap do
    /// not count. Default 3; one is enough if the version has handled no event.
    pub trial_lanes: usize,
    /// Number of recent events that a new version is dry-run on; its results are discarded. It is
    /// rejected if it fails where the running version does not, unless its manifest has
    /// `dry-run = false`. Default 100; 0 turns dry runs off.
    pub dry_run_events: usize,
    /// Number of versions of each plugin whose bytes the database keeps, the running one included.
    /// Default 3: a rollback needs the previous version, and one more if that was rolled back too.
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
    /// The rules of a trial.
    pub(super) fn probation(&self) -> Probation {
        Probation { seconds: self.trial_seconds, lanes: self.trial_lanes }
    }

    /// Checks all values. The error names the setting and the allowed range.
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
                return Err(format!("rollout.{name} = {value} is out of range; use {low} to {high}"));
            }
        }
        Ok(())
    }

    /// The public keys; empty if plugins need no signature.
    pub fn keys(&self) -> Result<Vec<PublicKey>, String> {
        let parse = |text: &String| PublicKey::parse(text).map_err(|error| format!("rollout.public-keys: {error}"));
        self.public_keys.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_setting_and_its_range() {
        assert_eq!(Config { trial_seconds: 0, ..Config::default() }.check(), Ok(()));
        let wrong = Config { trial_lanes: 0, ..Config::default() };
        assert_eq!(wrong.check().unwrap_err(), "rollout.trial-lanes = 0 is out of range; use 1 to 1000");
        let wrong = Config { public_keys: vec!["ab".into()], ..Config::default() };
        assert!(wrong.check().unwrap_err().starts_with("rollout.public-keys: expected 64 hexadecimal digits"));
    }
}
