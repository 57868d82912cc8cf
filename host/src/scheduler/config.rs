//! Settings of the scheduler: numbers of threads, and the weights of the classes of work.

use serde::{Deserialize, Serialize};

/// The settings of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Threads that run guests, 1 to 256. Default: one per core. Guests are CPU-bound, so more
    /// threads only add switching.
    pub threads: usize,
    /// Threads that one tenant's guests may occupy at once, up to 256; 0 means all but one of
    /// `threads`, at least 1. Default 0: however busy a tenant is, another tenant's call finds a
    /// thread without waiting for the end of a slice.
    pub tenant_threads: usize,
    /// Threads reserved for first slices, 0 to 255. A guest that has computed for a whole slice (a
    /// millisecond) continues on the other threads, of which there is always at least one. Default
    /// 1: a new call finds a thread, and a core's worth of time is left for the runtime, the kernel
    /// and, on the same machine, PostgreSQL. With guests on every core, all of these wait for each
    /// other, and every commit waits for them.
    pub free_threads: usize,
    /// Weight of a tenant's live work: events at the head of the log. 1 to 100, relative to the
    /// other two classes. Default 8.
    pub live_weight: u32,
    /// Weight of a tenant's work behind the head of the log, and of lanes that read the log for
    /// themselves. 1 to 100. Default 2: it makes progress, but the tenant's own live events go
    /// first.
    pub catch_up_weight: u32,
    /// Weight of a tenant's rebuilds, whose documents nobody reads yet. 1 to 100. Default 1.
    /// Reserved: this version rebuilds nothing.
    pub rebuild_weight: u32,
}

impl Default for Config {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Config { threads, tenant_threads: 0, free_threads: 1, live_weight: 8, catch_up_weight: 2, rebuild_weight: 1 }
    }
}

impl Config {
    /// Rejects values out of range. The error names the setting and its range.
    pub fn check(&self) -> Result<(), String> {
        let threads = self.threads;
        if !(1..=256).contains(&threads) {
            return Err(format!("scheduler.threads = {threads} is out of range; use 1 to 256"));
        }
        if self.free_threads > 255 {
            let given = self.free_threads;
            return Err(format!("scheduler.free-threads = {given} is out of range; use 0 to 255"));
        }
        if self.tenant_threads > 256 {
            let given = self.tenant_threads;
            return Err(format!(
                "scheduler.tenant-threads = {given} is out of range; use 1 to 256, or 0 for all but one"
            ));
        }
        let weights = [
            ("live-weight", self.live_weight),
            ("catch-up-weight", self.catch_up_weight),
            ("rebuild-weight", self.rebuild_weight),
        ];
        for (name, weight) in weights {
            if !(1..=100).contains(&weight) {
                return Err(format!("scheduler.{name} = {weight} is out of range; use 1 to 100"));
            }
        }
        Ok(())
    }

    /// The weights of the classes, indexed by [`Class`](super::Class).
    pub(super) fn class_weights(&self) -> [u32; 3] {
        [self.live_weight, self.catch_up_weight, self.rebuild_weight]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_range_is_rejected_with_its_range() {
        let rejected = |config: Config| config.check().unwrap_err();
        assert_eq!(
            rejected(Config { threads: 0, ..Config::default() }),
            "scheduler.threads = 0 is out of range; use 1 to 256"
        );
        assert_eq!(
            rejected(Config { tenant_threads: 257, ..Config::default() }),
            "scheduler.tenant-threads = 257 is out of range; use 1 to 256, or 0 for all but one"
        );
        assert_eq!(
            rejected(Config { catch_up_weight: 0, ..Config::default() }),
            "scheduler.catch-up-weight = 0 is out of range; use 1 to 100"
        );
    }
}
