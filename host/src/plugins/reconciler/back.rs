//! The way back to a version that ran before: from the bytes that the database keeps, and where
//! that is not possible, the words for it.

use std::collections::BTreeMap;

use super::{
    super::{
        check::CheckedFile,
        history::{PluginEvent, VersionHold},
        plan::{self, Step, VersionSpec},
        registry::{RunnableVersion, SwapReport},
    },
    Instant, Reconciler,
    jobs::{NoFormer, Purpose, Recall, Recalled},
    shortage::{ATTEMPTS, Shortages},
};
use crate::{db::Session, processor::registration::RegistrationError, sandbox::compile::Effort};

/// Files for which no former version can run, and why.
#[derive(Default)]
pub(super) struct NoWayBack {
    why: BTreeMap<String, String>,
    /// Files for which it is looked for again after a while.
    again: Shortages,
}

impl NoWayBack {
    /// Another file is there, of which other things are true.
    pub(super) fn forget(&mut self, plugin: &str) {
        self.why.remove(plugin);
        self.again.remove(plugin);
    }

    /// Why a file is refused, and why no former version runs instead.
    pub(super) fn beside(&self, plugin: &str, why: String) -> String {
        match self.why.get(plugin) {
            Some(also) => format!("{why}\n{also}"),
            None => why,
        }
    }

    /// A former version is looked for again later; how often that was.
    fn later(&mut self, plugin: &str, why: &str) -> u32 {
        let (attempts, wait) = self.again.add(plugin, why, Instant::now());
        let (seconds, why) = (wait.as_secs(), why.replace('\n', ". "));
        tracing::warn!(plugin, attempts, "the version that ran before is looked for again in {seconds} s: {why}");
        attempts
    }

    /// What compiling a former version may take.
    pub(super) fn effort(&self, plugin: &str) -> Effort {
        if self.again.contains(plugin) { Effort::Alone } else { Effort::Full }
    }

    pub(super) fn note(&mut self, plugin: &str, why: String) {
        self.again.remove(plugin);
        tracing::warn!(plugin, "{why}");
        self.why.insert(plugin.into(), why);
    }
}

impl Reconciler {
    /// Begins to look for the version before one that runs and was taken back.
    pub(super) fn recall_before(&mut self, hold: VersionHold) {
        let VersionHold { plugin, digest, .. } = &hold;
        let known = self.no_way_back.why.contains_key(plugin) || self.no_way_back.again.is_waiting(plugin);
        let Some(file) = self.settling.known().get(plugin).cloned() else { return };
        if known || self.jobs.is_recalling(plugin) {
            return;
        }
        let (from, effort) = ((digest.clone(), String::new()), self.no_way_back.effort(plugin));
        self.jobs.recall(Recall { file, purpose: Purpose::RollBack(hold), from, effort });
    }

    /// Looks again for what the database or the machine kept from being found.
    pub(super) fn recall_due(&mut self) {
        for plugin in self.no_way_back.again.due() {
            if self.start.is_some() && self.running_id(&plugin).is_none() {
                self.recall_again(&plugin);
            }
        }
    }

    /// Takes note that a former version could not be looked for now. Whether it is tried again.
    fn is_looked_for_later(&mut self, plugin: &str, unfound: &NoFormer) -> bool {
        let (NoFormer::Unasked(why) | NoFormer::Shortage(why)) = unfound else { return false };
        let attempts = self.no_way_back.later(plugin, why);
        if let Some(start) = self.start.as_mut() {
            start.unrecalled(plugin, attempts);
        }
        // Others may begin that waited for it.
        self.uncarried.get_or_insert_with(Instant::now);
        // A database that is away keeps everything waiting, so that nothing is gained by giving up.
        let gives_up = !self.follows && attempts >= ATTEMPTS && matches!(unfound, NoFormer::Shortage(_));
        !gives_up
    }

    /// Takes what was found of a former version.
    pub(super) async fn take_recalled(&mut self, Recalled { file, purpose, result }: Recalled) {
        let plugin = file.name.clone();
        // Another file by now, which is checked first.
        if self.settling.known().get(&plugin) != Some(&file) {
            if let Some(start) = self.start.as_mut() {
                start.allow_recall(&plugin);
            }
            return;
        }
        if let Err(unfound) = &result
            && self.is_looked_for_later(&plugin, unfound)
        {
            return;
        }
        match (purpose, result) {
            (_, Err(NoFormer::Unasked(why) | NoFormer::Shortage(why))) => {
                let why = format!("The version that ran last could not be loaded: {why}");
                self.no_way_back.note(&plugin, why);
            }
            // The file itself was compiled after all.
            (Purpose::Start, Ok(_)) if self.running_id(&plugin).is_some() => {}
            (Purpose::Start, Ok(former)) => self.run_former(former),
            (Purpose::Start, Err(NoFormer::Refused { digest, why })) => {
                let version = digest.get(..12).unwrap_or(&digest);
                let why = format!("The version that ran last ({version}) does not run either: {why}");
                self.no_way_back.note(&plugin, why);
            }
            (Purpose::Start, Err(NoFormer::Unknown)) => {}
            (Purpose::RollBack(hold), Ok(former)) => self.go_back(former, &hold).await,
            (Purpose::RollBack(_), Err(NoFormer::Refused { digest, why })) => {
                let version = digest.get(..12).unwrap_or(&digest);
                let why = format!("It keeps running, because the version before it ({version}) cannot run: {why}");
                self.no_way_back.note(&plugin, why);
            }
            (Purpose::RollBack(_), Err(NoFormer::Unknown)) => {
                let why = "It keeps running, because no version before it is known that was not taken back too.";
                self.no_way_back.note(&plugin, why.into());
            }
        }
        self.close(&plugin);
        self.uncarried.get_or_insert_with(Instant::now);
    }

    /// Lets what ran last go on in a file's place. What is there instead, if anything could run, is
    /// checked against it.
    fn run_former(&mut self, former: CheckedFile) {
        let plugin = former.file.name.clone();
        let digest = former.digest.get(..12);
        tracing::warn!(plugin, digest, "its file does not run; the version that ran last keeps running");
        let ran = self.start.as_ref().and_then(|start| start.ran(&plugin));
        let refused = ran.and_then(|ran| ran.refused.as_ref()).map(|(_, why, _)| why.clone());
        if self.candidate(&plugin).is_some()
            && let Some(checked) = self.checked.get_mut(&plugin)
        {
            // Until then it stays refused: whoever ends this host before that should find it so.
            let why = self.refused.get(&plugin).cloned().or(refused);
            checked.outcome = Err(why.unwrap_or_else(|| "it was refused before, and is checked again".into()));
            checked.retry = true;
            self.recheck.insert(plugin.clone());
        }
        self.former.insert(plugin, former);
    }

    /// Lets a former version take its place back from one that was taken back.
    async fn go_back(&mut self, former: CheckedFile, hold: &VersionHold) {
        let (Some(follower), Some(id)) = (former.runnable(), self.running_id(&hold.plugin)) else { return };
        let Some(member) = self.registry.members().get(&id).filter(|member| *member.digest() == *hold.digest) else {
            return;
        };
        let version = |digest: String, follower: &RunnableVersion| VersionSpec {
            digest,
            descriptor: follower.descriptor.clone(),
            manifest: follower.manifest.clone(),
        };
        let now = VersionSpec {
            digest: hold.digest.clone(),
            descriptor: member.descriptor.clone(),
            manifest: member.manifest.clone(),
        };
        let done = member.done();
        let restarts = match plan::change(&hold.plugin, &now, &version(former.digest.clone(), &follower)) {
            _ if follower.descriptor.id != id => Err(format!("it is another processor, {}", follower.descriptor.id)),
            Some(Step::Refuse { reason, .. }) => Err(reason),
            step => Ok(!matches!(step, Some(Step::Swap { .. }))),
        };
        let restarts = match restarts {
            Ok(restarts) => restarts,
            Err(why) => {
                let why = format!("It keeps running, because the version before it cannot take its place: {why}");
                return self.no_way_back.note(&hold.plugin, why);
            }
        };
        // Whatever keeps it from it now, it is looked at again in a while.
        let Some(session) = self.session().await else {
            _ = self.no_way_back.later(&hold.plugin, "the database does not answer");
            return;
        };
        let replaced = match restarts {
            true => self.restart_with(&session, former, follower).await.map(|()| {
                let replaced = hold.digest.as_str().into();
                Some(SwapReport { replaced, done })
            }),
            false => self.registry.swap_back(&session, follower).await,
        };
        match replaced {
            Ok(Some(swapped)) => {
                let digest = hold.digest.get(..12);
                tracing::error!(processor = %id, plugin = hold.plugin, digest, "taken back, the version before it runs again: {}", hold.reason);
                self.dry_runs = None;
                self.no_way_back.forget(&hold.plugin);
                self.tell_running(&session, &hold.plugin, PluginEvent::RolledBack, &hold.reason, Some(&swapped)).await;
            }
            Ok(None) => {}
            Err(error) => _ = self.no_way_back.later(&hold.plugin, &error.to_string()),
        }
        self.session = Some(session);
    }

    /// Ends a processor and begins it again with a former version, as more than the code differs.
    /// It goes on as it is until it is known that this one can begin.
    async fn restart_with(
        &mut self,
        session: &Session,
        former: CheckedFile,
        follower: RunnableVersion,
    ) -> Result<(), RegistrationError> {
        self.registry.could_start(session, &follower).await?;
        match self.registry.start(session, vec![follower]).await.pop() {
            None => Ok(()),
            Some((follower, error)) => {
                // It has ended: what was to take its place begins with the next plan.
                self.former.insert(follower.plugin, former);
                Err(error)
            }
        }
    }
}
