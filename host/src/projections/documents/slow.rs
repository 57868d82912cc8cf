//! The tenants whose reads are slow and would delay other tenants. Pure.
//!
//! The reads of all tenants are batched, so a slow one delays all of them. After a slow batch, each
//! of its tenants is suspected and reads alone, which shows whose reads are slow. A tenant that
//! reads quickly on its own rejoins the batch. A read of very many documents is never part of the
//! batch.
//!
//! Suspected tenants read before those that are known to be slow. Most of them are not slow: any
//! pause of the machine makes a batch slow.

use std::{num::NonZeroUsize, time::Duration};

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::model::ids::TenantId;

/// The duration from which a read counts as slow. 20 ms: several times the usual 1 to 5 ms.
const SLOW: Duration = Duration::from_millis(20);
/// The number of documents whose read takes about [`SLOW`].
const MANY: usize = 1_000;
/// Maximum number of tenants that are kept, the most recent ones.
const TENANTS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// Why a tenant does not join the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadsAlone {
    /// It was part of a slow batch.
    Suspected,
    /// Its own reads take this long.
    Slow(Duration),
}

/// The tenants whose last read was slow.
pub(super) struct SlowTenants(LruCache<TenantId, ReadsAlone, RandomState>);

impl Default for SlowTenants {
    fn default() -> Self {
        // Not allocated for its bound, which it rarely reaches.
        SlowTenants(LruCache::unbounded_with_hasher(RandomState::default()))
    }
}

impl SlowTenants {
    /// Why a tenant's read of this many documents must not join the batch; none if it may.
    pub(super) fn reads_alone(&self, tenant: &TenantId, documents: usize) -> Option<ReadsAlone> {
        let last = self.0.peek(tenant).copied();
        if documents < MANY {
            return last;
        }
        match last {
            Some(ReadsAlone::Slow(took)) => Some(ReadsAlone::Slow(took)),
            Some(ReadsAlone::Suspected) | None => Some(ReadsAlone::Slow(SLOW)),
        }
    }

    /// Records the duration of a read, `shared` with other tenants or not.
    pub(super) fn record(&mut self, tenant: &TenantId, documents: usize, took: Duration, shared: bool) {
        if took < SLOW {
            if documents < MANY {
                self.0.pop(tenant);
            }
            return;
        }
        self.0.put(tenant.clone(), if shared { ReadsAlone::Suspected } else { ReadsAlone::Slow(took) });
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
        assert_eq!(slow.reads_alone(&quiet, 1), None);
        for tenant in [&hog, &quiet] {
            slow.record(tenant, 1, Duration::from_millis(50), true);
            assert_eq!(slow.reads_alone(tenant, 1), Some(ReadsAlone::Suspected));
        }
        // Reading alone shows whose reads are slow.
        slow.record(&quiet, 1, Duration::from_millis(2), false);
        slow.record(&hog, 1, Duration::from_millis(60), false);
        assert_eq!(slow.reads_alone(&quiet, 1), None);
        assert_eq!(slow.reads_alone(&hog, 1), Some(ReadsAlone::Slow(Duration::from_millis(60))));
        let many = slow.reads_alone(&quiet, MANY);
        assert_eq!(many, Some(ReadsAlone::Slow(SLOW)), "a read of many documents never joins the batch");
    }

    #[test]
    fn only_the_most_recent_slow_tenants_are_kept() {
        let mut slow = SlowTenants::default();
        for number in 0..2 * TENANTS.get() {
            slow.record(&TenantId::parse(&format!("t{number}")).unwrap(), 1, SLOW, false);
        }
        assert_eq!(slow.0.len(), TENANTS.get());
    }
}
