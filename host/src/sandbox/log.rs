//! A guest's log lines: where they go, and how many there may be.
//!
//! Lines come from the contract's `logging` and from what a guest prints. Those of one call are bounded in number and length; more are counted and
//! dropped, and one line of the host says how many. What a guest says last is kept, because a reason for its end should quote it.

use super::{bindings::v0_1::logging, limits::Limits, usage::Refusals};
use crate::model::ids::TenantId;

pub(super) use logging::Level;

/// The guest's log lines of one call, within their limits.
pub(super) struct Log {
    lines_left: u32,
    line_bytes: usize,
    dropped: u32,
    /// Lines that were longer than they may be.
    cut: u32,
    /// The last line at `critical`, or printed as an error: what a guest says before it traps.
    last_words: Option<String>,
    /// What was printed since the last whole line, to standard output and as errors.
    printed: [Vec<u8>; 2],
    /// For the one line about dropped ones.
    whose: Option<(String, Option<TenantId>)>,
}

impl Log {
    pub(super) fn new(limits: &Limits) -> Self {
        Log {
            lines_left: limits.log_lines,
            line_bytes: limits.log_line_bytes,
            dropped: 0,
            cut: 0,
            last_words: None,
            printed: Default::default(),
            whose: None,
        }
    }

    pub(super) fn last_words(&self) -> Option<&str> {
        self.last_words.as_deref()
    }

    /// One line.
    pub(super) fn line(
        &mut self,
        processor: &str,
        tenant: Option<&TenantId>,
        level: Level,
        context: &str,
        message: &str,
    ) {
        if let Level::Critical = level {
            self.last_words = Some(self.cut(message).to_string());
        }
        if self.lines_left == 0 {
            self.dropped = self.dropped.saturating_add(1);
            self.whose.get_or_insert_with(|| (processor.to_string(), tenant.cloned()));
            return;
        }
        self.lines_left -= 1;
        self.cut += u32::from(message.len() > self.line_bytes);
        let tenant = tenant.map(TenantId::as_str);
        let (context, message) = (self.cut(context), self.cut(message));
        macro_rules! say {
            ($level:ident) => {
                tracing::$level!(target: "sandmill::guest", processor, tenant, context, "{message}")
            };
        }
        match level {
            Level::Trace => say!(trace),
            Level::Debug => say!(debug),
            Level::Info => say!(info),
            Level::Warn => say!(warn),
            Level::Error | Level::Critical => say!(error),
        }
    }

    /// What a guest prints, at `info` or, of its errors, `warn`. No more of a line is kept than may be logged, and one byte to tell that it was longer.
    pub(super) fn print(&mut self, processor: &str, tenant: Option<&TenantId>, level: Level, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(level, &rest[..end]);
            self.end_line(processor, tenant, level);
            rest = &rest[end + 1..];
        }
        self.keep(level, rest);
    }

    /// Ends the lines that a guest began to print, and says how many were too many; counts what was refused.
    pub(super) fn end(&mut self, processor: &str, tenant: Option<&TenantId>, refusals: &Refusals) {
        self.end_line(processor, tenant, Level::Info);
        self.end_line(processor, tenant, Level::Warn);
        let (dropped, cut) = (std::mem::take(&mut self.dropped), std::mem::take(&mut self.cut));
        refusals.add("log-lines", dropped.into());
        refusals.add("log-line-bytes", cut.into());
        if dropped > 0 {
            let (processor, tenant) = self.whose.take().unwrap_or_default();
            tracing::warn!(
                target: "sandmill::guest",
                processor,
                tenant = tenant.as_ref().map(TenantId::as_str),
                dropped,
                "log lines over limits.log-lines were dropped"
            );
        }
    }

    fn keep(&mut self, level: Level, bytes: &[u8]) {
        let most = self.line_bytes + 1;
        let line = &mut self.printed[usize::from(matches!(level, Level::Warn))];
        line.extend(&bytes[..bytes.len().min(most.saturating_sub(line.len()))]);
    }

    fn end_line(&mut self, processor: &str, tenant: Option<&TenantId>, level: Level) {
        let error = matches!(level, Level::Warn);
        let line = std::mem::take(&mut self.printed[usize::from(error)]);
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        if text.is_empty() {
            return;
        }
        if error {
            self.last_words = Some(self.cut(&text).to_string());
        }
        self.line(processor, tenant, level, if error { "stderr" } else { "stdout" }, &text);
    }

    fn cut<'a>(&self, text: &'a str) -> &'a str {
        let mut end = self.line_bytes.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        &text[..end]
    }
}
