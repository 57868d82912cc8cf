//! How a tenant's events are cut into batches: pure, and the same at every run.

use std::{fmt, sync::Arc};

use crate::model::event::Event;

/// Events that are handled one by one, in instances that stay; those of a longer file that follow go in batches as large as the host's. Default 50,000: a call for each
/// costs some seconds.
const SINGLES: usize = 50_000;
/// Events that are handled one by one, each in a fresh instance. Default 5,000: making an instance costs more than a call.
const FRESH_SINGLES: usize = 5_000;
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
    /// Events that are dispatched to lanes at a time.
    page: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// As large as the host makes them at first, in instances that stay.
    Large,
    /// The first of them one by one, the rest as large as that.
    Single(Singles),
    /// Of sizes drawn from a fixed seed.
    Drawn,
    /// As `Single`, each batch in an instance of its own.
    Fresh(Singles),
}

/// Which events are handled one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Singles {
    count: usize,
    /// The last one's position.
    through: i64,
    /// Whether those are all.
    whole: bool,
}

impl Singles {
    fn of(events: &[Arc<Event>], most: usize) -> Self {
        let count = most.min(events.len());
        let through = events[..count].last().map_or(0, |event| event.position);
        Singles { count, through, whole: count == events.len() }
    }
}

impl Cut {
    /// Every way, the one that others are compared with first.
    pub(super) fn all(most: usize, page: usize, events: &[Arc<Event>]) -> [Cut; 4] {
        let (single, fresh) = (Singles::of(events, SINGLES), Singles::of(events, FRESH_SINGLES));
        [Kind::Large, Kind::Single(single), Kind::Drawn, Kind::Fresh(fresh)].map(|kind| Cut { kind, most, page })
    }

    /// Whether every batch has an instance of its own.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.kind, Kind::Fresh(_))
    }

    /// A tenant's events in the parts that are dispatched to its lanes, one after another.
    pub(super) fn pages<'e>(&self, events: &'e [Arc<Event>]) -> impl Iterator<Item = &'e [Arc<Event>]> + use<'e> {
        let singles = match &self.kind {
            Kind::Single(singles) | Kind::Fresh(singles) => {
                events.partition_point(|event| event.position <= singles.through)
            }
            Kind::Large | Kind::Drawn => 0,
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
            Kind::Single(singles) => singles.tell(f, *most),
            Kind::Drawn => write!(f, "random batches of 1 to {}", (*most).min(LARGEST_DRAWN)),
            Kind::Fresh(singles) => {
                singles.tell(f, *most)?;
                f.write_str(", each in a fresh instance")
            }
        }
    }
}

impl Singles {
    fn tell(&self, f: &mut fmt::Formatter<'_>, most: usize) -> fmt::Result {
        match self {
            Singles { whole: true, .. } => f.write_str("batches of 1"),
            Singles { count, .. } => {
                write!(f, "batches of 1 for the first {count} events and up to {most} for the rest")
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
        assert_eq!(Cut::all(500, 10, &events[..7])[3].to_string(), "batches of 1, each in a fresh instance");
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
