//! The delay before a lane's next attempt (exponential back-off with jitter and a ceiling).
//!
//! A guest may ask for a longer delay, never for a shorter one. Otherwise a lane that asks for an
//! immediate retry would keep a core, the database and its tenant's log busy forever.

use std::time::Duration;

/// The shortest delay. 100 ms: below the default of `first-ms` with any jitter, so a lane can never
/// retry at the speed of commits.
pub(super) const FLOOR: Duration = Duration::from_millis(100);
/// The longest delay that a guest may ask for. 50 days: the contract's `retry-after` cannot name a
/// longer one, and the time still fits into every clock and column.
pub(super) const LONGEST_REQUEST: Duration = Duration::from_secs(50 * 24 * 60 * 60);

/// The delays between the attempts at one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackOff {
    /// The delay after the first attempt, before jitter.
    pub(super) first: Duration,
    /// The longest delay that follows from attempts, before jitter.
    pub(super) longest: Duration,
    /// The longest delay that a guest may ask for.
    pub(super) longest_request: Duration,
}

impl BackOff {
    /// The delay after this many attempts (at least 1) at one event. It doubles from `first` to
    /// `longest`, with a jitter of a quarter to either side, so that lanes that failed together do
    /// not retry together. A longer `requested` delay takes precedence. `spread` is any number that
    /// differs between lanes.
    pub(super) fn delay(&self, attempts: u32, requested: Option<Duration>, spread: u64) -> Duration {
        let doublings = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let doubled = self.first.saturating_mul(doublings).min(self.longest);
        // The mixing step of SplitMix64 (Steele, Lea, Flood 2014).
        let mut mixed = spread.wrapping_add(u64::from(attempts)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let factor = 0.75 + (mixed >> 40) as f64 / (1u64 << 24) as f64 / 2.0;
        doubled.mul_f64(factor).max(requested.unwrap_or_default().min(self.longest_request)).max(FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: BackOff = BackOff {
        first: Duration::from_millis(200),
        longest: Duration::from_secs(300),
        longest_request: LONGEST_REQUEST,
    };

    #[test]
    fn delays_double_up_to_a_ceiling_and_differ_between_lanes() {
        for attempts in 1..40 {
            let doublings = 1u32.checked_shl(attempts - 1).unwrap_or(u32::MAX);
            let exact = USUAL.first.saturating_mul(doublings).min(USUAL.longest);
            let delays: Vec<Duration> = (0..100).map(|lane| USUAL.delay(attempts, None, lane)).collect();
            assert!(delays.iter().all(|p| *p >= exact.mul_f64(0.74) && *p <= exact.mul_f64(1.26)), "{attempts}");
            assert!(delays.iter().max() > delays.iter().min());
        }
    }

    #[test]
    fn a_request_can_lengthen_a_delay_but_not_shorten_it() {
        for attempts in [1, 2, 9, 32, 33, u32::MAX] {
            let without = USUAL.delay(attempts, None, 7);
            assert_eq!(USUAL.delay(attempts, Some(Duration::ZERO), 7), without);
            assert_eq!(USUAL.delay(attempts, Some(Duration::from_millis(5)), 7), without);
            assert!(without >= FLOOR);
        }
        assert_eq!(USUAL.delay(1, Some(Duration::from_secs(60)), 7), Duration::from_secs(60));
        assert_eq!(USUAL.delay(30, Some(Duration::from_secs(3600)), 7), Duration::from_secs(3600));
    }

    #[test]
    fn the_longest_requested_delay_fits_into_every_clock() {
        for requested in [Duration::from_millis(u64::MAX), Duration::MAX] {
            assert_eq!(USUAL.delay(1, Some(requested), 0), LONGEST_REQUEST);
        }
        assert!(Duration::from_millis(u32::MAX.into()) < LONGEST_REQUEST, "the contract can name a longer delay");
    }
}
