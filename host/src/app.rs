//! The composition root: it builds the parts, wires them, and hands their tasks to the supervisor.
//! It is the only room that sees all parts, and it makes no decisions about events.

mod author;
pub mod capsule;
mod offline;
pub mod what_if;

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
pub use author::{TestRequest, TestResult, check, test};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

pub use crate::supervisor::Aborted;
use crate::{
    admin::{HostMonitor, HostPhase},
    cluster::host_lock::{self, HostLock},
    config::Config,
    consumer::{pages::Pages, wake::Wake},
    db::{Canceller, Db, Session, migrate},
    model::{
        cursor::Snapshot,
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
    },
    plugins::{
        reconciler::{Reconciler, StartReport},
        registry::{Registry, RunnableVersion},
    },
    processor::{
        ProcessorState, Shared,
        connections::{self, Connections, Shares},
        decisions::DecisionWatcher,
        lane_checkpoints,
        report::Instances,
    },
    sandbox::{Sandbox, TenantLimits},
    scheduler::Scheduler,
    source::{self, OpenSource, native::Native},
    store::anchor,
    supervisor::Supervisor,
    telemetry::metrics::Metrics,
    tenants::{self, Tenants, replacements::Replacements, usage},
};

/// The outcome of a run that ended normally.
#[derive(Debug)]
pub enum Ended {
    /// The run was asked to stop, and has stored the work under way.
    Drained,
    /// All events that were visible at the start are handled.
    CaughtUp {
        /// Number of rejected plugin files.
        rejected: usize,
    },
    /// All events that were visible at the start are handled, except those of these lanes.
    Blocked(BlockedLanes),
}

/// Maximum number of lanes per processor whose reasons are listed when a run ends. 20: as many as a
/// person reads.
const BLOCKED_LANES: i64 = 20;

/// Lanes, or whole processors, that need attention.
#[derive(Debug, Default)]
pub struct BlockedLanes {
    first: Vec<BlockedLane>,
    all: usize,
}

impl BlockedLanes {
    /// The number of all such lanes and processors, listed or not.
    pub fn len(&self) -> usize {
        self.all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all == 0
    }

    /// The first lanes of each processor, at most 20.
    pub fn iter(&self) -> std::slice::Iter<'_, BlockedLane> {
        self.first.iter()
    }
}

/// A lane, or a whole processor, that needs attention.
#[derive(Debug)]
pub struct BlockedLane {
    /// The processor.
    pub processor: ProcessorId,
    /// The lane; none for the whole processor.
    pub lane: Option<LaneKey>,
    /// Why it is blocked or paused.
    pub reason: Reason,
}

/// The condition on which a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It ends only when it is asked to stop.
    Stopped,
    /// It ends when all events that were visible at the start are handled, or need attention.
    CaughtUp,
}

/// What a host does on startup if another host runs on the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherHost {
    /// It waits a moment, then fails.
    GiveUp,
    /// It waits until the other host ends.
    StandBy,
}

/// The error of a run in which no plugin can run. The log has the reason of each rejection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NothingRuns(String);

/// Maximum wait for the remains of an interrupted run: the database cancels a statement, and
/// compilers are killed and reaped. 500 ms: half of the second within which a host should end.
const CUT_OFF: Duration = Duration::from_millis(500);

/// Runs the plugins in a folder on a database, until `drain` resolves or `until` is reached.
/// Resolving `abort` ends the run at once.
pub async fn run(
    config: &Config,
    db: &Db,
    until: Until,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    run_watched(config, db, until, OtherHost::GiveUp, drain, abort, &HostMonitor::new(db.clone(), &config.metrics))
        .await
}

/// Runs plugins as [`run`] does, with a monitoring endpoint and a choice of what to do if another
/// host runs.
pub async fn run_watched(
    config: &Config,
    db: &Db,
    until: Until,
    other_host: OtherHost,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
    monitor: &HostMonitor,
) -> anyhow::Result<Ended> {
    let (mut drain, mut abort) = (pin!(drain), pin!(abort));
    if other_host == OtherHost::StandBy {
        monitor.enter(HostPhase::StandingBy);
    }
    let ready = Ready::unless(config, db, other_host, &mut drain, &mut abort).await?;
    let Some(ready) = ready else { return Ok(Ended::Drained) };
    monitor.enter(HostPhase::Running);
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    let limits = tenants.clone();
    let of_tenant = move |tenant: &TenantId| of_tenant(&limits.limits(tenant));
    let sandbox = Sandbox::with_tenants(config.limits.clone(), config.compile.clone(), of_tenant)?;
    monitor.set_sandbox(sandbox.clone());
    let guests = Guests {
        metrics: monitor.metrics.clone(),
        most_lanes: sandbox.usage().max_live,
        instances: Arc::new({
            let sandbox = sandbox.clone();
            move || sandbox.usage().live
        }),
        refusals: Arc::new({
            let sandbox = sandbox.clone();
            move || sandbox.refusals_by_tenant()
        }),
    };
    let compilers = StopCompiling(sandbox.clone());
    let run = ready.run(CodeSource::Folder(sandbox.clone()), tenants, guests, until, drain, abort);
    // Too large for the stacks of its callers.
    let ended = Box::pin(run).await;
    drop(compilers);
    // Only interrupted compilers can still be running.
    let _ = timeout(CUT_OFF, sandbox.wait_for_compilers()).await;
    ended
}

/// A guard that kills the compilers of a run when it is dropped at the end of the run.
struct StopCompiling(Sandbox);

impl Drop for StopCompiling {
    fn drop(&mut self) {
        self.0.stop_compiling();
    }
}

/// The source of the processors' code.
enum CodeSource {
    /// The plugins folder, whose changes are followed.
    Folder(Sandbox),
    /// Handlers compiled into this process.
    Native(Vec<RunnableVersion>),
}

/// A tenant's limits in the sandbox.
fn of_tenant(limits: &tenants::Limits) -> TenantLimits {
    TenantLimits {
        memory_bytes: (limits.memory_mib as usize) << 20,
        calls: limits.calls as usize,
        log_bytes_per_second: u64::from(limits.log_kib_per_second) << 10,
    }
}

/// Measurements and bounds of all guests. Native handlers have none.
struct Guests {
    metrics: Metrics,
    most_lanes: usize,
    instances: Instances,
    refusals: usage::TakeRefusals,
}

/// Runs native handlers on a database, as [`run`] does with plugins.
pub async fn run_handlers(
    config: &Config,
    db: &Db,
    handlers: Vec<RunnableVersion>,
    until: Until,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    let metrics = Metrics::default();
    let guests = Guests { metrics, most_lanes: usize::MAX, instances: Arc::new(|| 0), refusals: Arc::new(Vec::new) };
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    let (mut drain, mut abort) = (pin!(drain), pin!(abort));
    let ready = Ready::unless(config, db, OtherHost::GiveUp, &mut drain, &mut abort).await?;
    let Some(ready) = ready else { return Ok(Ended::Drained) };
    Box::pin(ready.run(CodeSource::Native(handlers), tenants, guests, until, drain, abort)).await
}

/// A prepared database: locked by this host, migrated and checked.
struct Ready<'a> {
    config: &'a Config,
    db: &'a Db,
    host_lock: Arc<HostLock>,
    session: Session,
    source: Arc<dyn OpenSource>,
    shares: Shares,
    there_at_start: Snapshot,
}

impl<'a> Ready<'a> {
    /// Prepares the database. Returns none if the run is asked to end first.
    async fn unless(
        config: &'a Config,
        db: &'a Db,
        other_host: OtherHost,
        drain: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<Self>> {
        let under_way = OnceLock::new();
        let aborted = tokio::select! {
            ready = Self::prepare(config, db, other_host, &under_way) => return ready.map(Some),
            () = drain => false,
            () = abort => true,
        };
        // A migration that waits for a lock would keep waiting, with all other sessions queued
        // behind it.
        if let Some(canceller) = under_way.get().filter(|_| !aborted) {
            let _ = timeout(CUT_OFF, canceller.cancel()).await;
        }
        if aborted { Err(Aborted.into()) } else { Ok(None) }
    }

    /// Takes the host lock, migrates the database and checks that the store belongs to its cluster.
    /// `under_way` gets a handle to cancel the migration.
    async fn prepare(
        config: &'a Config,
        db: &'a Db,
        other_host: OtherHost,
        under_way: &OnceLock<Canceller>,
    ) -> anyhow::Result<Self> {
        // The lock comes first, because a second host must change nothing, not even the schema.
        let host_lock = Arc::new(match other_host {
            OtherHost::GiveUp => HostLock::acquire(db, host_lock::PATIENCE).await?,
            OtherHost::StandBy => HostLock::stand_by(db).await,
        });
        let mut session = db.connect("start").await?;
        let encryption = session.encryption().await?;
        let encryption = encryption.as_deref().unwrap_or("none");
        tracing::info!(database = db.summary(), encryption, "connected");
        let shares = Shares::of(connections(config, session.connection_limit().await?)?);
        under_way.get_or_init(|| session.canceller());
        migrate::migrate(&mut session).await?;
        anchor::check(&session).await?;
        let source: Arc<dyn OpenSource> = Arc::new(Native::new(db.clone()));
        let there_at_start = source.open("start").await?.head().await?;
        Ok(Ready { config, db, host_lock, session, source, shares, there_at_start })
    }

    async fn run(
        self,
        code: CodeSource,
        tenants: Tenants,
        guests: Guests,
        until: Until,
        drain: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> anyhow::Result<Ended> {
        let Guests { metrics, most_lanes, instances, refusals } = guests;
        let mut settings = self.config.processor.clone();
        settings.lanes_at_once = settings.lanes_at_once.min(most_lanes).max(1);
        let scheduler = Scheduler::start_for(&self.config.scheduler, tenants.weights(), &tenants.threads());
        let scheduler = scheduler.context("start the guest threads")?;
        let sources = source::open_pool(self.source.clone(), self.shares.sources);
        let pages = Pages::new(sources, settings.page_events, settings.page_kib << 10);
        let (wake, wakeups) = Wake::new(self.source);
        let (db, host_lock) = (self.db.clone(), self.host_lock);
        let connections = Connections::new(&db, &host_lock, self.shares);
        let (watcher, decisions) = DecisionWatcher::new(connections.commits.clone());
        let lockstep = Arc::default();
        let mut supervisor = Supervisor::default();
        supervisor.spawn(
            "report tenants' usage",
            usage::report(tenants.clone(), refusals.clone(), db.clone(), supervisor.stop()),
        );
        let shared = Shared {
            db: db.clone(),
            pages: pages.clone(),
            wakeups: wakeups.clone(),
            decisions,
            connections: connections.clone(),
            host_lock,
            tenants: tenants.clone(),
            instances,
            lockstep,
            metrics,
            config: settings,
        };
        supervisor.spawn("keep the host lock", {
            let (lock, mut stop) = (shared.host_lock.clone(), supervisor.stop());
            async move {
                tokio::select! {
                    _ = lock.keep() => {}
                    () = stop.drain() => {}
                }
                Ok(())
            }
        });
        supervisor.spawn("watch the log's head", wake.run(supervisor.stop()));
        supervisor.spawn("look for decisions", watcher.run(wakeups, supervisor.stop()));
        supervisor.spawn("report waits", connections.report_waits(pages, db.clone(), supervisor.stop()));
        let registry = Registry::new(shared, scheduler, self.config.processors.clone());
        let (begin, has_begun) = oneshot::channel();
        match code {
            CodeSource::Native(handlers) => {
                let mut registry = registry;
                let rejected = registry.start(&self.session, handlers).await;
                for (follower, error) in &rejected {
                    tracing::error!(plugin = follower.plugin, "rejected: {error}");
                }
                let begun =
                    StartReport { states: states(&registry), rejected: rejected.len(), idle_settings: Vec::new() };
                // The receiver lives in this function.
                let _ = begin.send(begun);
                supervisor.spawn("processors", registry.run(supervisor.stop()));
            }
            CodeSource::Folder(sandbox) => {
                let folder = &self.config.plugins;
                let mut reconciler = Reconciler::new(folder, sandbox, db.clone(), registry, &self.config.rollout);
                reconciler.open().with_context(|| {
                    format!(
                        "read the plugins folder {}; name one with --plugins, or with `plugins` in the settings",
                        folder.display()
                    )
                })?;
                // A run that ends when it has caught up ignores files that are added later.
                let reconciler = if until == Until::CaughtUp { reconciler.of_one_start() } else { reconciler };
                supervisor.spawn("plugins", reconciler.run(supervisor.stop(), begin));
            }
        }
        drop(self.session);

        let handled = async {
            let Ok(begun) = has_begun.await else {
                // A processor that should have begun has failed. The supervisor has its error and
                // ends everything.
                return std::future::pending::<anyhow::Result<Ended>>().await;
            };
            let idle = announce(&begun, self.config, until);
            match (until, idle) {
                (Until::Stopped, _) => std::future::pending().await,
                (Until::CaughtUp, Some(nothing)) => Err(nothing.into()),
                (Until::CaughtUp, None) => {
                    caught_up(&begun.states, &self.there_at_start, tenants.replacements()).await;
                    let blocked = blocked(&begun.states, self.db).await?;
                    let rejected = begun.rejected;
                    Ok(if blocked.is_empty() { Ended::CaughtUp { rejected } } else { Ended::Blocked(blocked) })
                }
            }
        };
        let mut ended = Ok(Ended::Drained);
        let drain = async {
            tokio::select! {
                () = drain => {}
                handled = handled => ended = handled,
            }
        };
        supervisor.run(drain, abort).await?;
        let ended = ended?;
        usage::report_last(&tenants, &refusals, &db).await;
        Ok(ended)
    }
}

/// The most connections of the host: as many as the settings and the server allow. Two of the
/// server's are left for commands such as `sandmill status`.
fn connections(config: &Config, allowed: usize) -> anyhow::Result<usize> {
    anyhow::ensure!(
        allowed >= connections::MIN_CONNECTIONS,
        "the server allows this role {allowed} connections at once, and a host needs {}; nothing was changed\nRaise the limit of the role \
         (alter role … connection limit …) or of the database, or max_connections",
        connections::MIN_CONNECTIONS
    );
    let max = config.connections.min(allowed.saturating_sub(2).max(connections::MIN_CONNECTIONS));
    if max < config.connections {
        tracing::warn!(
            allowed,
            max,
            "the server allows this role fewer connections than the setting `connections` ({}); plugins share fewer \
             and may wait. Raise max_connections, or the limit of the role or the database",
            config.connections
        );
    }
    Ok(max)
}

/// Warns about settings without effect. Returns `NothingRuns` if no plugin runs.
fn announce(begun: &StartReport, config: &Config, until: Until) -> Option<NothingRuns> {
    for name in &begun.idle_settings {
        tracing::warn!("[processors.{name}] has no effect: no running plugin has the processor id {name}");
    }
    if !begun.states.is_empty() {
        return None;
    }
    let folder = config.plugins.display();
    let message =
        format!("no plugin in {folder} can run; put NAME.wasm files there (`sandmill plugin build` creates them)");
    if until == Until::Stopped {
        tracing::warn!("{message}; a file added there is loaded at once");
    }
    Some(NothingRuns(message))
}

/// Waits until every processor has handled all events visible in `head`, except those of lanes that
/// need attention.
async fn caught_up(
    states: &[(ProcessorId, watch::Receiver<ProcessorState>)],
    head: &Snapshot,
    replacements: watch::Receiver<Replacements>,
) {
    for (_, state) in states {
        let mut state = state.clone();
        // Until a processor has applied these changes, lanes that are no longer replaced look idle.
        let replaced = replacements.borrow().changes();
        let level = |now: &ProcessorState| {
            now.replaced >= replaced && now.lanes_moving == 0 && now.seen.as_ref().is_some_and(|seen| seen.covers(head))
        };
        if state.wait_for(|now| now.paused.is_some() || level(now)).await.is_err() {
            // The processor failed; the supervisor has its error and ends everything.
            return std::future::pending().await;
        }
    }
}

/// Reads which lanes and processors need attention.
async fn blocked(states: &[(ProcessorId, watch::Receiver<ProcessorState>)], db: &Db) -> anyhow::Result<BlockedLanes> {
    let mut blocked = BlockedLanes::default();
    let mut session = None;
    for (processor, state) in states {
        let (lanes, paused) = {
            let now = state.borrow();
            (now.lanes_needing_attention, now.paused.clone())
        };
        blocked.all += usize::from(paused.is_some());
        let whole = paused.map(|reason| BlockedLane { processor: processor.clone(), lane: None, reason });
        blocked.first.extend(whole);
        if lanes == 0 {
            continue;
        }
        if session.is_none() {
            session = Some(db.connect("start").await.context("read which lanes are blocked")?);
        }
        let Some(session) = &session else { continue };
        let (first, all) = lane_checkpoints::needing_attention(session, processor, BLOCKED_LANES).await?;
        blocked.all += all as usize;
        let first = first.into_iter().map(|(lane, reason)| (Some(lane), reason));
        blocked.first.extend(first.map(|(lane, reason)| BlockedLane { processor: processor.clone(), lane, reason }));
    }
    Ok(blocked)
}

/// The states of all running processors.
fn states(registry: &Registry) -> Vec<(ProcessorId, watch::Receiver<ProcessorState>)> {
    registry.members().iter().map(|(id, member)| (id.clone(), member.state.clone())).collect()
}
