//! Work that the machine or the database kept from being done, mostly files that could not be
//! compiled for lack of memory.
//!
//! That says nothing of a file. It is compiled again by itself, while no other compiler runs, after
//! a wait that doubles.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Reconciler;

/// Before a file is compiled again, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// How often a host that ends when all is handled tries before it counts a file as refused.
pub(super) const ATTEMPTS: u32 = 4;

/// Files that are compiled again later.
#[derive(Default)]
pub(super) struct Shortages(BTreeMap<String, Shortage>);

struct Shortage {
    attempts: u32,
    /// When it is tried again; none while it is.
    due: Option<Instant>,
    why: String,
}

impl Shortages {
    /// A file could not be compiled once more. How often that was, and how long it waits now.
    pub(super) fn add(&mut self, plugin: &str, why: &str, now: Instant) -> (u32, Duration) {
        let attempts = self.0.get(plugin).map_or(0, |shortage| shortage.attempts) + 1;
        let wait = WAIT.0.saturating_mul(1 << (attempts - 1).min(16)).min(WAIT.1);
        self.0.insert(plugin.into(), Shortage { attempts, due: Some(now + wait), why: why.into() });
        (attempts, wait)
    }

    /// Forgets a file. Whether it was one of these.
    pub(super) fn remove(&mut self, plugin: &str) -> bool {
        self.0.remove(plugin).is_some()
    }

    pub(super) fn contains(&self, plugin: &str) -> bool {
        self.0.contains_key(plugin)
    }

    /// Whether a file waits to be tried again.
    pub(super) fn is_waiting(&self, plugin: &str) -> bool {
        self.0.get(plugin).is_some_and(|shortage| shortage.due.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The files that are due; each is named once.
    pub(super) fn due(&mut self) -> Vec<String> {
        let now = Instant::now();
        let due = self.0.iter_mut().filter(|(_, shortage)| shortage.due.is_some_and(|due| due <= now));
        due.map(|(plugin, shortage)| {
            shortage.due = None;
            plugin.clone()
        })
        .collect()
    }
}

impl Reconciler {
    /// Takes note that a file could not be compiled now. Whether it is tried again.
    pub(super) fn is_short(&mut self, plugin: &str, why: &str) -> bool {
        let (attempts, wait) = self.short.add(plugin, why, Instant::now());
        let seconds = wait.as_secs();
        if !self.follows && attempts >= ATTEMPTS {
            return false;
        }
        let why = why.replace('\n', ". ");
        tracing::warn!(plugin, attempts, "waits, and is compiled again in {seconds} s, alone: {why}");
        true
    }

    /// Says beside each of these files that it waits.
    pub(super) fn tell_short(&mut self) {
        for (plugin, Shortage { why, .. }) in &self.short.0 {
            self.errors.write(plugin, &format!("waits, and is compiled again by itself: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_waits_twice_as_long_each_time_and_no_longer_than_two_minutes() {
        let (mut shortages, now) = (Shortages::default(), Instant::now());
        let waits = (0..9).map(|_| shortages.add("p", "killed", now).1.as_secs()).collect::<Vec<_>>();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert!(shortages.is_waiting("p") && shortages.contains("p"));
        assert!(shortages.remove("p") && !shortages.contains("p"));
        assert_eq!(shortages.add("p", "killed", now).1.as_secs(), 1, "another file begins again");
    }
}
