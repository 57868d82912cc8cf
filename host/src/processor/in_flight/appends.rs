//! Commits that the event store refused because of the streams that they append to. Pure.
//!
//! A lane that appends to a *busy* stream keeps its results and commits them later, together with
//! other such lanes, so that it delays no other lane. Meanwhile it is detached, so that it holds
//! the results of one run only. A lane whose append *conflicts* with the stream's version drops its
//! results and handles its events again, one at a time, and its handler receives the conflict.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{CommitPlan, InFlight, LaneStop, Skip, Weighted, lane::Feed};
use crate::{
    model::{handler::Reason, ids::LaneKey, reaction::AppendConflict},
    processor::{lane_checkpoints::LaneState, policy::Verdict},
};

/// The first delay of a lane whose stream is busy. 5 ms: most transactions that append are shorter.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay. 250 ms: an application that holds a stream for minutes costs four attempts a
/// second.
const LONGEST_DELAY: Duration = Duration::from_millis(250);

/// The appends of a lane that conflicted.
#[derive(Clone, Debug)]
pub struct LaneConflicts {
    /// The lane.
    pub lane: LaneKey,
    /// The conflicts.
    pub conflicts: Vec<AppendConflict>,
    /// Why the lane waits, if it does.
    pub reason: Reason,
    /// The policy's verdict if the event conflicts although it was handled alone, and with the
    /// knowledge of a conflict a moment ago.
    pub verdict: Verdict,
}

/// Refused appends.
#[derive(Debug, Default)]
pub(super) struct RefusedAppends {
    /// Lanes whose streams are busy.
    busy: BTreeMap<LaneKey, BusyLane>,
    /// Lanes that handle their events again because of conflicts.
    conflicting: BTreeMap<LaneKey, ConflictingLane>,
    /// Whether the last commit was one of lanes whose streams were busy.
    last_was_of_busy: bool,
}

/// A lane whose results wait because a stream is busy.
#[derive(Clone, Copy, Debug)]
struct BusyLane {
    until: SystemTime,
    delay: Duration,
}

/// The known conflicts of a lane.
#[derive(Clone, Debug, Default)]
struct ConflictingLane {
    conflicts: Arc<[AppendConflict]>,
    /// Whether the lane retries without a delay, so that its knowledge is recent.
    is_recent: bool,
}

impl ConflictingLane {
    fn knows(&self, cause: Option<i64>) -> bool {
        self.conflicts.iter().any(|known| Some(known.cause) == cause)
    }

    /// Adds conflicts, which replace earlier ones of the same causes.
    fn learn(&mut self, found: Vec<AppendConflict>) {
        let is_new = |known: &&AppendConflict| found.iter().all(|conflict| conflict.cause != known.cause);
        let kept: Vec<AppendConflict> = self.conflicts.iter().filter(is_new).cloned().collect();
        self.conflicts = kept.into_iter().chain(found).collect();
    }
}

impl RefusedAppends {
    /// Whether a lane's results wait for a busy stream.
    pub(super) fn is_busy(&self, key: &LaneKey, now: SystemTime) -> bool {
        self.busy.get(key).is_some_and(|busy| now < busy.until)
    }

    /// Whether the stream of a lane was busy when it last tried to commit.
    pub(super) fn was_busy(&self, key: &LaneKey) -> bool {
        self.busy.contains_key(key)
    }

    /// Whether the next commit is for lanes whose streams were busy, given that other lanes are
    /// ready too. They take turns.
    pub(super) fn turn_of_busy(&mut self) -> bool {
        self.last_was_of_busy = !self.last_was_of_busy;
        self.last_was_of_busy
    }

    /// The conflicts of a lane.
    pub(super) fn conflicts(&self, key: &LaneKey) -> Option<Arc<[AppendConflict]>> {
        self.conflicting.get(key).map(|lane| lane.conflicts.clone())
    }

    fn defer(&mut self, key: &LaneKey, now: SystemTime) {
        let delay = self.busy.get(key).map_or(FIRST_DELAY, |busy| (busy.delay * 2).min(LONGEST_DELAY));
        self.busy.insert(key.clone(), BusyLane { until: now + delay, delay });
    }

    /// Records that results of a lane were committed, the first of which is for the event at this
    /// position. Returns whether that resolves the last of the lane's conflicts.
    pub(super) fn committed(&mut self, key: &LaneKey, first: Option<i64>) -> bool {
        self.busy.remove(key);
        let Some(known) = self.conflicting.get_mut(key) else { return false };
        known.conflicts = known.conflicts.iter().filter(|known| Some(known.cause) != first).cloned().collect();
        known.conflicts.is_empty() && self.conflicting.remove(key).is_some()
    }

    /// Forgets the conflicts of a lane, which the cursor covers.
    pub(super) fn rejoined(&mut self, key: &LaneKey) {
        self.conflicting.remove(key);
    }

    /// Forgets that results of a lane wait, because they were dropped.
    pub(super) fn dropped(&mut self, key: &LaneKey) {
        self.busy.remove(key);
    }
}

impl<T: Weighted> InFlight<T> {
    /// When the next lane whose stream was busy may commit; none if there is none.
    pub fn deferral_ends(&self) -> Option<SystemTime> {
        self.refused_appends.busy.values().map(|busy| busy.until).min()
    }

    /// Records that nothing of a plan was committed, because these lanes append to busy streams.
    /// They are left out of the next plans for a while.
    pub fn deferred(&mut self, plan: CommitPlan<T>, lanes: &[LaneKey], now: SystemTime) {
        self.release_suspects(&plan, lanes);
        let affected = self.put_back(plan);
        for key in lanes {
            self.refused_appends.defer(key, now);
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.drop_queue();
                lane.feed = Feed::Detached;
            }
        }
        for key in &affected {
            self.park_or_remove(key);
        }
    }

    /// Records that nothing of a plan was committed, because appends of these lanes conflict with
    /// the versions of their streams. The lanes drop their results and handle their events again,
    /// one at a time.
    ///
    /// Knowledge of a stream's version is worth little after a delay. So the policy is asked only
    /// about a conflict of an attempt that followed another conflict without a delay.
    pub fn conflicted(&mut self, plan: CommitPlan<T>, lanes: Vec<LaneConflicts>, now: SystemTime) {
        let events: BTreeMap<LaneKey, usize> = plan.events_of(lanes.iter().map(|one| &one.lane));
        let keys: Vec<LaneKey> = lanes.iter().map(|one| one.lane.clone()).collect();
        self.release_suspects(&plan, &keys);
        let mut affected = self.put_back(plan);
        for LaneConflicts { lane: key, conflicts, reason, verdict } in lanes {
            let Some(first) = self.drop_results(&key, &reason) else { continue };
            let cursor = self.cursor;
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let was_alone = lane.max_events == Some(1) && events.get(&key).is_some_and(|events| *events <= 1);
            lane.max_events = Some(1);
            let known = self.refused_appends.conflicting.entry(key.clone()).or_default();
            let had_its_chance = was_alone && known.knows(first) && known.is_recent;
            known.is_recent = !had_its_chance;
            known.learn(conflicts);
            if had_its_chance {
                let attempts = lane.row.as_ref().map_or(0, |row| row.attempts).saturating_add(1);
                let (state, skip) = match verdict {
                    Verdict::Again { after, .. } => (LaneState::Retrying { at: now + after, reason }, None),
                    Verdict::SetAside => {
                        let skip = first.map(|position| Arc::new(Skip { position, reason: reason.clone() }));
                        (LaneState::CatchingUp, skip)
                    }
                    Verdict::Park | Verdict::Stop | Verdict::StopProcessor => (LaneState::Blocked(reason), None),
                };
                lane.stop = Some(LaneStop { page: cursor, state, attempts, event_position: first, skip });
            }
            affected.push(key);
        }
        for key in &affected {
            self.park_or_remove(key);
        }
    }

    /// Takes lanes out of the group of suspects that a refused plan was made for. They commit
    /// later, and the others of the group must not wait for them.
    fn release_suspects(&mut self, plan: &CommitPlan<T>, lanes: &[LaneKey]) {
        if !plan.suspects {
            return;
        }
        if let Some(group) = self.suspects.last_mut() {
            group.retain(|key| !lanes.contains(key));
        }
        self.suspects.pop_if(|group| group.is_empty());
    }
}
