//! `sandmill import`: imports events from a file, with a progress bar on a terminal.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    database::{connect, with_remedy},
    output::{self, count},
};
use crate::{
    db::{Db, migrate::is_schema_missing},
    store::import::{ImportError, ImportInput, ImportProgress, import},
};

const EXAMPLES: &str = "\
Examples:
  sandmill import flights.ndjson.gz
  zcat old/*.gz | sandmill import -
  sandmill events --json --database-url OLD | sandmill import - --database-url NEW";

const DETAILS: &str = "\
Each line of the file is one event:
  {\"tenant\":\"acme\",\"stream\":\"cart-1\",\"type\":\"ItemAdded\",\"data\":{\"sku\":\"x\"}}
Optional keys: tenant (default: `default`), id, metadata (an object), recordedAt (RFC 3339).
Ignored keys: position and version, so that the output of `sandmill events --json` can be
imported.

Repeated import: a line that equals a stored event is skipped. A line with the id of a
different event of the same tenant is an error.

Errors: events are stored in the file's order, 5,000 per commit. The first invalid line ends
the import; the lines before it are stored.

Limits: data and metadata together 4 MiB (`sandmill migrate --max-event-bytes` changes it), 512
levels of nesting, numbers of 1,000 characters.

With --json it prints one object: {\"imported\", \"repeated\", \"lines\", \"seconds\"}";

/// Imports events from a file of JSON lines, optionally compressed with gzip
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct ImportArgs {
    /// The file; `-` for standard input
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: ImportArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let input = ImportInput::open(&args.file).with_context(|| format!("cannot open {}", args.file.display()))?;
    let mut session = connect(db, "import").await?;
    let bar = bar(input.bytes());
    let result = import(&mut session, input, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    match result {
        Ok(report) if args.json => output::print_json(&report)?,
        Ok(report) => output::print(&format!(
            "imported {} in {:.1} s ({:.0} per second); {} were stored already\n",
            count(report.imported, "event"),
            report.seconds,
            report.lines as f64 / report.seconds.max(1e-3),
            report.repeated
        ))?,
        Err(ImportError::Database { source, .. }) if is_schema_missing(&source) => return Err(with_remedy(&source)),
        Err(error @ ImportError::BadLine { line, .. }) => {
            // A repeated import would store lines without an id twice.
            anyhow::bail!(
                "import {}: {error}\nCorrect line {line}, then import from that line on. If every line has an id, you can import the whole file again.",
                args.file.display()
            )
        }
        Err(error) => return Err(anyhow::Error::from(error).context(format!("import {}", args.file.display()))),
    }
    Ok(ExitCode::SUCCESS)
}

/// A progress bar in bytes, since the number of events is unknown; hidden if standard error is no
/// terminal.
fn bar(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(bytes, ProgressDrawTarget::hidden());
    }
    let (bar, template) = match bytes {
        Some(_) => (ProgressBar::new(bytes.unwrap_or_default()), "{bar:40} {percent:>3} %  {msg}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}, {elapsed}"),
    };
    // The templates are constants. An invalid one falls back to the default style.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, progress: ImportProgress) {
    bar.set_position(progress.bytes_read);
    bar.set_message(match progress.repeated {
        0 => format!("{} events", progress.imported),
        repeated => format!("{} events, {repeated} stored already", progress.imported),
    });
}
