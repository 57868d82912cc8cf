//! What is written down of plugins that run: how that came, and how swaps went on.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use super::{
    history::{self, HistoryNote, PluginEvent, RunNote, components::RetainedVersion},
    registry::{Provenance, Registry, SwapReport},
};
use crate::{db::Session, model::ids::ProcessorId, processor::code::TAKEOVER, rollout::dry_run::DryRunReport};

/// What is written down of a plugin that runs.
pub(super) struct OfRunning {
    pub(super) plugin: String,
    pub(super) id: ProcessorId,
    pub(super) digest: Arc<str>,
    pub(super) version: String,
    pub(super) provenance: Provenance,
}

impl OfRunning {
    /// How it is written down, with how that came.
    pub(super) fn ran<'a>(
        &'a self,
        event: PluginEvent,
        reason: &'a str,
        swapped: Option<&'a SwapReport>,
        dry_run: Option<&'a DryRunReport>,
    ) -> RunNote<'a> {
        let OfRunning { plugin, id, digest, version, provenance: Provenance { contract, signed_by, .. } } = self;
        let replaced = swapped.map(|swapped| (&*swapped.replaced, swapped.done.positions.map(|(_, last)| last)));
        let note = HistoryNote { plugin, processor: id.as_str(), digest, version, event, reason, replaced, dry_run };
        RunNote { note, contract, signed_by }
    }
}

impl OfRunning {
    /// What the archive is asked to retain of it.
    pub(super) fn retained(&self) -> RetainedVersion {
        RetainedVersion {
            plugin: self.plugin.clone(),
            digest: self.digest.to_string(),
            signature: self.provenance.signature.clone(),
            signed_by: self.provenance.signed_by.clone(),
        }
    }
}

/// Swaps of which more is to be written down.
#[derive(Default)]
pub(super) struct Swaps(BTreeMap<ProcessorId, Swap>);

/// A swap that was not long ago.
struct Swap {
    /// The number of its note.
    note: i64,
    at: Instant,
    /// Whether its first event is written down.
    told: bool,
    /// Whether all is written down that ever will be.
    over: bool,
}

impl Swaps {
    /// Another version took over; what it does from now on belongs to this note.
    pub(super) fn began(&mut self, id: ProcessorId, note: i64, at: Instant) {
        self.0.insert(id, Swap { note, at, told: false, over: false });
    }

    /// A version was replaced: writes down the last of how it came over, if that was not long ago.
    pub(super) async fn ended(
        &mut self,
        session: &Session,
        id: &ProcessorId,
        swapped: &SwapReport,
    ) -> Result<(), crate::db::Error> {
        let Some(before) = self.0.remove(id) else { return Ok(()) };
        history::complete_swap(session, before.note, before.at, &swapped.done).await
    }

    /// Writes down the first events of new versions, and after a while how their lanes came over. To be asked now and then.
    pub(super) async fn tell(&mut self, session: &Session, registry: &Registry) -> Result<(), crate::db::Error> {
        let mut told = Ok(());
        self.0.retain(|id, _| registry.members().contains_key(id));
        for (id, swap) in &mut self.0 {
            let done = registry.members().get(id).map(|member| member.done());
            let Some(done) = done.filter(|done| done.positions.is_some()) else { continue };
            // Lanes that come later are not counted.
            swap.over = done.began.is_some_and(|began| began.elapsed() > TAKEOVER);
            if !swap.told || swap.over {
                told = told.and(history::complete_swap(session, swap.note, swap.at, &done).await);
                swap.told = true;
            }
        }
        self.0.retain(|_, swap| !swap.over);
        told
    }
}
