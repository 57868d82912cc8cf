//! The steps of one reading of the log, for a lane that is behind the cursor. Pure.
//!
//! The lane first reads towards the cursor, because what it handles up to there can be committed at
//! any time. If it reaches the cursor with room left, it continues to the last page dispatched. If
//! it reaches that too, it rejoins the tail. Otherwise the events past the cursor are discarded and
//! read again later.

use std::{collections::VecDeque, sync::Arc};

use crate::model::{
    cursor::{Difference, Progress},
    event::Event,
};

/// Events of one difference, and the lane's progress after them.
pub type GatherPiece = (Vec<Arc<Event>>, Difference, Progress);

/// The events that a lane read from the log.
#[derive(Debug)]
pub struct GatherResult {
    /// In order; none is empty.
    pub pieces: Vec<GatherPiece>,
    /// The lane's progress after the pieces up to the cursor. Only of use if the reading is not
    /// complete.
    pub end: Progress,
    /// Whether the lane has read to the end of the last page dispatched.
    pub complete: bool,
}

/// A reading under way: it says which part of which difference to read next.
#[derive(Debug)]
pub struct Gather {
    to_cursor: VecDeque<Difference>,
    to_tail: VecDeque<Difference>,
    pieces: Vec<GatherPiece>,
    /// How many of the pieces are before the cursor, and the progress after those.
    committable: (usize, Progress),
    left: usize,
    left_bytes: usize,
}

impl Gather {
    /// A reading from `from` through the cursor's progress to the tail's, of at most `limit` events
    /// and at most a page more than `bytes`.
    pub fn new(from: &Progress, cursor: &Progress, tail: &Progress, limit: usize, bytes: usize) -> Self {
        Gather {
            to_cursor: from.hops_to(cursor).into(),
            to_tail: cursor.hops_to(tail).into(),
            pieces: Vec::new(),
            committable: (0, from.clone()),
            left: limit.max(1),
            left_bytes: bytes.max(1),
        }
    }

    /// The next difference and the maximum number of events to read of it; none when the reading
    /// has enough.
    pub fn next(&self) -> Option<(&Difference, usize)> {
        let difference = self.to_cursor.front().or(self.to_tail.front())?;
        (self.left > 0 && self.left_bytes > 0).then_some((difference, self.left))
    }

    /// Adds what was read: the position of the last event, the lane's events, and whether there may
    /// be more.
    pub fn read(&mut self, last: Option<i64>, events: Vec<Arc<Event>>, more: bool) {
        let before_cursor = !self.to_cursor.is_empty();
        let hops = if before_cursor { &mut self.to_cursor } else { &mut self.to_tail };
        let Some(difference) = hops.front_mut() else { return };
        let read = difference.clone();
        let end = match last {
            Some(last) if more => {
                difference.after = Some(last);
                read.handled_up_to(last)
            }
            _ => {
                hops.pop_front();
                read.then.clone()
            }
        };
        self.left = self.left.saturating_sub(events.len());
        self.left_bytes = self.left_bytes.saturating_sub(events.iter().map(|event| event.weight()).sum());
        if !events.is_empty() {
            self.pieces.push((events, read, end.clone()));
        } else if before_cursor && let Some(last) = self.pieces.last_mut() {
            last.2 = end.clone();
        }
        if before_cursor {
            self.committable = (self.pieces.len(), end);
        }
    }

    /// The result of the reading.
    pub fn finish(mut self) -> GatherResult {
        let complete = self.to_cursor.is_empty() && self.to_tail.is_empty();
        let (count, end) = self.committable;
        if !complete {
            self.pieces.truncate(count);
        }
        GatherResult { pieces: self.pieces, end, complete }
    }
}
