//! The rate and measurements of a processor, committed at most once a second for `status`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::status::Measures;
use crate::telemetry::{self, metrics::ProcessorCounters};

/// Time between two reports.
const EVERY: Duration = Duration::from_secs(1);

/// A report.
#[derive(Clone, Debug, PartialEq)]
pub struct RateReport {
    /// Events handled per second since the last report.
    pub rate: f64,
    /// What was measured since then.
    pub measures: Measures,
}

/// A function that counts the live plugin instances of the whole host.
pub type Instances = Arc<dyn Fn() -> usize + Send + Sync>;

/// A collector of a processor's measures, which makes a report when one is due.
pub struct Reporter {
    instances: Instances,
    /// The same numbers as metrics.
    counters: ProcessorCounters,
    since: Instant,
    handled: usize,
    reads: Average,
    commits: Average,
    last: Option<(f64, Measures)>,
}

#[derive(Debug, Default)]
struct Average {
    count: u32,
    sum: Duration,
}

impl Average {
    fn add(&mut self, one: Duration) {
        self.count += 1;
        self.sum += one;
    }

    fn ms(&self) -> f64 {
        (self.sum / self.count.max(1)).as_secs_f64() * 1_000.0
    }
}

impl Reporter {
    /// A reporter whose first interval begins now.
    pub fn new(instances: Instances, counters: ProcessorCounters) -> Self {
        Reporter {
            instances,
            counters,
            since: Instant::now(),
            handled: 0,
            reads: Average::default(),
            commits: Average::default(),
            last: None,
        }
    }

    /// Counts events that were handled and committed.
    pub fn count(&mut self, handled: usize) {
        self.handled += handled;
    }

    /// Records the read of a page with events.
    pub fn read(&mut self, took: Duration) {
        self.counters.reads.observe(took.as_secs_f64());
        self.reads.add(took);
    }

    /// Records a commit, with the number of events that it handled.
    pub fn committed(&mut self, took: Duration, handled: usize) {
        self.counters.commits.observe(took.as_secs_f64());
        self.counters.handled.inc_by(handled as u64);
        self.commits.add(took);
    }

    /// Records CPU time of guests.
    pub fn computed(&mut self, cpu: Duration) {
        self.counters.cpu.inc_by(cpu.as_secs_f64());
    }

    /// Whether events were handled that no report has counted.
    pub fn has_unreported(&self) -> bool {
        self.handled > 0
    }

    /// How long until a report is due; none if there is nothing to report.
    pub fn due(&self) -> Option<Duration> {
        self.has_unreported().then(|| EVERY.saturating_sub(self.since.elapsed()))
    }

    /// A report if one is due, to be stored by a commit of `committing` events.
    pub fn take_if_due(&mut self, committing: usize) -> Option<RateReport> {
        (self.since.elapsed() >= EVERY).then(|| self.flush(committing))
    }

    /// A report now. An interval too short to measure repeats the last measures.
    pub fn flush(&mut self, committing: usize) -> RateReport {
        self.handled += committing;
        let elapsed = self.since.elapsed();
        if elapsed >= EVERY || self.last.is_none() {
            let seconds = elapsed.as_secs_f64().max(0.001);
            let measures = Measures {
                read_ms: self.reads.ms(),
                commit_ms: self.commits.ms(),
                commits: f64::from(self.commits.count) / seconds,
                host_mib: resident_mib(),
                instances: (self.instances)(),
                log_lines_lost: telemetry::lines_lost(),
            };
            self.last = Some((self.handled as f64 / seconds, measures));
        }
        let (rate, measures) = self.last.clone().unwrap_or_default();
        self.handled = 0;
        (self.reads, self.commits, self.since) = (Average::default(), Average::default(), Instant::now());
        RateReport { rate, measures }
    }
}

/// The resident memory of the process, MiB; 0 on systems without Linux's `/proc`.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_report_is_due_once_for_what_was_committed() {
        let mut report = Reporter::new(Arc::new(|| 5), Metrics::default().of_processor("p"));
        assert!(!report.has_unreported() && report.take_if_due(0).is_none());
        assert_eq!(report.due(), None, "there is nothing to report");
        report.count(3);
        report.count(4);
        assert!(report.due().is_some_and(|due| due <= EVERY));
        report.committed(Duration::from_millis(2), 7);
        let first = report.flush(1);
        assert_eq!((first.measures.commit_ms, first.measures.instances), (2.0, 5));
        assert!(first.rate > 0.0 && !report.has_unreported(), "a report includes the commit that stores it");
        // The interval is too short to measure again.
        assert_eq!(report.flush(0).rate, first.rate);
    }
}
