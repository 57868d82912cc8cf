//! Whose reads make others wait: pure.
//!
//! Reads of all tenants travel together, so one that takes long holds all of them. Whoever was part of a slow one reads apart from then on, alone, where it is
//! seen whose fault it was: who is quick there is with the others again. What asks for very many documents at once reads apart anyway.

use std::{num::NonZeroUsize, time::Duration};

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::model::ids::TenantId;

/// A read that takes so long is felt by whoever waits with it. A few of the usual ones, which take 1 to 5 ms.
const SLOW: Duration = Duration::from_millis(20);
/// So many documents take about as long.
const MANY: usize = 1_000;
/// Tenants that are remembered, the last ones.
const TENANTS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// Tenants whose last read was slow, and how slow.
pub(super) struct Slow(LruCache<TenantId, Duration, RandomState>);

impl Default for Slow {
    fn default() -> Self {
        // Grown as it fills, which it seldom does.
        Slow(LruCache::unbounded_with_hasher(RandomState::default()))
    }
}

impl Slow {
    /// How slow a read of so many documents will be for a tenant, if it should be apart.
    pub(super) fn rank(&self, tenant: &TenantId, documents: usize) -> Option<Duration> {
        let known = self.0.peek(tenant).copied();
        if documents >= MANY { known.or(Some(SLOW)) } else { known }
    }

    /// A read of so many documents, alone or with others, has taken so long.
    pub(super) fn read(&mut self, tenant: &TenantId, documents: usize, took: Duration) {
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
    fn who_was_slow_reads_apart_until_it_is_quick() {
        let (hog, quiet) = (TenantId::parse("hog").unwrap(), TenantId::parse("quiet").unwrap());
        let mut slow = Slow::default();
        assert_eq!(slow.rank(&quiet, 1), None);
        for tenant in [&hog, &quiet] {
            slow.read(tenant, 1, Duration::from_millis(50));
        }
        assert_eq!(slow.rank(&quiet, 1), Some(Duration::from_millis(50)));
        // Apart it shows whose fault it was.
        slow.read(&quiet, 1, Duration::from_millis(2));
        slow.read(&hog, 1, Duration::from_millis(60));
        assert_eq!((slow.rank(&quiet, 1), slow.rank(&hog, 1)), (None, Some(Duration::from_millis(60))));
        assert_eq!(slow.rank(&quiet, MANY), Some(SLOW), "many at once are apart anyway");
    }

    #[test]
    fn only_the_last_are_remembered() {
        let mut slow = Slow::default();
        for number in 0..2 * TENANTS.get() {
            slow.read(&TenantId::parse(&format!("t{number}")).unwrap(), 1, SLOW);
        }
        assert_eq!(slow.0.len(), TENANTS.get());
    }
}
