//! A region of the terminal that is redrawn in place, below earlier output. The last frame stays.
//!
//! While a [`Screen`] exists, the cursor is hidden and the terminal cuts long lines. Dropping it
//! restores both, however the command ends. A stopped terminal blocks nothing: frames are dropped
//! until it accepts output again.

use std::io::{self, IsTerminal};

use console::Term;

use super::super::output;
use crate::telemetry::Outlet;

/// Hides the cursor, and cuts lines at the edge.
const BEGIN: &str = "\x1b[?25l\x1b[?7l";
/// Undoes both.
const END: &str = "\x1b[?7h\x1b[?25h";
/// The size in lines and columns of a terminal that does not report one.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Whether standard output is a terminal that can be drawn on.
pub(super) fn is_possible() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// The drawn region.
#[derive(Debug)]
pub(super) struct Screen {
    out: Outlet,
    size: (usize, usize),
    /// The number of lines drawn last.
    drawn: usize,
}

impl Screen {
    /// Opens a region below the cursor; none if standard output is not a terminal.
    pub(super) fn open() -> io::Result<Option<Screen>> {
        if !is_possible() {
            return Ok(None);
        }
        let out = output::stdout()?;
        out.push(BEGIN);
        Ok(Some(Screen { out, size: measure(), drawn: 0 }))
    }

    /// The size in columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Replaces the drawn lines in one write, so that no partial frame is visible. Does nothing
    /// while the terminal has not accepted the previous frame.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        if let Some(failed) = self.out.failed() {
            return Err(failed.into());
        }
        if self.out.is_idle() {
            let output = self.output(lines, measure());
            self.out.push(&output);
        }
        Ok(())
    }

    /// Prints text in place of the drawn lines; the next frame is drawn below it. Its long lines
    /// are wrapped, not cut, so that they can be copied.
    pub(super) fn print_above(&mut self, text: &str) {
        let output = self.output_above(text);
        self.out.push(&output);
    }

    fn output_above(&mut self, text: &str) -> String {
        let up = match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A"),
        };
        format!("{up}\r\x1b[J\x1b[?7h{}\r\n\x1b[?7l", text.trim_end().replace('\n', "\r\n"))
    }

    /// The text that replaces the drawn lines by these.
    fn output(&mut self, lines: &[String], size: (usize, usize)) -> String {
        let mut text = String::new();
        if size != self.size {
            // A resized terminal may have moved the drawn lines anywhere.
            text.push_str("\x1b[H\x1b[J");
            (self.size, self.drawn) = (size, 0);
        }
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push('\r');
        for line in lines {
            // Clears the line first: after a full line, the cursor is on its last character.
            text.push_str("\x1b[K");
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        text
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.out.push(END);
        self.out.flush();
    }
}

/// The columns and lines of the terminal that can be drawn on.
pub(super) fn measure() -> (usize, usize) {
    let (lines, columns) = Term::stdout().size_checked().filter(|(l, c)| *l > 0 && *c > 0).unwrap_or(DEFAULT_SIZE);
    // The cursor stays on the last line.
    (columns.into(), usize::from(lines).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_replaces_the_previous_one() {
        let out = Outlet::to(io::stdout(), |_| String::new()).unwrap();
        let mut screen = Screen { out, size: (80, 24), drawn: 0 };
        let lines = |count: usize| vec!["x".to_owned(); count];
        assert_eq!(screen.output(&lines(2), (80, 24)), "\r\x1b[Kx\r\n\x1b[Kx\r\n\x1b[J");
        assert_eq!(screen.output(&lines(1), (80, 24)), "\x1b[2A\r\x1b[Kx\r\n\x1b[J");
        assert_eq!(screen.output(&lines(1), (40, 24)), "\x1b[H\x1b[J\r\x1b[Kx\r\n\x1b[J");
        assert_eq!(screen.output_above("a\nb\n"), "\x1b[1A\r\x1b[J\x1b[?7ha\r\nb\r\n\x1b[?7l");
        assert_eq!(screen.output(&lines(1), (40, 24)), "\r\x1b[Kx\r\n\x1b[J");
    }
}
