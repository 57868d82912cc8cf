//! A piece of a lane's work, and its end. Pure.

use std::sync::Arc;

use crate::{
    model::{
        cursor::{Difference, Progress},
        event::Event,
        reaction::AppendConflict,
    },
    processor::lane_checkpoints::{LaneState, Skip},
};

use super::parked_streams::{ParkedStreams, StreamMove};

/// The number of a page, counted from the beginning of the term.
pub type PageNumber = u64;

/// Events of one lane, to handle in order.
#[derive(Clone, Debug)]
pub struct LaneWork {
    /// The first page at which it may be committed.
    pub page: PageNumber,
    /// The difference that contains the events.
    pub difference: Difference,
    /// The lane's progress after all of them.
    pub end: Progress,
    /// Ordered by position; never empty.
    pub events: Vec<Arc<Event>>,
    /// Earlier attempts at the first event.
    pub attempts: u32,
    /// The event to set aside without a call, if there is one.
    pub skip: Option<Arc<Skip>>,
    /// The lane's parked streams, whose events it passes over; none if it has none. Known when the
    /// work starts.
    pub parked: Option<Arc<ParkedStreams>>,
    /// Appends of earlier attempts at the events that conflicted; none if there are none. Known
    /// when the work starts.
    pub conflicts: Option<Arc<[AppendConflict]>>,
}

/// The end of a run.
#[derive(Debug)]
pub struct RunEnd<T> {
    /// Number of events that the lane has passed, counted from the first.
    pub handled: usize,
    /// What happens to the rest.
    pub ending: Ending,
    /// The parked streams that it changed.
    pub streams: Vec<StreamMove>,
    /// Whether the event to set aside was set aside.
    pub skipped: bool,
    /// Its results.
    pub results: T,
}

impl LaneWork {
    /// The lane's progress after the first `handled` events; none if there are none.
    pub(super) fn progress_after(&self, handled: usize) -> Option<Progress> {
        match handled {
            0 => None,
            n if n == self.events.len() => Some(self.end.clone()),
            n => Some(self.difference.handled_up_to(self.events[n - 1].position)),
        }
    }

    pub(super) fn weight(&self) -> usize {
        self.events.iter().map(|event| event.weight()).sum()
    }
}

/// The end of a piece of work.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Everything up to the last handled event is done; the rest continues later.
    Handled,
    /// The lane stops before the next event, which it has attempted.
    Stopped(LaneState),
    /// The lane stops before the next event, and the attempt does not count.
    Postponed(LaneState),
}

/// A size that counts against the memory bounds: that of the result of a piece of work.
pub trait Weighted {
    /// Bytes held until the commit; 0 for the default value.
    fn weight(&self) -> usize;
}
