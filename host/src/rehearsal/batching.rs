//! The ways of cutting a tenant's events into batches. Pure, and the same in every run.

use std::{fmt, sync::Arc};

use crate::model::event::Event;

/// Events that are handled one by one in warm instances. The rest of a longer file is handled in
/// batches as large as the host's. 50,000: a call for each takes a few seconds.
const SINGLES: usize = 50_000;
/// Events that are handled one by one, each in a fresh instance. 5,000: making an instance costs
/// more than a call.
const FRESH_SINGLES: usize = 5_000;
/// The largest random batch.
const LARGEST_RANDOM: usize = 20;
/// Seed of the random sizes. Constant, so that a difference found once is found again.
const SEED: u64 = 0x5eed;

/// One way of batching events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batching {
    kind: BatchingKind,
    /// The largest batch.
    largest: usize,
    /// Events that are dispatched to lanes at once.
    page: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum BatchingKind {
    /// Batches as large as the host's first ones, in warm instances.
    Large,
    /// The first events one by one, the rest as in `Large`.
    Single(Singles),
    /// Batches of random sizes from a fixed seed.
    Random,
    /// As `Single`, each batch in a fresh instance.
    Fresh(Singles),
}

/// The events that are handled one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Singles {
    count: usize,
    /// Position of the last one.
    last: i64,
    /// Whether these are all events.
    all: bool,
}

impl Singles {
    fn of(events: &[Arc<Event>], max: usize) -> Self {
        let count = max.min(events.len());
        let last = events[..count].last().map_or(0, |event| event.position);
        Singles { count, last, all: count == events.len() }
    }
}

impl Batching {
    /// All ways of batching. The first is the one that the others are compared with.
    pub(super) fn all(largest: usize, page: usize, events: &[Arc<Event>]) -> [Batching; 4] {
        let (single, fresh) = (Singles::of(events, SINGLES), Singles::of(events, FRESH_SINGLES));
        [BatchingKind::Large, BatchingKind::Single(single), BatchingKind::Random, BatchingKind::Fresh(fresh)]
            .map(|kind| Batching { kind, largest, page })
    }

    /// Whether every batch runs in a fresh instance.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.kind, BatchingKind::Fresh(_))
    }

    /// A tenant's events in the pages that are dispatched to its lanes, one after another.
    pub(super) fn pages<'e>(&self, events: &'e [Arc<Event>]) -> impl Iterator<Item = &'e [Arc<Event>]> + use<'e> {
        let singles = match &self.kind {
            BatchingKind::Single(singles) | BatchingKind::Fresh(singles) => {
                events.partition_point(|event| event.position <= singles.last)
            }
            BatchingKind::Large | BatchingKind::Random => 0,
        };
        let (singles, rest) = events.split_at(singles);
        singles.chunks(1).chain(rest.chunks(self.page.max(1)))
    }

    /// The sizes of a tenant's batches, one after another. The tenant's number varies the seed.
    pub(super) fn sizes(&self, tenant: usize) -> impl FnMut() -> usize + use<> {
        let (random, largest) = (self.kind == BatchingKind::Random, self.largest.max(1));
        let mut state = SEED.wrapping_add(tenant as u64);
        move || {
            if !random {
                return largest;
            }
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            1 + ((mixed ^ (mixed >> 31)) % largest.min(LARGEST_RANDOM) as u64) as usize
        }
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Batching { kind, largest, .. } = self;
        match kind {
            BatchingKind::Large => write!(f, "batches of up to {largest}"),
            BatchingKind::Single(singles) => singles.describe(f, *largest),
            BatchingKind::Random => write!(f, "random batches of 1 to {}", (*largest).min(LARGEST_RANDOM)),
            BatchingKind::Fresh(singles) => {
                singles.describe(f, *largest)?;
                f.write_str(", each in a fresh instance")
            }
        }
    }
}

impl Singles {
    fn describe(&self, f: &mut fmt::Formatter<'_>, largest: usize) -> fmt::Result {
        match self {
            Singles { all: true, .. } => f.write_str("batches of 1"),
            Singles { count, .. } => {
                write!(f, "batches of 1 for the first {count} events and up to {largest} for the rest")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TenantId;

    fn events(count: i64) -> Vec<Arc<Event>> {
        let event = |position| {
            Arc::new(Event {
                position,
                id: position.to_string().into(),
                tenant: TenantId::parse("t").unwrap(),
                event_type: "T".into(),
                stream: "s".into(),
                version: position,
                recorded_at: 0,
                data: "1".into(),
                metadata: "{}".into(),
                deferred: None,
            })
        };
        (1..=count).map(event).collect()
    }

    #[test]
    fn every_batching_covers_all_events_and_differs_from_the_others() {
        let events = events(SINGLES as i64 + 25);
        let batchings = Batching::all(500, 10, &events);
        for batching in &batchings {
            let covered: Vec<Arc<Event>> = batching.pages(&events).flatten().cloned().collect();
            assert_eq!(covered, events);
        }
        let lengths: Vec<usize> = batchings[1].pages(&events).map(<[_]>::len).collect();
        assert_eq!((lengths.len(), &lengths[SINGLES - 1..]), (SINGLES + 3, &[1, 10, 10, 5][..]));
        assert!(batchings[1].to_string().contains("for the first 50000 events"));
        assert_eq!(Batching::all(500, 10, &events[..7])[1].to_string(), "batches of 1");
        assert_eq!(Batching::all(500, 10, &events[..7])[3].to_string(), "batches of 1, each in a fresh instance");
        assert!(batchings[3].is_fresh() && !batchings[0].is_fresh());
    }

    #[test]
    fn random_sizes_are_small_and_repeatable() {
        let [large, _, random, _] = Batching::all(500, 5_000, &[]);
        let draw = |tenant| -> Vec<usize> {
            let mut next = random.sizes(tenant);
            (0..1_000).map(|_| next()).collect()
        };
        let sizes = draw(0);
        assert_eq!(sizes, draw(0));
        assert_ne!(sizes, draw(1));
        assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&1), Some(&20)));
        assert_eq!(large.sizes(0)(), 500);
        let [.., narrow, _] = Batching::all(2, 5_000, &[]);
        assert!(std::iter::repeat_with(narrow.sizes(0)).take(100).all(|size| size <= 2));
    }
}
