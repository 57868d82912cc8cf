//! What is at the other end of standard output, and how to speak to it: a terminal gets its width and colours, a pipe neither.
//!
//! Colours are for what a person should see first and stand only where they are wanted: on a terminal, without `NO_COLOR` in the
//! environment, and where `TERM` is not `dumb`. What machines read is one JSON object a line. Texts of plugins and applications pass
//! [`harmless`] before they are shown, so that nobody's error message can steer an operator's terminal.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::telemetry;

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
        Screen { width: None, colours: io::stderr().is_terminal() && colours_wanted() }
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

/// The text without what steers a terminal; line breaks stay.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A number and what it counts: `1 lane`, `2 lanes`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Prints one JSON object on a line of its own.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    print(&line)
}

/// Prints a text as it is. A reader who has gone away is an error here, where `print!` would panic.
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

    #[test]
    fn messages_of_others_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\nc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\nc\u{fffd}");
    }
}
