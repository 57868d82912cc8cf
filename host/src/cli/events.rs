//! `sandmill events`: lists stored events by position. With `--follow`, also prints new ones as
//! soon as they are committed.
//!
//! It follows the log by snapshots, as a processor does. An event whose transaction committed late
//! is printed late, after events with higher positions, but never missed.

use std::{
    io::{self, BufWriter, Stdout, Write},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;

use super::{
    database::{connect, with_remedy},
    output,
    table::{Column, StreamingTable},
};
use crate::{
    db::Db,
    model::{
        cursor::{Progress, Snapshot},
        event::Event,
        time,
    },
    source::{EventSource, Limit, SourceError, native::Native},
    store::{Filter, LARGEST_LISTED, StoredEvent, page},
};

/// Events per query. 1,000: no transaction stays open while a person reads the output page by page.
const PAGE: i64 = 1_000;

const EXAMPLES: &str = "\
Examples:
  sandmill events --tenant acme --limit 20
  sandmill events --type ItemAdded --json | jq .data.sku
  sandmill events --follow                 only events committed from now on
  sandmill events --follow --from 1        all events, then new ones";

const DETAILS: &str = "\
Each line shows position, time, tenant, stream@version, type and data. On a terminal, lines are
cut at the edge unless --wide is given.

With --json, each line is an object:
  {\"position\", \"tenant\", \"stream\", \"version\", \"type\", \"id\", \"recordedAt\", \"data\", \"metadata\"}

Exit codes: 0 all matching events were printed; 1 failed, or an event was too large to print.";

/// Lists events, or follows new ones
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct EventsArgs {
    /// Only events of this tenant
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only events of this stream
    #[arg(long)]
    stream: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Start at this position [default: the first; with --follow, events committed from now on]
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(0..))]
    from: Option<i64>,
    /// Print at most this many events
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
    /// Keep printing new events until interrupted
    #[arg(long)]
    follow: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Do not cut lines at the terminal's edge
    #[arg(long)]
    wide: bool,
}

/// Bytes per page while following. 4 MiB: each page is printed at once.
const PAGE_BYTES: usize = 4 << 20;
/// Time between two checks for new events while following.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs the command.
pub(super) async fn run(args: EventsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "events").await?;
    let filter = Filter { tenant: args.tenant, stream: args.stream, event_type: args.event_type };
    let mut output = EventPrinter::new(args.json, args.wide);
    if args.follow {
        // Reports a database without tables with the same message as all commands.
        let _ = page(&session, &filter, 0, 0).await.map_err(|error| with_remedy(&error))?;
        drop(session);
        return follow(args.from, args.limit, filter, output, db).await;
    }
    let from = args.from.unwrap_or(1) - 1;
    let (mut after, mut left) = (from, args.limit.unwrap_or(i64::MAX));
    let mut complete = true;
    while left > 0 {
        let wanted = left.min(PAGE);
        let mut events = pin!(page(&session, &filter, after, wanted).await.map_err(|error| with_remedy(&error))?);
        let mut found = 0;
        while let Some(event) = events.try_next().await.map_err(|error| with_remedy(&error))? {
            after = event.position;
            found += 1;
            match event.unread_bytes {
                None => output.print(&event)?,
                Some(bytes) => too_large(&mut complete, event.position, &event.id, bytes),
            }
        }
        left -= found;
        if found < wanted {
            break;
        }
    }
    output.flush()?;
    if after == from && left > 0 {
        output::note("no matching events");
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reports an event that is too large to print, and marks the listing as incomplete.
fn too_large(complete: &mut bool, position: i64, id: &str, bytes: u64) {
    *complete = false;
    let limit = LARGEST_LISTED >> 20;
    let note = format!("event {id:?} at position {position} is not shown: its {bytes} bytes exceed {limit} MiB");
    output::note(&note);
}

/// Prints up to `limit` events: those from a position on, if one is given, then each new one when
/// it is committed.
async fn follow(
    from: Option<i64>,
    limit: Option<i64>,
    filter: Filter,
    mut output: EventPrinter,
    db: &Db,
) -> anyhow::Result<ExitCode> {
    let mut source = Native::new(db.clone()).session("events").await?;
    let head = source.head().await?;
    let mut progress = match from {
        None => Progress::at(head),
        Some(from) => Progress::inside(Snapshot::nothing(), head, from.saturating_sub(1)),
    };
    let mut left = limit.unwrap_or(i64::MAX);
    let mut complete = true;
    while left > 0 {
        let page = source.page(&progress, Limit { events: PAGE as usize, bytes: PAGE_BYTES }).await?;
        progress = page.to;
        let matches = |filter: &Option<String>, value: &str| filter.as_ref().is_none_or(|filter| filter == value);
        for event in &page.events {
            let kept = matches(&filter.tenant, event.tenant.as_str())
                && matches(&filter.stream, &event.stream)
                && matches(&filter.event_type, &event.event_type);
            if kept && left > 0 {
                left -= 1;
                match load_data(&mut source, event).await? {
                    Ok(event) => output.print(&StoredEvent::from(&*event))?,
                    Err(bytes) => too_large(&mut complete, event.position, &event.id, bytes),
                }
            }
        }
        output.flush()?;
        if page.events.is_empty() {
            tokio::time::sleep(INTERVAL).await;
        }
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Loads the data of an event whose data was deferred. Returns its size in bytes if it is too large
/// to print.
async fn load_data(source: &mut impl EventSource, event: &Arc<Event>) -> Result<Result<Arc<Event>, u64>, SourceError> {
    if event.deferred.is_none() {
        return Ok(Ok(event.clone()));
    }
    let bodies = source.load(&[event.position], usize::MAX, Some(LARGEST_LISTED)).await?;
    let body = bodies.into_iter().next().ok_or(SourceError::Gone(event.position))?;
    let Some((data, metadata)) = body.texts else { return Ok(Err(body.bytes)) };
    Ok(Ok(Arc::new(Event { data, metadata, deferred: None, ..Event::clone(event) })))
}

/// A printer of events. A closed output is an error, which ends the command in order.
enum EventPrinter {
    Json(BufWriter<Stdout>),
    Lines(StreamingTable),
}

impl EventPrinter {
    fn new(json: bool, wide: bool) -> Self {
        if json {
            return EventPrinter::Json(BufWriter::new(io::stdout()));
        }
        let [time, tenant, stream, event_type, data] = ["time", "tenant", "stream", "type", "data"].map(Column::Text);
        EventPrinter::Lines(StreamingTable::new(
            [Column::Number("position"), time, tenant, stream, event_type, data],
            wide,
        ))
    }

    /// Prints one event.
    fn print(&mut self, event: &StoredEvent) -> io::Result<()> {
        match self {
            EventPrinter::Json(out) => out.write_all(output::json_line(event)?.as_bytes()),
            EventPrinter::Lines(table) => {
                let StoredEvent { position, tenant, stream, version, event_type, data, .. } = event;
                table.row(vec![
                    position.to_string(),
                    time::format(event.recorded_at),
                    tenant.clone(),
                    format!("{stream}@{version}"),
                    event_type.clone(),
                    data.get().into(),
                ])
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            EventPrinter::Json(out) => out.flush(),
            EventPrinter::Lines(table) => table.flush(),
        }
    }
}
