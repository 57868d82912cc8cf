//! Commit plans: their choice, and the application of their outcome to the tracker. Pure.
//!
//! A plan takes every finished piece of work up to a page, and inserts, moves or deletes the row of
//! each lane affected. If not everything fits, or a lane must commit alone, lanes take turns. If
//! the database rejects the data, the lanes concerned are bisected until the lane that wrote it
//! (the *culprit*) is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    InFlight, OpenPage, PageNumber, Skip, Weighted,
    lane::{Feed, FinishedWork, Lane, LaneStop, commit_lane, lane_changes},
};
use crate::{
    model::{cursor::Progress, handler::Reason, ids::LaneKey},
    processor::lane_checkpoints::{LaneCheckpoint, LaneRow, LaneState},
};

/// Events that a lane reads at once after a commit of its results was rejected.
const RESTRICTED_EVENTS: usize = 128;

/// Bounds on the time that a commit waits for unfinished lanes. The wait ends at the earlier one.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Time since the first lane finished.
    pub first: Duration,
    /// Time since the last lane finished: while many lanes take turns, none of them is slow.
    pub last: Duration,
}

impl Patience {
    /// When the wait ends, given the times at which the first and the last lane finished.
    fn ends(&self, (first, last): (SystemTime, SystemTime)) -> SystemTime {
        (first + self.first).min(last + self.last)
    }
}

/// The rejection of a commit's data.
#[derive(Clone, Copy, Debug)]
pub struct CommitRejection<'a> {
    /// Its class.
    pub class: &'a str,
    /// Why.
    pub why: &'a str,
    /// Whether an event whose results are rejected alone is set aside. If not, its lane blocks.
    pub sets_aside: bool,
}

/// A commit that is ready to run.
#[derive(Debug)]
pub struct CommitPlan<T> {
    /// The cursor's progress before the commit.
    pub from: Progress,
    /// The cursor's progress after it.
    pub to: Progress,
    /// New rows.
    pub left: Vec<(LaneKey, LaneCheckpoint)>,
    /// Rows that change, with the progress that each has before.
    pub moved: Vec<(LaneKey, Progress, LaneCheckpoint)>,
    /// Rows that are deleted, with the progress that each has before.
    pub rejoined: Vec<(LaneKey, Progress)>,
    /// Results; those of one lane are in order.
    pub results: Vec<(LaneKey, T)>,
    pub(super) page: PageNumber,
    /// The finished work that `results` belong to, in the same order.
    pub(super) taken: Vec<FinishedWork<()>>,
    /// Lanes whose stop is in their row after the commit.
    pub(super) stopped: Vec<LaneKey>,
    /// Whether it takes only the results of one group of suspects.
    pub(super) suspects: bool,
}

impl<T> CommitPlan<T> {
    /// The new and the changed rows.
    pub fn checkpoints(&self) -> impl Iterator<Item = (&LaneKey, &LaneCheckpoint)> {
        let left = self.left.iter().map(|(lane, checkpoint)| (lane, checkpoint));
        left.chain(self.moved.iter().map(|(lane, _, checkpoint)| (lane, checkpoint)))
    }

    /// The number of events that it takes of each of these lanes.
    pub(super) fn events_of<'a>(&self, lanes: impl Iterator<Item = &'a LaneKey>) -> BTreeMap<LaneKey, usize> {
        let mut events: BTreeMap<LaneKey, usize> = lanes.map(|lane| (lane.clone(), 0)).collect();
        for ((key, _), taken) in self.results.iter().zip(&self.taken) {
            if let Some(events) = events.get_mut(key) {
                *events += taken.events;
            }
        }
        events
    }
}

impl<T: Weighted> InFlight<T> {
    /// The commit to make now, if there is one. It takes everything that is finished, once all
    /// lanes have finished or patience has ended. With `store` it also stores progress past events
    /// that concern no lane, which alone do not justify a commit. `runs_waiting` is the number of
    /// running lanes that wait for a commit themselves.
    pub fn plan(
        &mut self,
        now: SystemTime,
        patience: Patience,
        store: bool,
        runs_waiting: usize,
    ) -> Option<CommitPlan<T>> {
        if self.committing {
            return None;
        }
        debug_assert!(
            self.lanes.values().all(|lane| !lane.is_parkable()),
            "an idle lane that is behind must be parked"
        );
        let page = self.page_to_commit(now, patience, runs_waiting);
        let moves_cursor =
            self.pages_up_to(page).any(|dispatched| dispatched.has_work || store && dispatched.has_events);
        let suspects = self.suspects.last().cloned();
        let of_suspects = suspects.is_some();
        let only = suspects.or_else(|| self.choose(page, now));
        let refused = &self.refused_appends;
        let included =
            |key: &LaneKey| only.as_ref().is_none_or(|group| group.contains(key)) && !refused.is_busy(key, now);
        let mut plan = CommitPlan {
            from: self.stored.clone(),
            to: self.end_of(page).clone(),
            left: Vec::new(),
            moved: Vec::new(),
            rejoined: Vec::new(),
            results: Vec::new(),
            page,
            taken: Vec::new(),
            stopped: Vec::new(),
            suspects: of_suspects,
        };
        let changes = |key: &LaneKey, lane: &Lane<T>| lane_changes(lane, page, included(key));
        if !moves_cursor && !self.lanes.iter().any(|(key, lane)| changes(key, lane)) {
            return None;
        }
        for (key, lane) in &mut self.lanes {
            commit_lane(&mut plan, key, lane, included(key));
        }
        self.committing = true;
        Some(plan)
    }

    /// The lanes whose results a commit up to `page` includes; none if it includes all but those
    /// whose streams are busy.
    fn choose(&mut self, page: PageNumber, now: SystemTime) -> Option<BTreeSet<LaneKey>> {
        let weight = |lane: &Lane<T>| -> Option<usize> {
            let weights = lane.done.iter().take_while(|done| done.page <= page).map(|done| done.results.weight());
            weights.reduce(|sum, weight| sum + weight)
        };
        let refused = &self.refused_appends;
        let mut ready: Vec<(&LaneKey, bool, usize)> = self
            .lanes
            .iter()
            .filter(|(key, _)| !refused.is_busy(key, now))
            .filter_map(|(key, lane)| Some((key, lane.max_events.is_some(), weight(lane)?)))
            .collect();
        let busy = ready.iter().filter(|(key, ..)| refused.was_busy(key)).count();
        let divided = busy > 0 && busy < ready.len();
        if divided {
            let of_busy = self.refused_appends.turn_of_busy();
            ready.retain(|(key, ..)| self.refused_appends.was_busy(key) == of_busy);
        }
        let bytes: usize = ready.iter().map(|(.., bytes)| bytes).sum();
        let alone = ready.len() > 1 && ready.iter().any(|(_, restricted, _)| *restricted);
        if bytes <= self.bounds.commit_bytes && !alone || ready.len() < 2 {
            return divided.then(|| ready.iter().map(|(key, ..)| (*key).clone()).collect());
        }
        let first = self.first_of_next_commit.take();
        let first = ready.iter().position(|(key, ..)| Some(*key) >= first.as_ref()).unwrap_or(0);
        let mut chosen = BTreeSet::new();
        let (mut left, mut beyond) = (self.bounds.commit_bytes, None);
        let mut shared = true;
        for (key, restricted, bytes) in ready[first..].iter().chain(&ready[..first]) {
            let fits = chosen.is_empty() || shared && !restricted && *bytes <= left;
            if fits {
                chosen.insert((*key).clone());
                left = left.saturating_sub(*bytes);
                shared &= !restricted;
            } else {
                beyond.get_or_insert_with(|| (*key).clone());
            }
        }
        self.first_of_next_commit = beyond;
        Some(chosen)
    }

    /// When a commit stops waiting for unfinished lanes; none if no results wait for it.
    pub fn patience_ends(&self, patience: Patience) -> Option<SystemTime> {
        // Results of a later page also wait for the lanes of an earlier one.
        let finished = self.open_pages.iter().filter_map(|page| page.finished);
        let all = finished.reduce(|(first, last), (earlier, later)| (first.min(earlier), last.max(later)))?;
        Some(patience.ends(all))
    }

    /// The last page past which a commit may move the cursor.
    fn page_to_commit(&self, now: SystemTime, patience: Patience, runs_waiting: usize) -> PageNumber {
        // A lane holds the cursor before the first page it still works on, unless it has a row or
        // needs one anyway.
        let holds = |lane: &Lane<T>| match lane.first_page() {
            Some(first) if lane.row.is_none() && lane.stop.is_none() && !lane.detached() => first,
            _ => PageNumber::MAX,
        };
        let last = self.last_page();
        let complete = self.lanes.values().map(holds).min().map_or(last, |first| (first - 1).min(last));
        if self.pages_up_to(complete).any(|page| page.has_work) {
            return complete;
        }
        let Some(index) = self.open_pages.iter().position(|page| page.has_work) else { return complete };
        // A commit does not wait for lanes that cannot start or continue before it. Otherwise they
        // would wait for each other forever.
        let running = self.lanes.values().filter(|lane| lane.running.is_some()).count();
        let stuck =
            if running == 0 { self.waits_for_commit() } else { runs_waiting >= running && self.uncommitted_bytes > 0 };
        if !stuck && self.patience_ends(patience).is_none_or(|end| now < end) {
            return complete;
        }
        // Lanes that have not finished this page are left behind; the remaining lanes bound the
        // cursor.
        let slow = self.cursor + index as PageNumber + 1;
        let others = self.lanes.values().map(holds).filter(|first| *first > slow).min();
        others.map_or(last, |first| (first - 1).min(last))
    }

    fn pages_up_to(&self, page: PageNumber) -> impl Iterator<Item = &OpenPage> {
        self.open_pages.iter().take((page - self.cursor) as usize)
    }

    fn end_of(&self, page: PageNumber) -> &Progress {
        match (page - self.cursor) as usize {
            0 => &self.stored,
            n => self.open_pages.get(n - 1).map_or(&self.stored, |dispatched| &dispatched.end),
        }
    }

    /// Records that a plan was committed.
    pub fn committed(&mut self, plan: CommitPlan<T>) {
        self.committing = false;
        self.open_pages.drain(..(plan.page - self.cursor) as usize);
        self.cursor = plan.page;
        self.stored = plan.to;
        self.uncommitted_bytes -= plan.results.iter().map(|(_, results)| results.weight()).sum::<usize>();
        if plan.suspects {
            self.suspects.pop();
        }
        let mut written = Vec::with_capacity(plan.left.len() + plan.moved.len());
        for ((key, _), taken) in plan.results.iter().zip(&plan.taken) {
            if self.refused_appends.committed(key, taken.first)
                && let Some(lane) = self.lanes.get_mut(key)
            {
                lane.max_events = None;
            }
            let Some(changes) = &taken.changes else { continue };
            self.streams.committed(key, &changes.streams);
            if let Some(redelivered) = &changes.redelivered {
                self.redelivery_committed(key, redelivered);
                written.push(key.clone());
            }
        }
        for (key, row) in plan.left.into_iter().chain(plan.moved.into_iter().map(|(key, _, row)| (key, row))) {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.row = Some(LaneRow::from(&row));
                written.push(key);
            }
        }
        for (key, _) in plan.rejoined {
            self.refused_appends.rejoined(&key);
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.row = None;
                lane.max_events = None;
            }
        }
        for key in plan.stopped {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.stop = None;
            }
        }
        self.lanes.retain(|_, lane| {
            lane.in_commit = false;
            !lane.is_redundant()
        });
        for key in &written {
            self.park_or_remove(key);
        }
    }

    /// Records that the database rejected a plan because of its data. Its results are put back, and
    /// the next plans take ever smaller groups of its lanes, until one lane is rejected alone.
    /// `culprit` names the lane if it is known from the start. That lane then reads fewer events at
    /// a time from its row on. When it is rejected with a single event, it blocks, or sets the
    /// event aside. Returns the culprit once it is known.
    pub fn rejected(
        &mut self,
        plan: CommitPlan<T>,
        culprit: Option<LaneKey>,
        rejection: &CommitRejection<'_>,
    ) -> Option<LaneKey> {
        if plan.suspects {
            self.suspects.pop();
        }
        let mut affected: Vec<LaneKey> = plan.results.iter().map(|(key, _)| key.clone()).collect();
        affected.dedup();
        if let Some(culprit) = culprit {
            affected = vec![culprit];
        }
        let events = plan.events_of(affected.iter().take(1)).into_values().next().unwrap_or(0);
        let rejected = self.put_back(plan);
        let culprit = match &affected[..] {
            [] => None,
            [culprit] => {
                self.restrict(culprit, events, rejection);
                Some(culprit.clone())
            }
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                self.suspects.push(second.iter().cloned().collect());
                self.suspects.push(first.iter().cloned().collect());
                None
            }
        };
        for key in rejected.iter().chain(&culprit) {
            self.park_or_remove(key);
        }
        culprit
    }

    /// Puts the results of a plan back, because nothing of it was committed. Returns the lanes that
    /// were part of it.
    pub(super) fn put_back(&mut self, plan: CommitPlan<T>) -> Vec<LaneKey> {
        self.committing = false;
        for ((key, results), taken) in plan.results.into_iter().zip(plan.taken).rev() {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.done.push_front(taken.exchange(results).0);
            }
        }
        let mut affected = Vec::new();
        for (key, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.in_commit) {
            lane.in_commit = false;
            affected.push(key.clone());
        }
        affected
    }

    /// Drops the results of a lane, which reads its events again from its row on. Returns the
    /// position of the first of them, if it is known; none if there is no such lane or its first
    /// results were a redelivery, which ends with this reason.
    pub(super) fn drop_results(&mut self, key: &LaneKey, reason: &Reason) -> Option<Option<i64>> {
        self.refused_appends.dropped(key);
        let lane = self.lanes.get_mut(key)?;
        let first = lane.done.iter().find_map(|done| done.first);
        let dropped: Vec<FinishedWork<T>> = lane.done.drain(..).collect();
        self.uncommitted_bytes -= dropped.iter().map(|done| done.results.weight()).sum::<usize>();
        lane.stop = None;
        lane.drop_queue();
        lane.feed = Feed::Detached;
        lane.stale = lane.running.is_some();
        self.streams.dropped(key);
        let mut is_redelivery = false;
        for (index, done) in dropped.iter().enumerate() {
            let Some(redelivered) = done.redelivered() else { continue };
            is_redelivery |= index == 0;
            self.redelivery_dropped(key, redelivered, (index == 0).then(|| reason.clone()));
        }
        (!is_redelivery).then_some(first)
    }

    /// Makes a lane read again, fewer at a time, after a commit of this many of its events was
    /// rejected.
    fn restrict(&mut self, key: &LaneKey, events: usize, rejection: &CommitRejection<'_>) {
        let reason = Reason::new(rejection.class, rejection.why);
        let Some(first) = self.drop_results(key, &reason) else { return };
        let Some(lane) = self.lanes.get_mut(key) else { return };
        match lane.max_events {
            // A restricted lane may have rejoined the tail already, and so handle more than it
            // would read.
            Some(1) if events <= 1 => {
                let attempts = lane.row.as_ref().map_or(0, |row| row.attempts).saturating_add(1);
                let skip = first.filter(|_| rejection.sets_aside);
                let skip = skip.map(|position| Arc::new(Skip { position, reason: reason.clone() }));
                let state = if skip.is_some() { LaneState::CatchingUp } else { LaneState::Blocked(reason) };
                lane.stop = Some(LaneStop { page: self.cursor, state, attempts, event_position: first, skip });
            }
            Some(n) => lane.max_events = Some((n / 2).max(1)),
            None => lane.max_events = Some(RESTRICTED_EVENTS),
        }
    }
}
