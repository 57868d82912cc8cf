//! The upkeep while plugins run: trials, holds, retries, and figures for the history.

use std::time::Instant;

use super::Reconciler;
use crate::{
    db::Session,
    model::ids::ProcessorId,
    plugins::{history::VersionHold, journal::log_failure},
    rollout::probation::Verdict,
};

impl Reconciler {
    /// Ends trials, rolls back versions that are held back, and writes records that are not written
    /// yet.
    pub(super) async fn upkeep(&mut self) {
        let is_retry = self.schedule.take_retry(Instant::now());
        if !self.follows {
            return;
        }
        let Some(session) = self.journal.session().await else { return };
        let before = self.journal.holds.all().clone();
        self.journal.complete_swaps(&session, &self.registry).await;
        log_failure(self.folder.store_problems(&session).await);
        self.registry.retry_blocked_by_retired(&session).await;
        self.end_trials(&session).await;
        self.journal.keep(session);
        if self.schedule.take_holds(Instant::now()) {
            self.journal.refresh_holds().await;
        }
        self.roll_back_held().await;
        if is_retry {
            self.retry_pending().await;
            self.checks.schedule_retries();
        }
        let holds = self.journal.holds.all();
        for hold in holds.symmetric_difference(&before) {
            self.fallbacks.forget_failure(&hold.plugin);
        }
        if self.schedule.needs_retry() && is_retry || *holds != before {
            self.schedule.request_plan(Instant::now());
        }
        if self.schedule.take_lanes(Instant::now()) {
            self.journal.record_lanes(&self.registry).await;
        }
    }

    /// Writes the pending entries about running versions.
    async fn retry_pending(&mut self) {
        if !self.journal.has_pending() {
            return;
        }
        let Some(session) = self.journal.session().await else { return };
        for (plugin, entry) in self.journal.take_pending() {
            self.record_run(&session, &plugin, entry).await;
        }
        self.journal.keep(session);
        // An entry about a running version clears the rejection of its file. A plan reports it
        // again.
        self.schedule.request_retry();
    }

    /// Ends the trials of versions that have passed or failed, and rolls back those that failed.
    async fn end_trials(&mut self, session: &Session) {
        let on_trial = self.registry.members().iter().filter_map(|(id, member)| {
            let verdict = self.config.probation().verdict(&member.stats(), member.trial_time()?);
            Some((id.clone(), member.plugin.clone(), member.digest(), verdict))
        });
        for (id, plugin, digest, verdict) in on_trial.collect::<Vec<_>>() {
            match verdict {
                Verdict::OnTrial => {}
                Verdict::Passed => self.registry.trust(&id),
                Verdict::Failed(reason) => {
                    let hold = VersionHold { plugin, digest: digest.to_string(), reason };
                    self.journal.holds.add(session, hold.clone()).await;
                    self.roll_back(session, &id, &hold).await;
                }
            }
        }
    }

    /// Rolls back running versions that are held back: from memory, or with a recall.
    async fn roll_back_held(&mut self) {
        let held: Vec<(ProcessorId, VersionHold, bool)> = self.held_processors().collect();
        let (in_memory, stored): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, _, in_memory)| *in_memory);
        for (_, hold, _) in stored {
            self.recall_before(hold);
        }
        if in_memory.is_empty() {
            return;
        }
        let Some(session) = self.journal.session().await else { return };
        for (id, hold, _) in in_memory {
            self.roll_back(&session, &id, &hold).await;
        }
        self.journal.keep(session);
    }

    /// The processors whose version is held back, and whether the previous one is in memory.
    fn held_processors(&self) -> impl Iterator<Item = (ProcessorId, VersionHold, bool)> {
        self.registry.members().iter().filter_map(|(id, member)| {
            let hold = self.journal.holds.of(&member.plugin, &member.digest())?.clone();
            Some((id.clone(), hold, member.can_roll_back()))
        })
    }
}
