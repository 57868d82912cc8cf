//! The loop's runs of lanes, and their results until they are committed.

use std::{num::NonZeroUsize, time::Duration};

use futures_util::stream::FuturesUnordered;
use lru::LruCache;

use super::{
    Engine, now,
    set_aside_events::{self, RedeliveredEvents},
};
use crate::{
    model::{handler::BoxFuture, ids::LaneKey},
    processor::{
        core::Input,
        in_flight::{LaneWork, Redelivery, RedeliveryEnd, Weighted},
        lane::{Delivery, DeliverySource, LaneRun, TermEnded},
        outcome::Outcome,
    },
    scheduler::{Class, UncommittedBytes},
    tenants::rates::Cost,
};

/// Lanes whose cost per event is remembered.
const REMEMBERED_COSTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The runs of a term.
pub(super) struct Runs {
    pub(super) under_way: FuturesUnordered<BoxFuture<'static, RunResult>>,
    /// The recent cost per event of each lane.
    costs: LruCache<LaneKey, Duration>,
}

/// A run that has ended: its lane, its work, and its end.
pub(super) type RunResult = (LaneKey, RunWork, Result<LaneRun, TermEnded>);

/// The work of a run.
pub(super) enum RunWork {
    /// Events of the log.
    Log(LaneWork),
    /// Set-aside events. With it, what is known of them once they were read.
    SetAside(Redelivery, RedeliveredEvents),
}

impl Runs {
    pub(super) fn new() -> Self {
        Runs { under_way: FuturesUnordered::new(), costs: LruCache::new(REMEMBERED_COSTS) }
    }
}

/// The outcome of a piece of work that waits for its commit.
#[derive(Debug, Default)]
pub(in crate::processor) struct WorkResults {
    pub(super) outcome: Outcome,
    /// The last staging of documents that it includes.
    pub(super) mark: u64,
    /// Bytes of the outcome.
    pub(super) weight: usize,
    /// Counts these bytes against the tenant's bound.
    _counted: Option<UncommittedBytes>,
}

impl WorkResults {
    /// The results of shed events, which hold no memory that counts.
    pub(super) fn of(outcome: Outcome) -> Self {
        WorkResults { outcome, ..WorkResults::default() }
    }
}

impl Weighted for WorkResults {
    fn weight(&self) -> usize {
        self.weight
    }
}

impl Engine<'_> {
    /// Starts a run.
    pub(super) fn start_run(&mut self, lane: LaneKey, work: LaneWork, class: Class) {
        let (runner, documents) = (self.runner.clone(), self.documents.of_term.clone());
        let cost = self.runs.costs.get(&lane).copied();
        self.runs.under_way.push(Box::pin(async move {
            let LaneWork { events, attempts, skip, parked, conflicts, .. } = &work;
            let (skip, parked, conflicts) = (skip.as_deref(), parked.as_deref(), conflicts.as_ref());
            let source = DeliverySource::Log;
            let delivery = Delivery { events, attempts: *attempts, cost, skip, parked, conflicts, source };
            let result = runner.run(&lane, class, delivery, documents).await;
            (lane, RunWork::Log(work), result)
        }));
    }

    /// Takes the outcome of a run. Fails if the run ended the term.
    pub(super) fn finish(&mut self, (lane, work, result): RunResult) -> Result<(), TermEnded> {
        let LaneRun { mut outcome, stop, stops_processor, skipped, failed, cost, meter, .. } = result?;
        if let Some(cost) = cost {
            self.runs.costs.put(lane.clone(), cost);
        }
        let end = match &work {
            RunWork::Log(_) => None,
            RunWork::SetAside(redelivery, events) => {
                Some(set_aside_events::end(&lane, redelivery, events, &mut outcome, &stop, failed))
            }
        };
        let (cpu, waited) = (meter.cpu(), meter.waited());
        self.report.computed(cpu);
        self.host.tenants.charge(&lane.tenant, Cost { cpu, ..Cost::default() }, |used| {
            used.waited += waited;
        });
        let mark = self.documents.of_term.stage(&outcome.documents);
        let (handled, weight) = (outcome.handled, outcome.bytes());
        let _counted = self.runner.scheduler.uncommitted().count(&lane.tenant, weight);
        let streams: Vec<_> = outcome.streams.iter().map(|change| (change.stream.clone(), change.place)).collect();
        let results = WorkResults { outcome, mark, weight, _counted };
        let input = match (work, end) {
            (RunWork::Log(work), _) => {
                Input::Ran { lane, work, handled, stop, stops_processor, streams, skipped, results }
            }
            (RunWork::SetAside(redelivery, _), end) => {
                let (handled, is_answered, again) = end.unwrap_or_default();
                Input::Redelivered(lane, redelivery, RedeliveryEnd { handled, is_answered, again, streams, results })
            }
        };
        self.core.on(input, now(), &self.host);
        Ok(())
    }
}
