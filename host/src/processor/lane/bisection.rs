//! The search for the event at which a batch fails: halving. Pure.
//!
//! A batch that would fail again is halved until the event that fails is alone. Events before it
//! are handled in parts. Behind that event, the size doubles with each call. So a single failing
//! event leaves no small batches behind, and many in a row cost one call each. If no event fails
//! alone, the batch was only too large for one call; the size doubles then as well.

/// The bound on the next batch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bisection {
    /// Maximum number of events in the next batch.
    limit: usize,
    /// The number of handled events at which the last batch that failed ends.
    suspect_up_to: usize,
}

impl Bisection {
    /// The bound of a run that begins. An event that was attempted before is tried alone, so that
    /// one call shows whether it fails again.
    pub(super) fn new(attempts: u32) -> Self {
        Bisection { limit: if attempts > 0 { 1 } else { usize::MAX }, suspect_up_to: 0 }
    }

    /// Maximum number of events in the next batch.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A batch of several events failed, after `handled` events.
    pub(super) fn failed(&mut self, handled: usize, batch: usize) {
        self.limit = (batch / 2).max(1);
        self.suspect_up_to = handled + batch;
    }

    /// A batch passed. `handled` includes its events.
    pub(super) fn passed(&mut self, handled: usize) {
        if handled >= self.suspect_up_to {
            self.limit = self.limit.saturating_mul(2);
        }
    }

    /// An event failed alone, or the handler named it.
    pub(super) fn found(&mut self) {
        *self = Bisection { limit: 1, suspect_up_to: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of all batches of a run over `events` events, where a batch with a `bad` event or
    /// with more than `most` events fails. A failed event is set aside.
    fn sizes(events: usize, bad: &[usize], most: usize) -> Vec<usize> {
        let (mut bisection, mut handled, mut sizes) = (Bisection::new(0), 0, Vec::new());
        while handled < events {
            let batch = bisection.limit().min(events - handled);
            sizes.push(batch);
            let range = handled..handled + batch;
            match batch > most || bad.iter().any(|bad| range.contains(bad)) {
                true if batch > 1 => bisection.failed(handled, batch),
                true => {
                    handled += 1;
                    bisection.found();
                }
                false => {
                    handled += batch;
                    bisection.passed(handled);
                }
            }
        }
        sizes
    }

    #[test]
    fn batches_are_large_again_behind_the_event_that_fails() {
        assert_eq!(sizes(16, &[4], 16), [16, 8, 4, 4, 2, 1, 1, 2, 4, 4]);
        assert_eq!(sizes(4, &[], 16), [4]);
    }

    #[test]
    fn batches_that_are_too_large_are_tried_again_at_a_larger_size_later() {
        assert_eq!(sizes(16, &[], 4), [16, 8, 4, 4, 8, 4, 4]);
        assert_eq!(sizes(32, &[], 16), [32, 16, 16]);
    }

    #[test]
    fn the_number_of_calls_grows_with_the_failing_events_and_not_with_the_others() {
        for bad in [vec![0], vec![999], vec![499, 500], vec![1, 250, 600]] {
            let calls = sizes(1_000, &bad, usize::MAX).len();
            assert!(calls <= 25 * bad.len(), "{bad:?}: {calls} calls");
        }
        let all: Vec<usize> = (0..1_000).collect();
        assert!(sizes(1_000, &all, usize::MAX).len() <= 1_010, "one call for each in a row");
    }

    #[test]
    fn an_event_that_was_attempted_before_is_tried_alone() {
        let mut bisection = Bisection::new(3);
        assert_eq!(bisection.limit(), 1);
        for (handled, limit) in [(1, 2), (3, 4), (7, 8)] {
            bisection.passed(handled);
            assert_eq!(bisection.limit(), limit);
        }
    }
}
