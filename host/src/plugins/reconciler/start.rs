//! The start of a host, and of files that were added to a running host.
//!
//! [`Startup`] decides the order, and this module carries it out. It reads which versions ran last,
//! and recalls them where a file is rejected. The start ends once each file either runs or is
//! rejected.

use tokio::sync::watch;

use super::Reconciler;
use crate::{
    db::{Error, describe},
    model::ids::{ProcessorId, TenantId},
    plugins::{
        checks::jobs::{Purpose, Recall},
        history::{self, PluginStatus},
        startup::{OpenFile, Startup, own_processor},
    },
    processor::ProcessorState,
};

/// The outcome of a start.
pub struct StartReport {
    /// The state of each running processor.
    pub states: Vec<(ProcessorId, watch::Receiver<ProcessorState>)>,
    /// Number of files that do not run, including those in whose place a former version runs.
    pub rejected: usize,
    /// Ids that have settings but no running processor.
    pub idle_settings: Vec<String>,
}

impl Reconciler {
    /// Scans the folder for the first time. Fails if it cannot be read.
    pub fn open(&mut self) -> std::io::Result<()> {
        let left_over = self.folder.open()?;
        self.rejections.add_removed(left_over);
        self.checks.schedule(self.folder.files().keys().cloned());
        let files: Vec<(String, OpenFile)> =
            self.folder.files().values().map(|file| (file.name.clone(), self.open_file(file))).collect();
        self.start = Some(Startup::new(files, self.folder.unreadable().clone()));
        Ok(())
    }

    /// Reads which versions ran last, if the start needs to know them. Returns whether they are
    /// known.
    pub(super) async fn read_last_runs(&mut self) -> bool {
        if self.start.as_ref().is_none_or(Startup::is_known) {
            return true;
        }
        self.journal.refresh_holds().await;
        let Some(session) = self.journal.session().await else { return false };
        let files: Vec<String> = self.folder.files().keys().cloned().collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let unreadable = self.start.iter().flat_map(Startup::unreadable).map(TenantId::as_str);
        let unreadable: Vec<&str> = unreadable.collect();
        let last_runs = async {
            history::record_files(&session, &files, &unreadable).await?;
            self.folder.store_problems(&session).await?;
            history::list_including(&session, &files).await
        };
        let log = |error: &Error| tracing::warn!("cannot read which versions ran last: {}", describe(error));
        let last_runs = last_runs.await.inspect_err(log);
        self.journal.keep(session);
        let (Ok(last_runs), Some(start)) = (last_runs, self.start.as_mut()) else { return false };
        let last_runs: Vec<PluginStatus> = last_runs.into_iter().filter(|last| !last.digest.is_empty()).collect();
        let own = last_runs.iter().filter_map(own_processor);
        self.unreadable.add(own.filter(|own| own.owner().is_some_and(|owner| start.unreadable().contains(owner))));
        start.set_last_runs(last_runs);
        for (plugin, checked) in self.checks.results() {
            start.file_read(plugin, &checked.digest);
        }
        true
    }

    /// Decides what runs in a file's place after its check: the file, or a former version.
    pub(super) fn close_or_recall(&mut self, plugin: &str) {
        let Some(start) = self.start.as_ref().filter(|start| start.is_open(plugin)) else { return };
        let candidate = self.candidate(plugin).map(|checked| &checked.digest);
        let rejected = start.last_run(plugin).and_then(|last| last.rejected.as_ref()).map(|(digest, ..)| digest);
        let runs = candidate.is_some() && candidate != rejected;
        if runs || !self.recall_for_start(plugin) {
            self.close(plugin);
        }
    }

    /// Recalls the former versions of files that passed their checks but were rejected by the plan.
    pub(super) fn recall_rejected(&mut self) {
        let idle = self.rejections.plugins().filter(|plugin| self.running_id(plugin).is_none());
        let idle: Vec<String> = idle.filter(|plugin| self.fallbacks.former(plugin).is_none()).cloned().collect();
        for plugin in idle {
            let file = self.folder.file(&plugin).map(|file| self.open_file(file));
            if self.recall_for_start(&plugin)
                && let (Some(start), Some(file)) = (self.start.as_mut(), file)
            {
                start.reopen(plugin, file);
            }
        }
    }

    /// Queues the recall of the version that a file's plugin ran last, once. Returns whether it
    /// did.
    pub(super) fn recall_for_start(&mut self, plugin: &str) -> bool {
        let Some(start) = self.start.as_mut().filter(|start| start.has_file(plugin)) else { return false };
        let last = start.last_run(plugin).map(|last| (last.digest.clone(), last.contract.clone()));
        let (Some(from), Some(file)) = (last, self.folder.file(plugin).cloned()) else { return false };
        if !start.mark_recalled(plugin) {
            return false;
        }
        let effort = self.fallbacks.effort(plugin);
        self.checks.recall(Recall { file, purpose: Purpose::Start, from, effort });
        true
    }

    /// Marks a file as decided.
    pub(super) fn close(&mut self, plugin: &str) {
        if let Some(start) = self.start.as_mut() {
            start.close(plugin);
        }
    }

    /// Ends the start, if every file is decided. Its report is sent earlier: once all undecided
    /// files are overdue.
    pub(super) async fn end_start(&mut self) {
        let Some(start) = self.start.as_ref().filter(|start| !start.has_open()) else { return };
        let is_over = !start.has_overdue();
        let is_busy = !is_over || self.checks.has_shortages() || !self.archive.is_done();
        if self.schedule.has_plan() || !self.follows && is_busy || !is_over && self.started.is_none() {
            return;
        }
        let unreadable = start.unreadable().len();
        let idle: Vec<String> =
            start.decided_runs().filter(|plugin| self.running_id(plugin).is_none()).cloned().collect();
        self.journal.record_idle(&idle).await;
        let without_processor = self.folder.files().len().saturating_sub(self.registry.members().len());
        let members = self.registry.members().iter();
        let report = StartReport {
            states: members.map(|(id, member)| (id.clone(), member.state.clone())).collect(),
            rejected: without_processor.max(self.rejections.len()) + unreadable,
            idle_settings: self.registry.idle_settings().map(String::from).collect(),
        };
        if is_over {
            self.start = None;
        }
        if let Some(started) = self.started.take() {
            // The receiver is gone if the host is stopping.
            let _ = started.send(report);
        }
    }
}
