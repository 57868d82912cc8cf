//! One run of a lane: its events through the handler, in batches.
//!
//! A batch that would fail again is halved until the event that fails is alone. The events before
//! it keep their effects. A batch that was only too large for one call thus passes in parts. At the
//! one event, the failure policy of the version decides: the lane tries again later, sets the event
//! aside as a dead letter and continues, or stops exactly there. A batch that failed for lack of a
//! resource is not halved: the lane stops before it and retries. The size of a batch follows from
//! the recent cost of the lane's events. A run ends after some time even if events are left, so
//! that what is handled can be committed. Nothing is committed here: the caller receives the number
//! of handled events, their effects, and what stopped the rest.

mod bisection;
mod failing;
mod parking;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bisection::Bisection;
use failing::{EventFailure, FailedEvent, plugin_reason};

use crate::{
    consumer::router::Router,
    model::{
        effects::{Change, Effects, HaltAction},
        event::{Batch, Event},
        handler::{BoxFuture, CallFailure, Documents, Failure, Reason},
        ids::{CollectionName, LaneKey, ProcessorId},
        loading::{LoadEvents, Loaded},
        reaction::AppendConflict,
        spec::ProcessorSpec,
    },
    processor::{
        appends::{self, PlannedAppend},
        attempts,
        budgets::Budgets,
        code::{CodeVersion, SwappableCode},
        in_flight::{ParkedStreams, StreamPlace},
        lane_checkpoints::Skip,
        outcome::{DeadLetter, Outcome},
        policy::{Wish, breaker::Breaker},
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
    /// The processor.
    pub processor: ProcessorId,
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
    /// The bound on how fast failure policies set events aside.
    pub breaker: Arc<Mutex<Breaker>>,
    /// The bounds on how many events of a tenant are set aside.
    pub budgets: Arc<Budgets>,
}

/// Events to handle, and how they reach the lane.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// The events, by position.
    pub events: &'a [Arc<Event>],
    /// Earlier attempts at the first event.
    pub attempts: u32,
    /// Recent wall-clock time per event of this lane.
    pub cost: Option<Duration>,
    /// An event to set aside without a call.
    pub skip: Option<&'a Skip>,
    /// Parked streams, whose events are passed over.
    pub parked: Option<&'a ParkedStreams>,
    /// Appends of earlier attempts at the events that conflicted.
    pub conflicts: Option<&'a Arc<[AppendConflict]>>,
    /// Where the events come from.
    pub source: DeliverySource,
}

/// Where the events of a delivery come from, which decides what happens to one that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliverySource {
    /// The log. The failure policy decides.
    Log,
    /// Dead letters. Such an event stays a dead letter, unless the policy retries it.
    Letters,
    /// A parked stream. The stream stays parked before the event, unless the policy retries it or
    /// sets it aside.
    ParkedStream,
}

/// The end of a run.
#[derive(Debug, Default)]
pub struct LaneRun {
    /// What it leaves to be written.
    pub outcome: Outcome,
    /// Whether the event to set aside without a call was set aside.
    pub skipped: bool,
    /// The event of a parked stream that failed for good, so that the stream stays parked.
    pub failed: Option<DeadLetter>,
    /// What stopped the lane before the next event.
    pub stop: Option<RunStop>,
    /// Whether the processor must be paused, besides the lane.
    pub stops_processor: bool,
    /// Wall-clock time per event, smoothed; none if nothing is known of it.
    pub cost: Option<Duration>,
    /// CPU time of all calls, and their time in the queue for guest threads.
    pub meter: Arc<TaskMeter>,
    /// Streams that it parked.
    newly_parked: Vec<(Arc<str>, StreamPlace, DeadLetter)>,
}

/// The reason why a run stopped its lane.
#[derive(Clone, Debug, PartialEq)]
pub enum RunStop {
    /// It retries after a delay.
    Retry {
        /// The delay.
        after: Duration,
        /// Whether the attempt counts.
        counts: bool,
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
        Runner {
            processor: spec.id.clone(),
            code,
            scheduler,
            deferred: None,
            router: Router::new(spec),
            replaying: false,
            waiters: Arc::default(),
            breaker: Arc::default(),
            budgets: Arc::default(),
        }
    }

    /// Handles a lane's events, or as many as fit into one run. `class` is the scheduling class.
    pub async fn run(
        &self,
        lane: &LaneKey,
        class: Class,
        delivery: Delivery<'_>,
        documents: Arc<documents::TermDocuments>,
    ) -> Result<LaneRun, TermEnded> {
        let documents =
            Arc::new(LaneDocuments { lane: lane.clone(), class, scheduler: self.scheduler.clone(), documents });
        self.deliver(lane, class, delivery, documents).await
    }

    /// The same for events of the log with documents from elsewhere: `documents` are the lane's
    /// documents as they were before this run. The first event was attempted `attempts` times
    /// before, and `cost` is the recent wall-clock time per event of this lane.
    pub async fn run_over(
        &self,
        lane: &LaneKey,
        class: Class,
        events: &[Arc<Event>],
        attempts: u32,
        cost: Option<Duration>,
        documents: Arc<dyn Documents>,
    ) -> Result<LaneRun, TermEnded> {
        let delivery =
            Delivery { events, attempts, cost, skip: None, parked: None, conflicts: None, source: DeliverySource::Log };
        self.deliver(lane, class, delivery, documents).await
    }

    /// Handles a delivery over a lane's documents, as they were before this run.
    pub async fn deliver(
        &self,
        lane: &LaneKey,
        class: Class,
        delivery: Delivery<'_>,
        documents: Arc<dyn Documents>,
    ) -> Result<LaneRun, TermEnded> {
        let Delivery { cost, skip, source, .. } = delivery;
        let view = Arc::new(LaneView { lane: lane.clone(), documents, earlier: Mutex::default() });
        let mut run = LaneRun { cost, ..LaneRun::default() };
        // The events that are not passed over. What is counted as handled is counted in these.
        let mut events = delivery.without_parked();
        let attempted_first = events.first().is_some_and(|first| delivery.events.first() == Some(first));
        let mut attempts = if attempted_first { delivery.attempts } else { 0 };
        let mut bisection = Bisection::new(attempts);
        let mut obstacle = self.obstacle(lane, &events, 0, skip);
        let (began, mut bytes) = (Instant::now(), 0);
        let may_continue = |bytes| began.elapsed() < RUN && bytes < RUN_BYTES;
        while run.stop.is_none()
            && run.outcome.handled < events.len()
            && (run.outcome.handled == 0 && run.newly_parked.is_empty() || may_continue(bytes))
        {
            let at = run.outcome.handled;
            if let Some((_, obstacle_there)) = obstacle.take_if(|(index, _)| *index == at) {
                let version = self.code.current();
                let failed = FailedEvent { lane, event: &events[at], attempts, source };
                match obstacle_there {
                    Obstacle::Skip(reason) => self.skip(&mut run, &version, &failed, reason),
                    Obstacle::Unreadable(reason) => self.fail(&mut run, &version, &failed, reason.into()),
                }
                run.drop_parked(&mut events, &mut attempts);
                obstacle = self.obstacle(lane, &events, run.outcome.handled, skip.filter(|_| !run.skipped));
                continue;
            }
            let readable = obstacle.as_ref().map_or(events.len(), |(index, _)| *index);
            let rest = &events[at..readable];
            let affordable = run.cost.map_or(FIRST_BATCH, |cost| {
                (CALL.as_nanos() / cost.as_nanos().max(1)).clamp(1, usize::MAX as u128) as usize
            });
            let size = bisection.limit().min(affordable).min(self.code.current().batch_events);
            let next = &rest[..rest.len().min(size)];
            // While it waits here it holds nothing that another run needs: no data, no permit, no
            // instance.
            self.scheduler.uncommitted().wait_for_room(&lane.tenant, &self.waiters).await;
            let loaded = self.load(lane, class, next).await?;
            let next = loaded.as_ref().map_or(next, |loaded| &loaded.events);
            if next.is_empty() {
                let Some(reason) = loaded.and_then(|loaded| loaded.unread) else { break };
                let failed = FailedEvent { lane, event: &rest[0], attempts, source };
                self.fail(&mut run, &self.code.current(), &failed, reason.into());
                if run.drop_parked(&mut events, &mut attempts) {
                    obstacle = self.obstacle(lane, &events, at, skip);
                }
                continue;
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
            let attempt = attempts::with_this(attempts, run.outcome.handled);
            let replaying = self.replaying;
            let conflicts = delivery.conflicts.cloned();
            let batch = Arc::new(Batch { lane: lane.clone(), attempt, replaying, events: next.to_vec(), conflicts });
            let (count, called, before) = (batch.events.len(), Instant::now(), run.outcome.handled);
            let under_way = version.begin();
            let answer = self.call(&version, class, &run.meter, batch.clone(), view.clone()).await;
            drop((under_way, permit));
            version.answered(lane, ready.elapsed());
            let answer = answer.and_then(|effects| self.admit(&version, &batch, source, effects));
            let failure = match answer {
                Ok((effects, appends)) => {
                    bytes += effects.changes.iter().map(Change::bytes).sum::<usize>();
                    bytes += appends.iter().map(PlannedAppend::bytes).sum::<usize>();
                    let per_event = called.elapsed() / count as u32;
                    // The known cost counts half, so that one slow call is soon forgotten.
                    run.cost = Some(run.cost.map_or(per_event, |known| (known + per_event) / 2));
                    let halt = run.take(&batch, &version.digest, effects, appends, &mut view.earlier());
                    version.handled(&batch, run.outcome.handled - before);
                    if halt.is_none() {
                        bisection.passed(run.outcome.handled);
                    }
                    halt
                }
                Err(CallFailure { failure, diagnostics }) => match failure {
                    Failure::Block(_) if count > 1 => {
                        bisection.failed(run.outcome.handled, count);
                        None
                    }
                    Failure::Block(reason) => Some(EventFailure { reason, wish: Wish::None, diagnostics }),
                    Failure::Retry(reason) => {
                        Some(EventFailure { reason, wish: Wish::Retry { after: None }, diagnostics })
                    }
                    Failure::EndTerm(cause) => return Err(TermEnded(anyhow::anyhow!(cause))),
                },
            };
            if let Some(failure) = failure
                && let Some(event) = batch.events.get(run.outcome.handled - before)
            {
                let failed = FailedEvent { lane, event, attempts, source };
                self.fail(&mut run, &version, &failed, failure);
                bisection.found();
                if run.drop_parked(&mut events, &mut attempts) {
                    obstacle = self.obstacle(lane, &events, run.outcome.handled, skip);
                }
            }
        }
        run.outcome.documents = std::mem::take(&mut *view.earlier()).into();
        run.pass_parked(lane, &delivery, &events);
        Ok(run)
    }

    /// The effects of a call with its planned appends, if they are within all bounds. A batch with
    /// more than that is found by halving, like one that fails.
    fn admit(
        &self,
        version: &CodeVersion,
        batch: &Batch,
        source: DeliverySource,
        mut effects: Effects,
    ) -> Result<(Effects, Vec<PlannedAppend>), CallFailure> {
        let tenant = &batch.lane.tenant;
        let planned = appends::plan(&self.processor, batch, std::mem::take(&mut effects.appends));
        let admitted = planned.and_then(|appends| {
            if source != DeliverySource::Letters {
                self.budgets.add_letters(tenant, effects.skipped.len())?;
            }
            Ok(appends)
        });
        match admitted {
            Ok(appends) => Ok((effects, appends)),
            Err(reason) => {
                // The guest must forget effects that are dropped.
                version.handler.forget(tenant);
                Err(Failure::Block(reason).into())
            }
        }
    }

    /// The index of the first event from `from` on that a call cannot or must not handle, and why.
    fn obstacle(
        &self,
        lane: &LaneKey,
        events: &[Arc<Event>],
        from: usize,
        skip: Option<&Skip>,
    ) -> Option<(usize, Obstacle)> {
        let events = &events[from..];
        let skipped = skip.and_then(|skip| {
            let index = events.iter().position(|event| event.position == skip.position)?;
            Some((index, Obstacle::Skip(skip.reason.clone())))
        });
        let unreadable = self.router.unreadable(lane, events);
        let unreadable = unreadable.map(|(index, reason)| (index, Obstacle::Unreadable(reason)));
        let first = skipped.into_iter().chain(unreadable).min_by_key(|(index, _)| *index);
        first.map(|(index, obstacle)| (from + index, obstacle))
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
    ) -> Result<Effects, CallFailure> {
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
                let reason = Reason::new(
                    "wall-time-limit",
                    format!("took more than {} ms for one call (limits.wall-ms)", wall.as_millis()),
                );
                return Err(Failure::Block(reason).into());
            }
        }
    }
}

impl LaneRun {
    /// Adds the effects of a call: changes, dead letters and appends. Returns the failure of the
    /// next event if the handler halted before it. Of several skipped events, the last one gets the
    /// diagnostics of the call, so that a call stores them at most once.
    fn take(
        &mut self,
        batch: &Batch,
        digest: &Arc<str>,
        effects: Effects,
        appends: Vec<PlannedAppend>,
        changes: &mut Changes,
    ) -> Option<EventFailure> {
        let Effects { skipped, halted, mut diagnostics, .. } = effects;
        let last = skipped.last().filter(|_| halted.is_none()).map(|skipped| skipped.index);
        for skipped in skipped {
            // The answer was checked: an index is within the batch.
            let Some(event) = batch.events.get(skipped.index) else { continue };
            let reason = plugin_reason(&skipped.code, skipped.message, "skipped the event");
            let attempts = attempts::with_this(batch.attempt.saturating_sub(1), skipped.index);
            let diagnostics = if last == Some(skipped.index) { diagnostics.take() } else { None };
            let letter = DeadLetter::new(&batch.lane, event, digest.clone(), reason, attempts, diagnostics);
            self.outcome.dead_letters.push(letter);
        }
        // If no event was handled, the changes would be visible to later calls but never committed.
        let handled = halted.as_ref().is_none_or(|halt| halt.index > 0);
        for change in effects.changes.into_iter().filter(|_| handled) {
            let (collection, id, data) = match change {
                Change::Put { collection, id, data } => (collection, id, Some(data)),
                Change::Remove { collection, id } => (collection, id, None),
            };
            changes.insert(DocumentKey { lane: batch.lane.clone(), collection, id }, data);
        }
        // All of them come from events before the halt.
        self.outcome.appends.extend(appends);
        let Some(halt) = halted else {
            self.outcome.handled += batch.events.len();
            return None;
        };
        self.outcome.handled += halt.index;
        let wish = match halt.action {
            HaltAction::Retry { after } => Wish::Retry { after },
            HaltAction::Stop => Wish::Stop,
        };
        let reason = plugin_reason(&halt.code, halt.message, "stopped before the event");
        Some(EventFailure { reason, wish, diagnostics })
    }
}

/// The reason why an event is not handled by a call.
enum Obstacle {
    /// It is set aside without one.
    Skip(Reason),
    /// Its lane cannot be determined.
    Unreadable(Reason),
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
        let (mut run, mut changes) = (LaneRun::default(), Changes::default());
        for index in [0, 2] {
            let change = Change::Put { collection: collection.clone(), id: "d".into(), data: "{}".into() };
            let halt = Halt { index, action: HaltAction::Stop, code: String::new(), message: String::new() };
            let effects = Effects { changes: vec![change], halted: Some(halt), ..Effects::default() };
            run.take(
                &Batch { lane: lane.clone(), attempt: 1, replaying: false, events: Vec::new(), conflicts: None },
                &"".into(),
                effects,
                Vec::new(),
                &mut changes,
            );
            assert_eq!((run.outcome.handled, changes.len()), (index, index / 2));
        }
    }
}
