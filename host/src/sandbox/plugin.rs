//! A loaded plugin: its code, its descriptor, and the handling of batches.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    Sandbox, answer,
    bindings::{Answer, PluginPre},
    failure,
    guest::{Call, Guest, GuestIdentity, GuestState},
    log::CallLog,
    memory::{PluginMemory, TenantMemory},
    tenants::TenantAccount,
    warm::{AllStoresLent, StoreOwner},
};
use crate::model::{
    effects::Effects,
    event::Batch,
    handler::{BoxFuture, CallFailure, CallPermit, Documents, Failure, Handler, LogRoom},
    ids::TenantId,
    spec::Descriptor,
};

/// A plugin that can handle batches.
pub struct Plugin {
    sandbox: Sandbox,
    pre: PluginPre<GuestState>,
    identity: Arc<GuestIdentity>,
    memory: Arc<PluginMemory>,
    /// Identifies its warm stores.
    number: u64,
    descriptor: Descriptor,
    digest: String,
}

impl Plugin {
    pub(super) fn new(
        sandbox: Sandbox,
        pre: PluginPre<GuestState>,
        identity: Arc<GuestIdentity>,
        descriptor: Descriptor,
        digest: String,
    ) -> Self {
        let number = sandbox.loaded.fetch_add(1, Relaxed);
        let warm = Arc::downgrade(&sandbox.warm);
        let evict_idle = move || warm.upgrade().is_some_and(|warm| warm.evict(|owner| owner.plugin == number));
        let memory = PluginMemory::new(sandbox.limits.plugin_memory_bytes(), sandbox.memory.clone(), evict_idle);
        Plugin { sandbox, pre, identity, memory, number, descriptor, digest }
    }

    /// Its descriptor, checked.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// SHA-256 of its file, lower-case hexadecimal: the plugin's version.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Linear memory of its largest instance so far, bytes.
    pub fn largest_instance_bytes(&self) -> usize {
        self.memory.largest()
    }

    fn owner(&self, tenant: &TenantId) -> StoreOwner {
        StoreOwner { plugin: self.number, tenant: tenant.clone() }
    }

    async fn project(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> Result<Effects, CallFailure> {
        let watch = self.sandbox.refusals.watch(batch.lane.tenant.clone());
        let result = self.lend_and_call(&batch, documents).await;
        watch.end(&result);
        result
    }

    /// Runs one call in a store of the batch's tenant, and keeps the store if the call succeeds. A
    /// single event that fails in a warm store gets a second call in a fresh one. A guest that
    /// leaks memory over calls, or has corrupted its state, must not block the lane at that event.
    /// A larger batch needs no second call, since it is halved and retried anyway.
    async fn lend_and_call(&self, batch: &Batch, documents: Arc<dyn Documents>) -> Result<Effects, CallFailure> {
        let (warm, tenant) = (&self.sandbox.warm, self.sandbox.tenants.of(&batch.lane.tenant));
        let mut loan = warm.lend(self.owner(&batch.lane.tenant)).map_err(|AllStoresLent| failure::no_instance())?;
        let effects = loop {
            let is_last_chance = !loan.is_warm() || batch.events.len() > 1;
            let guest = loan.get_or_make(|| self.guest(tenant.clone()));
            let answer = self.call(guest, batch, tenant.clone(), documents.clone()).await.and_then(|answer| {
                let checked = answer::check(answer, batch.events.len(), &self.descriptor, &self.sandbox.limits);
                match checked {
                    Ok(effects) if effects.skipped.is_empty() && effects.halted.is_none() => Ok(effects),
                    Ok(effects) => Ok(Effects { diagnostics: guest.log_tail(), ..effects }),
                    Err(reason) => Err(CallFailure { failure: Failure::Block(reason), diagnostics: guest.log_tail() }),
                }
            });
            match answer.as_ref().map_err(|failed| &failed.failure) {
                // The pool had room for a store but not for all of its parts; some components
                // have many.
                Err(Failure::Retry(reason)) if reason.class == failure::NO_INSTANCE && warm.evict(|_| true) => {
                    loan.discard()
                }
                Err(Failure::Block(_)) if !is_last_chance => loan.discard(),
                _ => break answer,
            }
        }?;
        // A guest that halted has stopped within a batch, so its memory may reflect events that it
        // will see again.
        if effects.halted.is_none() {
            loan.keep();
        }
        Ok(effects)
    }

    /// A store for a tenant. Idle stores of the tenant are evicted when it reaches its bound on
    /// memory.
    fn guest(&self, tenant: Arc<TenantAccount>) -> Guest {
        let (warm, id) = (Arc::downgrade(&self.sandbox.warm), tenant.id().clone());
        let evict_idle = Box::new(move || warm.upgrade().is_some_and(|warm| warm.evict(|owner| owner.tenant == id)));
        Guest::new(
            &self.sandbox,
            self.identity.clone(),
            self.memory.clone(),
            Some(TenantMemory { account: tenant, evict_idle }),
        )
    }

    async fn call(
        &self,
        guest: &mut Guest,
        batch: &Batch,
        tenant: Arc<TenantAccount>,
        documents: Arc<dyn Documents>,
    ) -> Result<Answer, CallFailure> {
        let limits = &self.sandbox.limits;
        let (call, log) = (Call::of(documents, limits), CallLog::new(Some(tenant), batch.replaying, limits));
        let body = async |guest: &mut Guest| {
            if guest.exports.is_none() {
                guest.exports = Some(self.pre.instantiate(&mut guest.store).await?);
            }
            let Some(exports) = &guest.exports else { return Err(wasmtime::Error::msg("no instance")) };
            exports.handle(&mut guest.store, batch).await
        };
        guest.run(call, log, body).await
    }
}

impl Handler for Plugin {
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, CallFailure>> {
        Box::pin(self.project(batch, documents))
    }

    fn wall_time(&self) -> Duration {
        self.sandbox.limits.wall()
    }

    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
        let (sandbox, pre, identity) = (self.sandbox.clone(), self.pre.clone(), self.identity.clone());
        Arc::new(Plugin::new(sandbox, pre, identity, self.descriptor.clone(), self.digest.clone()))
    }

    fn permit<'a>(&'a self, tenant: &TenantId) -> BoxFuture<'a, CallPermit> {
        let (tenant, instances) = (self.sandbox.tenants.of(tenant), self.sandbox.calls.clone());
        Box::pin(async move { CallPermit::new(tenant.permit(instances).await) })
    }

    fn log_room(&self, tenant: &TenantId, bytes: usize) -> LogRoom {
        self.sandbox.tenants.of(tenant).log_room(bytes)
    }

    fn forget(&self, tenant: &TenantId) {
        self.sandbox.warm.forget(&self.owner(tenant));
    }

    fn forget_all(&self) {
        self.sandbox.warm.forget_plugin(self.number);
    }
}

/// Drops its idle stores, which no call can use any more.
impl Drop for Plugin {
    fn drop(&mut self) {
        self.forget_all();
    }
}
