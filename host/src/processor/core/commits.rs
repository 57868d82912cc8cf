//! When a commit begins, and what its outcome means for the next steps. Pure.

use std::time::{Duration, Instant};

use super::{Command, Core, Now, Surroundings};
use crate::{
    model::ids::LaneKey,
    processor::{
        in_flight::{CommitPlan, CommitRejection, LaneConflicts, Patience, Weighted},
        lane_checkpoints::LaneState,
        policy::Verdict,
    },
};

/// How long a commit waits for unfinished lanes at the head of the log. 3 ms: a quick lane rarely
/// waits this long for another, and a longer wait would be noticeable.
const PATIENCE: Patience = Patience { first: Duration::from_millis(3), last: Duration::from_millis(3) };
/// The same while the events are too old to count as live. At most 5 s, and at most 250 ms after
/// the last lane finished: users do not wait for these events, and leaving lanes behind has a cost.
const PATIENCE_LATE: Patience = Patience { first: Duration::from_secs(5), last: Duration::from_millis(250) };
/// The additional time for each lane of a page. 1 ms: a page of thousands of lanes takes a while
/// although none of them is slow.
const PATIENCE_PER_LANE: Duration = Duration::from_millis(1);
/// The same while the term drains or is paused.
const NO_PATIENCE: Patience = Patience { first: Duration::ZERO, last: Duration::ZERO };
/// Maximum time before progress past events that concern no lane is stored. 1 s: a longer time
/// saves writes, but a restart reads more events again.
const STORE_AFTER: Duration = Duration::from_secs(1);
/// The longest time between two plans.
const PLAN_INTERVAL: Duration = Duration::from_millis(250);
/// Plans for each page of very many lanes.
const PLANS_PER_PAGE: usize = 16;

/// The state of the commits.
pub(super) struct Commits {
    /// Whether one is under way.
    pub(super) under_way: bool,
    /// Whether this term has committed anything.
    pub(super) has_committed: bool,
    /// Lanes that have finished since the last plan.
    pub(super) finished: usize,
    /// When the last plan was made.
    planned_at: Instant,
    /// When the tail first moved past events while the stored cursor did not; none if it has not.
    passed_since: Option<Instant>,
}

impl Commits {
    pub(super) fn new(now: Now) -> Self {
        Commits { under_way: false, has_committed: false, finished: 0, planned_at: now.mono, passed_since: None }
    }

    /// Records that the tail has moved past events and the stored cursor has not.
    pub(super) fn passed(&mut self, now: Now) {
        self.passed_since.get_or_insert(now.mono);
    }

    /// How long until progress past events that concern no lane is stored; none if there is none.
    pub(super) fn store_due(&self, now: Now) -> Option<Duration> {
        self.passed_since.map(|since| STORE_AFTER.saturating_sub(now.since(since)))
    }
}

impl<T: Weighted + Default> Core<T> {
    /// The commit to make now, if there is one.
    pub(super) fn start_commit(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        if self.commits.under_way || !self.should_plan(now, host) {
            return None;
        }
        (self.commits.finished, self.commits.planned_at) = (0, now.mono);
        // Nothing more starts while the processor is paused, so a commit waits for no lane.
        let patience = if self.may_start() { self.patience() } else { NO_PATIENCE };
        let store = self.draining.is_some() || self.commits.store_due(now).is_some_and(|due| due.is_zero());
        let plan = self.in_flight.plan(now.wall, patience, store, host.runs_waiting());
        if store && plan.is_none() && self.commits.passed_since.is_some() {
            // A lane holds the cursor, so there is nothing to store yet.
            self.commits.passed_since = Some(now.mono);
        }
        let plan = plan?;
        self.commits.passed_since = None;
        self.commits.under_way = true;
        Some(Command::Commit(plan))
    }

    /// Whether to ask for a plan, which visits every lane. While all slots are taken, this happens
    /// several times for each page, not whenever one of thousands of lanes has finished.
    fn should_plan(&self, now: Now, host: &impl Surroundings) -> bool {
        self.running < self.settings.lanes_at_once
            || host.runs_waiting() >= self.running
            || self.commits.finished * PLANS_PER_PAGE >= self.in_flight.lanes_active()
            || now.since(self.commits.planned_at) >= PLAN_INTERVAL
            || self.in_flight.patience_ends(self.patience()).is_some_and(|end| end <= now.wall)
            || self.in_flight.deferral_ends().is_some_and(|end| end <= now.wall)
    }

    /// How long a commit waits for unfinished lanes in the current state.
    ///
    /// The last pages of a backlog are still being handled when the tail is at the head of the log.
    /// A commit then waits for them as before, unless few lanes would be left behind.
    pub(super) fn patience(&self) -> Patience {
        let late_page = self.in_flight.late_page();
        let many_are_left = late_page.is_some_and(|(unfinished, _)| unfinished > self.settings.lanes_at_once);
        let patience = if self.tail.late || many_are_left {
            let lanes = late_page.map_or(0, |(_, lanes)| u32::try_from(lanes).unwrap_or(u32::MAX));
            Patience { first: PATIENCE_LATE.first + PATIENCE_PER_LANE * lanes, ..PATIENCE_LATE }
        } else {
            PATIENCE
        };
        self.settings.pressure.patience(patience)
    }

    /// Applies the success of a commit.
    pub(super) fn committed(&mut self, plan: CommitPlan<T>, now: Now) {
        self.commit_ended();
        self.commits.has_committed = true;
        for (lane, checkpoint) in plan.checkpoints() {
            if checkpoint.state == LaneState::CatchingUp {
                self.behind_since.entry(lane.clone()).or_insert(now.mono);
            } else {
                self.behind_since.remove(lane);
            }
        }
        for (lane, _) in &plan.rejoined {
            self.behind_since.remove(lane);
        }
        self.in_flight.committed(plan);
        self.lane_reads.due = self.in_flight.next_due();
    }

    /// Applies the rejection of a commit's data: looks for the lane that wrote it, unless it is
    /// known.
    pub(super) fn rejected(
        &mut self,
        plan: CommitPlan<T>,
        known: Option<LaneKey>,
        class: &'static str,
        why: String,
        verdict: Verdict,
    ) {
        self.commit_ended();
        let was_known = known.is_some();
        let rejection = CommitRejection { class, why: &why, sets_aside: verdict == Verdict::SetAside };
        if let Some(lane) = self.in_flight.rejected(plan, known, &rejection) {
            self.queued.push_back(Command::Discard { lane, refused: (!was_known).then_some(why) });
        }
        self.lane_reads.due = self.in_flight.next_due();
    }

    /// Applies the refusal of a commit that appends to busy streams.
    pub(super) fn deferred(&mut self, plan: CommitPlan<T>, lanes: &[LaneKey], now: Now) {
        self.commit_ended();
        self.in_flight.deferred(plan, lanes, now.wall);
    }

    /// Applies the refusal of a commit whose appends conflict with the versions of streams.
    pub(super) fn conflicted(&mut self, plan: CommitPlan<T>, lanes: Vec<LaneConflicts>, now: Now) {
        self.commit_ended();
        for LaneConflicts { lane, .. } in &lanes {
            self.queued.push_back(Command::Discard { lane: lane.clone(), refused: None });
        }
        self.in_flight.conflicted(plan, lanes, now.wall);
        self.lane_reads.due = self.in_flight.next_due();
    }

    fn commit_ended(&mut self) {
        self.commits.under_way = false;
        (self.state_changed, self.lane_reads.search, self.redeliveries.search) = (true, true, true);
    }
}
