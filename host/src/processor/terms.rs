//! When the next term begins after one that ended. Pure.

use std::time::Duration;

/// The shortest and the longest delay. A term that is shorter than the longest delay has ended
/// early, and doubles the delay.
const DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// The longest delay while terms end early although each committed something. 500 ms: the cause may
/// persist, and each term opens some connections to the database.
const LONGEST_COMMITTED: Duration = Duration::from_millis(500);

/// The delays between the terms of a processor.
pub(super) struct Terms {
    /// The last delay.
    delay: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { delay: DELAY.0 }
    }
}

impl Terms {
    /// The delay after a term that lasted this long, and perhaps committed something.
    pub(super) fn ended(&mut self, lasted: Duration, committed: bool) -> Duration {
        self.delay = match lasted {
            // A long term does not count as a failed attempt.
            long if long > DELAY.1 => DELAY.0,
            _ => (self.delay * 2).min(if committed { LONGEST_COMMITTED } else { DELAY.1 }),
        };
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_while_terms_end_early_even_if_they_commit() {
        let early = Duration::from_millis(20);
        let after = |count: u32, committed: bool| {
            let mut terms = Terms::default();
            (0..count).map(|_| terms.ended(early, committed)).last()
        };
        assert_eq!(after(1, true), Some(Duration::from_millis(100)));
        assert_eq!((after(9, true), after(9, false)), (Some(LONGEST_COMMITTED), Some(DELAY.1)));
        let mut terms = Terms { delay: DELAY.1 };
        assert_eq!(terms.ended(Duration::from_secs(6), false), DELAY.0);
    }
}
