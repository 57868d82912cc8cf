//! The execution of a plan: its steps are carried out on the registry and recorded.

use std::collections::{BTreeMap, BTreeSet};

use super::{Instant, Reconciler};
use crate::{
    db::Session,
    model::ids::ProcessorId,
    plugins::{
        history::{self, DryRunReport, PluginEvent},
        journal::{RunEntry, RunningPlugin, log_failure},
        plan::{ReconcilePlan, Step},
        registry::RunnableVersion,
    },
    processor::registration::RegistrationError,
};

impl Reconciler {
    /// Makes the running plugins match the folder.
    pub(super) async fn carry_out_plan(&mut self) {
        self.schedule.clear_retry();
        let plan = ReconcilePlan::by_rank(&self.running(), &self.desired(), |plugin, id| self.rank(plugin, id));
        if !plan.0.is_empty() {
            tracing::info!("plugins: {plan}");
        }
        let Some(session) = self.journal.session().await else {
            self.schedule.request_retry();
            match self.start {
                // A start must not end before the database has answered.
                Some(_) => self.schedule.postpone_plan(Instant::now()),
                None => self.schedule.clear_plan(),
            }
            return;
        };
        self.schedule.clear_plan();
        let mut rejected = self.rejected();
        let blocked = self.blocked_replacements(&session, &plan, &mut rejected).await;
        let mut starts: Vec<String> = Vec::new();
        for step in plan.0 {
            match step {
                Step::Reject { plugin, reason } => _ = rejected.insert(plugin, reason),
                Step::Rename { from, to } => self.rename(&session, &from, &to).await,
                Step::Start { plugin } | Step::Stop { plugin } | Step::Restart { plugin }
                    if blocked.contains(&plugin) && self.folder.has(&plugin) => {}
                Step::Start { plugin } => starts.push(plugin),
                Step::Stop { plugin } => self.stop(&session, &plugin).await,
                Step::Swap { plugin } => {
                    if let Err(reason) = self.swap(&session, &plugin).await {
                        rejected.insert(plugin, reason);
                    }
                }
                Step::Restart { plugin } => {
                    if let Some(id) = self.running_id(&plugin) {
                        self.registry.stop(&id);
                    }
                    rejected.extend(self.start(&session, vec![plugin], PluginEvent::Restarted).await);
                }
            }
        }
        rejected.extend(self.start(&session, starts, PluginEvent::Started).await);
        self.recheck_files_of_former();
        self.checks.forget_dry_runs();
        self.report(&session, rejected).await;
        self.journal.keep(session);
        self.recall_rejected();
        self.retry_blocked_lanes().await;
    }

    /// The plugins whose running processor must not end, because its replacement cannot begin. Adds
    /// the reasons to `rejected`.
    async fn blocked_replacements(
        &mut self,
        session: &Session,
        plan: &ReconcilePlan,
        rejected: &mut BTreeMap<String, String>,
    ) -> BTreeSet<String> {
        let mut blocked = BTreeSet::new();
        for step in &plan.0 {
            let plugin = match step {
                Step::Start { plugin } if self.running_id(plugin).is_some() => plugin,
                Step::Restart { plugin } => plugin,
                _ => continue,
            };
            let Some(version) = self.version_to_run(plugin) else { continue };
            if let Err(error) = self.registry.could_start(session, &version).await {
                if is_transient(&error) {
                    self.schedule.request_retry();
                }
                rejected.insert(plugin.clone(), error.to_string());
                blocked.insert(plugin.clone());
            }
        }
        blocked
    }

    /// Schedules checks of files in whose place a former version now runs.
    fn recheck_files_of_former(&mut self) {
        let running: Vec<String> = self.registry.members().values().map(|member| member.plugin.clone()).collect();
        for plugin in running {
            let is_candidate = self.candidate(&plugin).is_some();
            if self.fallbacks.take_started(&plugin, is_candidate) && self.follows {
                self.checks.schedule_against_running(plugin, is_candidate);
            }
        }
    }

    /// Reports the rejected and the waiting files.
    async fn report(&mut self, session: &Session, rejected: BTreeMap<String, String>) {
        let Reconciler { folder, checks, registry, rejections, .. } = self;
        let runs = |plugin: &str| registry.members().values().any(|member| member.plugin == plugin);
        if rejections.report(session, folder.path(), rejected, checks.results(), runs).await {
            self.archive.schedule_sweep();
        }
        for (plugin, reason) in self.checks.shortages() {
            self.rejections.report_shortage(plugin, reason);
        }
    }

    /// Retries blocked lanes of plugins whose component a repeated check found unchanged.
    async fn retry_blocked_lanes(&mut self) {
        let repeated = self.checks.take_repeated();
        let ids: Vec<ProcessorId> = repeated.iter().filter_map(|plugin| self.running_id(plugin)).collect();
        if ids.is_empty() {
            return;
        }
        let Some(session) = self.journal.session().await else { return };
        for id in ids {
            self.registry.retry_blocked(&session, &id).await;
        }
        self.journal.keep(session);
    }

    /// Starts the processors of plugins; returns those that cannot start, with the reasons.
    async fn start(&mut self, session: &Session, plugins: Vec<String>, event: PluginEvent) -> Vec<(String, String)> {
        if plugins.is_empty() {
            return Vec::new();
        }
        let versions: Vec<RunnableVersion> = plugins.iter().filter_map(|plugin| self.version_to_run(plugin)).collect();
        self.replace_shared(&versions);
        let rejected = self.registry.start(session, versions).await;
        for (version, error) in &rejected {
            // A former version that can never begin gives way to the file.
            let gives_way = !is_transient(error) && self.fallbacks.drop_former(&version.plugin);
            if is_transient(error) || gives_way {
                self.schedule.request_retry();
            }
            if gives_way {
                let reason = format!("The version that ran last cannot start: {error}");
                self.fallbacks.fail(&version.plugin, reason);
            }
        }
        let rejected: Vec<(String, String)> =
            rejected.into_iter().map(|(version, error)| (version.plugin, error.to_string())).collect();
        let started = plugins.iter().filter(|plugin| rejected.iter().all(|(other, _)| other != *plugin));
        let started: Vec<RunningPlugin> = started.filter_map(|plugin| self.running_plugin(plugin)).collect();
        let dry_runs: Vec<Option<&DryRunReport>> =
            started.iter().map(|running| self.checks.result(&running.plugin)?.dry_run.as_ref()).collect();
        let is_recorded = self.journal.record_starts(session, event, &started, &dry_runs).await;
        for running in &started {
            self.rejections.remove_error(&running.plugin);
            self.registry.resume_replaced(session, &running.id).await;
            if is_recorded {
                self.retain(running);
            }
        }
        rejected
    }

    /// Replaces the code of a running processor and records it. Fails if the version cannot be
    /// registered.
    async fn swap(&mut self, session: &Session, plugin: &str) -> Result<(), String> {
        let Some(version) = self.version_to_run(plugin) else { return Ok(()) };
        match self.registry.swap(session, version).await {
            Ok(Some(swap)) => {
                self.record_run(session, plugin, RunEntry::new(PluginEvent::Swapped, "", Some(swap))).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                if is_transient(&error) {
                    self.schedule.request_retry();
                }
                Err(error.to_string())
            }
        }
    }

    async fn stop(&mut self, session: &Session, plugin: &str) {
        let Some(id) = self.running_id(plugin) else { return };
        let digest = self.registry.members().get(&id).map(|member| member.digest()).unwrap_or_default();
        self.registry.stop(&id);
        tracing::info!(processor = %id, plugin, "ended; its documents and its cursor are kept");
        self.journal.record_stop(session, plugin, &id, &digest, self.folder.has(plugin)).await;
    }

    async fn rename(&mut self, session: &Session, from: &str, to: &str) {
        let Some(id) = self.running_id(from) else { return };
        if let Err(error) = self.registry.rename(session, &id, to).await {
            tracing::warn!(processor = %id, "cannot be renamed from {from} to {to}: {error}");
            self.schedule.request_retry();
            return;
        }
        log_failure(history::delete(session, from).await);
        self.record_run(session, to, RunEntry::new(PluginEvent::Renamed, from, None)).await;
    }

    /// Records the version that a plugin runs, and stores its bytes.
    pub(super) async fn record_run(&mut self, session: &Session, plugin: &str, entry: RunEntry) {
        let Some(running) = self.running_plugin(plugin) else { return };
        let dry_run = self.checks.result(plugin).and_then(|checked| checked.dry_run.as_ref());
        if self.journal.record_run(session, &running, entry, dry_run).await {
            self.retain(&running);
        }
        self.rejections.remove_error(plugin);
    }

    /// Stores the bytes of a running version for later rollbacks.
    fn retain(&mut self, running: &RunningPlugin) {
        if let Some(file) = self.folder.file(&running.plugin) {
            self.archive.add(running.retained(), file.clone());
        }
    }

    fn running_plugin(&self, plugin: &str) -> Option<RunningPlugin> {
        let id = self.running_id(plugin)?;
        self.registry.members().get(&id).map(|member| RunningPlugin::new(&id, member))
    }
}

/// Whether a later attempt may succeed although nothing in the folder changes.
fn is_transient(error: &RegistrationError) -> bool {
    matches!(error, RegistrationError::Database { .. } | RegistrationError::Unprepared { .. })
}
