//! One run of a lane: its events through the handler, in batches.
//!
//! A batch that would fail again is halved until the event that fails is alone. The events before
//! it keep their effects, and the lane stops exactly there. A batch that was only too large for one
//! call thus passes in parts. A batch that failed for lack of a resource is not halved: the lane
//! stops before it and retries. The size of a batch follows from the recent cost of the lane's
//! events. A run ends after some time even if events are left, so that what is handled can be
//! committed. Nothing is committed here: the caller receives the number of handled events, their
//! effects, and what stopped the rest.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    consumer::router::Router,
    model::{
        effects::{Change, Effects, HaltAction},
        event::{Batch, Event},
        handler::{BoxFuture, Documents, Failure, Reason},
        ids::{CollectionName, LaneKey},
        loading::{LoadEvents, Loaded},
        spec::ProcessorSpec,
    },
    processor::{
        code::{CodeVersion, SwappableCode},
        commit::DeadLetter,
    },
    projections::documents::{self, Changes, DocumentKey},
    scheduler::{Class, CommitWaiters, Scheduler, TaskMeter},
};

/// Target wall-clock time of one call. 50 ms: long enough that the overhead of a call is
/// negligible, and short enough to end a run in time.
const CALL: Duration = Duration::from_millis(50);
/// Time after which a run ends even if events are left.
const RUN: Duration = Duration::from_millis(100);
/// Bytes of documents after which a run ends even if events are left, so that they can be
/// committed. 1 MiB: the documents of unfinished runs count against no other bound.
const RUN_BYTES: usize = 1 << 20;
/// Events in the first call of a lane whose cost is unknown.
pub const FIRST_BATCH: usize = 500;

/// The resources that every lane of a processor needs to run.
#[derive(Clone)]
pub struct Runner {
    /// The code.
    pub code: Arc<SwappableCode>,
    /// The scheduler of the guest threads.
    pub scheduler: Scheduler,
    /// The source of deferred data; none if no data is deferred.
    pub deferred: Option<Arc<dyn LoadEvents>>,
    /// The processor's subscription, which finds events whose lane cannot be determined.
    pub router: Router,
    /// Whether it handles events again and discards the results.
    pub replaying: bool,
    /// The runs that wait for results of their tenants to be committed before their next call.
    pub waiters: Arc<CommitWaiters>,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Number of events handled, counted from the first.
    pub handled: usize,
    /// Changed documents, with the last change of each.
    pub changes: Changes,
    /// Handled events that were set aside.
    pub dead_letters: Vec<DeadLetter>,
    /// What stopped the lane before the next event.
    pub stop: Option<RunStop>,
    /// Wall-clock time per event, smoothed; none if nothing is known of it.
    pub cost: Option<Duration>,
    /// CPU time of all calls, and their time in the queue for guest threads.
    pub meter: Arc<TaskMeter>,
}

/// The reason why a run stopped its lane.
#[derive(Clone, Debug, PartialEq)]
pub enum RunStop {
    /// It retries after the back-off, or after a longer time.
    Retry {
        /// The shortest pause that the handler asked for, if any.
        after: Option<Duration>,
        /// The cause.
        reason: Reason,
    },
    /// It waits for manual action.
    Block(Reason),
}

/// Why a term ended: the database connection or the fence was lost. Nothing uncommitted is kept,
/// and the next term starts from the state of the database.
#[derive(Debug)]
pub struct TermEnded(pub anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for TermEnded {
    fn from(error: E) -> Self {
        TermEnded(error.into())
    }
}

impl Runner {
    /// A runner for the subscription of a spec. Its results are kept (`replaying` is false).
    pub fn new(spec: &ProcessorSpec, code: Arc<SwappableCode>, scheduler: Scheduler) -> Self {
        let (router, waiters) = (Router::new(spec), Arc::default());
        Runner { code, scheduler, deferred: None, router, replaying: false, waiters }
    }

    /// Handles a lane's events, or as many as fit into one run. The first was attempted `attempts`
    /// times before. `class` is the scheduling class, and `cost` the recent wall-clock time per
    /// event of this lane.
    pub async fn run(
        &self,
        lane: &LaneKey,
        class: Class,
        events: &[Arc<Event>],
        attempts: u32,
        cost: Option<Duration>,
        documents: Arc<documents::TermDocuments>,
    ) -> Result<Outcome, TermEnded> {
        let documents =
            Arc::new(LaneDocuments { lane: lane.clone(), class, scheduler: self.scheduler.clone(), documents });
        self.run_over(lane, class, events, attempts, cost, documents).await
    }

    /// The same with documents from elsewhere: `documents` are the lane's documents as they were
    /// before this run.
    pub async fn run_over(
        &self,
        lane: &LaneKey,
        class: Class,
        events: &[Arc<Event>],
        attempts: u32,
        cost: Option<Duration>,
        documents: Arc<dyn Documents>,
    ) -> Result<Outcome, TermEnded> {
        let view = Arc::new(LaneView { lane: lane.clone(), documents, earlier: Mutex::default() });
        let mut run = Outcome { cost, ..Outcome::default() };
        let unreadable = self.router.unreadable(lane, events);
        let events = &events[..unreadable.as_ref().map_or(events.len(), |(index, _)| *index)];
        let mut limit = usize::MAX;
        let (began, mut bytes) = (Instant::now(), 0);
        let may_continue = |bytes| began.elapsed() < RUN && bytes < RUN_BYTES;
        while run.stop.is_none() && run.handled < events.len() && (run.handled == 0 || may_continue(bytes)) {
            let affordable = run.cost.map_or(FIRST_BATCH, |cost| {
                (CALL.as_nanos() / cost.as_nanos().max(1)).clamp(1, usize::MAX as u128) as usize
            });
            let next = events[run.handled..].iter().take(limit.min(affordable).min(self.code.current().batch_events));
            let next = &events[run.handled..run.handled + next.len()];
            // While it waits here it holds nothing that another run needs: no data, no permit, no
            // instance.
            self.scheduler.uncommitted().wait_for_room(&lane.tenant, &self.waiters).await;
            let loaded = self.load(lane, class, next).await?;
            let next = loaded.as_ref().map_or(next, |loaded| &loaded.events);
            if next.is_empty() {
                run.stop = loaded.and_then(|loaded| loaded.unread).map(RunStop::Block);
                break;
            }
            let ready = Instant::now();
            // The wait for a permit does not count as time of the call. The version may be swapped
            // in the meantime.
            let permit = self.code.current().handler.permit(&lane.tenant).await;
            if self.scheduler.uncommitted().exceeds_bound(&lane.tenant) {
                continue;
            }
            let version = self.code.current();
            let next = &next[..next.len().min(version.batch_events)];
            let attempt = if run.handled == 0 { attempts + 1 } else { 1 };
            let replaying = self.replaying;
            let batch = Arc::new(Batch { lane: lane.clone(), attempt, replaying, events: next.to_vec() });
            let (count, called, before) = (batch.events.len(), Instant::now(), run.handled);
            let under_way = version.begin();
            let answer = self.call(&version, class, &run.meter, batch.clone(), view.clone()).await;
            drop((under_way, permit));
            version.answered(lane, ready.elapsed());
            match answer {
                Ok(effects) => {
                    bytes += effects.changes.iter().map(Change::bytes).sum::<usize>();
                    let per_event = called.elapsed() / count as u32;
                    // The known cost counts half, so that one slow call is soon forgotten.
                    run.cost = Some(run.cost.map_or(per_event, |known| (known + per_event) / 2));
                    run.take(&batch, &version.digest, effects, &mut view.earlier());
                    version.handled(&batch, run.handled - before);
                }
                Err(Failure::Block(_)) if count > 1 => limit = count / 2,
                Err(Failure::Block(reason)) => run.stop = Some(RunStop::Block(reason)),
                Err(Failure::Retry(reason)) => run.stop = Some(RunStop::Retry { after: None, reason }),
                Err(Failure::EndTerm(cause)) => return Err(TermEnded(anyhow::anyhow!(cause))),
            }
            if let Some(RunStop::Block(reason)) = &run.stop {
                version.failed(lane, reason);
            }
        }
        if let Some((index, reason)) = unreadable
            && run.handled == index
            && run.stop.is_none()
        {
            run.stop = Some(RunStop::Block(reason));
        }
        run.changes = std::mem::take(&mut view.earlier());
        Ok(run)
    }

    /// Loads the deferred data of events, as far as there is room, and charges their tenant. None
    /// if no event's data is deferred.
    async fn load(&self, lane: &LaneKey, class: Class, events: &[Arc<Event>]) -> Result<Option<Loaded>, TermEnded> {
        let Some(source) = self.deferred.as_ref().filter(|_| events.iter().any(|event| event.deferred.is_some()))
        else {
            return Ok(None);
        };
        let loaded = source.load(&lane.tenant, events).await.map_err(|cause| anyhow::anyhow!(cause))?;
        self.scheduler.charge(&lane.tenant, class, loaded.took);
        Ok(Some(loaded))
    }

    /// One call on the guest threads, within its wall-clock limit.
    async fn call(
        &self,
        version: &CodeVersion,
        class: Class,
        meter: &Arc<TaskMeter>,
        batch: Arc<Batch>,
        view: Arc<LaneView>,
    ) -> Result<Effects, Failure> {
        let (wall, tenant) = (version.handler.wall_time(), batch.lane.tenant.clone());
        let call = self.scheduler.run(&tenant, class, meter, version.handler.clone().handle(batch, view));
        let (mut call, mut left) = (std::pin::pin!(call), wall);
        // Time in the queue for guest threads does not count. Otherwise calls would be killed just
        // because many tenants compute at the same time.
        let (began, waited) = (Instant::now(), meter.waited());
        loop {
            if let Ok(result) = tokio::time::timeout(left, &mut call).await {
                return result;
            }
            left = (wall + meter.waited() - waited).saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(Failure::Block(Reason::new(
                    "wall-time-limit",
                    format!("took more than {} ms for one call (limits.wall-ms)", wall.as_millis()),
                )));
            }
        }
    }
}

impl Outcome {
    /// Adds the effects of a call to the outcome: changes, dead letters, and an early stop.
    fn take(&mut self, batch: &Batch, digest: &Arc<str>, effects: Effects, changes: &mut Changes) {
        for skipped in effects.skipped {
            // The answer was checked: an index is within the batch.
            let Some(event) = batch.events.get(skipped.index) else { continue };
            self.dead_letters.push(DeadLetter {
                lane: batch.lane.clone(),
                position: event.position,
                event_id: event.id.clone(),
                digest: digest.clone(),
                reason: plugin_reason(&skipped.code, skipped.message, "skipped the event"),
                attempts: if skipped.index == 0 { batch.attempt } else { 1 },
            });
        }
        // If no event was handled, the changes would be visible to later calls but never committed.
        let handled = effects.halted.as_ref().is_none_or(|halt| halt.index > 0);
        for change in effects.changes.into_iter().filter(|_| handled) {
            let (collection, id, data) = match change {
                Change::Put { collection, id, data } => (collection, id, Some(data)),
                Change::Remove { collection, id } => (collection, id, None),
            };
            changes.insert(DocumentKey { lane: batch.lane.clone(), collection, id }, data);
        }
        match effects.halted {
            None => self.handled += batch.events.len(),
            Some(halt) => {
                self.handled += halt.index;
                let reason = plugin_reason(&halt.code, halt.message, "stopped before the event");
                self.stop = Some(match halt.action {
                    HaltAction::Retry { after } => RunStop::Retry { after, reason },
                    HaltAction::Stop => RunStop::Block(reason),
                });
            }
        }
    }
}

/// The plugin author's reason, or a default message.
fn plugin_reason(code: &str, message: String, otherwise: &str) -> Reason {
    let class = if code.is_empty() { "plugin".to_string() } else { format!("plugin:{code}") };
    Reason::new(&class, if message.is_empty() { format!("the plugin {otherwise}") } else { message })
}

/// A lane's view of the documents of its tenant, including uncommitted changes of its earlier
/// batches.
struct LaneView {
    lane: LaneKey,
    documents: Arc<dyn Documents>,
    earlier: Mutex<Changes>,
}

impl LaneView {
    fn earlier(&self) -> MutexGuard<'_, Changes> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, collection: &CollectionName, ids: &[String]) -> Result<Vec<Option<Arc<str>>>, Failure> {
        let mut found = self.documents.get_many(collection, ids).await?;
        documents::overlay(&self.earlier(), &self.lane, collection, ids, &mut found);
        Ok(found)
    }
}

impl Documents for LaneView {
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        Box::pin(self.read(collection, ids))
    }
}

/// A processor's documents, for one of its lanes.
struct LaneDocuments {
    lane: LaneKey,
    class: Class,
    scheduler: Scheduler,
    documents: Arc<documents::TermDocuments>,
}

impl Documents for LaneDocuments {
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        Box::pin(async move {
            let (found, took) = self.documents.read(&self.lane, collection, ids).await?;
            // The tenant pays for reads, so a loop of reads is not free.
            self.scheduler.charge(&self.lane.tenant, self.class, took);
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{effects::Halt, ids::TenantId};

    #[test]
    fn changes_without_a_handled_event_are_dropped() {
        let tenant = TenantId::parse("t").unwrap();
        let lane = LaneKey { tenant: tenant.clone(), key: tenant.as_shared() };
        let collection = CollectionName::parse("c").unwrap();
        let (mut outcome, mut changes) = (Outcome::default(), Changes::default());
        for index in [0, 2] {
            let change = Change::Put { collection: collection.clone(), id: "d".into(), data: "{}".into() };
            let halt = Halt { index, action: HaltAction::Stop, code: String::new(), message: String::new() };
            let effects = Effects { changes: vec![change], skipped: Vec::new(), halted: Some(halt) };
            outcome.take(
                &Batch { lane: lane.clone(), attempt: 1, replaying: false, events: Vec::new() },
                &"".into(),
                effects,
                &mut changes,
            );
            assert_eq!((outcome.handled, changes.len()), (index, index / 2));
        }
    }
}
