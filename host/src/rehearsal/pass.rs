//! One pass over the events of a test, with one way of batching them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{ATTEMPTS, DocumentName, NamedDocuments, PluginTest, batching::Batching, documents::MemoryDocuments};
use crate::{
    consumer::router::Router,
    model::{
        event::Event,
        handler::Reason,
        ids::{LaneKey, TenantId},
        spec::PartitionBy,
    },
    processor::{
        lane::{LaneRun, RunStop, TermEnded},
        outcome::Outcome,
    },
    scheduler::Class,
};

/// A finished pass.
pub(super) struct Pass {
    pub(super) batching: Batching,
    pub(super) took: Duration,
    pub(super) result: PassResult,
    pub(super) documents: NamedDocuments,
}

/// The result of a pass besides documents, in the log's order.
#[derive(Default)]
pub(super) struct PassResult {
    pub(super) batches: u64,
    /// Events handled, including skipped ones.
    pub(super) handled: u64,
    /// Events not handled because their lane stopped, including the event that it stopped at.
    pub(super) waiting: u64,
    /// Skipped events, by line.
    pub(super) skipped: BTreeMap<i64, SkippedEvent>,
    /// Stopped lanes, by the line of the event that each stopped at.
    pub(super) stopped: BTreeMap<i64, StoppedLane>,
}

/// An event that the plugin skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedEvent {
    /// Its line.
    pub line: i64,
    /// Its tenant.
    pub tenant: String,
    /// Its id.
    pub event: String,
    /// The plugin's code, prefixed with `plugin:`.
    pub class: String,
    /// The plugin's message.
    pub message: String,
}

/// A lane that stopped, where and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedLane {
    /// The line of the event at which it stopped.
    pub line: i64,
    /// The lane's tenant.
    pub tenant: String,
    /// The lane's key.
    pub lane: String,
    /// The event's id.
    pub event: String,
    /// The event's type.
    pub event_type: String,
    /// The kind of failure.
    pub class: String,
    /// What happened.
    pub message: String,
    /// Number of attempts, if the plugin asked for a retry; none if the lane stopped without a
    /// retry.
    pub attempts: Option<u32>,
}

/// Runs a pass over the events, all of which the plugin subscribes to.
pub(super) async fn run(
    test: &PluginTest<'_>,
    router: &Router,
    batching: Batching,
    events: &[Arc<Event>],
) -> Result<Pass, TermEnded> {
    test.runner.code.current().handler.forget_all();
    let began = Instant::now();
    let owned = test.spec.descriptor.partition_by != PartitionBy::Tenant;
    let passes = by_tenant(events).into_iter().enumerate().map(|(number, (tenant, events))| {
        let documents = Arc::new(MemoryDocuments::new(owned));
        let (result, stopped) = (PassResult::default(), HashSet::new());
        let pass = TenantPass { test, router, batching: &batching, documents, result, stopped };
        pass.run(number, tenant, events)
    });
    let mut ended = stream::iter(passes).buffer_unordered(test.tenants_at_once.max(1));
    let (mut result, mut documents) = (PassResult::default(), NamedDocuments::new());
    while let Some((tenant, tenant_result, tenant_documents)) = ended.try_next().await? {
        result.add(tenant_result);
        let named = tenant_documents.all().into_iter().map(|(collection, id, data)| {
            (DocumentName { collection: collection.as_shared(), tenant: tenant.as_shared(), id }, data)
        });
        documents.extend(named);
    }
    drop(ended);
    Ok(Pass { took: began.elapsed(), result, documents, batching })
}

/// Each tenant's events in the log's order, tenants in the order of their first event.
fn by_tenant(events: &[Arc<Event>]) -> Vec<(TenantId, Vec<Arc<Event>>)> {
    let mut tenants: Vec<(TenantId, Vec<Arc<Event>>)> = Vec::new();
    let mut index: HashMap<&TenantId, usize> = HashMap::new();
    for event in events {
        let at = *index.entry(&event.tenant).or_insert_with(|| {
            tenants.push((event.tenant.clone(), Vec::new()));
            tenants.len() - 1
        });
        tenants[at].1.push(event.clone());
    }
    tenants
}

impl PassResult {
    fn add(&mut self, other: PassResult) {
        self.batches += other.batches;
        self.handled += other.handled;
        self.waiting += other.waiting;
        self.skipped.extend(other.skipped);
        self.stopped.extend(other.stopped);
    }
}

/// A pass over the events of one tenant.
struct TenantPass<'a> {
    test: &'a PluginTest<'a>,
    router: &'a Router,
    batching: &'a Batching,
    documents: Arc<MemoryDocuments>,
    result: PassResult,
    stopped: HashSet<LaneKey>,
}

impl TenantPass<'_> {
    async fn run(
        mut self,
        number: usize,
        tenant: TenantId,
        events: Vec<Arc<Event>>,
    ) -> Result<(TenantId, PassResult, Arc<MemoryDocuments>), TermEnded> {
        let mut size = self.batching.sizes(number);
        for page in self.batching.pages(&events) {
            for (lane, events) in self.router.route(page) {
                let mut rest = &events[..];
                while !rest.is_empty() && !self.stopped.contains(&lane) {
                    let (batch, later) = rest.split_at(size().min(rest.len()));
                    rest = later;
                    self.batch(&lane, batch).await?;
                }
                self.result.waiting += rest.len() as u64;
            }
        }
        Ok((tenant, self.result, self.documents))
    }

    /// Handles a batch completely, or up to the event at which its lane stops.
    async fn batch(&mut self, lane: &LaneKey, mut batch: &[Arc<Event>]) -> Result<(), TermEnded> {
        let runner = self.test.runner;
        let (mut size, mut attempts) = (batch.len(), 0);
        while let Some(first) = batch.first() {
            let part = &batch[..size.min(batch.len())];
            let run = runner.run_over(lane, Class::Live, part, attempts, None, self.documents.clone()).await?;
            self.result.batches += 1;
            let LaneRun { outcome, stop, .. } = run;
            let Outcome { handled, documents, dead_letters, .. } = outcome;
            if let Err(rejected) = self.documents.write(Arc::unwrap_or_clone(documents)) {
                // As on a host, no result of the batch counts, and smaller batches find the event.
                runner.code.current().handler.forget(&lane.tenant);
                if part.len() == 1 {
                    let reason = Reason::new("malformed-output", rejected.to_string());
                    self.stop(lane, batch, first, reason, None);
                    return Ok(());
                }
                size = part.len() / 2;
                continue;
            }
            if self.batching.is_fresh() {
                runner.code.current().handler.forget(&lane.tenant);
            }
            self.result.handled += handled as u64;
            self.result.skipped.extend(dead_letters.into_iter().map(|letter| {
                let (tenant, Reason { class, message }) = (letter.lane.tenant.to_string(), letter.reason);
                let event = letter.event_id.to_string();
                (letter.position, SkippedEvent { line: letter.position, tenant, event, class, message })
            }));
            batch = &batch[handled..];
            let Some(event) = batch.first() else { return Ok(()) };
            let (reason, stopped_after) = match stop {
                None => {
                    attempts = 0;
                    continue;
                }
                Some(RunStop::Block(reason)) => (reason, None),
                Some(RunStop::Retry { reason, .. }) => {
                    attempts = if handled > 0 { 1 } else { attempts + 1 };
                    if attempts < ATTEMPTS {
                        continue;
                    }
                    (reason, Some(attempts))
                }
            };
            self.stop(lane, batch, event, reason, stopped_after);
            return Ok(());
        }
        Ok(())
    }

    /// Records that a lane stops at an event, and that it handles none of the rest.
    fn stop(&mut self, lane: &LaneKey, rest: &[Arc<Event>], at: &Event, reason: Reason, attempts: Option<u32>) {
        self.result.waiting += rest.len() as u64;
        self.stopped.insert(lane.clone());
        let stop = StoppedLane {
            line: at.position,
            tenant: lane.tenant.to_string(),
            lane: lane.key.to_string(),
            event: at.id.to_string(),
            event_type: at.event_type.to_string(),
            class: reason.class,
            message: reason.message,
            attempts,
        };
        self.result.stopped.insert(at.position, stop);
    }
}
