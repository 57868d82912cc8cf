//! Tenants' own processors in place of shared ones.
//!
//! `plugins/acme/x.wasm` with the id of the shared processor `orders` becomes `acme/orders`. From
//! just before it begins until it has ended, acme's lanes wait in `orders`
//! ([`replacements`](crate::tenants::replacements)). A rejected file replaces nothing, so `orders`
//! keeps handling acme's events.
//!
//! When a host starts, acme's lanes in `orders` also wait for a file that last ran as
//! `acme/orders`, even while its folder cannot be read. Otherwise `orders` would handle acme's
//! events until that file is compiled.

use std::collections::BTreeSet;

use super::Reconciler;
use crate::{
    model::ids::{ProcessorId, TenantId},
    plugins::{registry::RunnableVersion, startup::Startup},
};

/// The tenants' own processors that last ran from folders that cannot be read now.
#[derive(Default)]
pub(super) struct UnreadableProcessors(BTreeSet<ProcessorId>);

impl UnreadableProcessors {
    /// Adds processors.
    pub(super) fn add(&mut self, processors: impl IntoIterator<Item = ProcessorId>) {
        self.0.extend(processors);
    }

    /// Keeps the processors of these tenants only.
    fn retain_owned_by(&mut self, unreadable: &BTreeSet<TenantId>) {
        self.0.retain(|id| id.owner().is_some_and(|owner| unreadable.contains(owner)));
    }
}

impl Reconciler {
    /// Sets the tenants' own processors that replace shared ones: those that run, those that begin
    /// now, and those whose start is undecided.
    pub(super) fn replace_shared(&mut self, beginning: &[RunnableVersion]) {
        if self.folder.is_settled() && self.start.as_ref().is_none_or(Startup::is_known) {
            self.unreadable.retain_owned_by(self.folder.unreadable());
        }
        let running = self.registry.members().keys().chain(beginning.iter().map(|version| &version.spec.id));
        let undecided = self.start.iter().flat_map(Startup::undecided_own);
        let own: BTreeSet<ProcessorId> = running.chain(&self.unreadable.0).cloned().chain(undecided).collect();
        self.registry.replace(own.into_iter().filter(|id| id.owner().is_some()).collect());
    }
}
