//! Logging to standard error, as text or JSON, and [`metrics`].
//!
//! Log lines contain text of plugins and applications. Each [`mod@line`] is built so that such text
//! can neither forge the host's own fields nor control a terminal. Text is coloured only on a
//! terminal.
//!
//! The environment selects what is logged. The settings ([`Config`]) select the format. Until they
//! are read, or if they are invalid, it is text.
//!
//! Logging never blocks work: lines go through a bounded queue ([`Outlet`]), and are dropped and
//! counted if nobody reads them. All other messages on standard error go through the same queue
//! ([`emit`]). At the end of the process, [`flush`] waits for the lines that can still be written.
//!
//! A command that draws on the terminal captures log lines ([`Logs::capture`]) and displays the
//! last ones itself. Captured lines that were never displayed are written when the guard is
//! dropped, so the messages that explain an exit are not lost.

mod filter;
mod line;
pub mod metrics;
mod outlet;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

pub use filter::InvalidFilter;
pub use outlet::Outlet;
use serde::{Deserialize, Serialize};
pub use tracing::Level;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter, format,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// The environment variable that selects what is logged.
const VARIABLE: &str = "SANDMILL_LOG";
/// Maximum number of captured log lines. 100: more than any command displays.
const CAPTURED: usize = 100;

/// Standard error, once logging has started.
static STDERR: OnceLock<Outlet> = OnceLock::new();
/// Whether lines on standard error are JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Settings of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Format of lines on standard error: `text`, or `json` for one object per line. Default text,
    /// for people. An object has a `timestamp`, a `level`, a `target`, a `message` and `fields`.
    /// The environment variable SANDMILL_LOG selects what is logged.
    pub format: Format,
}

/// The format of lines on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `TIME LEVEL key=value message`, for people.
    #[default]
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// The log of this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    shared: Arc<LogsInner>,
}

#[derive(Debug, Default)]
struct LogsInner {
    warnings_only: AtomicBool,
    captured: Mutex<Option<CapturedLines>>,
}

#[derive(Debug, Default)]
struct CapturedLines {
    last: VecDeque<String>,
    /// Number of lines, from the end, that were not displayed yet.
    unseen: usize,
}

/// Starts logging, as text until [`use_format`]. `SANDMILL_LOG` takes directives of
/// `tracing-subscriber` (`debug`, `sandmill::guest=warn`); default `info`.
pub fn start() -> anyhow::Result<Logs> {
    let directives = match requested() {
        None => "info".into(),
        Some(requested) => requested.into_string().map_err(|_| InvalidFilter("the value is not UTF-8".into()))?,
    };
    let directives = filter::check(&directives)?;
    // At `trace`, this crate would write lines for each call of a guest, past all limits.
    let filter = EnvFilter::try_new(format!("wasmtime_wasi=off,{directives}"))
        .map_err(|error| InvalidFilter(error.to_string()))?;
    let outlet =
        Outlet::to(io::stderr(), lost).map_err(|e| anyhow::anyhow!("start the thread that writes the log: {e}"))?;
    STDERR.get_or_init(|| outlet);
    let logs = Logs::default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(logs.clone())
        .with_timer(logs.clone())
        .with_ansi(io::stderr().is_terminal() && is_colour_wanted())
        .with_target(false)
        .log_internal_errors(false)
        .fmt_fields(line::Fields)
        .map_event_format(|text| EventFormat { text, logs: logs.clone() })
        .init();
    Ok(logs)
}

/// The directives in the environment; none if the variable is unset or empty.
fn requested() -> Option<std::ffi::OsString> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty())
}

/// Sets the format of all further lines.
pub fn use_format(format: Format) {
    IS_JSON.store(format == Format::Json, Relaxed);
}

/// Whether lines on standard error are JSON.
pub fn is_json() -> bool {
    IS_JSON.load(Relaxed)
}

/// The current time, as lines display it.
fn now() -> String {
    let mut time = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
    time
}

/// The log line in place of dropped lines.
fn lost(lines: u64) -> String {
    let were = if lines == 1 { "1 log line was".into() } else { format!("{lines} log lines were") };
    let text = format!("{were} lost, because standard error was not read in time");
    if is_json() {
        line::plain_object(&now(), Level::WARN, module_path!(), &text)
    } else {
        format!("{}  WARN {text}\n", now())
    }
}

/// Writes a message to standard error, in whole lines. Never waits and never fails.
pub fn emit(level: Level, text: &str) {
    match STDERR.get() {
        Some(outlet) if is_json() => outlet.push(&line::plain_object(&now(), level, "sandmill", text)),
        Some(outlet) => outlet.push(&format!("{text}\n")),
        // Before logging starts, no work runs that a write could block.
        None => _ = writeln!(io::stderr(), "{text}"),
    }
}

/// Number of lines dropped so far, because standard error was not read in time.
pub fn lines_lost() -> u64 {
    STDERR.get().map_or(0, Outlet::lost)
}

/// Waits until all queued lines are written, but not for a reader that stalls.
pub fn flush() {
    STDERR.get().map(Outlet::flush);
}

/// Whether the environment allows colours: `NO_COLOR` is unset or empty.
pub fn is_colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Logs {
    /// Drops lines below the level of warnings from now on, unless the environment selects levels.
    pub fn prefer_warnings(&self) {
        self.shared.warnings_only.store(requested().is_none(), Relaxed);
    }

    /// Captures lines until the guard is dropped.
    pub fn capture(&self) -> CaptureGuard {
        *self.lock() = Some(CapturedLines::default());
        CaptureGuard { logs: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<CapturedLines>> {
        self.shared.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that captures log lines until it is dropped.
#[derive(Debug)]
pub struct CaptureGuard {
    logs: Logs,
}

impl CaptureGuard {
    /// The last lines, oldest first. They count as displayed from now on.
    pub fn last(&self, limit: usize) -> Vec<String> {
        let mut captured = self.logs.lock();
        let Some(lines) = captured.as_mut() else { return Vec::new() };
        lines.unseen = 0;
        lines.last.iter().skip(lines.last.len().saturating_sub(limit)).cloned().collect()
    }
}

impl Drop for CaptureGuard {
    fn drop(&mut self) {
        let Some(lines) = self.logs.lock().take() else { return };
        let shown = lines.last.len().saturating_sub(lines.unseen);
        lines.last.iter().skip(shown).for_each(|line| emit(Level::INFO, line));
    }
}

/// The formatter of log events, which follows the current format.
struct EventFormat<T> {
    text: format::Format<format::Full, T>,
    logs: Logs,
}

impl<S, N, T> FormatEvent<S, N> for EventFormat<T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    T: FormatTime,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        // Captured lines are displayed to a person, so they are text in either format.
        if is_json() && self.logs.lock().is_none() {
            writer.write_str(&line::object(&now(), event))
        } else {
            self.text.format_event(context, writer, event)
        }
    }
}

/// The writer of one event's text: to standard error, or to the captured lines.
#[derive(Debug)]
pub struct LineWriter {
    logs: Logs,
    dropped: bool,
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { logs: self.clone(), dropped: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> LineWriter {
        let dropped = self.shared.warnings_only.load(Relaxed) && *event.level() > Level::WARN;
        LineWriter { logs: self.clone(), dropped }
    }
}

impl FormatTime for Logs {
    /// Writes no time into captured lines: they are displayed while they are new, in little space.
    fn format_time(&self, into: &mut format::Writer<'_>) -> std::fmt::Result {
        if self.lock().is_some() { Ok(()) } else { SystemTime.format_time(into) }
    }
}

impl Write for LineWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.dropped {
            return Ok(text.len());
        }
        let mut captured = self.logs.lock();
        let Some(lines) = captured.as_mut() else {
            drop(captured);
            if let Some(outlet) = STDERR.get() {
                outlet.push(&String::from_utf8_lossy(text));
            }
            return Ok(text.len());
        };
        // An event's text arrives in one call. A message of several lines is captured as one line.
        lines.last.push_back(String::from_utf8_lossy(text).trim_end().replace('\n', " "));
        lines.unseen += 1;
        let excess = lines.last.len().saturating_sub(CAPTURED);
        lines.last.drain(..excess);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_captured_in_order_and_the_last_are_returned() {
        let logs = Logs::default();
        let captured = logs.capture();
        for number in 0..CAPTURED + 7 {
            logs.make_writer().write_all(format!("line {number}\nand more\n").as_bytes()).unwrap();
        }
        assert_eq!(
            captured.last(2),
            [format!("line {} and more", CAPTURED + 5), format!("line {} and more", CAPTURED + 6)]
        );
        assert_eq!(captured.last(usize::MAX).len(), CAPTURED);
        drop(captured);
        assert!(logs.lock().is_none());
    }
}
