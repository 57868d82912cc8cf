//! The way back to a version that ran before: from the bytes that the database keeps, and where
//! that is not possible, the words for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        check::Checked,
        fleet::{Follower, Swapped},
        history::{Event, Hold},
        plan::{self, Step, Version},
    },
    Instant, Registry,
    jobs::{NoFormer, Purpose, Recalled},
};
use crate::{db::Session, processor::registration::RegistrationError};

/// Files for which no former version can run, and why.
#[derive(Default)]
pub(super) struct NoWayBack {
    why: BTreeMap<String, String>,
    /// Files for which it is looked for again.
    again: BTreeSet<String>,
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

    fn note(&mut self, plugin: &str, why: String) {
        tracing::warn!(plugin, "{why}");
        self.why.insert(plugin.into(), why);
    }
}

impl Registry {
    /// Begins to look for the version before one that runs and was taken back.
    pub(super) fn recall_before(&mut self, hold: Hold) {
        let Hold { plugin, digest, .. } = &hold;
        let known = self.no_way_back.why.contains_key(plugin) || self.no_way_back.again.contains(plugin);
        let Some(file) = self.settling.known().get(plugin).cloned() else { return };
        if known || self.jobs.is_recalling(plugin) {
            return;
        }
        let (from, held) = ((digest.clone(), String::new()), self.held.iter().cloned().collect());
        self.jobs.recall(&self.tools, file, Purpose::RollBack(hold), from, held);
    }

    /// Looks again for what the database or the machine kept from being found.
    pub(super) fn recall_due(&mut self) {
        for plugin in std::mem::take(&mut self.no_way_back.again) {
            if self.start.is_some() {
                self.recall_again(&plugin);
            }
        }
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
        match (purpose, result) {
            (_, Err(NoFormer::Unasked(why))) => {
                tracing::debug!(plugin, "could not look for the version that ran before: {why}");
                self.no_way_back.again.insert(plugin);
                return;
            }
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
    fn run_former(&mut self, former: Checked) {
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
            checked.found = Err(why.unwrap_or_else(|| "it was refused before, and is checked again".into()));
            checked.again = true;
            self.recheck.insert(plugin.clone());
        }
        self.former.insert(plugin, former);
    }

    /// Lets a former version take its place back from one that was taken back.
    async fn go_back(&mut self, former: Checked, hold: &Hold) {
        // Whatever keeps it from it now, it is looked at again in a while.
        self.no_way_back.again.insert(hold.plugin.clone());
        let (Some(follower), Some(id)) = (former.follower(), self.running_id(&hold.plugin)) else { return };
        let Some(member) = self.fleet.members().get(&id).filter(|member| *member.digest() == *hold.digest) else {
            return;
        };
        let version = |digest: String, follower: &Follower| Version {
            digest,
            descriptor: follower.descriptor.clone(),
            manifest: follower.manifest.clone(),
        };
        let now = Version {
            digest: hold.digest.clone(),
            descriptor: member.descriptor.clone(),
            manifest: member.manifest.clone(),
        };
        let done = member.done();
        let restarts = match plan::change(&hold.plugin, &now, &version(former.digest.clone(), &follower)) {
            _ if follower.descriptor.id != id => Err(format!("it is another processor, {}", follower.descriptor.id)),
            Some(Step::Refuse { why, .. }) => Err(why),
            step => Ok(!matches!(step, Some(Step::Swap { .. }))),
        };
        let restarts = match restarts {
            Ok(restarts) => restarts,
            Err(why) => {
                let why = format!("It keeps running, because the version before it cannot take its place: {why}");
                return self.no_way_back.note(&hold.plugin, why);
            }
        };
        let Some(session) = self.session().await else { return };
        let replaced = match restarts {
            true => self.restart_with(&session, former, follower).await.map(|()| {
                let replaced = hold.digest.as_str().into();
                Some(Swapped { replaced, done })
            }),
            false => self.fleet.swap_back(&session, follower).await,
        };
        match replaced {
            Ok(Some(swapped)) => {
                let digest = hold.digest.get(..12);
                tracing::error!(processor = %id, plugin = hold.plugin, digest, "taken back, the version before it runs again: {}", hold.reason);
                self.dry_runs = None;
                self.tell_running(&session, &hold.plugin, Event::RolledBack, &hold.reason, Some(&swapped)).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(processor = %id, plugin = hold.plugin, "could not be taken back yet: {error}"),
        }
        self.session = Some(session);
    }

    /// Ends a processor and begins it again with a former version, as more than the code differs.
    /// It goes on as it is until it is known that this one can begin.
    async fn restart_with(
        &mut self,
        session: &Session,
        former: Checked,
        follower: Follower,
    ) -> Result<(), RegistrationError> {
        self.fleet.could_start(session, &follower).await?;
        match self.fleet.start(session, vec![follower]).await.pop() {
            None => Ok(()),
            Some((follower, error)) => {
                // It has ended: what was to take its place begins with the next plan.
                self.former.insert(follower.plugin, former);
                Err(error)
            }
        }
    }
}
