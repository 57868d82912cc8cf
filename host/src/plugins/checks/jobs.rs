//! Background jobs: checks of files and recalls of former versions. Each may compile for a minute.
//!
//! Small files have their own slots, so that a slow file does not delay them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{runtime::Handle, task::spawn_blocking};

use crate::{
    db::{Db, describe},
    plugins::{
        check::{self, CheckedFile, FormerVersion},
        dry_runs::DryRuns,
        folder::PluginFile,
        history::{self, VersionHold, components},
        signature::PublicKey,
    },
    sandbox::{Sandbox, compile::Effort},
    supervisor::Stop,
};

/// Small files that are checked at once. 4: their code is usually cached, and loading it and
/// calling `describe` keeps some cores busy.
const SMALL_AT_ONCE: usize = 4;
/// Slow files that are checked at once. 2: one compiles while the other is read.
const SLOW_AT_ONCE: usize = 2;
/// Former versions that are recalled at once. 2: each has a database session and the bytes
/// of a whole component, and one compiles while the other is read.
const RECALLS_AT_ONCE: usize = 2;

/// The result of a job.
pub(in crate::plugins) enum JobResult {
    /// The result of a check.
    Check(Box<CheckedFile>),
    /// The result of a recall.
    Recall(Box<RecallResult>),
}

/// A job that finds a former version and loads it.
pub(in crate::plugins) struct Recall {
    /// The file in whose place it runs.
    pub(in crate::plugins) file: PluginFile,
    /// What it is for.
    pub(in crate::plugins) purpose: Purpose,
    /// SHA-256 and contract of the version with which the search begins. If it is held back, the
    /// search continues with the versions before it.
    pub(in crate::plugins) from: (String, String),
    /// The limits on the time and memory for compiling.
    pub(in crate::plugins) effort: Effort,
}

/// The result of a recall.
pub(in crate::plugins) struct RecallResult {
    /// The file in whose place the version runs.
    pub(in crate::plugins) file: PluginFile,
    /// What it is for.
    pub(in crate::plugins) purpose: Purpose,
    /// The loaded version, or why there is none.
    pub(in crate::plugins) result: Result<CheckedFile, RecallFailure>,
}

/// The purpose of a recall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugins) enum Purpose {
    /// To run in place of a file that is rejected at a start.
    Start,
    /// To replace the running version, which is held back.
    RollBack(VersionHold),
}

/// Why no former version was loaded.
pub(in crate::plugins) enum RecallFailure {
    /// No former version is known that is not held back.
    Unknown,
    /// The version cannot run on this host.
    Rejected {
        /// SHA-256 of its file.
        digest: String,
        /// The reason.
        reason: String,
    },
    /// The database does not answer.
    Database(String),
    /// The machine is short of memory or another resource.
    Shortage(String),
}

/// The jobs.
#[derive(Default)]
pub(super) struct Jobs {
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = JobResult> + Send>>>,
    /// The files under check, and whether each is slow.
    checks: BTreeMap<String, bool>,
    /// The files for which a former version is being recalled.
    recalls: BTreeSet<String>,
    /// Recalls that have not begun, in order.
    queued: VecDeque<Recall>,
}

/// The resources of jobs. Cheap to clone.
#[derive(Clone)]
pub(in crate::plugins) struct Tools {
    pub(in crate::plugins) sandbox: Sandbox,
    pub(in crate::plugins) keys: std::sync::Arc<[PublicKey]>,
    pub(in crate::plugins) db: Db,
    /// Ends a dry run when the host stops.
    pub(in crate::plugins) stop: Option<Stop>,
}

impl Jobs {
    /// Whether a file is being checked.
    pub(super) fn is_checking(&self, plugin: &str) -> bool {
        self.checks.contains_key(plugin)
    }

    /// Whether any small file is being checked.
    pub(super) fn is_checking_small(&self) -> bool {
        self.checks.values().any(|slow| !slow)
    }

    /// Whether a recall for a file is queued or under way.
    pub(super) fn is_recalling(&self, plugin: &str) -> bool {
        self.recalls.contains(plugin) || self.queued.iter().any(|recall| recall.file.name == plugin)
    }

    /// Whether a slot is free for the check of a small or slow file. A tenant's own files are
    /// checked one after another, so that a tenant with many files leaves slots to others.
    pub(super) fn has_slot(&self, plugin: &str, slow: bool) -> bool {
        let busy = || self.checks.iter().filter(|(_, other)| **other == slow).map(|(plugin, _)| plugin);
        is_only_of_tenant(plugin, busy()) && busy().count() < if slow { SLOW_AT_ONCE } else { SMALL_AT_ONCE }
    }

    /// Begins to check a file.
    pub(super) fn check(&mut self, tools: &Tools, file: PluginFile, effort: Effort, dry_runs: DryRuns) {
        self.checks.insert(file.name.clone(), effort != Effort::Quick);
        let (lost, tools) = (file.clone(), tools.clone());
        // The dry run also runs on the blocking thread: it borrows sessions, and must make progress
        // without the reconciler.
        let runtime = Handle::current();
        let check = spawn_blocking(move || {
            let sandbox = tools.sandbox.with_effort(effort);
            let (unneeded, checked) = (file.clone(), check::check(&sandbox, &tools.keys, file));
            runtime.block_on(async {
                let Some(mut stop) = tools.stop else { return checked.with_dry_run(&dry_runs).await };
                tokio::select! {
                    checked = checked.with_dry_run(&dry_runs) => checked,
                    () = stop.drain() => CheckedFile::rejected(unneeded, "the host ends".into()),
                }
            })
        });
        self.under_way.push(Box::pin(async move {
            let failed = |error| CheckedFile::rejected(lost, format!("the check failed: {error}"));
            JobResult::Check(Box::new(check.await.unwrap_or_else(failed)))
        }));
    }

    /// Queues a recall; [`start_recalls`](Self::start_recalls) starts it.
    pub(super) fn queue_recall(&mut self, recall: Recall) {
        self.queued.push_back(recall);
    }

    /// Drops the queued recalls for a file.
    pub(super) fn forget_recalls(&mut self, plugin: &str) {
        self.queued.retain(|recall| recall.file.name != plugin);
    }

    /// Starts queued recalls for which a slot is free. Versions in `holds` are not recalled.
    pub(super) fn start_recalls(&mut self, tools: &Tools, holds: &BTreeSet<VersionHold>) {
        while let Some(Recall { file, purpose, from, effort }) = self.next_recall() {
            let (tools, holds) = (tools.clone(), holds.iter().cloned().collect());
            self.under_way.push(Box::pin(async move {
                let result = recall(tools, file.clone(), from, effort, holds).await;
                JobResult::Recall(Box::new(RecallResult { file, purpose, result }))
            }));
        }
    }

    /// The next recall for which a slot is free. As with checks, a tenant's own files have one
    /// recall at a time.
    fn next_recall(&mut self) -> Option<Recall> {
        if self.recalls.len() >= RECALLS_AT_ONCE {
            return None;
        }
        let is_free = |recall: &Recall| {
            let plugin = &recall.file.name;
            !self.recalls.contains(plugin) && is_only_of_tenant(plugin, self.recalls.iter())
        };
        let recall = self.queued.remove(self.queued.iter().position(is_free)?)?;
        self.recalls.insert(recall.file.name.clone());
        Some(recall)
    }

    /// The next finished job; waits forever while there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> JobResult {
        let Some(finished) = self.under_way.next().await else { return std::future::pending().await };
        match &finished {
            JobResult::Check(checked) => _ = self.checks.remove(&checked.file.name),
            JobResult::Recall(recalled) => _ = self.recalls.remove(&recalled.file.name),
        }
        finished
    }
}

/// Whether a plugin is shared, or none of the others belongs to the same tenant.
fn is_only_of_tenant<'a>(plugin: &str, mut others: impl Iterator<Item = &'a String>) -> bool {
    let owner = |plugin: &str| plugin.split_once('/').map(|(tenant, _)| tenant.to_string());
    let own = owner(plugin);
    own.is_none() || others.all(|other| owner(other) != own)
}

async fn recall(
    tools: Tools,
    file: PluginFile,
    (digest, contract): (String, String),
    effort: Effort,
    holds: Vec<VersionHold>,
) -> Result<CheckedFile, RecallFailure> {
    let Tools { sandbox, keys, db, .. } = tools;
    let sandbox = sandbox.with_effort(effort);
    let database = |error: crate::db::Error| RecallFailure::Database(describe(&error));
    let session = db.connect("former version").await.map_err(database)?;
    let former = history::latest_allowed(&session, &file.name, &digest, &holds).await.map_err(database)?;
    let former = former.ok_or(RecallFailure::Unknown)?;
    let max_bytes = sandbox.limits().component_bytes();
    let stored = components::find(&session, &file.name, &former, max_bytes).await.map_err(database)?;
    drop(session);
    // The contracts of earlier versions are not recorded.
    let contract = if former == digest { contract } else { String::new() };
    let known = FormerVersion { digest: former.clone(), contract, stored };
    let recalled = spawn_blocking(move || check::recall(&sandbox, &keys, file, known)).await;
    match recalled {
        Ok(Ok(former)) => Ok(former),
        Ok(Err(check::RecallError::Rejected(reason))) => Err(RecallFailure::Rejected { digest: former, reason }),
        Ok(Err(check::RecallError::Shortage(reason))) => Err(RecallFailure::Shortage(reason)),
        Err(error) => {
            let reason = format!("loading it failed: {error}");
            Err(RecallFailure::Rejected { digest: former, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_files_are_checked_one_after_another() {
        let mut jobs = Jobs::default();
        let mut begins = |name: &str, slow| {
            let is_free = jobs.has_slot(name, slow);
            if is_free {
                jobs.checks.insert(name.into(), slow);
            }
            is_free
        };
        assert!(begins("acme/a", false) && !begins("acme/b", false), "one small file of a tenant");
        assert!(begins("acme/large", true) && !begins("acme/larger", true), "and one slow file");
        assert!(begins("a", false) && begins("b", false), "shared files are not counted by tenant");
        assert!(begins("globex/a", false));
        assert!(!begins("c", false), "all slots are taken");
    }

    #[test]
    fn few_former_versions_are_recalled_at_once_and_one_of_each_tenant() {
        let mut jobs = Jobs::default();
        for name in ["acme/a", "acme/b", "a", "b"] {
            let (file, from) = (PluginFile::example(name, 1), (String::new(), String::new()));
            jobs.queue_recall(Recall { file, purpose: Purpose::Start, from, effort: Effort::Full });
        }
        let next = |jobs: &mut Jobs| jobs.next_recall().map(|recall| recall.file.name);
        assert_eq!(next(&mut jobs).as_deref(), Some("acme/a"));
        assert_eq!(next(&mut jobs).as_deref(), Some("a"), "acme/b waits for acme/a");
        assert_eq!(next(&mut jobs), None, "all slots are taken");
        assert!(["acme/a", "acme/b", "a", "b"].iter().all(|name| jobs.is_recalling(name)));
        jobs.recalls.remove("acme/a");
        jobs.forget_recalls("b");
        assert_eq!(next(&mut jobs).as_deref(), Some("acme/b"));
        jobs.recalls.remove("a");
        assert_eq!(next(&mut jobs), None, "the recall of b was dropped");
    }
}
