//! How a lane behind the cursor reads the log: pure.
//!
//! It first reads towards where the cursor rows stand, since what it handles up to there can be committed at any time. Once it is there, and
//! has not read its fill, it goes on to the last page that was dispatched; if it gets so far it is one with the tail again. If it
//! does not, what it read beyond the cursor is left for the next time.

use std::{collections::VecDeque, sync::Arc};

use crate::model::{
    cursor::{Difference, Progress},
    event::Event,
};

/// Events of one difference, and where the lane stands after them.
pub type Piece = (Vec<Arc<Event>>, Difference, Progress);

/// What a lane found in the log.
#[derive(Debug)]
pub struct Found {
    /// In order; none of them empty.
    pub pieces: Vec<Piece>,
    /// Where the lane stands after them.
    pub end: Progress,
    /// Whether that is the last page that was dispatched.
    pub complete: bool,
}

/// A reading under way: asks for one part of a difference after another.
#[derive(Debug)]
pub struct Gather {
    to_cursor: VecDeque<Difference>,
    to_tail: VecDeque<Difference>,
    pieces: Vec<Piece>,
    /// How many of them lie before the cursor, and where the lane stands after those.
    committable: (usize, Progress),
    left: usize,
    left_bytes: usize,
}

impl Gather {
    /// A reading from `from` by way of the cursor's progress to the tail's, of about `limit` events and at most a page more than `bytes`.
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

    /// What to read next, and at most how much; none when it has enough.
    pub fn next(&self) -> Option<(&Difference, usize)> {
        let difference = self.to_cursor.front().or(self.to_tail.front())?;
        (self.left > 0 && self.left_bytes > 0).then_some((difference, self.left))
    }

    /// Takes what was read: the position of the last event in it, those events that concern the lane, and whether there may be more.
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

    /// What came of it.
    pub fn finish(mut self) -> Found {
        let complete = self.to_cursor.is_empty() && self.to_tail.is_empty();
        let (count, end) = self.committable;
        if !complete {
            self.pieces.truncate(count);
        }
        Found { pieces: self.pieces, end, complete }
    }
}
