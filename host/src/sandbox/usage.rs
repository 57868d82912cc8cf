//! What a sandbox holds and what it refused, counted for whoever watches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::model::{
    handler::{Failure, Reason},
    ids::TenantId,
};

/// Tenants whose refusals are kept apart until somebody asks for them; those of further ones are counted by class only.
const TENANTS: usize = 10_000;

/// What a sandbox holds now, and what it refused since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Stores alive: in a call or idle.
    pub live: usize,
    /// As many as there may be, and so as many as there can be calls at once: `limits.instances`, or what the machine has room for.
    pub most_live: usize,
    /// Of the live ones, those that wait for their tenant's next call.
    pub idle: usize,
    /// Linear memory of all live stores.
    pub memory_bytes: usize,
    /// How often a guest or a file was refused something, by the class of the reason. Guests' own failures are not among them.
    pub refusals: BTreeMap<String, u64>,
    /// Components compiled, and the time that it took.
    pub compiled: (u64, Duration),
}

/// What one tenant was refused since that was asked for last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// How often.
    pub(super) times: u64,
    /// Why the last time.
    pub(super) last: Reason,
}

/// The counters. Their names are the classes that this module gives, so there are only so many.
#[derive(Default)]
pub(super) struct Refusals {
    classes: Mutex<BTreeMap<String, u64>>,
    tenants: Mutex<HashMap<TenantId, Refused>>,
}

impl Refusals {
    pub(super) fn add(&self, class: &str, times: u64) {
        if times == 0 {
            return;
        }
        // A counter is whole after each call here, whatever became of another thread.
        let mut counts = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(class) {
            Some(count) => *count += times,
            None => {
                counts.insert(class.to_string(), times);
            }
        }
    }

    /// The same on behalf of a tenant, if there is one.
    pub(super) fn add_for(&self, tenant: Option<&TenantId>, times: u64, why: impl FnOnce() -> Reason) {
        if times == 0 {
            return;
        }
        let last = why();
        self.add(&last.class, times);
        let Some(tenant) = tenant else { return };
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = tenants.get_mut(tenant) {
            *refused = Refused { times: refused.times + times, last };
        } else if tenants.len() < TENANTS {
            tenants.insert(tenant.clone(), Refused { times, last });
        }
    }

    /// What each tenant was refused since this was asked last.
    pub(super) fn take_by_tenant(&self) -> HashMap<TenantId, Refused> {
        std::mem::take(&mut *self.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches one call: what ends it badly is counted, and so is that nobody waited for its end.
    pub(super) fn watch(&self, tenant: TenantId) -> Watch<'_> {
        Watch { refusals: self, tenant, ended: false }
    }
}

/// A call under way.
pub(super) struct Watch<'a> {
    refusals: &'a Refusals,
    tenant: TenantId,
    ended: bool,
}

impl Watch<'_> {
    /// The call came to an end of its own.
    pub(super) fn end<T>(mut self, result: &Result<T, Failure>) {
        self.ended = true;
        if let Err(Failure::Block(reason) | Failure::Retry(reason)) = result {
            self.refusals.add_for(Some(&self.tenant), 1, || reason.clone());
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let why =
                || Reason::new("dropped-call", "was in a call that nobody waited for any longer (limits.wall-ms)");
            self.refusals.add_for(Some(&self.tenant), 1, why);
        }
    }
}
