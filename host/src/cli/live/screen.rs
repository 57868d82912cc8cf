//! A part of the terminal that is drawn again and again in place, below what was printed before it and without a screen of its own, so that
//! its last picture stays when it ends.
//!
//! While it lives, the cursor is hidden and the terminal cuts long lines; dropping it undoes both,
//! however the command ends. Nothing waits for a stopped terminal: pictures are left out until it
//! takes them again.

use std::io::{self, IsTerminal};

use console::Term;

use super::super::output;
use crate::telemetry::Outlet;

/// Cursor hidden, lines cut at the edge.
const BEGIN: &str = "\x1b[?25l\x1b[?7l";
/// Both undone.
const END: &str = "\x1b[?7h\x1b[?25h";
/// What a terminal that does not tell its size is taken for.
const USUAL: (u16, u16) = (24, 80);

/// Whether standard output is a terminal that can be drawn on.
pub(super) fn is_possible() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// The drawn part.
#[derive(Debug)]
pub(super) struct Screen {
    out: Outlet,
    size: (usize, usize),
    drawn: usize,
}

impl Screen {
    /// Begins below the cursor; nothing where standard output is no terminal.
    pub(super) fn open() -> io::Result<Option<Screen>> {
        if !is_possible() {
            return Ok(None);
        }
        let out = output::stdout()?;
        out.push(BEGIN);
        Ok(Some(Screen { out, size: measure(), drawn: 0 }))
    }

    /// Columns and lines that may be drawn on.
    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Replaces the lines that were drawn before, in one write, so that no half-drawn picture is
    /// visible. Does nothing while the terminal has not taken the previous ones.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        if let Some(failed) = self.out.failed() {
            return Err(failed.into());
        }
        if self.out.is_idle() {
            let strokes = self.strokes(lines, measure());
            self.out.push(&strokes);
        }
        Ok(())
    }

    /// Prints a text in place of the drawn lines, which are redrawn below it. Its long lines are
    /// wrapped, not cut, so that they can be copied.
    pub(super) fn print_above(&mut self, text: &str) {
        let strokes = self.strokes_above(text);
        self.out.push(&strokes);
    }

    fn strokes_above(&mut self, text: &str) -> String {
        let up = match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A"),
        };
        format!("{up}\r\x1b[J\x1b[?7h{}\r\n\x1b[?7l", text.trim_end().replace('\n', "\r\n"))
    }

    fn strokes(&mut self, lines: &[String], size: (usize, usize)) -> String {
        let mut text = String::new();
        if size != self.size {
            // The terminal has moved what was drawn to nobody knows where.
            text.push_str("\x1b[H\x1b[J");
            (self.size, self.drawn) = (size, 0);
        }
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push('\r');
        for line in lines {
            // What was there goes first: at the end of a full line the cursor stands on its last character.
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

/// Columns and lines of the terminal that may be drawn on.
pub(super) fn measure() -> (usize, usize) {
    let (lines, columns) = Term::stdout().size_checked().filter(|(l, c)| *l > 0 && *c > 0).unwrap_or(USUAL);
    // The last line is where the cursor rests.
    (columns.into(), usize::from(lines).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_takes_the_place_of_the_one_before() {
        let out = Outlet::to(io::stdout(), |_| String::new()).unwrap();
        let mut screen = Screen { out, size: (80, 24), drawn: 0 };
        let lines = |count: usize| vec!["x".to_owned(); count];
        assert_eq!(screen.strokes(&lines(2), (80, 24)), "\r\x1b[Kx\r\n\x1b[Kx\r\n\x1b[J");
        assert_eq!(screen.strokes(&lines(1), (80, 24)), "\x1b[2A\r\x1b[Kx\r\n\x1b[J");
        assert_eq!(screen.strokes(&lines(1), (40, 24)), "\x1b[H\x1b[J\r\x1b[Kx\r\n\x1b[J");
        assert_eq!(screen.strokes_above("a\nb\n"), "\x1b[1A\r\x1b[J\x1b[?7ha\r\nb\r\n\x1b[?7l");
        assert_eq!(screen.strokes(&lines(1), (40, 24)), "\r\x1b[Kx\r\n\x1b[J");
    }
}
