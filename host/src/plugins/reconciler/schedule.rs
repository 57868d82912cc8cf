//! The reconciler's timetable: when a plan, a retry and the upkeep are due. Pure.

use std::time::{Duration, Instant};

/// Interval of the upkeep: trials, entries of recent swaps, the folder's problems, and rollbacks.
const UPKEEP: Duration = Duration::from_millis(250);
/// Interval of retries: of failed steps, of checks that failed because of the database or the file
/// system, and of history entries that could not be written.
const RETRY: Duration = Duration::from_secs(2);
/// Interval of reading the versions that operators hold back. Default 1 s: an idle host should send
/// few queries.
const READ_HOLDS: Duration = Duration::from_secs(1);
/// Interval at which the numbers of calls under way are recorded.
const RECORD_LANES: Duration = Duration::from_secs(2);
/// How long a plan waits for the checks of further small files, so that many files begin together.
const TOGETHER: Duration = Duration::from_millis(100);

/// The reconciler's timetable.
pub(super) struct Schedule {
    /// When the next plan was requested. May be in the future.
    plan_requested: Option<Instant>,
    /// Whether a step failed that the next retry repeats.
    needs_retry: bool,
    upkeep_at: Instant,
    retried_at: Instant,
    holds_read_at: Instant,
    lanes_recorded_at: Instant,
}

impl Schedule {
    pub(super) fn new(now: Instant) -> Self {
        Schedule {
            plan_requested: None,
            needs_retry: false,
            upkeep_at: now,
            retried_at: now,
            holds_read_at: now,
            lanes_recorded_at: now,
        }
    }

    /// Requests a plan.
    pub(super) fn request_plan(&mut self, now: Instant) {
        self.plan_requested.get_or_insert(now);
    }

    /// Postpones the next plan until the database is retried.
    pub(super) fn postpone_plan(&mut self, now: Instant) {
        self.plan_requested = Some(now + RETRY);
    }

    /// Withdraws the request for a plan, because a plan is being carried out or is impossible.
    pub(super) fn clear_plan(&mut self) {
        self.plan_requested = None;
    }

    /// Whether a plan is requested, now or for later.
    pub(super) fn has_plan(&self) -> bool {
        self.plan_requested.is_some()
    }

    /// Whether a plan is due: no check of a small file is expected, or the plan
    /// has waited long enough for it.
    pub(super) fn is_plan_due(&self, now: Instant, has_small: impl Fn() -> bool) -> bool {
        self.plan_requested.is_some_and(|since| since <= now && (now - since >= TOGETHER || !has_small()))
    }

    /// Requests a plan with the next retry.
    pub(super) fn request_retry(&mut self) {
        self.needs_retry = true;
    }

    /// Forgets failed steps, because a plan repeats them.
    pub(super) fn clear_retry(&mut self) {
        self.needs_retry = false;
    }

    /// Whether a step failed that the next retry repeats.
    pub(super) fn needs_retry(&self) -> bool {
        self.needs_retry
    }

    /// The time until something is due.
    pub(super) fn until_next(&self, now: Instant, until_scan: Duration) -> Duration {
        let plan = self.plan_requested.map(|since| (since + TOGETHER).saturating_duration_since(now));
        until_scan.min(plan.unwrap_or(until_scan)).min(UPKEEP)
    }

    /// Whether the upkeep is due. If so, its next interval begins.
    pub(super) fn take_upkeep(&mut self, now: Instant) -> bool {
        take(&mut self.upkeep_at, UPKEEP, now)
    }

    /// Whether retries are due: of steps, checks and unwritten history entries. If so, their next
    /// interval begins.
    pub(super) fn take_retry(&mut self, now: Instant) -> bool {
        take(&mut self.retried_at, RETRY, now)
    }

    /// Whether reading the holds is due. If so, the next interval begins.
    pub(super) fn take_holds(&mut self, now: Instant) -> bool {
        take(&mut self.holds_read_at, READ_HOLDS, now)
    }

    /// Whether recording the numbers of calls is due. If so, the next interval begins.
    pub(super) fn take_lanes(&mut self, now: Instant) -> bool {
        take(&mut self.lanes_recorded_at, RECORD_LANES, now)
    }
}

fn take(last: &mut Instant, interval: Duration, now: Instant) -> bool {
    let is_due = now.saturating_duration_since(*last) >= interval;
    if is_due {
        *last = now;
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCAN: Duration = Duration::from_secs(1);

    #[test]
    fn a_plan_waits_for_small_files_but_not_for_long() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        assert!(!schedule.is_plan_due(now, || false), "nothing has happened");
        schedule.request_plan(now);
        assert!(schedule.is_plan_due(now, || false) && !schedule.is_plan_due(now, || true));
        assert_eq!(schedule.until_next(now, SCAN), TOGETHER);
        schedule.request_plan(now + TOGETHER / 2);
        assert!(schedule.is_plan_due(now + TOGETHER, || true), "the first request counts");
        schedule.clear_plan();
        assert!(!schedule.has_plan() && !schedule.is_plan_due(now + TOGETHER, || false));
    }

    #[test]
    fn a_postponed_plan_is_due_when_the_database_is_retried() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        schedule.postpone_plan(now);
        schedule.request_plan(now);
        assert!(schedule.has_plan() && !schedule.is_plan_due(now + RETRY / 2, || false));
        assert!(schedule.is_plan_due(now + RETRY, || false));
        assert_eq!(schedule.until_next(now, SCAN), UPKEEP, "the upkeep is due first");
    }

    #[test]
    fn intervals_begin_when_their_work_is_taken() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        assert!(!schedule.take_upkeep(now + UPKEEP / 2));
        assert!(schedule.take_upkeep(now + UPKEEP) && !schedule.take_upkeep(now + UPKEEP));
        assert!(schedule.take_upkeep(now + UPKEEP * 2));
        assert!(!schedule.take_holds(now + UPKEEP) && schedule.take_holds(now + READ_HOLDS));
        assert!(!schedule.take_retry(now + UPKEEP) && schedule.take_retry(now + RETRY));
    }
}
