//! The composition root: builds the parts, wires them, and hands their tasks to the supervisor. The only file that sees all of them,
//! and one without decisions of its own.

mod author;

use std::sync::Arc;

use anyhow::Context;
pub use author::{Trial, Tried, check, test};
use tokio::sync::watch;

use crate::{
    cluster::host_lock::{self, HostLock},
    config::Config,
    consumer::{pages::Pages, wake::Wake},
    db::{Db, Session, migrate},
    model::{
        cursor::Snapshot,
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
    },
    plugins::{
        fleet::{Fleet, Follower},
        registry::Registry,
    },
    processor::{Ground, Standing, exceptions, report::Instances},
    sandbox::{OfTenant, Sandbox},
    scheduler::Scheduler,
    source::{OpenSource, native::Native},
    store::anchor,
    supervisor::Supervisor,
    tenants::{self, Tenants, usage},
};

/// How a run ended, when it ended in order.
#[derive(Debug)]
pub enum Ended {
    /// It was told to stop.
    Drained,
    /// All that was there is handled.
    CaughtUp {
        /// Files that are no plugins, and so handled nothing.
        refused: usize,
    },
    /// All that was there is handled but what these lanes wait with.
    Blocked(BlockedLanes),
}

/// Lanes of which the reason is given when a run ends, for each processor. Default 20: what a person reads, however many there are.
const BLOCKED_LANES: i64 = 20;

/// Lanes, or whole processors, that wait for a person.
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

/// There is no plugin that can run. Why each was refused has been logged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NothingRuns(String);

/// Runs the plugins in a folder on a database, until `drain` resolves or `until` is reached; `abort` ends it wherever it is.
pub async fn run(
    config: &Config,
    db: &Db,
    until: Until,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    // The lock comes first: a second host must change nothing, not even the schema.
    let ready = Ready::prepare(config, db).await?;
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    let limits = tenants.clone();
    let of_tenant = move |tenant: &TenantId| of_tenant(&limits.limits(tenant));
    let sandbox = Sandbox::with_tenants(config.limits.clone(), config.compile.clone(), of_tenant)?;
    let guests = Guests {
        most_lanes: sandbox.usage().most_live,
        instances: Arc::new({
            let sandbox = sandbox.clone();
            move || sandbox.usage().live
        }),
        refusals: Arc::new({
            let sandbox = sandbox.clone();
            move || sandbox.refusals_by_tenant()
        }),
    };
    ready.run(Origin::Folder(sandbox), tenants, guests, until, drain, abort).await
}

/// Where processors' code comes from.
enum Origin {
    /// From the plugins folder, and again when something changes there.
    Folder(Sandbox),
    /// From this process's own code.
    Here(Vec<Follower>),
}

/// What a tenant may have in the sandbox.
fn of_tenant(limits: &tenants::Limits) -> OfTenant {
    OfTenant {
        memory_bytes: (limits.memory_mib as usize) << 20,
        calls: limits.calls as usize,
        log_bytes_per_second: u64::from(limits.log_kib_per_second) << 10,
    }
}

/// What the sandbox says of all guests; nothing where there is none.
struct Guests {
    most_lanes: usize,
    instances: Instances,
    refusals: usage::Refusals,
}

/// Runs handlers of this process's own code on a database, as [`run`] does with plugins.
pub async fn run_handlers(
    config: &Config,
    db: &Db,
    followers: Vec<Follower>,
    until: Until,
    drain: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    let guests = Guests { most_lanes: usize::MAX, instances: Arc::new(|| 0), refusals: Arc::new(Vec::new) };
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    Ready::prepare(config, db).await?.run(Origin::Here(followers), tenants, guests, until, drain, abort).await
}

/// A database that is ours to work on, and fit for it.
struct Ready<'a> {
    config: &'a Config,
    db: &'a Db,
    host_lock: Arc<HostLock>,
    session: Session,
    source: Arc<dyn OpenSource>,
    there_at_start: Snapshot,
}

impl<'a> Ready<'a> {
    async fn prepare(config: &'a Config, db: &'a Db) -> anyhow::Result<Self> {
        let host_lock = Arc::new(HostLock::acquire(db, host_lock::PATIENCE).await?);
        let mut session = db.connect("start").await?;
        migrate::migrate(&mut session).await?;
        anchor::check(&session).await?;
        let source: Arc<dyn OpenSource> = Arc::new(Native::new(db.clone()));
        let there_at_start = source.open("start").await?.head().await?;
        Ok(Ready { config, db, host_lock, session, source, there_at_start })
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
        let Guests { most_lanes, instances, refusals } = guests;
        let mut settings = self.config.processor.clone();
        settings.lanes_at_once = settings.lanes_at_once.min(most_lanes).max(1);
        let scheduler = Scheduler::start_for(&self.config.scheduler, tenants.weights(), &tenants.threads());
        let scheduler = scheduler.context("start the guest threads")?;
        let pages = Pages::new(self.source.clone(), settings.page_events, settings.page_kib << 10);
        let (wake, wakeups) = Wake::new(self.source);
        let (db, host_lock) = (self.db.clone(), self.host_lock);
        let lockstep = Arc::default();
        let mut supervisor = Supervisor::default();
        supervisor.spawn(
            "tell what tenants use",
            usage::tell(tenants.clone(), refusals.clone(), db.clone(), supervisor.stop()),
        );
        let ground = Ground {
            db: db.clone(),
            pages,
            wakeups,
            host_lock,
            tenants: tenants.clone(),
            instances,
            lockstep,
            config: settings,
        };
        supervisor.spawn("watch the log's head", wake.run(supervisor.stop()));
        let fleet = Fleet::new(ground, scheduler, self.config.processors.clone());
        let (standings, refused) = match origin {
            Origin::Here(followers) => {
                let mut fleet = fleet;
                let refused = fleet.start(&self.session, followers).await;
                for (follower, error) in &refused {
                    tracing::error!(plugin = follower.plugin, "refused: {error}");
                }
                let (standings, refused) = (standings(&fleet), refused.len());
                supervisor.spawn("processors", fleet.run(supervisor.stop()));
                (standings, refused)
            }
            Origin::Folder(sandbox) => {
                let folder = &self.config.plugins;
                let mut registry = Registry::new(folder, sandbox, db.clone(), fleet, &self.config.rollout);
                let refused = registry.begin().await.with_context(|| {
                    format!(
                        "read the plugins folder {}; name one with --plugins, or with `plugins` in the settings",
                        folder.display()
                    )
                })?;
                for name in registry.fleet().idle_settings() {
                    tracing::warn!(
                        "[processors.{name}] has no effect: no plugin that runs here claims the processor id {name}"
                    );
                }
                let standings = standings(registry.fleet());
                if standings.is_empty() {
                    let told = format!(
                        "no plugin that can run in {}; put NAME.wasm files there (`sandmill plugin build` makes them)",
                        folder.display()
                    );
                    if until == Until::CaughtUp {
                        return Err(NothingRuns(told).into());
                    }
                    tracing::warn!("{told}; one that comes there is taken at once");
                }
                // Later files are nothing to whoever handles what is there now.
                match until {
                    Until::Told => supervisor.spawn("plugins", registry.run(supervisor.stop())),
                    Until::CaughtUp => supervisor.spawn("processors", registry.into_fleet().run(supervisor.stop())),
                }
                (standings, refused)
            }
        };
        drop(self.session);

        let caught_up = async {
            if until == Until::Told {
                return std::future::pending().await;
            }
            caught_up(&standings, &self.there_at_start).await;
            blocked(&standings, self.db).await
        };
        let mut ended = Ok(Ended::Drained);
        let drain = async {
            tokio::select! {
                () = drain => {}
                blocked = caught_up => ended = match blocked {
                    Ok(blocked) if blocked.is_empty() => Ok(Ended::CaughtUp { refused }),
                    Ok(blocked) => Ok(Ended::Blocked(blocked)),
                    Err(error) => Err(error),
                },
            }
        };
        supervisor.run(drain, abort).await?;
        let ended = ended?;
        usage::tell_last(&tenants, &refusals, &db).await;
        Ok(ended)
    }
}

/// Waits until every processor has handled what `head` sees, but for lanes that wait for a person.
async fn caught_up(standings: &[(ProcessorId, watch::Receiver<Standing>)], head: &Snapshot) {
    for (_, standing) in standings {
        let mut standing = standing.clone();
        let level = |now: &Standing| now.lanes_moving == 0 && now.seen.as_ref().is_some_and(|seen| seen.covers(head));
        if standing.wait_for(|now| now.paused.is_some() || level(now)).await.is_err() {
            // The processor failed; the supervisor has its error and ends everything.
            return std::future::pending().await;
        }
    }
}

/// What waits for a person.
async fn blocked(standings: &[(ProcessorId, watch::Receiver<Standing>)], db: &Db) -> anyhow::Result<BlockedLanes> {
    let mut blocked = BlockedLanes::default();
    let mut session = None;
    for (processor, standing) in standings {
        let (lanes, paused) = {
            let now = standing.borrow();
            (now.lanes_standing, now.paused.clone())
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
        let (first, all) = exceptions::standing(session, processor, BLOCKED_LANES).await?;
        blocked.all += all as usize;
        let first = first.into_iter().map(|(lane, reason)| (Some(lane), reason));
        blocked.first.extend(first.map(|(lane, reason)| BlockedLane { processor: processor.clone(), lane, reason }));
    }
    Ok(blocked)
}

/// How those who run stand.
fn standings(fleet: &Fleet) -> Vec<(ProcessorId, watch::Receiver<Standing>)> {
    fleet.members().iter().map(|(id, member)| (id.clone(), member.standing.clone())).collect()
}
