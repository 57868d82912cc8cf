//! How a tenant's events are cut into batches: pure, and the same at every run.

use std::{fmt, sync::Arc};

use crate::model::event::Event;

/// Events that are handled one by one; those of a longer file that follow go in batches as large as the host's. Default 50,000: a call for each
/// costs some seconds.
const SINGLES: usize = 50_000;
/// The largest of the batches that are drawn.
const LARGEST_DRAWN: usize = 20;
/// What drawn sizes follow from. A constant, so that what is found is found again.
const SEED: u64 = 0x5eed;

/// One way to cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    kind: Kind,
    /// The largest batch.
    most: usize,
    /// Events that are dealt to lanes at a time.
    page: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// As large as the host makes them at first, in instances that stay.
    Large,
    /// One by one, up to this position.
    Single { through: i64, whole: bool },
    /// Of sizes drawn from a fixed seed.
    Drawn,
    /// As large again, each in an instance of its own.
    Fresh,
}

impl Cut {
    /// Every way, the one that others are compared with first.
    pub(super) fn all(most: usize, page: usize, events: &[Arc<Event>]) -> [Cut; 4] {
        let through = events.get(..SINGLES.min(events.len())).and_then(|singles| singles.last());
        let single =
            Kind::Single { through: through.map_or(0, |event| event.position), whole: events.len() <= SINGLES };
        [Kind::Large, single, Kind::Drawn, Kind::Fresh].map(|kind| Cut { kind, most, page })
    }

    /// Whether every batch has an instance of its own.
    pub(super) fn is_fresh(&self) -> bool {
        self.kind == Kind::Fresh
    }

    /// A tenant's events in the parts that are dealt to its lanes, one after another.
    pub(super) fn pages<'e>(&self, events: &'e [Arc<Event>]) -> impl Iterator<Item = &'e [Arc<Event>]> + use<'e> {
        let singles = match self.kind {
            Kind::Single { through, .. } => events.partition_point(|event| event.position <= through),
            _ => 0,
        };
        let (singles, rest) = events.split_at(singles);
        singles.chunks(1).chain(rest.chunks(self.page.max(1)))
    }

    /// The sizes of a tenant's batches, one after another; tenants differ by their number.
    pub(super) fn sizes(&self, tenant: usize) -> impl FnMut() -> usize + use<> {
        let (drawn, most) = (self.kind == Kind::Drawn, self.most.max(1));
        let mut state = SEED.wrapping_add(tenant as u64);
        move || {
            if !drawn {
                return most;
            }
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            1 + ((mixed ^ (mixed >> 31)) % most.min(LARGEST_DRAWN) as u64) as usize
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { kind, most, .. } = self;
        match kind {
            Kind::Large => write!(f, "batches of up to {most}"),
            Kind::Single { whole: true, .. } => write!(f, "batches of 1"),
            Kind::Single { whole: false, .. } => {
                write!(f, "batches of 1 for the first {SINGLES} events, up to {most} for the rest")
            }
            Kind::Drawn => write!(f, "random batches of 1 to {}", (*most).min(LARGEST_DRAWN)),
            Kind::Fresh => write!(f, "batches of up to {most}, each in a fresh instance"),
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
            })
        };
        (1..=count).map(event).collect()
    }

    #[test]
    fn each_way_cuts_otherwise_and_leaves_nothing_out() {
        let events = events(SINGLES as i64 + 25);
        let cuts = Cut::all(500, 10, &events);
        for cut in &cuts {
            let cut: Vec<Arc<Event>> = cut.pages(&events).flatten().cloned().collect();
            assert_eq!(cut, events);
        }
        let lengths: Vec<usize> = cuts[1].pages(&events).map(<[_]>::len).collect();
        assert_eq!((lengths.len(), &lengths[SINGLES - 1..]), (SINGLES + 3, &[1, 10, 10, 5][..]));
        assert!(cuts[1].to_string().contains("for the first 50000 events"));
        assert_eq!(Cut::all(500, 10, &events[..7])[1].to_string(), "batches of 1");
        assert!(cuts[3].is_fresh() && !cuts[0].is_fresh());
    }

    #[test]
    fn drawn_sizes_are_small_and_drawn_alike_every_time() {
        let [large, _, drawn, _] = Cut::all(500, 5_000, &[]);
        let draw = |tenant| -> Vec<usize> {
            let mut next = drawn.sizes(tenant);
            (0..1_000).map(|_| next()).collect()
        };
        let sizes = draw(0);
        assert_eq!(sizes, draw(0));
        assert_ne!(sizes, draw(1));
        assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&1), Some(&20)));
        assert_eq!(large.sizes(0)(), 500);
        let [.., narrow, _] = Cut::all(2, 5_000, &[]);
        assert!(std::iter::repeat_with(narrow.sizes(0)).take(100).all(|size| size <= 2));
    }
}
