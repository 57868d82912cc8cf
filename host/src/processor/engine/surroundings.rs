//! The host around a term, as its core sees it.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    model::{
        cursor::Progress,
        handler::Reason,
        ids::{ProcessorId, TenantId},
    },
    processor::{
        core::{Input, Surroundings, TermProgress},
        lane::Runner,
        lockstep::{LockstepMember, LockstepTurn},
        pauses::Pause,
        term_errors::TermErrors,
    },
    scheduler::Class,
    tenants::{Tenants, replacements::Replacements},
};

/// What the core asks about.
pub(super) struct HostSurroundings<'a> {
    pub(super) tenants: &'a Tenants,
    pub(super) runner: &'a Runner,
    /// Its membership in the lockstep barrier; none with other strategies.
    pub(super) member: &'a mut Option<LockstepMember>,
    pub(super) errors: &'a mut TermErrors,
    /// Tenants' own processors, which may replace this one.
    pub(super) replacements: watch::Receiver<Replacements>,
}

impl HostSurroundings<'_> {
    /// The number of changes of tenants' own processors, and the pauses of settings and of these.
    pub(super) fn read_replacements(&mut self, id: &ProcessorId) -> (u64, Vec<Pause>) {
        let replaced = self.replacements.borrow_and_update().changes();
        let pauses = self.tenants.paused(id).into_iter();
        let pause =
            |(tenant, reason): (TenantId, Reason)| Pause { tenant: Some(tenant.as_shared()), key: None, reason };
        (replaced, pauses.map(pause).collect())
    }

    /// The same as an input.
    pub(super) fn replacements<T>(&mut self, id: &ProcessorId) -> Input<T> {
        let (replaced, of_tenants) = self.read_replacements(id);
        Input::Replacements { of_tenants, replaced }
    }

    /// Lets the other members of the barrier continue without this processor.
    pub(super) fn leave_lockstep(&self) {
        if let Some(member) = self.member.as_ref() {
            member.leave();
        }
    }
}

impl Surroundings for HostSurroundings<'_> {
    fn throttled(&self, tenant: &TenantId) -> Option<(Duration, Reason)> {
        self.tenants.wait(tenant)
    }

    fn debt(&self, tenant: &TenantId) -> u32 {
        self.runner.scheduler.debt(tenant, Class::Live)
    }

    fn runs_waiting(&self) -> usize {
        self.runner.waiters.runs()
    }

    fn has_other_replacements(&self) -> bool {
        self.replacements.has_changed().unwrap_or(false)
    }

    fn turn(&self, settled: Option<&Progress>) -> LockstepTurn {
        let Some(member) = self.member.as_ref() else { return LockstepTurn::Read(None) };
        if let Some(settled) = settled {
            member.report(settled);
        }
        member.turn()
    }

    fn healthy_at(&self, progress: &dyn Fn() -> TermProgress) -> Option<Duration> {
        self.errors.healthy_at(progress)
    }
}
