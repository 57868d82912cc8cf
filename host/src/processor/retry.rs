//! When a lane tries again: pure.

use std::time::Duration;

/// The pause after the first failed attempt.
const FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// How long to wait after `attempts` failed attempts (at least 1): doubling from [`FIRST`] to [`LONGEST`], spread by a quarter to either side so
/// that lanes that failed together do not come back together. `spread` is anything that differs between lanes.
pub(super) fn back_off(attempts: u32, wished: Option<Duration>, spread: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST);
    // The mixing step of SplitMix64 (Steele, Lea, Flood 2014).
    let mut mixed = spread.wrapping_add(u64::from(attempts)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let factor = 0.75 + (mixed >> 40) as f64 / (1u64 << 24) as f64 / 2.0;
    wished.unwrap_or_else(|| doubled.mul_f64(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_ceiling_and_are_spread() {
        for attempts in 1..40 {
            let exact = FIRST.saturating_mul(1u32.checked_shl(attempts - 1).unwrap_or(u32::MAX)).min(LONGEST);
            let pauses: Vec<Duration> = (0..100).map(|lane| back_off(attempts, None, lane)).collect();
            assert!(pauses.iter().all(|p| *p >= exact.mul_f64(0.74) && *p <= exact.mul_f64(1.26)), "{attempts}");
            assert!(pauses.iter().max() > pauses.iter().min());
        }
        assert_eq!(back_off(9, Some(Duration::from_millis(5)), 1), Duration::from_millis(5));
    }
}
