//! `sandmill events`: what is in the store, by position; with `--follow` also what comes, as soon as it is committed.
//!
//! Following goes by snapshots like any processor, so an event whose transaction took longer than its neighbours' is shown late
//! rather than never, after higher positions.

use std::{
    io::{self, BufWriter, Stdout, Write},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;

use super::{
    database::{connect, explain},
    output,
    table::{Column, Listing},
};
use crate::{
    db::Db,
    model::{
        cursor::{Progress, Snapshot},
        event::Event,
    },
    source::{EventSource, Limit, SourceError, native::Native},
    store::{Filter, LARGEST_LISTED, StoredEvent, page, time},
};

/// Events a query. Default 1,000: no transaction is held open while somebody reads the output page by page.
const PAGE: i64 = 1_000;

const EXAMPLES: &str = "\
A line is: position, time, tenant, stream@version, type, data. On a terminal it is cut at the edge; --wide shows all of it, and so does a pipe.

Examples:
  sandmill events --tenant acme --limit 20
  sandmill events --type ItemAdded --json | jq .data.sku
  sandmill events --follow                 only what is committed from now on
  sandmill events --follow --from 1        everything, then what comes";

/// Lists events by position, or follows them
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
    /// From this position on [default: the first; with --follow, what is committed from now on]
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(0..))]
    from: Option<i64>,
    /// So many at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
    /// Go on with what is committed next, until interrupted
    #[arg(long)]
    follow: bool,
    /// Print one JSON object a line: {"position", "tenant", "stream", "version", "type", "id", "recordedAt", "data", "metadata"}
    #[arg(long)]
    json: bool,
    /// Cut no line, also on a terminal
    #[arg(long)]
    wide: bool,
}

/// Bytes of a page while following. Default 4 MiB: what arrives is printed at once.
const PAGE_BYTES: usize = 4 << 20;
/// Between two looks for news while following.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the command.
pub(super) async fn run(args: EventsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "events").await?;
    let filter = Filter { tenant: args.tenant, stream: args.stream, event_type: args.event_type };
    let mut output = Output::new(args.json, args.wide);
    if args.follow {
        // Before it follows: a database without tables is told in the words of all commands.
        let _ = page(&session, &filter, 0, 0).await.map_err(|error| explain(&error))?;
        drop(session);
        return follow(args.from, args.limit, filter, output, db).await;
    }
    let from = args.from.unwrap_or(1) - 1;
    let (mut after, mut left) = (from, args.limit.unwrap_or(i64::MAX));
    let mut complete = true;
    while left > 0 {
        let wanted = left.min(PAGE);
        let mut events = pin!(page(&session, &filter, after, wanted).await.map_err(|error| explain(&error))?);
        let mut found = 0;
        while let Some(event) = events.try_next().await.map_err(|error| explain(&error))? {
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
        output::note("no event matches");
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Notes that an event is left out of a listing, which is then incomplete.
fn too_large(complete: &mut bool, position: i64, id: &str, bytes: u64) {
    *complete = false;
    let most = LARGEST_LISTED >> 20;
    let note = format!("event {id:?} at position {position} is not shown: it has {bytes} bytes, more than {most} MiB");
    output::note(&note);
}

async fn follow(
    from: Option<i64>,
    limit: Option<i64>,
    filter: Filter,
    mut output: Output,
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
        let wanted = |one: &Option<String>, is: &str| one.as_ref().is_none_or(|one| one == is);
        for event in &page.events {
            let kept = wanted(&filter.tenant, event.tenant.as_str())
                && wanted(&filter.stream, &event.stream)
                && wanted(&filter.event_type, &event.event_type);
            if kept && left > 0 {
                left -= 1;
                match whole(&mut source, event).await? {
                    Ok(event) => output.print(&StoredEvent::from(&*event))?,
                    Err(bytes) => too_large(&mut complete, event.position, &event.id, bytes),
                }
            }
        }
        output.flush()?;
        if page.events.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads an event with its data, or the size of data that is too large to show.
async fn whole(source: &mut impl EventSource, event: &Arc<Event>) -> Result<Result<Arc<Event>, u64>, SourceError> {
    if event.deferred.is_none() {
        return Ok(Ok(event.clone()));
    }
    let bodies = source.load(&[event.position], usize::MAX, Some(LARGEST_LISTED)).await?;
    let body = bodies.into_iter().next().ok_or(SourceError::Gone(event.position))?;
    let Some((data, metadata)) = body.texts else { return Ok(Err(body.bytes)) };
    Ok(Ok(Arc::new(Event { data, metadata, deferred: None, ..Event::clone(event) })))
}

/// Events on their way to whoever reads them. That the reader has gone away is an error, which ends the command in order.
enum Output {
    Json(BufWriter<Stdout>),
    Lines(Listing),
}

impl Output {
    fn new(json: bool, wide: bool) -> Self {
        if json {
            return Output::Json(BufWriter::new(io::stdout()));
        }
        let [time, tenant, stream, event_type, data] = ["time", "tenant", "stream", "type", "data"].map(Column::Text);
        Output::Lines(Listing::new([Column::Number("position"), time, tenant, stream, event_type, data], wide))
    }

    fn print(&mut self, event: &StoredEvent) -> io::Result<()> {
        match self {
            Output::Json(out) => out.write_all(output::json_line(event)?.as_bytes()),
            Output::Lines(listing) => {
                let StoredEvent { position, tenant, stream, version, event_type, data, .. } = event;
                listing.row(vec![
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
            Output::Json(out) => out.flush(),
            Output::Lines(listing) => listing.flush(),
        }
    }
}
