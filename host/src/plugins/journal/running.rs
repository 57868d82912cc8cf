//! A running plugin as the history and the archive record it.

use std::sync::Arc;

use crate::{
    model::ids::ProcessorId,
    plugins::{
        history::{DryRunReport, HistoryNote, PluginEvent, RunNote, components::RetainedVersion},
        registry::{Member, Provenance, SwapReport},
    },
};

/// A running plugin as the history and the archive record it.
pub(in crate::plugins) struct RunningPlugin {
    pub(in crate::plugins) plugin: String,
    pub(in crate::plugins) id: ProcessorId,
    digest: Arc<str>,
    version: String,
    provenance: Provenance,
}

impl RunningPlugin {
    pub(in crate::plugins) fn new(id: &ProcessorId, member: &Member) -> Self {
        RunningPlugin {
            plugin: member.plugin.clone(),
            id: id.clone(),
            digest: member.digest(),
            version: member.spec.descriptor.version.clone(),
            provenance: member.provenance.clone(),
        }
    }

    /// The history entry about its start, swap, restart, rollback or renaming.
    pub(super) fn note<'a>(
        &'a self,
        event: PluginEvent,
        reason: &'a str,
        swap: Option<&'a SwapReport>,
        dry_run: Option<&'a DryRunReport>,
    ) -> RunNote<'a> {
        let RunningPlugin { plugin, id, digest, version, provenance: Provenance { contract, signed_by, .. } } = self;
        let replaced = swap.map(|swap| (&*swap.replaced, swap.stats.positions.map(|(_, last)| last)));
        let note = HistoryNote { plugin, processor: id.as_str(), digest, version, event, reason, replaced, dry_run };
        RunNote { note, contract, signed_by }
    }

    /// The version for the archive to store.
    pub(in crate::plugins) fn retained(&self) -> RetainedVersion {
        RetainedVersion {
            plugin: self.plugin.clone(),
            digest: self.digest.to_string(),
            signature: self.provenance.signature.clone(),
            signed_by: self.provenance.signed_by.clone(),
        }
    }
}
