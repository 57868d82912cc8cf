//! `sandmill parked`: lists parked streams, handles their events, or discards them. Works whether
//! or not a host runs.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use serde::Serialize;

use super::{
    database::{connect, with_remedy},
    operator,
    output::{self, OutputStyle, count},
    processors::check_known,
    table::{Cell, Column, Table},
};
use crate::{
    db::{Db, Error, Session},
    model::{ids::ProcessorId, text, time},
    processor::requests::{self, ParkedStream, RequestStatus, StreamAction},
};

/// Streams per query.
const PAGE: i64 = 1_000;
/// Maximum bytes of a message in the table. 200: two or three lines of a terminal.
const MESSAGE: usize = 200;
/// Time between two reads of the progress.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Time without any progress after which the command stops waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists, drains and discards parked streams
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  sandmill parked list --processor cart-summary
  sandmill parked drain cart-summary --tenant acme cart-17
  sandmill parked discard cart-summary --tenant acme cart-17")]
pub(super) struct ParkedArgs {
    #[command(subcommand)]
    command: ParkedCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ParkedCommand {
    List(ListParkedArgs),
    Drain(DrainArgs),
    Discard(DiscardParkedArgs),
}

/// Lists parked streams
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill parked list
  sandmill parked list --processor cart-summary --tenant acme",
    after_help = "\
A failure policy with then = \"park-stream\" parks a stream when one of its events fails: this event
and all later ones of the stream wait in order, and every other stream of the tenant continues.
WAITING is the number of events that wait, STREAM (stream@version) the first of them.

With --json, each line is an object. \"request\" is drain, discard or discard-all while a host is to
carry it out, otherwise null. \"position\", \"class\" and \"message\" are of the event that failed last:
  {\"processor\", \"tenant\", \"key\", \"stream\", \"nextVersion\", \"lastVersion\", \"events\",
   \"position\", \"class\", \"message\", \"attempts\", \"since\", \"failedAt\", \"request\"}

Exit codes: 0 listed, even if there are none; 1 failed, for example because there is no such
processor."
)]
struct ListParkedArgs {
    /// Only streams of this processor; TENANT/ID for a tenant's own processor
    #[arg(long, value_name = "ID")]
    processor: Option<ProcessorId>,
    /// Only streams of this tenant
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// List at most this many; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which stream.
#[derive(Debug, clap::Args)]
struct StreamArgs {
    /// The processor's id, as `sandmill status` shows it; TENANT/ID for a tenant's own processor
    processor: ProcessorId,
    /// The stream's tenant
    #[arg(long, value_parser = super::append::tenant)]
    tenant: String,
    /// The stream
    stream: String,
    /// Do not wait for the host
    #[arg(long)]
    detach: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Handles the waiting events of a parked stream in order
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example:\n  sandmill parked drain cart-summary --tenant acme cart-17",
    after_help = "\
The host handles the events in order. If all succeed, the stream is no longer parked; if one
fails, the stream stays parked before it. Events that arrive meanwhile come after them. Without a
running host, the request is recorded and carried out when a host next runs the processor.

With --json it prints one object. \"waiting\" is the number of events that still wait, 0 if the
stream is no longer parked:
  {\"processor\", \"tenant\", \"stream\", \"waiting\", \"pending\", \"hostRuns\"}

Exit codes: 0 drained, recorded without a host, or requested with --detach; 1 failed, the stream is
not parked, or events still wait."
)]
struct DrainArgs {
    #[command(flatten)]
    stream: StreamArgs,
}

/// Discards the first waiting event of a parked stream, or all
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill parked discard cart-summary --tenant acme cart-17
  sandmill parked discard cart-summary --tenant acme cart-17 --all",
    after_help = "\
The events stay in the event store, but this processor does not handle them any more. To handle
those after the first, run `sandmill parked drain` next. Without a running host, the command
discards them itself.

With --json it prints one object. \"waiting\" is the number of events that still wait, 0 if the
stream is no longer parked:
  {\"processor\", \"tenant\", \"stream\", \"waiting\", \"pending\", \"hostRuns\"}

Exit codes: 0 discarded, or requested with --detach; 1 failed, the stream is not parked, or the
request is still pending."
)]
struct DiscardParkedArgs {
    #[command(flatten)]
    stream: StreamArgs,
    /// Discard all events that wait
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ParkedJson<'a> {
    processor: &'a str,
    tenant: &'a str,
    key: &'a str,
    stream: &'a str,
    next_version: i64,
    last_version: i64,
    events: i64,
    position: i64,
    class: &'a str,
    message: &'a str,
    attempts: i32,
    since: String,
    failed_at: String,
    request: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamJson<'a> {
    processor: &'a str,
    tenant: &'a str,
    stream: &'a str,
    waiting: i64,
    pending: bool,
    host_runs: bool,
}

/// Runs the command.
pub(super) async fn run(args: ParkedArgs, db: &Db) -> anyhow::Result<ExitCode> {
    match args.command {
        ParkedCommand::List(args) => list(args, db).await,
        ParkedCommand::Drain(DrainArgs { stream }) => act(stream, StreamAction::Drain, db).await,
        ParkedCommand::Discard(DiscardParkedArgs { stream, all }) => {
            act(stream, if all { StreamAction::DiscardAll } else { StreamAction::Discard }, db).await
        }
    }
}

async fn list(args: ListParkedArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let ListParkedArgs { processor, tenant, limit, json } = args;
    let session = connect(db, "parked").await?;
    if let Some(processor) = &processor {
        check_known(&session, processor).await?;
    }
    let limit = if limit == 0 { i64::MAX } else { limit.into() };
    let (id, tenant) = (processor.as_ref().map(ProcessorId::as_str), tenant.as_deref());
    let mut lines = BufWriter::new(io::stdout());
    let mut table = empty_table();
    let (mut listed, mut last): (i64, Option<ParkedStream>) = (0, None);
    // One more than is listed shows whether there are more.
    while listed <= limit {
        let wanted = PAGE.min(limit.saturating_add(1) - listed);
        let page = requests::list_streams(&session, id, tenant, None, last.as_ref(), wanted).await;
        let page = page.map_err(|error| with_remedy(&error))?;
        for stream in page.iter().take(usize::try_from(limit - listed).unwrap_or(usize::MAX)) {
            match json {
                true => lines.write_all(output::json_line(&ParkedJson::of(stream))?.as_bytes())?,
                false => table.row(row(stream)),
            }
        }
        listed += page.len() as i64;
        if (page.len() as i64) < wanted {
            break;
        }
        last = page.into_iter().next_back();
    }
    lines.flush()?;
    match (listed, json) {
        (0, true) => output::note("there are no parked streams"),
        (0, false) => output::print_plain("there are no parked streams\n")?,
        (_, true) => {}
        (_, false) => output::print(&table.show(OutputStyle::stdout()))?,
    }
    if listed > limit {
        output::note("there are more parked streams; --limit 0 lists all");
    }
    Ok(ExitCode::SUCCESS)
}

impl<'a> ParkedJson<'a> {
    fn of(stream: &'a ParkedStream) -> Self {
        ParkedJson {
            processor: &stream.processor,
            tenant: &stream.tenant,
            key: &stream.key,
            stream: &stream.stream,
            next_version: stream.next_version,
            last_version: stream.last_version,
            events: stream.events,
            position: stream.position,
            class: &stream.class,
            message: &stream.message,
            attempts: stream.attempts,
            since: time::format_exactly(stream.since),
            failed_at: time::format_exactly(stream.failed_at),
            request: Some(stream.request.as_str()).filter(|request| !request.is_empty()),
        }
    }
}

fn empty_table() -> Table {
    use Column::{Number, Text};
    Table::new([
        Text("PROCESSOR"),
        Text("TENANT"),
        Text("STREAM"),
        Number("WAITING"),
        Text("CLASS"),
        Number("ATTEMPTS"),
        Text("SINCE"),
        Text("REQUEST"),
        Text("MESSAGE"),
    ])
}

fn row(stream: &ParkedStream) -> Vec<Cell> {
    let name = format!("{}@{}", stream.stream, stream.next_version);
    vec![
        Cell::new(&stream.processor),
        Cell::new(&stream.tenant),
        Cell::new(text::one_line(&name)),
        Cell::new(stream.events),
        Cell::new(text::one_line(&stream.class)),
        Cell::new(stream.attempts),
        Cell::new(time::format(stream.since)),
        Cell::new(if stream.request.is_empty() { "-" } else { &stream.request }),
        Cell::new(text::within(&text::one_line(&stream.message), MESSAGE)),
    ]
}

/// Drains or discards, and waits for the host.
async fn act(args: StreamArgs, action: StreamAction, db: &Db) -> anyhow::Result<ExitCode> {
    let StreamArgs { processor, tenant, stream, detach, json } = args;
    let mut session = connect(db, "parked").await?;
    check_known(&session, &processor).await?;
    let status = requests::stream(&mut session, &processor, (&tenant, &stream), action, &operator::name()).await;
    let Some(status) = status.map_err(|error| with_remedy(&error))? else {
        bail!(
            "{processor} has no parked stream {stream} of tenant {tenant}, or the host works on it already; `sandmill parked list --processor {processor}` lists those that it has"
        );
    };
    let waits = status == RequestStatus::Requested && !detach;
    let left = match waits {
        true => wait(&session, &processor, &tenant, &stream).await,
        false => requests::find_stream(&session, &processor, &tenant, &stream).await,
    };
    let left = left.map_err(|error| with_remedy(&error))?;
    let waiting = left.as_ref().map_or(0, |left| left.events);
    let pending = left.as_ref().is_some_and(|left| !left.request.is_empty());
    if json {
        output::print_json(&StreamJson {
            processor: processor.as_str(),
            tenant: &tenant,
            stream: &stream,
            waiting,
            pending,
            host_runs: status == RequestStatus::Requested,
        })?;
    } else {
        output::print_plain(&match (status, detach, &left) {
            (RequestStatus::Recorded, ..) => format!(
                "recorded: the {} of stream {stream} will be handled when a host next runs {processor}; no host runs it now\n",
                count(waiting.unsigned_abs(), "waiting event")
            ),
            (RequestStatus::Requested, true, _) => format!("requested: the host works on stream {stream}\n"),
            (_, _, None) => format!("stream {stream} has no waiting events left\n"),
            (_, _, Some(left)) if pending => format!(
                "{} left in stream {stream}; the lane may be paused or retrying: `sandmill explain {processor}` shows why\n",
                count(left.events.unsigned_abs(), "waiting event")
            ),
            (_, _, Some(left)) if action == StreamAction::Drain => format!(
                "stopped before {}@{} ({}: {}); {} left\n",
                left.stream,
                left.next_version,
                left.class,
                text::one_line(&left.message),
                count(left.events.unsigned_abs(), "waiting event")
            ),
            (_, _, Some(left)) => format!(
                "discarded one event of stream {stream}; {} left. To handle them: `sandmill parked drain {processor} --tenant {tenant} {stream}`\n",
                count(left.events.unsigned_abs(), "waiting event")
            ),
        })?;
    }
    let is_left = pending || action == StreamAction::Drain && waiting > 0;
    Ok(if waits && is_left { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Waits until the request about a stream is answered, or nothing has moved for a while. Returns
/// the stream if it is still parked.
async fn wait(
    session: &Session,
    processor: &ProcessorId,
    tenant: &str,
    stream: &str,
) -> Result<Option<ParkedStream>, Error> {
    let (mut last, mut waited) = (None, Duration::ZERO);
    loop {
        let found = requests::find_stream(session, processor, tenant, stream).await?;
        waited = if found == last { waited + POLL_INTERVAL } else { Duration::ZERO };
        if found.as_ref().is_none_or(|found| found.request.is_empty()) || waited >= PATIENCE {
            return Ok(found);
        }
        last = found;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_stream_is_one_line_in_a_pipe() {
        let at = time::from_micros(time::parse("2026-01-02T03:04:05Z").unwrap());
        let mut table = empty_table();
        table.row(row(&ParkedStream {
            processor: "carts".into(),
            tenant: "acme".into(),
            key: "acme".into(),
            stream: "cart-17".into(),
            next_version: 3,
            last_version: 9,
            events: 5,
            position: 41,
            class: "trap".into(),
            message: "unreachable\nat add".into(),
            attempts: 2,
            since: at,
            failed_at: at,
            request: String::new(),
        }));
        assert_eq!(
            table.show(OutputStyle::PLAIN),
            "PROCESSOR  TENANT  STREAM     WAITING  CLASS  ATTEMPTS  SINCE                     REQUEST  MESSAGE\n\
             carts      acme    cart-17@3        5  trap          2  2026-01-02T03:04:05.000Z  -        unreachable at add\n"
        );
    }
}
