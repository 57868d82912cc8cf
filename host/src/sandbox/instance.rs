//! One store with one instance in it, and the calls it runs.
//!
//! A store belongs to one plugin and one tenant for as long as it lives. What belongs to a call (its documents, its log, its CPU time) is set when
//! the call begins and taken away when it ends, so an idle store can reach nothing. A call that is dropped on its way leaves its store
//! in the middle of something; whoever owns it must drop it too.

use std::{future::Future, sync::Arc};

use wasmtime::{Store, UpdateDeadline};

use super::{
    Sandbox,
    bindings::v0_1::ProjectorPlugin,
    failure,
    limits::Limits,
    log::Log,
    memory::{Account, Growth, Owed},
    meter::{GiveWay, Meter},
    plugin::Identity,
    tenants::Tenant,
    usage::Refusals,
    wasi::Ambient,
};
use crate::model::{
    handler::{Documents, Failure},
    settings::Values,
};

/// What the host keeps beside a guest.
pub(in crate::sandbox) struct State {
    pub(super) identity: Arc<Identity>,
    /// The settings for the tenant of this instance.
    pub(super) settings: Values,
    pub(super) call: Call,
    pub(super) growth: Growth,
    pub(super) ambient: Ambient,
    refusals: Arc<Refusals>,
}

/// What belongs to one call.
pub(super) struct Call {
    /// None in `describe` and between calls, when nothing may be read.
    pub(super) documents: Option<Arc<dyn Documents>>,
    pub(super) log: Log,
    /// Documents that one `get-many` may name.
    pub(super) reads: usize,
    /// Why a host call ended the guest, set before the guest is told.
    pub(super) refused: Option<Failure>,
    meter: Arc<Meter>,
}

impl Call {
    /// A call on behalf of a tenant.
    pub(super) fn of(tenant: Arc<Tenant>, documents: Arc<dyn Documents>, replaying: bool, limits: &Limits) -> Self {
        let log = Log::new(Some(tenant), replaying, limits);
        Call { documents: Some(documents), log, ..Call::describe(None, limits) }.within(limits.cpu())
    }

    /// A call on behalf of nobody.
    pub(super) fn describe(owner: Option<Arc<Tenant>>, limits: &Limits) -> Self {
        let meter = Meter::new(limits.describe_cpu());
        Call { documents: None, log: Log::new(owner, false, limits), reads: limits.reads, refused: None, meter }
    }

    fn within(mut self, cpu: std::time::Duration) -> Self {
        self.meter = Meter::new(cpu);
        self
    }
}

/// A store, and the instance in it once there is one.
pub(super) struct Guest {
    pub(super) store: Store<State>,
    pub(super) exports: Option<ProjectorPlugin>,
}

impl Guest {
    /// An empty store; of a tenant's, except in `describe`.
    pub(super) fn new(sandbox: &Sandbox, identity: Arc<Identity>, account: Arc<Account>, tenant: Option<Owed>) -> Self {
        let limits = &sandbox.limits;
        let settings = tenant.as_ref().map(|owed| identity.settings(owed.tenant.id())).unwrap_or_default();
        let (call, growth) = (Call::describe(None, limits), Growth::new(account, tenant, limits));
        let (ambient, refusals) = (Ambient::default(), sandbox.refusals.clone());
        let state = State { identity, settings, call, growth, ambient, refusals };
        let mut store = Store::new(&sandbox.engine, state);
        store.limiter(|state| &mut state.growth);
        store.set_hostcall_fuel(limits.output_bytes());
        store.epoch_deadline_callback(|store| {
            store.data().call.meter.end_of_slice()?;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(GiveWay(false))))
        });
        Guest { store, exports: None }
    }

    /// Runs one call, charged, and names what ended it if it failed.
    pub(super) async fn run<T>(
        &mut self,
        call: Call,
        body: impl AsyncFnOnce(&mut Guest) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        let meter = call.meter.clone();
        self.store.data_mut().call = call;
        self.store.set_epoch_deadline(1);
        let result = meter.measure(body(self)).await;
        let state = self.store.data_mut();
        // What the guest printed last ends before its end is named, as that may quote it.
        state.end_of_log();
        let result = result.map_err(|error| failure::name(&error, state));
        state.end();
        result
    }
}

impl State {
    fn end_of_log(&mut self) {
        self.call.log.end(self.identity.name(), &self.refusals);
    }

    /// Leaves nothing of a call behind.
    fn end(&mut self) {
        self.call.documents = None;
        self.growth.drop_read();
        self.growth.take_denied();
    }
}

/// Runs a future that needs no runtime to its end on this thread: `describe` at load, which waits for nothing.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        // It is only ever pending because its slice ended.
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
