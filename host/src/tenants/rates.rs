//! How fast a tenant may compute and write: token buckets, pure.
//!
//! A bucket holds one second's worth and fills at the tenant's rate. What was spent is taken out afterwards, when it is known, so a bucket may fall
//! below empty; whoever has one below empty begins nothing until it has filled again. Over any time a tenant thus gets its rate, one second's worth
//! and the one piece of work that emptied the bucket. Only tenants that have a rate and spent something lately have buckets: one that is full
//! says nothing, and is dropped.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use super::Limits;
use crate::model::{handler::Reason, ids::TenantId};

/// What a tenant has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// CPU time of its guests.
    pub cpu: Duration,
    /// Documents written.
    pub documents: u64,
    /// Bytes of documents and dead letters written.
    pub bytes: u64,
}

/// A tenant has used up what it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// How long it has to wait.
    pub(super) lasts: Duration,
    /// How much of that nobody was told before.
    pub(super) new: Duration,
    /// By what.
    pub(super) reason: Reason,
}

/// As long as one can be made to wait: then it is looked again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The buckets of all tenants that have some.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: HashMap<TenantId, Buckets, RandomState>,
    /// With so many, full ones are looked for.
    sweep_at: usize,
}

/// What is missing in each bucket, in seconds of its rate: 0 is full, 1 is empty, more is below.
#[derive(Debug)]
struct Buckets {
    at: Instant,
    missing: [f64; 3],
    /// Until when it was said that the tenant must wait.
    waits_until: Instant,
}

impl Buckets {
    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.missing = self.missing.map(|missing| (missing - passed).max(0.0));
    }
}

/// The rates of a tenant, in the buckets' order: per second, with the name and the unit.
fn rates(limits: &Limits) -> [(f64, &'static str, u32); 3] {
    [
        (f64::from(limits.cpu_percent) / 100.0, "cpu-percent", limits.cpu_percent),
        (f64::from(limits.documents_per_second), "documents-per-second", limits.documents_per_second),
        (f64::from(limits.written_kib_per_second) * 1024.0, "written-kib-per-second", limits.written_kib_per_second),
    ]
}

impl Rates {
    /// Takes out of a tenant's buckets what it has spent.
    pub(super) fn spend(&mut self, tenant: &TenantId, limits: &Limits, spent: Spent, now: Instant) {
        let rates = rates(limits);
        if rates.iter().all(|(rate, ..)| *rate == 0.0) {
            return;
        }
        let spent = [spent.cpu.as_secs_f64(), spent.documents as f64, spent.bytes as f64];
        let buckets =
            self.buckets.entry(tenant.clone()).or_insert(Buckets { at: now, missing: [0.0; 3], waits_until: now });
        buckets.fill(now);
        for ((missing, spent), (rate, ..)) in buckets.missing.iter_mut().zip(spent).zip(rates) {
            if rate > 0.0 {
                *missing += spent / rate;
            }
        }
        self.sweep(now);
    }

    /// For how long a tenant must not begin anything, and why.
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

    /// Drops what is full, whenever there are twice as many as were left the last time.
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

/// The class of the reason why a tenant over its rates waits.
pub const THROTTLED: &str = "throttled";

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: usize) -> TenantId {
        TenantId::parse(&format!("t{n}")).unwrap()
    }

    #[test]
    fn over_any_time_a_tenant_gets_its_rate_a_second_and_one_piece_of_work() {
        let limits = Limits { cpu_percent: 25, documents_per_second: 100, ..Limits::default() };
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut random = 7_u64;
        let (mut now, mut documents, mut cpu) = (start, 0, Duration::ZERO);
        while now < start + Duration::from_secs(100) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if let Some(wait) = rates.wait(&tenant(1), &limits, now) {
                assert!(wait.reason.message.starts_with("has used up its "), "{}", wait.reason);
                now += wait.lasts;
                assert_eq!(rates.wait(&tenant(1), &limits, now + Duration::from_micros(1)), None, "told exactly");
            }
            let spent =
                Spent { cpu: Duration::from_millis(random >> 58), documents: (random >> 40) % 50, bytes: u64::MAX };
            rates.spend(&tenant(1), &limits, spent, now);
            (documents, cpu) = (documents + spent.documents, cpu + spent.cpu);
            let seconds = (now - start).as_secs_f64() + 1.0;
            assert!(documents as f64 <= 100.0 * seconds + 50.0);
            assert!(cpu.as_secs_f64() <= 0.25 * seconds + 0.064);
            now += Duration::from_micros(100);
        }
        let seconds = (now - start).as_secs_f64();
        let shares = [documents as f64 / 100.0 / seconds, cpu.as_secs_f64() / 0.25 / seconds];
        assert!(shares.iter().any(|share| *share > 0.99), "one of them was used up: {shares:?}");
    }

    #[test]
    fn however_many_lanes_ask_a_wait_counts_once() {
        let limits = Limits { documents_per_second: 10, ..Limits::default() };
        let (mut rates, start) = (Rates::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let spent = |documents| Spent { documents, ..Spent::default() };
        rates.spend(&tenant(1), &limits, spent(20), start);
        let mut told = |now, more| {
            rates.spend(&tenant(1), &limits, spent(more), now);
            let wait = rates.wait(&tenant(1), &limits, now).unwrap();
            (wait.lasts.as_millis(), wait.new.as_millis())
        };
        assert_eq!([told(at(0), 0), told(at(0), 0), told(at(400), 0)], [(1000, 1000), (1000, 0), (600, 0)]);
        assert_eq!(told(at(500), 10), (1500, 1000), "what was spent meanwhile");
        assert_eq!(rates.wait(&tenant(1), &limits, at(2000) + ms(1)), None);
    }

    #[test]
    fn only_who_spent_lately_is_remembered() {
        let limits = Limits { documents_per_second: 10, ..Limits::default() };
        let (mut rates, start) = (Rates::default(), Instant::now());
        for n in 0..10_000 {
            let now = start + Duration::from_millis(n as u64);
            rates.spend(&tenant(n), &limits, Spent { documents: 1, ..Spent::default() }, now);
        }
        assert!(rates.buckets.len() <= 512, "{}", rates.buckets.len());
        rates.spend(&tenant(0), &Limits::default(), Spent { documents: 1, ..Spent::default() }, start);
        assert_eq!(rates.wait(&tenant(0), &Limits::default(), start), None, "no rate, no bound");
    }
}
