//! Each tenant's use of the whole sandbox, over all plugins and lanes: memory, concurrent calls and
//! log volume.
//!
//! All stores and calls of a tenant share its [`TenantAccount`]. At the bound on calls, a call
//! waits for a permit before its clock starts, first come first served. Memory over the bound is
//! refused; if other calls of the tenant hold it, the call is retried. Log lines over the volume
//! are dropped. Idle accounts are forgotten, so their number is bounded by the tenants that were
//! active within the last seconds.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::TenantLimits;
use crate::model::{handler::LogRoom, ids::TenantId};

/// Minimum number of accounts at which idle ones are dropped.
const MIN_SWEEP: usize = 1_024;
/// Size of the log bucket, as time: a tenant that was quiet may log this much at once.
const BURST: Duration = Duration::from_secs(10);
/// Interval between two reports that a tenant's lines were dropped.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The limits of each tenant.
pub(super) type LimitsOf = Arc<dyn Fn(&TenantId) -> TenantLimits + Send + Sync>;

/// The accounts of all tenants that were active lately.
pub(super) struct TenantAccounts {
    limits: LimitsOf,
    accounts: Mutex<AccountMap>,
}

struct AccountMap {
    tenants: HashMap<TenantId, Arc<TenantAccount>>,
    sweep_at: usize,
}

impl TenantAccounts {
    pub(super) fn new(limits: LimitsOf) -> Self {
        TenantAccounts { limits, accounts: Mutex::new(AccountMap { tenants: HashMap::new(), sweep_at: MIN_SWEEP }) }
    }

    /// The account of one tenant.
    pub(super) fn of(&self, id: &TenantId) -> Arc<TenantAccount> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = accounts.tenants.get(id) {
            return tenant.clone();
        }
        if accounts.tenants.len() >= accounts.sweep_at {
            let now = Instant::now();
            accounts.tenants.retain(|_, tenant| Arc::strong_count(tenant) > 1 || !tenant.log().is_at_rest(now));
            // The remaining accounts are busy: another sweep is worthwhile once there are twice as
            // many.
            accounts.sweep_at = MIN_SWEEP.max(accounts.tenants.len() * 2);
        }
        let tenant = Arc::new(TenantAccount::new(id.clone(), (self.limits)(id)));
        accounts.tenants.insert(id.clone(), tenant.clone());
        tenant
    }
}

/// The account of one tenant.
pub(super) struct TenantAccount {
    id: TenantId,
    memory: AtomicUsize,
    memory_limit: usize,
    calls: Arc<Semaphore>,
    log: Mutex<LogBudget>,
}

impl TenantAccount {
    fn new(id: TenantId, limits: TenantLimits) -> Self {
        TenantAccount {
            id,
            memory: AtomicUsize::new(0),
            memory_limit: limits.memory_bytes,
            calls: Arc::new(Semaphore::new(limits.calls)),
            log: Mutex::new(LogBudget::new(limits.log_bytes_per_second)),
        }
    }

    pub(super) fn id(&self) -> &TenantId {
        &self.id
    }

    /// Bound on the memory of all its instances together, bytes.
    pub(super) fn memory_limit(&self) -> usize {
        self.memory_limit
    }

    /// Reserves memory. False if not as much is left.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.memory_limit);
        self.memory.fetch_update(Relaxed, Relaxed, within).is_ok()
    }

    pub(super) fn release(&self, bytes: usize) {
        self.memory.fetch_sub(bytes, Relaxed);
    }

    /// Waits until the tenant may make one more call and one of all `instances` is free for it. The
    /// semaphores are never closed, so a permit always comes.
    pub(super) async fn permit(self: Arc<Self>, instances: Arc<Semaphore>) -> Option<TenantPermit> {
        let call = self.calls.clone().acquire_owned().await.ok()?;
        let instance = instances.acquire_owned().await.ok()?;
        Some(TenantPermit { _permits: [call, instance], _tenant: self })
    }

    /// Charges a line that the host logs about this tenant to its log volume.
    pub(super) fn log_room(&self, bytes: usize) -> LogRoom {
        let (mut log, now) = (self.log(), Instant::now());
        if log.admits(bytes, now) { LogRoom::Room } else { LogRoom::Full { dropped: log.count_dropped(1, now) } }
    }

    pub(super) fn log(&self) -> MutexGuard<'_, LogBudget> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permission to run one call. It keeps the tenant's account alive, since a fresh account would
/// permit the full number of calls again.
pub(super) struct TenantPermit {
    _permits: [OwnedSemaphorePermit; 2],
    _tenant: Arc<TenantAccount>,
}

/// A token bucket for log volume, filled over time and emptied by lines. The caller passes the
/// time.
pub(super) struct LogBudget {
    per_second: u64,
    /// Volume that may be logged now, bytes.
    room: u64,
    filled: Option<Instant>,
    dropped: u64,
    reported: Option<Instant>,
}

impl LogBudget {
    pub(super) fn new(per_second: u64) -> Self {
        LogBudget { per_second, room: per_second * BURST.as_secs(), filled: None, dropped: 0, reported: None }
    }

    /// Whether a line of this many bytes may pass. If so, it is charged.
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

    /// Counts dropped lines, for this bound or another. Once per interval, returns the number to
    /// report.
    pub(super) fn count_dropped(&mut self, lines: u64, now: Instant) -> Option<u64> {
        self.dropped += lines;
        let due = self.reported.is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
        if self.dropped == 0 || !due {
            return None;
        }
        self.reported = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled.unwrap_or(now));
        let more = u128::from(self.per_second) * passed.as_micros() / 1_000_000;
        // A fraction of a byte is left to accumulate.
        if more > 0 || self.filled.is_none() {
            self.filled = Some(now);
            self.room = (u128::from(self.room) + more).min(u128::from(self.per_second * BURST.as_secs())) as u64;
        }
    }

    /// Whether it is no different from a new bucket.
    fn is_at_rest(&mut self, now: Instant) -> bool {
        self.fill(now);
        let silent = self.reported.is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
        silent && self.room == self.per_second * BURST.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_volume_is_bounded_and_drops_are_reported_once_per_interval() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut budget = LogBudget::new(100);
        assert!(budget.admits(600, at(0)) && budget.admits(400, at(0)) && !budget.admits(1, at(0)));
        assert_eq!((budget.count_dropped(1, at(0)), budget.count_dropped(1, at(1))), (Some(1), None));
        assert!(!budget.admits(10, at(5)), "half a byte");
        assert!(budget.admits(100, at(1_005)) && !budget.admits(1, at(1_005)));
        assert_eq!(
            (
                budget.count_dropped(2, at(9_999)),
                budget.count_dropped(0, at(10_000)),
                budget.count_dropped(0, at(20_000))
            ),
            (None, Some(3), None)
        );
        assert!(!budget.is_at_rest(at(5_000)) && budget.is_at_rest(at(60_000)));
        assert!(
            budget.admits(1_000, at(60_000)) && !budget.admits(1, at(60_000)),
            "volume is saved up to the size of the bucket"
        );
        // A clock that goes back changes nothing.
        assert!(!budget.admits(1, at(0)));
    }

    #[test]
    fn idle_accounts_are_forgotten() {
        let tenants = TenantAccounts::new(Arc::new(|_| TenantLimits::default()));
        let id = |number: usize| TenantId::parse(&format!("t{number}")).unwrap();
        let held = tenants.of(&id(0));
        assert!(held.reserve(7));
        for number in 1..10 * MIN_SWEEP {
            tenants.of(&id(number));
        }
        assert!(tenants.accounts.lock().unwrap().tenants.len() <= MIN_SWEEP);
        assert!(Arc::ptr_eq(&held, &tenants.of(&id(0))));
    }

    #[tokio::test]
    async fn a_tenant_with_a_call_under_way_is_not_forgotten() {
        let limits = TenantLimits { calls: 1, ..TenantLimits::default() };
        let tenants = TenantAccounts::new(Arc::new(move |_| limits));
        let id = |number: usize| TenantId::parse(&format!("t{number}")).unwrap();
        let permit = tenants.of(&id(0)).permit(Arc::new(Semaphore::new(1))).await;
        for number in 1..10 * MIN_SWEEP {
            tenants.of(&id(number));
        }
        assert!(tenants.of(&id(0)).calls.try_acquire().is_err());
        drop(permit);
        assert!(tenants.of(&id(0)).calls.try_acquire().is_ok());
    }
}
