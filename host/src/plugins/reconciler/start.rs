//! A host's start: each file begins when it is ready, and where a file does not run, what ran last
//! goes on in its place.
//!
//! No file waits for one that takes long to compile. What comes of a start does not depend on which
//! file is ready first, though: of files that claim one processor, the one that ran it last gets
//! it, or else the first by name, those that take long after all others (see [`Rank`]). So a file
//! begins once no other that goes before it can still claim its processor, and files of other
//! tenants never can. What a start leaves refused leaves the former version running, as while a
//! host runs.
//!
//! Files that come to a running host are such a start as well, so that those of a volume which was
//! away come back as they were.
//!
//! A former version that the database or the machine keeps from being found makes its file a slow
//! one, and after some attempts nothing waits for it any more. It is looked for all the same.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use super::{
    super::{
        folder::{self, Listing},
        history::{self, PluginStatus},
        plan::Rank,
    },
    Reconciler,
    jobs::{Purpose, Recall},
    shortage::ATTEMPTS,
};
use crate::{
    db::describe,
    model::ids::{ProcessorId, TenantId},
    processor::ProcessorState,
};

/// What runs once a start is over.
pub struct StartReport {
    /// How each processor stands.
    pub states: Vec<(ProcessorId, watch::Receiver<ProcessorState>)>,
    /// Files that do not run, or that something else runs for.
    pub refused: usize,
    /// Processors that have settings of their own and do not run here.
    pub idle_settings: Vec<String>,
}

/// A start that is not over: of a host, or of files that came to a host which runs.
#[derive(Default)]
pub(super) struct Start {
    /// The files that it is about.
    files: BTreeSet<String>,
    /// What ran last under the names of the files; none while the database could not be asked.
    ran: Option<BTreeMap<String, PluginStatus>>,
    /// Files of which it is not known yet whether they run: whose they are, and whether they are
    /// slow.
    open: BTreeMap<String, OpenFile>,
    /// Files in whose place a former version is looked for again and again, for which nothing
    /// waits.
    overdue: BTreeSet<String>,
    /// Files in whose place a former version was looked for.
    recalled: BTreeSet<String>,
    /// Tenants whose folders could not be read.
    unread: BTreeSet<TenantId>,
}

/// A file whose start is open: whose it is, and whether it is slow.
type OpenFile = (Option<TenantId>, bool);

impl Start {
    /// A start of these files.
    fn of(open: BTreeMap<String, OpenFile>, unread: BTreeSet<TenantId>) -> Self {
        let mut start = Start::default();
        start.add(open, unread);
        start
    }

    /// Further files have come. What ran last under their names is still to be read.
    pub(super) fn add(&mut self, files: BTreeMap<String, OpenFile>, unread: BTreeSet<TenantId>) {
        self.files.extend(files.keys().cloned());
        self.open.extend(files);
        (self.ran, self.unread) = (None, unread);
    }

    /// A file was read. If it has been gone and is another one now, nothing ran before it: who
    /// removed a plugin does not get it back by putting another one there.
    pub(super) fn found(&mut self, plugin: &str, digest: &str) {
        let is_another = self.ran(plugin).is_some_and(|ran| ran.is_removed && ran.file_digest() != digest);
        if let (true, Some(ran)) = (is_another, self.ran.as_mut()) {
            ran.remove(plugin);
        }
    }

    /// Nothing more is to be found out about a file.
    pub(super) fn close(&mut self, plugin: &str) {
        self.open.remove(plugin);
        self.overdue.remove(plugin);
    }

    /// Whether it is not known yet what runs in a file's place.
    fn is_open(&self, plugin: &str) -> bool {
        self.open.contains_key(plugin) || self.overdue.contains(plugin)
    }

    /// A former version could not be looked for so many times.
    pub(super) fn unrecalled(&mut self, plugin: &str, attempts: u32) {
        self.is_slow(plugin);
        if attempts >= ATTEMPTS && self.open.remove(plugin).is_some() {
            self.overdue.insert(plugin.into());
        }
    }

    /// A file turned out to be slow.
    pub(super) fn is_slow(&mut self, plugin: &str) {
        if let Some((_, slow)) = self.open.get_mut(plugin) {
            *slow = true;
        }
    }

    /// A former version may be looked for once more.
    pub(super) fn allow_recall(&mut self, plugin: &str) {
        self.recalled.remove(plugin);
    }

    /// What ran last under a file's name.
    pub(super) fn ran(&self, plugin: &str) -> Option<&PluginStatus> {
        self.ran.as_ref()?.get(plugin)
    }

    /// The rank of a file that claims a processor.
    pub(super) fn rank(&self, plugin: &str, slow: bool, id: &ProcessorId) -> Rank {
        match self.owner(id) {
            Some(owner) if owner == plugin => Rank::Owner,
            _ if slow => Rank::Slow,
            _ => Rank::Other,
        }
    }

    /// Whether a file that could run waits for another one, which may claim the same processor and
    /// goes before it.
    pub(super) fn holds_back(&self, plugin: &str, (tenant, slow): (Option<&TenantId>, bool), id: &ProcessorId) -> bool {
        match self.owner(id) {
            Some(owner) if owner == plugin => return false,
            Some(owner) if self.open.contains_key(owner) => return true,
            _ => {}
        }
        let mut open = self.open.iter().filter(|(other, _)| *other != plugin);
        open.any(|(other, (of, is_slow))| of.as_ref() == tenant && (*is_slow, other.as_str()) < (slow, plugin))
    }

    /// Whether a file was refused before, and it is not known yet whether what ran last runs in its
    /// place.
    pub(super) fn is_recalling(&self, plugin: &str, digest: &str) -> bool {
        let refused = self.ran(plugin).and_then(|ran| ran.refused.as_ref());
        self.is_open(plugin) && refused.is_some_and(|(refused, ..)| refused == digest)
    }

    /// Whether a processor that keeps in step with others waits for one that may be of them: they
    /// begin together, so that none is a page ahead.
    pub(super) fn holds_in_step(&self, plugin: &str, is_lockstep: impl Fn(&str) -> bool) -> bool {
        let mut open = self.open.keys().filter(|other| *other != plugin);
        open.any(|other| self.ran(other).is_none_or(|ran| !ran.runs() || is_lockstep(&ran.processor)))
    }

    /// Whether the files that ran last are known.
    pub(super) fn is_known(&self) -> bool {
        self.ran.is_some()
    }

    /// Tenants' own processors that ran last from files whose start is undecided.
    pub(super) fn own_to_come(&self) -> impl Iterator<Item = ProcessorId> {
        self.open.keys().filter_map(|plugin| own_processor(self.ran(plugin)?))
    }

    fn owner(&self, id: &ProcessorId) -> Option<&str> {
        let mut ran = self.ran.as_ref()?.values();
        ran.find(|ran| ran.processor == id.as_str()).map(|ran| ran.plugin.as_str())
    }
}

/// The tenant's own processor that a file runs or ran last; none if the file has gone since.
fn own_processor(ran: &PluginStatus) -> Option<ProcessorId> {
    let id = ProcessorId::parse(&ran.processor).ok().filter(|_| !ran.is_removed)?;
    id.owner().is_some().then_some(id)
}

impl Reconciler {
    /// Looks at the folder for the first time. Fails where it cannot be read.
    pub fn open(&mut self) -> std::io::Result<()> {
        let Listing { files, unread, problems, left_over, folders } = folder::scan(&self.folder)?;
        self.settling.init(files);
        self.hints.follow(folders);
        self.reports.update(&self.folder, problems);
        self.unread.folders.clone_from(&unread);
        self.gone = left_over;
        self.waiting = self.settling.known().keys().cloned().collect();
        let files = self.settling.known().values();
        let files = files.map(|file| (file.name.clone(), (file.tenant.clone(), self.is_slow(file))));
        self.start = Some(Start::of(files.collect(), unread));
        Ok(())
    }

    /// Reads what ran last under the names of the files. Whether it is known now.
    pub(super) async fn read_ran(&mut self) -> bool {
        if self.start.as_ref().is_none_or(|start| start.ran.is_some()) {
            return true;
        }
        self.read_holds().await;
        let Some(session) = self.session().await else { return false };
        let there: Vec<&str> = self.settling.known().keys().map(String::as_str).collect();
        let unread = self.start.iter().flat_map(|start| &start.unread).map(TenantId::as_str);
        let unread: Vec<&str> = unread.collect();
        let ran = async {
            history::record_files(&session, &there, &unread).await?;
            self.reports.store(&session).await?;
            history::list_including(&session, &there).await
        };
        let ran = ran.await.inspect_err(|error| tracing::warn!("could not read what ran last: {}", describe(error)));
        self.session = Some(session);
        let (Ok(ran), Some(start)) = (ran, self.start.as_mut()) else { return false };
        let ran: Vec<PluginStatus> = ran.into_iter().filter(|ran| !ran.digest.is_empty()).collect();
        let own = ran.iter().filter_map(own_processor);
        self.unread.ran.extend(own.filter(|own| own.owner().is_some_and(|owner| start.unread.contains(owner))));
        start.ran = Some(ran.into_iter().map(|ran| (ran.plugin.clone(), ran)).collect());
        for (plugin, checked) in &self.checked {
            start.found(plugin, &checked.digest);
        }
        true
    }

    /// Finds out what runs in a file's place, once the file itself was checked.
    pub(super) fn close_or_recall(&mut self, plugin: &str) {
        let Some(start) = self.start.as_ref().filter(|start| start.is_open(plugin)) else { return };
        let candidate = self.candidate(plugin).map(|checked| &checked.digest);
        let ran = start.ran(plugin);
        let refused = ran.and_then(|ran| ran.refused.as_ref()).map(|(digest, ..)| digest);
        let runs = candidate.is_some() && candidate != refused;
        if runs || !self.recall_for_start(plugin) {
            self.close(plugin);
        }
    }

    /// Files against which nothing speaks alone, and that yet cannot begin: what ran last does, if
    /// it can.
    pub(super) fn recall_refused(&mut self) {
        let idle = self.refused.keys().filter(|plugin| self.running_id(plugin).is_none());
        let idle: Vec<String> = idle.filter(|plugin| !self.former.contains_key(*plugin)).cloned().collect();
        for plugin in idle {
            let file = self.settling.known().get(&plugin).map(|file| (file.tenant.clone(), self.is_slow(file)));
            if self.recall_for_start(&plugin)
                && let (Some(start), Some(file)) = (self.start.as_mut(), file)
            {
                start.open.insert(plugin, file);
            }
        }
    }

    /// Begins to look for what ran last under a name, once. Whether it does.
    pub(super) fn recall_for_start(&mut self, plugin: &str) -> bool {
        let Some(start) = self.start.as_mut().filter(|start| start.files.contains(plugin)) else { return false };
        let ran = start.ran(plugin).map(|ran| (ran.digest.clone(), ran.contract.clone()));
        let (Some(ran), Some(file)) = (ran, self.settling.known().get(plugin).cloned()) else { return false };
        if !start.recalled.insert(plugin.into()) {
            return false;
        }
        let effort = self.no_way_back.effort(plugin);
        self.jobs.recall(Recall { file, purpose: Purpose::Start, from: ran, effort });
        true
    }

    /// The same once more, as the database or the machine did not let it.
    pub(super) fn recall_again(&mut self, plugin: &str) {
        if let Some(start) = self.start.as_mut() {
            start.allow_recall(plugin);
        }
        if !self.recall_for_start(plugin) {
            self.close(plugin);
        }
    }

    pub(super) fn close(&mut self, plugin: &str) {
        if let Some(start) = self.start.as_mut() {
            start.close(plugin);
        }
    }

    /// Ends the start, if nothing more is to be found out. Those who wait for it are told before,
    /// once all that is left is overdue.
    pub(super) async fn end_start(&mut self) {
        let Some(start) = self.start.as_ref().filter(|start| start.open.is_empty()) else { return };
        let is_over = start.overdue.is_empty();
        let waits = !is_over || !self.short.is_empty() || !self.archive.is_done();
        if self.uncarried.is_some() || !self.follows && waits || !is_over && self.begun.is_none() {
            return;
        }
        let unread = start.unread.len();
        let known = start.ran.iter().flat_map(BTreeMap::keys).filter(|plugin| !start.overdue.contains(*plugin));
        let known: Vec<String> = known.cloned().collect();
        self.tell_idle(&known).await;
        let idle = self.settling.known().len().saturating_sub(self.registry.members().len());
        let members = self.registry.members().iter();
        let begun = StartReport {
            states: members.map(|(id, member)| (id.clone(), member.state.clone())).collect(),
            refused: idle.max(self.refused.len()) + unread,
            idle_settings: self.registry.idle_settings().map(String::from).collect(),
        };
        if is_over {
            self.start = None;
        }
        if let Some(tell) = self.begun.take() {
            // Nobody waits for it where the host ends.
            let _ = tell.send(begun);
        }
    }

    /// Says of those that ran last and do not now that nothing does.
    async fn tell_idle(&mut self, ran: &[String]) {
        let Some(session) = self.session().await else { return };
        for plugin in ran {
            if self.running_id(plugin).is_some() {
                continue;
            }
            let told = history::record_idle(&session, plugin).await;
            self.written(told);
        }
        self.session = Some(session);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn ran(plugin: &str, processor: &str) -> (String, PluginStatus) {
        let listed = PluginStatus {
            plugin: plugin.into(),
            processor: processor.into(),
            digest: "d".into(),
            version: String::new(),
            contract: String::new(),
            signed_by: String::new(),
            since: SystemTime::now(),
            lanes: 0,
            refused: None,
            is_removed: false,
        };
        (plugin.into(), listed)
    }

    fn tenant(name: &str) -> Option<TenantId> {
        TenantId::parse(name).ok()
    }

    /// Files by name, whose folder they are in and whether they are slow; and what ran last.
    fn start(files: &[(&str, Option<TenantId>, bool)], before: &[(&str, &str)]) -> Start {
        let files = files.iter().map(|(name, tenant, slow)| (name.to_string(), (tenant.clone(), *slow)));
        let mut start = Start::of(files.collect(), BTreeSet::new());
        start.ran = Some(before.iter().map(|(plugin, processor)| ran(plugin, processor)).collect());
        start
    }

    #[test]
    fn a_file_waits_for_those_that_go_before_it_and_never_for_slow_ones_or_other_tenants() {
        let (id, acme) = (ProcessorId::parse("x").unwrap(), tenant("acme"));
        let files = [("a", None, false), ("b", None, false), ("a-slow", None, true), ("acme/a", acme.clone(), false)];
        let mut start = start(&files, &[]);
        let held = |start: &Start, name: &str, slow: bool| start.holds_back(name, (None, slow), &id);
        assert!(!held(&start, "a", false), "the first by name");
        assert!(held(&start, "b", false), "a may claim the same");
        assert!(!start.holds_back("acme/a", (acme.as_ref(), false), &id), "what is acme's alone");
        start.close("a");
        assert!(!held(&start, "b", false), "nobody waits for a slow one");
        assert!(held(&start, "a-slow", true), "a slow one waits for all others");
        start.is_slow("b");
        assert!(!held(&start, "a-slow", true), "of slow ones names decide");
    }

    #[test]
    fn a_processor_belongs_to_the_file_that_ran_it_last() {
        let id = ProcessorId::parse("x").unwrap();
        let mut start = start(&[("a", None, false), ("b", None, true)], &[("b", "x")]);
        assert!(!start.holds_back("b", (None, true), &id), "its owner waits for nobody");
        assert!(start.holds_back("a", (None, false), &id), "others wait for its owner");
        assert_eq!([start.rank("a", false, &id), start.rank("b", true, &id)], [Rank::Other, Rank::Owner]);
        start.close("b");
        assert!(!start.holds_back("a", (None, false), &id), "it does not run");
    }

    #[test]
    fn nothing_waits_for_ever_for_a_former_version_that_cannot_be_looked_for() {
        let id = ProcessorId::parse("x").unwrap();
        let files = [("a", None, false), ("b", None, false), ("large", None, true)];
        let mut start = start(&files, &[("a", "x")]);
        let held = |start: &Start, name: &str, slow, id: &ProcessorId| start.holds_back(name, (None, slow), id);
        let other = ProcessorId::parse("y").unwrap();
        assert!(held(&start, "b", false, &other), "a goes before b");
        start.unrecalled("a", 1);
        assert!(!held(&start, "b", false, &other), "a is slow now");
        assert!(held(&start, "b", false, &id), "what a ran last is still a's");
        start.close("b");
        assert!(held(&start, "large", true, &other), "of slow ones names decide");
        start.unrecalled("a", ATTEMPTS);
        assert!(!held(&start, "large", true, &other) && !held(&start, "b", false, &id));
        assert!(start.is_open("a") && !start.is_open("b"), "it is looked for all the same");
        start.close("a");
        assert!(!start.is_open("a"));
    }

    #[test]
    fn those_in_step_wait_for_files_that_may_be_of_them() {
        let files = [("a", None, false), ("b", None, true), ("c", None, true)];
        let mut start = start(&files, &[("b", "in-step"), ("c", "alone")]);
        let in_step = |start: &Start| start.holds_in_step("a", |id| id == "in-step");
        assert!(in_step(&start));
        start.close("b");
        assert!(!in_step(&start), "c is known to be none of them");
    }
}
