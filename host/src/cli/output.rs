//! Output to terminals and pipes: plain text, colours and JSON lines.
//!
//! On a terminal, lines fit its width and have colours; in a pipe they have neither limit nor
//! colours. `NO_COLOR` and `TERM=dumb` disable colours. Text from plugins and applications passes
//! [`model::text`](crate::model::text) before it is shown, so no error message can control an
//! operator's terminal.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use serde::Serialize;

use crate::{
    model::text,
    telemetry::{self, Level, Outlet},
};

/// The importance of a message, shown as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// An error, or work that does not proceed without help.
    Bad,
    /// A condition that may need attention soon.
    Warning,
    /// A normal condition.
    Good,
    /// A detail.
    Quiet,
}

impl Tone {
    /// The level in the log.
    fn level(self) -> Level {
        match self {
            Tone::Bad => Level::ERROR,
            Tone::Warning => Level::WARN,
            Tone::Good | Tone::Quiet => Level::INFO,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Tone::Bad => "1;31",
            Tone::Warning => "33",
            Tone::Good => "32",
            Tone::Quiet => "2",
        }
    }
}

/// The width and colours of an output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputStyle {
    /// Characters per line of a terminal; none if it is not a terminal.
    pub(super) width: Option<usize>,
    /// Whether colours are on.
    pub(super) colours: bool,
}

impl OutputStyle {
    /// The style of a pipe or file: lines of any length, no colours.
    pub(super) const PLAIN: OutputStyle = OutputStyle { width: None, colours: false };

    /// The style of standard output.
    pub(super) fn stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return OutputStyle::PLAIN;
        }
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        // Some terminals, such as serial lines, report no size.
        let width = if columns == 0 { 80 } else { columns };
        OutputStyle { width: Some(width), colours: colours_wanted() }
    }

    /// The style of standard error, whose lines are never cut.
    pub(super) fn stderr() -> Self {
        OutputStyle { width: None, colours: io::stderr().is_terminal() && colours_wanted() && !telemetry::is_json() }
    }

    /// The text in the colour of its tone, if colours are on.
    pub(super) fn paint(self, tone: Option<Tone>, text: &str) -> String {
        match tone {
            Some(tone) if self.colours && !text.is_empty() => format!("\x1b[{}m{text}\x1b[0m", tone.code()),
            _ => text.into(),
        }
    }
}

fn colours_wanted() -> bool {
    telemetry::is_colour_wanted() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A number with its noun: `1 lane`, `2 lanes`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Prints one JSON object on one line.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(&json_line(value)?)
}

/// One JSON object with a line break. Escapes characters that could control a terminal.
pub(super) fn json_line(value: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(text::json(&json).into_owned() + "\n")
}

/// Writes a message to standard error after a coloured label. Does not wait for the reader.
pub(super) fn message(tone: Tone, label: &str, message: &str) {
    let label = OutputStyle::stderr().paint(Some(tone), label);
    telemetry::emit(tone.level(), &format!("{label} {}", text::printable(message)));
}

/// Writes a message to standard error. Does not wait for the reader.
pub(super) fn note(message: &str) {
    telemetry::emit(Level::INFO, &text::printable(message));
}

static STDOUT: OnceLock<Outlet> = OnceLock::new();

/// Standard output that never blocks, for commands that must keep working if the reader stalls.
pub(super) fn stdout() -> io::Result<Outlet> {
    if let Some(outlet) = STDOUT.get() {
        return Ok(outlet.clone());
    }
    let outlet = Outlet::to(io::stdout(), |_| String::new())?;
    Ok(STDOUT.get_or_init(|| outlet).clone())
}

/// Prints a line without waiting for the reader. A closed output is an error, so the command can
/// end in order.
pub(super) fn print_line(line: &str) -> io::Result<()> {
    let outlet = stdout()?;
    outlet.push(&format!("{}\n", text::printable(line)));
    outlet.failed().map_or(Ok(()), |failed| Err(failed.into()))
}

/// Prints uncoloured text. Replaces characters that could control a terminal.
pub(super) fn print_plain(text: &str) -> io::Result<()> {
    print(&text::printable(text))
}

/// Waits until the reader has taken all non-blocking output, unless the reader stalls.
pub(super) fn finish() -> io::Result<()> {
    let Some(outlet) = STDOUT.get() else { return Ok(()) };
    outlet.flush();
    outlet.failed().map_or(Ok(()), |failed| Err(failed.into()))
}

/// Prints text unchanged, and waits for the reader. Returns an error if the output is closed, where
/// `print!` would panic.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_coloured_only_on_a_terminal() {
        let terminal = OutputStyle { width: Some(80), colours: true };
        assert_eq!(terminal.paint(Some(Tone::Bad), "blocked"), "\x1b[1;31mblocked\x1b[0m");
        assert_eq!((terminal.paint(Some(Tone::Bad), ""), terminal.paint(None, "x")), (String::new(), "x".into()));
        assert_eq!(OutputStyle::PLAIN.paint(Some(Tone::Bad), "blocked"), "blocked");
    }
}
