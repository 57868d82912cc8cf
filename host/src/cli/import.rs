//! `sandmill import`: events from a file, with a progress bar where somebody watches.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    database::{connect, explain},
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
  sandmill events --json --database-url OLD | sandmill import - --database-url NEW

Each line is an event:
  {\"tenant\":\"acme\",\"stream\":\"cart-1\",\"type\":\"ItemAdded\",\"data\":{\"sku\":\"x\"}}
Optional keys: id, metadata (an object), recordedAt (RFC 3339), and tenant (`default`). The keys position and version are ignored, so
the output of `sandmill events --json` can be imported. A line that repeats a stored event is skipped; a line with the id of a different
event of its tenant is an error. Data and metadata together may have 4 MiB (`sandmill migrate --max-event-bytes`), 512 levels of nesting,
and numbers of 1,000 characters. Lines are stored in order, 5,000 to a commit. The first bad line ends the import; everything before
it is stored.";

/// Imports events from a file of JSON lines, plain or compressed with gzip
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// The file; `-` for standard input
    file: PathBuf,
    /// Print one JSON object: {"imported", "repeated", "lines", "seconds"}
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
            "imported {} in {:.1} s ({:.0} a second), {} were stored before\n",
            count(report.imported, "event"),
            report.seconds,
            report.lines as f64 / report.seconds.max(1e-3),
            report.repeated
        ))?,
        Err(ImportError::Database { source, .. }) if is_schema_missing(&source) => return Err(explain(&source)),
        Err(error @ ImportError::BadLine { line, .. }) => {
            // Lines without an id would be stored again.
            anyhow::bail!(
                "import {}: {error}\nCorrect line {line} and import from there on; if every line has an id, import all of it again.",
                args.file.display()
            )
        }
        Err(error) => return Err(anyhow::Error::from(error).context(format!("import {}", args.file.display()))),
    }
    Ok(ExitCode::SUCCESS)
}

/// A bar on a terminal, of bytes, because nobody knows how many events there will be; nothing elsewhere.
fn bar(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(bytes, ProgressDrawTarget::hidden());
    }
    let (bar, template) = match bytes {
        Some(_) => (ProgressBar::new(bytes.unwrap_or_default()), "{bar:40} {percent:>3} %  {msg}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}, {elapsed}"),
    };
    // The templates are constants; with a mistake in one the bar has its usual look.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, progress: ImportProgress) {
    bar.set_position(progress.bytes_read);
    bar.set_message(match progress.repeated {
        0 => format!("{} events", progress.imported),
        repeated => format!("{} events, {repeated} stored before", progress.imported),
    });
}
