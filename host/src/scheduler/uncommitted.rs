//! What tenants' results take up until they are committed, and runs that wait for that.
//!
//! A call leads to megabytes at the utmost, and very many lanes of a tenant may call at once. So a
//! run begins no call while its tenant's finished results are over a bound. Only calls that have
//! begun by then go beyond it, and those are bounded by what the tenant's instances may hold.
//! Finished results never wait for a run: a commit leaves those behind that wait here.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use crate::model::ids::TenantId;

/// Bytes of one tenant's results, above which its runs wait for commits. Default 64 MiB: some
/// commits' worth.
const MOST: usize = 64 << 20;

/// The results of all tenants that are not committed. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uncommitted(Arc<Mutex<HashMap<TenantId, OfTenant>>>);

#[derive(Default)]
struct OfTenant {
    bytes: usize,
    room: Arc<Notify>,
}

/// How many runs of a processor wait for commits.
#[derive(Debug, Default)]
pub struct Waiters {
    runs: AtomicUsize,
    more: Notify,
}

impl Waiters {
    /// How many runs wait now.
    pub fn runs(&self) -> usize {
        self.runs.load(Relaxed)
    }

    /// Waits until one more run does. Cancel safe.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    fn enter(&self) -> Waiter<'_> {
        self.runs.fetch_add(1, Relaxed);
        self.more.notify_one();
        Waiter(self)
    }
}

struct Waiter<'a>(&'a Waiters);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.runs.fetch_sub(1, Relaxed);
    }
}

impl Uncommitted {
    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, OfTenant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts results of a tenant for as long as what this returns is kept with them; nothing where
    /// they have no bytes.
    pub fn count(&self, tenant: &TenantId, bytes: usize) -> Option<Counted> {
        if bytes == 0 {
            return None;
        }
        self.tenants().entry(tenant.clone()).or_default().bytes += bytes;
        Some(Counted { all: self.clone(), tenant: tenant.clone(), bytes })
    }

    /// Whether a tenant's results are over the bound.
    pub fn is_over(&self, tenant: &TenantId) -> bool {
        self.tenants().get(tenant).is_some_and(|of_tenant| of_tenant.bytes > MOST)
    }

    /// Waits until a tenant's results are within the bound, as one of these waiters. Cancel safe.
    pub async fn room(&self, tenant: &TenantId, waiters: &Waiters) {
        let mut waiter = None;
        loop {
            let room = match self.tenants().get(tenant) {
                Some(of_tenant) if of_tenant.bytes > MOST => of_tenant.room.clone(),
                _ => return,
            };
            let mut notified = pin!(room.notified());
            notified.as_mut().enable();
            // Between the two looks there may have come room, and others have taken it.
            let is_same = |of_tenant: &OfTenant| of_tenant.bytes > MOST && Arc::ptr_eq(&of_tenant.room, &room);
            if !self.tenants().get(tenant).is_some_and(is_same) {
                continue;
            }
            waiter.get_or_insert_with(|| waiters.enter());
            notified.await;
        }
    }
}

/// Results that are counted.
pub struct Counted {
    all: Uncommitted,
    tenant: TenantId,
    bytes: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut tenants = self.all.tenants();
        let Some(of_tenant) = tenants.get_mut(&self.tenant) else { return };
        let was_over = of_tenant.bytes > MOST;
        of_tenant.bytes -= self.bytes;
        let room = (was_over && of_tenant.bytes <= MOST).then(|| of_tenant.room.clone());
        if of_tenant.bytes == 0 {
            tenants.remove(&self.tenant);
        }
        drop(tenants);
        if let Some(room) = room {
            room.notify_waiters();
        }
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {}", self.bytes, self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_of_a_tenant_over_the_bound_wait_for_its_commits_and_others_do_not() {
        let tenant = |name| TenantId::parse(name).unwrap();
        let (all, waiters) = (Uncommitted::default(), Arc::new(Waiters::default()));
        let (first, second) = (all.count(&tenant("hog"), MOST), all.count(&tenant("hog"), 1));
        assert!(all.is_over(&tenant("hog")) && !all.is_over(&tenant("quiet")));
        all.room(&tenant("quiet"), &waiters).await;
        assert_eq!(waiters.runs(), 0);

        let run = |all: &Uncommitted| {
            let (all, waiters) = (all.clone(), waiters.clone());
            tokio::spawn(async move { all.room(&tenant("hog"), &waiters).await })
        };
        let (waits, dropped) = (run(&all), run(&all));
        while waiters.runs() < 2 {
            waiters.more().await;
        }
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        assert_eq!(waiters.runs(), 1);
        drop(second);
        waits.await.unwrap();
        assert_eq!(waiters.runs(), 0);
        drop(first);
        assert!(all.tenants().is_empty() && all.count(&tenant("hog"), 0).is_none());
    }
}
