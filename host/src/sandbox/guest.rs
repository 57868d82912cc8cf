//! A store with one instance in it, and the calls that it runs.
//!
//! A store belongs to one plugin and one tenant for its whole life. The parts of a call (its
//! documents, its log, its CPU time) are set when the call begins and removed when it ends. So an
//! idle store can reach nothing. A call that is dropped leaves its store in an unknown state; the
//! owner must drop the store too.

mod identity;
mod state;
mod wasi_context;

use std::{future::Future, sync::Arc};

pub(super) use identity::GuestIdentity;
pub(super) use state::{Call, GuestState};
use wasmtime::{Store, UpdateDeadline};

use super::{
    Sandbox,
    bindings::Exports,
    failure,
    log::CallLog,
    memory::{PluginMemory, StoreLimiter, TenantMemory},
    meter::YieldOnce,
    ticker::Ticker,
};
use crate::model::{diagnostics::Diagnostics, handler::CallFailure};

/// A store, and its instance once there is one.
pub(super) struct Guest {
    pub(super) store: Store<GuestState>,
    pub(super) exports: Option<Exports>,
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
        let growth = StoreLimiter::new(memory, tenant, limits);
        let state = GuestState::new(identity, settings, growth, sandbox.refusals.clone(), limits);
        let mut store = Store::new(&sandbox.engine, state);
        store.limiter(|state| &mut state.growth);
        store.set_hostcall_fuel(limits.output_bytes());
        store.epoch_deadline_callback(|store| {
            store.data().call.meter.end_of_slice()?;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(YieldOnce::default())))
        });
        Guest { store, exports: None, ticker: sandbox.ticker.clone() }
    }

    /// The last log lines of the call that ended last.
    pub(super) fn log_tail(&self) -> Option<Box<Diagnostics>> {
        Diagnostics::new("", self.store.data().log.lock().tail())
    }

    /// Runs one call with a log of its own, and meters its CPU time.
    pub(super) async fn run<T>(
        &mut self,
        call: Call,
        log: CallLog,
        body: impl AsyncFnOnce(&mut Guest) -> wasmtime::Result<T>,
    ) -> Result<T, CallFailure> {
        let meter = call.meter.clone();
        let _ticking = self.ticker.begin();
        let state = self.store.data_mut();
        state.call = call;
        state.log.begin(log);
        self.store.set_epoch_deadline(1);
        let result = meter.measure(body(self)).await;
        let state = self.store.data_mut();
        state.end_log();
        let result = result.map_err(|error| {
            let diagnostics = Diagnostics::new(&failure::backtrace(&error), state.log.lock().tail());
            CallFailure { failure: failure::of(&error, state.evidence()), diagnostics }
        });
        state.end();
        result
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
