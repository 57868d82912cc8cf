//! The composition root: builds the parts, wires them, and hands their tasks to the supervisor. The only file that sees all of them,
//! and one without decisions of its own.

mod author;

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
    admin::{Phase, Watched},
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

/// How a run ended, when it ended in order.
#[derive(Debug)]
pub enum Ended {
    /// It was told to stop, and has stored what was under way.
    Drained,
    /// All that was there is handled.
    CaughtUp {
        /// Files that are no plugins, and so handled nothing.
        refused: usize,
    },
    /// All that was there is handled but what these lanes wait with.
    Blocked(BlockedLanes),
}

/// Lanes of each processor whose reasons are shown when a run ends. Default 20: as many as a person
/// reads, no matter how many there are.
const BLOCKED_LANES: i64 = 20;

/// Lanes, or whole processors, that need a person.
#[derive(Debug, Default)]
pub struct BlockedLanes {
    first: Vec<BlockedLane>,
    all: usize,
}

impl BlockedLanes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all == 0
    }

    /// The first of each processor.
    pub fn iter(&self) -> std::slice::Iter<'_, BlockedLane> {
        self.first.iter()
    }
}

/// A lane, or a whole processor, that waits for a person.
#[derive(Debug)]
pub struct BlockedLane {
    /// Of which processor.
    pub processor: ProcessorId,
    /// Which; none for the whole processor.
    pub lane: Option<LaneKey>,
    /// Why.
    pub reason: Reason,
}

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Told,
    /// When everything that was visible at the start is handled, or waits for a person.
    CaughtUp,
}

/// What a start does about another host that works on the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherHost {
    /// Waits a moment, then gives up.
    GiveUp,
    /// Waits as long as it takes.
    StandBy,
}

/// There is no plugin that can run. Why each was refused has been logged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NothingRuns(String);

/// The longest wait for what a cut-off start left under way: the database ends a statement, and
/// compilers are killed and reaped. Default 500 ms, of the second in which a host ends.
const CUT_OFF: Duration = Duration::from_millis(500);

/// Runs the plugins in a folder on a database, until `drain` resolves or `until` is reached; `abort` ends it wherever it is.
pub async fn run(
    config: &Config,
    db: &Db,
    until: Until,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    run_watched(config, db, until, OtherHost::GiveUp, drain, abort, &Watched::new(db.clone(), &config.metrics)).await
}

/// The same with a monitoring endpoint, and a choice of what to do about another host.
pub async fn run_watched(
    config: &Config,
    db: &Db,
    until: Until,
    other_host: OtherHost,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
    watched: &Watched,
) -> anyhow::Result<Ended> {
    let (mut drain, mut abort) = (pin!(drain), pin!(abort));
    if other_host == OtherHost::StandBy {
        watched.enter(Phase::StandingBy);
    }
    let ready = Ready::unless(config, db, other_host, &mut drain, &mut abort).await?;
    let Some(ready) = ready else { return Ok(Ended::Drained) };
    watched.enter(Phase::Working);
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    let limits = tenants.clone();
    let of_tenant = move |tenant: &TenantId| of_tenant(&limits.limits(tenant));
    let sandbox = Sandbox::with_tenants(config.limits.clone(), config.compile.clone(), of_tenant)?;
    watched.plugins_run_in(sandbox.clone());
    let guests = Guests {
        metrics: watched.metrics.clone(),
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
    let run = ready.run(Origin::Folder(sandbox.clone()), tenants, guests, until, drain, abort);
    // Too large for the stacks of its callers.
    let ended = Box::pin(run).await;
    drop(compilers);
    // Only what was cut off is still running.
    let _ = timeout(CUT_OFF, sandbox.wait_for_compilers()).await;
    ended
}

/// Kills the compilers of a run when it ends, no matter how.
struct StopCompiling(Sandbox);

impl Drop for StopCompiling {
    fn drop(&mut self) {
        self.0.stop_compiling();
    }
}

/// Where processors' code comes from.
enum Origin {
    /// From the plugins folder, and again when something changes there.
    Folder(Sandbox),
    /// From this process's own code.
    Here(Vec<RunnableVersion>),
}

/// What a tenant may have in the sandbox.
fn of_tenant(limits: &tenants::Limits) -> TenantLimits {
    TenantLimits {
        memory_bytes: (limits.memory_mib as usize) << 20,
        calls: limits.calls as usize,
        log_bytes_per_second: u64::from(limits.log_kib_per_second) << 10,
    }
}

/// What the sandbox says of all guests; nothing where there is none.
struct Guests {
    metrics: Metrics,
    most_lanes: usize,
    instances: Instances,
    refusals: usage::Refusals,
}

/// Runs handlers of this process's own code on a database, as [`run`] does with plugins.
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
    Box::pin(ready.run(Origin::Here(handlers), tenants, guests, until, drain, abort)).await
}

/// A database that is ours to work on, and fit for it.
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
    /// Prepares the database. Gives nothing if the run is asked to end first.
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
        // A migration that waits for a lock would keep waiting, and everybody else would queue
        // behind it.
        if let Some(canceller) = under_way.get().filter(|_| !aborted) {
            let _ = timeout(CUT_OFF, canceller.cancel()).await;
        }
        if aborted { Err(Aborted.into()) } else { Ok(None) }
    }

    async fn prepare(
        config: &'a Config,
        db: &'a Db,
        other_host: OtherHost,
        under_way: &OnceLock<Canceller>,
    ) -> anyhow::Result<Self> {
        // The lock comes first: a second host must change nothing, not even the schema.
        let host_lock = Arc::new(match other_host {
            OtherHost::GiveUp => HostLock::acquire(db, host_lock::PATIENCE).await?,
            OtherHost::StandBy => HostLock::stand_by(db).await,
        });
        let mut session = db.connect("start").await?;
        let encryption = session.encryption().await?;
        let encryption = encryption.as_deref().unwrap_or("none");
        tracing::info!(database = db.place(), encryption, "connected");
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
        origin: Origin,
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
            "tell what tenants use",
            usage::tell(tenants.clone(), refusals.clone(), db.clone(), supervisor.stop()),
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
        match origin {
            Origin::Here(handlers) => {
                let mut registry = registry;
                let refused = registry.start(&self.session, handlers).await;
                for (follower, error) in &refused {
                    tracing::error!(plugin = follower.plugin, "refused: {error}");
                }
                let begun =
                    StartReport { states: states(&registry), refused: refused.len(), idle_settings: Vec::new() };
                // Its receiver is this function's.
                let _ = begin.send(begun);
                supervisor.spawn("processors", registry.run(supervisor.stop()));
            }
            Origin::Folder(sandbox) => {
                let folder = &self.config.plugins;
                let mut reconciler = Reconciler::new(folder, sandbox, db.clone(), registry, &self.config.rollout);
                reconciler.open().with_context(|| {
                    format!(
                        "read the plugins folder {}; name one with --plugins, or with `plugins` in the settings",
                        folder.display()
                    )
                })?;
                // Later files are nothing to whoever handles what is there now.
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
                (Until::Told, _) => std::future::pending().await,
                (Until::CaughtUp, Some(nothing)) => Err(nothing.into()),
                (Until::CaughtUp, None) => {
                    caught_up(&begun.states, &self.there_at_start, tenants.replacements()).await;
                    let blocked = blocked(&begun.states, self.db).await?;
                    let refused = begun.refused;
                    Ok(if blocked.is_empty() { Ended::CaughtUp { refused } } else { Ended::Blocked(blocked) })
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
        usage::tell_last(&tenants, &refusals, &db).await;
        Ok(ended)
    }
}

/// The most connections that the host holds: as many as the settings and the server allow. Two of
/// the server's are left to commands such as `sandmill status`.
fn connections(config: &Config, allowed: usize) -> anyhow::Result<usize> {
    anyhow::ensure!(
        allowed >= connections::LEAST,
        "the server allows this role {allowed} connections at once, and a host needs {}; nothing was changed\nRaise the limit of the role \
         (alter role … connection limit …) or of the database, or max_connections",
        connections::LEAST
    );
    let most = config.connections.min(allowed.saturating_sub(2).max(connections::LEAST));
    if most < config.connections {
        tracing::warn!(
            allowed,
            most,
            "the server allows this role fewer connections than the setting `connections` ({}); plugins share fewer \
             and may wait. Raise max_connections, or the limit of the role or the database",
            config.connections
        );
    }
    Ok(most)
}

/// Warns about anything odd in what has begun. Returns `NothingRuns` if nothing has.
fn announce(begun: &StartReport, config: &Config, until: Until) -> Option<NothingRuns> {
    for name in &begun.idle_settings {
        tracing::warn!("[processors.{name}] has no effect: no plugin that runs here claims the processor id {name}");
    }
    if !begun.states.is_empty() {
        return None;
    }
    let folder = config.plugins.display();
    let told = format!("no plugin in {folder} can run; put NAME.wasm files there (`sandmill plugin build` makes them)");
    if until == Until::Told {
        tracing::warn!("{told}; a file added there is loaded at once");
    }
    Some(NothingRuns(told))
}

/// Waits until every processor has handled what `head` sees, except for lanes that need a person.
async fn caught_up(
    states: &[(ProcessorId, watch::Receiver<ProcessorState>)],
    head: &Snapshot,
    replacements: watch::Receiver<Replacements>,
) {
    for (_, state) in states {
        let mut state = state.clone();
        // Until a processor has applied these changes, lanes whose replacement never began look
        // idle.
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

/// Reads which lanes and processors need a person.
async fn blocked(states: &[(ProcessorId, watch::Receiver<ProcessorState>)], db: &Db) -> anyhow::Result<BlockedLanes> {
    let mut blocked = BlockedLanes::default();
    let mut session = None;
    for (processor, state) in states {
        let (lanes, paused) = {
            let now = state.borrow();
            (now.lanes_needing_person, now.paused.clone())
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
        let (first, all) = lane_checkpoints::needing_person(session, processor, BLOCKED_LANES).await?;
        blocked.all += all as usize;
        let first = first.into_iter().map(|(lane, reason)| (Some(lane), reason));
        blocked.first.extend(first.map(|(lane, reason)| BlockedLane { processor: processor.clone(), lane, reason }));
    }
    Ok(blocked)
}

/// How those who run stand.
fn states(registry: &Registry) -> Vec<(ProcessorId, watch::Receiver<ProcessorState>)> {
    registry.members().iter().map(|(id, member)| (id.clone(), member.state.clone())).collect()
}
