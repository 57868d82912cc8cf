//! The use of a sandbox, and what it refused or dropped, counted for metrics and reports.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::model::{
    handler::{CallFailure, Failure, Reason},
    ids::TenantId,
};

/// Maximum number of tenants whose refusals are counted separately between two reports. Those of
/// further tenants are counted by class only.
const TENANTS: usize = 10_000;

/// Current use of a sandbox, and its refusals since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxUsage {
    /// Stores alive: in a call or idle.
    pub live: usize,
    /// Bound on live stores and so on concurrent calls: `limits.instances`, or fewer if the machine
    /// has no room for them.
    pub max_live: usize,
    /// Live stores that wait for their tenant's next call.
    pub idle: usize,
    /// Linear memory of all live stores, bytes.
    pub memory_bytes: usize,
    /// Failed or dropped calls, rejected files, and log lines that were dropped or shortened, by
    /// the class of the reason. Failures that a guest reports itself are not counted.
    pub refusals: BTreeMap<String, u64>,
    /// Components compiled, and the time that this took.
    pub compiled: (u64, Duration),
}

/// Refusals of one tenant since the last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TenantRefusals {
    /// Their number.
    pub(super) times: u64,
    /// The reason of the last one.
    pub(super) last: Reason,
}

/// Counters of refusals. Their names are the host's own classes, so their number is bounded.
#[derive(Default)]
pub(super) struct RefusalCounts {
    classes: Mutex<BTreeMap<String, u64>>,
    tenants: Mutex<HashMap<TenantId, TenantRefusals>>,
}

impl RefusalCounts {
    pub(super) fn add(&self, class: &str, times: u64) {
        if times == 0 {
            return;
        }
        // The counts are consistent after every call, even if another thread panicked.
        let mut counts = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(class) {
            Some(count) => *count += times,
            None => {
                counts.insert(class.to_string(), times);
            }
        }
    }

    /// Counts the refusals of one reason, for a tenant as well if there is one.
    pub(super) fn add_for(&self, tenant: Option<&TenantId>, times: u64, why: impl FnOnce() -> Reason) {
        if times == 0 {
            return;
        }
        let last = why();
        self.add(&last.class, times);
        let Some(tenant) = tenant else { return };
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = tenants.get_mut(tenant) {
            *refused = TenantRefusals { times: refused.times + times, last };
        } else if tenants.len() < TENANTS {
            tenants.insert(tenant.clone(), TenantRefusals { times, last });
        }
    }

    /// Refusals of each tenant since the last call.
    pub(super) fn take_by_tenant(&self) -> HashMap<TenantId, TenantRefusals> {
        std::mem::take(&mut *self.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches one call: counts its failure, or that it was dropped before it ended.
    pub(super) fn watch(&self, tenant: TenantId) -> CallWatch<'_> {
        CallWatch { refusals: self, tenant, ended: false }
    }
}

/// The watch over a call under way.
pub(super) struct CallWatch<'a> {
    refusals: &'a RefusalCounts,
    tenant: TenantId,
    ended: bool,
}

impl CallWatch<'_> {
    /// Records that the call ended.
    pub(super) fn end<T>(mut self, result: &Result<T, CallFailure>) {
        self.ended = true;
        if let Err(CallFailure { failure: Failure::Block(reason) | Failure::Retry(reason), .. }) = result {
            self.refusals.add_for(Some(&self.tenant), 1, || reason.clone());
        }
    }
}

impl Drop for CallWatch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let why = || {
                Reason::new(
                    "dropped-call",
                    "a call was dropped before it ended (over limits.wall-ms, or its term ended)",
                )
            };
            self.refusals.add_for(Some(&self.tenant), 1, why);
        }
    }
}
