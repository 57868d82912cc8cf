//! The host's data of one store, which host calls work on: what stays for the life of the store,
//! and what belongs to the current call.

use std::{borrow::Cow, sync::Arc};

use super::{identity::GuestIdentity, wasi_context::WasiContext};
use crate::{
    model::{
        handler::{Documents, Failure, Reason},
        settings::Values,
    },
    sandbox::{
        failure::Evidence,
        limits::Limits,
        log::{CallLog, GuestLog},
        memory::StoreLimiter,
        meter::CpuMeter,
        usage::RefusalCounts,
    },
};

/// The host's data of one store.
pub(in crate::sandbox) struct GuestState {
    pub(in crate::sandbox) identity: Arc<GuestIdentity>,
    /// The plugin's settings for the store's tenant.
    pub(in crate::sandbox) settings: Values,
    pub(in crate::sandbox) call: Call,
    pub(in crate::sandbox) log: GuestLog,
    pub(in crate::sandbox) growth: StoreLimiter,
    /// None until the guest first uses WASI.
    wasi: Option<Box<WasiContext>>,
    refusals: Arc<RefusalCounts>,
}

/// The parts of a store that belong to one call.
pub(in crate::sandbox) struct Call {
    /// None in `describe` and between calls, when no document may be read.
    pub(in crate::sandbox) documents: Option<Arc<dyn Documents>>,
    /// Documents that one `get-many` may name (limits.reads).
    pub(in crate::sandbox) reads: usize,
    /// Why a host call ended the guest; set before the call returns its error.
    pub(in crate::sandbox) refused: Option<Failure>,
    pub(super) meter: Arc<CpuMeter>,
}

impl Call {
    /// A call that may read documents.
    pub(in crate::sandbox) fn of(documents: Arc<dyn Documents>, limits: &Limits) -> Self {
        Call { documents: Some(documents), ..Call::describe(limits) }.within(limits.cpu())
    }

    /// A call of `describe`, which no tenant makes.
    pub(in crate::sandbox) fn describe(limits: &Limits) -> Self {
        Call { documents: None, reads: limits.reads, refused: None, meter: CpuMeter::new(limits.describe_cpu()) }
    }

    fn within(mut self, cpu: std::time::Duration) -> Self {
        self.meter = CpuMeter::new(cpu);
        self
    }
}

impl GuestState {
    /// The data of a store that has run no call.
    pub(super) fn new(
        identity: Arc<GuestIdentity>,
        settings: Values,
        growth: StoreLimiter,
        refusals: Arc<RefusalCounts>,
        limits: &Limits,
    ) -> Self {
        let (call, log) = (Call::describe(limits), GuestLog::new(CallLog::new(None, false, limits)));
        GuestState { identity, settings, call, log, growth, wasi: None, refusals }
    }

    /// Records why the host ends the guest, and returns the error that ends it.
    pub(in crate::sandbox) fn refuse(&mut self, class: &str, message: String) -> wasmtime::Error {
        self.fail(Failure::Block(Reason::new(class, message)))
    }

    /// The same for any failure.
    pub(in crate::sandbox) fn fail(&mut self, failure: Failure) -> wasmtime::Error {
        self.call.refused = Some(failure);
        wasmtime::Error::msg("the host call was refused")
    }

    /// The store's WASI context, made at the first use.
    pub(in crate::sandbox) fn wasi(&mut self) -> &mut WasiContext {
        self.wasi.get_or_insert_with(|| Box::new(WasiContext::new(&self.identity, &self.log)))
    }

    /// Ends the log of the call. The failure of the call may quote its last lines.
    pub(super) fn end_log(&mut self) {
        self.log.lock().end(self.identity.name(), &self.refusals);
    }

    /// What is known about the end of the call, apart from the engine's error.
    pub(super) fn evidence(&mut self) -> Evidence {
        Evidence {
            refused: self.call.refused.take(),
            denied: self.growth.take_denied(),
            last_words: self.log.lock().last_words().map(Cow::into_owned),
        }
    }

    /// Removes the parts of the call.
    pub(super) fn end(&mut self) {
        self.call.documents = None;
        self.growth.drop_read();
        self.growth.take_denied();
    }
}
