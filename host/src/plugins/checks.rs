//! The checks of files: waiting, under way and finished, with their results; and the recalls of
//! former versions.
//!
//! Both run as [jobs] beside the reconciler, because each may compile. A file that cannot be
//! compiled in the short time for small files is checked again as a slow one. If the machine has
//! too little memory to compile a file, the file is checked again later.

pub(super) mod jobs;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use self::jobs::{JobResult, Jobs, Recall, Tools};
use super::{
    check::{CheckedFile, Unfinished},
    dry_runs::DryRuns,
    folder::PluginFile,
    history::VersionHold,
    registry::Registry,
    retries::{ATTEMPTS, Retries},
};
use crate::{
    sandbox::{
        Sandbox,
        compile::{self, Effort},
    },
    supervisor::Stop,
};

/// The checks of files, with their results, and the recalls of former versions.
pub(super) struct Checks {
    tools: Tools,
    jobs: Jobs,
    /// The last result of each file.
    results: BTreeMap<String, CheckedFile>,
    /// Files whose check has not begun.
    waiting: BTreeSet<String>,
    /// Files that take long to compile although they are small.
    slow: BTreeSet<String>,
    /// Files that could not be compiled for lack of memory.
    shortages: Retries,
    /// Files whose component a repeated check found unchanged, such as one that was put into the
    /// folder again. A retry of a failed check does not count.
    repeated: BTreeSet<String>,
    /// Dry runs against the running versions; none once the running versions have changed.
    dry_runs: Option<DryRuns>,
    /// Number of events of a dry run.
    dry_run_events: usize,
    /// Whether shortages of memory are retried without end. Otherwise a file is rejected after
    /// [`ATTEMPTS`].
    retries_forever: bool,
}

/// The consequence of a finished check for its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckOutcome {
    /// It is checked again as a slow file.
    Slow,
    /// It is checked again when the machine may have more memory.
    Shortage,
    /// Its result is known. If `after_shortage`, its error file still reports a shortage.
    Known {
        /// Whether it had been waiting for memory.
        after_shortage: bool,
    },
}

impl Checks {
    pub(super) fn new(tools: Tools, dry_run_events: usize) -> Self {
        Checks {
            tools,
            jobs: Jobs::default(),
            results: BTreeMap::new(),
            waiting: BTreeSet::new(),
            slow: BTreeSet::new(),
            shortages: Retries::default(),
            repeated: BTreeSet::new(),
            dry_runs: None,
            dry_run_events,
            retries_forever: true,
        }
    }

    /// Rejects a file after some shortages, for a host that ends once it has caught up.
    pub(super) fn limit_retries(&mut self) {
        self.retries_forever = false;
    }

    /// The sandbox that checks files.
    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.tools.sandbox
    }

    /// Ends dry runs when the host stops.
    pub(super) fn end_with(&mut self, stop: Stop) {
        self.tools.stop = Some(stop);
    }

    /// The last result of a file.
    pub(super) fn result(&self, plugin: &str) -> Option<&CheckedFile> {
        self.results.get(plugin)
    }

    /// The last results of all files.
    pub(super) fn results(&self) -> &BTreeMap<String, CheckedFile> {
        &self.results
    }

    /// Whether a file was checked, or will be.
    pub(super) fn knows(&self, plugin: &str) -> bool {
        self.results.contains_key(plugin) || self.waiting.contains(plugin) || self.jobs.is_checking(plugin)
    }

    /// Whether a file takes so long to compile that other files do not wait for it.
    pub(super) fn is_slow(&self, file: &PluginFile) -> bool {
        file.bytes() >= compile::LARGE as u64 || self.slow.contains(&file.name) || self.shortages.contains(&file.name)
    }

    /// Whether the check of a small file waits or is under way.
    pub(super) fn has_small(&self, files: &BTreeMap<String, PluginFile>) -> bool {
        let is_slow = |name: &String| files.get(name).is_some_and(|file| self.is_slow(file));
        self.jobs.is_checking_small() || self.waiting.iter().any(|name| !is_slow(name))
    }

    /// Whether a file waits for memory.
    pub(super) fn has_shortages(&self) -> bool {
        !self.shortages.is_empty()
    }

    /// The files that wait for memory, each with the reason.
    pub(super) fn shortages(&self) -> impl Iterator<Item = (&String, &str)> {
        self.shortages.reasons()
    }

    /// Schedules checks of files.
    pub(super) fn schedule(&mut self, plugins: impl IntoIterator<Item = String>) {
        self.waiting.extend(plugins);
    }

    /// Schedules the files whose last check failed because of the database or the file system.
    pub(super) fn schedule_retries(&mut self) {
        let retried = self.results.values().filter(|checked| checked.retry);
        self.waiting.extend(retried.map(|checked| checked.file.name.clone()));
    }

    /// Schedules a check against the version that now runs. If `is_stale`, drops the earlier result
    /// first: it would let the file run, although the file was never dry-run against that version.
    pub(super) fn schedule_against_running(&mut self, plugin: String, is_stale: bool) {
        if is_stale {
            self.results.remove(&plugin);
        }
        self.waiting.insert(plugin);
    }

    /// Starts the scheduled checks for which a slot is free.
    pub(super) fn start(&mut self, files: &BTreeMap<String, PluginFile>, registry: &Registry) {
        self.waiting.extend(self.shortages.take_due(Instant::now()));
        let free = |name: &&String| !self.jobs.is_checking(name);
        let waiting: Vec<PluginFile> =
            self.waiting.iter().filter(free).filter_map(|name| files.get(name)).cloned().collect();
        for file in waiting {
            let effort = match self.is_slow(&file) {
                _ if self.shortages.contains(&file.name) => Effort::Alone,
                true => Effort::Full,
                false => Effort::Quick,
            };
            if !self.jobs.has_slot(&file.name, effort != Effort::Quick) {
                continue;
            }
            self.waiting.remove(&file.name);
            let new = || registry.dry_runs(files.keys().cloned().collect(), self.dry_run_events);
            let dry_runs = self.dry_runs.get_or_insert_with(new).clone();
            self.jobs.check(&self.tools, file, effort, dry_runs);
        }
    }

    /// Takes the result of a check.
    pub(super) fn take(&mut self, checked: CheckedFile) -> CheckOutcome {
        let name = checked.file.name.clone();
        match (checked.unfinished, &checked.outcome) {
            (Some(Unfinished::Slow), _) => {
                self.slow.insert(name.clone());
                self.waiting.insert(name);
                return CheckOutcome::Slow;
            }
            (Some(Unfinished::Shortage), Err(reason)) if self.waits_for_memory(&name, reason) => {
                return CheckOutcome::Shortage;
            }
            _ => {}
        }
        let after_shortage = self.shortages.remove(&name);
        let digest = checked.digest.clone();
        let before = self.results.insert(name.clone(), checked);
        if before.is_some_and(|before| before.digest == digest && !before.retry) {
            self.repeated.insert(name);
        }
        CheckOutcome::Known { after_shortage }
    }

    /// Records a shortage. Returns whether the file is checked again.
    fn waits_for_memory(&mut self, plugin: &str, reason: &str) -> bool {
        let (attempts, wait) = self.shortages.add(plugin, reason, Instant::now());
        if !self.retries_forever && attempts >= ATTEMPTS {
            return false;
        }
        let (seconds, reason) = (wait.as_secs(), reason.replace('\n', ". "));
        tracing::warn!(
            plugin,
            attempts,
            "cannot be compiled now; it will be compiled again in {seconds} s, alone: {reason}"
        );
        true
    }

    /// Rejects a file that can run, until its next check.
    pub(super) fn reject_until_rechecked(&mut self, plugin: &str, reason: String) {
        if let Some(checked) = self.results.get_mut(plugin) {
            checked.outcome = Err(reason);
            checked.retry = true;
        }
    }

    /// Forgets what is known about a changed file. Returns whether it waited for memory.
    pub(super) fn forget(&mut self, plugin: &str) -> bool {
        self.slow.remove(plugin);
        self.jobs.forget_recalls(plugin);
        self.shortages.remove(plugin)
    }

    /// Drops a removed file.
    pub(super) fn remove(&mut self, plugin: &str) {
        self.results.remove(plugin);
        self.waiting.remove(plugin);
    }

    /// Drops the dry runs' snapshot of the running versions, because other versions run now.
    pub(super) fn forget_dry_runs(&mut self) {
        self.dry_runs = None;
    }

    /// The files whose component a repeated check found unchanged since the last call.
    pub(super) fn take_repeated(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.repeated)
    }

    /// Schedules the recall of a former version.
    pub(super) fn recall(&mut self, recall: Recall) {
        self.jobs.queue_recall(recall);
    }

    /// Whether a former version is being loaded in place of a file.
    pub(super) fn is_recalling(&self, plugin: &str) -> bool {
        self.jobs.is_recalling(plugin)
    }

    /// Starts the scheduled recalls for which a slot is free. Versions in `holds` are not recalled.
    pub(super) fn start_recalls(&mut self, holds: &BTreeSet<VersionHold>) {
        self.jobs.start_recalls(&self.tools, holds);
    }

    /// The next finished job; waits forever while there is none. Cancel safe.
    pub(super) async fn next_finished(&mut self) -> JobResult {
        self.jobs.next().await
    }
}
