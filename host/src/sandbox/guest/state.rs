//! The host's data of one store, which host calls work on: what stays for the life of the store,
//! and what belongs to the current call.

use std::sync::Arc;

use super::identity::GuestIdentity;
use crate::{
    model::{
        handler::{Documents, Failure, Reason},
        settings::Values,
    },
    sandbox::{
        failure::Evidence, limits::Limits, log::CallLog, memory::StoreLimiter, meter::CpuMeter, tenants::TenantAccount,
        usage::RefusalCounts,
    },
};

/// The host's data of one store.
pub(in crate::sandbox) struct GuestState {
    pub(in crate::sandbox) identity: Arc<GuestIdentity>,
    /// The plugin's settings for the store's tenant.
    pub(in crate::sandbox) settings: Values,
    pub(in crate::sandbox) call: Call,
    pub(in crate::sandbox) growth: StoreLimiter,
    /// WASI handles that the instance holds, over all its calls.
    pub(in crate::sandbox) wasi_handles: u32,
    refusals: Arc<RefusalCounts>,
}

/// The parts of a store that belong to one call.
pub(in crate::sandbox) struct Call {
    /// None in `describe` and between calls, when no document may be read.
    pub(in crate::sandbox) documents: Option<Arc<dyn Documents>>,
    pub(in crate::sandbox) log: CallLog,
    /// Documents that one `get-many` may name (limits.reads).
    pub(in crate::sandbox) reads: usize,
    /// Why a host call ended the guest; set before the call returns its error.
    pub(in crate::sandbox) refused: Option<Failure>,
    pub(super) meter: Arc<CpuMeter>,
}

impl Call {
    /// A call on behalf of a tenant.
    pub(in crate::sandbox) fn of(
        tenant: Arc<TenantAccount>,
        documents: Arc<dyn Documents>,
        replaying: bool,
        limits: &Limits,
    ) -> Self {
        let log = CallLog::new(Some(tenant), replaying, limits);
        Call { documents: Some(documents), log, ..Call::describe(None, limits) }.within(limits.cpu())
    }

    /// A call of `describe`, which no tenant makes. Its log counts toward the owner's volume.
    pub(in crate::sandbox) fn describe(owner: Option<Arc<TenantAccount>>, limits: &Limits) -> Self {
        let meter = CpuMeter::new(limits.describe_cpu());
        Call { documents: None, log: CallLog::new(owner, false, limits), reads: limits.reads, refused: None, meter }
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
        let call = Call::describe(None, limits);
        GuestState { identity, settings, call, growth, wasi_handles: 0, refusals }
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

    /// Ends the log of the call. The failure of the call may quote its last lines.
    pub(super) fn end_log(&mut self) {
        self.call.log.end(self.identity.name(), &self.refusals);
    }

    /// What is known about the end of the call, apart from the engine's error.
    pub(super) fn evidence(&mut self) -> Evidence<'_> {
        Evidence {
            refused: self.call.refused.take(),
            denied: self.growth.take_denied(),
            last_words: self.call.log.last_words(),
        }
    }

    /// Removes the parts of the call.
    pub(super) fn end(&mut self) {
        self.call.documents = None;
        self.growth.drop_read();
        self.growth.take_denied();
    }
}
