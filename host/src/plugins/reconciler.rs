//! The reconciler: the loop that makes the running plugins match the plugins folder.
//!
//! It scans the folder, checks added and changed files in the background, makes a plan from the
//! results and carries it out on the [`Registry`]. It ends trials, and rolls back versions that
//! fail them or that an operator rolls back. It reports the outcome in the
//! [history](super::history) and in error files.
//!
//! A start runs all files in the folder, each from its processor's cursor. While the database does
//! not answer, running plugins continue, and steps that need it are retried.

mod desired;
mod fallbacks;
mod ownership;
mod rollbacks;
mod schedule;
mod start;
mod steps;
mod upkeep;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

pub use self::start::StartReport;
use self::{fallbacks::Fallbacks, ownership::UnreadableProcessors, schedule::Schedule};
use super::{
    archive::Archive,
    check::CheckedFile,
    checks::{
        CheckOutcome, Checks,
        jobs::{JobResult, Tools},
    },
    config::Config,
    folder::PluginFile,
    journal::Journal,
    registry::Registry,
    rejections::Rejections,
    startup::{OpenFile, Startup},
    watched_folder::WatchedFolder,
};
use crate::{db::Db, model::ids::ProcessorId, sandbox::Sandbox, supervisor::Stop};

/// How long a step may still take when the host stops. 300 ms: a step is a few statements, and the
/// next start repeats an interrupted one.
const LAST_STEP: Duration = Duration::from_millis(300);

/// The plugins of a host.
pub struct Reconciler {
    config: Config,
    /// Whether changes of the folder are followed. If not, only the files of the start run.
    follows: bool,
    folder: WatchedFolder,
    checks: Checks,
    registry: Registry,
    archive: Archive,
    journal: Journal,
    rejections: Rejections,
    fallbacks: Fallbacks,
    schedule: Schedule,
    /// The start under way: of the host, or of files that were added later.
    start: Option<Startup>,
    /// Receives the report of the host's start.
    started: Option<oneshot::Sender<StartReport>>,
    unreadable: UnreadableProcessors,
}

impl Reconciler {
    /// A reconciler of a folder, with an empty registry.
    pub fn new(folder: &Path, sandbox: Sandbox, db: Db, registry: Registry, config: &Config) -> Self {
        let archive = Archive::new(db.clone(), config.retained_versions, sandbox.limits().component_bytes());
        // The settings were checked before, so the keys parse.
        let keys = config.keys().unwrap_or_default().into();
        let tools = Tools { sandbox, keys, db: db.clone(), stop: None };
        Reconciler {
            config: config.clone(),
            follows: true,
            folder: WatchedFolder::new(folder, config.poll_ms),
            checks: Checks::new(tools, config.dry_run_events),
            registry,
            archive,
            journal: Journal::new(db),
            rejections: Rejections::new(folder),
            fallbacks: Fallbacks::default(),
            schedule: Schedule::new(Instant::now()),
            start: None,
            started: None,
            unreadable: UnreadableProcessors::default(),
        }
    }

    /// The same reconciler for a host that ends once it has caught up: it ignores later changes of
    /// the folder.
    pub fn of_one_start(mut self) -> Self {
        self.follows = false;
        self.checks.limit_retries();
        self
    }

    /// Runs the plugins and follows the folder until the host stops. Sends the report of the start
    /// once every file runs or is rejected. Fails if a processor fails, which happens only if the
    /// processor cannot continue.
    pub async fn run(mut self, mut stop: Stop, started: oneshot::Sender<StartReport>) -> anyhow::Result<()> {
        self.started = Some(started);
        self.checks.end_with(stop.clone());
        let (sandbox, mut turn_stop) = (self.checks.sandbox().clone(), stop.clone());
        let failed = loop {
            let mut turn = std::pin::pin!(self.turn(&mut turn_stop));
            tokio::select! {
                ended = &mut turn => if let Err(error) = ended { break Some(error) },
                () = stop.drain() => {
                    // The results of compilers are no longer needed.
                    sandbox.stop_compiling();
                    let _ = timeout(LAST_STEP, turn).await;
                    break None;
                }
            }
        };
        sandbox.stop_compiling();
        // The processors end in order. The error of the one that failed matters more than theirs.
        let ended = self.registry.end().await;
        failed.map_or(ended, Err)
    }

    /// Does the work that is due, then waits for the next event. Fails if a processor has failed.
    async fn turn(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        self.checks.start(self.folder.files(), &self.registry);
        let is_known = self.read_last_runs().await;
        if is_known && self.is_plan_due() {
            self.carry_out_plan().await;
        }
        if is_known {
            self.replace_shared(&[]);
            self.end_start().await;
            self.recall_again();
            self.checks.start_recalls(self.journal.holds.all());
        }
        let wait = self.schedule.until_next(Instant::now(), self.folder.until_scan(Instant::now()));
        tokio::select! {
            () = stop.drain() => return Ok(()),
            error = self.registry.failed() => return Err(error),
            // When the host stops, compilers are killed. That says nothing about their files.
            finished = self.checks.next_finished(), if is_known => if !stop.is_draining() {
                self.take(finished).await
            },
            () = self.archive.work() => {}
            () = self.folder.hint(), if self.follows => self.scan(),
            () = tokio::time::sleep(wait) => {
                if self.follows {
                    self.scan();
                }
            }
        }
        if is_known && self.is_plan_due() {
            self.carry_out_plan().await;
        }
        if self.schedule.take_upkeep(Instant::now()) {
            self.upkeep().await;
        }
        Ok(())
    }

    fn is_plan_due(&self) -> bool {
        self.schedule.is_plan_due(Instant::now(), || self.checks.has_small(self.folder.files()))
    }

    /// Scans the folder and schedules checks of the changes.
    fn scan(&mut self) {
        let changed = self.folder.scan();
        for plugin in &changed {
            self.fallbacks.forget(plugin);
            if let Some(start) = self.start.as_mut() {
                start.allow_recall(plugin);
            }
            if self.checks.forget(plugin) {
                self.rejections.remove_error(plugin);
            }
        }
        if !changed.is_empty() {
            self.checks.forget_dry_runs();
        }
        let added = changed.iter().filter_map(|plugin| self.added_file(plugin));
        let added: Vec<(String, OpenFile)> = added.map(|file| (file.name.clone(), self.open_file(file))).collect();
        if !added.is_empty() {
            self.start.get_or_insert_default().add_files(added, self.folder.unreadable().clone());
        }
        let (present, removed): (Vec<String>, Vec<String>) =
            changed.into_iter().partition(|plugin| self.folder.has(plugin));
        if !removed.is_empty() {
            // The file may have been renamed: the new name is not checked yet.
            self.schedule.request_plan(Instant::now());
        }
        for plugin in removed {
            self.checks.remove(&plugin);
            self.close(&plugin);
            self.rejections.add_removed([plugin]);
        }
        self.checks.schedule(present);
    }

    /// The file of a plugin that neither runs nor was checked.
    fn added_file(&self, plugin: &str) -> Option<&PluginFile> {
        let is_known = self.checks.knows(plugin) || self.running_id(plugin).is_some();
        self.folder.file(plugin).filter(|_| !is_known)
    }

    fn open_file(&self, file: &PluginFile) -> OpenFile {
        OpenFile { tenant: file.tenant.clone(), is_slow: self.checks.is_slow(file) }
    }

    async fn take(&mut self, finished: JobResult) {
        match finished {
            JobResult::Check(checked) => self.take_checked(*checked),
            JobResult::Recall(recalled) => self.take_recalled(*recalled).await,
        }
    }

    /// Takes the result of a check and requests a plan.
    fn take_checked(&mut self, checked: CheckedFile) {
        let (plugin, digest) = (checked.file.name.clone(), checked.digest.clone());
        // The file has changed since, and is checked again.
        if self.folder.file(&plugin) != Some(&checked.file) {
            return;
        }
        if let Some(start) = self.start.as_mut() {
            start.file_read(&plugin, &digest);
        }
        let outcome = self.checks.take(checked);
        if let (CheckOutcome::Slow | CheckOutcome::Shortage, Some(start)) = (outcome, self.start.as_mut()) {
            start.mark_slow(&plugin);
        }
        match outcome {
            CheckOutcome::Slow => return,
            CheckOutcome::Shortage => {
                // Neither other files nor the version that ran last wait for it.
                let last = self.start.as_ref().and_then(|start| start.last_run(&plugin)).map(|last| &last.digest);
                if last == Some(&digest) || !self.recall_for_start(&plugin) {
                    self.close(&plugin);
                }
            }
            CheckOutcome::Known { after_shortage } => {
                if after_shortage {
                    self.rejections.remove_error(&plugin);
                }
                self.close_or_recall(&plugin);
            }
        }
        self.schedule.request_plan(Instant::now());
    }

    /// The processor that a plugin runs.
    fn running_id(&self, plugin: &str) -> Option<ProcessorId> {
        self.registry.members().iter().find(|(_, member)| member.plugin == plugin).map(|(id, _)| id.clone())
    }
}
