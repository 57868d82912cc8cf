//! The event loop of one term: carries out the decisions of [`InFlight`].
//!
//! Four kinds of work run concurrently: the read of a page, the runs of lanes, the reading of the
//! log for a lane that is behind, and a commit. When one of them ends, the loop passes its outcome
//! to the tracker and asks it what to start next. The loop itself decides only timing and numbers:
//! how many pages to read ahead, how many lanes to run at once, how long a commit waits. It owns
//! all work under way, and drops it when the term ends.

mod commits;
mod read;
mod report;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::OptionFuture, stream::FuturesUnordered};
use lru::LruCache;
use tokio::sync::watch;

use commits::CommitResult;

use super::{
    Config, ProcessorState,
    commit::{Committer, DeadLetter},
    decisions::Decisions,
    in_flight::{self, Ending, InFlight, InFlightBounds, LaneWork, Patience},
    lane::{Outcome, RunStop, Runner, TermEnded},
    lane_checkpoints::{self, LaneState},
    lockstep::{LockstepMember, LockstepTurn},
    pauses::{self, Pause},
    pressure::{self, ReadWait, WaitReport},
    report::Reporter,
    retry,
    shed::{Shed, ShedRange},
    term::Term,
    term_errors::{TermErrors, TermProgress},
};
use crate::{
    consumer::{
        pages::{PageScale, Reader, SourceError},
        router::Router,
        wake::Wakeups,
    },
    failpoint,
    model::{
        cursor::Progress,
        event::Page,
        handler::BoxFuture,
        ids::{LaneKey, ProcessorId, TenantId},
    },
    projections::documents::{Changes, ReadError, TermDocuments},
    scheduler::{Class, UncommittedBytes},
    supervisor::Stop,
    tenants::{Tenants, rates::Cost, replacements::Replacements},
};
use read::{ReadAhead, ReadingResult};

/// How long a commit waits for unfinished lanes at the head of the log. 3 ms: a quick lane rarely
/// waits this long for another, and a longer wait would be noticeable.
const PATIENCE: Patience = Patience { first: Duration::from_millis(3), last: Duration::from_millis(3) };
/// The same while the processor is behind. At most 5 s, and at most 250 ms after the last lane
/// finished: users do not wait for these events, and leaving lanes behind has a cost. A page of
/// thousands of lanes takes a while although none of them is slow.
const PATIENCE_BEHIND: Patience = Patience { first: Duration::from_secs(5), last: Duration::from_millis(250) };
/// The same while the term drains or is paused.
const NO_PATIENCE: Patience = Patience { first: Duration::ZERO, last: Duration::ZERO };
/// Maximum age of the last event of a page that still counts as live although more events follow.
/// 1 s: a burst of one tenant must not make other tenants' events count as old.
const RECENT: Duration = Duration::from_secs(1);
/// Maximum time before progress past events that concern no lane is stored. 1 s: a longer time
/// saves writes, but a restart reads more events again.
const STORE_AFTER: Duration = Duration::from_secs(1);
/// Time between two reads of operators' decisions: pauses, and lanes that were resumed.
const DECISIONS_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two checks of whether a processor that is behind exceeds its bound for shedding. A
/// check reads as many rows as the bound.
const HEAD_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two log lines about dead letters. A plugin may skip every event.
const DEAD_LETTER_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Time without any work under way, although a lane has work, after which the term ends. 10 s: no
/// step takes this long to start.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Time behind after which a lane exceeds its tenant's share, and is detached.
const MAX_TIME_BEHIND: Duration = Duration::from_secs(1);
/// The tenant's debt, in rounds of the scheduler's ring, from which a lane also exceeds the
/// tenant's share.
const MAX_DEBT: u32 = 64;
/// The longest time between two plans.
const PLAN_INTERVAL: Duration = Duration::from_millis(250);
/// Plans for each page of very many lanes.
const PLANS_PER_PAGE: usize = 16;
/// Maximum time that a draining term waits for calls under way. 5 s: far longer than most calls
/// take, and well below the ten seconds after which `docker stop` kills. Events of dropped calls
/// were not committed, and are handled again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Lanes whose cost per event is remembered.
const REMEMBERED_COSTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The result of a piece of work that waits for its commit.
#[derive(Debug, Default)]
pub(super) struct WorkResults {
    /// Shared with the commit that writes them, because they are needed again if it is rejected.
    changes: Arc<Changes>,
    dead_letters: Vec<DeadLetter>,
    /// What was shed instead of being handled.
    shed: Option<Shed>,
    handled: usize,
    /// The last staging of documents that it includes.
    mark: u64,
    /// Bytes of its documents and dead letters.
    weight: usize,
    /// Counts these bytes against the tenant's bound.
    _counted: Option<UncommittedBytes>,
}

impl in_flight::Weighted for WorkResults {
    fn weight(&self) -> usize {
        self.weight
    }
}

/// A run that has ended: its lane, its work, and the outcome.
type RunResult = (LaneKey, LaneWork, Result<Outcome, TermEnded>);
/// A read of a page that has ended: the reader, the time it took, and the outcome.
type PageResult = (Reader, Duration, Result<ReadAhead, SourceError>);

/// What a term borrows from its processor: its properties, and the state that outlives the term.
pub(super) struct Parts<'a> {
    pub(super) id: &'a ProcessorId,
    pub(super) router: &'a Router,
    pub(super) runner: &'a Runner,
    pub(super) config: &'a Config,
    pub(super) tenants: &'a Tenants,
    pub(super) pressure: &'a pressure::PressureSettings,
    pub(super) member: &'a mut Option<LockstepMember>,
    pub(super) report: &'a mut Reporter,
    pub(super) errors: &'a mut TermErrors,
    pub(super) has_committed: &'a mut bool,
}

/// Everything under way in a term.
pub(super) struct Engine<'a> {
    id: &'a ProcessorId,
    router: &'a Router,
    runner: &'a Runner,
    config: &'a Config,
    tenants: &'a Tenants,
    pressure: &'a pressure::PressureSettings,
    member: &'a mut Option<LockstepMember>,
    report: &'a mut Reporter,
    errors: &'a mut TermErrors,
    has_committed: &'a mut bool,
    /// When the term began.
    began: Instant,
    documents: Arc<TermDocuments>,
    committer: Arc<Committer>,
    in_flight: InFlight<WorkResults>,
    costs: LruCache<LaneKey, Duration>,
    /// When each lane that is behind and moves fell behind.
    behind_since: HashMap<LaneKey, Instant>,

    runs: FuturesUnordered<BoxFuture<'static, RunResult>>,
    /// The reader of pages; none while it reads.
    pages: Option<Reader>,
    page: Option<BoxFuture<'static, PageResult>>,
    lanes: Option<Reader>,
    reading: Option<BoxFuture<'static, ReadingResult>>,
    commit: Option<BoxFuture<'static, CommitResult>>,
    /// A read of documents for lanes.
    serving: Option<BoxFuture<'static, Result<(), ReadError>>>,
    /// The same for tenants whose reads would delay other tenants.
    serving_slow: Option<BoxFuture<'static, Result<(), ReadError>>>,

    /// Whether the log may have events that were not read.
    more_to_read: bool,
    /// Whether the last page was full, so that more can be read immediately.
    behind: bool,
    /// Whether the events of the last page are too old to count as live.
    late: bool,
    /// The size of pages while it is behind.
    scale: PageScale,
    passed_since: Option<Instant>,
    decisions_read_at: Instant,
    /// Whether operators may have decided something since the last read of their decisions.
    decisions_changed: bool,
    /// When the term was asked to drain.
    draining: Option<Instant>,
    /// Whether the state has changed since it was published.
    state_changed: bool,
    /// The number of dead letters that are not logged yet, and the time of the last log line.
    dead_letter_lines: (usize, Option<Instant>),
    /// Whether a lane may have become ready to read the log.
    search: bool,
    /// When the next lane that waits for a time is due.
    due: Option<SystemTime>,
    /// Why nothing is read.
    wait: WaitReport,
    /// Operators' pauses, as of the last read.
    pauses: Vec<Pause>,
    /// Tenants' own processors, which may replace this one.
    replacements: watch::Receiver<Replacements>,
    /// The number of their changes that it has applied.
    replaced: u64,
    /// When the distance to the head was last checked.
    head_checked_at: Option<Instant>,
    /// Since when nothing is under way.
    still_since: Option<Instant>,
    /// Lanes that have finished since the last plan.
    finished_since_plan: usize,
    /// When the last plan was made.
    planned_at: Instant,
}

impl<'a> Engine<'a> {
    pub(super) fn new(term: Term, parts: Parts<'a>) -> Self {
        let Parts { id, router, runner, config, tenants, pressure, member, report, errors, has_committed } = parts;
        Engine {
            id,
            router,
            runner,
            config,
            tenants,
            pressure,
            member,
            report,
            errors,
            has_committed,
            began: Instant::now(),
            documents: term.documents,
            committer: term.committer,
            in_flight: InFlight::new(
                term.stored,
                term.checkpoints,
                pressure.bounds(InFlightBounds {
                    lane_bytes: config.lane_queue_kib << 10,
                    lane_events: usize::MAX,
                    detaches: true,
                    commit_bytes: config.commit_mib << 20,
                    uncommitted_bytes: config.waiting_mib << 20,
                    lanes_at_once: config.lanes_at_once,
                }),
            ),
            costs: LruCache::new(REMEMBERED_COSTS),
            behind_since: HashMap::new(),
            runs: FuturesUnordered::new(),
            pages: Some(term.pages),
            page: None,
            lanes: Some(term.lanes),
            reading: None,
            commit: None,
            serving: None,
            serving_slow: None,
            more_to_read: true,
            behind: false,
            late: false,
            scale: PageScale::BEHIND,
            passed_since: None,
            decisions_read_at: Instant::now(),
            decisions_changed: true,
            draining: None,
            state_changed: true,
            dead_letter_lines: (0, None),
            search: true,
            due: None,
            still_since: None,
            finished_since_plan: 0,
            planned_at: Instant::now(),
            wait: WaitReport::default(),
            pauses: Vec::new(),
            replacements: tenants.replacements(),
            replaced: 0,
            head_checked_at: None,
        }
    }

    /// Runs until the term is asked to drain, and then until everything under way is committed.
    pub(super) async fn run(
        mut self,
        wakeups: &mut Wakeups,
        decisions: &mut Decisions,
        stop: &mut Stop,
        publish: impl Fn(ProcessorState),
    ) -> Result<(), TermEnded> {
        self.read_decisions(decisions).await?;
        loop {
            self.apply_replacements();
            self.start();
            self.check_for_standstill()?;
            if self.draining.is_some() && self.runs.is_empty() && self.commit.is_none() {
                self.wait.note(None, Instant::now());
                if self.wait.due(Instant::now()).is_some() {
                    self.report_wait().await?;
                }
                return Ok(self.last_report().await?);
            }
            if std::mem::take(&mut self.state_changed) {
                publish(self.state());
            }
            let (documents, waiters) = (self.documents.clone(), self.runner.waiters.clone());
            let (timer, running) = (self.timer(), self.runs.len());
            tokio::select! {
                Some(run) = self.runs.next(), if !self.runs.is_empty() => {
                    self.finish(run)?;
                    // Takes all runs that have ended by now, because the following steps visit
                    // every lane.
                    while let Some(Some(run)) = self.runs.next().now_or_never() {
                        self.finish(run)?;
                    }
                }
                Some((reader, took, page)) = OptionFuture::from(self.page.as_mut()) => {
                    self.page = None;
                    self.pages = Some(reader);
                    match page? {
                        ReadAhead::Page(page) => self.dispatch(&page, took),
                        ReadAhead::Shed(range) => self.shed(range),
                    }
                }
                Some((reader, reading, result)) = OptionFuture::from(self.reading.as_mut()) => {
                    self.reading = None;
                    self.lanes = Some(reader);
                    self.search = true;
                    let (result, shed) = result?;
                    let results = shed.map(|shed| WorkResults { shed: Some(shed), ..WorkResults::default() });
                    self.in_flight.finish_reading(&reading, result, results);
                }
                Some(committed) = OptionFuture::from(self.commit.as_mut()) => {
                    self.commit = None;
                    self.committed(committed)?;
                }
                () = documents.loader().due(running), if self.serving.is_none() => {
                    let documents = self.documents.clone();
                    self.serving = Some(Box::pin(async move { documents.loader().serve().await }));
                }
                Some(served) = OptionFuture::from(self.serving.as_mut()) => {
                    self.serving = None;
                    served?;
                }
                () = documents.slow_loader().due(running), if self.serving_slow.is_none() => {
                    let documents = self.documents.clone();
                    self.serving_slow = Some(Box::pin(async move { documents.slow_loader().serve().await }));
                }
                Some(served) = OptionFuture::from(self.serving_slow.as_mut()) => {
                    self.serving_slow = None;
                    served?;
                }
                () = waiters.joined(), if self.commit.is_none() => {}
                () = wakeups.next(), if !self.more_to_read => self.more_to_read = true,
                () = decisions.about(self.id), if !self.decisions_changed => self.decisions_changed = true,
                () = tokio::time::sleep(timer.unwrap_or(Duration::MAX)), if timer.is_some() => {}
                Some(()) = OptionFuture::from(self.member.as_mut().map(LockstepMember::changed)) => {}
                Ok(()) = self.replacements.changed(), if self.commit.is_none() => self.pause(),
                () = stop.drain(), if self.draining.is_none() => {
                    self.draining = Some(Instant::now());
                    if let Some(member) = self.member.as_ref() {
                        member.leave();
                    }
                    self.in_flight.close();
                    self.page = None;
                    self.reading = None;
                }
            }
            if self.drain_time_left().is_some_and(|left| left.is_zero()) {
                tracing::info!(processor = %self.id, calls = self.runs.len(), "dropped calls that did not end in time; their events will be handled again");
                self.runs.clear();
            }
            // Otherwise the next commit would report it, which may be much later.
            if self.commit.is_none() && self.report.due().is_some_and(|due| due.is_zero()) {
                self.last_report().await?;
            }
            if self.commit.is_none() && self.wait.due(Instant::now()).is_some_and(|due| due.is_zero()) {
                self.report_wait().await?;
            }
            if self.commit.is_none() && self.healthy_in().is_some_and(|due| due.is_zero()) {
                let session = self.committer.session().await?;
                let cleared = self.errors.clear(&session, self.id).await;
                cleared.map_err(|e| anyhow::anyhow!(crate::db::describe(&e)))?;
                session.give_back();
            }
            if self.decisions_changed && self.decisions_read_at.elapsed() >= DECISIONS_INTERVAL && self.commit.is_none()
            {
                self.read_decisions(decisions).await?;
            }
        }
    }

    /// Starts everything that can start.
    fn start(&mut self) {
        let now = SystemTime::now();
        if self.draining.is_none() && self.in_flight.paused().is_none() {
            // No run may start here for a tenant whose own processor is starting.
            if !self.has_other_replacements() {
                self.start_runs();
            }
            self.start_page();
            if self.due.is_some_and(|due| due <= now) {
                self.search = true;
            }
            if self.search {
                self.start_reading(now);
            }
        }
        if self.commit.is_none() && self.should_plan(now) {
            (self.finished_since_plan, self.planned_at) = (0, Instant::now());
            // Nothing more starts while the processor is paused, so a commit waits for no lane.
            let closing = self.draining.is_some() || self.in_flight.paused().is_some();
            let patience = if closing { NO_PATIENCE } else { self.patience() };
            let store =
                self.draining.is_some() || self.passed_since.is_some_and(|since| since.elapsed() >= STORE_AFTER);
            if let Some(plan) = self.in_flight.plan(now, patience, store, self.runner.waiters.runs()) {
                self.passed_since = None;
                self.start_commit(plan);
            }
        }
    }

    /// Whether to ask for a plan, which visits every lane. While all slots are taken, this happens
    /// several times for each page, not whenever one of thousands of lanes has finished.
    fn should_plan(&self, now: SystemTime) -> bool {
        let crowded = self.runs.len() >= self.config.lanes_at_once;
        !crowded
            || self.runner.waiters.runs() >= self.runs.len()
            || self.finished_since_plan * PLANS_PER_PAGE >= self.in_flight.lanes_active()
            || self.planned_at.elapsed() >= PLAN_INTERVAL
            || self.in_flight.patience_ends(self.patience()).is_some_and(|end| end <= now)
    }

    /// Ends the term if a lane has work, nothing is under way and no reason is known. That is a
    /// bug; it is logged, and the next term starts from the state of the database.
    fn check_for_standstill(&mut self) -> Result<(), TermEnded> {
        // A paused processor may stand still, and no timer should wake it to check.
        if self.is_busy() || self.in_flight.paused().is_some() {
            self.still_since = None;
            return Ok(());
        }
        if self.still_since.get_or_insert_with(Instant::now).elapsed() < STANDSTILL {
            return Ok(());
        }
        self.still_since = None;
        let Some(lane) = self.in_flight.ready(SystemTime::now()) else { return Ok(()) };
        tracing::error!(processor = %self.id, %lane, "the lane has work but does not move, for no known reason; restarting from the last commit. This is a bug: please report it");
        Err(anyhow::anyhow!("lane {lane} did not move, for no known reason").into())
    }

    /// How long a commit waits for unfinished lanes in the current state.
    fn patience(&self) -> Patience {
        self.pressure.patience(if self.late { PATIENCE_BEHIND } else { PATIENCE })
    }

    /// Starts a reading of a lane behind, if one is due and its tenant is not throttled.
    fn start_reading(&mut self, now: SystemTime) {
        let Some(reader) = self.lanes.take() else { return };
        let mut free_again = None;
        let is_throttled = |tenant: &TenantId| {
            let wait = self.tenants.wait(tenant).map(|(wait, _)| now + wait);
            free_again = free_again.into_iter().chain(wait).min();
            wait.is_some()
        };
        let Some(reading) = self.in_flight.next_reading(now, self.config.page_events, is_throttled) else {
            self.lanes = Some(reader);
            self.search = false;
            self.due = self.in_flight.next_due().into_iter().chain(free_again).min();
            return;
        };
        // The lane that was due has begun to read. The search after its reading finds the next one.
        self.due = self.in_flight.next_due();
        self.reading = Some(Box::pin(read::lane(reader, reading, self.router.clone(), self.pressure.shed_after())));
    }

    /// Starts to read the next page, if there may be one and nothing prevents it.
    fn start_page(&mut self) {
        let turn = self.turn();
        let wait = if self.more_to_read { self.current_wait(&turn) } else { None };
        let may = self.more_to_read && wait.is_none();
        self.wait.note(wait, Instant::now());
        let ahead = self.pressure.pages_ahead(self.config.pages_ahead);
        let scale = if self.behind { self.scale } else { PageScale::LEVEL };
        // A large page counts as several, but one may always be handled while another is read.
        let room = self.in_flight.pages_open() < (ahead / scale.weight()).max(ahead.min(2));
        if !may || !room {
            return;
        }
        let Some(mut reader) = self.pages.take() else { return };
        let toward = matches!(turn, LockstepTurn::Read(Some(_)));
        let after = match turn {
            LockstepTurn::Read(Some(toward)) => Progress::entering(self.in_flight.tail().seen().clone(), toward),
            _ => self.in_flight.tail().clone(),
        };
        // A notification during the read may be about events that the read does not see. A read up
        // to another processor's progress does not show what is past it.
        self.more_to_read = toward;
        let checked =
            self.head_checked_at.is_some_and(|checked| !self.behind || checked.elapsed() < HEAD_CHECK_INTERVAL);
        let shed_after = self.pressure.shed_after().filter(|_| !checked);
        if shed_after.is_some() {
            self.head_checked_at = Some(Instant::now());
        }
        let router = self.router.clone();
        self.page = Some(Box::pin(async move {
            let began = Instant::now();
            let ahead = read::ahead(&mut reader, &after, scale, &router, shed_after).await;
            failpoint::hit("page.read");
            (reader, began.elapsed(), ahead)
        }));
    }

    /// Reports this processor's progress to the others in lockstep. Returns whether it may read.
    fn turn(&self) -> LockstepTurn {
        let Some(member) = self.member.as_ref() else { return LockstepTurn::Read(None) };
        if self.in_flight.pages_open() == 0 {
            member.report(self.in_flight.tail());
        }
        member.turn()
    }

    /// Why nothing may be read now.
    fn current_wait(&self, turn: &LockstepTurn) -> Option<ReadWait> {
        match turn {
            LockstepTurn::Wait(other) => Some(ReadWait::Waiting(other.clone())),
            LockstepTurn::Read(_) => self.in_flight.full().map(|full| match full {
                in_flight::QueueFull::Lane(lane) => ReadWait::Full(lane.clone()),
                in_flight::QueueFull::Total => ReadWait::FullTotal,
            }),
        }
    }

    /// Starts lanes with work while slots are free.
    fn start_runs(&mut self) {
        let throttle = |lane: &LaneKey| {
            let (wait, reason) = self.tenants.wait(&lane.tenant)?;
            Some((SystemTime::now() + wait, reason))
        };
        while let Some((lane, work)) = self.in_flight.start(throttle) {
            let (runner, documents) = (self.runner.clone(), self.documents.clone());
            let cost = self.costs.get(&lane).copied();
            let class = self.class(&lane);
            self.runs.push(Box::pin(async move {
                let result = runner.run(&lane, class, &work.events, work.attempts, cost, documents).await;
                (lane, work, result)
            }));
        }
    }

    /// The scheduling class of a lane: live at the head of the log, where results are awaited.
    fn class(&self, lane: &LaneKey) -> Class {
        if self.late || self.in_flight.is_detached(lane) { Class::CatchUp } else { Class::Live }
    }

    /// Takes a page that was read: updates the state of the tail, and queues the events for their
    /// lanes.
    fn dispatch(&mut self, page: &Page, took: Duration) {
        self.state_changed = true;
        if !page.events.is_empty() {
            self.report.read(took);
        }
        self.more_to_read |= !page.events.is_empty();
        self.behind = page.events.len() >= self.config.page_events || !page.to.is_boundary();
        self.late = self.behind && !page.events.last().is_some_and(|event| is_recent(event.recorded_at));
        let lanes = self.router.route(&page.events);
        if self.behind {
            let (events, ms) = (page.events.len(), took.as_millis() as u64);
            tracing::debug!(processor = %self.id, events, lanes = lanes.len(), ms, "read a page");
        }
        self.scale = if self.behind { self.scale.after(page.events.len(), lanes.len()) } else { PageScale::BEHIND };
        let (scheduler, behind_since) = (&self.runner.scheduler, &self.behind_since);
        self.in_flight.dispatch(page, lanes, |lane| {
            behind_since.get(lane).is_some_and(|since| since.elapsed() >= MAX_TIME_BEHIND)
                || scheduler.debt(&lane.tenant, Class::Live) >= MAX_DEBT
        });
        // A lane that has just been detached reads the log next.
        self.search = true;
        if self.in_flight.passed_events() {
            self.passed_since.get_or_insert_with(Instant::now);
        }
    }

    fn shed(&mut self, ShedRange { to, shed }: ShedRange) {
        (self.state_changed, self.search, self.more_to_read) = (true, true, true);
        // The head may be as far away as before.
        self.head_checked_at = None;
        let results = |shed| WorkResults { shed: Some(shed), ..WorkResults::default() };
        let lanes = self.in_flight.shed_to(to, shed.into_iter().map(|(lane, shed)| (lane, results(shed))).collect());
        tracing::debug!(processor = %self.id, lanes, "jumps to the head of the log");
        self.passed_since.get_or_insert_with(Instant::now);
    }

    /// Takes the outcome of a run. The results wait for their commit. Fails if the run ended the
    /// term.
    fn finish(&mut self, (lane, work, result): RunResult) -> Result<(), TermEnded> {
        let outcome = result?;
        self.finished_since_plan += 1;
        // A lane whose earlier results were rejected while it ran is ready only now.
        self.search |= self.in_flight.is_behind(&lane);
        if let Some(cost) = outcome.cost {
            self.costs.put(lane.clone(), cost);
        }
        let (cpu, waited) = (outcome.meter.cpu(), outcome.meter.waited());
        self.report.computed(cpu);
        self.tenants.charge(&lane.tenant, Cost { cpu, ..Cost::default() }, |used| {
            used.waited += waited;
        });
        let ending = match outcome.stop {
            None => Ending::Handled,
            Some(RunStop::Block(reason)) => Ending::Stopped(LaneState::Blocked(reason)),
            Some(RunStop::Retry { after, reason }) => {
                let attempts = if outcome.handled == 0 { work.attempts.saturating_add(1) } else { 1 };
                let position = work.events.get(outcome.handled).map_or(0, |event| event.position);
                let spread = u64::from(lane.bucket()) << 32 | position as u64;
                let at = SystemTime::now() + retry::delay(attempts, after, spread);
                Ending::Stopped(LaneState::Retrying { at, reason })
            }
        };
        let mark = self.documents.stage(&outcome.changes);
        let Outcome { changes, dead_letters, handled, .. } = outcome;
        let documents = changes.iter().map(|(key, text)| key.id.len() + text.as_ref().map_or(0, |text| text.len()));
        let letters = dead_letters.iter().map(|letter| letter.event_id.len() + letter.reason.message.len());
        let weight = documents.chain(letters).sum();
        let _counted = self.runner.scheduler.uncommitted().count(&lane.tenant, weight);
        let results =
            WorkResults { changes: changes.into(), dead_letters, shed: None, handled, mark, weight, _counted };
        if !self.in_flight.finish(&lane, work, handled, results, ending, SystemTime::now()) {
            // The lane reads these events again, and must not see their results.
            self.documents.unstage(&lane);
        }
        Ok(())
    }

    /// How long until this term counts as healthy, if its progress stays as it is; none if there is
    /// no error to clear.
    fn healthy_in(&self) -> Option<Duration> {
        self.errors.healthy_at(|| self.progress()).map(|age| age.saturating_sub(self.began.elapsed()))
    }

    /// The progress that this term has made.
    fn progress(&self) -> TermProgress {
        // Progress past events that concern no lane is stored late, so one commit covers the
        // next.
        let uncommitted = || self.in_flight.pages_open() > 0 || self.in_flight.passed_events() && !*self.has_committed;
        let has_work =
            self.is_busy() || self.more_to_read || uncommitted() || self.in_flight.ready(SystemTime::now()).is_some();
        match (has_work, *self.has_committed) {
            (false, _) => TermProgress::CaughtUp,
            (true, true) => TermProgress::Committed,
            (true, false) => TermProgress::None,
        }
    }

    /// Whether a lane runs, or a page, a reading or a commit is under way.
    fn is_busy(&self) -> bool {
        !self.runs.is_empty() || self.page.is_some() || self.reading.is_some() || self.commit.is_some()
    }

    /// How long the draining term still waits for calls under way.
    fn drain_time_left(&self) -> Option<Duration> {
        let since = self.draining.filter(|_| !self.runs.is_empty())?;
        Some(DRAIN_TIMEOUT.saturating_sub(since.elapsed()))
    }

    /// The time until the next step that is due by the clock alone.
    fn timer(&self) -> Option<Duration> {
        let now = SystemTime::now();
        let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        let commit = self.commit.is_none().then(|| self.in_flight.patience_ends(self.patience())).flatten().map(until);
        let store = self.passed_since.filter(|_| self.commit.is_none());
        let store = store.map(|since| STORE_AFTER.saturating_sub(since.elapsed()));
        let reads = self.lanes.is_some() && self.in_flight.paused().is_none();
        let due = self.due.filter(|_| reads).map(until);
        let decisions =
            self.decisions_changed.then(|| DECISIONS_INTERVAL.saturating_sub(self.decisions_read_at.elapsed()));
        // Steps that cannot run during a commit are left out until it has ended.
        let report = self.commit.is_none().then(|| self.report.due()).flatten();
        let wait = self.commit.is_none().then(|| self.wait.due(Instant::now())).flatten();
        let still = self.still_since.map(|since| STANDSTILL.saturating_sub(since.elapsed()));
        let healthy = self.commit.is_none().then(|| self.healthy_in()).flatten();
        [commit, store, due, decisions, report, wait, still, healthy, self.drain_time_left()]
            .into_iter()
            .flatten()
            .min()
            .map(|wait| wait.max(Duration::from_millis(1)))
    }

    /// Reads operators' decisions: pauses, and lanes that were resumed.
    async fn read_decisions(&mut self, decisions: &Decisions) -> Result<(), TermEnded> {
        self.decisions_read_at = Instant::now();
        self.decisions_changed = false;
        (self.state_changed, self.search) = (true, true);
        let session = self.committer.session().await?;
        let pauses = pauses::read(&session, self.id).await;
        self.pauses = pauses.map_err(|e| anyhow::anyhow!(crate::db::describe(&e)))?;
        let resumed = lane_checkpoints::take_resumed(&session, self.id).await;
        let (resumed, more) = resumed.map_err(|e| anyhow::anyhow!(crate::db::describe(&e)))?;
        session.give_back();
        if let Some(lane) = resumed.first() {
            tracing::info!(processor = %self.id, %lane, lanes = resumed.len(), "lanes were resumed");
        }
        // A lane that was resumed may still be paused.
        self.pause();
        for lane in &resumed {
            self.in_flight.resume(lane);
        }
        self.decisions_changed = more || !decisions.agree(self.id, &self.pauses);
        if let Some(member) = self.member.as_ref().filter(|_| self.in_flight.paused().is_some()) {
            member.leave();
        }
        self.due = self.in_flight.next_due();
        Ok(())
    }

    /// Applies the pauses of operators, of the settings and of tenants' own processors.
    fn pause(&mut self) {
        (self.state_changed, self.search) = (true, true);
        self.replaced = self.replacements.borrow_and_update().changes();
        let of_tenants = self.tenants.paused(self.id).into_iter();
        let of_tenants =
            of_tenants.map(|(tenant, reason)| Pause { tenant: Some(tenant.as_shared()), key: None, reason });
        self.in_flight.pause(self.pauses.iter().cloned().chain(of_tenants).collect());
    }

    /// Applies changes of tenants' own processors, except during a commit: it may write rows of
    /// lanes that waited when it began.
    fn apply_replacements(&mut self) {
        if self.commit.is_none() && self.has_other_replacements() {
            self.pause();
        }
    }

    /// Whether tenants' own processors have changed since they were last applied.
    fn has_other_replacements(&self) -> bool {
        self.replacements.has_changed().unwrap_or(false)
    }

    /// Records in the database why nothing is read, or clears it.
    async fn report_wait(&mut self) -> Result<(), TermEnded> {
        Ok(self.committer.record_wait(&self.wait.report()).await?)
    }

    /// The state for observers.
    fn state(&self) -> ProcessorState {
        let (rows, need_attention) = self.in_flight.rows_counted();
        ProcessorState {
            seen: Some(self.in_flight.settled().seen().clone()),
            lanes_moving: rows - need_attention + self.in_flight.rows_pending(),
            lanes_needing_attention: need_attention,
            paused: self.in_flight.paused().cloned(),
            replaced: self.replaced,
        }
    }
}

/// Whether an event was recorded just now, given roughly correct clocks.
fn is_recent(recorded_at: i64) -> bool {
    let recorded = u64::try_from(recorded_at)
        .map_or(SystemTime::UNIX_EPOCH, |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    SystemTime::now().duration_since(recorded).map_or(true, |age| age < RECENT)
}
