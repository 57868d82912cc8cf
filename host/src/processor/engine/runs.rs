//! The loop's runs of lanes, and their results until they are committed.

use std::{num::NonZeroUsize, time::Duration};

use futures_util::stream::FuturesUnordered;
use lru::LruCache;

use super::{Engine, now};
use crate::{
    model::{handler::BoxFuture, ids::LaneKey},
    processor::{
        core::Input,
        in_flight::{LaneWork, Weighted},
        lane::{LaneRun, TermEnded},
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
pub(super) type RunResult = (LaneKey, LaneWork, Result<LaneRun, TermEnded>);

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
            let result = runner.run(&lane, class, &work.events, work.attempts, cost, documents).await;
            (lane, work, result)
        }));
    }

    /// Takes the outcome of a run. Fails if the run ended the term.
    pub(super) fn finish(&mut self, (lane, work, result): RunResult) -> Result<(), TermEnded> {
        let LaneRun { outcome, stop, stops_processor, cost, meter, .. } = result?;
        if let Some(cost) = cost {
            self.runs.costs.put(lane.clone(), cost);
        }
        let (cpu, waited) = (meter.cpu(), meter.waited());
        self.report.computed(cpu);
        self.host.tenants.charge(&lane.tenant, Cost { cpu, ..Cost::default() }, |used| {
            used.waited += waited;
        });
        let mark = self.documents.of_term.stage(&outcome.documents);
        let (handled, weight) = (outcome.handled, outcome.bytes());
        let _counted = self.runner.scheduler.uncommitted().count(&lane.tenant, weight);
        let results = WorkResults { outcome, mark, weight, _counted };
        let input = Input::Ran { lane, work, handled, stop, stops_processor, results };
        self.core.on(input, now(), &self.host);
        Ok(())
    }
}
