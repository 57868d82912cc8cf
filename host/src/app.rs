//! The composition root: builds the parts, wires them, and hands their tasks to the supervisor. The only file that sees all of them,
//! and one without decisions of its own.

mod author;

use std::{path::Path, sync::Arc};

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
        handler::{Descriptor, Handler, Reason},
        ids::{LaneKey, ProcessorId, TenantId},
    },
    plugins::directory::{self, PluginFile},
    processor::{Ground, Processor, Standing, lane::Runner, registration, report::Instances},
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
    Blocked(Vec<BlockedLane>),
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

/// A handler that is to follow the log.
pub struct Follower {
    /// What it is.
    pub descriptor: Descriptor,
    /// Where it comes from, for people: a plugin's file without its ending, or `native`.
    pub plugin: String,
    /// The version of its code.
    pub digest: String,
    /// Its code.
    pub handler: Arc<dyn Handler>,
}

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
    let loaded = load_all(&config.plugins, &sandbox)?;
    // A call for which no instance is left is refused at once, so no more lanes run than there can be instances.
    let most_lanes = sandbox.usage().most_live / loaded.followers.len().max(1);
    let guests = Guests {
        most_lanes,
        instances: Arc::new({
            let sandbox = sandbox.clone();
            move || sandbox.usage().live
        }),
        refusals: Arc::new(move || sandbox.refusals_by_tenant()),
    };
    ready.run(loaded, tenants, guests, until, drain, abort).await
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
    let loaded = Loaded { followers, refused: 0 };
    let guests = Guests { most_lanes: usize::MAX, instances: Arc::new(|| 0), refusals: Arc::new(Vec::new) };
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    Ready::prepare(config, db).await?.run(loaded, tenants, guests, until, drain, abort).await
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
        mut self,
        loaded: Loaded,
        tenants: Tenants,
        guests: Guests,
        until: Until,
        drain: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> anyhow::Result<Ended> {
        let Loaded { followers, mut refused } = loaded;
        let Guests { most_lanes, instances, refusals } = guests;
        let mut settings = self.config.processor.clone();
        settings.lanes_at_once = settings.lanes_at_once.min(most_lanes).max(1);
        let scheduler = Scheduler::start_for(&self.config.scheduler, tenants.weights(), &tenants.threads());
        let scheduler = scheduler.context("start the guest threads")?;
        let pages = Pages::new(self.source.clone(), settings.page_events, settings.page_kib << 10);
        let (wake, wakeups) = Wake::new(self.source);
        let (db, host_lock) = (self.db.clone(), self.host_lock);
        let lockstep = Arc::default();
        let mut pressures = self.config.processors.clone();
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
        let mut standings = Vec::new();
        let mut processors = Vec::new();
        for Follower { descriptor, plugin, digest, handler } in followers {
            if let Err(error) = registration::register(&mut self.session, &descriptor, &plugin, &digest).await {
                refused += 1;
                tracing::error!(plugin, "refused: {error}");
                continue;
            }
            announce(&plugin, &descriptor, &digest);
            let batch_events = descriptor.max_batch_size.map_or(usize::MAX, |max| max as usize);
            let runner = Runner { handler, scheduler: scheduler.clone(), batch_events };
            let id = descriptor.id.clone();
            let pressure = pressures.remove(id.as_str()).unwrap_or_default();
            let (processor, standing) = Processor::new(descriptor, digest, runner, ground.clone(), pressure);
            processors.push((format!("processor {id}"), processor));
            standings.push((id, standing));
        }
        for name in pressures.keys() {
            tracing::warn!(
                "[processors.{name}] has no effect: no plugin that runs here claims the processor id {name}"
            );
        }
        for (name, processor) in processors {
            supervisor.spawn(name, processor.run(supervisor.stop()));
        }
        drop(self.session);
        if standings.is_empty() {
            return Err(NothingRuns("every plugin was refused; see above".into()).into());
        }

        let caught_up = async {
            if until == Until::Told {
                return std::future::pending().await;
            }
            caught_up(&standings, &self.there_at_start).await
        };
        let mut ended = Ended::Drained;
        let drain = async {
            tokio::select! {
                () = drain => {}
                blocked = caught_up => ended = if blocked.is_empty() { Ended::CaughtUp { refused } } else { Ended::Blocked(blocked) },
            }
        };
        supervisor.run(drain, abort).await?;
        usage::tell_last(&tenants, &refusals, &db).await;
        Ok(ended)
    }
}

/// Waits until every processor has handled what `head` sees, and returns the lanes that wait for a person.
async fn caught_up(standings: &[(ProcessorId, watch::Receiver<Standing>)], head: &Snapshot) -> Vec<BlockedLane> {
    let mut blocked = Vec::new();
    for (processor, standing) in standings {
        let mut standing = standing.clone();
        let level = |now: &Standing| now.lanes_moving == 0 && now.seen.as_ref().is_some_and(|seen| seen.covers(head));
        let there = standing.wait_for(|now| now.paused.is_some() || level(now)).await;
        let Ok((lanes, paused)) = there.map(|now| (now.lanes_blocked.clone(), now.paused.clone())) else {
            // The processor failed; the supervisor has its error and ends everything.
            return std::future::pending().await;
        };
        let lanes = lanes.into_iter().map(|(lane, reason)| (Some(lane), reason));
        let whole = paused.map(|reason| (None, reason));
        blocked.extend(lanes.chain(whole).map(|(lane, reason)| BlockedLane {
            processor: processor.clone(),
            lane,
            reason,
        }));
    }
    blocked
}

struct Loaded {
    followers: Vec<Follower>,
    refused: usize,
}

/// Loads every plugin in a folder. One that cannot be loaded says why and keeps no other from running.
fn load_all(folder: &Path, sandbox: &Sandbox) -> anyhow::Result<Loaded> {
    let files = directory::scan(folder).with_context(|| {
        format!(
            "read the plugins folder {}; name one with --plugins, or with `plugins` in the settings",
            folder.display()
        )
    })?;
    let mut loaded = Loaded { followers: Vec::new(), refused: 0 };
    for file in files {
        match load(&file, sandbox, &loaded.followers) {
            Ok(follower) => loaded.followers.push(follower),
            Err(error) => {
                loaded.refused += 1;
                // The remedy is a line of its own where people read it; a log has one line for all of it.
                let told = format!("{error:#}").replace('\n', ". ");
                tracing::error!(plugin = %file.path.display(), "refused: {told}");
            }
        }
    }
    if loaded.followers.is_empty() {
        let told = format!(
            "no plugin that can run in {}; put NAME.wasm files there (`sandmill plugin build` makes them)",
            folder.display()
        );
        return Err(NothingRuns(told).into());
    }
    Ok(loaded)
}

/// Loads one plugin, beside those that are loaded already.
fn load(file: &PluginFile, sandbox: &Sandbox, others: &[Follower]) -> anyhow::Result<Follower> {
    let plugin = tokio::task::block_in_place(|| sandbox.examine(&file.path)).loaded?;
    let (descriptor, digest) = (plugin.descriptor().clone(), plugin.digest().to_string());
    if let Some(twin) = others.iter().find(|other| other.descriptor.id == descriptor.id) {
        anyhow::bail!(
            "claims the processor id {} that {} has already; remove one of the two",
            descriptor.id,
            file.path.with_file_name(format!("{}.wasm", twin.plugin)).display()
        );
    }
    Ok(Follower { descriptor, plugin: file.name.clone(), digest, handler: Arc::new(plugin) })
}

fn announce(plugin: &str, descriptor: &Descriptor, digest: &str) {
    tracing::info!(
        processor = %descriptor.id,
        version = descriptor.version,
        plugin,
        digest = digest.get(..12),
        event_types = descriptor.event_types.as_ref().map_or_else(|| "all".into(), |types| types.join(" ")),
        "running"
    );
}
