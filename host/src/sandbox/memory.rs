//! Bounds on the memories and tables of guests: one for each instance, one for all instances of a
//! plugin, and one for all instances of a tenant.
//!
//! Memory is reserved here before it grows and released when the store is dropped, so the counts
//! never lag behind what is held. At the bound of a plugin or a tenant, its idle instances are
//! evicted first. So only concurrent calls can hold the missing memory. A guest that is refused
//! because of them is retried later.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use wasmtime::ResourceLimiter;

use super::{limits::Limits, tenants::TenantAccount};

/// Linear memory of all instances of one plugin.
pub(super) struct PluginMemory {
    held: AtomicUsize,
    limit: usize,
    /// The most that one instance has held, bytes.
    largest: AtomicUsize,
    /// Memory of all plugins together.
    total: Arc<AtomicUsize>,
    /// Drops an idle instance of the plugin, if there is one.
    evict_idle: Box<dyn Fn() -> bool + Send + Sync>,
}

impl PluginMemory {
    pub(super) fn new(
        limit: usize,
        total: Arc<AtomicUsize>,
        evict_idle: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (held, largest) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(PluginMemory { held, limit, largest, total, evict_idle: Box::new(evict_idle) })
    }

    /// The most that one instance has held, bytes.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Relaxed)
    }

    fn reserve(&self, bytes: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.limit);
        while self.held.fetch_update(Relaxed, Relaxed, within).is_err() {
            if !(self.evict_idle)() {
                return false;
            }
        }
        self.total.fetch_add(bytes, Relaxed);
        true
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
        self.total.fetch_sub(bytes, Relaxed);
    }
}

/// A growth that was refused to a guest, which nearly always traps next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeniedGrowth {
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

/// The memory of the store's tenant, and a way to drop one of its idle instances.
pub(super) struct TenantMemory {
    pub(super) account: Arc<TenantAccount>,
    pub(super) evict_idle: Box<dyn Fn() -> bool + Send + Sync>,
}

impl TenantMemory {
    fn reserve(&self, bytes: usize) -> bool {
        while !self.account.reserve(bytes) {
            if !(self.evict_idle)() {
                return false;
            }
        }
        true
    }
}

/// The limiter of one store's memories and tables.
pub(super) struct StoreLimiter {
    plugin: Arc<PluginMemory>,
    tenant: Option<TenantMemory>,
    memory_bytes: usize,
    table_elements: usize,
    held: usize,
    /// Documents read for the guest, counted for its tenant, bytes.
    read: usize,
    denied: Option<DeniedGrowth>,
}

impl StoreLimiter {
    /// A limiter of an empty store. `tenant` is none for `describe`.
    pub(super) fn new(plugin: Arc<PluginMemory>, tenant: Option<TenantMemory>, limits: &Limits) -> Self {
        let (memory_bytes, table_elements) = (limits.memory_bytes(), limits.table_elements);
        StoreLimiter { plugin, tenant, memory_bytes, table_elements, held: 0, read: 0, denied: None }
    }

    /// Bound on all memories of the guest together, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The last growth refused since the previous call.
    pub(super) fn take_denied(&mut self) -> Option<DeniedGrowth> {
        self.denied.take()
    }

    /// Counts documents read for the guest in its tenant's memory, in place of those read before.
    /// The host holds them until they are copied into the guest, which takes as long as the guest
    /// likes. Fails while other calls of the tenant hold the rest of its memory. The part that
    /// would not fit beside this guest's own memory even alone is not counted.
    pub(super) fn hold_read(&mut self, bytes: usize) -> Result<(), DeniedGrowth> {
        self.drop_read();
        let Some(tenant) = &self.tenant else { return Ok(()) };
        let counted = bytes.min(tenant.account.memory_limit().saturating_sub(self.held));
        if !tenant.reserve(counted) {
            return Err(DeniedGrowth::TenantMemory(self.held.saturating_add(bytes)));
        }
        self.read = counted;
        Ok(())
    }

    /// Releases the documents read for the guest.
    pub(super) fn drop_read(&mut self) {
        let read = std::mem::take(&mut self.read);
        self.release_tenant(read);
    }

    fn grow(&mut self, by: usize) -> Result<(), DeniedGrowth> {
        let asked = self.held.saturating_add(by);
        if asked > self.memory_bytes {
            return Err(DeniedGrowth::Memory(asked));
        }
        if self.tenant.as_ref().is_some_and(|tenant| asked > tenant.account.memory_limit()) {
            return Err(DeniedGrowth::TenantMemoryAlone(asked));
        }
        if !self.reserve_tenant(by) {
            return Err(DeniedGrowth::TenantMemory(asked));
        }
        if !self.plugin.reserve(by) {
            self.release_tenant(by);
            return Err(DeniedGrowth::PluginMemory(asked));
        }
        self.held = asked;
        self.plugin.largest.fetch_max(asked, Relaxed);
        Ok(())
    }

    /// Reserves memory of the tenant. If necessary, the documents read for the guest are no longer
    /// counted: the guest usually grows to hold them.
    fn reserve_tenant(&mut self, bytes: usize) -> bool {
        let Some(tenant) = &self.tenant else { return true };
        if tenant.reserve(bytes) {
            return true;
        }
        let read = std::mem::take(&mut self.read);
        tenant.account.release(read);
        read > 0 && tenant.reserve(bytes)
    }

    fn release_tenant(&self, bytes: usize) {
        if let Some(tenant) = &self.tenant {
            tenant.account.release(bytes);
        }
    }
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Beyond the memory's own declaration: the growth fails anyway, and does not count as a
            // refusal by the host.
            return Ok(false);
        }
        let grown = self.grow(desired.saturating_sub(current));
        self.denied = grown.err().or(self.denied);
        Ok(grown.is_ok())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.table_elements;
        if !allowed {
            self.denied = Some(DeniedGrowth::Table(desired));
        }
        Ok(allowed)
    }
}

impl Drop for StoreLimiter {
    fn drop(&mut self) {
        self.plugin.release(self.held);
        self.release_tenant(self.held + self.read);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{
        super::{limits::TenantLimits, tenants::TenantAccounts},
        *,
    };
    use crate::model::ids::TenantId;

    const MIB: usize = 1 << 20;

    #[test]
    fn growth_is_bounded_by_instance_and_by_plugin() {
        let total = Arc::new(AtomicUsize::new(0));
        let idle: Arc<Mutex<Vec<StoreLimiter>>> = Arc::default();
        let room = idle.clone();
        let account = PluginMemory::new(4 * MIB, total.clone(), move || {
            let dropped = room.lock().unwrap().pop();
            dropped.is_some()
        });
        let limits = Limits { memory_mib: 3, ..Limits::default() };
        let mut one = StoreLimiter::new(account.clone(), None, &limits);
        assert!(one.memory_growing(0, 3 * MIB, None).unwrap());
        assert!(!one.memory_growing(3 * MIB, 4 * MIB, None).unwrap());
        assert_eq!((one.take_denied(), one.take_denied()), (Some(DeniedGrowth::Memory(4 * MIB)), None));
        // A second memory counts on top of the first.
        assert!(!one.memory_growing(0, MIB, None).unwrap());

        let mut two = StoreLimiter::new(account, None, &limits);
        assert!(two.memory_growing(0, MIB, None).unwrap());
        assert!(!two.memory_growing(MIB, 2 * MIB, None).unwrap());
        assert_eq!(two.take_denied(), Some(DeniedGrowth::PluginMemory(2 * MIB)));
        idle.lock().unwrap().push(one);
        assert!(two.memory_growing(MIB, 2 * MIB, None).unwrap(), "an idle instance is evicted");
        assert_eq!(total.load(Relaxed), 2 * MIB);
        assert_eq!(two.plugin.largest(), 3 * MIB, "the evicted instance was larger");

        assert!(!two.memory_growing(2 * MIB, 3 * MIB, Some(2 * MIB)).unwrap());
        assert_eq!(two.take_denied(), None, "the memory's own maximum is no limit of ours");
        assert!(!two.table_growing(0, limits.table_elements + 1, None).unwrap());
        assert_eq!(two.take_denied(), Some(DeniedGrowth::Table(limits.table_elements + 1)));
        drop((two, idle));
        assert_eq!(total.load(Relaxed), 0);
    }

    #[test]
    fn documents_read_for_a_guest_count_for_its_tenant_until_the_guest_holds_them() {
        let total = Arc::new(AtomicUsize::new(0));
        let account = PluginMemory::new(64 * MIB, total, || false);
        let limits = TenantLimits { memory_bytes: 8 * MIB, ..TenantLimits::default() };
        let tenants = TenantAccounts::new(Arc::new(move |_| limits));
        let tenant = tenants.of(&TenantId::parse("acme").unwrap());
        let guest = || {
            let memory = TenantMemory { account: tenant.clone(), evict_idle: Box::new(|| false) };
            StoreLimiter::new(account.clone(), Some(memory), &Limits::default())
        };
        let (mut one, mut two) = (guest(), guest());
        assert_eq!(one.hold_read(5 * MIB), Ok(()));
        assert_eq!(two.hold_read(4 * MIB), Err(DeniedGrowth::TenantMemory(4 * MIB)));
        assert_eq!(two.hold_read(3 * MIB), Ok(()));
        assert!(two.memory_growing(0, 3 * MIB, None).unwrap(), "in place of the documents held for it");
        assert!(!two.memory_growing(3 * MIB, 4 * MIB, None).unwrap());
        one.drop_read();
        assert!(two.memory_growing(3 * MIB, 4 * MIB, None).unwrap());
        assert_eq!(one.hold_read(64 * MIB), Err(DeniedGrowth::TenantMemory(64 * MIB)), "beside another guest");
        drop(two);
        assert_eq!(one.hold_read(64 * MIB), Ok(()), "alone");
        drop(one);
        assert!(tenant.reserve(8 * MIB), "all memory is released");
    }
}
