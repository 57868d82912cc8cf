//! Redelivery: events that were set aside are handled again, or discarded, at an operator's
//! request. Pure.
//!
//! A redelivery is a piece of a lane's work that does not come from the log's tail: the events of
//! dead letters, or the waiting events of a parked stream. It runs while the lane runs nothing
//! else, before what is queued for the lane, and leaves the lane's progress as it is. A lane has
//! one redelivery at a time, until it is committed. No commit takes results of a redelivery
//! together with other results of its lane, so that a rejected commit shows which of them is to
//! blame.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    InFlight, Weighted,
    lane::{FinishedWork, Lane, LaneChanges, Running},
    parked_streams::StreamPlace,
    request::{FinishedRedelivery, Redelivered, Redelivery, RedeliveryEnd, Request, RequestAction, SetAside},
};
use crate::model::{
    handler::Reason,
    ids::{LaneKey, TenantId},
};

/// Maximum number of dead letters that one redelivery handles again.
const LETTERS_AT_ONCE: usize = 100;
/// Maximum number of dead letters that one redelivery discards.
const DISCARDED_AT_ONCE: usize = 1_000;
/// Redeliveries under way at once, so that they leave most slots and sessions to the tail.
const AT_ONCE: usize = 4;

/// The requests about one lane.
#[derive(Clone, Debug, Default)]
struct LaneRequests {
    pending: BTreeMap<SetAside, Pending>,
    /// Whether a redelivery runs or waits for its commit.
    under_way: bool,
    /// Maximum number of events of a redelivery, after a commit of more was rejected.
    most: Option<usize>,
    /// The time before which none of them is due; none if that is not known.
    not_before: Option<SystemTime>,
}

#[derive(Clone, Debug)]
struct Pending {
    action: RequestAction,
    attempts: u32,
    /// The time before which it is not attempted again.
    not_before: Option<SystemTime>,
    refused: Option<Reason>,
}

/// All requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    lanes: BTreeMap<LaneKey, LaneRequests>,
    /// Lanes whose redelivery runs.
    running: usize,
    /// The lane whose turn was last.
    last: Option<LaneKey>,
}

impl Requests {
    fn lane(&mut self, key: &LaneKey) -> Option<&mut LaneRequests> {
        self.lanes.get_mut(key)
    }

    fn ended(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            (lane.under_way, lane.not_before) = (false, None);
            if lane.pending.is_empty() {
                self.lanes.remove(key);
            }
        }
    }
}

impl LaneRequests {
    /// The next redelivery of at most `most_events` events, if one is due.
    fn next(
        &self,
        now: SystemTime,
        place: impl Fn(&str) -> Option<StreamPlace>,
        most_events: usize,
    ) -> Option<Redelivery> {
        let due = |pending: &Pending| pending.not_before.is_none_or(|at| at <= now);
        let (subject, first) = self.pending.iter().find(|(_, pending)| due(pending))?;
        let Pending { action, attempts, refused, .. } = first.clone();
        let subject = match subject {
            SetAside::Stream(stream) => {
                // A stream that is gone has no waiting events.
                let place = place(stream).unwrap_or(StreamPlace { next: 1, last: 0, events: 0 });
                Redelivered::Stream(stream.clone(), place, self.most.unwrap_or(most_events).min(most_events))
            }
            SetAside::Letter(position) => {
                let most = match action {
                    RequestAction::Retry => self.most.unwrap_or(LETTERS_AT_ONCE).min(LETTERS_AT_ONCE),
                    RequestAction::Discard | RequestAction::DiscardAll => DISCARDED_AT_ONCE,
                };
                let with_first = |pending: &&Pending| {
                    pending.action == action && pending.attempts == 0 && pending.refused.is_none() && due(pending)
                };
                let alone = attempts > 0 || refused.is_some();
                let later = self.pending.range((Bound::Excluded(SetAside::Letter(*position)), Bound::Unbounded));
                let later = later.take_while(|(_, pending)| !alone && with_first(pending));
                let later = later.filter_map(|(subject, _)| match subject {
                    SetAside::Letter(position) => Some(*position),
                    SetAside::Stream(_) => None,
                });
                Redelivered::Letters(std::iter::once(*position).chain(later).take(most).collect())
            }
        };
        Some(Redelivery { subject, action, attempts, refused })
    }

    /// When the next postponed redelivery is due.
    fn next_due(&self) -> Option<SystemTime> {
        self.pending.values().filter_map(|pending| pending.not_before).min()
    }
}

impl<T: Weighted> InFlight<T> {
    /// Adds a parked stream that the database has.
    pub fn insert_stream(&mut self, lane: LaneKey, stream: Arc<str>, place: StreamPlace) {
        self.streams.insert(lane, stream, place);
    }

    /// Adds an operator's request. A request about the same subject is replaced, unless its
    /// redelivery is under way.
    pub fn request(&mut self, Request { lane, subject, action }: Request) {
        let lane = self.requests.lanes.entry(lane).or_default();
        if !lane.under_way || !lane.pending.contains_key(&subject) {
            lane.not_before = None;
            lane.pending.insert(subject, Pending { action, attempts: 0, not_before: None, refused: None });
        }
    }

    /// Whether an operator's request is not answered yet.
    pub fn has_requests(&self) -> bool {
        !self.requests.lanes.is_empty()
    }

    /// The number of lanes with unanswered requests, except for those that are paused.
    pub fn lanes_requested(&self) -> usize {
        self.requests.lanes.keys().filter(|key| !self.is_paused(key)).count()
    }

    /// Starts the next redelivery of at most `most_events` events, if one is due and its lane runs
    /// nothing. Otherwise returns when to ask again, unless something else changes first.
    pub fn start_redelivery(
        &mut self,
        now: SystemTime,
        most_events: usize,
        mut is_throttled: impl FnMut(&TenantId) -> Option<Duration>,
    ) -> Result<(LaneKey, Redelivery), Option<SystemTime>> {
        if !self.has_requests() || self.requests.running >= AT_ONCE || self.waits_for_commit() || self.slots.are_taken()
        {
            return Err(None);
        }
        // Lanes take turns.
        let last = self.requests.last.as_ref();
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.requests.lanes.range::<LaneKey, _>((after, Bound::Unbounded));
        let earlier = last.into_iter().flat_map(|last| self.requests.lanes.range::<LaneKey, _>(..=last));
        let (mut next_due, mut found) = (None, None);
        let mut idle = Vec::new();
        for (key, requests) in later.chain(earlier) {
            if let Some(at) = requests.not_before.filter(|at| *at > now) {
                next_due = next_due.into_iter().chain([at]).min();
                continue;
            }
            let is_free =
                self.lanes.get(key).is_none_or(|lane| lane.running.is_none() && lane.stop.is_none() && !lane.stale);
            if requests.under_way || !is_free || self.is_paused(key) || !self.slots.has_room_for(key) {
                continue;
            }
            if let Some(wait) = is_throttled(&key.tenant) {
                next_due = next_due.into_iter().chain([now + wait]).min();
                continue;
            }
            let streams = self.streams.latest(key);
            let place = |stream: &str| streams.as_ref()?.get(stream).copied();
            match requests.next(now, place, most_events) {
                Some(redelivery) => {
                    found = Some((key.clone(), redelivery));
                    break;
                }
                None => {
                    let due = requests.next_due();
                    next_due = next_due.into_iter().chain(due).min();
                    idle.push((key.clone(), due));
                }
            }
        }
        for (key, due) in idle {
            if let Some(requests) = self.requests.lane(&key) {
                requests.not_before = due;
            }
        }
        let (key, redelivery) = found.ok_or(next_due)?;
        if let Some(requests) = self.requests.lane(&key) {
            requests.under_way = true;
        }
        self.requests.running += 1;
        self.requests.last = Some(key.clone());
        self.unpark(&key);
        let cursor = self.cursor;
        // An unknown lane has missed nothing since the cursor.
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(cursor));
        lane.running = Some(Running::Redelivery);
        self.slots.take(&key);
        Ok((key, redelivery))
    }

    /// Records the end of a redelivery. Returns whether its results are kept.
    pub fn finish_redelivery(
        &mut self,
        key: &LaneKey,
        redelivery: Redelivery,
        end: RedeliveryEnd<T>,
        now: SystemTime,
    ) -> bool {
        self.requests.running -= 1;
        let next = self.slots.end(key);
        self.start_first(next);
        let RedeliveryEnd { handled, is_answered, again, streams, results } = end;
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.running = None;
        if !lane.queue.is_empty() {
            self.startable.push_back(key.clone());
        }
        let is_kept = !std::mem::take(&mut lane.stale);
        if is_kept && let Some((after, counts)) = again {
            let next = match &redelivery.subject {
                Redelivered::Letters(positions) => positions.get(handled).map(|position| SetAside::Letter(*position)),
                Redelivered::Stream(stream, ..) => Some(SetAside::Stream(stream.clone())),
            };
            let pending = next.and_then(|next| self.requests.lane(key)?.pending.get_mut(&next));
            if let Some(pending) = pending {
                let earlier = if handled == 0 { pending.attempts } else { 0 };
                pending.attempts = earlier.saturating_add(counts.into());
                pending.not_before = Some(now + after);
            }
        }
        if handled > 0
            && again.is_none()
            && let Redelivered::Stream(stream, ..) = &redelivery.subject
            && let Some(pending) =
                self.requests.lane(key).and_then(|lane| lane.pending.get_mut(&SetAside::Stream(stream.clone())))
        {
            // The next event was not attempted before.
            pending.attempts = 0;
        }
        let has_results = handled > 0 || is_answered || !streams.is_empty();
        if is_kept
            && has_results
            && let Some(lane) = self.lanes.get_mut(key)
        {
            self.streams.finished(key, &streams);
            self.uncommitted_bytes += results.weight();
            // A commit takes the results of a lane in order.
            let page = lane.done.back().map_or(self.cursor, |done| done.page.max(self.cursor));
            let redelivered = Some(FinishedRedelivery { redelivery, handled, is_answered });
            let changes = Some(Box::new(LaneChanges { streams, skipped: false, redelivered }));
            lane.done.push_back(FinishedWork { page, end: None, first: None, events: handled, results, changes });
        } else {
            self.requests.ended(key);
        }
        self.park_or_remove(key);
        is_kept
    }

    /// Records that a redelivery is committed.
    pub(super) fn redelivery_committed(&mut self, key: &LaneKey, finished: &FinishedRedelivery) {
        let FinishedRedelivery { redelivery, handled, is_answered } = finished;
        if let Some(requests) = self.requests.lane(key) {
            match &redelivery.subject {
                Redelivered::Letters(positions) => {
                    for position in &positions[..(*handled).min(positions.len())] {
                        requests.pending.remove(&SetAside::Letter(*position));
                    }
                }
                Redelivered::Stream(stream, ..) if *is_answered => {
                    requests.pending.remove(&SetAside::Stream(stream.clone()));
                }
                Redelivered::Stream(..) => {}
            }
            if requests.pending.is_empty() {
                requests.most = None;
            }
        }
        self.requests.ended(key);
    }

    /// Records that the results of a redelivery are dropped because a commit was rejected. If its
    /// own results were `rejected`, fewer events are handled again at a time, and one that was
    /// rejected alone stays set aside.
    pub(super) fn redelivery_dropped(
        &mut self,
        key: &LaneKey,
        finished: &FinishedRedelivery,
        rejected: Option<Reason>,
    ) {
        let FinishedRedelivery { redelivery, handled, .. } = finished;
        if let Some(reason) = rejected
            && let Some(requests) = self.requests.lane(key)
        {
            if *handled > 1 {
                requests.most = Some((handled / 2).max(1));
            } else {
                let subject = match &redelivery.subject {
                    Redelivered::Letters(positions) => positions.first().map(|position| SetAside::Letter(*position)),
                    Redelivered::Stream(stream, ..) => Some(SetAside::Stream(stream.clone())),
                };
                if let Some(pending) = subject.and_then(|subject| requests.pending.get_mut(&subject)) {
                    pending.refused = Some(reason);
                }
            }
        }
        self.requests.ended(key);
    }
}
