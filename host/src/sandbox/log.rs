//! The log lines of guests: their destination and their bounds.
//!
//! Lines come from the contract's `logging` and from what a guest prints. The lines of one call are
//! bounded in number and length. The lines of one tenant are bounded in volume over time, counting
//! only lines that the log filter lets through. Lines over a bound are counted and dropped, and the
//! host reports their number once per interval. The last words of a guest are kept, since the
//! reason of a failure quotes them. So are the last lines of the current call, whether or not they
//! were let through, for the dead letter of an event that fails.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{bindings::v0_1::logging, limits::Limits, tenants::TenantAccount, usage::RefusalCounts};
use crate::model::{diagnostics::LOG_TAIL_BYTES, handler::Reason, ids::TenantId};

pub(super) use logging::Level;

/// Bytes of printed errors that a reason can quote. 900: a reason is cut at 1,000 bytes.
pub(super) const ERRORS_BYTES: usize = 900;
/// Bytes of one line in the tail of a log. 1,024: the default of limits.log-line-bytes.
const TAIL_LINE_BYTES: usize = 1_024;
/// A hint that Rust's runtime prints after each panic. It is useless, as a guest has no
/// environment. The runtimes of JavaScript and Python print it too, since they are written in Rust.
const BACKTRACE_HINT: &str = "note: run with `RUST_BACKTRACE=1`";

/// The log of a store's current call. Shared with the streams that its guest prints to.
#[derive(Clone)]
pub(super) struct GuestLog(Arc<Mutex<CallLog>>);

impl GuestLog {
    pub(super) fn new(log: CallLog) -> Self {
        GuestLog(Arc::new(Mutex::new(log)))
    }

    /// Begins the log of a further call. The memory of the tail is used again, and its lines are
    /// dropped.
    pub(super) fn begin(&self, log: CallLog) {
        let mut current = self.lock();
        let tail = current.tail.emptied();
        *current = CallLog { tail, ..log };
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, CallLog> {
        // Nothing panics while holding it, and a log is consistent between any two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of one call, within its limits.
pub(super) struct CallLog {
    /// None in `describe`.
    tenant: Option<Arc<TenantAccount>>,
    /// A field of each line if the events were handled before.
    replaying: Option<bool>,
    lines_left: u32,
    line_bytes: usize,
    dropped: u32,
    /// Lines over the tenant's volume.
    over_volume: u32,
    /// Lines that were longer than allowed.
    shortened: u32,
    /// The last line at `critical`, which a guest logs before it traps on purpose.
    critical: Option<String>,
    /// The last lines on standard error, where a language's runtime prints an exception and its
    /// stack.
    errors: VecDeque<String>,
    errors_bytes: usize,
    /// Unfinished lines on standard output and standard error.
    printed: [Vec<u8>; 2],
    tail: LogTail,
}

/// The last lines of one call. It takes no memory until the guest logs, and then at most
/// twice [`LOG_TAIL_BYTES`] of text.
#[derive(Default)]
struct LogTail(String);

impl LogTail {
    /// An empty tail in the same memory.
    fn emptied(&mut self) -> LogTail {
        self.0.clear();
        LogTail(std::mem::take(&mut self.0))
    }

    /// Adds a line. A line break in it is kept, and what follows is indented, so that it does not
    /// look like a further line.
    fn push(&mut self, level: Level, context: &str, message: &str) {
        let name = match level {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        };
        let separator = if context.is_empty() { "" } else { ": " };
        for part in [name, " ", beginning(context, TAIL_LINE_BYTES), separator] {
            self.add(part);
        }
        for (number, line) in beginning(message, TAIL_LINE_BYTES).trim_end().split('\n').enumerate() {
            if number > 0 {
                self.add("\n  ");
            }
            self.add(line);
        }
        self.add("\n");
    }

    /// Adds a part of a line. When there is no more room, all but the last [`LOG_TAIL_BYTES`] are
    /// dropped at once, so that adding costs little on average.
    fn add(&mut self, text: &str) {
        if self.0.len() + text.len() > 2 * LOG_TAIL_BYTES {
            let from = self.0.ceil_char_boundary(self.0.len() - LOG_TAIL_BYTES);
            self.0.drain(..from);
        }
        self.0.push_str(text);
    }
}

impl CallLog {
    pub(super) fn new(tenant: Option<Arc<TenantAccount>>, replaying: bool, limits: &Limits) -> Self {
        CallLog {
            tenant,
            replaying: replaying.then_some(true),
            lines_left: limits.log_lines,
            line_bytes: limits.log_line_bytes,
            dropped: 0,
            over_volume: 0,
            shortened: 0,
            critical: None,
            errors: VecDeque::new(),
            errors_bytes: 0,
            printed: Default::default(),
            tail: LogTail::default(),
        }
    }

    /// The last lines of the call.
    pub(super) fn tail(&self) -> &str {
        &self.tail.0
    }

    /// The guest's last words: its last line at `critical`, or else its last lines on standard
    /// error.
    pub(super) fn last_words(&self) -> Option<Cow<'_, str>> {
        match &self.critical {
            Some(line) => Some(line.into()),
            None if self.errors.is_empty() => None,
            None => Some(self.errors.iter().map(String::as_str).collect::<Vec<_>>().join("\n").into()),
        }
    }

    /// Logs a line.
    pub(super) fn line(&mut self, processor: &str, level: Level, context: &str, message: &str) {
        if let Level::Critical = level {
            self.critical = Some(self.cut(message).to_string());
        }
        self.tail.push(level, context, message);
        if self.lines_left == 0 {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.lines_left -= 1;
        self.shortened += u32::from(message.len() > self.line_bytes);
        let (context, message) = (self.cut(context), self.cut(message));
        let account = self.tenant.as_deref();
        let admitted =
            || account.is_none_or(|tenant| tenant.log().admits(context.len() + message.len(), Instant::now()));
        let (tenant, replaying) = (account.map(|tenant| tenant.id().as_str()), self.replaying);
        macro_rules! emit {
            ($level:ident, $name:ident) => {
                if !tracing::enabled!(target: "sandmill::guest", tracing::Level::$name) {
                    true
                } else if admitted() {
                    tracing::$level!(target: "sandmill::guest", processor, tenant, context, replaying, message);
                    true
                } else {
                    false
                }
            };
        }
        let passed = match level {
            Level::Trace => emit!(trace, TRACE),
            Level::Debug => emit!(debug, DEBUG),
            Level::Info => emit!(info, INFO),
            Level::Warn => emit!(warn, WARN),
            Level::Error | Level::Critical => emit!(error, ERROR),
        };
        self.over_volume += u32::from(!passed);
    }

    /// Logs what a guest prints, standard output at `info` and standard error at `warn`. Of a line,
    /// only as much is kept as may be logged, and one byte more as a sign that it was longer.
    pub(super) fn print(&mut self, processor: &str, level: Level, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(level, &rest[..end]);
            self.end_line(processor, level);
            rest = &rest[end + 1..];
        }
        self.keep(level, rest);
    }

    /// Ends the lines that the guest began to print.
    pub(super) fn end_lines(&mut self, processor: &str) {
        self.end_line(processor, Level::Info);
        self.end_line(processor, Level::Warn);
    }

    /// Ends the log of a call: ends unfinished lines, counts refusals, and reports dropped lines
    /// when a report is due.
    pub(super) fn end(&mut self, processor: &str, refusals: &RefusalCounts) {
        self.end_lines(processor);
        let (dropped, over_volume, shortened) = (
            std::mem::take(&mut self.dropped),
            std::mem::take(&mut self.over_volume),
            std::mem::take(&mut self.shortened),
        );
        let tenant = self.tenant.as_deref();
        let id = tenant.map(TenantAccount::id);
        for (class, lines, message) in [
            ("log-lines", dropped, "logged more lines in one call than allowed (limits.log-lines)"),
            ("log-line-bytes", shortened, "logged longer lines than allowed (limits.log-line-bytes)"),
            ("log-volume", over_volume, "logged more per second than allowed (tenant-limits.log-kib-per-second)"),
        ] {
            refusals.add_for(id, u64::from(lines), || Reason::new(class, message));
        }
        let lines = u64::from(dropped) + u64::from(over_volume);
        let due = match tenant {
            Some(tenant) => tenant.log().count_dropped(lines, Instant::now()),
            None => Some(lines).filter(|lines| *lines > 0),
        };
        if let Some(dropped) = due {
            tracing::warn!(
                target: "sandmill::guest",
                processor,
                tenant = id.map(TenantId::as_str),
                dropped,
                "log lines over limits.log-lines or tenant-limits.log-kib-per-second were dropped"
            );
        }
    }

    fn keep(&mut self, level: Level, bytes: &[u8]) {
        let most = self.line_bytes + 1;
        let line = &mut self.printed[usize::from(matches!(level, Level::Warn))];
        line.extend(&bytes[..bytes.len().min(most.saturating_sub(line.len()))]);
    }

    fn end_line(&mut self, processor: &str, level: Level) {
        let error = matches!(level, Level::Warn);
        let line = std::mem::take(&mut self.printed[usize::from(error)]);
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        if text.is_empty() {
            return;
        }
        if error {
            self.keep_error(&text);
        }
        self.line(processor, level, if error { "stderr" } else { "stdout" }, &text);
    }

    /// Keeps the last errors that a reason can quote. A line over the bound is cut at its end,
    /// since its message is at the beginning.
    fn keep_error(&mut self, text: &str) {
        if text.starts_with(BACKTRACE_HINT) {
            return;
        }
        let line = &text[..text.floor_char_boundary(ERRORS_BYTES.min(self.line_bytes))];
        self.errors.push_back(line.to_owned());
        // Each line but the last ends with a line break.
        self.errors_bytes += line.len() + 1;
        while self.errors_bytes > ERRORS_BYTES + 1 {
            let Some(first) = self.errors.pop_front() else { break };
            self.errors_bytes -= first.len() + 1;
        }
    }

    fn cut<'a>(&self, text: &'a str) -> &'a str {
        beginning(text, self.line_bytes)
    }
}

fn beginning(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diagnostics::Diagnostics;

    fn printed(bytes: &str) -> Option<String> {
        let mut log = CallLog::new(None, false, &Limits::default());
        log.print("p", Level::Warn, bytes.as_bytes());
        log.end_lines("p");
        log.last_words().map(Cow::into_owned)
    }

    #[test]
    fn the_last_printed_errors_are_kept_with_their_stack() {
        let python =
            "Traceback (most recent call last):\n  File \"/0/plugin.py\", line 10, in project\nKeyError: 'nothing'";
        assert_eq!(printed(python).as_deref(), Some(python));
        let rust = "thread '<unnamed>' (1) panicked at lib.rs:1:2:\nno such seat";
        let note = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";
        assert_eq!(printed(&format!("{rust}\n{note}\n")).as_deref(), Some(rust));
        assert_eq!((printed(""), printed("\n")), (None, None));
    }

    #[test]
    fn kept_errors_are_bounded() {
        let lines: Vec<String> = (0..500).map(|number| format!("line {number}")).collect();
        let kept = printed(&lines.join("\n")).unwrap();
        assert!(kept.len() <= ERRORS_BYTES && kept.len() > ERRORS_BYTES - 20, "{kept}");
        assert!(kept.ends_with("\nline 498\nline 499"), "{kept}");
        let long = printed(&format!("before\n{}", "é".repeat(5_000))).unwrap();
        assert_eq!(long, "é".repeat(ERRORS_BYTES / 2), "the beginning of the last line");
    }

    #[test]
    fn the_tail_has_the_last_lines_of_one_call() {
        let log = GuestLog::new(CallLog::new(None, false, &Limits { log_lines: 1, ..Limits::default() }));
        log.lock().line("p", Level::Debug, "prices", "first\nsecond\n");
        log.lock().print("p", Level::Warn, b"no line break");
        log.lock().end_lines("p");
        assert_eq!(log.lock().tail(), "DEBUG prices: first\n  second\nWARN stderr: no line break\n");
        let memory = log.lock().tail.0.as_ptr();
        log.begin(CallLog::new(None, false, &Limits::default()));
        assert_eq!(log.lock().tail(), "");
        log.lock().line("p", Level::Critical, "", "only");
        assert_eq!(log.lock().tail(), "CRITICAL only\n");
        assert_eq!(log.lock().tail.0.as_ptr(), memory, "the memory is used again");
    }

    #[test]
    fn the_tail_is_bounded_and_its_last_lines_are_whole() {
        let mut log = CallLog::new(None, false, &Limits { log_line_bytes: 16 << 10, ..Limits::default() });
        for number in 0..500 {
            log.line("p", Level::Info, &"c".repeat(9_000), &format!("{number} {}", "é\n".repeat(9_000)));
            assert!(log.tail().len() <= 2 * LOG_TAIL_BYTES && log.tail.0.capacity() <= 4 * LOG_TAIL_BYTES);
        }
        for number in 0..500 {
            log.line("p", Level::Info, "", &format!("line {number}"));
        }
        let kept = Diagnostics::new("", log.tail()).unwrap().log_tail;
        assert!(kept.len() <= LOG_TAIL_BYTES && kept.len() > LOG_TAIL_BYTES - 20, "{kept}");
        assert!(kept.starts_with("…\nINFO line ") && kept.ends_with("\nINFO line 498\nINFO line 499\n"), "{kept}");
    }

    #[test]
    fn a_critical_line_takes_precedence_over_printed_errors() {
        let mut log = CallLog::new(None, false, &Limits::default());
        log.line("p", Level::Critical, "exception", "KeyError: 'seat'");
        log.print("p", Level::Warn, b"panicked\n");
        assert_eq!(log.last_words().as_deref(), Some("KeyError: 'seat'"));
    }
}
