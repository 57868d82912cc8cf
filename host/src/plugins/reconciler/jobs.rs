//! Jobs beside the loop: checks of files and recalls of former versions, each of which may compile
//! for as long as a minute.
//!
//! Small files have places of their own, so that a file which takes long holds no other back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{runtime::Handle, task::spawn_blocking};

use super::super::{
    check::{self, CheckedFile, FormerVersion},
    dry_runs::DryRuns,
    folder::PluginFile,
    history::{self, VersionHold, components},
    signature::PublicKey,
};
use crate::{
    db::{Db, describe},
    sandbox::{Sandbox, compile::Effort},
    supervisor::Stop,
};

/// Small files that are checked at the same time. Default 4: mostly their code is in the cache, and
/// reading it and asking the plugin what it is keeps some cores busy.
const SMALL_AT_ONCE: usize = 4;
/// Of the others, bytes and code included, so many. Default 2: one compiles, one is read.
const SLOW_AT_ONCE: usize = 2;
/// FormerVersion versions that are looked for at the same time. Default 2: each has a session of the
/// database and the bytes of a whole component, and one may compile while the other is read.
const RECALLS_AT_ONCE: usize = 2;

/// What a job came to.
pub(super) enum Finished {
    /// A file was checked.
    Check(Box<CheckedFile>),
    /// A former version was looked for.
    Recall(Box<Recalled>),
}

/// A search for a former version that is to begin.
pub(super) struct Recall {
    /// The file in whose place it would run.
    pub(super) file: PluginFile,
    /// What it is for.
    pub(super) purpose: Purpose,
    /// SHA-256 of the version that is looked for, or that those before it are looked for if it was
    /// taken back; and the contract that it keeps.
    pub(super) from: (String, String),
    /// What compiling it may take.
    pub(super) effort: Effort,
}

/// A former version that was looked for.
pub(super) struct Recalled {
    /// The file in whose place it would run.
    pub(super) file: PluginFile,
    /// What it is for.
    pub(super) purpose: Purpose,
    /// The version, or why there is none.
    pub(super) result: Result<CheckedFile, NoFormer>,
}

/// What a former version is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It runs where a start's file does not.
    Start,
    /// It takes its place back from the version that runs.
    RollBack(VersionHold),
}

/// Why no former version runs.
pub(super) enum NoFormer {
    /// None is known that was not taken back.
    Unknown,
    /// It does not run here, for this reason.
    Refused {
        /// SHA-256 of its file.
        digest: String,
        /// Why.
        why: String,
    },
    /// The database does not answer.
    Unasked(String),
    /// The machine is short of something.
    Shortage(String),
}

/// The jobs under way.
#[derive(Default)]
pub(super) struct Jobs {
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = Finished> + Send>>>,
    /// The files that are checked, and whether each takes long.
    checks: BTreeMap<String, bool>,
    /// The files for which a former version is looked for.
    recalls: BTreeSet<String>,
    /// Searches that have not begun, in their order.
    queued: VecDeque<Recall>,
}

/// What jobs work with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) sandbox: Sandbox,
    pub(super) keys: std::sync::Arc<[PublicKey]>,
    pub(super) db: Db,
    /// What ends a dry run that is under way.
    pub(super) stop: Option<Stop>,
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

    /// Whether a former version is looked for in a file's place, or soon will be.
    pub(super) fn is_recalling(&self, plugin: &str) -> bool {
        self.recalls.contains(plugin) || self.queued.iter().any(|recall| recall.file.name == plugin)
    }

    /// Whether there is a place for one more check of a file that takes so long. A tenant's own files are checked one after another, so that one with many leaves
    /// places for others.
    pub(super) fn has_place(&self, plugin: &str, slow: bool) -> bool {
        let busy = || self.checks.iter().filter(|(_, other)| **other == slow).map(|(plugin, _)| plugin);
        is_apart(plugin, busy()) && busy().count() < if slow { SLOW_AT_ONCE } else { SMALL_AT_ONCE }
    }

    /// Begins to check a file.
    pub(super) fn check(&mut self, tools: &Tools, file: PluginFile, effort: Effort, dry_runs: DryRuns) {
        self.checks.insert(file.name.clone(), effort != Effort::Quick);
        let (lost, tools) = (file.clone(), tools.clone());
        // All of it there, so that what a dry run holds does not wait for the loop.
        let runtime = Handle::current();
        let check = spawn_blocking(move || {
            let sandbox = tools.sandbox.with_effort(effort);
            let (unneeded, checked) = (file.clone(), check::check(&sandbox, &tools.keys, file));
            runtime.block_on(async {
                let Some(mut stop) = tools.stop else { return checked.with_dry_run(&dry_runs).await };
                tokio::select! {
                    tried = checked.with_dry_run(&dry_runs) => tried,
                    () = stop.drain() => CheckedFile::refused(unneeded, "the host ends".into()),
                }
            })
        });
        self.under_way.push(Box::pin(async move {
            let failed = |error| CheckedFile::refused(lost, format!("checking it failed: {error}"));
            Finished::Check(Box::new(check.await.unwrap_or_else(failed)))
        }));
    }

    /// Looks for a former version as soon as there is a place: see
    /// [`begin_recalls`](Self::begin_recalls).
    pub(super) fn recall(&mut self, recall: Recall) {
        self.queued.push_back(recall);
    }

    /// Drops the searches for a file's former version that have not begun.
    pub(super) fn forget_recalls(&mut self, plugin: &str) {
        self.queued.retain(|recall| recall.file.name != plugin);
    }

    /// Begins searches for former versions, as far as there are places. Those in `held` were taken
    /// back.
    pub(super) fn begin_recalls(&mut self, tools: &Tools, held: &BTreeSet<VersionHold>) {
        while let Some(Recall { file, purpose, from, effort }) = self.next_recall() {
            let (tools, held) = (tools.clone(), held.iter().cloned().collect());
            self.under_way.push(Box::pin(async move {
                let result = recall(tools, file.clone(), from, effort, held).await;
                Finished::Recall(Box::new(Recalled { file, purpose, result }))
            }));
        }
    }

    /// The next search that has a place. Of a tenant's own files there is one at a time, as of
    /// checks.
    fn next_recall(&mut self) -> Option<Recall> {
        if self.recalls.len() >= RECALLS_AT_ONCE {
            return None;
        }
        let is_free = |recall: &Recall| {
            let plugin = &recall.file.name;
            !self.recalls.contains(plugin) && is_apart(plugin, self.recalls.iter())
        };
        let recall = self.queued.remove(self.queued.iter().position(is_free)?)?;
        self.recalls.insert(recall.file.name.clone());
        Some(recall)
    }

    /// The next job that is finished; waits for ever while there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> Finished {
        let Some(finished) = self.under_way.next().await else { return std::future::pending().await };
        match &finished {
            Finished::Check(checked) => _ = self.checks.remove(&checked.file.name),
            Finished::Recall(recalled) => _ = self.recalls.remove(&recalled.file.name),
        }
        finished
    }
}

/// Whether no other one of these files is of the same tenant's own.
fn is_apart<'a>(plugin: &str, mut others: impl Iterator<Item = &'a String>) -> bool {
    let owner = |plugin: &str| plugin.split_once('/').map(|(tenant, _)| tenant.to_string());
    let own = owner(plugin);
    own.is_none() || others.all(|other| owner(other) != own)
}

async fn recall(
    tools: Tools,
    file: PluginFile,
    (digest, contract): (String, String),
    effort: Effort,
    held: Vec<VersionHold>,
) -> Result<CheckedFile, NoFormer> {
    let Tools { sandbox, keys, db, .. } = tools;
    let sandbox = sandbox.with_effort(effort);
    let unasked = |error: crate::db::Error| NoFormer::Unasked(describe(&error));
    let session = db.connect("former version").await.map_err(unasked)?;
    let former = history::latest_allowed(&session, &file.name, &digest, &held).await.map_err(unasked)?;
    let former = former.ok_or(NoFormer::Unknown)?;
    let most_bytes = sandbox.limits().component_bytes();
    let stored = components::find(&session, &file.name, &former, most_bytes).await.map_err(unasked)?;
    drop(session);
    // Of an earlier version the contract was not written down.
    let contract = if former == digest { contract } else { String::new() };
    let known = FormerVersion { digest: former.clone(), contract, stored };
    let recalled = spawn_blocking(move || check::recall(&sandbox, &keys, file, known)).await;
    match recalled {
        Ok(Ok(former)) => Ok(former),
        Ok(Err(check::RecallError::Refused(why))) => Err(NoFormer::Refused { digest: former, why }),
        Ok(Err(check::RecallError::Shortage(why))) => Err(NoFormer::Shortage(why)),
        Err(error) => Err(NoFormer::Refused { digest: former, why: format!("loading it failed: {error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_files_are_checked_one_after_another() {
        let mut jobs = Jobs::default();
        let mut may = |name: &str, slow| {
            let is_free = jobs.has_place(name, slow);
            if is_free {
                jobs.checks.insert(name.into(), slow);
            }
            is_free
        };
        assert!(may("acme/a", false) && !may("acme/b", false), "one of a tenant's own");
        assert!(may("acme/large", true) && !may("acme/larger", true), "and one that takes long");
        assert!(may("a", false) && may("b", false), "everybody's are not counted by owner");
        assert!(may("globex/a", false));
        assert!(!may("c", false), "all places are taken");
    }

    #[test]
    fn few_former_versions_are_looked_for_at_once_and_one_of_a_tenants_own() {
        let mut jobs = Jobs::default();
        for name in ["acme/a", "acme/b", "a", "b"] {
            let (file, from) = (PluginFile::example(name, 1), (String::new(), String::new()));
            jobs.recall(Recall { file, purpose: Purpose::Start, from, effort: Effort::Full });
        }
        let next = |jobs: &mut Jobs| jobs.next_recall().map(|recall| recall.file.name);
        assert_eq!(next(&mut jobs).as_deref(), Some("acme/a"));
        assert_eq!(next(&mut jobs).as_deref(), Some("a"), "acme's other one waits for acme's");
        assert_eq!(next(&mut jobs), None, "all places are taken");
        assert!(["acme/a", "acme/b", "a", "b"].iter().all(|name| jobs.is_recalling(name)));
        jobs.recalls.remove("acme/a");
        jobs.forget_recalls("b");
        assert_eq!(next(&mut jobs).as_deref(), Some("acme/b"));
        jobs.recalls.remove("a");
        assert_eq!(next(&mut jobs), None, "nobody needs the last one any more");
    }
}
