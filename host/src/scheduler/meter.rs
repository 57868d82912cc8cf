//! The cost of running tasks: CPU time and waiting time, counted poll by poll.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Origin of the times in a meter.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A meter of CPU time and waiting time. Several tasks may share one.
#[derive(Debug, Default)]
pub struct TaskMeter {
    cpu: AtomicU64,
    waited: AtomicU64,
    /// When the waiting task became ready, in nanoseconds since [`ORIGIN`]; 0 if none waits.
    ready_since: AtomicU64,
}

impl TaskMeter {
    /// CPU time of the polls so far, with the host's work inside them.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// Time for which tasks were ready while other tasks were polled, including the current wait.
    pub fn waited(&self) -> Duration {
        let present = match self.ready_since.load(Relaxed) {
            0 => 0,
            since => nanos_now().saturating_sub(since),
        };
        Duration::from_nanos(self.waited.load(Relaxed) + present)
    }

    /// Records that a task is ready from now on.
    pub(super) fn ready(&self) {
        self.ready_since.store(nanos_now().max(1), Relaxed);
    }

    /// Records that a task is polled, after it has waited this long.
    pub(super) fn polled(&self, waited: Duration) {
        self.waited.fetch_add(waited.as_nanos() as u64, Relaxed);
        self.ready_since.store(0, Relaxed);
    }

    /// Adds the cost of a poll that has ended.
    pub(super) fn charge(&self, cpu: Duration) {
        // 584 years fit.
        self.cpu.fetch_add(cpu.as_nanos() as u64, Relaxed);
    }
}

fn nanos_now() -> u64 {
    ORIGIN.elapsed().as_nanos() as u64
}
