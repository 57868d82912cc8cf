//! Fallbacks: the former versions that run in place of files, and the reasons why others cannot
//! run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::{
    plugins::{check::CheckedFile, retries::Retries},
    sandbox::compile::Effort,
};

/// The former versions that run in place of files, and the reasons why others cannot run.
#[derive(Default)]
pub(super) struct Fallbacks {
    /// Former versions to start in place of a file.
    former: BTreeMap<String, CheckedFile>,
    /// Files that are checked again once a former version runs in their place.
    recheck: BTreeSet<String>,
    /// Why no former version can run, by plugin.
    failures: BTreeMap<String, String>,
    /// Plugins whose former version is recalled again later.
    retries: Retries,
}

impl Fallbacks {
    /// Forgets a plugin whose file has changed.
    pub(super) fn forget(&mut self, plugin: &str) {
        self.former.remove(plugin);
        self.recheck.remove(plugin);
        self.forget_failure(plugin);
    }

    /// Forgets why no former version can run.
    pub(super) fn forget_failure(&mut self, plugin: &str) {
        self.failures.remove(plugin);
        self.retries.remove(plugin);
    }

    /// Sets the former version to start in place of a file.
    pub(super) fn set_former(&mut self, plugin: String, former: CheckedFile) {
        self.former.insert(plugin, former);
    }

    /// The former version to start in place of a file.
    pub(super) fn former(&self, plugin: &str) -> Option<&CheckedFile> {
        self.former.get(plugin)
    }

    /// Drops the former version to start. Returns whether there was one.
    pub(super) fn drop_former(&mut self, plugin: &str) -> bool {
        self.former.remove(plugin).is_some()
    }

    /// Requests a check of a file once a former version runs in its place.
    pub(super) fn request_recheck(&mut self, plugin: String) {
        self.recheck.insert(plugin);
    }

    /// Drops a former version that was started. Returns whether its file must be checked against
    /// it: because that was requested, or because the file can run and was never dry-run.
    pub(super) fn take_started(&mut self, plugin: &str, is_candidate: bool) -> bool {
        self.former.remove(plugin).is_some() && (self.recheck.remove(plugin) || is_candidate)
    }

    /// A file's rejection, with the reason why no former version runs instead.
    pub(super) fn with_failure(&self, plugin: &str, reason: String) -> String {
        match self.failures.get(plugin) {
            Some(failure) => format!("{reason}\n{failure}"),
            None => reason,
        }
    }

    /// Records why no former version can run.
    pub(super) fn fail(&mut self, plugin: &str, reason: String) {
        self.retries.remove(plugin);
        tracing::warn!(plugin, "{reason}");
        self.failures.insert(plugin.into(), reason);
    }

    /// Whether no recall may begin now, because none can succeed or the next one is not due yet.
    pub(super) fn is_settled(&self, plugin: &str) -> bool {
        self.failures.contains_key(plugin) || self.retries.is_waiting(plugin)
    }

    /// Schedules another recall of a former version. Returns the number of attempts so far.
    pub(super) fn retry_later(&mut self, plugin: &str, reason: &str, now: Instant) -> u32 {
        let (attempts, wait) = self.retries.add(plugin, reason, now);
        let (seconds, reason) = (wait.as_secs(), reason.replace('\n', ". "));
        tracing::warn!(plugin, attempts, "cannot load the former version; trying again in {seconds} s: {reason}");
        attempts
    }

    /// The plugins whose next recall is due. Each is returned once.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        self.retries.take_due(now)
    }

    /// The limits on the time and memory for compiling a former version.
    pub(super) fn effort(&self, plugin: &str) -> Effort {
        if self.retries.contains(plugin) { Effort::Alone } else { Effort::Full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::folder::PluginFile;

    fn with_former(plugin: &str) -> Fallbacks {
        let mut fallbacks = Fallbacks::default();
        let former = CheckedFile::rejected(PluginFile::example(plugin, 1), String::new());
        fallbacks.set_former(plugin.into(), former);
        fallbacks
    }

    #[test]
    fn a_started_former_version_rechecks_its_file_once_if_requested_or_if_the_file_can_run() {
        assert!(!with_former("p").take_started("p", false), "the file is rejected anyway");
        assert!(with_former("p").take_started("p", true), "the file was never dry-run");
        let mut requested = with_former("p");
        requested.request_recheck("p".into());
        assert!(requested.take_started("p", false) && !requested.take_started("p", true));
    }

    #[test]
    fn a_failure_is_appended_to_the_rejection_until_the_file_changes() {
        let mut fallbacks = Fallbacks::default();
        fallbacks.retry_later("p", "no database", Instant::now());
        assert!(fallbacks.is_settled("p") && fallbacks.effort("p") == Effort::Alone);
        fallbacks.fail("p", "No former version.".into());
        assert_eq!(fallbacks.with_failure("p", "broken".into()), "broken\nNo former version.");
        assert_eq!(fallbacks.effort("p"), Effort::Full, "a failure ends the retries");
        fallbacks.forget("p");
        assert_eq!(fallbacks.with_failure("p", "broken".into()), "broken");
        assert!(!fallbacks.is_settled("p"));
    }
}
