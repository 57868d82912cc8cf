//! A processor: one named follower of the log.
//!
//! It reads pages, dispatches them to lanes, runs the lanes through the handler, and commits their
//! results together with its progress. All of this is concurrent, and by default no lane waits for
//! a slow one. A lane that is slow, fails or has too much queued is left behind with a lane
//! checkpoint, written by the commit that passes it. A processor works within a [`term::Term`]. A
//! lost connection, a rejected fence or an unknown outcome of a commit ends the term. The next one
//! starts from the state of the database.
//!
//! - [`core`] decides what happens next, and [`engine`] carries it out.
//! - [`in_flight`] tracks all work until it is committed.
//! - [`lane`] runs the handler, whose [`code`] may be swapped at any time.
//! - [`commit`] is the one transaction.
//! - [`lane_checkpoints`] are the lanes behind the cursor, and [`gather`] is how they read the log.
//! - [`pressure`] is the strategy for lanes that cannot keep up; [`lockstep`] and `shed` belong to
//!   it.

pub mod appends;
mod attempts;
pub mod budgets;
pub mod code;
pub mod commit;
pub mod connections;
pub mod core;
pub mod dead_letters;
pub mod decisions;
mod engine;
pub mod failed_lanes;
pub mod gather;
pub mod in_flight;
pub mod lane;
pub mod lane_checkpoints;
pub mod lockstep;
pub mod outcome;
pub mod pauses;
pub mod policy;
pub mod pressure;
pub mod registration;
pub mod removal;
pub mod report;
pub mod requests;
pub mod roster;
pub mod set_aside;
pub mod settings;
mod shares;
mod shed;
pub mod status;
pub mod term;
mod term_errors;
mod terms;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use crate::{
    cluster::{
        fence::{self, Fence},
        host_lock::{HostLock, LockError},
    },
    consumer::{pages::Pages, router::Router, wake::Wakeups},
    db::{Db, Error, describe, pool::Borrower, sqlstate},
    model::{cursor::Snapshot, handler::Reason, share::Share, spec::ProcessorSpec},
    supervisor::Stop,
    telemetry::metrics::Metrics,
    tenants::Tenants,
};
use connections::Connections;
use decisions::Decisions;
use engine::{Engine, Parts};
use lane::{Runner, TermEnded};
use lockstep::{Lockstep, LockstepMember};
use pressure::Strategy;
use report::{Instances, Reporter};
use term::Term;
use term_errors::TermErrors;
use terms::Terms;

/// The settings of all processors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Events in one page. Default 5000: enough that reading, handling and writing cost little per
    /// event. A processor that is behind reads up to four times as many, so that a document that
    /// changes often is written once for all of them.
    pub page_events: usize,
    /// Size of a page, KiB, estimated from the size of recent events; a page never holds more than
    /// twice as much. Default 8192. Data over twice an event's share of the page is loaded when its
    /// lane handles it. This bound is at least 2 KiB and at most 64 KiB.
    pub page_kib: usize,
    /// Pages of a processor that are read and not yet committed. Default 4: one being read, one
    /// being handled, one being committed, and one in reserve.
    pub pages_ahead: usize,
    /// Lanes of a processor that run concurrently. Default 64: somewhat more than there are guest
    /// threads, so that reads of documents share a query.
    pub lanes_at_once: usize,
    /// Events queued for one lane that was left behind, KiB. Above this the lane drops them and
    /// reads the log itself. Default 4096: about what it reads at once.
    pub lane_queue_kib: usize,
    /// Documents and dead letters in one commit, MiB; a single lane's may exceed it. Default 16: a
    /// larger commit delays all lanes.
    pub commit_mib: usize,
    /// Uncommitted documents and dead letters of a processor, MiB. Above this no further lane
    /// starts. Default 128: several commits.
    pub waiting_mib: usize,
    /// Documents cached for each processor, MiB. Default 64.
    pub document_cache_mib: usize,
    /// Documents that one call may read from the database at once, MiB. Default 64: the memory of
    /// an instance (`limits.memory-mib`).
    pub read_mib: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            page_events: 5_000,
            page_kib: 8_192,
            pages_ahead: 4,
            lanes_at_once: 64,
            lane_queue_kib: 4_096,
            commit_mib: 16,
            waiting_mib: 128,
            document_cache_mib: 64,
            read_mib: 64,
        }
    }
}

/// Maximum time to record that a processor has ended. 500 ms: half of the second within which a
/// host should end.
const RELEASE: Duration = Duration::from_millis(500);

/// The resources that all processors of a host share.
#[derive(Clone)]
pub struct Shared {
    /// The database.
    pub db: Db,
    /// Pages of the log.
    pub pages: Arc<Pages>,
    /// Notifications of new events.
    pub wakeups: Wakeups,
    /// Notifications of operators' decisions.
    pub decisions: Decisions,
    /// Pools of sessions that write and read documents.
    pub connections: Connections,
    /// The lock that allows this host to work on the database.
    pub host_lock: Arc<HostLock>,
    /// The limits of tenants, and what they have used.
    pub tenants: Tenants,
    /// The number of live plugin instances, for reports.
    pub instances: Instances,
    /// The barrier of the processors that run in lockstep.
    pub lockstep: Arc<Lockstep>,
    /// Metrics of the host.
    pub metrics: Metrics,
    /// The settings.
    pub config: Config,
}

/// The state of a processor, for its observers.
#[derive(Clone, Debug, Default)]
pub struct ProcessorState {
    /// The snapshot whose visible events are all handled, or belong to a lane that is behind; none
    /// before the first page.
    pub seen: Option<Snapshot>,
    /// Lanes behind the cursor that continue by themselves, and lanes with set-aside events that an
    /// operator wants handled or discarded.
    pub lanes_moving: usize,
    /// Lanes behind the cursor that need attention; their rows have the reason.
    pub lanes_needing_attention: usize,
    /// Why the whole processor is paused, if it is.
    pub paused: Option<Reason>,
    /// The number of changes of tenants' own processors that it has applied.
    pub replaced: u64,
}

/// A processor of a host, with the state that outlives its terms.
pub struct Processor {
    spec: ProcessorSpec,
    router: Router,
    runner: Runner,
    shared: Shared,
    pressure: pressure::PressureSettings,
    /// Its membership in the lockstep barrier; none with other strategies.
    member: Option<LockstepMember>,
    state: watch::Sender<ProcessorState>,
    report: Reporter,
    errors: TermErrors,
    /// Whether this term has committed anything.
    has_committed: bool,
    /// The share and the fence of the last term.
    owned: Option<(Share, Fence)>,
}

impl Processor {
    /// A registered processor, and a watch on its state. All processors of a host are made before
    /// the first of them runs, because lockstep waits for all of its members.
    pub fn new(
        spec: ProcessorSpec,
        runner: Runner,
        shared: Shared,
        pressure: pressure::PressureSettings,
    ) -> (Self, watch::Receiver<ProcessorState>) {
        let (state, watcher) = watch::channel(ProcessorState::default());
        let router = Router::new(&spec);
        let counters = shared.metrics.of_processor(spec.id.as_str());
        let report = Reporter::new(shared.instances.clone(), counters);
        let member = (pressure.back_pressure == Strategy::Lockstep).then(|| shared.lockstep.join(&spec.id));
        let processor = Processor {
            spec,
            router,
            runner,
            shared,
            pressure,
            member,
            state,
            report,
            errors: TermErrors::default(),
            has_committed: false,
            owned: None,
        };
        (processor, watcher)
    }

    /// Follows the log until it is asked to stop. Fails only if another host has taken over.
    pub async fn run(mut self, mut stop: Stop) -> anyhow::Result<()> {
        let ended = self.follow(&mut stop).await;
        self.release().await;
        self.shared.metrics.processor_ended(self.spec.id.as_str());
        ended
    }

    /// Records that the processor no longer runs.
    async fn release(&self) {
        let (id, commits) = (&self.spec.id, &self.shared.connections.commits);
        let Some((share, fence)) = &self.owned else { return };
        let release = async {
            let session = commits.lend(&Borrower::of(id, "release")).await?;
            fence::release(&session, share, fence).await?;
            session.give_back();
            Ok::<_, Error>(())
        };
        // If this fails, the processor counts as running until the session of the host lock ends.
        match timeout(RELEASE, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(processor = %id, "cannot record that the processor ended: {}", describe(&error))
            }
            Err(_) => tracing::debug!(processor = %id, "cannot record in time that the processor ended"),
        }
    }

    /// Runs one term after another until it is asked to stop. Fails only if another host holds the
    /// lock.
    async fn follow(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let mut terms = Terms::default();
        loop {
            let began = Instant::now();
            // Boxed, because its future holds everything under way in a term.
            let Err(TermEnded(error)) = Box::pin(self.term(stop)).await else { return Ok(()) };
            // Guests may remember results of this term that were never committed.
            self.runner.code.current().handler.forget_all();
            if let Some(held @ (LockError::Held { .. } | LockError::Taken { .. })) = error.downcast_ref() {
                tracing::error!(processor = %self.spec.id, "{held}");
                return Err(error);
            }
            let error = term_errors::message(&error);
            let processor = &self.spec.id;
            match sqlstate(&error) {
                None => tracing::warn!(%processor, error, "lost the database connection; reconnecting"),
                Some(_) => {
                    tracing::warn!(%processor, error, "a database error ended the term; restarting from the last commit")
                }
            }
            self.errors.ended(&error, SystemTime::now());
            self.shared.metrics.term_ended(self.spec.id.as_str(), sqlstate(&error));
            tokio::select! {
                () = stop.drain() => return Ok(()),
                () = self.errors.store(&self.shared.connections.commits, &self.spec.id) => {}
            }
            let delay = terms.ended(began.elapsed(), std::mem::take(&mut self.has_committed));
            tokio::select! {
                () = stop.drain() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Runs one term until it is asked to stop.
    async fn term(&mut self, stop: &mut Stop) -> Result<(), TermEnded> {
        let term = {
            let (shared, spec, owned) = (&self.shared, &self.spec, &mut self.owned);
            let mut begin = std::pin::pin!(async {
                let host = shared.host_lock.ensure().await?;
                Ok::<_, TermEnded>(Term::begin(shared, spec, host, owned).await.context("begin a term")?)
            });
            tokio::select! {
                () = stop.drain() => {
                    // The fence may be taken already. It must be known then, to be released. A
                    // database that does not answer must not delay the stop.
                    let _ = timeout(RELEASE, begin).await;
                    return Ok(());
                }
                term = &mut begin => term?,
            }
        };
        if self.pressure.back_pressure == Strategy::Shed && !term.set_aside.streams.is_empty() {
            let id = &self.spec.id;
            return Err(anyhow::anyhow!(
                "processor {id} has parked streams, whose waiting events must not be shed; drain or discard them with `sandmill parked`, or set another processors.{id}.back-pressure"
            )
            .into());
        }
        let shared = self.shared.clone();
        let parts = Parts {
            id: &self.spec.id,
            router: &self.router,
            runner: &self.runner,
            config: &shared.config,
            tenants: &shared.tenants,
            pressure: &self.pressure,
            member: &mut self.member,
            report: &mut self.report,
            errors: &mut self.errors,
            has_committed: &mut self.has_committed,
        };
        let engine = Engine::new(term, parts);
        let state = &self.state;
        let Shared { wakeups, decisions, .. } = &mut self.shared;
        engine.run(wakeups, decisions, stop, |now| _ = state.send_replace(now)).await
    }
}
