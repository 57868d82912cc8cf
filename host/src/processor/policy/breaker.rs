//! A bound on how fast a processor sets events aside. Pure.
//!
//! A broken plugin fails at nearly every event. Without a bound, a policy that sets events aside
//! would turn a whole history into dead letters within minutes, and the documents would lack all
//! of it. Above the bound, a lane blocks at the event instead, as if the policy said `stop`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of events that a policy sets aside within [`WITHIN`], over all lanes of a
/// processor. 100: more bad events than a healthy processor meets in a minute, and few enough to
/// look through.
pub const MOST: usize = 100;
/// See [`MOST`]. One minute.
pub const WITHIN: Duration = Duration::from_secs(60);

/// The events that a processor has set aside recently.
#[derive(Debug, Default)]
pub struct Breaker {
    /// When each was set aside, the oldest first.
    recent: VecDeque<Instant>,
}

impl Breaker {
    /// Whether one more event may be set aside now. If so, it counts.
    pub fn admits(&mut self, now: Instant) -> bool {
        while self.recent.front().is_some_and(|at| now.saturating_duration_since(*at) >= WITHIN) {
            self.recent.pop_front();
        }
        let admits = self.recent.len() < MOST;
        if admits {
            self.recent.push_back(now);
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_events_a_minute_are_set_aside() {
        let (mut breaker, began) = (Breaker::default(), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        let admitted = (0..250).filter(|n| breaker.admits(at(n * 100))).count();
        assert_eq!(admitted, MOST);
        assert!(!breaker.admits(at(59_999)));
        // The first event no longer counts, the second does.
        assert_eq!([60_000, 60_001, 60_100].map(|ms| breaker.admits(at(ms))), [true, false, true]);
        assert!(breaker.recent.len() <= MOST);
    }
}
