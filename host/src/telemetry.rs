//! Log lines: to standard error, as text, coloured only on a terminal, or as JSON. They carry words
//! of plugins and applications, so a [`line`] shows what is the host's own, and nothing in it can
//! steer a terminal.
//!
//! What is logged comes from the environment and is known from the start. How it is written comes
//! from the settings ([`Config`]): until they are read, and where they are wrong, it is text.
//!
//! Logging never stops the work: lines go through a bounded queue ([`Outlet`]), and where nobody
//! reads them they are lost and counted. Whatever else the process says on standard error goes the
//! same way ([`say`]), and [`flush`] waits at the end of the process for what can still be written.
//!
//! A command that draws on the terminal holds log lines back meanwhile ([`Logs::hold`]) and shows
//! the last ones where it wants. What was held and never shown is written when it lets go, so
//! nothing that explains an end is lost.

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

/// The variable that says what is logged.
const VARIABLE: &str = "SANDMILL_LOG";
/// Lines that are held. Default 100: more than any terminal shows of them.
const HELD: usize = 100;

/// Standard error, once the process logs.
static STDERR: OnceLock<Outlet> = OnceLock::new();
/// Whether what is written there is JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// What an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// How lines on standard error are written: `text`, or `json` for one object a line. Default
    /// text, for people. An object has a `timestamp`, a `level`, a `target`, a `message` and
    /// `fields`. What is logged is chosen by SANDMILL_LOG.
    pub format: Format,
}

/// How lines on standard error are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `TIME LEVEL key=value message`, for people.
    #[default]
    Text,
    /// One JSON object a line, for collectors of logs.
    Json,
}

/// Where log lines go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    shared: Arc<LogsInner>,
}

#[derive(Debug, Default)]
struct LogsInner {
    warnings_only: AtomicBool,
    held: Mutex<Option<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    /// How many of them, from the end, nobody was shown.
    unseen: usize,
}

/// Starts logging, as text until [`use_format`]. `SANDMILL_LOG` takes what `tracing-subscriber`
/// calls directives (`debug`, `sandmill::guest=warn`); default `info`.
pub fn start() -> anyhow::Result<Logs> {
    let directives = match asked() {
        None => "info".into(),
        Some(asked) => asked.into_string().map_err(|_| InvalidFilter("the value is not UTF-8".into()))?,
    };
    let directives = filter::check(&directives)?;
    let filter = EnvFilter::try_new(directives).map_err(|error| InvalidFilter(error.to_string()))?;
    let outlet = Outlet::to(io::stderr(), lost).map_err(|e| anyhow::anyhow!("start the thread that logs: {e}"))?;
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
        .map_event_format(|text| Written { text, logs: logs.clone() })
        .init();
    Ok(logs)
}

/// What the environment says of what to log; nothing if the variable is not set, or to nothing.
fn asked() -> Option<std::ffi::OsString> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty())
}

/// Writes all that follows in this format.
pub fn use_format(format: Format) {
    IS_JSON.store(format == Format::Json, Relaxed);
}

/// Whether lines on standard error are JSON.
pub fn is_json() -> bool {
    IS_JSON.load(Relaxed)
}

/// The time, as it stands in a line.
fn now() -> String {
    let mut time = String::new();
    // A string takes whatever is written to it.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
    time
}

/// What the log says where lines are missing.
fn lost(lines: u64) -> String {
    let were = if lines == 1 { "1 log line was".into() } else { format!("{lines} log lines were") };
    let text = format!("{were} lost, because standard error did not take them in time");
    if is_json() { line::said(&now(), Level::WARN, module_path!(), &text) } else { format!("{}  WARN {text}\n", now()) }
}

/// Says something on standard error, in whole lines. Never waits and never fails.
pub fn say(level: Level, text: &str) {
    match STDERR.get() {
        Some(outlet) if is_json() => outlet.push(&line::said(&now(), level, "sandmill", text)),
        Some(outlet) => outlet.push(&format!("{text}\n")),
        // Before the process logs there is nothing that a write could hold up.
        None => _ = writeln!(io::stderr(), "{text}"),
    }
}

/// Lines that standard error did not take so far.
pub fn lines_lost() -> u64 {
    STDERR.get().map_or(0, Outlet::lost)
}

/// Waits until everything is written that can be, and not for a reader that stalls.
pub fn flush() {
    STDERR.get().map(Outlet::flush);
}

/// Whether the environment leaves us our colours: `NO_COLOR` is not set, or to nothing.
pub fn is_colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Logs {
    /// Drops what is below a warning from now on, unless the environment says what to log.
    pub fn prefer_warnings(&self) {
        self.shared.warnings_only.store(asked().is_none(), Relaxed);
    }

    /// Holds lines back until the guard is dropped.
    pub fn hold(&self) -> Held {
        *self.lock() = Some(Lines::default());
        Held { logs: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lines>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Log lines are held back as long as this lives.
#[derive(Debug)]
pub struct Held {
    logs: Logs,
}

impl Held {
    /// The last lines, oldest first, which count as shown from now on.
    pub fn last(&self, most: usize) -> Vec<String> {
        let mut held = self.logs.lock();
        let Some(lines) = held.as_mut() else { return Vec::new() };
        lines.unseen = 0;
        lines.last.iter().skip(lines.last.len().saturating_sub(most)).cloned().collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(lines) = self.logs.lock().take() else { return };
        let shown = lines.last.len().saturating_sub(lines.unseen);
        lines.last.iter().skip(shown).for_each(|line| say(Level::INFO, line));
    }
}

/// Writes one event in the format that is set.
struct Written<T> {
    text: format::Format<format::Full, T>,
    logs: Logs,
}

impl<S, N, T> FormatEvent<S, N> for Written<T>
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
        // Held lines are for a person's eyes.
        if is_json() && self.logs.lock().is_none() {
            writer.write_str(&line::object(&now(), event))
        } else {
            self.text.format_event(context, writer, event)
        }
    }
}

/// Takes one event's text to where it goes.
#[derive(Debug)]
pub struct Writer {
    logs: Logs,
    dropped: bool,
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer { logs: self.clone(), dropped: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Writer {
        let dropped = self.shared.warnings_only.load(Relaxed) && *event.level() > Level::WARN;
        Writer { logs: self.clone(), dropped }
    }
}

impl FormatTime for Logs {
    /// Held lines do without: they are shown while they are new, and where room is short.
    fn format_time(&self, into: &mut format::Writer<'_>) -> std::fmt::Result {
        if self.lock().is_some() { Ok(()) } else { SystemTime.format_time(into) }
    }
}

impl Write for Writer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.dropped {
            return Ok(text.len());
        }
        let mut held = self.logs.lock();
        let Some(lines) = held.as_mut() else {
            drop(held);
            if let Some(outlet) = STDERR.get() {
                outlet.push(&String::from_utf8_lossy(text));
            }
            return Ok(text.len());
        };
        // An event's text arrives whole; a message may have several lines, and is held as one.
        lines.last.push_back(String::from_utf8_lossy(text).trim_end().replace('\n', " "));
        lines.unseen += 1;
        let excess = lines.last.len().saturating_sub(HELD);
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
    fn lines_are_held_in_order_and_the_last_are_shown() {
        let logs = Logs::default();
        let held = logs.hold();
        for number in 0..HELD + 7 {
            logs.make_writer().write_all(format!("line {number}\nand more\n").as_bytes()).unwrap();
        }
        assert_eq!(held.last(2), [format!("line {} and more", HELD + 5), format!("line {} and more", HELD + 6)]);
        assert_eq!(held.last(usize::MAX).len(), HELD);
        drop(held);
        assert!(logs.lock().is_none());
    }
}
