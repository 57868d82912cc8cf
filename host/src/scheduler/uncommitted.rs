//! What tenants' results take up until they are committed, and calls that wait for that.
//!
//! A call leads to megabytes at the utmost, and very many lanes of a tenant may be in their calls at once. So before
//! each poll of a call it is asked whether its tenant's finished results are over a bound. If they are, the call stands
//! still until some are committed. Only what runs on a guest thread at that moment can go beyond the bound. Finished
//! results never wait for a call, so this always ends.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::Meter;
use crate::model::ids::TenantId;

/// Bytes of one tenant's results, above which its calls wait for commits. Default 64 MiB: some commits' worth.
const MOST: usize = 64 << 20;

/// The results of all tenants that are not committed. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uncommitted(Arc<Mutex<HashMap<TenantId, OfTenant>>>);

#[derive(Default)]
struct OfTenant {
    bytes: usize,
    waiting: Vec<Waker>,
}

impl Uncommitted {
    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, OfTenant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts results of a tenant for as long as what this returns is kept with them.
    pub fn count(&self, tenant: &TenantId, bytes: usize) -> Option<Counted> {
        if bytes == 0 {
            return None;
        }
        self.tenants().entry(tenant.clone()).or_default().bytes += bytes;
        Some(Counted { all: self.clone(), tenant: tenant.clone(), bytes })
    }

    /// The same future, which is not polled while its tenant's results are over the bound. `stands` counts how long.
    pub fn within<F: Future + Unpin>(&self, tenant: &TenantId, stands: &Arc<Meter>, call: F) -> Within<F> {
        let (all, tenant, stands) = (self.clone(), tenant.clone(), stands.clone());
        Within { all, tenant, stands, since: None, call }
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
        of_tenant.bytes -= self.bytes;
        let waiting = if of_tenant.bytes <= MOST { std::mem::take(&mut of_tenant.waiting) } else { Vec::new() };
        if of_tenant.bytes == 0 {
            tenants.remove(&self.tenant);
        }
        drop(tenants);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {}", self.bytes, self.tenant)
    }
}

/// A call that stands still while its tenant's results are over the bound.
pub struct Within<F> {
    all: Uncommitted,
    tenant: TenantId,
    stands: Arc<Meter>,
    since: Option<Instant>,
    call: F,
}

impl<F: Future + Unpin> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Some(of_tenant) = this.all.tenants().get_mut(&this.tenant).filter(|of_tenant| of_tenant.bytes > MOST) {
            of_tenant.waiting.push(context.waker().clone());
            if this.since.is_none() {
                this.since = Some(Instant::now());
                this.stands.waits();
            }
            return Poll::Pending;
        }
        if let Some(since) = this.since.take() {
            this.stands.goes_on(since.elapsed());
        }
        Pin::new(&mut this.call).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn calls_of_a_tenant_over_the_bound_wait_for_its_commits_and_others_do_not() {
        let tenant = |name| TenantId::parse(name).unwrap();
        let (all, stands) = (Uncommitted::default(), Arc::new(Meter::default()));
        let (first, second) = (all.count(&tenant("hog"), MOST), all.count(&tenant("hog"), 1));
        let mut call = std::pin::pin!(all.within(&tenant("hog"), &stands, ready(7)));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(all.within(&tenant("quiet"), &stands, ready(8)).await, 8);
        drop(second);
        assert_eq!(call.await, 7);
        assert!(stands.waited() > std::time::Duration::ZERO);
        drop(first);
        assert!(all.tenants().is_empty() && all.count(&tenant("hog"), 0).is_none());
    }
}
