//! The state of one lane in the tracker, and its part of a commit: pure.
//!
//! A lane has queued work, at most one piece that is running, results that wait for their commit,
//! and perhaps a checkpoint row in the database. Two functions at the end of the file define its
//! part of a commit. [`lane_changes`] decides whether a commit would change it, and [`commit_lane`]
//! adds it to the plan.

use std::{collections::VecDeque, sync::Arc};

use super::{CommitPlan, LaneWork, PageNumber, Skip, parked_streams::StreamMove, request::FinishedRedelivery};
use crate::{
    model::{cursor::Progress, ids::LaneKey},
    processor::lane_checkpoints::{LaneCheckpoint, LaneRow, LaneState},
};

/// A finished piece of work that waits for its commit.
#[derive(Clone, Debug)]
pub(super) struct FinishedWork<T> {
    pub(super) page: PageNumber,
    /// The lane's progress after it; none if it leaves the progress as it is.
    pub(super) end: Option<Progress>,
    /// Position of its first event.
    pub(super) first: Option<i64>,
    /// Number of events that it handled.
    pub(super) events: usize,
    pub(super) results: T,
    /// What else it has changed; none for most.
    pub(super) changes: Option<Box<LaneChanges>>,
}

/// Changes of a lane by a finished piece of work, besides its progress.
#[derive(Clone, Debug, Default)]
pub(super) struct LaneChanges {
    /// Parked streams.
    pub(super) streams: Vec<StreamMove>,
    /// Whether the event was set aside that its row says is skipped.
    pub(super) skipped: bool,
    /// The redelivery, if it was one.
    pub(super) redelivered: Option<FinishedRedelivery>,
}

impl<T> FinishedWork<T> {
    /// The same work with different results, and the former results.
    pub(super) fn exchange<U>(self, results: U) -> (FinishedWork<U>, T) {
        let FinishedWork { page, end, first, events, results: had, changes } = self;
        (FinishedWork { page, end, first, events, results, changes }, had)
    }

    /// The redelivery, if it was one.
    pub(super) fn redelivered(&self) -> Option<&FinishedRedelivery> {
        self.changes.as_ref()?.redelivered.as_ref()
    }
}

/// The reason why a lane stopped, and the event before which it stopped.
#[derive(Clone, Debug)]
pub(super) struct LaneStop {
    pub(super) page: PageNumber,
    pub(super) state: LaneState,
    pub(super) attempts: u32,
    pub(super) event_position: Option<i64>,
    /// The event to set aside when the lane continues, if there is one.
    pub(super) skip: Option<Arc<Skip>>,
}

/// The work of a lane that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    /// Events up to this page.
    Page(PageNumber),
    /// A redelivery, which leaves the lane's progress as it is.
    Redelivery,
}

/// The source of a lane's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// Every page after this one; it has missed none of the earlier ones.
    Attached { since: PageNumber },
    /// The same once the reading under way reaches that page.
    Attaching { since: PageNumber },
    /// The log, later.
    Detached,
}

/// The state of one active lane. `T` is the result of a piece of work.
#[derive(Clone, Debug)]
pub(super) struct Lane<T> {
    /// Its checkpoint row, as the database has it.
    pub(super) row: Option<LaneRow>,
    pub(super) feed: Feed,
    pub(super) queue: VecDeque<LaneWork>,
    pub(super) queued_bytes: usize,
    pub(super) running: Option<Running>,
    pub(super) done: VecDeque<FinishedWork<T>>,
    /// The state that its row must have once everything in `done` is committed.
    pub(super) stop: Option<LaneStop>,
    /// Maximum number of events that it reads at once, after a commit of more was rejected.
    pub(super) max_events: Option<usize>,
    /// Whether it is reading the log.
    pub(super) reading: bool,
    /// Whether the commit under way includes it.
    pub(super) in_commit: bool,
    /// Whether its running work began before a commit of its earlier results was rejected, so that
    /// the results will be dropped.
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
            max_events: None,
            reading: false,
            in_commit: false,
            stale: false,
        }
    }

    /// Whether it needs no entry, because its progress is that of the cursor.
    pub(super) fn is_redundant(&self) -> bool {
        let nothing_known = self.row.is_none() && self.stop.is_none() && !self.detached() && !self.in_commit;
        nothing_known && self.idle() && self.done.is_empty()
    }

    /// Whether it is behind, with nothing under way or uncommitted. It waits for manual action, for
    /// its next attempt or for its turn to read.
    pub(super) fn is_parkable(&self) -> bool {
        let quiet = self.stop.is_none() && !self.reading && !self.in_commit && !self.stale;
        self.row.is_some() && self.detached() && quiet && self.idle() && self.done.is_empty()
    }

    /// The first page that it still works on; none if there is none.
    pub(super) fn first_page(&self) -> Option<PageNumber> {
        match self.running {
            Some(Running::Page(page)) => Some(page),
            Some(Running::Redelivery) | None => self.queue.front().map(|work| work.page),
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.running.is_none() && self.queue.is_empty()
    }

    pub(super) fn detached(&self) -> bool {
        matches!(self.feed, Feed::Detached)
    }

    pub(super) fn push(&mut self, work: LaneWork) {
        self.queued_bytes += work.weight();
        self.queue.push_back(work);
    }

    pub(super) fn drop_queue(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// Number of events in its queue.
    pub(super) fn queued_events(&self) -> usize {
        self.queue.iter().map(|work| work.events.len()).sum()
    }

    /// Why it stopped, once none of its work runs and a commit up to `page` takes all its results.
    /// Later results would move a row that records a waiting lane.
    fn stopped(&self, page: PageNumber) -> Option<&LaneStop> {
        let complete = self.running.is_none() && self.done.back().is_none_or(|done| done.page <= page);
        self.stop.as_ref().filter(|stop| complete && stop.page <= page)
    }

    /// Whether work up to `page` is unfinished.
    pub(super) fn busy_up_to(&self, page: PageNumber) -> bool {
        self.first_page().is_some_and(|first| first <= page)
    }

    /// Whether the cursor covers it once the cursor is at the end of `page` and its finished work
    /// up to there is committed.
    pub(super) fn finished(&self, page: PageNumber) -> bool {
        let attached = matches!(self.feed, Feed::Attached { since } if since <= page);
        attached && self.stop.is_none() && !self.busy_up_to(page)
    }
}

/// Whether a commit up to `page` would change a lane's row, or store results of it.
pub(super) fn lane_changes<T>(lane: &Lane<T>, page: PageNumber, included: bool) -> bool {
    let done = included && lane.done.front().is_some_and(|done| done.page <= page);
    let stop = lane.stopped(page).is_some() && (included || lane.done.is_empty());
    let rejoins = lane.row.is_some() && lane.finished(page) && lane.done.is_empty();
    let needs_row = lane.row.is_none() && lane.detached();
    done || stop || rejoins || needs_row
}

/// Adds a lane's part to a plan.
pub(super) fn commit_lane<T>(plan: &mut CommitPlan<T>, key: &LaneKey, lane: &mut Lane<T>, included: bool) {
    let (mut progress, mut skipped, mut takes_results) = (None, false, false);
    if included {
        let is_redelivery = lane.done.front().is_some_and(|done| done.redelivered().is_some());
        while let Some(done) = lane.done.pop_front_if(|done| {
            // A redelivery is committed apart from the lane's other results.
            let fits = done.redelivered().is_some() == is_redelivery && !(is_redelivery && takes_results);
            done.page <= plan.page && fits
        }) {
            takes_results = true;
            progress = done.end.clone().or(progress);
            skipped |= done.changes.as_ref().is_some_and(|changes| changes.skipped);
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
        skip: match stop.and_then(|stop| stop.skip.clone()) {
            None => lane.row.as_ref().and_then(|row| row.skip.clone()).filter(|_| !skipped),
            skip => skip,
        },
    };
    match &lane.row {
        None if finished => {}
        None => plan.left.push((key.clone(), checkpoint())),
        Some(row) if finished => plan.rejoined.push((key.clone(), row.progress.clone())),
        Some(row) if moved || stop.is_some() => plan.moved.push((key.clone(), row.progress.clone(), checkpoint())),
        Some(_) if takes_results => {}
        Some(_) => return,
    }
    if stop.is_some() {
        plan.stopped.push(key.clone());
    }
    lane.in_commit = true;
}
