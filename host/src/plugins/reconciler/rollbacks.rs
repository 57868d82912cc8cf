//! Rollbacks to former versions, from memory or from the bytes that the database keeps.
//!
//! A former version runs in place of a file that is rejected at a start, or of a version that is
//! held back. If none can run, the reason is appended to that of the file's rejection.

use std::time::Instant;

use super::Reconciler;
use crate::{
    db::Session,
    model::ids::ProcessorId,
    plugins::{
        check::CheckedFile,
        checks::jobs::{Purpose, Recall, RecallFailure, RecallResult},
        history::{PluginEvent, VersionHold},
        journal::RunEntry,
        plan::{self, Step, VersionSpec},
        registry::{RunnableVersion, SwapReport},
        retries::ATTEMPTS,
    },
    processor::registration::RegistrationError,
};

impl Reconciler {
    /// Queues the recall of the version before a running version that is held back.
    pub(super) fn recall_before(&mut self, hold: VersionHold) {
        let VersionHold { plugin, digest, .. } = &hold;
        let Some(file) = self.folder.file(plugin).cloned() else { return };
        if self.fallbacks.is_settled(plugin) || self.checks.is_recalling(plugin) {
            return;
        }
        let (from, effort) = ((digest.clone(), String::new()), self.fallbacks.effort(plugin));
        self.checks.recall(Recall { file, purpose: Purpose::RollBack(hold), from, effort });
    }

    /// Repeats the recalls of the start that are due again.
    pub(super) fn recall_again(&mut self) {
        for plugin in self.fallbacks.take_due(Instant::now()) {
            if self.start.is_none() || self.running_id(&plugin).is_some() {
                continue;
            }
            if let Some(start) = self.start.as_mut() {
                start.allow_recall(&plugin);
            }
            if !self.recall_for_start(&plugin) {
                self.close(&plugin);
            }
        }
    }

    /// Schedules another recall if the database or the machine prevented this one. Returns whether
    /// it did.
    fn retries_recall(&mut self, plugin: &str, failure: &RecallFailure) -> bool {
        let (RecallFailure::Database(reason) | RecallFailure::Shortage(reason)) = failure else { return false };
        let attempts = self.fallbacks.retry_later(plugin, reason, Instant::now());
        if let Some(start) = self.start.as_mut() {
            start.recall_failed(plugin, attempts);
        }
        // Files that waited for this one may start now.
        self.schedule.request_plan(Instant::now());
        // While the database does not answer, nothing else can start either, so there is no point
        // in giving up.
        let gives_up = !self.follows && attempts >= ATTEMPTS && matches!(failure, RecallFailure::Shortage(_));
        !gives_up
    }

    /// Takes the result of a recall.
    pub(super) async fn take_recalled(&mut self, RecallResult { file, purpose, result }: RecallResult) {
        let plugin = file.name.clone();
        // The file has changed since, and is checked first.
        if self.folder.file(&plugin) != Some(&file) {
            if let Some(start) = self.start.as_mut() {
                start.allow_recall(&plugin);
            }
            return;
        }
        if let Err(failure) = &result
            && self.retries_recall(&plugin, failure)
        {
            return;
        }
        let short = |digest: &String| digest.get(..12).unwrap_or(digest).to_string();
        match (purpose, result) {
            (_, Err(RecallFailure::Database(reason) | RecallFailure::Shortage(reason))) => {
                self.fallbacks.fail(&plugin, format!("The version that ran last cannot be loaded: {reason}"));
            }
            // The file itself was compiled in the meantime, and runs.
            (Purpose::Start, Ok(_)) if self.running_id(&plugin).is_some() => {}
            (Purpose::Start, Ok(former)) => self.run_former(former),
            (Purpose::Start, Err(RecallFailure::Rejected { digest, reason })) => {
                let reason = format!("The version that ran last ({}) cannot run either: {reason}", short(&digest));
                self.fallbacks.fail(&plugin, reason);
            }
            (Purpose::Start, Err(RecallFailure::Unknown)) => {}
            (Purpose::RollBack(hold), Ok(former)) => self.roll_back_to(former, &hold).await,
            (Purpose::RollBack(_), Err(RecallFailure::Rejected { digest, reason })) => {
                let version = short(&digest);
                let reason =
                    format!("It keeps running, because the version before it ({version}) cannot run: {reason}");
                self.fallbacks.fail(&plugin, reason);
            }
            (Purpose::RollBack(_), Err(RecallFailure::Unknown)) => {
                let reason = "It keeps running, because no earlier version is known that was not rolled back too.";
                self.fallbacks.fail(&plugin, reason.into());
            }
        }
        self.close(&plugin);
        self.schedule.request_plan(Instant::now());
    }

    /// Runs a former version in place of a file. If the file can run, it is checked again against
    /// the former version.
    fn run_former(&mut self, former: CheckedFile) {
        let plugin = former.file.name.clone();
        let digest = former.digest.get(..12);
        tracing::warn!(plugin, digest, "its file is rejected; the version that ran last keeps running");
        let last = self.start.as_ref().and_then(|start| start.last_run(&plugin));
        let rejected = last.and_then(|last| last.rejected.as_ref()).map(|(_, reason, _)| reason.clone());
        if self.candidate(&plugin).is_some() {
            // It stays rejected until then, even if this host ends first.
            let reason = self.rejections.reason(&plugin).cloned().or(rejected);
            let reason = reason.unwrap_or_else(|| "it was rejected before, and is checked again".into());
            self.checks.reject_until_rechecked(&plugin, reason);
            self.fallbacks.request_recheck(plugin.clone());
        }
        self.fallbacks.set_former(plugin, former);
    }

    /// Restores the previous version of a processor whose current one is held back.
    pub(super) async fn roll_back(&mut self, session: &Session, id: &ProcessorId, hold: &VersionHold) {
        match self.registry.roll_back(session, id).await {
            Ok(Some(swap)) => self.record_rollback(session, id, hold, swap).await,
            // Only processors that can be rolled back get here.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(processor = %id, plugin = hold.plugin, "cannot be rolled back yet: {error}");
            }
        }
    }

    /// Replaces a running version that is held back by a recalled one.
    async fn roll_back_to(&mut self, former: CheckedFile, hold: &VersionHold) {
        let (Some(version), Some(id)) = (former.runnable(), self.running_id(&hold.plugin)) else { return };
        let Some(member) = self.registry.members().get(&id).filter(|member| *member.digest() == *hold.digest) else {
            return;
        };
        let restored = VersionSpec {
            digest: former.digest.clone(),
            spec: version.spec.clone(),
            manifest: version.manifest.clone(),
        };
        let now =
            VersionSpec { digest: hold.digest.clone(), spec: member.spec.clone(), manifest: member.manifest.clone() };
        let stats = member.stats();
        let restarts = match plan::change(&hold.plugin, &now, &restored) {
            _ if version.spec.id != id => Err(format!("it provides another processor, {}", version.spec.id)),
            Some(Step::Reject { reason, .. }) => Err(reason),
            step => Ok(!matches!(step, Some(Step::Swap { .. }))),
        };
        let restarts = match restarts {
            Ok(restarts) => restarts,
            Err(reason) => {
                let reason = format!("It keeps running, because the version before it cannot replace it: {reason}");
                return self.fallbacks.fail(&hold.plugin, reason);
            }
        };
        let Some(session) = self.journal.session().await else {
            _ = self.fallbacks.retry_later(&hold.plugin, "the database does not answer", Instant::now());
            return;
        };
        let replaced = match restarts {
            true => self.restart_with(&session, former, version).await.map(|()| {
                let replaced = hold.digest.as_str().into();
                Some(SwapReport { replaced, stats })
            }),
            false => self.registry.swap_back(&session, version).await,
        };
        match replaced {
            Ok(Some(swap)) => {
                self.fallbacks.forget_failure(&hold.plugin);
                self.record_rollback(&session, &id, hold, swap).await;
            }
            Ok(None) => {}
            Err(error) => _ = self.fallbacks.retry_later(&hold.plugin, &error.to_string(), Instant::now()),
        }
        self.journal.keep(session);
    }

    async fn record_rollback(&mut self, session: &Session, id: &ProcessorId, hold: &VersionHold, swap: SwapReport) {
        let digest = hold.digest.get(..12);
        tracing::error!(processor = %id, plugin = hold.plugin, digest, "rolled back to the version before it: {}", hold.reason);
        self.checks.forget_dry_runs();
        let entry = RunEntry::new(PluginEvent::RolledBack, &*hold.reason, Some(swap));
        self.record_run(session, &hold.plugin, entry).await;
    }

    /// Ends a processor and starts it with a former version, because more than the code differs.
    /// The processor keeps running unless the former version can start.
    async fn restart_with(
        &mut self,
        session: &Session,
        former: CheckedFile,
        version: RunnableVersion,
    ) -> Result<(), RegistrationError> {
        self.registry.could_start(session, &version).await?;
        match self.registry.start(session, vec![version]).await.pop() {
            None => Ok(()),
            Some((version, error)) => {
                // The processor has ended. The next plan starts the former version.
                self.fallbacks.set_former(version.plugin, former);
                Err(error)
            }
        }
    }
}
