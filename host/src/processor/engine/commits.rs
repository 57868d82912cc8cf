//! The loop's commits: the execution of a plan, and the effects of its outcome.
//!
//! One commit is under way at a time. A success is recorded by the core, the documents and the
//! tenants' accounts. If the database rejects the data, the core looks for the lane that wrote it.
//! Any other failure ends the term.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Engine, WorkResults};
use crate::{
    failpoint,
    model::{
        handler::{BoxFuture, Reason},
        ids::LaneKey,
        reaction::AppendConflict,
    },
    processor::{
        commit::{AppendRefusal, Commit, CommitError, Committer},
        core::Input,
        in_flight::{CommitPlan, LaneConflicts},
        lane::TermEnded,
        lane_checkpoints::LaneState,
        policy::{APPEND_CONFLICT, FailedAttempt, REFUSED_COMMIT, Wish},
    },
    projections::documents::{PrepareError, Writes},
    scheduler::Class,
    tenants::rates::{Cost, THROTTLED},
};

/// The commits of a term.
pub(super) struct Commits<'a> {
    pub(super) committer: Arc<Committer>,
    pub(super) under_way: Option<BoxFuture<'static, CommitResult>>,
    /// Whether the term has committed anything.
    has_committed: &'a mut bool,
    /// The number of dead letters that are not logged yet, and the time of the last log line.
    pub(super) dead_letter_lines: (usize, Option<Instant>),
}

impl<'a> Commits<'a> {
    pub(super) fn new(committer: Arc<Committer>, has_committed: &'a mut bool) -> Self {
        Commits { committer, under_way: None, has_committed, dead_letter_lines: (0, None) }
    }
}

/// A commit that has ended, with its plan.
pub(super) struct CommitResult {
    plan: CommitPlan<WorkResults>,
    marks: HashMap<LaneKey, u64>,
    /// Events that it handled but its report does not count.
    unreported: usize,
    took: Duration,
    result: Result<Writes, CommitFailure>,
}

enum CommitFailure {
    /// A lane wrote a document of another lane.
    ForeignDocument(LaneKey, String),
    Commit(CommitError),
}

impl Engine<'_> {
    /// Charges tenants for a commit, in proportion to the bytes that each wrote.
    fn charge(&self, results: &[(LaneKey, WorkResults)], took: Duration) {
        let bytes: usize = results.iter().map(|(_, results)| results.weight).sum();
        for (lane, results) in results.iter().filter(|(_, results)| results.weight > 0) {
            let part = took.mul_f64(results.weight as f64 / bytes as f64);
            self.runner.scheduler.charge(&lane.tenant, self.core.class(lane), part);
        }
    }

    /// Starts to carry out a plan: prepares its documents and sends the transaction.
    pub(super) fn start_commit(&mut self, plan: CommitPlan<WorkResults>) {
        failpoint::hit("lanes.run");
        let handled: usize = plan.results.iter().map(|(_, results)| results.outcome.handled).sum();
        let report = self.report.take_if_due(handled);
        let report = report.or_else(|| self.core.is_draining().then(|| self.report.flush(handled)));
        let unreported = if report.is_some() { 0 } else { handled };
        let marks = plan.results.iter().map(|(lane, results)| (lane.clone(), results.mark)).collect();
        let (documents, committer) = (self.documents.of_term.clone(), self.commits.committer.clone());
        self.commits.under_way = Some(Box::pin(async move {
            let began = Instant::now();
            let outcomes = || plan.results.iter().map(|(lane, results)| (lane, &results.outcome));
            let changes: Vec<_> = outcomes().map(|(lane, outcome)| (lane.clone(), outcome.documents.clone())).collect();
            let result = match documents.prepare(&changes).await {
                Err(PrepareError::ForeignDocument(lane, why)) => Err(CommitFailure::ForeignDocument(lane, why)),
                Err(error) => Err(CommitFailure::Commit(CommitError::Lost(error.to_string()))),
                Ok(writes) => {
                    let commit = Commit {
                        from: &plan.from,
                        to: &plan.to,
                        left: &plan.left,
                        moved: &plan.moved,
                        rejoined: &plan.rejoined,
                        writes: &writes,
                        outcomes: &outcomes().collect::<Vec<_>>(),
                        report: report.as_ref(),
                    };
                    committer.commit(commit).await.map(|()| writes).map_err(CommitFailure::Commit)
                }
            };
            CommitResult { plan, marks, unreported, took: began.elapsed(), result }
        }));
    }

    /// Reports what was handled since the last report, if no further commit will include it.
    pub(super) async fn last_report(&mut self) -> Result<(), CommitError> {
        if !self.report.has_unreported() {
            return Ok(());
        }
        let stored = self.core.stored();
        let commit = Commit {
            from: stored,
            to: stored,
            left: &[],
            moved: &[],
            rejoined: &[],
            writes: &Writes::default(),
            outcomes: &[],
            report: Some(&self.report.flush(0)),
        };
        self.commits.committer.commit(commit).await
    }

    /// Takes the outcome of a commit. Fails if the outcome ends the term.
    pub(super) fn committed(&mut self, committed: CommitResult) -> Result<Input<WorkResults>, TermEnded> {
        self.commits.under_way = None;
        let CommitResult { plan, marks, unreported, took, result } = committed;
        // A rejected commit is charged too: it kept the database as busy.
        self.charge(&plan.results, took);
        match result {
            Ok(writes) => {
                *self.commits.has_committed = true;
                self.report.count(unreported);
                let handled = plan.results.iter().map(|(_, results)| results.outcome.handled).sum();
                self.report.committed(took, handled);
                self.documents.of_term.settle(writes, &marks);
                for (lane, checkpoint) in plan.checkpoints() {
                    self.report_lane(lane, checkpoint);
                }
                self.report_dead_letters(&plan.results);
                self.report_sheds(&plan.results);
                self.count(&plan);
                Ok(Input::Committed(plan))
            }
            Err(CommitFailure::ForeignDocument(lane, why)) => {
                Ok(self.rejected(plan, Some(lane), "malformed-output", why))
            }
            Err(CommitFailure::Commit(CommitError::Data(why))) => {
                if plan.results.is_empty() {
                    return Err(anyhow::anyhow!("the database rejected a commit without results: {why}").into());
                }
                Ok(self.rejected(plan, None, REFUSED_COMMIT, why))
            }
            Err(CommitFailure::Commit(CommitError::Appends(AppendRefusal::Busy(lanes)))) => {
                Ok(Input::Deferred { plan, lanes })
            }
            Err(CommitFailure::Commit(CommitError::Appends(AppendRefusal::Conflicts(found)))) => {
                let lanes = found.into_iter().map(|(lane, conflicts)| self.conflicts(lane, conflicts)).collect();
                Ok(Input::Conflicted { plan, lanes })
            }
            Err(CommitFailure::Commit(error)) => Err(error.into()),
        }
    }

    /// The conflicts of a lane, with what the failure policy says about a further conflict of the
    /// same event.
    fn conflicts(&self, lane: LaneKey, conflicts: Vec<AppendConflict>) -> LaneConflicts {
        let version = self.runner.code.current();
        let why = conflicts.first().map_or_else(String::new, |conflict| {
            let AppendConflict { stream, expected, actual, .. } = conflict;
            format!("the append to stream {stream} expected version {expected}, and the stream has version {actual}")
        });
        let reason = Reason::new(APPEND_CONFLICT, why);
        let failed = FailedAttempt {
            class: APPEND_CONFLICT,
            wish: Wish::Retry { after: None },
            attempt: self.core.attempts(&lane).saturating_add(1),
            on_probation: version.is_on_probation(),
            spread: u64::from(lane.bucket()),
        };
        LaneConflicts { verdict: version.policy.verdict(&failed), lane, conflicts, reason }
    }

    /// The rejection of a plan, with what the failure policy says about an event whose results are
    /// rejected alone.
    fn rejected(
        &self,
        plan: CommitPlan<WorkResults>,
        culprit: Option<LaneKey>,
        class: &'static str,
        why: String,
    ) -> Input<WorkResults> {
        let version = self.runner.code.current();
        let on_probation = version.is_on_probation();
        // A further attempt would lead to the same results.
        let failed = FailedAttempt { class, wish: Wish::Stop, attempt: 1, on_probation, spread: 0 };
        let verdict = version.policy.verdict(&failed);
        Input::Rejected { plan, culprit, class, why, verdict }
    }

    /// Counts what a commit means for tenants.
    fn count(&self, plan: &CommitPlan<WorkResults>) {
        let tenants = self.host.tenants;
        for (lane, results) in &plan.results {
            let (documents, bytes) = (results.outcome.documents.len() as u64, results.weight as u64);
            let spent = Cost { documents, bytes, ..Cost::default() };
            tenants.charge(&lane.tenant, spent, |used| used.events += results.outcome.handled as u64);
            let streams = results.outcome.streams.iter().filter(|change| change.place.events == 0).count();
            self.runner.budgets.remove(&lane.tenant, results.outcome.answered.len(), streams);
        }
        for (lane, checkpoint) in plan.checkpoints() {
            match &checkpoint.state {
                LaneState::Blocked(reason) => tenants.count(&lane.tenant, |used| used.failed(self.id, reason)),
                // A tenant that is throttled has not failed.
                LaneState::Retrying { reason, .. } if reason.class != THROTTLED => {
                    tenants.count(&lane.tenant, |used| used.failed(self.id, reason));
                }
                _ => {}
            }
        }
        for (lane, _) in &plan.rejoined {
            // The lane has done the work that caused its tenant's debt.
            for class in [Class::Live, Class::CatchUp] {
                self.runner.scheduler.forgive(&lane.tenant, class);
            }
        }
    }
}
