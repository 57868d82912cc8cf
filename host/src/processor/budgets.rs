//! Budgets of set-aside events: how many dead letters and parked streams a tenant may have in one
//! processor.
//!
//! A lane over its tenant's budget stops at the event instead, so nothing is lost and the tables
//! stay bounded. The numbers come from the database when a term begins and when lanes are resumed;
//! in between, the host counts what it sets aside. A dropped run may have counted too much, which
//! the next read corrects.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    model::{handler::Reason, ids::TenantId},
    tenants::{Limits, Tenants},
};

/// The class of a lane that stopped because a budget is used up.
pub const LETTERS_LIMIT: &str = "letters-limit";

/// The numbers of one tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAsideCount {
    /// Dead letters.
    pub letters: u64,
    /// Parked streams.
    pub streams: u64,
}

/// The budgets of a processor.
#[derive(Default)]
pub struct Budgets {
    /// The source of the limits; without it there is no limit.
    tenants: Option<Tenants>,
    counts: Mutex<HashMap<TenantId, SetAsideCount>>,
}

impl Budgets {
    /// Budgets within the limits of these tenants.
    pub fn of(tenants: Tenants) -> Self {
        Budgets { tenants: Some(tenants), counts: Mutex::default() }
    }

    /// Replaces all numbers with those of the database.
    pub fn replace(&self, counts: impl IntoIterator<Item = (TenantId, SetAsideCount)>) {
        *self.counts() = counts.into_iter().collect();
    }

    /// Counts events that became dead letters. If they exceed the budget, counts none and returns
    /// why.
    pub fn add_letters(&self, tenant: &TenantId, number: usize) -> Result<(), Reason> {
        let most = self.limits(tenant).map(|limits| u64::from(limits.dead_letters));
        let count = &mut *self.counts();
        let letters = &mut count.entry(tenant.clone()).or_default().letters;
        within(letters, number as u64, most, |most| {
            format!(
                "this tenant would have more than {most} dead letters in this processor (tenant-limits.dead-letters); \
                 retry or discard some with `sandmill dead-letters`, then resume the lane"
            )
        })
    }

    /// Counts a stream that is parked. If it exceeds the budget, does not count it and returns why.
    pub fn add_stream(&self, tenant: &TenantId) -> Result<(), Reason> {
        let most = self.limits(tenant).map(|limits| u64::from(limits.parked_streams));
        let count = &mut *self.counts();
        let streams = &mut count.entry(tenant.clone()).or_default().streams;
        within(streams, 1, most, |most| {
            format!(
                "this tenant would have more parked streams in this processor than tenant-limits.parked-streams allows \
                 ({most}); drain or discard some with `sandmill parked`, then resume the lane"
            )
        })
    }

    /// Records dead letters that were handled again or discarded, and streams that are no longer
    /// parked.
    pub fn remove(&self, tenant: &TenantId, letters: usize, streams: usize) {
        if let Some(count) = self.counts().get_mut(tenant) {
            count.letters = count.letters.saturating_sub(letters as u64);
            count.streams = count.streams.saturating_sub(streams as u64);
        }
    }

    fn limits(&self, tenant: &TenantId) -> Option<Limits> {
        self.tenants.as_ref().map(|tenants| tenants.limits(tenant))
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<TenantId, SetAsideCount>> {
        // Consistent between any two calls, so a panic of another thread does no harm.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to a number that may not exceed `most`, or returns the reason why that is not possible.
fn within(count: &mut u64, number: u64, most: Option<u64>, why: impl Fn(u64) -> String) -> Result<(), Reason> {
    match most {
        Some(most) if *count + number > most => Err(Reason::new(LETTERS_LIMIT, why(most))),
        _ => {
            *count += number;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_tenant_may_have_as_many_as_its_limit() {
        let limits = Limits { dead_letters: 3, parked_streams: 1, ..Limits::default() };
        let budgets = Budgets::of(Tenants::new(&BTreeMap::new(), &limits));
        let [a, b] = ["a", "b"].map(|name| TenantId::parse(name).unwrap());
        budgets.replace([(a.clone(), SetAsideCount { letters: 1, streams: 0 })]);
        assert_eq!(budgets.add_letters(&a, 2), Ok(()));
        let error = budgets.add_letters(&a, 1).unwrap_err();
        assert!(error.class == LETTERS_LIMIT && error.message.contains("more than 3 dead letters"), "{error}");
        assert!(budgets.add_letters(&b, 4).is_err());
        assert_eq!((budgets.add_letters(&b, 3), budgets.add_stream(&a)), (Ok(()), Ok(())));
        assert!(budgets.add_stream(&a).unwrap_err().message.contains("allows (1)"));
        budgets.remove(&a, 1, 1);
        assert_eq!((budgets.add_letters(&a, 1), budgets.add_stream(&a)), (Ok(()), Ok(())));
        let unlimited = Budgets::default();
        assert_eq!(unlimited.add_letters(&a, 1_000_000), Ok(()));
    }
}
