//! The tracker of one processor's work in flight: a pure state machine.
//!
//! Pages are dispatched to lanes as they are read, lanes finish in any order, and commits take what
//! is finished. The tracker ensures that every commit leaves each lane covered exactly once: by the
//! cursor, or by its checkpoint row. It has no clock, no database and no guest. The loop in
//! [`super::engine`] carries out its decisions. A property test runs it against a model of the log
//! and the database, with random interleavings and crashes at any step.
//!
//! The rules:
//!
//! - Pages are numbered in the order of their dispatch, and the cursor is at the end of one of
//!   them. Finished work is committed only once the cursor is at or past its page. A lane is never
//!   ahead of the cursor in the database, because after a crash the log may be divided into other
//!   pages.
//! - A lane without a row is covered by the cursor. A commit that moves the cursor past a page that
//!   such a lane has not finished gives it a row with the progress it has. The lane stays
//!   *attached*: its work continues, and a later commit takes its results and moves or deletes the
//!   row.
//! - A lane that fails, waits or has too much queued is *detached*: its queue is dropped, and it
//!   reads the log from its row onwards.
//! - The results in one commit are bounded in bytes. Lanes beyond the bound take turns in the next
//!   commits. A lane whose results made a shared commit fail commits alone until it has caught up.
//! - A detached lane rejoins the tail by reading up to the last page dispatched, while later pages
//!   are queued for it. The commit that moves the cursor at least that far deletes its row.
//! - A lane whose results append to a busy stream is detached and commits later. Such lanes and all
//!   others take turns. One whose appends conflict with the version of a stream handles its events
//!   again.
//! - A lane that is behind and idle is [parked]: it costs only the memory for its row, and
//!   no step iterates over it.

mod appends;
mod catch_up;
mod lane;
mod parked;
mod parked_streams;
mod pauses;
mod plan;
mod redelivery;
mod request;
mod shed;
mod slots;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

pub use appends::LaneConflicts;
use appends::RefusedAppends;
pub use catch_up::LaneReading;
use lane::{Feed, FinishedWork, Lane, LaneChanges, LaneStop, Running};
use parked::{Parked, ParkedLane};
use parked_streams::StreamTable;
pub use parked_streams::{ParkedStreams, StreamMove, StreamPlace};
pub use plan::{CommitPlan, CommitRejection, Patience};
use redelivery::Requests;
pub use request::{Redelivered, Redelivery, RedeliveryEnd, Request, RequestAction, SetAside};
use slots::Slots;
pub use work::{Ending, LaneWork, PageNumber, RunEnd, Weighted};

use super::{
    attempts,
    lane_checkpoints::{LaneRow, LaneState, RowState, Skip},
    pauses::Pause,
};
use crate::model::{cursor::Progress, event::Event, handler::Reason, ids::LaneKey};

/// A page that was dispatched and is not committed yet.
#[derive(Clone, Debug)]
struct OpenPage {
    end: Progress,
    /// Whether lanes had events in it.
    has_work: bool,
    /// Whether it had any events.
    has_events: bool,
    /// Whether its events are too old to count as live.
    late: bool,
    /// The number of lanes that have not finished it, and of all lanes that had events in it.
    unfinished: usize,
    lanes: usize,
    /// When the first and the last of its lanes finished. From the first time on, results wait for
    /// a commit.
    finished: Option<(SystemTime, SystemTime)>,
}

/// Memory bounds.
#[derive(Clone, Copy, Debug)]
pub struct InFlightBounds {
    /// Bytes of events queued for one lane with a row. Above this the lane is detached, or
    /// [full](InFlight::full) if lanes are not detached.
    pub lane_bytes: usize,
    /// The same bound in events.
    pub lane_events: usize,
    /// Whether lanes are detached if too much is queued for them. If not, nothing may be dispatched
    /// while one is [full](InFlight::full).
    pub detaches: bool,
    /// Bytes of results in one commit; a single lane's results may exceed it.
    pub commit_bytes: usize,
    /// Bytes of uncommitted results above which no work starts.
    pub uncommitted_bytes: usize,
    /// Lanes that run concurrently.
    pub lanes_at_once: usize,
}

/// Why no further page may be dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull<'a> {
    /// The queue of this lane is full.
    Lane(&'a LaneKey),
    /// The queues of all lanes together are full.
    Total,
}

/// The bound on all queues together, in full lanes, if lanes are not detached: memory must not grow
/// with the number of lanes.
const FULL_QUEUES: usize = 16;

/// The tracker of one processor for one term. `T` is the result of a piece of work.
pub struct InFlight<T> {
    /// The progress in the cursor rows.
    stored: Progress,
    /// The page at whose end the cursor is.
    cursor: PageNumber,
    /// The pages after the cursor; the first is `cursor + 1`.
    open_pages: VecDeque<OpenPage>,
    /// Lanes with something to do or to commit. Open pages, readings and commits bound their
    /// number.
    lanes: BTreeMap<LaneKey, Lane<T>>,
    /// Lanes that are behind and idle; their number is unbounded.
    parked: Parked,
    /// Parked streams.
    streams: StreamTable,
    /// Lanes whose appends were refused.
    refused_appends: RefusedAppends,
    /// Operators' requests about events that were set aside.
    requests: Requests,
    /// Lanes with work to start, in order.
    startable: VecDeque<LaneKey>,
    /// The slots that running lanes occupy, and the lanes that wait for their tenant's share of
    /// them.
    slots: Slots,
    /// Groups of lanes that commit separately, because a commit that included them was rejected.
    /// The last group is next.
    suspects: Vec<BTreeSet<LaneKey>>,
    committing: bool,
    /// Bytes of uncommitted results, including those in the commit under way.
    uncommitted_bytes: usize,
    /// What operators and settings paused; none before the first read.
    pauses: Option<Vec<Pause>>,
    /// The first lane that the last commit had no room for. The next commit begins with it.
    first_of_next_commit: Option<LaneKey>,
    bounds: InFlightBounds,
}

impl<T: Weighted> InFlight<T> {
    /// A tracker that begins with the progress in the database.
    pub fn new(stored: Progress, rows: impl IntoIterator<Item = (LaneKey, LaneRow)>, bounds: InFlightBounds) -> Self {
        let mut parked = Parked::default();
        for (key, row) in rows {
            parked.insert(key, ParkedLane { row, max_events: None });
        }
        InFlight {
            stored,
            cursor: 0,
            open_pages: VecDeque::new(),
            lanes: BTreeMap::new(),
            parked,
            streams: StreamTable::default(),
            refused_appends: RefusedAppends::default(),
            requests: Requests::default(),
            startable: VecDeque::new(),
            slots: Slots::new(bounds.lanes_at_once),
            suspects: Vec::new(),
            committing: false,
            uncommitted_bytes: 0,
            pauses: None,
            first_of_next_commit: None,
            bounds,
        }
    }

    /// The progress in the cursor rows.
    pub fn stored(&self) -> &Progress {
        &self.stored
    }

    /// The progress after the last page dispatched. The next page follows it.
    pub fn tail(&self) -> &Progress {
        self.open_pages.back().map_or(&self.stored, |page| &page.end)
    }

    /// The number of uncommitted pages that had events for lanes.
    pub fn pages_open(&self) -> usize {
        self.open_pages.iter().filter(|page| page.has_work).count()
    }

    /// The progress up to which everything is handled, or belongs to a lane with a row.
    pub fn settled(&self) -> &Progress {
        if self.pages_open() == 0 { self.tail() } else { &self.stored }
    }

    /// Whether the tail is past events that the stored cursor has not passed.
    pub fn passed_events(&self) -> bool {
        self.open_pages.iter().any(|page| page.has_events)
    }

    /// The rows as the database has them. Visits every lane, so it is too slow for the loop.
    pub fn rows(&self) -> impl Iterator<Item = (&LaneKey, &LaneRow)> {
        let active = self.lanes.iter().filter_map(|(key, lane)| Some((key, lane.row.as_ref()?)));
        active.chain(self.parked.iter().map(|(key, lane)| (key, &lane.row)))
    }

    /// The number of lanes with rows, and the number of those that need attention.
    pub fn rows_counted(&self) -> (usize, usize) {
        let active = || self.lanes.values().filter_map(|lane| lane.row.as_ref());
        let waiting = active().filter(|row| row.state.needs_attention()).count();
        (self.parked.len() + active().count(), self.parked.needing_attention() + waiting)
    }

    /// Whether a lane has a row.
    pub fn is_behind(&self, lane: &LaneKey) -> bool {
        self.parked.contains(lane) || self.lanes.get(lane).is_some_and(|lane| lane.row.is_some())
    }

    /// The number of attempts at the next event of an active lane, as its row has it.
    pub fn attempts(&self, lane: &LaneKey) -> u32 {
        self.lanes.get(lane).and_then(|lane| lane.row.as_ref()).map_or(0, |row| row.attempts)
    }

    /// The number of lanes that each step visits.
    pub fn lanes_active(&self) -> usize {
        self.lanes.len()
    }

    /// Whether a lane is running or has work to start.
    pub fn is_busy(&self) -> bool {
        self.lanes.values().any(|lane| !lane.idle() || lane.reading || !lane.done.is_empty())
    }

    /// Whether a lane reads the log itself instead of sharing pages.
    pub fn is_detached(&self, key: &LaneKey) -> bool {
        self.parked.contains(key) || self.lanes.get(key).is_some_and(Lane::detached)
    }

    /// Why nothing more may be dispatched if lanes are not detached. Either the queue of one lane
    /// is full, or all queues together hold as much as a few full ones.
    pub fn full(&self) -> Option<QueueFull<'_>> {
        if self.bounds.detaches {
            return None;
        }
        let full = |(_, lane): &(&LaneKey, &Lane<T>)| lane.queued_bytes >= self.bounds.lane_bytes;
        if let Some((key, _)) = self.lanes.iter().find(full) {
            return Some(QueueFull::Lane(key));
        }
        let total: usize = self.lanes.values().map(|lane| lane.queued_bytes).sum();
        (total >= FULL_QUEUES * self.bounds.lane_bytes).then_some(QueueFull::Total)
    }

    /// The number of detached lanes that have no row yet.
    pub fn rows_pending(&self) -> usize {
        self.lanes.values().filter(|lane| lane.row.is_none() && lane.detached()).count()
    }

    /// Dispatches a page: queues each lane's events in it. A lane with a row and several queued
    /// pages is detached if too much is queued for it, or if `exceeds_share` reports that it
    /// exceeds its share. `late` is whether the events are too old to count as live.
    pub fn dispatch(
        &mut self,
        page: &crate::model::event::Page,
        late: bool,
        lanes: Vec<(LaneKey, Vec<Arc<Event>>)>,
        exceeds_share: impl Fn(&LaneKey) -> bool,
    ) {
        for (key, _) in &lanes {
            self.apply_pause(key);
        }
        let fed: Vec<(LaneKey, Vec<Arc<Event>>)> =
            lanes.into_iter().filter(|(key, _)| !self.is_detached(key)).collect();
        // A page without work is merged with the page before it, unless a commit may take that
        // page.
        let merge = fed.is_empty() && !self.committing && self.open_pages.back().is_some_and(|last| !last.has_work);
        if merge && let Some(last) = self.open_pages.back_mut() {
            last.end = page.to.clone();
            last.has_events |= !page.events.is_empty();
            return;
        }
        let (cursor, number) = (self.cursor, self.last_page() + 1);
        self.open_pages.push_back(OpenPage {
            end: page.to.clone(),
            has_work: !fed.is_empty(),
            has_events: !page.events.is_empty(),
            late,
            unfinished: fed.len(),
            lanes: fed.len(),
            finished: None,
        });
        let difference = page.difference();
        for (key, events) in fed {
            // An unknown lane has missed nothing since the cursor: no page in between had events
            // for it.
            let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(cursor));
            let work = LaneWork {
                page: number,
                difference: difference.clone(),
                end: page.to.clone(),
                events,
                attempts: 0,
                skip: lane.row.as_ref().and_then(|row| row.skip.clone()),
                parked: None,
                conflicts: None,
            };
            lane.push(work);
            // A lane without a row holds only what the open pages brought, which is bounded.
            let holds_several = lane.queue.len() + usize::from(lane.running.is_some()) > 1;
            let too_much = lane.queued_bytes > self.bounds.lane_bytes
                || lane.queued_events() > self.bounds.lane_events
                // Only a lane that runs. Otherwise events that a lane has read itself could be
                // dropped again and again before it handles any.
                || lane.running.is_some() && exceeds_share(&key);
            if self.bounds.detaches && lane.row.is_some() && holds_several && too_much {
                lane.drop_queue();
                lane.feed = Feed::Detached;
                self.park_or_remove(&key);
            } else {
                self.startable.push_back(key);
            }
        }
    }

    /// The first uncommitted page, if its events are too old to count as live: the number of lanes
    /// that have not finished it, and of all lanes that had events in it.
    pub fn late_page(&self) -> Option<(usize, usize)> {
        let first = self.open_pages.iter().find(|page| page.has_work)?;
        first.late.then_some((first.unfinished, first.lanes))
    }

    fn last_page(&self) -> PageNumber {
        self.cursor + self.open_pages.len() as PageNumber
    }

    /// Whether no work starts because too many results wait for their commit.
    fn waits_for_commit(&self) -> bool {
        self.uncommitted_bytes > self.bounds.uncommitted_bytes
    }

    /// The next lane to start, with its work. At most one piece of a lane's work is under way, and
    /// none starts while too many results wait for their commit. Lanes start in the order of their
    /// pages, but a tenant with many lanes takes only its share of the slots. If `throttle` returns
    /// a time and a reason, the lane is left behind until then like one that failed.
    pub fn start(
        &mut self,
        mut throttle: impl FnMut(&LaneKey) -> Option<(SystemTime, Reason)>,
    ) -> Option<(LaneKey, LaneWork)> {
        while !self.waits_for_commit() && !self.slots.are_taken() {
            let key = self.startable.pop_front()?;
            let attaching = |lane: &Lane<T>| matches!(lane.feed, Feed::Attaching { .. });
            let may = |lane: &&mut Lane<T>| lane.running.is_none() && !attaching(lane) && lane.stop.is_none();
            let Some(lane) = self.lanes.get_mut(&key).filter(may).filter(|lane| !lane.queue.is_empty()) else {
                let next = self.slots.next(&key.tenant);
                self.start_first(next);
                continue;
            };
            if !self.slots.admit(&key) {
                continue;
            }
            if let Some((at, reason)) = throttle(&key) {
                let next = lane.queue.front();
                lane.stop = Some(LaneStop {
                    page: self.cursor,
                    state: LaneState::Retrying { at, reason },
                    attempts: next.map_or(0, |next| next.attempts),
                    event_position: next.and_then(|next| next.events.first()).map(|event| event.position),
                    skip: None,
                });
                lane.feed = Feed::Detached;
                lane.drop_queue();
                let next = self.slots.next(&key.tenant);
                self.start_first(next);
                continue;
            }
            let Some(mut work) = lane.queue.pop_front() else { continue };
            lane.queued_bytes -= work.weight();
            lane.running = Some(Running::Page(work.page));
            work.parked = self.streams.latest(&key);
            work.conflicts = self.refused_appends.conflicts(&key);
            self.slots.take(&key);
            return Some((key, work));
        }
        None
    }

    fn start_first(&mut self, lanes: Vec<LaneKey>) {
        for key in lanes.into_iter().rev() {
            self.startable.push_front(key);
        }
    }

    /// Records the end of a lane's work. Returns whether the results are kept. They are dropped if
    /// a commit of the lane's earlier results was rejected in the meantime.
    pub fn finish(&mut self, key: &LaneKey, work: LaneWork, end: RunEnd<T>, now: SystemTime) -> bool {
        let RunEnd { handled, ending, streams, skipped, results } = end;
        let next = self.slots.end(key);
        self.start_first(next);
        let replaced = match &ending {
            Ending::Stopped(LaneState::Blocked(_)) => self.replaced(key),
            _ => None,
        };
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.running = None;
        if std::mem::take(&mut lane.stale) {
            self.park_or_remove(key);
            return false;
        }
        if let Some(end) = work.progress_after(handled) {
            let first = work.events.first().map(|event| event.position);
            self.uncommitted_bytes += results.weight();
            let changes = LaneChanges { streams, skipped, redelivered: None };
            let changes = (skipped || !changes.streams.is_empty()).then(|| Box::new(changes));
            if let Some(changes) = &changes {
                self.streams.finished(key, &changes.streams);
            }
            let (page, end) = (work.page, Some(end));
            lane.done.push_back(FinishedWork { page, end, first, events: handled, results, changes });
        }
        let attempts = match ending {
            Ending::Postponed(_) => attempts::earlier(work.attempts, handled),
            Ending::Stopped(_) | Ending::Handled => attempts::with_this(work.attempts, handled),
        };
        match ending {
            // The log is read again from the first unhandled event.
            Ending::Handled if handled < work.events.len() && lane.detached() => lane.drop_queue(),
            Ending::Handled if handled < work.events.len() => {
                let mut rest = work.clone();
                rest.events.drain(..handled);
                rest.attempts = attempts::earlier(work.attempts, handled);
                lane.queued_bytes += rest.weight();
                lane.queue.push_front(rest);
            }
            Ending::Handled => {}
            Ending::Stopped(state) | Ending::Postponed(state) => {
                lane.stop = Some(LaneStop {
                    page: work.page,
                    // Another processor handles the event now, so nothing needs to be fixed.
                    state: replaced.map_or(state, LaneState::Paused),
                    attempts,
                    event_position: work.events.get(handled).map(|event| event.position),
                    skip: None,
                });
                lane.feed = Feed::Detached;
                lane.drop_queue();
            }
        }
        if !lane.queue.is_empty() {
            self.startable.push_back(key.clone());
        }
        if let Some(page) = self.open_pages.get_mut((work.page.saturating_sub(self.cursor + 1)) as usize)
            && work.page > self.cursor
        {
            let finished = page.finished.get_or_insert((now, now));
            // A lane that has more work on the page does not prolong the wait: it may continue for
            // long.
            if lane.queue.front().is_none_or(|next| next.page > work.page) {
                finished.1 = now;
                page.unfinished = page.unfinished.saturating_sub(1);
            }
        }
        self.park_or_remove(key);
        true
    }

    /// Removes a lane whose progress is that of the cursor, and parks one that is behind and idle.
    /// Every step that may bring a lane into such a state calls this.
    fn park_or_remove(&mut self, key: &LaneKey) {
        let Some(lane) = self.lanes.get(key) else { return };
        let may_continue = |lane: &Lane<T>| lane.row.as_ref().is_some_and(|row| !row.state.needs_attention());
        if lane.is_redundant() {
            self.lanes.remove(key);
        } else if lane.is_parkable() && may_continue(lane) && self.is_paused(key) {
            // The pause is not in its row yet.
            self.apply_pause(key);
        } else if lane.is_parkable()
            && let Some((key, lane)) = self.lanes.remove_entry(key)
            && let Some(mut row) = lane.row
        {
            // Its row may have been written after the pause was lifted.
            if row.state == RowState::Paused && !self.is_paused(&key) {
                row.state = RowState::CatchingUp;
            }
            self.parked.insert(key, ParkedLane { row, max_events: lane.max_events });
        }
    }

    /// Moves a lane from the parked lanes to the active ones.
    fn unpark(&mut self, key: &LaneKey) -> Option<&mut Lane<T>> {
        let ParkedLane { row, max_events } = self.parked.remove(key)?;
        let lane = Lane { row: Some(row), feed: Feed::Detached, max_events, ..Lane::new(0) };
        Some(self.lanes.entry(key.clone()).or_insert(lane))
    }

    /// A lane that could continue now by running, reading or being committed: it has work, waits
    /// for nobody, and its time has come.
    pub fn ready(&self, now: SystemTime) -> Option<LaneKey> {
        let ready = |lane: &Lane<T>| {
            let waits = lane.row.as_ref().is_some_and(|row| !row.state.is_due(now)) && lane.detached();
            lane.stop.is_some() || !lane.idle() || !lane.done.is_empty() || lane.row.is_some() && !waits
        };
        let active = self.lanes.iter().find(|(_, lane)| ready(lane)).map(|(key, _)| key.clone());
        active.or_else(|| self.parked.any_due(now))
    }

    /// Starts nothing more. Queued work stays undone.
    pub fn close(&mut self) {
        self.startable.clear();
        self.slots.forget_waiting();
        self.detach(|lane| !lane.queue.is_empty() || lane.reading);
    }

    /// Detaches lanes that match: drops their queues, so that they read the log themselves.
    fn detach(&mut self, mut which: impl FnMut(&Lane<T>) -> bool) {
        let mut affected = Vec::new();
        for (key, lane) in &mut self.lanes {
            if which(lane) {
                lane.drop_queue();
                lane.feed = Feed::Detached;
                affected.push(key.clone());
            }
        }
        for key in &affected {
            self.park_or_remove(key);
        }
    }
}
