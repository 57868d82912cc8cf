//! A host's start: what the folder says, and where a file does not run, what ran last in its place.
//!
//! What is refused while a host runs leaves the former version running, and a start should be no different. So where a file cannot run alone, where it was refused before, or where it cannot begin, the
//! version that ran last is brought back from its compiled code; what is there instead is then checked against it like any file that comes.

use std::collections::BTreeSet;

use super::{
    super::{
        check::{Checked, recall},
        folder::{self, Listing},
        history::{self, Listed},
    },
    Registry,
};
use crate::{db::describe, model::ids::TenantId};

impl Registry {
    /// Runs everything that is in the folder now and can run. Fails where the folder cannot be read. How many files cannot.
    pub async fn begin(&mut self) -> std::io::Result<usize> {
        let Listing { files, unread, problems, left_over, folders } = folder::scan(&self.folder)?;
        self.settling.first(files);
        self.hints.follow(folders);
        self.reports.found(&self.folder, problems);
        self.gone = left_over;
        self.waiting = self.settling.known().keys().cloned().collect();
        self.read_holds().await;
        self.check();
        if let Some(checking) = self.checking.take() {
            self.checked = checking.await.into_iter().map(|checked| (checked.file.name.clone(), checked)).collect();
        }
        let ran = self.ran(&unread).await;
        let no_candidate = |ran: &&Listed| {
            let candidate = self.candidate(&ran.plugin).map(|checked| &checked.digest);
            candidate.is_none() || candidate == ran.refused.as_ref().map(|(digest, ..)| digest)
        };
        let instead: Vec<Listed> = ran.iter().filter(no_candidate).cloned().collect();
        self.recall(instead).await;
        self.carry_out().await;
        // Nothing speaks against some of them alone, and yet they cannot begin.
        let instead =
            ran.iter().filter(|ran| self.refused.contains_key(&ran.plugin) && self.running_id(&ran.plugin).is_none());
        let instead: Vec<Listed> = instead.filter(|ran| !self.former.contains_key(&ran.plugin)).cloned().collect();
        if !instead.is_empty() {
            self.recall(instead).await;
            self.carry_out().await;
        }
        self.tell_idle(&ran).await;
        let idle = self.settling.known().len().saturating_sub(self.fleet.members().len());
        Ok(idle.max(self.refused.len()) + unread.len())
    }

    /// What ran last under the names of the files that are there, as far as that is known.
    async fn ran(&mut self, unread: &BTreeSet<TenantId>) -> Vec<Listed> {
        let Some(session) = self.session().await else { return Vec::new() };
        let there: Vec<&str> = self.settling.known().keys().map(String::as_str).collect();
        let ran = async {
            let unread: Vec<&str> = unread.iter().map(TenantId::as_str).collect();
            history::begin(&session, &there, &unread).await?;
            self.reports.store(&session).await?;
            history::list(&session).await
        };
        let ran = ran.await.inspect_err(|error| tracing::warn!("could not read what ran last: {}", describe(error)));
        self.session = Some(session);
        ran.unwrap_or_default().into_iter().filter(|ran| !ran.digest.is_empty()).collect()
    }

    /// Brings back what ran last, or before that if it was taken back. What is there instead, if anything could run, is checked against it.
    async fn recall(&mut self, instead: Vec<Listed>) {
        let Some(session) = self.session().await else { return };
        for mut ran in instead {
            let mut seen = BTreeSet::new();
            while self.hold(&ran.plugin, &ran.digest).is_some() && seen.insert(ran.digest.clone()) {
                let former = history::former(&session, &ran.plugin, &ran.digest).await;
                let Ok(Some((digest, signed_by))) = former else { break };
                ran = Listed { digest, signed_by, contract: String::new(), ..ran };
            }
            let (plugin, held) = (ran.plugin.clone(), self.hold(&ran.plugin, &ran.digest).is_some());
            let Some(file) = self.settling.known().get(&plugin).cloned().filter(|_| !held) else { continue };
            let refused = ran.refused.as_ref().map(|(_, why, _)| why.clone());
            let (sandbox, keys) = (self.sandbox.clone(), self.keys.clone());
            let former = tokio::task::spawn_blocking(move || recall(&sandbox, &keys, file, &ran)).await;
            let Some(former) = former.ok().flatten() else { continue };
            let id = former.follower().map(|former| former.descriptor.id);
            let claims = |other: &String| {
                *other != plugin
                    && self.candidate(other).and_then(Checked::follower).map(|other| other.descriptor.id) == id
            };
            if self.checked.keys().any(claims) {
                continue;
            }
            let digest = former.digest.get(..12);
            tracing::warn!(plugin, digest, "its file does not run; the version that ran last goes on");
            if self.candidate(&plugin).is_some()
                && let Some(checked) = self.checked.get_mut(&plugin)
            {
                // Until then it stays refused: whoever ends this host before that should find it so.
                let why = self.refused.get(&plugin).cloned().or(refused);
                checked.found = Err(why.unwrap_or_else(|| "it was refused before, and is checked again".into()));
                checked.again = true;
                self.waiting.insert(plugin.clone());
            }
            self.former.insert(plugin, former);
        }
        self.session = Some(session);
    }

    /// Says of those that ran last and do not now that nothing does.
    async fn tell_idle(&mut self, ran: &[Listed]) {
        let Some(session) = self.session().await else { return };
        for ran in ran {
            if self.running_id(&ran.plugin).is_some() {
                continue;
            }
            let told = history::idle(&session, &ran.plugin).await;
            self.written(told);
        }
        self.session = Some(session);
    }
}
