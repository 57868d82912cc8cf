//! A store with one instance in it, and the calls that it runs.
//!
//! A store belongs to one plugin and one tenant for its whole life. The parts of a call (its
//! documents, its log, its CPU time) are set when the call begins and removed when it ends. So an
//! idle store can reach nothing. A call that is dropped leaves its store in an unknown state; the
//! owner must drop the store too.

use std::{future::Future, sync::Arc};

use wasmtime::{Store, UpdateDeadline};

use super::{
    Sandbox,
    bindings::v0_1::ProjectorPlugin,
    failure,
    limits::Limits,
    log::CallLog,
    memory::{PluginMemory, StoreLimiter, TenantMemory},
    meter::{CpuMeter, YieldOnce},
    plugin::GuestIdentity,
    tenants::TenantAccount,
    ticker::Ticker,
    usage::RefusalCounts,
    wasi::WasiHandles,
};
use crate::model::{
    handler::{Documents, Failure},
    settings::Values,
};

/// The host's data of one store.
pub(in crate::sandbox) struct GuestState {
    pub(super) identity: Arc<GuestIdentity>,
    /// The plugin's settings for the store's tenant.
    pub(super) settings: Values,
    pub(super) call: Call,
    pub(super) growth: StoreLimiter,
    pub(super) wasi: WasiHandles,
    refusals: Arc<RefusalCounts>,
}

/// The parts of a store that belong to one call.
pub(super) struct Call {
    /// None in `describe` and between calls, when no document may be read.
    pub(super) documents: Option<Arc<dyn Documents>>,
    pub(super) log: CallLog,
    /// Documents that one `get-many` may name (limits.reads).
    pub(super) reads: usize,
    /// Why a host call ended the guest; set before the call returns its error.
    pub(super) refused: Option<Failure>,
    meter: Arc<CpuMeter>,
}

impl Call {
    /// A call on behalf of a tenant.
    pub(super) fn of(
        tenant: Arc<TenantAccount>,
        documents: Arc<dyn Documents>,
        replaying: bool,
        limits: &Limits,
    ) -> Self {
        let log = CallLog::new(Some(tenant), replaying, limits);
        Call { documents: Some(documents), log, ..Call::describe(None, limits) }.within(limits.cpu())
    }

    /// A call of `describe`, which no tenant makes. Its log counts toward the owner's volume.
    pub(super) fn describe(owner: Option<Arc<TenantAccount>>, limits: &Limits) -> Self {
        let meter = CpuMeter::new(limits.describe_cpu());
        Call { documents: None, log: CallLog::new(owner, false, limits), reads: limits.reads, refused: None, meter }
    }

    fn within(mut self, cpu: std::time::Duration) -> Self {
        self.meter = CpuMeter::new(cpu);
        self
    }
}

/// A store, and its instance once there is one.
pub(super) struct Guest {
    pub(super) store: Store<GuestState>,
    pub(super) exports: Option<ProjectorPlugin>,
    ticker: Arc<Ticker>,
}

impl Guest {
    /// An empty store. `tenant` is none for `describe`.
    pub(super) fn new(
        sandbox: &Sandbox,
        identity: Arc<GuestIdentity>,
        memory: Arc<PluginMemory>,
        tenant: Option<TenantMemory>,
    ) -> Self {
        let limits = &sandbox.limits;
        let settings = tenant.as_ref().map(|tenant| identity.settings(tenant.account.id())).unwrap_or_default();
        let (call, growth) = (Call::describe(None, limits), StoreLimiter::new(memory, tenant, limits));
        let (wasi, refusals) = (WasiHandles::default(), sandbox.refusals.clone());
        let state = GuestState { identity, settings, call, growth, wasi, refusals };
        let mut store = Store::new(&sandbox.engine, state);
        store.limiter(|state| &mut state.growth);
        store.set_hostcall_fuel(limits.output_bytes());
        store.epoch_deadline_callback(|store| {
            store.data().call.meter.end_of_slice()?;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(YieldOnce::default())))
        });
        Guest { store, exports: None, ticker: sandbox.ticker.clone() }
    }

    /// Runs one call and meters its CPU time.
    pub(super) async fn run<T>(
        &mut self,
        call: Call,
        body: impl AsyncFnOnce(&mut Guest) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        let meter = call.meter.clone();
        let _ticking = self.ticker.begin();
        self.store.data_mut().call = call;
        self.store.set_epoch_deadline(1);
        let result = meter.measure(body(self)).await;
        let state = self.store.data_mut();
        // The log ends first, since the failure may quote its last lines.
        state.end_of_log();
        let result = result.map_err(|error| failure::from_error(&error, state));
        state.end();
        result
    }
}

impl GuestState {
    fn end_of_log(&mut self) {
        self.call.log.end(self.identity.name(), &self.refusals);
    }

    /// Removes the parts of the call.
    fn end(&mut self) {
        self.call.documents = None;
        self.growth.drop_read();
        self.growth.take_denied();
    }
}

/// Runs a future to its end on this thread. Only for `describe`, which waits for nothing.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        // It is only pending because its slice ended.
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
