//! Tenants' own processors in the places of shared ones.
//!
//! `plugins/acme/x.wasm` with the id of the shared processor `orders` is `acme/orders`. From just
//! before it begins until it has ended, acme's lanes in `orders` wait
//! ([`replacements`](crate::tenants::replacements)). A file that is refused replaces nothing, so
//! `orders` keeps handling acme's events.
//!
//! When a host starts, acme's lanes in `orders` also wait for a file that last ran as
//! `acme/orders`, even while its folder cannot be read. Otherwise `orders` would handle acme's
//! events until that file is compiled.

use std::collections::BTreeSet;

use super::{super::registry::RunnableVersion, Reconciler, start::Start};
use crate::model::ids::{ProcessorId, TenantId};

/// Tenants' folders that cannot be read.
#[derive(Default)]
pub(super) struct Unread {
    /// The folders, as of the last look.
    pub(super) folders: BTreeSet<TenantId>,
    /// The tenants' own processors that ran from them when the host started.
    pub(super) ran: BTreeSet<ProcessorId>,
}

impl Unread {
    /// Forgets the processors from folders that can be read now.
    fn forget_read(&mut self) {
        let Unread { folders, ran } = self;
        ran.retain(|id| id.owner().is_some_and(|owner| folders.contains(owner)));
    }
}

impl Reconciler {
    /// Sets the tenants' own processors that replace shared ones: those that run, those that begin
    /// now, and those whose start is undecided.
    pub(super) fn replace_shared(&mut self, beginning: &[RunnableVersion]) {
        if self.settling.next_due().is_none() && self.start.as_ref().is_none_or(Start::is_known) {
            self.unread.forget_read();
        }
        let run = self.registry.members().keys().chain(beginning.iter().map(|follower| &follower.descriptor.id));
        let to_come = self.start.iter().flat_map(Start::own_to_come);
        let own: BTreeSet<ProcessorId> = run.chain(&self.unread.ran).cloned().chain(to_come).collect();
        self.registry.replace(own.into_iter().filter(|id| id.owner().is_some()).collect());
    }
}
