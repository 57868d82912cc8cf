//! One store, one instance, one call.
//!
//! A call runs in a store of its own that is dropped with it, so nothing a guest keeps in memory outlives a batch or meets another tenant.
//! Whatever ends a call early is told apart here: what the host refused, a limit, a trap of the guest's own making, an answer
//! that cannot be read.

use std::{future::Future, sync::Arc};

use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use super::{
    Sandbox,
    meter::{CpuLimitReached, GiveWay, Meter},
    plugin::Identity,
};
use crate::model::{
    handler::{Documents, Failure, Reason},
    ids::TenantId,
};

/// What the host keeps for one call.
pub(in crate::sandbox) struct State {
    pub(super) identity: Arc<Identity>,
    /// Whose events these are; none in `describe`.
    pub(super) tenant: Option<TenantId>,
    /// None in `describe`, which may not read.
    pub(super) documents: Option<Arc<dyn Documents>>,
    pub(super) log: super::host_calls::Log,
    /// Why a host call ended the guest, set before the guest is told.
    pub(super) refused: Option<Failure>,
    memory: MemoryLimit,
}

/// Counts what the guest's memories and tables may grow to.
struct MemoryLimit {
    memory_bytes: usize,
    table_elements: usize,
    /// What the guest asked for in vain, bytes: nearly always what it traps about next.
    denied: Option<usize>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory_bytes;
        if !allowed {
            self.denied = Some(desired);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements)
    }
}

/// A store ready for one call, and the account of its CPU time.
pub(super) struct Call {
    pub(super) store: Store<State>,
    meter: Arc<Meter>,
}

impl Call {
    /// A call on behalf of a tenant, or of nobody (`describe`).
    pub(super) fn new(
        sandbox: &Sandbox,
        identity: Arc<Identity>,
        lane: Option<(TenantId, Arc<dyn Documents>)>,
    ) -> Self {
        let limits = &sandbox.limits;
        let cpu = if lane.is_some() { limits.cpu() } else { limits.describe_cpu() };
        let (tenant, documents) = lane.unzip();
        let state = State {
            identity,
            tenant,
            documents,
            log: super::host_calls::Log::new(limits),
            refused: None,
            memory: MemoryLimit {
                memory_bytes: limits.memory_bytes(),
                table_elements: limits.table_elements,
                denied: None,
            },
        };
        let mut store = Store::new(&sandbox.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.output_bytes());
        let meter = Meter::new(cpu);
        let account = meter.clone();
        store.epoch_deadline_callback(move |_| {
            account.end_of_slice()?;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(GiveWay(false))))
        });
        store.set_epoch_deadline(1);
        Call { store, meter }
    }

    /// Runs `body` on the store, charged, and names what ended it if it failed.
    pub(super) async fn run<T>(
        mut self,
        body: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        let meter = self.meter.clone();
        let result = meter.measure(body(&mut self.store)).await;
        let state = self.store.data_mut();
        state.log.end();
        result.map_err(|error| name_failure(&error, state))
    }
}

/// Says what ended a call. The order matters: what the host knows for certain comes before what the trap looks like.
fn name_failure(error: &wasmtime::Error, state: &mut State) -> Failure {
    if let Some(failure) = state.refused.take() {
        return failure;
    }
    let text = format!("{error:#}");
    let last_words = match state.log.last_words() {
        Some(words) => format!("; the guest said: {words}"),
        None => String::new(),
    };
    if let Some(CpuLimitReached(limit)) = error.downcast_ref() {
        return block(
            "cpu-limit",
            format!("computed for more than {} ms in one call (limits.cpu-ms)", limit.as_millis()),
        );
    }
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return block("output-limit", "passed more data to the host than one call may (limits.output-mib)".into());
    }
    if let Some(desired) = state.memory.denied {
        let (asked, limit) = (desired.div_ceil(1 << 20), state.memory.memory_bytes >> 20);
        return block(
            "memory-limit",
            format!("asked for {asked} MiB of memory where {limit} are allowed (limits.memory-mib){last_words}"),
        );
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            block("trap", "used up its stack (limits.stack-kib): a recursion without end, or a very deep one".into())
        }
        // A guest whose own stack, in its memory, runs over touches what lies before the memory.
        Some(trap @ Trap::MemoryOutOfBounds) => {
            block("trap", format!("{trap} (a wild pointer, or a recursion that used up the guest's stack){last_words}"))
        }
        Some(trap) => block("trap", format!("{trap}{last_words}")),
        None if text.contains("maximum concurrent") || text.contains("pooling allocator") => {
            Failure::Retry(Reason::new("instances", format!("no instance was free (limits.instances): {text}")))
        }
        None => block("malformed-output", format!("gave the host data that cannot be read: {text}{last_words}")),
    }
}

fn block(class: &str, message: String) -> Failure {
    Failure::Block(Reason::new(class, message))
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
