//! The delay before a lane's next attempt (back-off). Pure.
//!
//! Delays grow exponentially with the attempts at one event, and differ between lanes. A handler
//! may ask for a longer delay, never for a shorter one. Otherwise a lane that asks for an immediate
//! retry would keep a core, the database and its tenant's log busy forever.

use std::time::Duration;

/// The delay after the first failed attempt, before jitter. 200 ms: longer than a short disturbance
/// of the database, and too short for a person to notice.
const FIRST: Duration = Duration::from_millis(200);
/// The shortest delay. 100 ms: below [`FIRST`] with any jitter, so it also holds if the other
/// constants change.
const FLOOR: Duration = Duration::from_millis(100);
/// The longest delay that follows from attempts. 5 min: lanes recover within minutes after an
/// outage of hours.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest delay that a handler may ask for. 50 days: the contract's `retry-after` cannot name
/// a longer one, and the time still fits into every clock and column.
const LONGEST_REQUEST: Duration = Duration::from_secs(50 * 24 * 60 * 60);

/// The delay of a lane after `attempts` failures (at least 1) at one event. It doubles from
/// [`FIRST`] to [`LONGEST`], with a jitter of a quarter to either side, so that lanes that failed
/// together do not retry together. A longer `requested` delay takes precedence. `spread` is any
/// number that differs between lanes.
pub(super) fn delay(attempts: u32, requested: Option<Duration>, spread: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST);
    // The mixing step of SplitMix64 (Steele, Lea, Flood 2014).
    let mut mixed = spread.wrapping_add(u64::from(attempts)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let factor = 0.75 + (mixed >> 40) as f64 / (1u64 << 24) as f64 / 2.0;
    doubled.mul_f64(factor).max(requested.unwrap_or_default().min(LONGEST_REQUEST)).max(FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_ceiling_and_differ_between_lanes() {
        for attempts in 1..40 {
            let exact = FIRST.saturating_mul(1u32.checked_shl(attempts - 1).unwrap_or(u32::MAX)).min(LONGEST);
            let delays: Vec<Duration> = (0..100).map(|lane| delay(attempts, None, lane)).collect();
            assert!(delays.iter().all(|p| *p >= exact.mul_f64(0.74) && *p <= exact.mul_f64(1.26)), "{attempts}");
            assert!(delays.iter().max() > delays.iter().min());
        }
    }

    #[test]
    fn a_request_can_lengthen_a_delay_but_not_shorten_it() {
        for attempts in [1, 2, 9, 32, 33, u32::MAX] {
            let without = delay(attempts, None, 7);
            assert_eq!(delay(attempts, Some(Duration::ZERO), 7), without);
            assert_eq!(delay(attempts, Some(Duration::from_millis(5)), 7), without);
            assert!(without >= FLOOR);
        }
        assert_eq!(delay(1, Some(Duration::from_secs(60)), 7), Duration::from_secs(60));
        assert_eq!(delay(30, Some(Duration::from_secs(3600)), 7), Duration::from_secs(3600));
    }

    #[test]
    fn the_longest_requested_delay_fits_into_every_clock() {
        for requested in [Duration::from_millis(u64::MAX), Duration::MAX] {
            assert_eq!(delay(1, Some(requested), 0), LONGEST_REQUEST);
        }
        assert!(Duration::from_millis(u32::MAX.into()) < LONGEST_REQUEST, "the contract can name a longer delay");
    }
}
