//! What a call left behind besides its result: where in the code it failed, and what it logged
//! last.
//!
//! Both texts are the handler's own, so they are bounded and contain only what one call of one
//! tenant produced. They are stored with a dead letter, and dropped in any other case.

use super::text;

/// What a call left behind besides its result, for people who look for the cause of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The functions that were running when the call failed, the innermost first, one a line.
    /// Empty if no code of the handler was running.
    pub backtrace: Box<str>,
    /// The last lines that the handler logged or printed during the call, and no other.
    pub log_tail: Box<str>,
}

/// Maximum bytes of a backtrace. 4 KiB: twenty functions with long names.
pub const BACKTRACE_BYTES: usize = 4 << 10;
/// Maximum bytes of the last log lines of a call. 4 KiB: some forty lines.
pub const LOG_TAIL_BYTES: usize = 4 << 10;

impl Diagnostics {
    /// Diagnostics within their bounds and without NUL, which no text column can hold. The
    /// beginning of the backtrace is kept, and the end of the log. None if both are empty.
    pub fn new(backtrace: &str, log: &str) -> Option<Box<Self>> {
        if backtrace.is_empty() && log.is_empty() {
            return None;
        }
        let clean = |text: &str| text.replace('\0', "\u{fffd}");
        let backtrace = text::within(&clean(backtrace), BACKTRACE_BYTES).into();
        let log_tail = text::end_within(&clean(log), LOG_TAIL_BYTES).into();
        Some(Box::new(Diagnostics { backtrace, log_tail }))
    }

    /// Bytes of both texts.
    pub fn bytes(&self) -> usize {
        self.backtrace.len() + self.log_tail.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_keep_the_innermost_functions_and_the_last_lines() {
        assert_eq!(Diagnostics::new("", ""), None);
        let (frames, lines) = ("0: f\n".to_owned() + &"é\0".repeat(9_000), "é\0\n".repeat(9_000) + "last");
        let kept = Diagnostics::new(&frames, &lines).unwrap();
        assert!(kept.backtrace.len() <= BACKTRACE_BYTES && kept.log_tail.len() <= LOG_TAIL_BYTES, "{kept:?}");
        assert!(kept.bytes() > BACKTRACE_BYTES + LOG_TAIL_BYTES - 20, "{}", kept.bytes());
        assert!(kept.backtrace.starts_with("0: f\né\u{fffd}") && kept.backtrace.ends_with('…'), "{kept:?}");
        assert!(kept.log_tail.starts_with("…\né") && kept.log_tail.ends_with("\nlast"), "{kept:?}");
        assert!(!format!("{kept:?}").contains("\\0"));
    }
}
