//! The inputs of a plan: the running versions, the desired ones, and the files that are rejected.

use std::collections::BTreeMap;

use super::Reconciler;
use crate::{
    model::ids::ProcessorId,
    plugins::{
        check::CheckedFile,
        plan::{Desired, Rank, VersionSpec},
        registry::{Member, RunnableVersion},
    },
};

impl Reconciler {
    /// The running versions, by plugin.
    pub(super) fn running(&self) -> BTreeMap<String, VersionSpec> {
        let members = self.registry.members().values();
        let version = |member: &Member| VersionSpec {
            digest: member.digest().to_string(),
            spec: member.spec.clone(),
            manifest: member.manifest.clone(),
        };
        members.map(|member| (member.plugin.clone(), version(member))).collect()
    }

    /// The desired state of every plugin that has a file. A plugin stays as it is while its file is
    /// being checked.
    pub(super) fn desired(&self) -> BTreeMap<String, Desired> {
        let desired = |plugin: &String| match self.version_to_run(plugin).filter(|version| !self.must_wait(version)) {
            Some(RunnableVersion { spec, manifest, digest, .. }) => {
                Desired::Run(Box::new(VersionSpec { digest, spec, manifest }))
            }
            None => Desired::Keep,
        };
        self.folder.files().keys().map(|plugin| (plugin.clone(), desired(plugin))).collect()
    }

    /// The version that a plugin should run: that of its file, or a former version in its place.
    pub(super) fn version_to_run(&self, plugin: &str) -> Option<RunnableVersion> {
        let former = self.fallbacks.former(plugin).filter(|_| self.running_id(plugin).is_none());
        former.or_else(|| self.candidate(plugin))?.runnable()
    }

    /// The result of a file's check, if the file can run and is not held back.
    pub(super) fn candidate(&self, plugin: &str) -> Option<&CheckedFile> {
        let checked = self.checks.result(plugin).filter(|checked| checked.outcome.is_ok())?;
        self.journal.holds.of(plugin, &checked.digest).is_none().then_some(checked)
    }

    /// Whether a version that could run waits for other files of the same start.
    fn must_wait(&self, RunnableVersion { plugin, spec, digest, .. }: &RunnableVersion) -> bool {
        let (Some(start), Some(file)) = (&self.start, self.folder.file(plugin)) else { return false };
        let id = &spec.id;
        let in_lockstep = self.registry.is_lockstep(id.as_str())
            && start.must_wait_in_lockstep(plugin, |other| self.registry.is_lockstep(other));
        self.running_id(plugin).is_none()
            && (in_lockstep
                || start.awaits_former(plugin, digest)
                || start.must_wait(plugin, &self.open_file(file), id))
    }

    /// The precedence of a file that claims a processor.
    pub(super) fn rank(&self, plugin: &str, id: &ProcessorId) -> Rank {
        let is_slow = self.folder.file(plugin).is_some_and(|file| self.checks.is_slow(file));
        match (&self.start, is_slow) {
            (Some(start), is_slow) => start.rank(plugin, is_slow, id),
            (None, true) => Rank::Slow,
            (None, false) => Rank::Other,
        }
    }

    /// The files that are rejected regardless of other files, with the reasons.
    pub(super) fn rejected(&self) -> BTreeMap<String, String> {
        let reason = |(plugin, checked): (&String, &CheckedFile)| {
            let reason = match &checked.outcome {
                Err(reason) => reason.clone(),
                Ok(_) => {
                    let hold = self.journal.holds.of(plugin, &checked.digest)?;
                    let remedy = format!("put another version in the folder, or run: sandmill plugins retry {plugin}");
                    format!("this version was rolled back: {}; {remedy}", hold.reason)
                }
            };
            Some((plugin.clone(), self.fallbacks.with_failure(plugin, reason)))
        };
        self.checks.results().iter().filter_map(reason).collect()
    }
}
