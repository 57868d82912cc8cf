//! Tables for people: columns aligned, numbers to the right, and never broken by a narrow terminal.
//!
//! A [`Table`] is known as a whole. Its last column takes the words: on a terminal it is wrapped within its column, or below its row where
//! the column would be too narrow to read; in a pipe every row is one line. A [`Listing`] is printed as its rows come, however many there are: its columns are as
//! wide as in the rows seen so far, and on a terminal its lines are cut at the edge unless everything is wanted.

use std::io::{self, BufWriter, Stdout, Write};

use super::output::{Screen, Tone};
use crate::model::text;

/// Between two columns.
const GAP: &str = "  ";
/// The narrowest column that words are wrapped in.
const READABLE: usize = 24;
/// Before words that stand below their row.
const INDENT: usize = 4;
/// Rows of a listing that are held back to measure them, and their bytes: a screenful or two.
const HELD: (usize, usize) = (100, 1 << 16);

/// A column: its head, and which way it is aligned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// To the left.
    Text(&'static str),
    /// To the right.
    Number(&'static str),
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Column::Text(head) | Column::Number(head) => head,
        }
    }

    fn align(self, text: &str, width: usize) -> String {
        match self {
            Column::Text(_) => format!("{text:<width$}"),
            Column::Number(_) => format!("{text:>width$}"),
        }
    }
}

/// What stands in a column of a row.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub(super) fn new(text: impl ToString) -> Self {
        Cell { text: text::printable(&text.to_string()).into_owned(), tone: None }
    }

    pub(super) fn tone(self, tone: Option<Tone>) -> Self {
        Cell { tone, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A table that is known as a whole.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Table { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(super) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, head first.
    pub(super) fn show(&self, screen: Screen) -> String {
        let head: Vec<Cell> =
            self.columns.iter().map(|column| Cell::new(column.head()).tone(Some(Tone::Quiet))).collect();
        let rows: Vec<&Vec<Cell>> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let last = self.columns.len().saturating_sub(1);
        let left: usize = widths[..last].iter().map(|width| width + GAP.len()).sum();
        let words = matches!(self.columns.last(), Some(Column::Text(_)));
        // Where too little room is left for words they stand below their rows, and need no head.
        let below = words && screen.width.is_some_and(|width| width.saturating_sub(left) < READABLE.min(widths[last]));
        let indent = if below { INDENT } else { left };
        let room = screen.width.map(|width| width.saturating_sub(indent).max(READABLE));
        let break_line = format!("\n{}", " ".repeat(indent));
        let mut text = String::new();
        for (number, row) in rows.into_iter().enumerate() {
            let mut cells: Vec<String> = Vec::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths).take(last) {
                cells.push(screen.paint(cell.tone, &column.align(&cell.text, *width)));
            }
            if let Some(cell) = row.get(last).filter(|_| !below || number > 0) {
                let lines = match room {
                    Some(room) if words => wrap(&cell.text, room),
                    _ if words => vec![cell.text.replace('\n', " ")],
                    _ => vec![format!("{:>1$}", cell.text, widths[last])],
                };
                let lines: Vec<String> = lines.iter().map(|line| screen.paint(cell.tone, line)).collect();
                let lines = lines.join(&break_line);
                match cells.last_mut() {
                    Some(before) if below => before.push_str(&format!("{break_line}{lines}")),
                    _ => cells.push(lines),
                }
            }
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

/// Breaks a text at spaces into lines of so many characters, and where a word is longer within it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line: Vec<char> = Vec::new();
        for word in paragraph.split_whitespace() {
            let word: Vec<char> = word.chars().collect();
            if !line.is_empty() && line.len() + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line).into_iter().collect());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word);
            while line.len() > width {
                lines.push(line.drain(..width).collect());
            }
        }
        lines.push(line.into_iter().collect());
    }
    lines
}

/// Columns of text without a head, each as wide as its widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    rows.iter().for_each(|row| widen(&mut widths, row));
    rows.iter().map(|row| line(row, &vec![Column::Text(""); columns], &widths) + "\n").collect()
}

fn widen(widths: &mut [usize], row: &[String]) {
    for (width, cell) in widths.iter_mut().zip(row) {
        *width = (*width).max(cell.chars().count());
    }
}

fn line(row: &[String], columns: &[Column], widths: &[usize]) -> String {
    let cells = row.iter().zip(columns).zip(widths).map(|((cell, column), width)| column.align(cell, *width));
    cells.collect::<Vec<_>>().join(GAP).trim_end().into()
}

/// Rows that are printed as they come, without a head.
pub(super) struct Listing {
    out: BufWriter<Stdout>,
    columns: Vec<Column>,
    widths: Vec<usize>,
    /// Lines are cut there.
    edge: Option<usize>,
    /// What is held back until enough is known; none once it was printed.
    held: Option<Vec<Vec<String>>>,
    held_bytes: usize,
}

impl Listing {
    /// A listing on standard output; `wide` cuts no line.
    pub(super) fn new(columns: impl Into<Vec<Column>>, wide: bool) -> Self {
        let columns = columns.into();
        let edge = Screen::stdout().width.filter(|_| !wide);
        // The last column is as wide as it is.
        let widths = vec![0; columns.len().saturating_sub(1)];
        Listing { out: BufWriter::new(io::stdout()), columns, widths, edge, held: Some(Vec::new()), held_bytes: 0 }
    }

    /// Adds a row with a cell for each column.
    pub(super) fn row(&mut self, cells: Vec<String>) -> io::Result<()> {
        let cells: Vec<String> = cells.iter().map(|cell| text::one_line(cell).into_owned()).collect();
        widen(&mut self.widths, &cells);
        let Some(held) = &mut self.held else { return self.print(&cells) };
        self.held_bytes += cells.iter().map(String::len).sum::<usize>();
        held.push(cells);
        if held.len() >= HELD.0 || self.held_bytes >= HELD.1 { self.release() } else { Ok(()) }
    }

    /// Prints whatever is held back, here or on its way.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.release()?;
        self.out.flush()
    }

    fn release(&mut self) -> io::Result<()> {
        self.held.take().unwrap_or_default().iter().try_for_each(|row| self.print(row))
    }

    fn print(&mut self, row: &[String]) -> io::Result<()> {
        let widths: Vec<usize> = self.widths.iter().copied().chain([0]).collect();
        let line = line(row, &self.columns, &widths);
        match self.edge.and_then(|edge| line.char_indices().nth(edge).map(|_| edge)) {
            None => writeln!(self.out, "{line}"),
            Some(edge) => {
                let kept: String = line.chars().take(edge.saturating_sub(1)).collect();
                writeln!(self.out, "{kept}…")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons() -> Table {
        let mut table = Table::new([Column::Text("TENANT"), Column::Number("EVENT"), Column::Text("REASON")]);
        table.row([Cell::new("acme").tone(Some(Tone::Bad)), Cell::new(7), Cell::new("trap: it divided\nby zero")]);
        table.row([Cell::new("globex"), Cell::new(1234), Cell::new("retry: the other side has not answered in time")]);
        table
    }

    #[test]
    fn a_pipe_gets_a_line_a_row_and_no_colours() {
        let text = "TENANT  EVENT  REASON\n\
                    acme        7  trap: it divided by zero\n\
                    globex   1234  retry: the other side has not answered in time\n";
        assert_eq!(reasons().show(Screen::PLAIN), text);
    }

    #[test]
    fn a_terminal_gets_words_within_its_width() {
        let text = "TENANT  EVENT  REASON\n\
                    acme        7  trap: it divided\n               by zero\n\
                    globex   1234  retry: the other side has\n               not answered in time\n";
        assert_eq!(reasons().show(Screen { width: Some(41), colours: false }), text);
        let text = "TENANT  EVENT\n\
                    acme        7\n    trap: it divided\n    by zero\n\
                    globex   1234\n    retry: the other side has not\n    answered in time\n";
        assert_eq!(reasons().show(Screen { width: Some(35), colours: false }), text);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = reasons().show(Screen { width: Some(100), colours: true });
        let row = text.lines().nth(1).unwrap();
        assert_eq!(row, "\x1b[1;31macme  \x1b[0m      7  trap: it divided");
    }

    #[test]
    fn long_words_are_broken_where_the_line_ends() {
        assert_eq!(wrap("ab abcdefgh i", 4), ["ab", "abcd", "efgh", "i"]);
        assert_eq!(wrap("a\n\nb", 4), ["a", "", "b"]);
    }

    #[test]
    fn rows_without_a_head_are_aligned_as_well() {
        let rows = [vec!["a".to_string(), "1".into(), String::new()], vec!["bcd".into(), "22".into(), "x".into()]];
        assert_eq!(table(&rows), "a    1\nbcd  22  x\n");
    }
}
