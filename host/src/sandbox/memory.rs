//! What a guest's memories and tables may grow to: its own bound, one for all instances of its plugin together, and one for all of its tenant.
//!
//! Growth is asked for here before it happens and given back when the store is dropped, so the counts never lag behind what is held.
//! Where a plugin's or a tenant's bound is reached its idle instances give way first; only what calls hold at the same time is ever in the way, and that passes,
//! so the guest that is refused for it is tried again later.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use wasmtime::ResourceLimiter;

use super::{limits::Limits, tenants::Tenant};

/// Linear memory that all instances of one plugin hold.
pub(super) struct Account {
    held: AtomicUsize,
    limit: usize,
    /// What the largest of them held so far.
    largest: AtomicUsize,
    /// What all plugins hold.
    everything: Arc<AtomicUsize>,
    /// Drops an idle instance of the plugin, if there is one.
    make_room: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Account {
    pub(super) fn new(
        limit: usize,
        everything: Arc<AtomicUsize>,
        make_room: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (held, largest) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Account { held, limit, largest, everything, make_room: Box::new(make_room) })
    }

    /// What the largest instance held so far, bytes.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.limit);
        while self.held.fetch_update(Relaxed, Relaxed, within).is_err() {
            if !(self.make_room)() {
                return false;
            }
        }
        self.everything.fetch_add(bytes, Relaxed);
        true
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
        self.everything.fetch_sub(bytes, Relaxed);
    }
}

/// What a guest asked for in vain: nearly always what it traps about next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// More memory than one instance may have, bytes.
    Memory(usize),
    /// Memory that other instances of its plugin hold, bytes.
    PluginMemory(usize),
    /// Memory that other instances of its tenant hold, bytes.
    TenantMemory(usize),
    /// More memory than all instances of its tenant may have, bytes.
    TenantMemoryAlone(usize),
    /// A longer table than allowed, elements.
    Table(usize),
}

/// Whose memory it is besides, and what drops an idle instance of theirs.
pub(super) struct Owed {
    pub(super) tenant: Arc<Tenant>,
    pub(super) make_room: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Owed {
    fn take(&self, bytes: usize) -> bool {
        while !self.tenant.take(bytes) {
            if !(self.make_room)() {
                return false;
            }
        }
        true
    }
}

/// One store's memories and tables.
pub(super) struct Growth {
    account: Arc<Account>,
    tenant: Option<Owed>,
    memory_bytes: usize,
    table_elements: usize,
    held: usize,
    /// Bytes of what was read for the guest, on its tenant's account.
    read: usize,
    denied: Option<Denied>,
}

impl Growth {
    /// Nothing yet; in `describe` there is no tenant.
    pub(super) fn new(account: Arc<Account>, tenant: Option<Owed>, limits: &Limits) -> Self {
        let (memory_bytes, table_elements) = (limits.memory_bytes(), limits.table_elements);
        Growth { account, tenant, memory_bytes, table_elements, held: 0, read: 0, denied: None }
    }

    /// What the guest's memories may have together.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// What was asked for in vain since this was asked last.
    pub(super) fn take_denied(&mut self) -> Option<Denied> {
        self.denied.take()
    }

    /// Puts what was read for the guest on its tenant's account, instead of what was read before.
    /// The host holds it while it is copied into the guest, which may take as long as the guest
    /// likes. Fails while other calls of the tenant hold what all may have; what would not fit
    /// beside this guest's own memory alone is let pass.
    pub(super) fn hold_read(&mut self, bytes: usize) -> Result<(), Denied> {
        self.drop_read();
        let Some(owed) = &self.tenant else { return Ok(()) };
        let counted = bytes.min(owed.tenant.memory_limit().saturating_sub(self.held));
        if !owed.take(counted) {
            return Err(Denied::TenantMemory(self.held.saturating_add(bytes)));
        }
        self.read = counted;
        Ok(())
    }

    /// The host holds nothing any more that was read for the guest.
    pub(super) fn drop_read(&mut self) {
        let read = std::mem::take(&mut self.read);
        self.give_back(read);
    }

    fn grow(&mut self, by: usize) -> Result<(), Denied> {
        let asked = self.held.saturating_add(by);
        if asked > self.memory_bytes {
            return Err(Denied::Memory(asked));
        }
        if self.tenant.as_ref().is_some_and(|owed| asked > owed.tenant.memory_limit()) {
            return Err(Denied::TenantMemoryAlone(asked));
        }
        if !self.take_of_tenant(by) {
            return Err(Denied::TenantMemory(asked));
        }
        if !self.account.take(by) {
            self.give_back(by);
            return Err(Denied::PluginMemory(asked));
        }
        self.held = asked;
        self.account.largest.fetch_max(asked, Relaxed);
        Ok(())
    }

    /// What it holds itself goes before what is held for it: mostly it grows for that.
    fn take_of_tenant(&mut self, bytes: usize) -> bool {
        let Some(owed) = &self.tenant else { return true };
        if owed.take(bytes) {
            return true;
        }
        let read = std::mem::take(&mut self.read);
        owed.tenant.give_back(read);
        read > 0 && owed.take(bytes)
    }

    /// What the tenant has of it.
    fn give_back(&self, bytes: usize) {
        if let Some(owed) = &self.tenant {
            owed.tenant.give_back(bytes);
        }
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // More than the memory's own declaration allows: it fails whatever is said here, and must not count.
            return Ok(false);
        }
        let grown = self.grow(desired.saturating_sub(current));
        self.denied = grown.err().or(self.denied);
        Ok(grown.is_ok())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.table_elements;
        if !allowed {
            self.denied = Some(Denied::Table(desired));
        }
        Ok(allowed)
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.account.give_back(self.held);
        self.give_back(self.held + self.read);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{
        super::{limits::OfTenant, tenants::Tenants},
        *,
    };
    use crate::model::ids::TenantId;

    const MIB: usize = 1 << 20;

    #[test]
    fn an_instance_and_a_plugin_each_have_a_bound() {
        let everything = Arc::new(AtomicUsize::new(0));
        let idle: Arc<Mutex<Vec<Growth>>> = Arc::default();
        let room = idle.clone();
        let account = Account::new(4 * MIB, everything.clone(), move || {
            let dropped = room.lock().unwrap().pop();
            dropped.is_some()
        });
        let limits = Limits { memory_mib: 3, ..Limits::default() };
        let mut one = Growth::new(account.clone(), None, &limits);
        assert!(one.memory_growing(0, 3 * MIB, None).unwrap());
        assert!(!one.memory_growing(3 * MIB, 4 * MIB, None).unwrap());
        assert_eq!((one.take_denied(), one.take_denied()), (Some(Denied::Memory(4 * MIB)), None));
        // A second memory counts on top of the first.
        assert!(!one.memory_growing(0, MIB, None).unwrap());

        let mut two = Growth::new(account, None, &limits);
        assert!(two.memory_growing(0, MIB, None).unwrap());
        assert!(!two.memory_growing(MIB, 2 * MIB, None).unwrap());
        assert_eq!(two.take_denied(), Some(Denied::PluginMemory(2 * MIB)));
        idle.lock().unwrap().push(one);
        assert!(two.memory_growing(MIB, 2 * MIB, None).unwrap(), "an idle one gives way");
        assert_eq!(everything.load(Relaxed), 2 * MIB);
        assert_eq!(two.account.largest(), 3 * MIB, "the one that is gone was larger");

        assert!(!two.memory_growing(2 * MIB, 3 * MIB, Some(2 * MIB)).unwrap());
        assert_eq!(two.take_denied(), None, "the memory's own maximum is no limit of ours");
        assert!(!two.table_growing(0, limits.table_elements + 1, None).unwrap());
        assert_eq!(two.take_denied(), Some(Denied::Table(limits.table_elements + 1)));
        drop((two, idle));
        assert_eq!(everything.load(Relaxed), 0);
    }

    #[test]
    fn what_is_read_for_a_guest_is_on_its_tenants_account_until_the_guest_holds_it() {
        let everything = Arc::new(AtomicUsize::new(0));
        let account = Account::new(64 * MIB, everything, || false);
        let limits = OfTenant { memory_bytes: 8 * MIB, ..OfTenant::default() };
        let tenants = Tenants::new(Arc::new(move |_| limits));
        let tenant = tenants.of(&TenantId::parse("acme").unwrap());
        let guest = || {
            let owed = Owed { tenant: tenant.clone(), make_room: Box::new(|| false) };
            Growth::new(account.clone(), Some(owed), &Limits::default())
        };
        let (mut one, mut two) = (guest(), guest());
        assert_eq!(one.hold_read(5 * MIB), Ok(()));
        assert_eq!(two.hold_read(4 * MIB), Err(Denied::TenantMemory(4 * MIB)));
        assert_eq!(two.hold_read(3 * MIB), Ok(()));
        assert!(two.memory_growing(0, 3 * MIB, None).unwrap(), "instead of what is held for it");
        assert!(!two.memory_growing(3 * MIB, 4 * MIB, None).unwrap());
        one.drop_read();
        assert!(two.memory_growing(3 * MIB, 4 * MIB, None).unwrap());
        assert_eq!(one.hold_read(64 * MIB), Err(Denied::TenantMemory(64 * MIB)), "beside another one");
        drop(two);
        assert_eq!(one.hold_read(64 * MIB), Ok(()), "alone");
        drop(one);
        assert!(tenant.take(8 * MIB), "all is given back");
    }
}
