//! A start: the order in which files may claim processors, and the files for which former versions
//! run. Pure.
//!
//! A start covers all files of a host that begins, or the files that were added to a running host.
//! A file begins once it is ready and no file with precedence can still claim its processor, so the
//! outcome does not depend on which file is ready first. A processor goes to the file whose plugin
//! ran it most recently; if there is none, to the first file by name, fast files before slow ones
//! (see [`Rank`]). So a fast file never waits for one that is slow to compile, unless the slow one
//! ran its processor last. Files of other tenants cannot claim it.
//!
//! If a file is rejected, the version that ran last continues in its place, as on a running host.
//! This also restores the plugins of a volume that was not mounted for a while.
//!
//! If the database or the machine prevents the recall of a former version, its file counts as slow.
//! After some attempts no file waits for it any more, but the recall is still repeated.

use std::collections::{BTreeMap, BTreeSet};

use super::{history::PluginStatus, plan::Rank, retries::ATTEMPTS};
use crate::model::ids::{ProcessorId, TenantId};

/// A start under way.
#[derive(Default)]
pub(super) struct Startup {
    /// All files of the start.
    files: BTreeSet<String>,
    /// The versions that ran last, by plugin; none until the database has answered.
    last_runs: Option<BTreeMap<String, PluginStatus>>,
    /// Files for which it is undecided what runs.
    open: BTreeMap<String, OpenFile>,
    /// Undecided files for which no other file waits, because many recalls of their former versions
    /// failed.
    overdue: BTreeSet<String>,
    /// Files for which a former version was recalled.
    recalled: BTreeSet<String>,
    /// Tenants whose folders cannot be read.
    unreadable: BTreeSet<TenantId>,
}

/// A file for which it is undecided what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenFile {
    /// Its owner; none if it is shared.
    pub(super) tenant: Option<TenantId>,
    /// Whether it is slow to compile.
    pub(super) is_slow: bool,
}

impl Startup {
    /// A start with these files.
    pub(super) fn new(files: impl IntoIterator<Item = (String, OpenFile)>, unreadable: BTreeSet<TenantId>) -> Self {
        let mut start = Startup::default();
        start.add_files(files, unreadable);
        start
    }

    /// Adds files. The versions that ran last must be read again.
    pub(super) fn add_files(
        &mut self,
        files: impl IntoIterator<Item = (String, OpenFile)>,
        unreadable: BTreeSet<TenantId>,
    ) {
        for (plugin, file) in files {
            self.files.insert(plugin.clone());
            self.open.insert(plugin, file);
        }
        (self.last_runs, self.unreadable) = (None, unreadable);
    }

    /// Sets the versions that ran last.
    pub(super) fn set_last_runs(&mut self, last_runs: Vec<PluginStatus>) {
        self.last_runs = Some(last_runs.into_iter().map(|last| (last.plugin.clone(), last)).collect());
    }

    /// Whether the versions that ran last are known.
    pub(super) fn is_known(&self) -> bool {
        self.last_runs.is_some()
    }

    /// The version that a plugin ran last.
    pub(super) fn last_run(&self, plugin: &str) -> Option<&PluginStatus> {
        self.last_runs.as_ref()?.get(plugin)
    }

    /// Takes the digest of a file. If the plugin was removed and returns with another file, forgets
    /// what it ran: adding a file must not restore a version that was removed.
    pub(super) fn file_read(&mut self, plugin: &str, digest: &str) {
        let is_another = self.last_run(plugin).is_some_and(|last| last.is_removed && last.file_digest() != digest);
        if let (true, Some(last_runs)) = (is_another, self.last_runs.as_mut()) {
            last_runs.remove(plugin);
        }
    }

    /// Decides a file: its plugin keeps the version that runs now, or runs none.
    pub(super) fn close(&mut self, plugin: &str) {
        self.open.remove(plugin);
        self.overdue.remove(plugin);
    }

    /// Makes a file undecided again.
    pub(super) fn reopen(&mut self, plugin: String, file: OpenFile) {
        self.open.insert(plugin, file);
    }

    /// Whether it is undecided what runs in a file's place.
    pub(super) fn is_open(&self, plugin: &str) -> bool {
        self.open.contains_key(plugin) || self.overdue.contains(plugin)
    }

    /// Whether there is an undecided file that others wait for.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether there is an undecided file that no other waits for.
    pub(super) fn has_overdue(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// The plugins that ran last, without overdue ones.
    pub(super) fn decided_runs(&self) -> impl Iterator<Item = &String> {
        let plugins = self.last_runs.iter().flat_map(BTreeMap::keys);
        plugins.filter(|plugin| !self.overdue.contains(*plugin))
    }

    /// Tenants whose folders cannot be read.
    pub(super) fn unreadable(&self) -> &BTreeSet<TenantId> {
        &self.unreadable
    }

    /// Takes the number of failed recalls of a file's former version.
    pub(super) fn recall_failed(&mut self, plugin: &str, attempts: u32) {
        self.mark_slow(plugin);
        if attempts >= ATTEMPTS && self.open.remove(plugin).is_some() {
            self.overdue.insert(plugin.into());
        }
    }

    /// Marks a file as slow to compile.
    pub(super) fn mark_slow(&mut self, plugin: &str) {
        if let Some(file) = self.open.get_mut(plugin) {
            file.is_slow = true;
        }
    }

    /// Allows another recall for a file.
    pub(super) fn allow_recall(&mut self, plugin: &str) {
        self.recalled.remove(plugin);
    }

    /// Marks a file of this start as recalled. Returns whether it was not yet.
    pub(super) fn mark_recalled(&mut self, plugin: &str) -> bool {
        self.recalled.insert(plugin.into())
    }

    /// Whether a file belongs to this start.
    pub(super) fn has_file(&self, plugin: &str) -> bool {
        self.files.contains(plugin)
    }

    /// The precedence of a file that claims a processor.
    pub(super) fn rank(&self, plugin: &str, is_slow: bool, id: &ProcessorId) -> Rank {
        match self.owner(id) {
            Some(owner) if owner == plugin => Rank::Owner,
            _ if is_slow => Rank::Slow,
            _ => Rank::Other,
        }
    }

    /// Whether a file that could run waits for a file with precedence that may claim its processor.
    pub(super) fn must_wait(&self, plugin: &str, file: &OpenFile, id: &ProcessorId) -> bool {
        match self.owner(id) {
            Some(owner) if owner == plugin => return false,
            Some(owner) if self.open.contains_key(owner) => return true,
            _ => {}
        }
        let mut others = self.open.iter().filter(|(other, _)| *other != plugin);
        others
            .any(|(name, other)| other.tenant == file.tenant && (other.is_slow, name.as_str()) < (file.is_slow, plugin))
    }

    /// Whether a file that was rejected before waits for the recall of its former version.
    pub(super) fn awaits_former(&self, plugin: &str, digest: &str) -> bool {
        let rejected = self.last_run(plugin).and_then(|last| last.rejected.as_ref());
        self.is_open(plugin) && rejected.is_some_and(|(rejected, ..)| rejected == digest)
    }

    /// Whether a processor in lockstep waits for a file that may be in lockstep too. They begin
    /// together, so that none is a page ahead.
    pub(super) fn must_wait_in_lockstep(&self, plugin: &str, is_lockstep: impl Fn(&str) -> bool) -> bool {
        let mut others = self.open.keys().filter(|other| *other != plugin);
        others.any(|other| self.last_run(other).is_none_or(|last| !last.runs() || is_lockstep(&last.processor)))
    }

    /// The tenants' own processors that ran last from undecided files.
    pub(super) fn undecided_own(&self) -> impl Iterator<Item = ProcessorId> {
        self.open.keys().filter_map(|plugin| own_processor(self.last_run(plugin)?))
    }

    /// The plugin that ran a processor last.
    fn owner(&self, id: &ProcessorId) -> Option<&str> {
        let mut last_runs = self.last_runs.as_ref()?.values();
        last_runs.find(|last| last.processor == id.as_str()).map(|last| last.plugin.as_str())
    }
}

/// The tenant's own processor that a plugin runs or ran last; none if its file was removed.
pub(super) fn own_processor(last: &PluginStatus) -> Option<ProcessorId> {
    let id = ProcessorId::parse(&last.processor).ok().filter(|_| !last.is_removed)?;
    id.owner().is_some().then_some(id)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn last_run(plugin: &str, processor: &str) -> PluginStatus {
        PluginStatus {
            plugin: plugin.into(),
            processor: processor.into(),
            digest: "d".into(),
            version: String::new(),
            contract: String::new(),
            signed_by: String::new(),
            since: SystemTime::now(),
            lanes: 0,
            rejected: None,
            is_removed: false,
        }
    }

    fn tenant(name: &str) -> Option<TenantId> {
        TenantId::parse(name).ok()
    }

    fn file(tenant: Option<TenantId>, is_slow: bool) -> OpenFile {
        OpenFile { tenant, is_slow }
    }

    const SMALL: OpenFile = OpenFile { tenant: None, is_slow: false };
    const SLOW: OpenFile = OpenFile { tenant: None, is_slow: true };

    /// A start with these files, and the plugins that ran processors last.
    fn start(files: &[(&str, OpenFile)], last_runs: &[(&str, &str)]) -> Startup {
        let files = files.iter().map(|(name, file)| (name.to_string(), file.clone()));
        let mut start = Startup::new(files, BTreeSet::new());
        start.set_last_runs(last_runs.iter().map(|(plugin, processor)| last_run(plugin, processor)).collect());
        start
    }

    #[test]
    fn a_file_waits_for_those_with_precedence_and_never_for_slow_ones_or_other_tenants() {
        let (id, acme) = (ProcessorId::parse("x").unwrap(), tenant("acme"));
        let files = [("a", SMALL), ("b", SMALL), ("a-slow", SLOW), ("acme/a", file(acme.clone(), false))];
        let mut start = start(&files, &[]);
        assert!(!start.must_wait("a", &SMALL, &id), "the first by name");
        assert!(start.must_wait("b", &SMALL, &id), "a may claim the same processor");
        assert!(!start.must_wait("acme/a", &file(acme, false), &id), "the only file of acme");
        start.close("a");
        assert!(!start.must_wait("b", &SMALL, &id), "a small file does not wait for a slow one");
        assert!(start.must_wait("a-slow", &SLOW, &id), "a slow file waits for all small ones");
        start.mark_slow("b");
        assert!(!start.must_wait("a-slow", &SLOW, &id), "slow files are ordered by name");
    }

    #[test]
    fn a_processor_belongs_to_the_file_that_ran_it_last() {
        let id = ProcessorId::parse("x").unwrap();
        let mut start = start(&[("a", SMALL), ("b", SLOW)], &[("b", "x")]);
        assert!(!start.must_wait("b", &SLOW, &id), "the owner does not wait");
        assert!(start.must_wait("a", &SMALL, &id), "other files wait for the owner");
        assert_eq!([start.rank("a", false, &id), start.rank("b", true, &id)], [Rank::Other, Rank::Owner]);
        start.close("b");
        assert!(!start.must_wait("a", &SMALL, &id), "the owner does not run");
    }

    #[test]
    fn no_file_waits_forever_for_a_former_version_that_cannot_be_recalled() {
        let (id, other) = (ProcessorId::parse("x").unwrap(), ProcessorId::parse("y").unwrap());
        let mut start = start(&[("a", SMALL), ("b", SMALL), ("large", SLOW)], &[("a", "x")]);
        assert!(start.must_wait("b", &SMALL, &other), "a has precedence over b");
        start.recall_failed("a", 1);
        assert!(!start.must_wait("b", &SMALL, &other), "a counts as slow now");
        assert!(start.must_wait("b", &SMALL, &id), "the processor that a ran last is still reserved for a");
        start.close("b");
        assert!(start.must_wait("large", &SLOW, &other), "slow files are ordered by name");
        start.recall_failed("a", ATTEMPTS);
        assert!(!start.must_wait("large", &SLOW, &other) && !start.must_wait("b", &SMALL, &id));
        assert!(start.is_open("a") && !start.is_open("b"), "the recall is still repeated");
        start.close("large");
        assert!(!start.has_open() && start.has_overdue());
        start.close("a");
        assert!(!start.is_open("a"));
    }

    #[test]
    fn a_processor_in_lockstep_waits_for_files_that_may_be_in_lockstep_too() {
        let mut start = start(&[("a", SMALL), ("b", SLOW), ("c", SLOW)], &[("b", "in-lockstep"), ("c", "alone")]);
        let waits = |start: &Startup| start.must_wait_in_lockstep("a", |id| id == "in-lockstep");
        assert!(waits(&start));
        start.close("b");
        assert!(!waits(&start), "c is known not to be in lockstep");
    }

    #[test]
    fn a_removed_plugin_that_returns_with_another_file_ran_nothing_before() {
        let mut start = start(&[("a", SMALL), ("b", SMALL)], &[]);
        let removed = |plugin: &str| PluginStatus { is_removed: true, ..last_run(plugin, "x") };
        start.set_last_runs(vec![removed("a"), removed("b")]);
        start.file_read("a", "d");
        start.file_read("b", "another");
        assert!(start.last_run("a").is_some() && start.last_run("b").is_none());
    }
}
