//! The decisions of one term: what to read, run, commit and report next. Pure.
//!
//! The loop in [`super::engine`] passes one [`Input`] at a time to the core, and carries out
//! [`Command`]s until there are none. The core knows what is under way, but owns none of it: it
//! holds no clock, session, guest or `Future`. The time is an argument,
//! and what belongs to the host as a whole is behind [`Surroundings`]. So a test can drive the core
//! through any order of events, and the same inputs lead to the same commands.
//!
//! The core decides timing and numbers: how many pages to read ahead, how many lanes to run, how
//! long a commit waits, when operators' decisions are read. [`InFlight`] decides what a commit may
//! contain.

mod commits;
mod operators;
mod reads;
mod redeliveries;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use commits::Commits;
use operators::Operators;
use reads::{LaneReads, Tail};
use redeliveries::Redeliveries;

use super::{
    ProcessorState,
    gather::GatherResult,
    in_flight::{
        CommitPlan, Ending, InFlight, InFlightBounds, LaneConflicts, LaneReading, LaneWork, Redelivery, RedeliveryEnd,
        Request, RunEnd, StreamMove, Weighted,
    },
    lane::RunStop,
    lane_checkpoints::{LaneRow, LaneState, ResumedLane},
    lockstep::LockstepTurn,
    pauses::Pause,
    policy::Verdict,
    pressure::PressureSettings,
    set_aside::SetAsideState,
};
use crate::{
    consumer::pages::PageScale,
    model::{
        cursor::Progress,
        event::{Event, Page},
        handler::Reason,
        ids::{LaneKey, TenantId},
    },
    scheduler::Class,
};

/// Time without any work under way, although a lane has work, after which the term ends. 10 s: no
/// step takes this long to start.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Maximum time that a draining term waits for calls under way. 5 s: far longer than most calls
/// take, and well below the ten seconds after which `docker stop` kills. Events of dropped calls
/// were not committed, and are handled again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time behind after which a lane exceeds its tenant's share, and is detached.
const MAX_TIME_BEHIND: Duration = Duration::from_secs(1);
/// The tenant's debt, in rounds of the scheduler's ring, from which a lane also exceeds the
/// tenant's share.
const MAX_DEBT: u32 = 64;

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// A clock that never jumps, for durations.
    pub mono: Instant,
    /// The time of day, for times that are stored.
    pub wall: SystemTime,
}

impl Now {
    /// The time since an earlier step.
    fn since(self, earlier: Instant) -> Duration {
        self.mono.saturating_duration_since(earlier)
    }

    /// The time until a time of day; zero if it has passed.
    fn until(self, at: SystemTime) -> Duration {
        at.duration_since(self.wall).unwrap_or_default()
    }
}

/// The progress that a term has made so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermProgress {
    /// It has committed nothing yet, and has work left.
    None,
    /// It has committed something, and has work left.
    Committed,
    /// It has caught up: nothing is under way, unread, uncommitted or due.
    CaughtUp,
}

/// What the core asks of the host around it.
pub trait Surroundings {
    /// How long a tenant must wait before its lanes run, and why; none if they may run now.
    fn throttled(&self, tenant: &TenantId) -> Option<(Duration, Reason)>;

    /// The debt of a tenant's live work, in rounds of the scheduler's ring.
    fn debt(&self, tenant: &TenantId) -> u32;

    /// The number of runs that wait for results of their tenants to be committed.
    fn runs_waiting(&self) -> usize;

    /// Whether tenants' own processors have changed since [`Input::Replacements`].
    fn has_other_replacements(&self) -> bool;

    /// Whether this processor may read now. `settled` is the progress up to which all that it read
    /// is committed; none if something is not.
    fn turn(&self, settled: Option<&Progress>) -> LockstepTurn;

    /// The age at which a term with this progress counts as healthy; none if there is no error to
    /// clear, or if it never is.
    fn healthy_at(&self, progress: &dyn Fn() -> TermProgress) -> Option<Duration>;
}

/// What has happened.
#[derive(Debug)]
pub enum Input<T> {
    /// A page was read, with its events by lane.
    Page(Arc<Page>, Vec<(LaneKey, Vec<Arc<Event>>)>),
    /// Everything up to a progress was shed, with the results of each lane.
    Shed(Progress, Vec<(LaneKey, T)>),
    /// A lane's run has ended.
    Ran {
        /// The lane.
        lane: LaneKey,
        /// Its work.
        work: LaneWork,
        /// Number of events handled, counted from the first.
        handled: usize,
        /// What stopped the lane before the next event.
        stop: Option<RunStop>,
        /// Whether the failure policy stops the whole processor.
        stops_processor: bool,
        /// The parked streams that it changed.
        streams: Vec<StreamMove>,
        /// Whether an event was set aside because the lane's row says so.
        skipped: bool,
        /// Its results, to be committed.
        results: T,
    },
    /// A redelivery has ended.
    Redelivered(LaneKey, Redelivery, RedeliveryEnd<T>),
    /// A lane has read the log. If it shed what it read, the results of that.
    Found(LaneReading, GatherResult, Option<T>),
    /// A commit has succeeded.
    Committed(CommitPlan<T>),
    /// The database, or a check before it, rejected the data of a commit.
    Rejected {
        /// The plan.
        plan: CommitPlan<T>,
        /// The lane that wrote the data, if it is known.
        culprit: Option<LaneKey>,
        /// The class of the reason with which that lane stops.
        class: &'static str,
        /// Why.
        why: String,
        /// What the failure policy says about an event whose results are rejected alone.
        verdict: Verdict,
    },
    /// The event store has refused a commit, because these lanes append to busy streams.
    Deferred {
        /// The plan.
        plan: CommitPlan<T>,
        /// The lanes.
        lanes: Vec<LaneKey>,
    },
    /// The event store has refused a commit, because appends conflict with the versions of streams.
    Conflicted {
        /// The plan.
        plan: CommitPlan<T>,
        /// The lanes, with their conflicts.
        lanes: Vec<LaneConflicts>,
    },
    /// Operators' decisions were read.
    Decisions {
        /// All pauses.
        pauses: Vec<Pause>,
        /// Pauses of settings and of tenants' own processors.
        of_tenants: Vec<Pause>,
        /// The number of changes of tenants' own processors that `of_tenants` includes.
        replaced: u64,
        /// Lanes that were resumed.
        resumed: Vec<ResumedLane>,
        /// Requests about events that were set aside.
        requests: Vec<Request>,
        /// Whether more remains to be read.
        more: bool,
    },
    /// The pauses of settings and of tenants' own processors were read, as in `Decisions`.
    Replacements {
        /// See `Decisions`.
        of_tenants: Vec<Pause>,
        /// See `Decisions`.
        replaced: u64,
    },
    /// The log may have more events.
    Wake,
    /// Operators may have decided something.
    DecisionsChanged,
    /// The term is asked to drain: to finish what is under way, and to start nothing more.
    Drain,
    /// Nothing but time has passed.
    Tick,
}

/// What to do next. The first five start work whose outcome arrives later as an input. The others
/// are done before the next command.
#[derive(Debug)]
pub enum Command<T> {
    /// Read the page after a progress.
    ReadPage {
        /// The progress.
        after: Progress,
        /// The size of the page.
        scale: PageScale,
        /// Whether to check first if there is so much that it must be shed.
        may_shed: bool,
    },
    /// Run a lane.
    Run(LaneKey, LaneWork, Class),
    /// Handle set-aside events of a lane again, or discard them.
    Redeliver(LaneKey, Redelivery, Class),
    /// Read the log for a lane.
    ReadLane(LaneReading),
    /// Commit.
    Commit(CommitPlan<T>),
    /// Read operators' decisions now, and pass them on as an input.
    ReadDecisions,
    /// Pause the processor, as its failure policy asks, and then read operators' decisions.
    Pause,
    /// Read the pauses of settings and of tenants' own processors, and pass them on as an input.
    ReadReplacements,
    /// Drop the documents that a lane has staged: its results will not be committed.
    Unstage(LaneKey),
    /// The same for a lane whose results were rejected: the guest must forget them too.
    Discard {
        /// The lane.
        lane: LaneKey,
        /// Why the database rejected its results; none if it was known before the commit.
        refused: Option<String>,
    },
    /// Drop the reads that are under way.
    StopReading,
    /// Drop all runs, which did not end in time.
    DropRuns,
    /// Record why nothing is read; an empty text clears the record.
    RecordWait(String),
    /// Clear the record of the error that ended the last term.
    ClearError,
    /// End the term with an error: a lane does not move, for no known reason.
    EndTerm(LaneKey),
    /// Everything under way is committed, and the term was asked to drain.
    Done,
}

/// The settings of a term.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// Maximum number of events that a lane reads at once.
    pub page_events: usize,
    /// Pages that are read and not yet committed.
    pub pages_ahead: usize,
    /// Lanes that run concurrently.
    pub lanes_at_once: usize,
    /// The strategy for lanes that cannot keep up.
    pub pressure: PressureSettings,
}

/// The next thing to decide. Each input begins again with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Replacements,
    Redeliveries,
    Runs,
    Page,
    LaneRead,
    Commit,
    Clock,
    Nothing,
}

/// The state of a term. `T` is the result of a piece of work.
pub struct Core<T> {
    settings: CoreSettings,
    began: Instant,
    in_flight: InFlight<T>,
    tail: Tail,
    lane_reads: LaneReads,
    redeliveries: Redeliveries,
    commits: Commits,
    operators: Operators,
    /// Number of runs under way.
    running: usize,
    /// When each lane that is behind and moves fell behind.
    behind_since: BTreeMap<LaneKey, Instant>,
    /// When the term was asked to drain.
    draining: Option<Instant>,
    /// Since when nothing is under way.
    still_since: Option<Instant>,
    /// Whether the state for observers has changed since it was taken.
    state_changed: bool,
    /// Commands that follow from the last input.
    queued: VecDeque<Command<T>>,
    step: Step,
}

impl<T: Weighted + Default> Core<T> {
    /// The core of a term that begins with this progress and these lanes in the database.
    pub fn new(
        stored: Progress,
        rows: impl IntoIterator<Item = (LaneKey, LaneRow)>,
        bounds: InFlightBounds,
        settings: CoreSettings,
        now: Now,
    ) -> Self {
        Core {
            in_flight: InFlight::new(stored, rows, settings.pressure.bounds(bounds)),
            settings,
            began: now.mono,
            tail: Tail::new(),
            lane_reads: LaneReads::new(),
            redeliveries: Redeliveries::default(),
            commits: Commits::new(now),
            operators: Operators::new(),
            running: 0,
            behind_since: BTreeMap::new(),
            draining: None,
            still_since: None,
            state_changed: true,
            queued: VecDeque::new(),
            step: Step::Replacements,
        }
    }

    /// The same core with what was set aside before the term.
    pub fn with_set_aside(mut self, SetAsideState { streams, requests, .. }: SetAsideState) -> Self {
        for (lane, stream, place) in streams {
            self.in_flight.insert_stream(lane, stream, place);
        }
        self.requested(requests);
        self
    }

    /// Applies an input.
    pub fn on(&mut self, input: Input<T>, now: Now, host: &impl Surroundings) {
        self.step = Step::Replacements;
        match input {
            Input::Page(page, lanes) => self.page_read(&page, lanes, now, host),
            Input::Shed(to, shed) => self.jumped(to, shed, now),
            Input::Ran { lane, work, handled, stop, stops_processor, streams, skipped, results } => {
                let ending = ending(stop, now);
                let is_kept = self.ran(&lane, work, RunEnd { handled, ending, streams, skipped, results }, now);
                self.operators.pause_requested |= is_kept && stops_processor;
            }
            Input::Redelivered(lane, redelivery, end) => self.redelivered(lane, redelivery, end, now),
            Input::Found(reading, result, shed) => {
                (self.lane_reads.under_way, self.lane_reads.search) = (false, true);
                self.in_flight.finish_reading(&reading, result, shed);
            }
            Input::Committed(plan) => self.committed(plan, now),
            Input::Rejected { plan, culprit, class, why, verdict } => {
                self.rejected(plan, culprit, class, why, verdict);
            }
            Input::Deferred { plan, lanes } => self.deferred(plan, &lanes, now),
            Input::Conflicted { plan, lanes } => self.conflicted(plan, lanes, now),
            Input::Decisions { pauses, of_tenants, replaced, resumed, requests, more } => {
                self.requested(requests);
                self.decided(pauses, of_tenants, replaced, resumed, more, now);
            }
            Input::Replacements { of_tenants, replaced } => self.replaced(of_tenants, replaced),
            Input::Wake => self.tail.more_to_read = true,
            Input::DecisionsChanged => self.operators.changed = true,
            Input::Drain => {
                self.draining = Some(now.mono);
                self.in_flight.close();
                (self.tail.under_way, self.lane_reads.under_way) = (false, false);
                self.queued.push_back(Command::StopReading);
            }
            Input::Tick => {}
        }
    }

    /// The next command. None means: wait for an input, and send [`Input::Tick`] when the time of
    /// [`Core::timer`] has passed.
    pub fn next(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        if let Some(command) = self.queued.pop_front() {
            return Some(command);
        }
        loop {
            // A step that may have more to do is taken again, the others once for each input.
            let (command, next) = match self.step {
                Step::Replacements => (self.read_pauses(host), Step::Redeliveries),
                Step::Redeliveries => match self.start_redelivery(now, host) {
                    Some(redelivery) => (Some(redelivery), Step::Redeliveries),
                    None => (None, Step::Runs),
                },
                Step::Runs => match self.start_run(now, host) {
                    Some(run) => (Some(run), Step::Runs),
                    None => (None, Step::Page),
                },
                Step::Page => (self.start_page(now, host), Step::LaneRead),
                Step::LaneRead => (self.start_lane_read(now, host), Step::Commit),
                Step::Commit => (self.start_commit(now, host), Step::Clock),
                Step::Clock => match self.due_by_the_clock(now, host) {
                    Some(end @ (Command::Done | Command::EndTerm(_))) => (Some(end), Step::Nothing),
                    // It may take a while, in which other work may have become due.
                    Some(command) => (Some(command), Step::Replacements),
                    None => (None, Step::Nothing),
                },
                Step::Nothing => return None,
            };
            self.step = next;
            if command.is_some() {
                return command;
            }
        }
    }

    /// The next lane with work, if a slot is free.
    fn start_run(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        // No run may start for a tenant whose own processor is starting.
        if !self.may_start() || host.has_other_replacements() {
            return None;
        }
        let (lane, work) = self.in_flight.start(|lane| {
            let (wait, reason) = host.throttled(&lane.tenant)?;
            Some((now.wall + wait, reason))
        })?;
        self.running += 1;
        let class = self.class(&lane);
        Some(Command::Run(lane, work, class))
    }

    /// Applies the end of a run. The results wait for their commit. Returns whether they are kept.
    fn ran(&mut self, lane: &LaneKey, work: LaneWork, end: RunEnd<T>, now: Now) -> bool {
        self.running -= 1;
        self.commits.finished += 1;
        // A lane whose earlier results were rejected while it ran is ready only now.
        self.lane_reads.search |= self.in_flight.is_behind(lane);
        self.redeliveries.search = true;
        let is_kept = self.in_flight.finish(lane, work, end, now.wall);
        if !is_kept {
            // The lane reads these events again, and must not see their results.
            self.queued.push_back(Command::Unstage(lane.clone()));
        }
        is_kept
    }

    /// What is due by the clock alone, or ends the term.
    fn due_by_the_clock(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        if let Some(lane) = self.stands_still(now, host) {
            return Some(Command::EndTerm(lane));
        }
        if self.draining.is_some() && self.running == 0 && !self.commits.under_way {
            self.tail.wait.note(None, now.mono);
            let is_due = self.tail.wait.due(now.mono).is_some();
            return Some(if is_due { Command::RecordWait(self.tail.wait.report()) } else { Command::Done });
        }
        if self.drain_time_left(now).is_some_and(|left| left.is_zero()) {
            self.running = 0;
            return Some(Command::DropRuns);
        }
        if self.commits.under_way {
            return None;
        }
        let is_zero = |due: Option<Duration>| due.is_some_and(|due| due.is_zero());
        if is_zero(self.tail.wait.due(now.mono)) {
            return Some(Command::RecordWait(self.tail.wait.report()));
        }
        if is_zero(self.healthy_in(now, host)) {
            return Some(Command::ClearError);
        }
        is_zero(self.operators.due(now)).then_some(Command::ReadDecisions)
    }

    /// A lane that has work although nothing is under way and no reason is known. That is a bug;
    /// the next term starts from the state of the database.
    fn stands_still(&mut self, now: Now, host: &impl Surroundings) -> Option<LaneKey> {
        // A paused processor may stand still, and no timer should wake it to check.
        if self.is_busy() || self.in_flight.paused().is_some() {
            self.still_since = None;
            return None;
        }
        if now.since(*self.still_since.get_or_insert(now.mono)) < STANDSTILL {
            return None;
        }
        self.still_since = None;
        // A lane that is due waits for its tenant's rates.
        self.in_flight.ready(now.wall).filter(|lane| host.throttled(&lane.tenant).is_none())
    }

    /// The time until the next step that is due by the clock alone.
    pub fn timer(&self, now: Now, host: &impl Surroundings) -> Option<Duration> {
        let left = |since: Instant, all: Duration| all.saturating_sub(now.since(since));
        let reads = !self.lane_reads.under_way && self.may_start();
        let due = self.lane_reads.due.filter(|_| reads).map(|at| now.until(at));
        let redelivery = self.redeliveries.due.filter(|_| self.may_start()).map(|at| now.until(at));
        let still = self.still_since.map(|since| left(since, STANDSTILL));
        let always = [due, redelivery, still, self.drain_time_left(now)];
        // Steps that cannot run during a commit are left out until it has ended.
        let between = || {
            let commit = self.in_flight.patience_ends(self.patience()).map(|at| now.until(at));
            let deferral = self.in_flight.deferral_ends().map(|at| now.until(at));
            let (store, decisions) = (self.commits.store_due(now), self.operators.due(now));
            [commit, deferral, store, decisions, self.tail.wait.due(now.mono), self.healthy_in(now, host)]
        };
        let between = (!self.commits.under_way).then(between).into_iter().flatten();
        always.into_iter().chain(between).flatten().min().map(|wait| wait.max(Duration::from_millis(1)))
    }

    /// How long until this term counts as healthy, if its progress stays as it is; none if there is
    /// no error to clear.
    fn healthy_in(&self, now: Now, host: &impl Surroundings) -> Option<Duration> {
        host.healthy_at(&|| self.progress(now)).map(|age| age.saturating_sub(now.since(self.began)))
    }

    /// The progress that this term has made.
    fn progress(&self, now: Now) -> TermProgress {
        // Progress past events that concern no lane is stored late, so one commit covers the next.
        let uncommitted =
            || self.in_flight.pages_open() > 0 || self.in_flight.passed_events() && !self.commits.has_committed;
        let has_work =
            self.is_busy() || self.tail.more_to_read || uncommitted() || self.in_flight.ready(now.wall).is_some();
        match (has_work, self.commits.has_committed) {
            (false, _) => TermProgress::CaughtUp,
            (true, true) => TermProgress::Committed,
            (true, false) => TermProgress::None,
        }
    }

    /// How long the draining term still waits for calls under way.
    fn drain_time_left(&self, now: Now) -> Option<Duration> {
        let since = self.draining.filter(|_| self.running > 0)?;
        Some(DRAIN_TIMEOUT.saturating_sub(now.since(since)))
    }

    /// Whether a lane runs, or a page, a lane's reading or a commit is under way.
    fn is_busy(&self) -> bool {
        self.running > 0 || self.tail.under_way || self.lane_reads.under_way || self.commits.under_way
    }

    /// Whether anything may start besides a commit.
    fn may_start(&self) -> bool {
        self.draining.is_none() && self.in_flight.paused().is_none()
    }

    /// The scheduling class of a lane: live at the head of the log, where results are awaited.
    pub fn class(&self, lane: &LaneKey) -> Class {
        if self.tail.late || self.in_flight.is_detached(lane) { Class::CatchUp } else { Class::Live }
    }

    /// The number of attempts at the next event of a lane, as its row has it.
    pub fn attempts(&self, lane: &LaneKey) -> u32 {
        self.in_flight.attempts(lane)
    }

    /// Whether the term was asked to drain.
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether the whole processor is paused.
    pub fn is_paused(&self) -> bool {
        self.in_flight.paused().is_some()
    }

    /// Whether [`Input::Wake`] would change anything.
    pub fn waits_for_events(&self) -> bool {
        !self.tail.more_to_read
    }

    /// Whether [`Input::DecisionsChanged`] would change anything.
    pub fn waits_for_decisions(&self) -> bool {
        !self.operators.changed
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.commits.under_way
    }

    /// The progress in the database.
    pub fn stored(&self) -> &Progress {
        self.in_flight.stored()
    }

    /// The state for observers, if it has changed since the last call.
    pub fn take_state(&mut self) -> Option<ProcessorState> {
        if !std::mem::take(&mut self.state_changed) {
            return None;
        }
        let (rows, need_attention) = self.in_flight.rows_counted();
        Some(ProcessorState {
            seen: Some(self.in_flight.settled().seen().clone()),
            lanes_moving: rows - need_attention + self.in_flight.rows_pending() + self.in_flight.lanes_requested(),
            lanes_needing_attention: need_attention,
            paused: self.in_flight.paused().cloned(),
            replaced: self.operators.replaced,
        })
    }
}

/// The end of a piece of work, from what stopped its run.
fn ending(stop: Option<RunStop>, now: Now) -> Ending {
    match stop {
        None => Ending::Handled,
        Some(RunStop::Block(reason)) => Ending::Stopped(LaneState::Blocked(reason)),
        Some(RunStop::Retry { after, counts, reason }) => {
            let state = LaneState::Retrying { at: now.wall + after, reason };
            if counts { Ending::Stopped(state) } else { Ending::Postponed(state) }
        }
    }
}
