//! What running a guest has cost, counted poll by poll, for whoever wants to know it at the end.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// From when on times are counted.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Counts what futures that run on it cost. One may be shared by several.
#[derive(Debug, Default)]
pub struct Meter {
    cpu: AtomicU64,
    waited: AtomicU64,
    /// Since when the one that waits now does, nanoseconds since [`BEGAN`] and never 0; 0 where none does.
    waits_since: AtomicU64,
}

impl Meter {
    /// CPU time of their polls so far, with what the host did inside them.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// Time in which they could have been polled and others were, added up over them, with that which lasts.
    pub fn waited(&self) -> Duration {
        let lasting = match self.waits_since.load(Relaxed) {
            0 => 0,
            since => nanos_now().saturating_sub(since),
        };
        Duration::from_nanos(self.waited.load(Relaxed) + lasting)
    }

    /// One of them could be polled from now on.
    pub(super) fn waits(&self) {
        self.waits_since.store(nanos_now().max(1), Relaxed);
    }

    /// It is polled, after so long.
    pub(super) fn goes_on(&self, waited: Duration) {
        self.waited.fetch_add(waited.as_nanos() as u64, Relaxed);
        self.waits_since.store(0, Relaxed);
    }

    /// A poll has ended.
    pub(super) fn add(&self, cpu: Duration) {
        // Sums for people: 584 years fit, and nothing is ordered by them.
        self.cpu.fetch_add(cpu.as_nanos() as u64, Relaxed);
    }
}

fn nanos_now() -> u64 {
    BEGAN.elapsed().as_nanos() as u64
}
