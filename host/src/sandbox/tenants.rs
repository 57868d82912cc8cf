//! What one tenant takes of the whole sandbox, whichever plugins and lanes it comes by: memory, calls at once, log volume, and what it was refused.
//!
//! A [`Tenant`] is shared by all stores and calls of its tenant. A call over the bound on calls waits for a permit before its clock starts, first
//! come first served; memory over the bound is refused, and tried again where other calls of the tenant hold it; log lines over the volume are dropped. Tenants that are idle
//! are forgotten, so what is kept is bounded by those that did something within the last seconds.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::OfTenant;
use crate::model::{handler::LogRoom, ids::TenantId};

/// Tenants that are kept before anybody looks which of them are idle.
const FIRST_SWEEP: usize = 1_024;
/// For how long a tenant that was quiet may log at once what it may log over time.
const BURST: Duration = Duration::from_secs(10);
/// How often the host says that a tenant's lines are dropped.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Says what a tenant may have.
pub(super) type Of = Arc<dyn Fn(&TenantId) -> OfTenant + Send + Sync>;

/// All tenants that did something lately.
pub(super) struct Tenants {
    limits: Of,
    known: Mutex<Known>,
}

struct Known {
    tenants: HashMap<TenantId, Arc<Tenant>>,
    sweep_at: usize,
}

impl Tenants {
    pub(super) fn new(limits: Of) -> Self {
        Tenants { limits, known: Mutex::new(Known { tenants: HashMap::new(), sweep_at: FIRST_SWEEP }) }
    }

    /// The account of one tenant.
    pub(super) fn of(&self, id: &TenantId) -> Arc<Tenant> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = known.tenants.get(id) {
            return tenant.clone();
        }
        if known.tenants.len() >= known.sweep_at {
            let now = Instant::now();
            known.tenants.retain(|_, tenant| Arc::strong_count(tenant) > 1 || !tenant.log().is_at_rest(now));
            // Whoever is left is busy: looking again pays when there are twice as many.
            known.sweep_at = FIRST_SWEEP.max(known.tenants.len() * 2);
        }
        let tenant = Arc::new(Tenant::new(id.clone(), (self.limits)(id)));
        known.tenants.insert(id.clone(), tenant.clone());
        tenant
    }
}

/// One tenant's account.
pub(super) struct Tenant {
    id: TenantId,
    memory: AtomicUsize,
    memory_limit: usize,
    calls: Arc<Semaphore>,
    log: Mutex<Flow>,
}

impl Tenant {
    fn new(id: TenantId, limits: OfTenant) -> Self {
        Tenant {
            id,
            memory: AtomicUsize::new(0),
            memory_limit: limits.memory_bytes,
            calls: Arc::new(Semaphore::new(limits.calls)),
            log: Mutex::new(Flow::new(limits.log_bytes_per_second)),
        }
    }

    pub(super) fn id(&self) -> &TenantId {
        &self.id
    }

    /// What all its instances may hold together, bytes.
    pub(super) fn memory_limit(&self) -> usize {
        self.memory_limit
    }

    /// Takes memory, if there is as much left.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.memory_limit);
        self.memory.fetch_update(Relaxed, Relaxed, within).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.memory.fetch_sub(bytes, Relaxed);
    }

    /// Waits until one more call may run, and until one of all `instances` is free for it. Nobody closes a semaphore here, so there always is a permit.
    pub(super) async fn permit(self: Arc<Self>, instances: Arc<Semaphore>) -> Option<Permit> {
        let call = self.calls.clone().acquire_owned().await.ok()?;
        let instance = instances.acquire_owned().await.ok()?;
        Some(Permit { _permits: [call, instance], _tenant: self })
    }

    /// Takes a line of the host's about this tenant out of its log volume.
    pub(super) fn log_room(&self, bytes: usize) -> LogRoom {
        let (mut log, now) = (self.log(), Instant::now());
        if log.admits(bytes, now) { LogRoom::Room } else { LogRoom::Full { dropped: log.dropped(1, now) } }
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Flow> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to run one call. While there is one its tenant is not forgotten, or a new one of the same name would give leave to as many again.
pub(super) struct Permit {
    _permits: [OwnedSemaphorePermit; 2],
    _tenant: Arc<Tenant>,
}

/// Log volume over time: a bucket that fills with the seconds and is emptied by lines. Tells no time of its own.
pub(super) struct Flow {
    per_second: u64,
    /// What may be logged now, bytes.
    room: u64,
    filled: Option<Instant>,
    dropped: u64,
    said: Option<Instant>,
}

impl Flow {
    pub(super) fn new(per_second: u64) -> Self {
        Flow { per_second, room: per_second * BURST.as_secs(), filled: None, dropped: 0, said: None }
    }

    /// Whether a line of so many bytes may pass.
    pub(super) fn admits(&mut self, bytes: usize, now: Instant) -> bool {
        self.fill(now);
        match self.room.checked_sub(bytes as u64) {
            Some(left) => {
                self.room = left;
                true
            }
            None => false,
        }
    }

    /// Counts lines that were dropped, for this bound or another one. Says how many there are to tell of, now and then.
    pub(super) fn dropped(&mut self, lines: u64, now: Instant) -> Option<u64> {
        self.dropped += lines;
        let due = self.said.is_none_or(|said| now.saturating_duration_since(said) >= SAY_AGAIN);
        if self.dropped == 0 || !due {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled.unwrap_or(now));
        let more = u128::from(self.per_second) * passed.as_micros() / 1_000_000;
        // What is less than a byte waits for the next time.
        if more > 0 || self.filled.is_none() {
            self.filled = Some(now);
            self.room = (u128::from(self.room) + more).min(u128::from(self.per_second * BURST.as_secs())) as u64;
        }
    }

    /// Whether a new one would be no different.
    fn is_at_rest(&mut self, now: Instant) -> bool {
        self.fill(now);
        let silent = self.said.is_none_or(|said| now.saturating_duration_since(said) >= SAY_AGAIN);
        silent && self.room == self.per_second * BURST.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_over_time_is_bounded_and_told_now_and_then() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut flow = Flow::new(100);
        assert!(flow.admits(600, at(0)) && flow.admits(400, at(0)) && !flow.admits(1, at(0)));
        assert_eq!((flow.dropped(1, at(0)), flow.dropped(1, at(1))), (Some(1), None));
        assert!(!flow.admits(10, at(5)), "half a byte");
        assert!(flow.admits(100, at(1_005)) && !flow.admits(1, at(1_005)));
        assert_eq!(
            (flow.dropped(2, at(9_999)), flow.dropped(0, at(10_000)), flow.dropped(0, at(20_000))),
            (None, Some(3), None)
        );
        assert!(!flow.is_at_rest(at(5_000)) && flow.is_at_rest(at(60_000)));
        assert!(flow.admits(1_000, at(60_000)) && !flow.admits(1, at(60_000)), "no more is saved up");
        // A clock that goes back gives nothing and takes nothing.
        assert!(!flow.admits(1, at(0)));
    }

    #[test]
    fn tenants_that_rest_are_forgotten() {
        let tenants = Tenants::new(Arc::new(|_| OfTenant::default()));
        let id = |number: usize| TenantId::parse(&format!("t{number}")).unwrap();
        let held = tenants.of(&id(0));
        assert!(held.take(7));
        for number in 1..10 * FIRST_SWEEP {
            tenants.of(&id(number));
        }
        assert!(tenants.known.lock().unwrap().tenants.len() <= FIRST_SWEEP);
        assert!(Arc::ptr_eq(&held, &tenants.of(&id(0))));
    }

    #[tokio::test]
    async fn who_has_a_call_under_way_is_not_forgotten() {
        let limits = OfTenant { calls: 1, ..OfTenant::default() };
        let tenants = Tenants::new(Arc::new(move |_| limits));
        let id = |number: usize| TenantId::parse(&format!("t{number}")).unwrap();
        let permit = tenants.of(&id(0)).permit(Arc::new(Semaphore::new(1))).await;
        for number in 1..10 * FIRST_SWEEP {
            tenants.of(&id(number));
        }
        assert!(tenants.of(&id(0)).calls.try_acquire().is_err());
        drop(permit);
        assert!(tenants.of(&id(0)).calls.try_acquire().is_ok());
    }
}
