//! Tenants: their limits, their usage, and their own processors.
//!
//! Tenants are discovered from events and need no declaration. Settings name only tenants that
//! differ from the rest, and [`Tenants`] covers all of them. [`replacements`] are tenants' own
//! processors that replace shared ones. [`rates`] bounds how much a tenant writes and computes per
//! second. [`usage`] counts what each tenant costs, and adds it to sums in a table, which can be
//! read without a running host. The time of guest threads is shared by the scheduler, and a call is
//! bounded by the sandbox.

pub mod rates;
pub mod replacements;
mod settings;
pub mod status;
pub mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use settings::{Limits, Settings};
use tokio::sync::watch;

use crate::model::{
    handler::Reason,
    ids::{ProcessorId, TenantId},
};
use rates::{Cost, RateLimiter};
use replacements::Replacements;
use usage::{PendingUsage, Usage};

/// Every tenant of a host. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<TenantsInner>);

struct TenantsInner {
    settings: BTreeMap<TenantId, Settings>,
    limits: Limits,
    rates: Mutex<RateLimiter>,
    usage: PendingUsage,
    replacements: watch::Sender<Replacements>,
}

impl Tenants {
    /// Tenants without usage. Settings are expected to be checked; invalid names are ignored.
    pub fn new(settings: &BTreeMap<String, Settings>, limits: &Limits) -> Self {
        let named = settings.iter().filter_map(|(name, tenant)| Some((TenantId::parse(name).ok()?, tenant.clone())));
        Tenants(Arc::new(TenantsInner {
            settings: named.collect(),
            limits: *limits,
            rates: Mutex::default(),
            usage: PendingUsage::default(),
            replacements: watch::Sender::default(),
        }))
    }

    /// A tenant's limits: its own where its settings set them, and otherwise those of all tenants.
    pub fn limits(&self, tenant: &TenantId) -> Limits {
        let own = self.0.settings.get(tenant);
        own.map_or(self.0.limits, |own| own.limits(&self.0.limits))
    }

    /// Weights of the tenants named in the settings; all others have weight 1.
    pub fn weights(&self) -> BTreeMap<TenantId, u32> {
        self.named().map(|(tenant, settings)| (tenant.clone(), settings.weight)).collect()
    }

    /// Numbers of guest threads of the tenants with threads of their own.
    pub fn threads(&self) -> BTreeMap<TenantId, usize> {
        let own = self.named().filter(|(_, settings)| settings.threads > 0);
        own.map(|(tenant, settings)| (tenant.clone(), settings.threads)).collect()
    }

    /// Tenants whose lanes are paused in a processor, each with the reason: the settings, or the
    /// tenant's own processor that replaces it.
    pub fn paused(&self, processor: &ProcessorId) -> Vec<(TenantId, Reason)> {
        let by_settings = self
            .named()
            .filter_map(|(tenant, settings)| Some((tenant.clone(), settings.pause_reason(tenant, processor)?)));
        let mut paused: Vec<(TenantId, Reason)> = by_settings.collect();
        let replacements = self.0.replacements.borrow();
        // An own processor that the settings do not allow replaces nothing.
        let may = |own: &ProcessorId, tenant| self.0.settings.get(tenant).is_none_or(|settings| settings.allows(own));
        let replaced = replacements.of(processor).filter(|(tenant, own)| may(own, tenant));
        let replaced: Vec<_> =
            replaced.filter(|(tenant, _)| paused.iter().all(|(other, _)| other != *tenant)).collect();
        paused.extend(replaced.into_iter().map(|(tenant, own)| (tenant.clone(), replacements::reason(own))));
        paused
    }

    /// Sets the tenants' own processors, each of which replaces the shared one of its family.
    /// Returns whether the set changed.
    pub fn replace(&self, own: BTreeSet<ProcessorId>) -> bool {
        self.0.replacements.send_if_modified(|now| now.replace(own))
    }

    /// A watch on the tenants' own processors.
    pub fn replacements(&self) -> watch::Receiver<Replacements> {
        self.0.replacements.subscribe()
    }

    /// Counts the cost of a tenant's work and charges it to the tenant's rates. `also` adds further
    /// usage.
    pub fn charge(&self, tenant: &TenantId, cost: Cost, also: impl FnOnce(&mut Usage)) {
        self.rates().spend(tenant, &self.limits(tenant), cost, Instant::now());
        self.0.usage.add(tenant, |used| {
            used.cpu += cost.cpu;
            used.documents += cost.documents;
            used.bytes += cost.bytes;
            also(used);
        });
    }

    /// Counts usage that no rate bounds.
    pub fn count(&self, tenant: &TenantId, add: impl FnOnce(&mut Usage)) {
        self.0.usage.add(tenant, add);
    }

    /// The wait before a tenant may begin new work, with the rate that is used up; none if it may
    /// begin now. Counts the wait as throttled time.
    pub fn wait(&self, tenant: &TenantId) -> Option<(Duration, Reason)> {
        let wait = self.rates().wait(tenant, &self.limits(tenant), Instant::now())?;
        self.0.usage.add(tenant, |used| used.throttled += wait.new);
        Some((wait.lasts, wait.reason))
    }

    /// Usage that is not yet added to the sums in the database.
    pub fn usage(&self) -> &PendingUsage {
        &self.0.usage
    }

    fn named(&self) -> impl Iterator<Item = (&TenantId, &Settings)> {
        self.0.settings.iter()
    }

    fn rates(&self) -> MutexGuard<'_, RateLimiter> {
        // Consistent between any two calls, so a panic of another thread does no harm.
        self.0.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
