//! Rate limits on what a tenant computes and writes: token buckets. Pure.
//!
//! A bucket holds one second's worth of a rate and fills at that rate. Work is charged afterwards,
//! when its cost is known, so a bucket may fall below empty. Its tenant begins nothing as long as
//! the bucket is below empty. So in any interval a tenant gets at most its rate, one second's worth
//! more, and the one piece of work that emptied the bucket. Only tenants with a rate and recent
//! work have buckets; a full bucket carries no information and is dropped.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use super::Limits;
use crate::model::{handler::Reason, ids::TenantId};

/// The cost of a piece of a tenant's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// CPU time of its guests.
    pub cpu: Duration,
    /// Documents written.
    pub documents: u64,
    /// Bytes of documents and dead letters written.
    pub bytes: u64,
}

/// The wait of a tenant that has used up a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Its length from now on.
    pub(super) lasts: Duration,
    /// The part of it that no earlier answer has counted.
    pub(super) new: Duration,
    /// The rate that is used up.
    pub(super) reason: Reason,
}

/// The longest wait, after which the bucket is checked again. A bound on arithmetic: 24 h.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The buckets of all tenants with a rate and recent work.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    buckets: HashMap<TenantId, Buckets, RandomState>,
    /// Number of tenants at which full buckets are dropped.
    sweep_at: usize,
}

/// The three buckets of a tenant.
#[derive(Debug)]
struct Buckets {
    at: Instant,
    /// What is missing in each, in seconds of its rate: 0 is full, 1 is empty, more is below empty.
    missing: [f64; 3],
    /// The end of the last wait that was reported.
    waits_until: Instant,
}

impl Buckets {
    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.missing = self.missing.map(|missing| (missing - passed).max(0.0));
    }
}

/// The rates of a tenant, in the buckets' order: the rate per second, the name of its setting, and
/// the setting's value.
fn rates(limits: &Limits) -> [(f64, &'static str, u32); 3] {
    [
        (f64::from(limits.cpu_percent) / 100.0, "cpu-percent", limits.cpu_percent),
        (f64::from(limits.documents_per_second), "documents-per-second", limits.documents_per_second),
        (f64::from(limits.written_kib_per_second) * 1024.0, "written-kib-per-second", limits.written_kib_per_second),
    ]
}

impl RateLimiter {
    /// Charges a piece of work to a tenant's buckets.
    pub(super) fn spend(&mut self, tenant: &TenantId, limits: &Limits, cost: Cost, now: Instant) {
        let rates = rates(limits);
        if rates.iter().all(|(rate, ..)| *rate == 0.0) {
            return;
        }
        let costs = [cost.cpu.as_secs_f64(), cost.documents as f64, cost.bytes as f64];
        let buckets =
            self.buckets.entry(tenant.clone()).or_insert(Buckets { at: now, missing: [0.0; 3], waits_until: now });
        buckets.fill(now);
        for ((missing, cost), (rate, ..)) in buckets.missing.iter_mut().zip(costs).zip(rates) {
            if rate > 0.0 {
                *missing += cost / rate;
            }
        }
        self.sweep(now);
    }

    /// The wait before a tenant may begin new work, if any of its buckets is empty.
    pub(super) fn wait(&mut self, tenant: &TenantId, limits: &Limits, now: Instant) -> Option<Wait> {
        let buckets = self.buckets.get_mut(tenant)?;
        buckets.fill(now);
        let (wait, name, limit) = buckets
            .missing
            .iter()
            .zip(rates(limits))
            .map(|(missing, (_, name, limit))| (missing - 1.0, name, limit))
            .max_by(|(one, ..), (other, ..)| one.total_cmp(other))?;
        if wait <= 0.0 {
            return None;
        }
        let lasts = Duration::try_from_secs_f64(wait).unwrap_or(LONGEST).min(LONGEST);
        let until = now + lasts;
        let new = until.saturating_duration_since(buckets.waits_until.max(now));
        buckets.waits_until = until;
        let reason = format!("has used up its {name} = {limit} (tenants.{tenant} or tenant-limits)");
        Some(Wait { lasts, new, reason: Reason::new(THROTTLED, reason) })
    }

    /// Drops full buckets, when their number has doubled since the last sweep.
    fn sweep(&mut self, now: Instant) {
        if self.buckets.len() < self.sweep_at.max(64) {
            return;
        }
        self.buckets.retain(|_, buckets| {
            buckets.fill(now);
            buckets.missing.iter().any(|missing| *missing > 0.0)
        });
        self.sweep_at = 2 * self.buckets.len();
    }
}

/// The reason class of a tenant that waits because of its rates.
pub const THROTTLED: &str = "throttled";

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: usize) -> TenantId {
        TenantId::parse(&format!("t{n}")).unwrap()
    }

    #[test]
    fn a_tenant_gets_its_rate_plus_one_second_plus_one_piece_of_work() {
        let limits = Limits { cpu_percent: 25, documents_per_second: 100, ..Limits::default() };
        let (mut rates, start) = (RateLimiter::default(), Instant::now());
        let mut random = 7_u64;
        let (mut now, mut documents, mut cpu) = (start, 0, Duration::ZERO);
        while now < start + Duration::from_secs(100) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if let Some(wait) = rates.wait(&tenant(1), &limits, now) {
                assert!(wait.reason.message.starts_with("has used up its "), "{}", wait.reason);
                now += wait.lasts;
                assert_eq!(rates.wait(&tenant(1), &limits, now + Duration::from_micros(1)), None, "the wait is exact");
            }
            let cost =
                Cost { cpu: Duration::from_millis(random >> 58), documents: (random >> 40) % 50, bytes: u64::MAX };
            rates.spend(&tenant(1), &limits, cost, now);
            (documents, cpu) = (documents + cost.documents, cpu + cost.cpu);
            let seconds = (now - start).as_secs_f64() + 1.0;
            assert!(documents as f64 <= 100.0 * seconds + 50.0);
            assert!(cpu.as_secs_f64() <= 0.25 * seconds + 0.064);
            now += Duration::from_micros(100);
        }
        let seconds = (now - start).as_secs_f64();
        let shares = [documents as f64 / 100.0 / seconds, cpu.as_secs_f64() / 0.25 / seconds];
        assert!(shares.iter().any(|share| *share > 0.99), "one of the rates was used up: {shares:?}");
    }

    #[test]
    fn a_wait_counts_once_for_any_number_of_lanes() {
        let limits = Limits { documents_per_second: 10, ..Limits::default() };
        let (mut rates, start) = (RateLimiter::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let cost = |documents| Cost { documents, ..Cost::default() };
        rates.spend(&tenant(1), &limits, cost(20), start);
        let mut wait = |now, more| {
            rates.spend(&tenant(1), &limits, cost(more), now);
            let wait = rates.wait(&tenant(1), &limits, now).unwrap();
            (wait.lasts.as_millis(), wait.new.as_millis())
        };
        assert_eq!([wait(at(0), 0), wait(at(0), 0), wait(at(400), 0)], [(1000, 1000), (1000, 0), (600, 0)]);
        assert_eq!(wait(at(500), 10), (1500, 1000), "work in the meantime extends the wait");
        assert_eq!(rates.wait(&tenant(1), &limits, at(2000) + ms(1)), None);
    }

    #[test]
    fn only_tenants_with_recent_work_have_buckets() {
        let limits = Limits { documents_per_second: 10, ..Limits::default() };
        let (mut rates, start) = (RateLimiter::default(), Instant::now());
        for n in 0..10_000 {
            let now = start + Duration::from_millis(n as u64);
            rates.spend(&tenant(n), &limits, Cost { documents: 1, ..Cost::default() }, now);
        }
        assert!(rates.buckets.len() <= 512, "{}", rates.buckets.len());
        rates.spend(&tenant(0), &Limits::default(), Cost { documents: 1, ..Cost::default() }, start);
        assert_eq!(rates.wait(&tenant(0), &Limits::default(), start), None, "no rate, no bound");
    }
}
