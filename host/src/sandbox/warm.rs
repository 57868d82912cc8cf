//! The pool of live stores: how many there may be, which stay warm for their tenant's next call,
//! and which are evicted.
//!
//! A call borrows an idle store of its own plugin and tenant, or the right to make one. A store of
//! another plugin or tenant is never lent, so nothing that a guest keeps in memory can cross over.
//! Dropping a [`Loan`] drops its store, no matter how far the call got; only a [kept](Loan::keep)
//! store is lent again.
//!
//! Two bounds hold: one on all stores, lent and idle, and one on idle stores. The least recently
//! used idle store is evicted first, also to make room for a call of another owner. A store retires
//! after a number of calls drawn when it was made, so no guest can rely on a warm one. Stores are
//! dropped outside the lock, since that takes a while, and count until they are gone.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::ids::TenantId;

/// Number of calls after which a store retires. Drawn for each store, so that stores made together
/// do not retire together.
const RETIRES_AFTER: RangeInclusive<u32> = 50..=200;

/// The owner of a store: a loaded plugin and a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StoreOwner {
    /// The plugin's number, given when it was loaded. Loading the same file again gives another.
    pub(super) plugin: u64,
    pub(super) tenant: TenantId,
}

/// No store can be lent, because all of them are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AllStoresLent;

/// The stores of one sandbox.
pub(super) struct StorePool<T> {
    state: Mutex<StorePoolState<T>>,
    max_live: usize,
    max_idle: usize,
}

struct StorePoolState<T> {
    owners: HashMap<StoreOwner, OwnerStores<T>>,
    /// Owners of idle stores, by the time of return.
    idle_order: BTreeMap<u64, StoreOwner>,
    /// Number of returns so far, which serves as a clock.
    clock: u64,
    live: usize,
}

/// The stores of one owner. The entry exists while one of them is lent or idle.
struct OwnerStores<T> {
    lent: usize,
    /// Raised to invalidate the stores that are lent now: these are not taken back.
    epoch: u64,
    /// The store returned last is lent first: its memory is most likely to be in the caches.
    idle: VecDeque<IdleStore<T>>,
}

impl<T> Default for OwnerStores<T> {
    fn default() -> Self {
        OwnerStores { lent: 0, epoch: 0, idle: VecDeque::new() }
    }
}

struct IdleStore<T> {
    since: u64,
    calls_left: u32,
    store: T,
}

impl<T> StorePool<T> {
    /// An empty pool with bounds on all stores and on idle ones.
    pub(super) fn new(max_live: u32, max_idle: u32) -> Arc<Self> {
        let stores = StorePoolState { owners: HashMap::new(), idle_order: BTreeMap::new(), clock: 0, live: 0 };
        Arc::new(StorePool { state: Mutex::new(stores), max_live: max_live as usize, max_idle: max_idle as usize })
    }

    /// An idle store of this owner, or the right to make one.
    pub(super) fn lend(self: &Arc<Self>, owner: StoreOwner) -> Result<Loan<T>, AllStoresLent> {
        let mut stores = self.lock();
        let (mut store, mut calls_left, mut evicted) = (None, 0, None);
        if let Some(idle) = stores.newest_of(&owner) {
            (store, calls_left) = (Some(idle.store), idle.calls_left);
        } else if stores.live < self.max_live {
            stores.live += 1;
        } else {
            // Its place passes to this call, so the count stays the same.
            evicted = Some(stores.oldest().ok_or(AllStoresLent)?);
        }
        let owned = stores.owners.entry(owner.clone()).or_default();
        owned.lent += 1;
        let epoch = owned.epoch;
        drop(stores);
        drop(evicted);
        if store.is_none() {
            calls_left = draw(RETIRES_AFTER);
        }
        Ok(Loan { pool: self.clone(), owner, epoch, calls_left, store, kept: false })
    }

    /// Drops one owner's idle stores now, and those that are lent when they are returned.
    pub(super) fn forget(&self, owner: &StoreOwner) {
        let mut stores = self.lock();
        let dropped = stores.forget(owner);
        drop(stores);
        self.drop_stores(dropped);
    }

    /// The same for all owners of one plugin.
    pub(super) fn forget_plugin(&self, plugin: u64) {
        let mut stores = self.lock();
        let owners: Vec<StoreOwner> = stores.owners.keys().filter(|owner| owner.plugin == plugin).cloned().collect();
        let dropped = owners.iter().flat_map(|owner| stores.forget(owner)).collect();
        drop(stores);
        self.drop_stores(dropped);
    }

    /// Drops the least recently used idle store whose owner matches. False if there is none.
    pub(super) fn evict(&self, matches: impl Fn(&StoreOwner) -> bool) -> bool {
        let mut stores = self.lock();
        let owner = stores.idle_order.values().find(|owner| matches(owner)).cloned();
        let dropped = owner.and_then(|owner| stores.oldest_of(&owner));
        drop(stores);
        let found = dropped.is_some();
        self.drop_stores(dropped.into_iter().collect());
        found
    }

    /// Bound on all stores.
    pub(super) fn max_live(&self) -> usize {
        self.max_live
    }

    /// Numbers of all stores and of idle ones.
    pub(super) fn count(&self) -> (usize, usize) {
        let stores = self.lock();
        (stores.live, stores.idle_order.len())
    }

    fn lock(&self) -> MutexGuard<'_, StorePoolState<T>> {
        // Nothing panics while holding it: stores are made, run and dropped outside.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops stores that the state no longer holds but that still count.
    fn drop_stores(&self, stores: Vec<T>) {
        let count = stores.len();
        if count > 0 {
            drop(stores);
            self.lock().live -= count;
        }
    }
}

impl<T> StorePoolState<T> {
    fn newest_of(&mut self, owner: &StoreOwner) -> Option<IdleStore<T>> {
        let idle = self.owners.get_mut(owner)?.idle.pop_back()?;
        self.idle_order.remove(&idle.since);
        Some(idle)
    }

    fn oldest_of(&mut self, owner: &StoreOwner) -> Option<T> {
        let idle = self.owners.get_mut(owner)?.idle.pop_front()?;
        self.idle_order.remove(&idle.since);
        self.drop_entry_if_unused(owner);
        Some(idle.store)
    }

    fn oldest(&mut self) -> Option<T> {
        let owner = self.idle_order.first_key_value()?.1.clone();
        self.oldest_of(&owner)
    }

    fn forget(&mut self, owner: &StoreOwner) -> Vec<T> {
        let Some(owned) = self.owners.get_mut(owner) else { return Vec::new() };
        owned.epoch += 1;
        let idle = std::mem::take(&mut owned.idle);
        for idle in &idle {
            self.idle_order.remove(&idle.since);
        }
        self.drop_entry_if_unused(owner);
        idle.into_iter().map(|idle| idle.store).collect()
    }

    fn end_loan(&mut self, owner: &StoreOwner) {
        if let Some(owned) = self.owners.get_mut(owner) {
            owned.lent -= 1;
        }
        self.drop_entry_if_unused(owner);
    }

    fn drop_entry_if_unused(&mut self, owner: &StoreOwner) {
        if self.owners.get(owner).is_some_and(|owned| owned.lent == 0 && owned.idle.is_empty()) {
            self.owners.remove(owner);
        }
    }
}

/// A store lent to one call, or the right to make one.
pub(super) struct Loan<T> {
    pool: Arc<StorePool<T>>,
    owner: StoreOwner,
    epoch: u64,
    calls_left: u32,
    store: Option<T>,
    kept: bool,
}

impl<T> Loan<T> {
    /// The store, made now if none was idle.
    pub(super) fn get_or_make(&mut self, make: impl FnOnce() -> T) -> &mut T {
        self.store.get_or_insert_with(make)
    }

    /// Whether the store has served calls before.
    pub(super) fn is_warm(&self) -> bool {
        self.store.is_some()
    }

    /// Drops the store and keeps the right to make one.
    pub(super) fn discard(&mut self) {
        self.store = None;
    }

    /// Returns the store for the owner's next call, unless it has to retire.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// Returns the store to the pool if the owner still accepts it. The result is the stores to
    /// drop.
    fn put_back(&mut self, store: T) -> Vec<T> {
        let mut stores = self.pool.lock();
        let clock = stores.clock;
        match stores.owners.get_mut(&self.owner) {
            Some(owned) if owned.epoch == self.epoch => {
                owned.lent -= 1;
                owned.idle.push_back(IdleStore { since: clock, calls_left: self.calls_left - 1, store });
            }
            _ => {
                stores.end_loan(&self.owner);
                return vec![store];
            }
        }
        stores.idle_order.insert(clock, self.owner.clone());
        stores.clock += 1;
        let mut excess = Vec::new();
        while stores.idle_order.len() > self.pool.max_idle {
            excess.extend(stores.oldest());
        }
        excess
    }
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        let dropped = match self.store.take() {
            Some(store) if self.kept && self.calls_left > 1 => self.put_back(store),
            store => {
                drop(store);
                let mut stores = self.pool.lock();
                stores.live -= 1;
                stores.end_loan(&self.owner);
                return;
            }
        };
        self.pool.drop_stores(dropped);
    }
}

/// A random number from a range. Nothing secret depends on it, so the standard library's random
/// keys for hash maps are good enough.
fn draw(range: RangeInclusive<u32>) -> u32 {
    let width = u64::from(range.end() - range.start()) + 1;
    range.start() + (RandomState::new().hash_one(()) % width) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(plugin: u64, tenant: &str) -> StoreOwner {
        StoreOwner { plugin, tenant: TenantId::parse(tenant).unwrap() }
    }

    /// One successful call. Returns the name of its store, which names the owner.
    fn call(warm: &Arc<StorePool<String>>, plugin: u64, tenant: &str, fresh: &mut u32) -> String {
        let mut loan = warm.lend(owner(plugin, tenant)).unwrap();
        let store = loan
            .get_or_make(|| {
                *fresh += 1;
                format!("{plugin}/{tenant}#{fresh}")
            })
            .clone();
        loan.keep();
        store
    }

    #[test]
    fn a_store_is_lent_to_its_owner_only() {
        let (warm, mut made) = (StorePool::new(10, 10), 0);
        let first = call(&warm, 1, "a", &mut made);
        assert_eq!(call(&warm, 1, "a", &mut made), first);
        assert_eq!(call(&warm, 1, "b", &mut made), "1/b#2");
        assert_eq!(call(&warm, 2, "a", &mut made), "2/a#3");
        assert_eq!(call(&warm, 1, "a", &mut made), first);
        assert_eq!(warm.count(), (3, 3));
    }

    #[test]
    fn two_calls_of_one_owner_have_two_stores() {
        let warm: Arc<StorePool<u32>> = StorePool::new(10, 10);
        let (mut one, mut two) = (warm.lend(owner(1, "a")).unwrap(), warm.lend(owner(1, "a")).unwrap());
        one.get_or_make(|| 1);
        two.get_or_make(|| 2);
        one.keep();
        two.keep();
        assert_eq!(warm.count(), (2, 2));
        // The store returned last is lent first.
        assert_eq!(*warm.lend(owner(1, "a")).unwrap().get_or_make(|| 3), 2);
        assert_eq!(warm.count(), (1, 1), "a loan that is not kept is dropped");
    }

    #[test]
    fn the_least_recently_used_idle_store_is_evicted() {
        let (warm, mut made) = (StorePool::new(10, 2), 0);
        for tenant in ["a", "b", "a", "c"] {
            call(&warm, 1, tenant, &mut made);
        }
        assert_eq!((made, warm.count()), (3, (2, 2)));
        call(&warm, 1, "a", &mut made);
        assert_eq!(made, 3, "a was used after b");
        call(&warm, 1, "b", &mut made);
        assert_eq!(made, 4);
    }

    #[test]
    fn calls_evict_idle_stores_and_never_lent_ones() {
        let (warm, mut made) = (StorePool::new(2, 2), 0);
        call(&warm, 1, "a", &mut made);
        call(&warm, 1, "b", &mut made);
        let (c, d) = (warm.lend(owner(1, "c")).unwrap(), warm.lend(owner(1, "d")).unwrap());
        assert_eq!(warm.count(), (2, 0));
        assert_eq!(warm.lend(owner(1, "a")).err(), Some(AllStoresLent));
        drop(c);
        assert_eq!(warm.count(), (1, 0));
        drop(warm.lend(owner(1, "a")).unwrap());
        drop(d);
        assert_eq!(warm.count(), (0, 0));
        assert!(warm.lock().owners.is_empty());
    }

    #[test]
    fn a_forgotten_store_is_not_lent_again() {
        let (warm, mut made) = (StorePool::new(10, 10), 0);
        call(&warm, 1, "a", &mut made);
        call(&warm, 1, "b", &mut made);
        let mut lent = warm.lend(owner(1, "a")).unwrap();
        lent.get_or_make(|| unreachable!("it is warm"));
        warm.forget(&owner(1, "a"));
        // A store that was lent after that is taken back; a store that was lent before is not.
        let mut later = warm.lend(owner(1, "a")).unwrap();
        later.get_or_make(|| "later".into());
        later.keep();
        lent.keep();
        assert_eq!(call(&warm, 1, "a", &mut made), "later");
        assert_eq!(warm.count(), (2, 2));
        call(&warm, 2, "a", &mut made);
        warm.forget_plugin(1);
        assert_eq!(warm.count(), (1, 1));
        assert_eq!(warm.lock().owners.len(), 1);
        assert!(
            !warm.evict(|owner| owner.plugin == 1) && warm.evict(|owner| owner.plugin == 2) && !warm.evict(|_| true)
        );
        assert_eq!(warm.count(), (0, 0));
    }

    #[test]
    fn every_store_retires_after_a_number_of_calls() {
        let (warm, mut made) = (StorePool::new(1, 1), 0);
        let mut ages = Vec::new();
        while ages.len() < 20 {
            let (before, mut calls) = (made, 0);
            while made <= before + 1 {
                call(&warm, 1, "a", &mut made);
                calls += 1;
            }
            ages.push(calls);
        }
        assert!(made > 20 && ages.iter().any(|age| *age != ages[0]), "{ages:?}");
        let (least, most) = (*RETIRES_AFTER.start(), *RETIRES_AFTER.end());
        assert!((0..1_000).map(|_| draw(RETIRES_AFTER)).all(|age| (least..=most).contains(&age)));
    }
}
