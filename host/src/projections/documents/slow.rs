//! The tenants whose reads are slow and would delay other tenants. Pure.
//!
//! The reads of all tenants are batched, so a slow one delays all of them. After a slow batch, each
//! of its tenants reads alone, which shows whose reads are slow. A tenant whose read alone is quick
//! joins the batch again. A read of very many documents is never part of the batch.

use std::{num::NonZeroUsize, time::Duration};

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::model::ids::TenantId;

/// The duration from which a read counts as slow. 20 ms: several times the usual 1 to 5 ms.
const SLOW: Duration = Duration::from_millis(20);
/// The number of documents whose read takes about [`SLOW`].
const MANY: usize = 1_000;
/// Maximum number of slow tenants that are kept, the most recent ones.
const TENANTS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// The tenants whose last read was slow, with its duration.
pub(super) struct SlowTenants(LruCache<TenantId, Duration, RandomState>);

impl Default for SlowTenants {
    fn default() -> Self {
        // Not allocated for its bound, which it rarely reaches.
        SlowTenants(LruCache::unbounded_with_hasher(RandomState::default()))
    }
}

impl SlowTenants {
    /// The expected duration of a tenant's read of this many documents, if it must not join the
    /// batch.
    pub(super) fn rank(&self, tenant: &TenantId, documents: usize) -> Option<Duration> {
        let last = self.0.peek(tenant).copied();
        if documents >= MANY { last.or(Some(SLOW)) } else { last }
    }

    /// Records the duration of a read, alone or in a batch.
    pub(super) fn record(&mut self, tenant: &TenantId, documents: usize, took: Duration) {
        if took < SLOW {
            if documents < MANY {
                self.0.pop(tenant);
            }
            return;
        }
        self.0.put(tenant.clone(), took);
        if self.0.len() > TENANTS.get() {
            self.0.pop_lru();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_tenant_reads_alone_until_it_is_quick() {
        let (hog, quiet) = (TenantId::parse("hog").unwrap(), TenantId::parse("quiet").unwrap());
        let mut slow = SlowTenants::default();
        assert_eq!(slow.rank(&quiet, 1), None);
        for tenant in [&hog, &quiet] {
            slow.record(tenant, 1, Duration::from_millis(50));
        }
        assert_eq!(slow.rank(&quiet, 1), Some(Duration::from_millis(50)));
        // Reading alone shows whose reads are slow.
        slow.record(&quiet, 1, Duration::from_millis(2));
        slow.record(&hog, 1, Duration::from_millis(60));
        assert_eq!((slow.rank(&quiet, 1), slow.rank(&hog, 1)), (None, Some(Duration::from_millis(60))));
        assert_eq!(slow.rank(&quiet, MANY), Some(SLOW), "a read of many documents never joins the batch");
    }

    #[test]
    fn only_the_most_recent_slow_tenants_are_kept() {
        let mut slow = SlowTenants::default();
        for number in 0..2 * TENANTS.get() {
            slow.record(&TenantId::parse(&format!("t{number}")).unwrap(), 1, SLOW);
        }
        assert_eq!(slow.0.len(), TENANTS.get());
    }
}
