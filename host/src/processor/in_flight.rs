//! Which lane has handled what, and what a commit may say about it: pure.
//!
//! Pages are dispatched to lanes as they are read; lanes finish when they finish; commits take what is finished. The tracker keeps the three
//! together so that, whatever the order, after every commit each lane is covered exactly once: by the cursor, or by its checkpoint
//! row. It knows no clock, no database and no guest. The loop in [`super::engine`] carries out what it says, and a property test runs it against
//! a model of the log and the database, with crashes at every step.
//!
//! The rules, which everything here follows from:
//!
//! - Pages are numbered as they are dispatched. The cursor stands at the end of one of them. A finished piece of work may be committed only
//!   with the cursor at or behind its page: a lane is never ahead of the cursor in the database, since after a crash the tail may come
//!   another way.
//! - A lane without a row is covered by the cursor. A commit that moves the cursor over a page which such a lane has not finished gives
//!   it a row, with the progress it has. It stays *attached*: its work goes on, its effects ride in a later commit, which moves or deletes the row.
//! - A lane that fails, waits or holds too much is *detached*: its memory is dropped, and it reads the log from its row on.
//! - What one commit takes is bounded in bytes; lanes beyond that take their turn in the next. A lane that broke a commit which it shared
//!   goes alone until it has caught up.
//! - A detached lane comes back by reading up to the last page that was dispatched while later pages are kept for it. Its row is deleted by the commit
//!   that brings the cursor at least that far.
//! - A lane that is behind and has nothing to do is [parked](parked): it costs memory for its row and no time, whatever happens to others.

mod lane;
mod parked;
mod plan;

mod shed;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use lane::{Done, Feed, Lane, Stop};
use parked::{Parked, ParkedLane};
pub use plan::{Patience, Plan};
use slots::Slots;

use super::{
    gather::{Found, Gather},
    lane_checkpoints::{LaneRow, LaneState, RowState},
    pauses::Pause,
};
use crate::{
    model::{
        cursor::{Difference, Progress},
        event::Event,
        handler::Reason,
        ids::{LaneKey, TenantId},
    },
    tenants::replacements::REPLACED,
};

/// The number of a page, in the order in which they are dispatched.
pub type PageNumber = u64;

/// Events of one lane, to be handled in order.
#[derive(Clone, Debug)]
pub struct Work {
    /// The page with which it may be committed.
    pub page: PageNumber,
    /// The difference that the events are part of.
    pub difference: Difference,
    /// Where the lane stands after all of them.
    pub end: Progress,
    /// By position; at least one.
    pub events: Vec<Arc<Event>>,
    /// How often the first was tried before.
    pub attempts: u32,
}

impl Work {
    /// Where the lane stands after the first `handled` of them, if any.
    fn progress_after(&self, handled: usize) -> Option<Progress> {
        match handled {
            0 => None,
            n if n == self.events.len() => Some(self.end.clone()),
            n => Some(self.difference.handled_up_to(self.events[n - 1].position)),
        }
    }

    fn weight(&self) -> usize {
        self.events.iter().map(|event| event.weight()).sum()
    }
}

/// How a piece of work ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// As far as it was handled it is done; what remains goes on later.
    Handled,
    /// The lane stops before the next event.
    Stopped(LaneState),
}

/// A page that was dispatched and not yet committed.
#[derive(Clone, Debug)]
struct OpenPage {
    end: Progress,
    /// Whether lanes had events in it.
    worth: bool,
    /// Whether it had events at all.
    events: bool,
    /// When the first of its lanes finished, from when on somebody waits, and the last one.
    finished: Option<(SystemTime, SystemTime)>,
}

/// What work leads to.
pub trait Results {
    /// Bytes that it holds until it is committed; none where it is the default.
    fn weight(&self) -> usize;
}

/// What may be held.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of events queued for one lane that was left behind, above which it is detached, or is full where none is.
    pub lane_bytes: usize,
    /// The same in events.
    pub lane_events: usize,
    /// Whether lanes are detached for holding too much. Where not, nothing may be dispatched while one is [full](InFlight::full).
    pub detaches: bool,
    /// Bytes of results in one commit, unless one lane's alone are more.
    pub commit_bytes: usize,
    /// Bytes of results that wait for their commit, above which nothing is started.
    pub waiting_bytes: usize,
    /// Lanes that run at once.
    pub lanes_at_once: usize,
}

/// Who holds too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full<'a> {
    /// This lane alone.
    Lane(&'a LaneKey),
    /// Many together.
    Together,
}

/// Where no lane is detached for what it holds, all together hold what so many full ones would: memory must not grow with the number of lanes.
const FULL_LANES: usize = 16;

/// The tracker of one processor during one term. `T` is what work leads to.
pub struct InFlight<T> {
    /// What the cursor rows say.
    stored: Progress,
    /// The page at whose end the cursor stands.
    cursor: PageNumber,
    /// The pages behind it, the first of which is `cursor + 1`.
    open_pages: VecDeque<OpenPage>,
    /// Lanes that do something, or of which the database is to learn something: no more than open pages, readings and commits concern.
    lanes: BTreeMap<LaneKey, Lane<T>>,
    /// Lanes that are behind and do nothing: as many as there are.
    parked: Parked,
    /// Lanes with work to start, in order.
    startable: VecDeque<LaneKey>,
    /// Where those run that did, and others wait whose tenant has its part of it.
    slots: Slots,
    /// Groups of lanes that commit apart from all others, as a commit with them was refused; the last one first.
    suspects: Vec<BTreeSet<LaneKey>>,
    committing: bool,
    /// Bytes of results that are not committed, those of the commit under way among them.
    waiting: usize,
    /// What people told to wait; none before they were asked.
    pauses: Option<Vec<Pause>>,
    /// The first lane that the last commit had no room for: the next one begins with it.
    next_committed: Option<LaneKey>,
    bounds: Bounds,
}

/// What a lane that reads for itself must read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Which.
    pub lane: LaneKey,
    /// Where it stands.
    pub from: Progress,
    /// What the cursor says: a reading that ends at or before this may be committed at any time.
    pub stored: Progress,
    /// The end of the last page dispatched: a reading that gets so far lets the lane come back.
    pub tail: Progress,
    /// At most so many events.
    pub limit: usize,
    /// And about so many bytes of them.
    pub bytes: usize,
    /// How often the first event was tried.
    pub attempts: u32,
    page: PageNumber,
    cursor: PageNumber,
}

impl Reading {
    /// The reading itself.
    pub fn gather(&self) -> Gather {
        Gather::new(&self.from, &self.stored, &self.tail, self.limit, self.bytes)
    }

    /// A reading of everything up to the last page dispatched, for whoever keeps none of it.
    pub fn gather_all(&self) -> Gather {
        Gather::new(&self.from, &self.stored, &self.tail, usize::MAX, usize::MAX)
    }
}

impl<T: Results> InFlight<T> {
    /// The tracker that begins where the database says.
    pub fn new(stored: Progress, rows: impl IntoIterator<Item = (LaneKey, LaneRow)>, bounds: Bounds) -> Self {
        let mut parked = Parked::default();
        for (key, row) in rows {
            parked.insert(key, ParkedLane { row, careful: None });
        }
        InFlight {
            stored,
            cursor: 0,
            open_pages: VecDeque::new(),
            lanes: BTreeMap::new(),
            parked,
            startable: VecDeque::new(),
            slots: Slots::new(bounds.lanes_at_once),
            suspects: Vec::new(),
            committing: false,
            waiting: 0,
            pauses: None,
            next_committed: None,
            bounds,
        }
    }

    /// What the cursor rows say.
    pub fn stored(&self) -> &Progress {
        &self.stored
    }

    /// The progress after the last page that was dispatched: what is read next follows it.
    pub fn tail(&self) -> &Progress {
        self.open_pages.back().map_or(&self.stored, |page| &page.end)
    }

    /// Pages dispatched and not committed that had events for lanes.
    pub fn pages_open(&self) -> usize {
        self.open_pages.iter().filter(|page| page.worth).count()
    }

    /// Up to where everything is handled, or belongs to a lane with a row.
    pub fn settled(&self) -> &Progress {
        if self.pages_open() == 0 { self.tail() } else { &self.stored }
    }

    /// Whether events were passed over that the database does not know of yet.
    pub fn passed_events(&self) -> bool {
        self.open_pages.iter().any(|page| page.events)
    }

    /// The rows, as the database has them. Walks over every lane: not to be asked while it works.
    pub fn rows(&self) -> impl Iterator<Item = (&LaneKey, &LaneRow)> {
        let active = self.lanes.iter().filter_map(|(key, lane)| Some((key, lane.row.as_ref()?)));
        active.chain(self.parked.iter().map(|(key, lane)| (key, &lane.row)))
    }

    /// How many lanes have rows, and how many of those wait for a person.
    pub fn rows_counted(&self) -> (usize, usize) {
        let active = || self.lanes.values().filter_map(|lane| lane.row.as_ref());
        let waiting = active().filter(|row| row.state.needs_person()).count();
        (self.parked.len() + active().count(), self.parked.needing_person() + waiting)
    }

    /// Whether a lane has a row.
    pub fn is_behind(&self, lane: &LaneKey) -> bool {
        self.parked.contains(lane) || self.lanes.get(lane).is_some_and(|lane| lane.row.is_some())
    }

    /// Lanes that the tracker walks over: those that have something to do, to commit or to learn.
    pub fn lanes_active(&self) -> usize {
        self.lanes.len()
    }

    /// Whether a lane is running or has work to start.
    pub fn is_busy(&self) -> bool {
        self.lanes.values().any(|lane| !lane.idle() || lane.reading || !lane.done.is_empty())
    }

    /// Whether a lane reads the log for itself, as it is behind those that share pages.
    pub fn is_detached(&self, key: &LaneKey) -> bool {
        self.parked.contains(key) || self.lanes.get(key).is_some_and(Lane::detached)
    }

    /// Why nothing more may be dispatched where no lane is detached for it: a lane whose queue is at its bound, or that many of them hold
    /// as much together as a few full ones would.
    pub fn full(&self) -> Option<Full<'_>> {
        if self.bounds.detaches {
            return None;
        }
        let full = |(_, lane): &(&LaneKey, &Lane<T>)| lane.queued_bytes >= self.bounds.lane_bytes;
        if let Some((key, _)) = self.lanes.iter().find(full) {
            return Some(Full::Lane(key));
        }
        let together: usize = self.lanes.values().map(|lane| lane.queued_bytes).sum();
        (together >= FULL_LANES * self.bounds.lane_bytes).then_some(Full::Together)
    }

    /// Lanes that the database does not know yet to be behind.
    pub fn rows_to_come(&self) -> usize {
        self.lanes.values().filter(|lane| lane.row.is_none() && lane.detached()).count()
    }

    /// Deals a page: each lane's events in it. A lane that was left behind and holds several pages is detached if it holds too much, or if `over` says
    /// that it has asked for too much.
    pub fn dispatch(
        &mut self,
        page: &crate::model::event::Page,
        lanes: Vec<(LaneKey, Vec<Arc<Event>>)>,
        over: impl Fn(&LaneKey) -> bool,
    ) {
        for (key, _) in &lanes {
            self.hold_if_paused(key);
        }
        let fed: Vec<(LaneKey, Vec<Arc<Event>>)> =
            lanes.into_iter().filter(|(key, _)| !self.is_detached(key)).collect();
        // Pages without work are one with the page before them, as long as nobody has committed that.
        let merge = fed.is_empty() && !self.committing && self.open_pages.back().is_some_and(|last| !last.worth);
        if merge && let Some(last) = self.open_pages.back_mut() {
            last.end = page.to.clone();
            last.events |= !page.events.is_empty();
            return;
        }
        let (cursor, number) = (self.cursor, self.last_page() + 1);
        self.open_pages.push_back(OpenPage {
            end: page.to.clone(),
            worth: !fed.is_empty(),
            events: !page.events.is_empty(),
            finished: None,
        });
        let difference = page.difference();
        for (key, events) in fed {
            // Of a lane that is not known nothing is missing behind the cursor: no page in between concerned it.
            let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(cursor));
            let work = Work { page: number, difference: difference.clone(), end: page.to.clone(), events, attempts: 0 };
            lane.push(work);
            // A lane without a row holds nothing but what the open pages brought, and those are bounded.
            let holds_several = lane.queue.len() + usize::from(lane.running.is_some()) > 1;
            let too_much = lane.queued_bytes > self.bounds.lane_bytes
                || lane.queued_events() > self.bounds.lane_events
                // Only one that runs: what another has read for itself would be dropped before it leads to anything, again and again.
                || lane.running.is_some() && over(&key);
            if self.bounds.detaches && lane.row.is_some() && holds_several && too_much {
                lane.drop_queue();
                lane.feed = Feed::Detached;
                self.settle(&key);
            } else {
                self.startable.push_back(key);
            }
        }
    }

    fn last_page(&self) -> PageNumber {
        self.cursor + self.open_pages.len() as PageNumber
    }

    /// Whether nothing begins because too much waits for its commit.
    fn waits_for_commit(&self) -> bool {
        self.waiting > self.bounds.waiting_bytes
    }

    /// The next lane to start and its work: at most one piece of a lane is under way, and none begins while too much waits for its commit. Lanes start
    /// in the order of their pages, except that those of a tenant with many wait for each other. A lane that is not to start now, and until when it
    /// waits and why, is what `held` says; it is left behind like one that failed for a while.
    pub fn start(&mut self, mut held: impl FnMut(&LaneKey) -> Option<(SystemTime, Reason)>) -> Option<(LaneKey, Work)> {
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
            if let Some((at, reason)) = held(&key) {
                let next = lane.queue.front();
                lane.stop = Some(Stop {
                    page: self.cursor,
                    state: LaneState::Retrying { at, reason },
                    attempts: next.map_or(0, |next| next.attempts),
                    event_position: next.and_then(|next| next.events.first()).map(|event| event.position),
                });
                lane.feed = Feed::Detached;
                lane.drop_queue();
                let next = self.slots.next(&key.tenant);
                self.start_first(next);
                continue;
            }
            let Some(work) = lane.queue.pop_front() else { continue };
            lane.queued_bytes -= work.weight();
            lane.running = Some(work.page);
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

    /// Takes note of how a lane's work ended after `handled` of its events. Says whether it counts: not if the lane lost its ground meanwhile.
    pub fn finish(
        &mut self,
        key: &LaneKey,
        work: Work,
        handled: usize,
        results: T,
        ending: Ending,
        now: SystemTime,
    ) -> bool {
        let next = self.slots.end(key);
        self.start_first(next);
        let replaced = match &ending {
            Ending::Stopped(LaneState::Blocked(_)) => self.replaced(key),
            _ => None,
        };
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.running = None;
        if std::mem::take(&mut lane.stale) {
            self.settle(key);
            return false;
        }
        if let Some(end) = work.progress_after(handled) {
            let first = work.events.first().map(|event| event.position);
            self.waiting += results.weight();
            lane.done.push_back(Done { page: work.page, end, first, events: handled, results });
        }
        match ending {
            // What remains of a detached lane's work is read from the log again, and all that follows it.
            Ending::Handled if handled < work.events.len() && lane.detached() => lane.drop_queue(),
            Ending::Handled if handled < work.events.len() => {
                let mut rest = work.clone();
                rest.events.drain(..handled);
                rest.attempts = 0;
                lane.queued_bytes += rest.weight();
                lane.queue.push_front(rest);
            }
            Ending::Handled => {}
            Ending::Stopped(state) => {
                lane.stop = Some(Stop {
                    page: work.page,
                    // Another processor handles the event now, so nobody need mend anything.
                    state: replaced.map_or(state, LaneState::Paused),
                    attempts: if handled == 0 { work.attempts.saturating_add(1) } else { 1 },
                    event_position: work.events.get(handled).map(|event| event.position),
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
            // One that goes on is no sign that many take their turns: it may do so for long.
            if lane.queue.front().is_none_or(|next| next.page > work.page) {
                finished.1 = now;
            }
        }
        self.settle(key);
        true
    }

    /// Forgets a lane of which nothing is known, and parks one that is behind and has nothing to do. To be called for each lane that may have become so.
    fn settle(&mut self, key: &LaneKey) {
        let Some(lane) = self.lanes.get(key) else { return };
        let may_go_on = |lane: &Lane<T>| lane.row.as_ref().is_some_and(|row| !row.state.needs_person());
        if lane.is_plain() {
            self.lanes.remove(key);
        } else if lane.has_nothing_to_do() && may_go_on(lane) && self.is_told_to_wait(key) {
            // Its row does not say so yet.
            self.hold_if_paused(key);
        } else if lane.has_nothing_to_do()
            && let Some((key, lane)) = self.lanes.remove_entry(key)
            && let Some(mut row) = lane.row
        {
            // Its row may have been written after a person let it go on.
            if row.state == RowState::Paused && !self.is_told_to_wait(&key) {
                row.state = RowState::CatchingUp;
            }
            self.parked.insert(key, ParkedLane { row, careful: lane.careful });
        }
    }

    /// Takes a lane out of those that do nothing.
    fn unpark(&mut self, key: &LaneKey) -> Option<&mut Lane<T>> {
        let ParkedLane { row, careful } = self.parked.remove(key)?;
        let lane = Lane { row: Some(row), feed: Feed::Detached, careful, ..Lane::new(0) };
        Some(self.lanes.entry(key.clone()).or_insert(lane))
    }

    /// A lane that should read the log for itself now, at most so many events, if any is due whose tenant is not `held`: what it read would only be dropped.
    pub fn next_reading(
        &mut self,
        now: SystemTime,
        limit: usize,
        held: impl FnMut(&TenantId) -> bool,
    ) -> Option<Reading> {
        let (page, cursor, bytes) = (self.last_page(), self.cursor, self.bounds.lane_bytes);
        let (stored, tail) = (self.stored.clone(), self.tail().clone());
        let key = self.parked.next(now, held)?;
        let lane = self.unpark(&key)?;
        lane.reading = true;
        lane.feed = Feed::Attaching { since: page };
        let row = lane.row.as_ref()?;
        let limit = lane.careful.unwrap_or(limit);
        Some(Reading {
            lane: key,
            from: row.progress.clone(),
            stored,
            tail,
            limit,
            bytes,
            attempts: row.attempts,
            page,
            cursor,
        })
    }

    /// When the next lane that waits is due; none if none waits for a time.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.parked.next_due()
    }

    /// A lane that could go on now, by running, reading or being committed, if nothing but this tracker decided: one that has work, waits for nobody, and
    /// for no time that has not come.
    pub fn ready(&self, now: SystemTime) -> Option<LaneKey> {
        let ready = |lane: &Lane<T>| {
            let waits = lane.row.as_ref().is_some_and(|row| !row.state.is_due(now)) && lane.detached();
            lane.stop.is_some() || !lane.idle() || !lane.done.is_empty() || lane.row.is_some() && !waits
        };
        let active = self.lanes.iter().find(|(_, lane)| ready(lane)).map(|(key, _)| key.clone());
        active.or_else(|| self.parked.any_due(now))
    }

    /// Takes note of what a lane read for itself; or that it `shed` everything up to the last page that was dispatched, where it has found no pieces.
    pub fn found(&mut self, reading: &Reading, found: Found, shed: Option<T>)
    where
        T: Default,
    {
        let Some(lane) = self.lanes.get_mut(&reading.lane) else { return };
        lane.reading = false;
        if lane.stop.is_some() || lane.row.as_ref().is_some_and(|row| row.state.needs_person()) {
            // It was told to wait meanwhile, and perhaps its row says so already.
            lane.feed = Feed::Detached;
            lane.drop_queue();
            self.settle(&reading.lane);
            return;
        }
        let attached = matches!(lane.feed, Feed::Attaching { .. });
        if attached && found.complete {
            lane.feed = Feed::Attached { since: reading.page };
        } else {
            lane.feed = Feed::Detached;
            lane.drop_queue();
            if found.complete {
                // It held too much meanwhile; what it read beyond the cursor may not be committed without the rest. It reads again.
                self.settle(&reading.lane);
                return;
            }
        }
        let page = if found.complete { reading.page } else { reading.cursor };
        if let Some(results) = shed.filter(|_| found.complete) {
            self.waiting += results.weight();
            lane.done.push_back(Done { page, end: reading.tail.clone(), first: None, events: 0, results });
        }
        if found.pieces.is_empty() && !found.complete {
            lane.done.push_back(Done { page, end: found.end, first: None, events: 0, results: T::default() });
        }
        for (index, (events, difference, end)) in found.pieces.into_iter().enumerate().rev() {
            let attempts = if index == 0 { reading.attempts } else { 0 };
            let work = Work { page, difference, end, events, attempts };
            lane.queued_bytes += work.weight();
            lane.queue.push_front(work);
        }
        self.startable.push_back(reading.lane.clone());
        self.settle(&reading.lane);
    }

    /// Takes note of what people, or the settings, told to wait. What is under way ends as it would; nothing more is started. A lane that waits although
    /// nobody tells it to any more goes on: its row may have been written after a person decided so. Lanes that do nothing are looked at only where
    /// something has changed.
    pub fn pause(&mut self, pauses: Vec<Pause>) {
        let news = self.pauses.as_ref() != Some(&pauses);
        let mut concerned: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        self.pauses = Some(pauses);
        for key in &concerned {
            let told = self.is_told_to_wait(key);
            let Some(lane) = self.lanes.get_mut(key).filter(|_| !told) else { continue };
            lane.stop.take_if(|stop| matches!(stop.state, LaneState::Paused(_)));
            if let Some(row) = lane.row.as_mut().filter(|row| row.state == RowState::Paused) {
                row.state = RowState::CatchingUp;
            }
        }
        if news {
            let waits = |row: &LaneRow| row.state == RowState::Paused;
            let differs = |key: &LaneKey, row: &LaneRow| self.is_told_to_wait(key) != waits(row);
            let parked =
                self.parked.iter().filter(|(key, lane)| lane.row.state != RowState::Blocked && differs(key, &lane.row));
            let differing: Vec<(LaneKey, bool)> = parked.map(|(key, lane)| (key.clone(), waits(&lane.row))).collect();
            for (key, waited) in differing {
                if waited {
                    self.parked.resume(&key);
                } else {
                    concerned.push(key);
                }
            }
        }
        for key in &concerned {
            self.hold_if_paused(key);
            self.settle(key);
        }
    }

    /// Why everything waits, if it was told to.
    pub fn paused(&self) -> Option<&Reason> {
        self.pauses().find(|pause| pause.is_whole()).map(|pause| &pause.reason)
    }

    fn pauses(&self) -> impl Iterator<Item = &Pause> {
        self.pauses.iter().flatten()
    }

    /// Whether a lane was told to wait, and not only with everything.
    fn is_told_to_wait(&self, key: &LaneKey) -> bool {
        self.pauses().any(|pause| !pause.is_whole() && pause.concerns(key))
    }

    /// Why a lane waits, if its tenant's own processor replaces this one.
    fn replaced(&self, key: &LaneKey) -> Option<Reason> {
        let replacement = self.pauses().find(|pause| pause.reason.class == REPLACED && pause.concerns(key));
        replacement.map(|pause| pause.reason.clone())
    }

    /// Makes a lane wait that was told to: it is left behind, with the pause as its reason.
    fn hold_if_paused(&mut self, key: &LaneKey) {
        let Some(pause) = self.pauses().find(|pause| !pause.is_whole() && pause.concerns(key)) else { return };
        let (cursor, reason) = (self.cursor, pause.reason.clone());
        if self.parked.get(key).is_some_and(|lane| lane.row.state.needs_person()) {
            return;
        }
        self.unpark(key);
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(cursor));
        let waits = |state: &LaneState| matches!(state, LaneState::Blocked(_) | LaneState::Paused(_));
        if lane.stop.as_ref().is_some_and(|stop| waits(&stop.state))
            || lane.row.as_ref().is_some_and(|row| row.state.needs_person())
        {
            return;
        }
        lane.stop = Some(Stop {
            page: cursor,
            state: LaneState::Paused(reason),
            attempts: lane.row.as_ref().map_or(0, |row| row.attempts),
            event_position: None,
        });
        lane.feed = Feed::Detached;
        lane.drop_queue();
    }

    /// Lets a lane that waits go on, as a person or a new version decided; not while it is told to wait.
    pub fn resume(&mut self, key: &LaneKey) {
        self.parked.resume(key);
        if let Some(row) = self.lanes.get_mut(key).and_then(|lane| lane.row.as_mut()) {
            row.state = RowState::CatchingUp;
        }
        self.hold_if_paused(key);
    }

    /// Starts nothing more: what is queued stays undone.
    pub fn close(&mut self) {
        self.startable.clear();
        self.slots.forget_waiting();
        self.detach(|lane| !lane.queue.is_empty() || lane.reading);
    }

    /// Drops what lanes have in their queues: they read for themselves.
    fn detach(&mut self, mut which: impl FnMut(&Lane<T>) -> bool) {
        let mut concerned = Vec::new();
        for (key, lane) in &mut self.lanes {
            if which(lane) {
                lane.drop_queue();
                lane.feed = Feed::Detached;
                concerned.push(key.clone());
            }
        }
        for key in &concerned {
            self.settle(key);
        }
    }
}
