//! Chance that can be repeated: a small generator whose seed is printed.
//!
//! A test's output shows only when it fails, so the seed stands where it is needed. `TEST_SEED` sets it, to see a failure again; what the
//! database and the scheduler do in between stays theirs.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator of pseudo-random numbers (SplitMix64; Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with the seed of `TEST_SEED`, or with one of its own; says which.
    pub fn seeded() -> Self {
        let given = std::env::var("TEST_SEED").ok().map(|text| text.parse().expect("TEST_SEED is a number"));
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_nanos() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("TEST_SEED={seed}");
        Random(seed)
    }

    /// Another generator that goes its own way: one for each task, so that their order does not matter.
    pub fn fork(&mut self) -> Self {
        Random(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True in so many cases of a hundred.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}
