//! Names what ended a call early: what the host refused, a limit, a trap of the guest's own making, an answer that cannot be read.

use wasmtime::{PoolConcurrencyLimitError, Trap};

use super::{instance::State, memory::Denied, meter::CpuLimitReached};
use crate::model::handler::{Failure, Reason};

/// The class of a failure because every instance was in use.
pub(super) const NO_INSTANCE: &str = "instances";

/// Says what ended a call. The order matters: what the host knows for certain comes before what the trap looks like.
pub(super) fn name(error: &wasmtime::Error, state: &mut State) -> Failure {
    if let Some(failure) = state.call.refused.take() {
        return failure;
    }
    let text = format!("{error:#}");
    if let Some(CpuLimitReached(limit)) = error.downcast_ref() {
        return block(
            "cpu-limit",
            format!("computed for more than {} ms in one call (limits.cpu-ms)", limit.as_millis()),
        );
    }
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return block("output-limit", "passed more data to the host than one call may (limits.output-mib)".into());
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return no_instance();
    }
    let last_words = match state.call.log.last_words() {
        Some(words) => format!("; the guest said: {words}"),
        None => String::new(),
    };
    if let Some(denied) = state.growth.take_denied() {
        return out_of(denied, &last_words);
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
        None => block("malformed-output", format!("gave the host data that cannot be read: {text}{last_words}")),
    }
}

/// What a guest was denied, in words; with what it said last.
pub(super) fn out_of(denied: Denied, last_words: &str) -> Failure {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    match denied {
        Denied::Memory(bytes) => block(
            "memory-limit",
            format!(
                "asked for {} MiB of memory, more than an instance may have (limits.memory-mib){last_words}",
                mib(bytes)
            ),
        ),
        // Others hold it for now.
        Denied::PluginMemory(bytes) => Failure::Retry(Reason::new(
            "plugin-memory-limit",
            format!(
                "asked for {} MiB while other calls of the plugin hold what all together may have (limits.plugin-memory-mib){last_words}",
                mib(bytes)
            ),
        )),
        Denied::TenantMemory(bytes) => Failure::Retry(Reason::new(
            "tenant-memory-limit",
            format!(
                "asked for {} MiB while other calls of the tenant hold what all together may have (tenant-limits.memory-mib){last_words}",
                mib(bytes)
            ),
        )),
        Denied::TenantMemoryAlone(bytes) => block(
            "tenant-memory-limit",
            format!(
                "asked for {} MiB, more than all instances of the tenant may have (tenant-limits.memory-mib){last_words}",
                mib(bytes)
            ),
        ),
        Denied::Table(elements) => block(
            "table-limit",
            format!(
                "asked for a table of {elements} elements, more than it may have (limits.table-elements){last_words}"
            ),
        ),
    }
}

/// Every instance is in a call.
pub(super) fn no_instance() -> Failure {
    Failure::Retry(Reason::new(
        NO_INSTANCE,
        "every instance was in use; try fewer calls at once, or raise limits.instances",
    ))
}

fn block(class: &str, message: String) -> Failure {
    Failure::Block(Reason::new(class, message))
}
