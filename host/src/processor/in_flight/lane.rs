//! What the tracker knows of one lane, and what a commit may say about it: pure.
//!
//! A lane has work that is queued, at most one piece that is running, results that wait for their commit, and perhaps a row in the database. The
//! two functions at the end are the whole of how a commit sees it: whether one would change anything, and what it puts into the plan.

use std::collections::VecDeque;

use super::{PageNumber, Plan, Work};
use crate::{
    model::{cursor::Progress, ids::LaneKey},
    processor::lane_checkpoints::{LaneCheckpoint, LaneRow, LaneState},
};

/// What a finished piece of work led to, waiting for its commit.
#[derive(Clone, Debug)]
pub(super) struct Done<T> {
    pub(super) page: PageNumber,
    /// Where the lane stands with it.
    pub(super) end: Progress,
    /// Position of its first event.
    pub(super) first: Option<i64>,
    /// How many events it handled.
    pub(super) events: usize,
    pub(super) results: T,
}

impl<T> Done<T> {
    /// The same with other results, and those that it had.
    pub(super) fn exchange<U>(self, results: U) -> (Done<U>, T) {
        let Done { page, end, first, events, results: had } = self;
        (Done { page, end, first, events, results }, had)
    }
}

/// Why a lane stopped, and before which event; where it stands follows from what is committed by then.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) page: PageNumber,
    pub(super) state: LaneState,
    pub(super) attempts: u32,
    pub(super) event_position: Option<i64>,
}

/// How a lane gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// From every page after this one; none of what came before is missing.
    Attached { since: PageNumber },
    /// The same, if the reading under way reaches so far.
    Attaching { since: PageNumber },
    /// From the log, later.
    Detached,
}

#[derive(Clone, Debug)]
pub(super) struct Lane<T> {
    /// Its checkpoint row, as the database has it.
    pub(super) row: Option<LaneRow>,
    pub(super) feed: Feed,
    pub(super) queue: VecDeque<Work>,
    pub(super) queued_bytes: usize,
    pub(super) running: Option<PageNumber>,
    pub(super) done: VecDeque<Done<T>>,
    /// What its row must say once everything in `done` is committed.
    pub(super) stop: Option<Stop>,
    /// Handle at most so many events at a time, as a commit of more was refused.
    pub(super) careful: Option<usize>,
    /// It reads the log.
    pub(super) reading: bool,
    /// The commit under way concerns it.
    pub(super) in_commit: bool,
    /// What is running was started before its ground was lost: its results are dropped.
    pub(super) stale: bool,
}

impl<T> Lane<T> {
    pub(super) fn new(since: PageNumber) -> Self {
        Lane {
            row: None,
            feed: Feed::Attached { since },
            queue: VecDeque::new(),
            queued_bytes: 0,
            running: None,
            done: VecDeque::new(),
            stop: None,
            careful: None,
            reading: false,
            in_commit: false,
            stale: false,
        }
    }

    /// Whether nothing is known of it that the cursor does not say.
    pub(super) fn is_plain(&self) -> bool {
        let nothing_known = self.row.is_none() && self.stop.is_none() && !self.detached() && !self.in_commit;
        nothing_known && self.idle() && self.done.is_empty()
    }

    /// Whether it is behind and nothing is under way or to be committed: it waits for a person, for a time or for its turn to read.
    pub(super) fn has_nothing_to_do(&self) -> bool {
        let quiet = self.stop.is_none() && !self.reading && !self.in_commit && !self.stale;
        self.row.is_some() && self.detached() && quiet && self.idle() && self.done.is_empty()
    }

    pub(super) fn idle(&self) -> bool {
        self.running.is_none() && self.queue.is_empty()
    }

    pub(super) fn detached(&self) -> bool {
        matches!(self.feed, Feed::Detached)
    }

    pub(super) fn push(&mut self, work: Work) {
        self.queued_bytes += work.weight();
        self.queue.push_back(work);
    }

    pub(super) fn drop_queue(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// Events that wait in its queue.
    pub(super) fn queued_events(&self) -> usize {
        self.queue.iter().map(|work| work.events.len()).sum()
    }

    /// Why it stopped, once nothing of it runs and all that it has finished goes into a commit up to `page`: what came later would otherwise move a row that
    /// says it waits.
    fn stopped(&self, page: PageNumber) -> Option<&Stop> {
        let complete = self.running.is_none() && self.done.back().is_none_or(|done| done.page <= page);
        self.stop.as_ref().filter(|stop| complete && stop.page <= page)
    }

    /// Whether work of a page up to `page` is still to be done.
    pub(super) fn busy_up_to(&self, page: PageNumber) -> bool {
        self.running.is_some_and(|running| running <= page) || self.queue.front().is_some_and(|work| work.page <= page)
    }

    /// Whether the cursor may cover it once it stands at the end of `page` and its finished work up to there is committed.
    pub(super) fn finished(&self, page: PageNumber) -> bool {
        let attached = matches!(self.feed, Feed::Attached { since } if since <= page);
        attached && self.stop.is_none() && !self.busy_up_to(page)
    }
}

/// Whether a commit up to `page` would change what the database says of a lane.
pub(super) fn lane_changes<T>(lane: &Lane<T>, page: PageNumber, included: bool) -> bool {
    let done = included && lane.done.front().is_some_and(|done| done.page <= page);
    let stop = lane.stopped(page).is_some() && (included || lane.done.is_empty());
    let rejoins = lane.row.is_some() && lane.finished(page) && lane.done.is_empty();
    let needs_row = lane.row.is_none() && lane.detached();
    done || stop || rejoins || needs_row
}

/// Puts into a plan what it says about one lane.
pub(super) fn commit_lane<T>(plan: &mut Plan<T>, key: &LaneKey, lane: &mut Lane<T>, included: bool) {
    let mut progress = None;
    if included {
        while lane.done.front().is_some_and(|done| done.page <= plan.page) {
            let Some(done) = lane.done.pop_front() else { break };
            progress = Some(done.end.clone());
            let (taken, results) = done.exchange(());
            plan.taken.push(taken);
            plan.results.push((key.clone(), results));
        }
    }
    let moved = progress.is_some();
    let undone = lane.done.front().is_some_and(|done| done.page <= plan.page);
    let stop = lane.stopped(plan.page).filter(|_| !undone);
    let finished = lane.finished(plan.page) && !undone;
    let durable = lane.row.as_ref().map_or(&plan.from, |row| &row.progress);
    let checkpoint = || LaneCheckpoint {
        progress: progress.clone().unwrap_or_else(|| durable.clone()),
        state: stop.map_or(LaneState::CatchingUp, |stop| stop.state.clone()),
        attempts: match (stop, &lane.row) {
            (Some(stop), _) => stop.attempts,
            (None, Some(row)) if !moved => row.attempts,
            _ => 0,
        },
        event_position: stop.and_then(|stop| stop.event_position),
    };
    match &lane.row {
        None if finished => {}
        None => plan.left.push((key.clone(), checkpoint())),
        Some(row) if finished => plan.rejoined.push((key.clone(), row.progress.clone())),
        Some(row) if moved || stop.is_some() => plan.moved.push((key.clone(), row.progress.clone(), checkpoint())),
        Some(_) => return,
    }
    if stop.is_some() {
        plan.stopped.push(key.clone());
    }
    lane.in_commit = true;
}
