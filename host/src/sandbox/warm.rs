//! Live stores: how many there may be, which are kept for their tenant's next call, and which give way.
//!
//! A call borrows an idle store of its own plugin and tenant, or the right to make one; a store of another plugin or another tenant is never lent,
//! so what a guest keeps in memory cannot cross over. A [`Loan`] that is dropped takes its store along, wherever the call was;
//! only one that is [kept](Loan::keep) is lent again. Lent and idle stores together are bounded, and so are the idle ones: the least recently used
//! give way, and under the bound on all of them any idle one gives way to a call. A store retires after a number of calls drawn when it was made,
//! so nobody comes to rely on a warm one. Stores are dropped outside the lock, as that takes a while, and count until they are gone.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::ids::TenantId;

/// Calls after which a store retires; drawn for each, so that stores made together do not all end together.
const RETIRES_AFTER: RangeInclusive<u32> = 50..=200;

/// Whose store it is: one loaded plugin's, for one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    /// The number that the plugin got when it was loaded. Loading the same file again gives another.
    pub(super) plugin: u64,
    pub(super) tenant: TenantId,
}

/// Every store is lent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AllLent;

/// The stores of one sandbox.
pub(super) struct Warm<T> {
    stores: Mutex<Stores<T>>,
    most_live: usize,
    most_idle: usize,
}

struct Stores<T> {
    owners: HashMap<Owner, Owned<T>>,
    /// The idle ones by when they were put back.
    order: BTreeMap<u64, Owner>,
    /// Counts what is put back.
    clock: u64,
    live: usize,
}

/// One owner's stores. There is an entry as long as one is lent or idle.
struct Owned<T> {
    lent: usize,
    /// Raised to tell the lent ones that they must not come back.
    forgotten: u64,
    /// The one put back last is lent first: its memory is likeliest to be in the caches.
    idle: VecDeque<Idle<T>>,
}

impl<T> Default for Owned<T> {
    fn default() -> Self {
        Owned { lent: 0, forgotten: 0, idle: VecDeque::new() }
    }
}

struct Idle<T> {
    since: u64,
    calls_left: u32,
    store: T,
}

impl<T> Warm<T> {
    /// No stores yet, and bounds on them.
    pub(super) fn new(most_live: u32, most_idle: u32) -> Arc<Self> {
        let stores = Stores { owners: HashMap::new(), order: BTreeMap::new(), clock: 0, live: 0 };
        Arc::new(Warm { stores: Mutex::new(stores), most_live: most_live as usize, most_idle: most_idle as usize })
    }

    /// An idle store of this owner, or the right to make one.
    pub(super) fn lend(self: &Arc<Self>, owner: Owner) -> Result<Loan<T>, AllLent> {
        let mut stores = self.lock();
        let (mut store, mut calls_left, mut gave_way) = (None, 0, None);
        if let Some(idle) = stores.newest_of(&owner) {
            (store, calls_left) = (Some(idle.store), idle.calls_left);
        } else if stores.live < self.most_live {
            stores.live += 1;
        } else {
            // Its place passes to this call, so the count stays.
            gave_way = Some(stores.oldest().ok_or(AllLent)?);
        }
        let owned = stores.owners.entry(owner.clone()).or_default();
        owned.lent += 1;
        let forgotten = owned.forgotten;
        drop(stores);
        drop(gave_way);
        if store.is_none() {
            calls_left = draw(RETIRES_AFTER);
        }
        Ok(Loan { pool: self.clone(), owner, forgotten, calls_left, store, kept: false })
    }

    /// Drops what is idle of one owner, and whatever of theirs is lent when it comes back.
    pub(super) fn forget(&self, owner: &Owner) {
        let mut stores = self.lock();
        let dropped = stores.forget(owner);
        drop(stores);
        self.bury(dropped);
    }

    /// The same for all owners of one plugin.
    pub(super) fn forget_plugin(&self, plugin: u64) {
        let mut stores = self.lock();
        let owners: Vec<Owner> = stores.owners.keys().filter(|owner| owner.plugin == plugin).cloned().collect();
        let dropped = owners.iter().flat_map(|owner| stores.forget(owner)).collect();
        drop(stores);
        self.bury(dropped);
    }

    /// Drops the idle store that was used least recently of those whose owner is meant. Says whether there was one.
    pub(super) fn shed(&self, is_meant: impl Fn(&Owner) -> bool) -> bool {
        let mut stores = self.lock();
        let owner = stores.order.values().find(|owner| is_meant(owner)).cloned();
        let dropped = owner.and_then(|owner| stores.oldest_of(&owner));
        drop(stores);
        let found = dropped.is_some();
        self.bury(dropped.into_iter().collect());
        found
    }

    /// How many stores there may be.
    pub(super) fn most_live(&self) -> usize {
        self.most_live
    }

    /// How many stores there are, and how many of them are idle.
    pub(super) fn count(&self) -> (usize, usize) {
        let stores = self.lock();
        (stores.live, stores.order.len())
    }

    fn lock(&self) -> MutexGuard<'_, Stores<T>> {
        // Nothing panics while holding it: stores are made, run and dropped outside.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops stores that are out of the books already but still count.
    fn bury(&self, stores: Vec<T>) {
        let count = stores.len();
        if count > 0 {
            drop(stores);
            self.lock().live -= count;
        }
    }
}

impl<T> Stores<T> {
    fn newest_of(&mut self, owner: &Owner) -> Option<Idle<T>> {
        let idle = self.owners.get_mut(owner)?.idle.pop_back()?;
        self.order.remove(&idle.since);
        Some(idle)
    }

    fn oldest_of(&mut self, owner: &Owner) -> Option<T> {
        let idle = self.owners.get_mut(owner)?.idle.pop_front()?;
        self.order.remove(&idle.since);
        self.tidy(owner);
        Some(idle.store)
    }

    fn oldest(&mut self) -> Option<T> {
        let owner = self.order.first_key_value()?.1.clone();
        self.oldest_of(&owner)
    }

    fn forget(&mut self, owner: &Owner) -> Vec<T> {
        let Some(owned) = self.owners.get_mut(owner) else { return Vec::new() };
        owned.forgotten += 1;
        let idle = std::mem::take(&mut owned.idle);
        for idle in &idle {
            self.order.remove(&idle.since);
        }
        self.tidy(owner);
        idle.into_iter().map(|idle| idle.store).collect()
    }

    fn returned(&mut self, owner: &Owner) {
        if let Some(owned) = self.owners.get_mut(owner) {
            owned.lent -= 1;
        }
        self.tidy(owner);
    }

    fn tidy(&mut self, owner: &Owner) {
        if self.owners.get(owner).is_some_and(|owned| owned.lent == 0 && owned.idle.is_empty()) {
            self.owners.remove(owner);
        }
    }
}

/// A store that one call has to itself, or will when it has made it.
pub(super) struct Loan<T> {
    pool: Arc<Warm<T>>,
    owner: Owner,
    forgotten: u64,
    calls_left: u32,
    store: Option<T>,
    kept: bool,
}

impl<T> Loan<T> {
    /// The store, made now if there was no idle one.
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

    /// Puts the store back for the owner's next call, unless its time has come.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// The store that is to be kept, if it may be, in the pool's books; otherwise what must be dropped.
    fn put_back(&mut self, store: T) -> Vec<T> {
        let mut stores = self.pool.lock();
        let clock = stores.clock;
        match stores.owners.get_mut(&self.owner) {
            Some(owned) if owned.forgotten == self.forgotten => {
                owned.lent -= 1;
                owned.idle.push_back(Idle { since: clock, calls_left: self.calls_left - 1, store });
            }
            _ => {
                stores.returned(&self.owner);
                return vec![store];
            }
        }
        stores.order.insert(clock, self.owner.clone());
        stores.clock += 1;
        let mut too_many = Vec::new();
        while stores.order.len() > self.pool.most_idle {
            too_many.extend(stores.oldest());
        }
        too_many
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
                stores.returned(&self.owner);
                return;
            }
        };
        self.pool.bury(dropped);
    }
}

/// A number from a range. Nothing secret hangs on it, so the keys that the standard library draws for its hash maps will do.
fn draw(range: RangeInclusive<u32>) -> u32 {
    let width = u64::from(range.end() - range.start()) + 1;
    range.start() + (RandomState::new().hash_one(()) % width) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(plugin: u64, tenant: &str) -> Owner {
        Owner { plugin, tenant: TenantId::parse(tenant).unwrap() }
    }

    /// One call that goes well, of an owner whose stores are named after them; says which store it had.
    fn call(warm: &Arc<Warm<String>>, plugin: u64, tenant: &str, fresh: &mut u32) -> String {
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
        let (warm, mut made) = (Warm::new(10, 10), 0);
        let first = call(&warm, 1, "a", &mut made);
        assert_eq!(call(&warm, 1, "a", &mut made), first);
        assert_eq!(call(&warm, 1, "b", &mut made), "1/b#2");
        assert_eq!(call(&warm, 2, "a", &mut made), "2/a#3");
        assert_eq!(call(&warm, 1, "a", &mut made), first);
        assert_eq!(warm.count(), (3, 3));
    }

    #[test]
    fn two_calls_of_one_owner_have_two_stores() {
        let warm: Arc<Warm<u32>> = Warm::new(10, 10);
        let (mut one, mut two) = (warm.lend(owner(1, "a")).unwrap(), warm.lend(owner(1, "a")).unwrap());
        one.get_or_make(|| 1);
        two.get_or_make(|| 2);
        one.keep();
        two.keep();
        assert_eq!(warm.count(), (2, 2));
        // The one put back last is lent first.
        assert_eq!(*warm.lend(owner(1, "a")).unwrap().get_or_make(|| 3), 2);
        assert_eq!(warm.count(), (1, 1), "a loan that is not kept is dropped");
    }

    #[test]
    fn the_least_recently_used_give_way() {
        let (warm, mut made) = (Warm::new(10, 2), 0);
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
    fn idle_stores_give_way_to_calls_and_lent_ones_do_not() {
        let (warm, mut made) = (Warm::new(2, 2), 0);
        call(&warm, 1, "a", &mut made);
        call(&warm, 1, "b", &mut made);
        let (c, d) = (warm.lend(owner(1, "c")).unwrap(), warm.lend(owner(1, "d")).unwrap());
        assert_eq!(warm.count(), (2, 0));
        assert_eq!(warm.lend(owner(1, "a")).err(), Some(AllLent));
        drop(c);
        assert_eq!(warm.count(), (1, 0));
        drop(warm.lend(owner(1, "a")).unwrap());
        drop(d);
        assert_eq!(warm.count(), (0, 0));
        assert!(warm.lock().owners.is_empty());
    }

    #[test]
    fn what_is_forgotten_does_not_come_back() {
        let (warm, mut made) = (Warm::new(10, 10), 0);
        call(&warm, 1, "a", &mut made);
        call(&warm, 1, "b", &mut made);
        let mut lent = warm.lend(owner(1, "a")).unwrap();
        lent.get_or_make(|| unreachable!("it is warm"));
        warm.forget(&owner(1, "a"));
        // A loan begun after that may come back, one begun before may not.
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
        assert!(!warm.shed(|owner| owner.plugin == 1) && warm.shed(|owner| owner.plugin == 2) && !warm.shed(|_| true));
        assert_eq!(warm.count(), (0, 0));
    }

    #[test]
    fn every_store_retires() {
        let (warm, mut made) = (Warm::new(1, 1), 0);
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
