//! What running a guest has cost, counted poll by poll, for whoever wants to know it at the end.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counts what futures that run on it cost. One may be shared by several.
#[derive(Debug, Default)]
pub struct Meter {
    cpu: AtomicU64,
    waited: AtomicU64,
}

impl Meter {
    /// CPU time of their polls so far, with what the host did inside them.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// Time in which they could have been polled and others were, added up over them.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Relaxed))
    }

    /// A poll has ended.
    pub(super) fn add(&self, cpu: Duration, waited: Duration) {
        // Sums for people: 584 years fit, and nothing is ordered by them.
        self.cpu.fetch_add(cpu.as_nanos() as u64, Relaxed);
        self.waited.fetch_add(waited.as_nanos() as u64, Relaxed);
    }
}
