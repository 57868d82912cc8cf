//! Tenants as their operator sees them: what each is allowed, and what each has used.
//!
//! Tenants are discovered from events; nobody has to list one. Settings name those that differ from the others, and [`Tenants`] answers for all.
//! [`replacements`] are their own processors that replace shared ones. [`rates`] bounds what a
//! tenant may write and compute in a second. [`usage`] counts what each has cost, and a table keeps
//! the sums, so that they can be asked for whether or not a host runs. The scheduler shares the
//! time of the guest threads, and the sandbox bounds a call.

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
use rates::{Rates, Spent};
use replacements::Replacements;
use usage::{Usage, Used};

/// Every tenant of a host. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<TenantsInner>);

struct TenantsInner {
    settings: BTreeMap<TenantId, Settings>,
    limits: Limits,
    rates: Mutex<Rates>,
    usage: Usage,
    replacements: watch::Sender<Replacements>,
}

impl Tenants {
    /// Tenants that have used nothing yet. Settings were checked; a name that is none names nobody.
    pub fn new(settings: &BTreeMap<String, Settings>, limits: &Limits) -> Self {
        let named = settings.iter().filter_map(|(name, tenant)| Some((TenantId::parse(name).ok()?, tenant.clone())));
        Tenants(Arc::new(TenantsInner {
            settings: named.collect(),
            limits: *limits,
            rates: Mutex::default(),
            usage: Usage::default(),
            replacements: watch::Sender::default(),
        }))
    }

    /// What a tenant may use: what its settings say, and for the rest what is said for all.
    pub fn limits(&self, tenant: &TenantId) -> Limits {
        let own = self.0.settings.get(tenant);
        own.map_or(self.0.limits, |own| own.limits(&self.0.limits))
    }

    /// Parts of the guest threads' time, of those that have another than 1.
    pub fn weights(&self) -> BTreeMap<TenantId, u32> {
        self.named().map(|(tenant, settings)| (tenant.clone(), settings.weight)).collect()
    }

    /// Guest threads of tenants that have some of their own.
    pub fn threads(&self) -> BTreeMap<TenantId, usize> {
        let own = self.named().filter(|(_, settings)| settings.threads > 0);
        own.map(|(tenant, settings)| (tenant.clone(), settings.threads)).collect()
    }

    /// Tenants that wait in a processor because of the settings, or because their own processor
    /// replaces it, each with the reason.
    pub fn held(&self, processor: &ProcessorId) -> Vec<(TenantId, Reason)> {
        let by_settings =
            self.named().filter_map(|(tenant, settings)| Some((tenant.clone(), settings.holds(tenant, processor)?)));
        let mut held: Vec<(TenantId, Reason)> = by_settings.collect();
        let replacements = self.0.replacements.borrow();
        // A processor that the settings keep from the tenant's events replaces nothing.
        let may = |own: &ProcessorId, tenant| self.0.settings.get(tenant).is_none_or(|settings| settings.allows(own));
        let replaced = replacements.of(processor).filter(|(tenant, own)| may(own, tenant));
        let replaced: Vec<_> = replaced.filter(|(tenant, _)| held.iter().all(|(other, _)| other != *tenant)).collect();
        held.extend(replaced.into_iter().map(|(tenant, own)| (tenant.clone(), replacements::reason(own))));
        held
    }

    /// Sets the tenants' own processors, each of which replaces the shared one of its family.
    /// Returns whether the set changed.
    pub fn replace(&self, own: BTreeSet<ProcessorId>) -> bool {
        self.0.replacements.send_if_modified(|now| now.replace(own))
    }

    /// The tenants' own processors, and notice of their changes.
    pub fn replacements(&self) -> watch::Receiver<Replacements> {
        self.0.replacements.subscribe()
    }

    /// A tenant has computed or written. Counts it, with what else there is to count, and holds it to its rates.
    pub fn spent(&self, tenant: &TenantId, spent: Spent, also: impl FnOnce(&mut Used)) {
        self.rates().spend(tenant, &self.limits(tenant), spent, Instant::now());
        self.0.usage.add(tenant, |used| {
            used.cpu += spent.cpu;
            used.documents += spent.documents;
            used.bytes += spent.bytes;
            also(used);
        });
    }

    /// Counts something else of a tenant.
    pub fn count(&self, tenant: &TenantId, add: impl FnOnce(&mut Used)) {
        self.0.usage.add(tenant, add);
    }

    /// For how long a tenant must not begin anything, and by which of its rates; counted as time that it was held.
    pub fn wait(&self, tenant: &TenantId) -> Option<(Duration, Reason)> {
        let wait = self.rates().wait(tenant, &self.limits(tenant), Instant::now())?;
        self.0.usage.add(tenant, |used| used.throttled += wait.new);
        Some((wait.lasts, wait.reason))
    }

    /// What all of them have used and nobody has told.
    pub fn usage(&self) -> &Usage {
        &self.0.usage
    }

    fn named(&self) -> impl Iterator<Item = (&TenantId, &Settings)> {
        self.0.settings.iter()
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        // Whole between any two calls.
        self.0.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
