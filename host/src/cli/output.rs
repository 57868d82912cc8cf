//! What is at the other end of standard output, and how to speak to it: a terminal gets its width and colours, a pipe neither.
//!
//! Colours mark what a person should see first, and only on a terminal, without `NO_COLOR` in the
//! environment, and unless `TERM` is `dumb`. Machines read one JSON object a line. Text from
//! plugins and applications passes [`model::text`](crate::model::text) before it is shown, so that
//! no error message can control an operator's terminal.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use serde::Serialize;

use crate::{
    model::text,
    telemetry::{self, Level, Outlet},
};

/// What a text is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// It does not go on by itself.
    Bad,
    /// It may need somebody soon.
    Warning,
    /// It is as it should be.
    Good,
    /// It is there for those who look for it.
    Quiet,
}

impl Tone {
    /// How grave it is, for collectors of logs.
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

/// Where a command's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// Characters to a line of a terminal; none elsewhere.
    pub(super) width: Option<usize>,
    /// Whether it takes colours.
    pub(super) colours: bool,
}

impl Screen {
    /// No terminal: every line as long as it is, and no colours.
    pub(super) const PLAIN: Screen = Screen { width: None, colours: false };

    /// What standard output is.
    pub(super) fn stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Screen::PLAIN;
        }
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not know its size, such as a serial line.
        let width = if columns == 0 { 80 } else { columns };
        Screen { width: Some(width), colours: colours_wanted() }
    }

    /// What standard error is; its lines are never cut.
    pub(super) fn stderr() -> Self {
        Screen { width: None, colours: io::stderr().is_terminal() && colours_wanted() && !telemetry::is_json() }
    }

    /// The text in its tone, where there are colours.
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

/// A number and what it counts: `1 lane`, `2 lanes`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Prints one JSON object on a line of its own.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(&json_line(value)?)
}

/// One JSON object with its line break. Keeps every character, and escapes those that could control
/// a terminal.
pub(super) fn json_line(value: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(text::json(&json).into_owned() + "\n")
}

/// Says something on standard error, after a word in its tone. Does not wait for a reader.
pub(super) fn say(tone: Tone, word: &str, what: &str) {
    telemetry::emit(tone.level(), &format!("{} {}", Screen::stderr().paint(Some(tone), word), text::printable(what)));
}

/// Notes something on standard error.
pub(super) fn note(what: &str) {
    telemetry::emit(Level::INFO, &text::printable(what));
}

static STDOUT: OnceLock<Outlet> = OnceLock::new();

/// Standard output of a command that keeps working and must not wait for its reader.
pub(super) fn stdout() -> io::Result<Outlet> {
    if let Some(outlet) = STDOUT.get() {
        return Ok(outlet.clone());
    }
    let outlet = Outlet::to(io::stdout(), |_| String::new())?;
    Ok(STDOUT.get_or_init(|| outlet).clone())
}

/// Writes whole lines to standard output without waiting. A reader that has gone away is an error,
/// which ends the command in order.
pub(super) fn tell(what: &str) -> io::Result<()> {
    let outlet = stdout()?;
    outlet.push(&format!("{}\n", text::printable(what)));
    outlet.failed().map_or(Ok(()), |failed| Err(failed.into()))
}

/// Prints uncoloured text, with anything replaced that could control a terminal.
pub(super) fn print_plain(text: &str) -> io::Result<()> {
    print(&text::printable(text))
}

/// Waits until the reader has taken everything, unless it stalls.
pub(super) fn finish() -> io::Result<()> {
    let Some(outlet) = STDOUT.get() else { return Ok(()) };
    outlet.flush();
    outlet.failed().map_or(Ok(()), |failed| Err(failed.into()))
}

/// Prints text as it is, and waits for its reader. A reader that has gone away is an error here,
/// where `print!` would panic.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_is_painted() {
        let terminal = Screen { width: Some(80), colours: true };
        assert_eq!(terminal.paint(Some(Tone::Bad), "blocked"), "\x1b[1;31mblocked\x1b[0m");
        assert_eq!((terminal.paint(Some(Tone::Bad), ""), terminal.paint(None, "x")), (String::new(), "x".into()));
        assert_eq!(Screen::PLAIN.paint(Some(Tone::Bad), "blocked"), "blocked");
    }
}
