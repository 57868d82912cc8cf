//! Text tables for terminals and pipes, with aligned columns.
//!
//! A [`Table`] is printed when all rows are known. On a terminal its last column is wrapped, or
//! moved below the row if it would be too narrow to read. In a pipe every row is one line. A
//! [`StreamingTable`] prints rows as they arrive, with columns as wide as in the rows seen so far.
//! On a terminal it cuts lines at the edge, unless cutting is turned off.

use std::io::{self, BufWriter, Stdout, Write};

use super::output::{OutputStyle, Tone};
use crate::model::text;

/// The gap between two columns.
const GAP: &str = "  ";
/// The minimal width of a wrapped column.
const READABLE: usize = 24;
/// The indentation of text below its row.
const INDENT: usize = 4;
/// The rows, and their bytes, that a streaming table buffers to measure its columns. 100 rows or 64
/// KiB: a screenful or two.
const BUFFERED: (usize, usize) = (100, 1 << 16);

/// A column with its heading and alignment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Left-aligned.
    Text(&'static str),
    /// Right-aligned.
    Number(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Column::Text(heading) | Column::Number(heading) => heading,
        }
    }

    fn align(self, text: &str, width: usize) -> String {
        match self {
            Column::Text(_) => format!("{text:<width$}"),
            Column::Number(_) => format!("{text:>width$}"),
        }
    }
}

/// A cell: printable text with an optional colour.
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

/// A table whose rows are all known before it is printed.
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

    /// The table as text, headings first.
    pub(super) fn show(&self, style: OutputStyle) -> String {
        let head: Vec<Cell> =
            self.columns.iter().map(|column| Cell::new(column.heading()).tone(Some(Tone::Quiet))).collect();
        let rows: Vec<&Vec<Cell>> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let last = self.columns.len().saturating_sub(1);
        let left: usize = widths[..last].iter().map(|width| width + GAP.len()).sum();
        let words = matches!(self.columns.last(), Some(Column::Text(_)));
        // If the last column has too little room, its text is printed below the row, without a
        // heading.
        let below = words && style.width.is_some_and(|width| width.saturating_sub(left) < READABLE.min(widths[last]));
        let indent = if below { INDENT } else { left };
        let room = style.width.map(|width| width.saturating_sub(indent).max(READABLE));
        let break_line = format!("\n{}", " ".repeat(indent));
        let mut text = String::new();
        for (number, row) in rows.into_iter().enumerate() {
            let mut cells: Vec<String> = Vec::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths).take(last) {
                cells.push(style.paint(cell.tone, &column.align(&cell.text, *width)));
            }
            if let Some(cell) = row.get(last).filter(|_| !below || number > 0) {
                let lines = match room {
                    Some(room) if words => wrap(&cell.text, room),
                    _ if words => vec![cell.text.replace('\n', " ")],
                    _ => vec![format!("{:>1$}", cell.text, widths[last])],
                };
                let lines: Vec<String> = lines.iter().map(|line| style.paint(cell.tone, line)).collect();
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

/// Wraps text at spaces to `width` characters. Breaks longer words.
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

/// Left-aligned columns without headings, each as wide as its widest cell.
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

/// A table without headings, printed row by row.
pub(super) struct StreamingTable {
    out: BufWriter<Stdout>,
    columns: Vec<Column>,
    widths: Vec<usize>,
    /// The width at which lines are cut, if they are.
    edge: Option<usize>,
    /// Rows buffered to measure the columns; none once they are printed.
    buffered: Option<Vec<Vec<String>>>,
    buffered_bytes: usize,
}

impl StreamingTable {
    /// A table on standard output; `wide` turns cutting off.
    pub(super) fn new(columns: impl Into<Vec<Column>>, wide: bool) -> Self {
        let columns = columns.into();
        let edge = OutputStyle::stdout().width.filter(|_| !wide);
        // The last column is not padded.
        let widths = vec![0; columns.len().saturating_sub(1)];
        let out = BufWriter::new(io::stdout());
        StreamingTable { out, columns, widths, edge, buffered: Some(Vec::new()), buffered_bytes: 0 }
    }

    /// Adds a row with a cell for each column.
    pub(super) fn row(&mut self, cells: Vec<String>) -> io::Result<()> {
        let cells: Vec<String> = cells.iter().map(|cell| text::one_line(cell).into_owned()).collect();
        widen(&mut self.widths, &cells);
        let Some(buffered) = &mut self.buffered else { return self.print(&cells) };
        self.buffered_bytes += cells.iter().map(String::len).sum::<usize>();
        buffered.push(cells);
        let is_full = buffered.len() >= BUFFERED.0 || self.buffered_bytes >= BUFFERED.1;
        if is_full { self.print_buffered() } else { Ok(()) }
    }

    /// Prints all buffered rows.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.print_buffered()?;
        self.out.flush()
    }

    fn print_buffered(&mut self) -> io::Result<()> {
        self.buffered.take().unwrap_or_default().iter().try_for_each(|row| self.print(row))
    }

    /// Prints one row, cut at the edge.
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
    fn a_pipe_gets_one_line_per_row_and_no_colours() {
        let text = "TENANT  EVENT  REASON\n\
                    acme        7  trap: it divided by zero\n\
                    globex   1234  retry: the other side has not answered in time\n";
        assert_eq!(reasons().show(OutputStyle::PLAIN), text);
    }

    #[test]
    fn a_terminal_gets_the_last_column_wrapped_to_its_width() {
        let text = "TENANT  EVENT  REASON\n\
                    acme        7  trap: it divided\n               by zero\n\
                    globex   1234  retry: the other side has\n               not answered in time\n";
        assert_eq!(reasons().show(OutputStyle { width: Some(41), colours: false }), text);
        let text = "TENANT  EVENT\n\
                    acme        7\n    trap: it divided\n    by zero\n\
                    globex   1234\n    retry: the other side has not\n    answered in time\n";
        assert_eq!(reasons().show(OutputStyle { width: Some(35), colours: false }), text);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = reasons().show(OutputStyle { width: Some(100), colours: true });
        let row = text.lines().nth(1).unwrap();
        assert_eq!(row, "\x1b[1;31macme  \x1b[0m      7  trap: it divided");
    }

    #[test]
    fn long_words_are_broken_at_the_end_of_the_line() {
        assert_eq!(wrap("ab abcdefgh i", 4), ["ab", "abcd", "efgh", "i"]);
        assert_eq!(wrap("a\n\nb", 4), ["a", "", "b"]);
    }

    #[test]
    fn rows_without_headings_are_aligned() {
        let rows = [vec!["a".to_string(), "1".into(), String::new()], vec!["bcd".into(), "22".into(), "x".into()]];
        assert_eq!(table(&rows), "a    1\nbcd  22  x\n");
    }
}
