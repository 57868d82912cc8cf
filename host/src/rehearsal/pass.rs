//! The events handled once, in one way of cutting them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    ATTEMPTS, Documents, Name, Rehearsal,
    cut::Cut,
    documents::Kept,
    report::{SkippedEvent, Stop},
};
use crate::{
    consumer::router::Router,
    model::{
        event::Event,
        handler::{PartitionBy, Reason},
        ids::{LaneKey, TenantId},
    },
    processor::lane::{Outcome, RunStop, TermEnded},
    scheduler::Class,
};

/// What came of it.
pub(super) struct Pass {
    pub(super) cut: Cut,
    pub(super) took: Duration,
    pub(super) did: Did,
    pub(super) documents: Documents,
}

/// What was done, besides documents. In the log's order, however tenants ran.
#[derive(Default)]
pub(super) struct Did {
    pub(super) batches: u64,
    /// Events handled, skipped ones among them.
    pub(super) handled: u64,
    /// Events that stand behind a stop, the one that it stands at included.
    pub(super) waiting: u64,
    /// By their lines.
    pub(super) skipped: BTreeMap<i64, SkippedEvent>,
    /// By the line of the event that each stands at.
    pub(super) stopped: BTreeMap<i64, Stop>,
}

/// Handles the events, all of which the plugin takes.
pub(super) async fn run(
    rehearsal: &Rehearsal<'_>,
    router: &Router,
    cut: Cut,
    events: &[Arc<Event>],
) -> Result<Pass, TermEnded> {
    rehearsal.runner.code.current().handler.forget_all();
    let began = Instant::now();
    let owned = rehearsal.descriptor.partition_by != PartitionBy::Tenant;
    let works = by_tenant(events).into_iter().enumerate().map(|(number, (tenant, events))| {
        let kept = Arc::new(Kept::new(owned));
        let work = Work { rehearsal, router, cut: &cut, kept, did: Did::default(), stopped: HashMap::new() };
        work.run(number, tenant, events)
    });
    let mut ended = stream::iter(works).buffer_unordered(rehearsal.tenants_at_once.max(1));
    let (mut did, mut documents) = (Did::default(), Documents::new());
    while let Some((tenant, one, kept)) = ended.try_next().await? {
        did.add(one);
        let named = kept.all().into_iter().map(|(collection, id, data)| {
            (Name { collection: collection.as_shared(), tenant: tenant.as_shared(), id }, data)
        });
        documents.extend(named);
    }
    drop(ended);
    Ok(Pass { took: began.elapsed(), did, documents, cut })
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

impl Did {
    fn add(&mut self, other: Did) {
        self.batches += other.batches;
        self.handled += other.handled;
        self.waiting += other.waiting;
        self.skipped.extend(other.skipped);
        self.stopped.extend(other.stopped);
    }
}

/// One tenant at work.
struct Work<'a> {
    rehearsal: &'a Rehearsal<'a>,
    router: &'a Router,
    cut: &'a Cut,
    kept: Arc<Kept>,
    did: Did,
    /// Lanes that stopped, with the line of the event they stand at.
    stopped: HashMap<LaneKey, i64>,
}

impl Work<'_> {
    async fn run(
        mut self,
        number: usize,
        tenant: TenantId,
        events: Vec<Arc<Event>>,
    ) -> Result<(TenantId, Did, Arc<Kept>), TermEnded> {
        let mut size = self.cut.sizes(number);
        for page in self.cut.pages(&events) {
            for (lane, events) in self.router.route(page) {
                let mut rest = &events[..];
                while !rest.is_empty() && !self.stopped.contains_key(&lane) {
                    let (batch, later) = rest.split_at(size().min(rest.len()));
                    rest = later;
                    self.batch(&lane, batch).await?;
                }
                self.did.waiting += rest.len() as u64;
            }
        }
        Ok((tenant, self.did, self.kept))
    }

    /// Handles a batch to its end, or to the event where its lane stops.
    async fn batch(&mut self, lane: &LaneKey, mut batch: &[Arc<Event>]) -> Result<(), TermEnded> {
        let runner = self.rehearsal.runner;
        let (mut most, mut attempts) = (batch.len(), 0);
        while let Some(first) = batch.first() {
            let part = &batch[..most.min(batch.len())];
            let outcome = runner.run_over(lane, Class::Live, part, attempts, None, self.kept.clone()).await?;
            self.did.batches += 1;
            let Outcome { handled, changes, dead_letters, stop, .. } = outcome;
            if let Err(refused) = self.kept.write(changes) {
                // As on a host: nothing of it counts, and fewer events at a time find the one that is refused.
                runner.code.current().handler.forget(&lane.tenant);
                if part.len() == 1 {
                    let reason = Reason::new("malformed-output", refused.to_string());
                    self.stop(lane, batch, first, reason, None);
                    return Ok(());
                }
                most = part.len() / 2;
                continue;
            }
            if self.cut.is_fresh() {
                runner.code.current().handler.forget(&lane.tenant);
            }
            self.did.handled += handled as u64;
            self.did.skipped.extend(dead_letters.into_iter().map(|letter| {
                let (tenant, Reason { class, message }) = (letter.lane.tenant.to_string(), letter.reason);
                let event = letter.event_id.to_string();
                (letter.position, SkippedEvent { line: letter.position, tenant, event, class, message })
            }));
            batch = &batch[handled..];
            let Some(event) = batch.first() else { return Ok(()) };
            let (reason, tried) = match stop {
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
            self.stop(lane, batch, event, reason, tried);
            return Ok(());
        }
        Ok(())
    }

    fn stop(&mut self, lane: &LaneKey, rest: &[Arc<Event>], at: &Event, reason: Reason, attempts: Option<u32>) {
        self.did.waiting += rest.len() as u64;
        self.stopped.insert(lane.clone(), at.position);
        let stop = Stop {
            line: at.position,
            tenant: lane.tenant.to_string(),
            lane: lane.key.to_string(),
            event: at.id.to_string(),
            event_type: at.event_type.to_string(),
            class: reason.class,
            message: reason.message,
            attempts,
        };
        self.did.stopped.insert(at.position, stop);
    }
}
