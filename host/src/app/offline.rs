//! A version of a plugin in this process, without a host: over the committed documents of a
//! database, which it does not change, or over those of a capsule.

use std::{pin::pin, sync::Arc};

use anyhow::{Context, bail};

use super::of_tenant;
use crate::{
    config::Config,
    db::{Db, Session},
    model::{
        event::Event,
        handler::{BoxFuture, Failure},
        ids::{CollectionName, LaneKey, ProcessorId, TenantId},
        spec::ProcessorSpec,
    },
    plugins::offline::{OfflineVersion, PluginPlace},
    processor::{
        code::{CodeVersion, SwappableCode},
        lane::Runner,
    },
    projections::{
        documents::{self, CommittedReader},
        list,
    },
    rehearsal::{FindDocuments, FoundDocument, replay::Replay},
    sandbox::{Sandbox, TenantLimits},
    scheduler::Scheduler,
    source::{EventSource, Limit, OpenSource, native::Native},
    tenants::Tenants,
};

/// The largest data and metadata of an event that are read, in bytes. 64 MiB: twice the highest
/// limit of a store.
const LARGEST_EVENT: u64 = 64 << 20;

/// A sandbox with a host's limits of tenants.
pub(super) fn sandbox(config: &Config) -> anyhow::Result<Sandbox> {
    let tenants = Tenants::new(&config.tenants, &config.tenant_limits);
    let of_tenant = move |tenant: &TenantId| -> TenantLimits { of_tenant(&tenants.limits(tenant)) };
    Sandbox::with_tenants(config.limits.clone(), config.compile.clone(), of_tenant)
}

/// The place of the files of a processor's plugin.
pub(super) fn place(config: &Config, processor: &ProcessorId, plugin: &str) -> PluginPlace {
    let folder = Some(config.plugins.clone()).filter(|folder| !folder.as_os_str().is_empty());
    PluginPlace { folder, name: plugin.into(), owner: processor.owner().cloned() }
}

/// A version with its spec and its guest threads.
pub(super) struct Workbench {
    pub(super) version: OfflineVersion,
    pub(super) spec: ProcessorSpec,
    runner: Runner,
}

impl Workbench {
    /// A workbench for a version. Fails if it is the plugin of another processor.
    pub(super) fn new(config: &Config, version: OfflineVersion, processor: &ProcessorId) -> anyhow::Result<Self> {
        let plugin = &version.plugin;
        if plugin.descriptor().id != *processor.family() {
            bail!(
                "{} is the plugin `{}`, and the failure is one of `{processor}`; name a file of the plugin `{}`",
                version.found,
                plugin.descriptor().id,
                processor.family()
            );
        }
        let spec = version.manifest.manifest.apply_to(plugin.descriptor(), processor.owner());
        // Under test, a failure shows: it is neither retried nor set aside by a policy.
        let code = CodeVersion::new(plugin.digest(), plugin.clone(), spec.max_batch_size).under_test();
        let scheduler = Scheduler::start(&config.scheduler).context("start the guest threads")?;
        let runner = Runner::new(&spec, Arc::new(SwappableCode::new(code)), scheduler);
        Ok(Workbench { version, spec, runner })
    }

    /// A lane over documents from an origin.
    pub(super) fn lane(&self, lane: &LaneKey, documents: Arc<dyn FindDocuments>) -> Replay {
        Replay::new(&self.spec, self.runner.clone(), lane.clone(), documents)
    }

    /// The lane into which this version puts an event; none if it does not handle the event.
    pub(super) fn lane_of(&self, event: &Event) -> Option<LaneKey> {
        self.runner.router.handles(event).then(|| self.runner.router.lane(event))
    }
}

/// The committed documents of a processor.
pub(super) struct CommittedDocuments {
    reader: Arc<CommittedReader>,
    collections: Arc<[CollectionName]>,
}

impl CommittedDocuments {
    /// The documents of a processor's collections.
    pub(super) async fn open(
        config: &Config,
        db: &Db,
        session: &Session,
        processor: &ProcessorId,
    ) -> anyhow::Result<Self> {
        let collections = list::of_processor(session, processor).await?.into();
        let (sessions, owner) = (documents::sessions(db, 1), processor.owner().cloned());
        let reader = Arc::new(CommittedReader::new(sessions, owner, config.processor.read_mib << 20));
        Ok(CommittedDocuments { reader, collections })
    }

    /// The documents as one lane reads them. They are found only [while](Self::during) someone
    /// answers.
    pub(super) fn of_lane(&self, lane: &LaneKey) -> Arc<dyn FindDocuments> {
        let (reader, collections) = (self.reader.clone(), self.collections.clone());
        Arc::new(CommittedLane { reader, collections, lane: lane.clone() })
    }

    /// Answers reads of documents while some work is done.
    pub(super) async fn during<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let (serve, work) = (pin!(self.reader.serve()), pin!(work));
        tokio::select! {
            served = serve => served.map(|never| match never {}).map_err(Into::into),
            done = work => done,
        }
    }
}

/// The committed documents of one lane.
struct CommittedLane {
    reader: Arc<CommittedReader>,
    collections: Arc<[CollectionName]>,
    lane: LaneKey,
}

impl FindDocuments for CommittedLane {
    fn find<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<FoundDocument>>, Failure>> {
        Box::pin(async move {
            if !self.collections.contains(collection) {
                // A newer version may list a collection that does not exist yet.
                return Ok(vec![Some(FoundDocument::default()); ids.len()]);
            }
            let found = self.reader.find(&self.lane, collection, ids).await?;
            Ok(found.into_iter().map(|found| Some(FoundDocument { data: found.data, owner: found.owner })).collect())
        })
    }
}

/// A reader of single events.
pub(super) struct EventReader(Box<dyn EventSource>);

impl EventReader {
    pub(super) async fn open(db: &Db, purpose: &str) -> anyhow::Result<Self> {
        Ok(EventReader(Native::new(db.clone()).open(purpose).await?))
    }

    /// A tenant's event at a position, with all its data, or why it cannot be read. If `id` is
    /// given, the event must have it: after a restore, another event may be at the position.
    pub(super) async fn event(
        &mut self,
        tenant: &TenantId,
        position: i64,
        id: Option<&str>,
    ) -> anyhow::Result<Result<Arc<Event>, String>> {
        let last = self.0.last(Some(tenant), None, position, Limit::events(1)).await?;
        let is_it = |event: &Arc<Event>| event.position == position && id.is_none_or(|id| *event.id == *id);
        let Some(event) = last.into_iter().next_back().filter(is_it) else {
            return Ok(Err(format!("the event at position {position} is no longer in the store")));
        };
        if event.deferred.is_none() {
            return Ok(Ok(event));
        }
        let bodies = match self.0.load(&[position], usize::MAX, Some(LARGEST_EVENT)).await {
            Err(error) if error.is_about_a_row() => {
                return Ok(Err(format!("the database cannot return the event at position {position}: {error}")));
            }
            bodies => bodies?,
        };
        let texts = bodies.into_iter().next().and_then(|body| body.texts);
        Ok(texts
            .map(|(data, metadata)| Arc::new(Event { data, metadata, deferred: None, ..Event::clone(&event) }))
            .ok_or_else(|| format!("the event at position {position} has more than {} MiB", LARGEST_EVENT >> 20)))
    }
}
