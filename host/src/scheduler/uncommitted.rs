//! The count of each tenant's uncommitted results, and the bound on them.
//!
//! A call returns megabytes at most, but a tenant may have very many lanes that call at once. So a
//! run begins no call while its tenant's finished results exceed a bound. Only calls that are
//! already under way can add to them, and those are bounded by the memory of the tenant's
//! instances. Finished results never wait for a run: a commit leaves out the runs that wait here.

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

/// Bytes of one tenant's results above which its runs wait for commits: 64 MiB, enough for several
/// commits.
const TENANT_BYTES: usize = 64 << 20;

/// The results of all tenants that are not committed. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uncommitted(Arc<Mutex<HashMap<TenantId, TenantResults>>>);

#[derive(Default)]
struct TenantResults {
    bytes: usize,
    /// Notified when the bytes fall to the bound.
    room: Arc<Notify>,
}

/// The runs of one processor that wait for commits.
#[derive(Debug, Default)]
pub struct CommitWaiters {
    runs: AtomicUsize,
    joined: Notify,
}

impl CommitWaiters {
    /// Runs that wait now.
    pub fn runs(&self) -> usize {
        self.runs.load(Relaxed)
    }

    /// Waits until another run starts to wait. Cancel safe.
    pub async fn joined(&self) {
        self.joined.notified().await;
    }

    fn join(&self) -> CommitWaiter<'_> {
        self.runs.fetch_add(1, Relaxed);
        self.joined.notify_one();
        CommitWaiter(self)
    }
}

struct CommitWaiter<'a>(&'a CommitWaiters);

impl Drop for CommitWaiter<'_> {
    fn drop(&mut self) {
        self.0.runs.fetch_sub(1, Relaxed);
    }
}

impl Uncommitted {
    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, TenantResults>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts results of a tenant until the returned guard is dropped. None if they are empty.
    pub fn count(&self, tenant: &TenantId, bytes: usize) -> Option<UncommittedBytes> {
        if bytes == 0 {
            return None;
        }
        self.tenants().entry(tenant.clone()).or_default().bytes += bytes;
        Some(UncommittedBytes { all: self.clone(), tenant: tenant.clone(), bytes })
    }

    /// Whether a tenant's results exceed the bound.
    pub fn exceeds_bound(&self, tenant: &TenantId) -> bool {
        self.tenants().get(tenant).is_some_and(|results| results.bytes > TENANT_BYTES)
    }

    /// Waits until a tenant's results are within the bound. Counts among `waiters` while it waits.
    /// Cancel safe.
    pub async fn wait_for_room(&self, tenant: &TenantId, waiters: &CommitWaiters) {
        let mut waiter = None;
        loop {
            let room = match self.tenants().get(tenant) {
                Some(results) if results.bytes > TENANT_BYTES => results.room.clone(),
                _ => return,
            };
            let mut notified = pin!(room.notified());
            notified.as_mut().enable();
            // Room may have appeared between the two checks, and another run may have taken it.
            let unchanged = |results: &TenantResults| results.bytes > TENANT_BYTES && Arc::ptr_eq(&results.room, &room);
            if !self.tenants().get(tenant).is_some_and(unchanged) {
                continue;
            }
            waiter.get_or_insert_with(|| waiters.join());
            notified.await;
        }
    }
}

/// A tenant's share in the count, given up on drop.
pub struct UncommittedBytes {
    all: Uncommitted,
    tenant: TenantId,
    bytes: usize,
}

impl Drop for UncommittedBytes {
    fn drop(&mut self) {
        let mut tenants = self.all.tenants();
        let Some(results) = tenants.get_mut(&self.tenant) else { return };
        let exceeded = results.bytes > TENANT_BYTES;
        results.bytes -= self.bytes;
        let room = (exceeded && results.bytes <= TENANT_BYTES).then(|| results.room.clone());
        if results.bytes == 0 {
            tenants.remove(&self.tenant);
        }
        drop(tenants);
        if let Some(room) = room {
            room.notify_waiters();
        }
    }
}

impl std::fmt::Debug for UncommittedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {}", self.bytes, self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_runs_of_a_tenant_over_the_bound_wait_for_its_commits() {
        let tenant = |name| TenantId::parse(name).unwrap();
        let (all, waiters) = (Uncommitted::default(), Arc::new(CommitWaiters::default()));
        let (first, second) = (all.count(&tenant("hog"), TENANT_BYTES), all.count(&tenant("hog"), 1));
        assert!(all.exceeds_bound(&tenant("hog")) && !all.exceeds_bound(&tenant("quiet")));
        all.wait_for_room(&tenant("quiet"), &waiters).await;
        assert_eq!(waiters.runs(), 0);

        let run = |all: &Uncommitted| {
            let (all, waiters) = (all.clone(), waiters.clone());
            tokio::spawn(async move { all.wait_for_room(&tenant("hog"), &waiters).await })
        };
        let (waits, dropped) = (run(&all), run(&all));
        while waiters.runs() < 2 {
            waiters.joined().await;
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
