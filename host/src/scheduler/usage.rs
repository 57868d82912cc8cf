//! What tenants have used of the guest threads since the host started: for people, no decision follows from it.
//!
//! Kept for the tenants that computed most recently, so that it stays small however many there are. One that comes back after so many others begins anew.

use std::{num::NonZeroUsize, time::Duration};

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::model::ids::TenantId;

/// As many as one host is made for, at about a hundred bytes each.
const TENANTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// What one tenant has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of its guests' polls, with what the host did inside them.
    pub cpu: Duration,
    /// Time in which a guest of it could have computed and others did, added up over its guests.
    pub waited: Duration,
}

pub(super) struct Usages(LruCache<TenantId, Usage, RandomState>);

impl Default for Usages {
    fn default() -> Self {
        // Grown as it fills: most hosts never have so many.
        Usages(LruCache::unbounded_with_hasher(RandomState::default()))
    }
}

impl Usages {
    /// A poll of a tenant's guest has ended.
    pub(super) fn add(&mut self, tenant: &TenantId, cpu: Duration, waited: Duration) {
        if self.0.get(tenant).is_none() {
            if self.0.len() >= TENANTS.get() {
                self.0.pop_lru();
            }
            self.0.put(tenant.clone(), Usage::default());
        }
        if let Some(usage) = self.0.get_mut(tenant) {
            usage.cpu += cpu;
            usage.waited += waited;
        }
    }

    /// All of them, the most recent first.
    pub(super) fn all(&self) -> Vec<(TenantId, Usage)> {
        self.0.iter().map(|(tenant, usage)| (tenant.clone(), *usage)).collect()
    }
}
