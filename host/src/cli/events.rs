//! `sandmill events`: what is in the store, by position.

use std::{
    io::{self, BufWriter, Write},
    pin::pin,
    process::ExitCode,
};

use futures_util::TryStreamExt;

use super::database::{connect, explain};
use crate::{
    db::Db,
    store::{Filter, StoredEvent, page, time},
};

/// Events a query. Default 1,000: no transaction is held open while somebody reads the output page by page.
const PAGE: i64 = 1_000;

const EXAMPLES: &str = "\
Examples:
  sandmill events --tenant acme --limit 20
  sandmill events --type ItemAdded --json | jq .data.sku";

/// List events by position
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EventsArgs {
    /// Only this tenant's
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only those of streams with this name
    #[arg(long)]
    stream: Option<String>,
    /// Only those of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// From this position on
    #[arg(long, value_name = "POSITION", default_value_t = 1, value_parser = clap::value_parser!(i64).range(0..))]
    from: i64,
    /// So many at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
    /// Print each event as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: EventsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "events").await?;
    let filter = Filter { tenant: args.tenant, stream: args.stream, event_type: args.event_type };
    let mut output = BufWriter::new(io::stdout());
    let mut after = args.from - 1;
    let mut left = args.limit.unwrap_or(i64::MAX);
    while left > 0 {
        let wanted = left.min(PAGE);
        let mut events = pin!(page(&session, &filter, after, wanted).await.map_err(|error| explain(&error))?);
        let mut found = 0;
        while let Some(event) = events.try_next().await.map_err(|error| explain(&error))? {
            after = event.position;
            found += 1;
            match print(&mut output, &event, args.json) {
                Ok(()) => {}
                // Whoever read the output has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(error.into()),
            }
        }
        left -= found;
        if found < wanted {
            break;
        }
    }
    match output.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints an event as one line.
pub(super) fn print(output: &mut impl Write, event: &StoredEvent, json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *output, event)?;
        return writeln!(output);
    }
    let StoredEvent { position, tenant, stream, version, event_type, data, .. } = event;
    let recorded_at = time::format(event.recorded_at);
    writeln!(output, "{position:>9}  {recorded_at}  {tenant}  {stream}@{version}  {event_type}  {}", data.get())
}
