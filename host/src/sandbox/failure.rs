//! The failure of a call, classified by the error that ended it: a refusal by the host, a limit, a
//! trap, or an unreadable answer. Also the guest's backtrace, whose names the guest chooses.

use std::fmt::{self, Write};

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace, component::ResourceTableError};

use super::{limits::WASI_HANDLES, memory::DeniedGrowth, meter::CpuLimitExceeded};
use crate::model::{
    handler::{Failure, REASON_BYTES, Reason},
    text,
};

/// The class of a failure because every instance was in use.
pub(super) const NO_INSTANCE: &str = "instances";

/// The beginning of the context that the engine adds to the error of a host call.
const BACKTRACE: &str = "error while executing at wasm backtrace";
/// Bytes of a function's name in a backtrace. 150: a backtrace of twenty functions, the most that
/// the engine captures, is within its own bound.
const NAME_BYTES: usize = 150;
/// Bytes of an encoded name that is decoded. 1,000: far longer than any that a person reads.
const ENCODED_BYTES: usize = 1_000;

/// What is known about the end of a call, apart from the engine's error.
pub(super) struct Evidence {
    /// The reason of a host call that ended the guest.
    pub(super) refused: Option<Failure>,
    /// The last growth refused during the call.
    pub(super) denied: Option<DeniedGrowth>,
    /// The guest's last words.
    pub(super) last_words: Option<String>,
}

/// The failure for an error of the engine. Causes that the host knows for certain come first, since
/// the trap that follows may look like something else.
pub(super) fn of(error: &wasmtime::Error, evidence: Evidence) -> Failure {
    if let Some(failure) = evidence.refused {
        return failure;
    }
    let last_words = evidence.last_words.as_deref();
    if let Some(CpuLimitExceeded(limit)) = error.downcast_ref() {
        return block(
            "cpu-limit",
            format!("computed for more than {} ms in one call (limits.cpu-ms)", limit.as_millis()),
        );
    }
    if let Some(error) = error.downcast_ref::<ResourceTableError>() {
        return handle_failure(error);
    }
    let text = causes(error);
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return Failure::Block(output_limit());
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return no_instance();
    }
    if let Some(denied) = evidence.denied {
        return growth_denied(denied, last_words);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            block("trap", "used up its stack (limits.stack-kib): a recursion without end, or a very deep one".into())
        }
        Some(trap) => block("trap", trap_message(last_words, &trap_name(trap))),
        None => {
            block("malformed-output", format!("gave the host data that it cannot use: {text}{}", after(last_words)))
        }
    }
}

/// The messages of an error and its causes, without the guest's backtrace, which would displace the
/// rest of a reason. Each is cut, so that the engine does not decode the names of a backtrace.
fn causes(error: &wasmtime::Error) -> String {
    let messages = error.chain().map(|cause| {
        let mut message = Bounded { text: String::new(), left: REASON_BYTES };
        // The error is that there is no more room.
        let _ = write!(message, "{cause}");
        message.text
    });
    messages.filter(|message| !message.starts_with(BACKTRACE)).collect::<Vec<_>>().join(": ")
}

/// The guest's functions at the moment of an error, the innermost first, one a line: number, name,
/// and the place in the component's file. Empty if no code of the guest was running.
pub(super) fn backtrace(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let mut lines = String::new();
    for (number, frame) in backtrace.frames().iter().enumerate() {
        let name = frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), function_name);
        let _ = write!(lines, "{number}: {name}");
        if let Some(offset) = frame.module_offset() {
            let _ = write!(lines, " at {offset:#x}");
        }
        lines.push('\n');
    }
    lines
}

/// A function's name, decoded if a Rust compiler encoded it, on one line and within its bound.
fn function_name(name: &str) -> String {
    let mut shown = Bounded { text: String::new(), left: NAME_BYTES };
    // The error is that there is no more room: what was written stays.
    let _ = match rustc_demangle::try_demangle(&name[..name.floor_char_boundary(ENCODED_BYTES)]) {
        Ok(name) => write!(shown, "{name:#}"),
        Err(_) => shown.write_str(name),
    };
    text::one_line(&shown.text).into_owned()
}

/// A text that ends with an error, and with an ellipsis, once it is longer than it may be.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let kept = &part[..part.floor_char_boundary(self.left)];
        self.text.push_str(kept);
        self.left -= kept.len();
        if kept.len() < part.len() {
            self.text.push('…');
            self.left = 0;
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// The failure of a guest whose WASI handle the store's table did not accept.
fn handle_failure(error: &ResourceTableError) -> Failure {
    match error {
        ResourceTableError::Full => block(
            "handle-limit",
            format!("held {WASI_HANDLES} WASI handles, the most for one instance; release handles after use"),
        ),
        ResourceTableError::HasChildren => {
            block("refused-call", "released a WASI handle before the pollables that were made from it".into())
        }
        error => block("refused-call", format!("used a WASI handle wrongly: {error}")),
    }
}

/// The reason of a call that passed too much to the host.
pub(super) fn output_limit() -> Reason {
    Reason::new("output-limit", "passed more data to the host than one call may (limits.output-mib)")
}

/// The message of a trap: the guest's last words if there are any, then what ended it.
pub(super) fn trap_message(last_words: Option<&str>, ending: &str) -> String {
    let Some(words) = last_words else { return ending.to_owned() };
    let ending = format!(" ({ending})");
    // A reason is cut at its end, and the ending must survive that.
    let words = text::within(words, REASON_BYTES.saturating_sub(ending.len()));
    format!("{words}{ending}")
}

fn trap_name(trap: &Trap) -> String {
    let name = trap.to_string();
    let name = name.strip_prefix("wasm trap: ").unwrap_or(&name);
    match trap {
        // A guest's own stack is in its memory. If it overflows, the guest accesses addresses
        // before it.
        Trap::MemoryOutOfBounds => format!("{name}: a wild pointer, or a recursion that used up the guest's stack"),
        _ => name.to_owned(),
    }
}

/// The guest's last words, to be appended to a message of the host.
fn after(last_words: Option<&str>) -> String {
    last_words.map(|words| format!("; the guest's last output: {words}")).unwrap_or_default()
}

/// The failure of a guest whose memory or table may not grow.
pub(super) fn growth_denied(denied: DeniedGrowth, last_words: Option<&str>) -> Failure {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    let after = after(last_words);
    match denied {
        DeniedGrowth::Memory(bytes) => block(
            "memory-limit",
            format!(
                "asked for {} MiB of memory, more than an instance may have (limits.memory-mib){after}",
                mib(bytes)
            ),
        ),
        // Both pass when the other calls end.
        DeniedGrowth::PluginMemory(bytes) => Failure::Retry(Reason::new(
            "plugin-memory-limit",
            format!(
                "asked for {} MiB while other calls of the plugin hold the rest of limits.plugin-memory-mib{after}",
                mib(bytes)
            ),
        )),
        DeniedGrowth::TenantMemory(bytes) => Failure::Retry(Reason::new(
            "tenant-memory-limit",
            format!(
                "asked for {} MiB while other calls of the tenant hold the rest of tenant-limits.memory-mib{after}",
                mib(bytes)
            ),
        )),
        // Not `tenant-memory-limit`, which passes when other calls end.
        DeniedGrowth::TenantMemoryAlone(bytes) => block(
            "memory-limit",
            format!(
                "asked for {} MiB, more than all instances of the tenant may have (tenant-limits.memory-mib){after}",
                mib(bytes)
            ),
        ),
        DeniedGrowth::Table(elements) => block(
            "table-limit",
            format!("asked for a table of {elements} elements, more than it may have (limits.table-elements){after}"),
        ),
    }
}

/// The failure of a call that found every instance in use.
pub(super) fn no_instance() -> Failure {
    Failure::Retry(Reason::new(
        NO_INSTANCE,
        "every instance was in use; allow fewer calls at once, or raise limits.instances",
    ))
}

fn block(class: &str, message: String) -> Failure {
    Failure::Block(Reason::new(class, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traps_message_begins_with_the_guests_last_words() {
        let unreachable = trap_name(&Trap::UnreachableCodeReached);
        assert_eq!(trap_message(None, &unreachable), "wasm `unreachable` instruction executed");
        assert_eq!(
            trap_message(Some("panicked at lib.rs:1:2:\nno such seat"), &unreachable),
            "panicked at lib.rs:1:2:\nno such seat (wasm `unreachable` instruction executed)"
        );
    }

    #[test]
    fn a_handle_limit_takes_precedence_over_an_earlier_denied_growth() {
        let denied = Some(DeniedGrowth::PluginMemory(1));
        let failure = of(&ResourceTableError::Full.into(), Evidence { refused: None, denied, last_words: None });
        assert!(matches!(&failure, Failure::Block(reason) if reason.class == "handle-limit"), "{failure:?}");
    }

    #[test]
    fn names_of_functions_are_decoded_bounded_and_on_one_line() {
        for (name, shown) in [
            ("_ZN8scripted4ruin4trap17h0123456789abcdefE", "scripted::ruin::trap"),
            ("_RNvNtCs1234_8scripted4ruin4trap", "scripted::ruin::trap"),
            ("main.(*cart).total", "main.(*cart).total"),
            ("a\nb\u{1b}[2J\u{202e}\0", "a b\u{fffd}[2J\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(function_name(name), shown);
        }
        let long = function_name(&"é".repeat(100_000));
        assert_eq!(long, "é".repeat(NAME_BYTES / 2) + "…");
        // Each part of the name refers to the one before twice, so the decoded name doubles.
        let doubles = "_RMC0".to_owned() + &"TB3_B3_E".repeat(200);
        assert!(function_name(&doubles).len() <= NAME_BYTES + '…'.len_utf8());
    }

    #[test]
    fn long_last_words_leave_room_for_the_trap() {
        let ending = trap_name(&Trap::MemoryOutOfBounds);
        let message = trap_message(Some(&"x".repeat(16 << 10)), &ending);
        assert_eq!(message.len(), REASON_BYTES);
        assert!(message.ends_with(&format!("x… ({ending})")), "{message}");
        // Printed errors are kept to a length that is never cut.
        let errors = "x".repeat(super::super::log::ERRORS_BYTES);
        assert_eq!(trap_message(Some(&errors), &ending), format!("{errors} ({ending})"));
    }
}
