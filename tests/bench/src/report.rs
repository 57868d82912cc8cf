//! The report of all figures: each one when it is measured, and at the end a table for people and
//! JSON for comparisons.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{machine, world::World};

/// All figures of one run.
pub struct Report {
    machine: Value,
    rows: Vec<Row>,
    tables: Vec<Table>,
}

/// A table of cases, each with the same kinds of figures.
struct Table {
    part: &'static str,
    cases: String,
    heads: Vec<String>,
    rows: Vec<(String, Vec<f64>)>,
}

struct Row {
    part: &'static str,
    what: String,
    unit: &'static str,
    /// The samples, in the order of measurement.
    samples: Vec<f64>,
}

impl Report {
    /// An empty report with a description of this machine and its current load.
    pub fn new(world: &World) -> Self {
        let machine = json!({
            "cores": machine::cores(), "loadAtStart": machine::load(), "postgres": world.postgres(), "rounds": world.rounds,
        });
        Report { machine, rows: Vec::new(), tables: Vec::new() }
    }

    /// Adds the samples of one figure, usually one per round. Their median is reported.
    pub fn add(&mut self, part: &'static str, what: impl Into<String>, unit: &'static str, samples: Vec<f64>) {
        let row = Row { part, what: what.into(), unit, samples };
        eprintln!("{}", row.line(0, 0));
        self.rows.push(row);
    }

    /// Adds the ratio of two figures, round by round.
    pub fn add_ratio(&mut self, part: &'static str, what: impl Into<String>, above: &[f64], below: &[f64]) {
        self.add(part, what, "×", above.iter().zip(below).map(|(above, below)| above / below).collect());
    }

    /// Adds a table: the heading of the cases, the headings of the figures, and the rows.
    pub fn add_table(&mut self, part: &'static str, cases: &str, heads: &[&str], rows: Vec<(String, Vec<f64>)>) {
        let heads = heads.iter().map(|head| head.to_string()).collect();
        self.tables.push(Table { part, cases: cases.into(), heads, rows });
    }

    /// Prints the tables and writes the file.
    pub fn finish(mut self, file: &Path) -> anyhow::Result<()> {
        self.machine["loadAtEnd"] = json!(machine::load());
        let widest = |cell: fn(&Row) -> usize| self.rows.iter().map(cell).max().unwrap_or(0);
        let (part, what) = (widest(|row| row.part.chars().count()), widest(|row| row.what.chars().count()));
        for row in &self.rows {
            println!("{}", row.line(part, what));
        }
        self.tables.iter().for_each(Table::print);
        println!("\n{}", self.machine);
        let mut parts = BTreeMap::<&str, Vec<Value>>::new();
        for Row { part, what, unit, samples } in &self.rows {
            let row = json!({"what": what, "unit": unit, "median": median(samples), "samples": samples});
            parts.entry(part).or_default().push(row);
        }
        for Table { part, cases, heads, rows } in &self.tables {
            for (case, figures) in rows {
                let figures: serde_json::Map<String, Value> =
                    heads.iter().cloned().zip(figures.iter().map(|f| json!(f))).collect();
                parts.entry(part).or_default().push(json!({cases: case.trim(), "figures": figures}));
            }
        }
        let text = serde_json::to_string_pretty(&json!({"machine": self.machine, "parts": parts}))?;
        std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        println!("also in {}", file.display());
        Ok(())
    }
}

impl Table {
    fn print(&self) {
        let widest = self.rows.iter().map(|(case, _)| case.chars().count()).chain([self.cases.chars().count()]).max();
        let case = widest.unwrap_or(0);
        let cell = |text: &str| format!("  {text:>10}");
        println!("\n{:<case$}{}", self.cases, self.heads.iter().map(|head| cell(head)).collect::<String>());
        for (name, figures) in &self.rows {
            println!("{name:<case$}{}", figures.iter().map(|figure| cell(&number(*figure))).collect::<String>());
        }
    }
}

impl Row {
    fn line(&self, part: usize, what: usize) -> String {
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let spread =
            if self.samples.len() > 1 { format!("  [{}..{}]", number(least), number(most)) } else { String::new() };
        let Row { part: name, what: text, unit, samples } = self;
        format!("{name:<part$}  {text:<what$}  {:>9} {unit:<8}{spread}", number(median(samples))).trim_end().to_string()
    }
}

/// The median: the middle sample, or the mean of the middle two.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The quantile of samples, interpolated between two neighbours.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = last as f64 * part;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// A number with three significant digits, and with `k` for thousands.
fn number(value: f64) -> String {
    match value {
        v if v.abs() >= 100_000.0 => format!("{:.0} k", v / 1000.0),
        v if v.abs() >= 10_000.0 => format!("{:.1} k", v / 1000.0),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
