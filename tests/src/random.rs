//! A small generator of random numbers, whose printed seed makes a test reproducible.
//!
//! The output of a test is displayed only if it fails, together with the seed. `TEST_SEED` sets the
//! seed to reproduce a failure. The timing of the database and the scheduler is not reproduced.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator of pseudo-random numbers (SplitMix64; Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with the seed in `TEST_SEED`, or else from the clock. Prints the seed.
    pub fn seeded() -> Self {
        let given = std::env::var("TEST_SEED").ok().map(|text| text.parse().expect("TEST_SEED is a number"));
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_nanos() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("TEST_SEED={seed}");
        Random(seed)
    }

    /// An independent generator, one for each task, so that the order of tasks does not matter.
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

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True with a chance in percent.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}
