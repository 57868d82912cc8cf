//! The event loop of one term: carries out the commands of [`Core`].
//!
//! Six kinds of work run concurrently: the read of a page, the read of the log for a lane that is
//! behind, two reads of documents (usual and slow ones), the runs of lanes, and a commit. When one
//! of them ends, the loop passes its outcome to the core as an input, and then carries out the
//! commands that follow. The loop itself decides nothing. It owns all work under way, and drops it
//! when the term ends.

mod commits;
mod reads;
mod redeliveries;
mod report;
mod runs;
mod set_aside_events;
mod surroundings;

use std::time::{Duration, Instant, SystemTime};

use futures_util::{FutureExt, StreamExt, future::OptionFuture};

use commits::Commits;
use reads::{DocumentReads, LogReads};
use runs::{Runs, WorkResults};
use surroundings::HostSurroundings;

use super::{
    Config, ProcessorState,
    core::{Command, Core, CoreSettings, Input, Now},
    decisions::Decisions,
    in_flight::{InFlightBounds, Request},
    lane::{Runner, TermEnded},
    lane_checkpoints::{self, ResumedLane},
    lockstep::LockstepMember,
    pauses,
    pressure::PressureSettings,
    report::Reporter,
    set_aside,
    term::{SetAsideReaders, Term},
    term_errors::TermErrors,
};
use crate::{
    consumer::{router::Router, wake::Wakeups},
    db::describe,
    model::ids::ProcessorId,
    supervisor::Stop,
    tenants::Tenants,
};

/// What a term borrows from its processor: its properties, and the state that outlives the term.
pub(super) struct Parts<'a> {
    pub(super) id: &'a ProcessorId,
    pub(super) router: &'a Router,
    pub(super) runner: &'a Runner,
    pub(super) config: &'a Config,
    pub(super) tenants: &'a Tenants,
    pub(super) pressure: &'a PressureSettings,
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
    pressure: &'a PressureSettings,
    report: &'a mut Reporter,
    core: Core<WorkResults>,
    host: HostSurroundings<'a>,
    reads: LogReads,
    /// The source of readers for set-aside events.
    set_aside: SetAsideReaders,
    runs: Runs,
    commits: Commits<'a>,
    documents: DocumentReads,
}

/// The time of a step.
fn now() -> Now {
    Now { mono: Instant::now(), wall: SystemTime::now() }
}

impl<'a> Engine<'a> {
    pub(super) fn new(mut term: Term, parts: Parts<'a>) -> Self {
        let Parts { id, router, runner, config, tenants, pressure, member, report, errors, has_committed } = parts;
        runner.budgets.replace(std::mem::take(&mut term.set_aside.counts));
        let settings = CoreSettings {
            page_events: config.page_events,
            pages_ahead: config.pages_ahead,
            lanes_at_once: config.lanes_at_once,
            pressure: pressure.clone(),
        };
        let bounds = InFlightBounds {
            lane_bytes: config.lane_queue_kib << 10,
            lane_events: usize::MAX,
            detaches: true,
            commit_bytes: config.commit_mib << 20,
            uncommitted_bytes: config.waiting_mib << 20,
            lanes_at_once: config.lanes_at_once,
        };
        Engine {
            id,
            router,
            runner,
            pressure,
            report,
            core: Core::new(term.stored, term.checkpoints, bounds, settings, now()).with_set_aside(term.set_aside),
            host: HostSurroundings { tenants, runner, member, errors, replacements: tenants.replacements() },
            reads: LogReads::new(term.pages, term.lanes),
            set_aside: term.pages_of_set_aside,
            runs: Runs::new(),
            commits: Commits::new(term.committer, has_committed),
            documents: DocumentReads::new(term.documents),
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
        loop {
            while let Some(command) = self.core.next(now(), &self.host) {
                if let Command::Done = command {
                    return Ok(self.last_report().await?);
                }
                self.carry_out(command, decisions).await?;
            }
            // Otherwise the next commit would report it, which may be much later.
            if self.report_due().is_some_and(|due| due.is_zero()) {
                self.last_report().await?;
            }
            if let Some(state) = self.core.take_state() {
                publish(state);
            }
            self.wait(wakeups, decisions, stop).await?;
        }
    }

    /// Starts or does what a command says.
    async fn carry_out(&mut self, command: Command<WorkResults>, decisions: &Decisions) -> Result<(), TermEnded> {
        match command {
            Command::ReadPage { after, scale, may_shed } => {
                let shed_after = self.pressure.shed_after().filter(|_| may_shed);
                self.reads.start_page(after, scale, self.router, shed_after);
            }
            Command::Run(lane, work, class) => self.start_run(lane, work, class),
            Command::Redeliver(lane, redelivery, class) => self.start_redelivery(lane, redelivery, class),
            Command::ReadLane(reading) => self.reads.start_lane(reading, self.router, self.pressure.shed_after()),
            Command::Commit(plan) => self.start_commit(plan),
            Command::ReadDecisions => self.read_decisions(decisions).await?,
            Command::Pause => self.pause(decisions).await?,
            Command::ReadReplacements => self.read_replacements(),
            Command::Unstage(lane) => self.documents.of_term.unstage(&lane),
            Command::Discard { lane, refused } => {
                if let Some(why) = refused {
                    tracing::warn!(processor = %self.id, %lane, why, "the database rejected the results of a lane; other lanes continue");
                }
                self.documents.of_term.unstage(&lane);
                self.runner.code.current().handler.forget(&lane.tenant);
            }
            Command::StopReading => {
                self.reads.stop();
                self.host.leave_lockstep();
            }
            Command::DropRuns => {
                tracing::info!(processor = %self.id, calls = self.runs.under_way.len(), "dropped calls that did not end in time; their events will be handled again");
                self.runs.under_way.clear();
            }
            Command::RecordWait(reason) => self.commits.committer.record_wait(&reason).await?,
            Command::ClearError => {
                let session = self.commits.committer.session().await?;
                let cleared = self.host.errors.clear(&session, self.id).await;
                cleared.map_err(|e| anyhow::anyhow!(describe(&e)))?;
                session.give_back();
            }
            Command::EndTerm(lane) => {
                tracing::error!(processor = %self.id, %lane, "the lane has work but does not move, for no known reason; restarting from the last commit. This is a bug: please report it");
                return Err(anyhow::anyhow!("lane {lane} did not move, for no known reason").into());
            }
            // The loop ends with it.
            Command::Done => {}
        }
        Ok(())
    }

    /// Waits until something has happened, and passes it to the core.
    async fn wait(
        &mut self,
        wakeups: &mut Wakeups,
        decisions: &mut Decisions,
        stop: &mut Stop,
    ) -> Result<(), TermEnded> {
        let (documents, waiters) = (self.documents.of_term.clone(), self.runner.waiters.clone());
        let timer = self.core.timer(now(), &self.host).into_iter().chain(self.report_due()).min();
        let (running, committing) = (self.runs.under_way.len(), self.core.is_committing());
        let input = tokio::select! {
            Some(run) = self.runs.under_way.next(), if running > 0 => {
                self.finish(run)?;
                // Takes all runs that have ended by now, because the following steps visit every
                // lane.
                while let Some(Some(run)) = self.runs.under_way.next().now_or_never() {
                    self.finish(run)?;
                }
                return Ok(());
            }
            Some(read) = OptionFuture::from(self.reads.page.as_mut()) => self.page_read(read)?,
            Some(read) = OptionFuture::from(self.reads.lane.as_mut()) => self.reads.lane_read(read)?,
            Some(committed) = OptionFuture::from(self.commits.under_way.as_mut()) => self.committed(committed)?,
            () = documents.loader().due(running), if self.documents.read.is_none() => {
                let documents = documents.clone();
                self.documents.read = Some(Box::pin(async move { documents.loader().serve().await }));
                Input::Tick
            }
            Some(served) = OptionFuture::from(self.documents.read.as_mut()) => {
                self.documents.read = None;
                served?;
                Input::Tick
            }
            () = documents.slow_loader().due(running), if self.documents.slow_read.is_none() => {
                let documents = documents.clone();
                self.documents.slow_read = Some(Box::pin(async move { documents.slow_loader().serve().await }));
                Input::Tick
            }
            Some(served) = OptionFuture::from(self.documents.slow_read.as_mut()) => {
                self.documents.slow_read = None;
                served?;
                Input::Tick
            }
            () = waiters.joined(), if !committing => Input::Tick,
            () = wakeups.next(), if self.core.waits_for_events() => Input::Wake,
            () = decisions.about(self.id), if self.core.waits_for_decisions() => Input::DecisionsChanged,
            () = tokio::time::sleep(timer.unwrap_or(Duration::MAX)), if timer.is_some() => Input::Tick,
            Some(()) = OptionFuture::from(self.host.member.as_mut().map(LockstepMember::changed)) => Input::Tick,
            Ok(()) = self.host.replacements.changed(), if !committing => self.host.replacements(self.id),
            () = stop.drain(), if !self.core.is_draining() => Input::Drain,
        };
        self.core.on(input, now(), &self.host);
        Ok(())
    }

    /// Reads operators' decisions: pauses, lanes that were resumed, and requests about set-aside
    /// events.
    async fn read_decisions(&mut self, decisions: &Decisions) -> Result<(), TermEnded> {
        let session = self.commits.committer.session().await?;
        let pauses = pauses::read(&session, self.id).await;
        let pauses = pauses.map_err(|e| anyhow::anyhow!(describe(&e)))?;
        let resumed = lane_checkpoints::take_resumed(&session, self.commits.committer.share()).await;
        let (resumed, more) = resumed.map_err(|e| anyhow::anyhow!(describe(&e)))?;
        let requests = set_aside::take_requests(&session, self.commits.committer.share()).await;
        let (requests, more_requests) = requests.map_err(|e| anyhow::anyhow!(describe(&e)))?;
        if !resumed.is_empty() {
            let counts = set_aside::counts(&session, self.commits.committer.share()).await;
            self.runner.budgets.replace(counts.map_err(|e| anyhow::anyhow!(describe(&e)))?);
        }
        session.give_back();
        if let Some(ResumedLane { lane, .. }) = resumed.first() {
            tracing::info!(processor = %self.id, %lane, lanes = resumed.len(), "lanes were resumed");
        }
        if let Some(Request { lane, .. }) = requests.first() {
            tracing::info!(processor = %self.id, %lane, requests = requests.len(), "operators asked to handle or discard set-aside events");
        }
        let more = more || more_requests || !decisions.agree(self.id, &pauses);
        let (replaced, of_tenants) = self.host.read_replacements(self.id);
        let input = Input::Decisions { pauses, of_tenants, replaced, resumed, requests, more };
        self.core.on(input, now(), &self.host);
        if self.core.is_paused() {
            self.host.leave_lockstep();
        }
        Ok(())
    }

    /// Pauses the processor until an operator resumes it.
    async fn pause(&mut self, decisions: &Decisions) -> Result<(), TermEnded> {
        let mut session = self.commits.committer.session().await?;
        let paused = pauses::pause_by_policy(&mut session.session, self.id).await;
        if paused.map_err(|e| anyhow::anyhow!(describe(&e)))? {
            tracing::warn!(processor = %self.id, "paused by its failure policy; fix the cause, then run `sandmill resume {}`", self.id);
        }
        session.give_back();
        self.read_decisions(decisions).await
    }

    fn read_replacements(&mut self) {
        let input = self.host.replacements(self.id);
        self.core.on(input, now(), &self.host);
    }

    /// How long until a report is due, if a commit does not include it.
    fn report_due(&self) -> Option<Duration> {
        self.report.due().filter(|_| !self.core.is_committing())
    }
}
