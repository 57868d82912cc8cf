//! What is looked at now and then while plugins run: how new versions do, what people took back,
//! and what is still to be written down.

use std::time::Instant;

use super::{
    super::history::{self, PluginEvent, VersionHold},
    AGAIN, Reconciler, TELL,
};
use crate::{
    db::{Session, describe},
    model::ids::ProcessorId,
    rollout::probation::Verdict,
};

impl Reconciler {
    /// Looks how new versions do, what people have decided, and what is still to be written down.
    pub(super) async fn watch(&mut self) {
        let due = self.tried.elapsed() >= AGAIN;
        if due {
            self.tried = Instant::now();
        }
        if !self.follows {
            return;
        }
        let Some(session) = self.session().await else { return };
        let before = self.held.clone();
        let told = self.swaps.tell(&session, &self.registry).await;
        self.written(told);
        let told = self.reports.store(&session).await;
        self.written(told);
        self.registry.tidy(&session).await;
        self.end_trials(&session).await;
        self.session = Some(session);
        self.read_holds().await;
        self.roll_held_back().await;
        if due {
            self.tell_untold().await;
            self.waiting
                .extend(self.checked.values().filter(|checked| checked.retry).map(|checked| checked.file.name.clone()));
        }
        for hold in self.held.symmetric_difference(&before) {
            self.no_way_back.forget(&hold.plugin);
        }
        if self.again && due || self.held != before {
            self.uncarried.get_or_insert_with(Instant::now);
        }
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            self.tell_lanes().await;
        }
    }

    /// Tries once more to write down what could not be.
    async fn tell_untold(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let Some(session) = self.session().await else { return };
        for (plugin, (event, reason, swapped)) in std::mem::take(&mut self.untold) {
            self.tell_running(&session, &plugin, event, &reason, swapped.as_ref()).await;
        }
        self.session = Some(session);
        // Of files that are refused beside what runs it is to be said again.
        self.again = true;
    }

    async fn end_trials(&mut self, session: &Session) {
        let on_trial = self.registry.members().iter().filter_map(|(id, member)| {
            let verdict = self.config.probation().verdict(&member.done(), member.on_trial_for()?);
            Some((id.clone(), member.plugin.clone(), member.digest(), verdict))
        });
        for (id, plugin, digest, verdict) in on_trial.collect::<Vec<_>>() {
            match verdict {
                Verdict::OnTrial => {}
                Verdict::Passed => self.registry.trust(&id),
                Verdict::Failed(reason) => {
                    let hold = VersionHold { plugin, digest: digest.to_string(), reason };
                    if history::add_hold(session, &hold).await.is_err() {
                        self.unwritten.insert(hold.clone());
                    }
                    self.held.insert(hold.clone());
                    self.roll_back(session, &id, &hold).await;
                }
            }
        }
    }

    /// Brings the version back that ran before one that was taken back.
    async fn roll_back(&mut self, session: &Session, id: &ProcessorId, hold: &VersionHold) {
        match self.registry.roll_back(session, id).await {
            Ok(Some(swapped)) => {
                tracing::error!(processor = %id, plugin = hold.plugin, digest = hold.digest.get(..12), "taken back, the version before it runs again: {}", hold.reason);
                self.dry_runs = None;
                self.tell_running(session, &hold.plugin, PluginEvent::RolledBack, &hold.reason, Some(&swapped)).await;
            }
            // Asked of those alone that can go back.
            Ok(None) => {}
            Err(error) => tracing::warn!(processor = %id, plugin = hold.plugin, "could not be taken back yet: {error}"),
        }
    }

    /// What people took back while it runs.
    async fn roll_held_back(&mut self) {
        let members = self.registry.members().iter();
        let held = members.filter_map(|(id, member)| {
            let hold = self.hold(&member.plugin, &member.digest())?.clone();
            Some((id.clone(), hold, member.can_go_back()))
        });
        let (at_hand, kept): (Vec<_>, Vec<_>) = held.partition(|(_, _, can_go_back)| *can_go_back);
        for (_, hold, _) in kept {
            self.recall_before(hold);
        }
        if at_hand.is_empty() {
            return;
        }
        let Some(session) = self.session().await else { return };
        for (id, hold, _) in at_hand {
            self.roll_back(&session, &id, &hold).await;
        }
        self.session = Some(session);
    }

    pub(super) async fn read_holds(&mut self) {
        let Some(session) = self.session().await else { return };
        for hold in std::mem::take(&mut self.unwritten) {
            if history::add_hold(&session, &hold).await.is_err() {
                self.unwritten.insert(hold);
            }
        }
        match history::holds(&session).await {
            Ok(holds) => {
                self.held = holds.into_iter().chain(self.unwritten.iter().cloned()).collect();
                self.session = Some(session);
            }
            Err(error) => tracing::debug!("could not read which versions were taken back: {}", describe(&error)),
        }
    }

    async fn tell_lanes(&mut self) {
        let Some(session) = self.session().await else { return };
        let calls: Vec<(String, i64)> = self
            .registry
            .members()
            .values()
            .map(|member| (member.plugin.clone(), member.done().calls as i64))
            .collect();
        for (plugin, calls) in calls {
            self.written(history::record_lanes(&session, &plugin, calls).await);
        }
        self.session = Some(session);
    }
}
