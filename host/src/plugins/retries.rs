//! Retries of work that failed for lack of memory, or because the database did not answer. Pure.
//!
//! Such a failure does not count against the file. The work is retried after a delay that doubles
//! from one second to two minutes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The first wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Attempts after which a host that ends once it has caught up rejects the file.
pub(super) const ATTEMPTS: u32 = 4;

/// The plugins whose work is retried later.
#[derive(Default)]
pub(super) struct Retries(BTreeMap<String, Retry>);

struct Retry {
    attempts: u32,
    /// When it is retried; none while it is under way.
    due: Option<Instant>,
    reason: String,
}

impl Retries {
    /// Records a failed attempt. Returns the number of attempts so far, and the wait until the
    /// next.
    pub(super) fn add(&mut self, plugin: &str, reason: &str, now: Instant) -> (u32, Duration) {
        let attempts = self.0.get(plugin).map_or(0, |retry| retry.attempts) + 1;
        let wait = FIRST_WAIT.saturating_mul(1 << (attempts - 1).min(16)).min(LONGEST_WAIT);
        self.0.insert(plugin.into(), Retry { attempts, due: Some(now + wait), reason: reason.into() });
        (attempts, wait)
    }

    /// Forgets a plugin. Returns whether it was known.
    pub(super) fn remove(&mut self, plugin: &str) -> bool {
        self.0.remove(plugin).is_some()
    }

    pub(super) fn contains(&self, plugin: &str) -> bool {
        self.0.contains_key(plugin)
    }

    /// Whether a plugin waits for its retry.
    pub(super) fn is_waiting(&self, plugin: &str) -> bool {
        self.0.get(plugin).is_some_and(|retry| retry.due.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The plugins, each with the reason of its last failure.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&String, &str)> {
        self.0.iter().map(|(plugin, retry)| (plugin, retry.reason.as_str()))
    }

    /// The plugins whose retry is due. Each is returned once, and no longer waits.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, retry)| retry.due.is_some_and(|due| due <= now));
        due.map(|(plugin, retry)| {
            retry.due = None;
            plugin.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_as_long_up_to_two_minutes() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        let waits = (0..9).map(|_| retries.add("p", "killed", now).1.as_secs()).collect::<Vec<_>>();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert!(retries.is_waiting("p") && retries.contains("p"));
        assert!(retries.remove("p") && !retries.contains("p"));
        assert_eq!(retries.add("p", "killed", now).1.as_secs(), 1, "a changed file begins with the first wait");
    }

    #[test]
    fn a_plugin_is_due_once_when_its_wait_is_over() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        retries.add("p", "killed", now);
        assert_eq!(retries.take_due(now), Vec::<String>::new());
        let later = now + FIRST_WAIT;
        assert_eq!(retries.take_due(later), ["p"]);
        assert_eq!(retries.take_due(later), Vec::<String>::new());
        assert!(retries.contains("p") && !retries.is_waiting("p"), "it is under way");
    }
}
