//! `sandmill dead-letters`: lists the events that processors set aside, shows one of them, exports
//! it to a failure capsule, handles them again or discards them. Works whether or not a host runs.

mod export;
mod retry;
mod what_if;

use std::{
    collections::HashMap,
    io::{self, BufWriter, Write},
    pin::pin,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::bail;
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{
    database::{connect, with_remedy},
    letter_requests::{self, DiscardArgs},
    output::{self, OutputStyle, count},
    processors::check_known,
    since,
    table::{Cell, Column, Table, table},
    tenants,
};
use crate::{
    config::Config,
    db::{Db, Error, Session},
    model::{ids::ProcessorId, text, time},
    plugins::history,
    processor::dead_letters::{self, FoundLetter, LetterFilter, StoredLetter},
    store::{self, EventHeader, Filter, LARGEST_LISTED, StoredEvent},
};

/// Lists, exports, retries and discards events that were set aside
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  sandmill dead-letters list --processor route-performance
  sandmill dead-letters show route-performance 1545
  sandmill dead-letters export route-performance 1545 --out failure.json
  sandmill dead-letters retry route-performance 1545 --with fixed.wasm")]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadLettersCommand {
    List(ListLettersArgs),
    Show(ShowLetterArgs),
    Export(export::ExportArgs),
    Retry(retry::RetryArgs),
    Discard(DiscardArgs),
}

/// Lists dead letters, the latest event first
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill dead-letters list
  sandmill dead-letters list --processor route-performance --tenant UA
  sandmill dead-letters list --class trap --since 2h
  sandmill dead-letters list --json --limit 0 | jq -r .class | sort | uniq -c",
    after_help = "\
The letter with the highest position comes first; at one position, letters are sorted by
processor. STREAM is stream@version. TYPE is `-` if the event is no longer in the store. AT is the
time when the event was last set aside. Messages are shortened; `sandmill dead-letters show` prints
all of one, with the plugin's backtrace and its last log lines.

With --json, each line is an object. \"key\" is that of the lane, \"version\" that of the event in
its stream; \"type\" is null if the event is no longer in the store. \"firstAt\" and \"lastAt\" are
the first and the last time when the event was set aside:
  {\"processor\", \"tenant\", \"key\", \"position\", \"eventId\", \"type\", \"stream\", \"version\",
   \"class\", \"message\", \"attempts\", \"digest\", \"firstAt\", \"lastAt\"}

Exit codes: 0 listed, even if there are none; 1 failed, for example because there is no such
processor or tenant."
)]
struct ListLettersArgs {
    /// Only letters of this processor; TENANT/ID for a tenant's own processor
    #[arg(long, value_name = "ID")]
    processor: Option<ProcessorId>,
    /// Only letters of this tenant
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only letters of this class, such as trap or plugin:invalid-data
    #[arg(long)]
    class: Option<String>,
    /// Only letters that were last set aside at this time or later: RFC 3339, or a duration before
    /// now, such as 90s, 30min, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = since::parse)]
    since: Option<SystemTime>,
    /// List at most this many; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Shows one dead letter with its event
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example:\n  sandmill dead-letters show route-performance 1545",
    after_help = "\
Shows the event as it is stored, why it was set aside, which version of the plugin did so, where
in the plugin that was, what the plugin logged last, and what you can do. Long data is shortened;
--json prints all of it.

A backtrace names the functions of the plugin, the innermost first, and their places in its file.
Numbers replace names that were stripped from the file. The log lines are the last 4 KiB of the one
call that failed, at all levels. If one call skipped several events, the last of them has the lines.

With --json it prints one object. \"event\" has the form of `sandmill events --json`, or is null
if the event is no longer in the store. \"plugin\" is the file that ran the processor last,
\"pluginVersion\" the version that set the event aside, or null if it is not known. \"backtrace\"
and \"log\" are null if there is none:
  {\"processor\", \"tenant\", \"key\", \"position\", \"eventId\", \"stream\", \"version\", \"class\",
   \"message\", \"attempts\", \"digest\", \"firstAt\", \"lastAt\", \"plugin\", \"pluginVersion\",
   \"backtrace\", \"log\", \"event\"}

Exit codes: 0 shown; 1 failed, or the event was too large to print."
)]
struct ShowLetterArgs {
    /// The processor's id, as `sandmill status` shows it; TENANT/ID for a tenant's own processor
    processor: ProcessorId,
    /// The event's position
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    position: i64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Letters per query. 1,000: a listing of all letters is never in memory as a whole.
const PAGE: i64 = 1_000;
/// Maximum number of further letters that are counted.
const COUNTED: i64 = 10_000;
/// Maximum bytes of a message in the table. 200: two or three lines of a terminal.
const MESSAGE: usize = 200;
/// Maximum bytes of data, and of metadata, shown to people. 4,000: a screenful or two.
const DATA: usize = 4_000;

/// Runs the command.
pub(super) async fn run(args: DeadLettersArgs, config: Config, db: &Db) -> anyhow::Result<ExitCode> {
    match args.command {
        DeadLettersCommand::List(args) => list(args, db).await,
        DeadLettersCommand::Show(args) => show(args, db).await,
        DeadLettersCommand::Export(args) => export::run(args, config, db).await,
        DeadLettersCommand::Retry(args) => retry::run(args, config, db).await,
        DeadLettersCommand::Discard(args) => letter_requests::discard(args, db).await,
    }
}

/// A letter in a listing, with its event if that is still in the store.
struct ListedLetter {
    letter: StoredLetter,
    event: Option<EventHeader>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedLetterJson<'a> {
    processor: &'a str,
    tenant: &'a str,
    key: &'a str,
    position: i64,
    event_id: &'a str,
    #[serde(rename = "type")]
    event_type: Option<&'a str>,
    stream: Option<&'a str>,
    version: Option<i64>,
    class: &'a str,
    message: &'a str,
    attempts: i32,
    digest: &'a str,
    first_at: String,
    last_at: String,
}

impl<'a> ListedLetterJson<'a> {
    fn of(ListedLetter { letter, event }: &'a ListedLetter) -> Self {
        ListedLetterJson {
            processor: &letter.processor,
            tenant: &letter.tenant,
            key: &letter.key,
            position: letter.position,
            event_id: &letter.event_id,
            event_type: event.as_ref().map(|event| event.event_type.as_str()),
            stream: letter.stream.as_ref().map(|(stream, _)| stream.as_str()),
            version: letter.stream.as_ref().map(|(_, version)| *version),
            class: &letter.class,
            message: &letter.message,
            attempts: letter.attempts,
            digest: &letter.digest,
            first_at: time::format_exactly(letter.first_at),
            last_at: time::format_exactly(letter.last_at),
        }
    }
}

async fn list(args: ListLettersArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "dead-letters").await?;
    if let Some(processor) = &args.processor {
        check_known(&session, processor).await?;
    }
    let ListLettersArgs { processor, tenant, class, since, limit, json } = args;
    let filter = LetterFilter { processor: processor.map(|id| id.to_string()), tenant, class, since };
    let limit = if limit == 0 { i64::MAX } else { limit.into() };
    let mut lines = BufWriter::new(io::stdout());
    let mut table = empty_table();
    let (mut listed, mut last): (i64, Option<StoredLetter>) = (0, None);
    while listed < limit {
        let wanted = PAGE.min(limit - listed);
        let page = read_page(&session, &filter, last.as_ref(), wanted).await.map_err(|error| with_remedy(&error))?;
        for letter in &page {
            match json {
                true => lines.write_all(output::json_line(&ListedLetterJson::of(letter))?.as_bytes())?,
                false => table.row(row(letter)),
            }
        }
        listed += page.len() as i64;
        if (page.len() as i64) < wanted {
            break;
        }
        last = page.into_iter().next_back().map(|listed| listed.letter);
    }
    lines.flush()?;
    if listed == 0 {
        if let Some(tenant) = &filter.tenant
            && !store::knows_tenant(&session, tenant).await.map_err(|error| with_remedy(&error))?
        {
            return Err(tenants::without_events(&session, tenant).await);
        }
        let none = none_found(&filter);
        if json {
            output::note(&none)
        } else {
            output::print_plain(&format!("{none}\n"))?
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        output::print(&table.show(OutputStyle::stdout()))?;
    }
    if listed == limit {
        let most = listed.saturating_add(COUNTED + 1);
        let all = dead_letters::count(&session, &filter, most).await.map_err(|error| with_remedy(&error))?;
        if let Some(more) = more_letters(all - listed) {
            if json { output::note(&more) } else { output::print_plain(&format!("{more}\n"))? }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads letters, each with its event.
async fn read_page(
    session: &Session,
    filter: &LetterFilter,
    after: Option<&StoredLetter>,
    limit: i64,
) -> Result<Vec<ListedLetter>, Error> {
    let letters = dead_letters::list(session, filter, after, limit).await?;
    let positions: Vec<i64> = letters.iter().map(|letter| letter.position).collect();
    let headers = store::headers(session, &positions).await?;
    let headers: HashMap<i64, EventHeader> = headers.into_iter().map(|event| (event.position, event)).collect();
    let listed = letters.into_iter().map(|letter| {
        let event = headers.get(&letter.position).filter(|event| is_event_of(event, &letter)).cloned();
        ListedLetter { letter, event }
    });
    Ok(listed.collect())
}

/// Whether an event is that of a letter. After a restore, another event may have its position.
fn is_event_of(event: &EventHeader, letter: &StoredLetter) -> bool {
    (&event.tenant, &event.id) == (&letter.tenant, &letter.event_id)
}

/// The table of letters, with no rows.
fn empty_table() -> Table {
    use Column::{Number, Text};
    Table::new([
        Text("PROCESSOR"),
        Text("TENANT"),
        Number("POSITION"),
        Text("TYPE"),
        Text("STREAM"),
        Text("CLASS"),
        Number("ATTEMPTS"),
        Text("AT"),
        Text("MESSAGE"),
    ])
}

fn row(ListedLetter { letter, event }: &ListedLetter) -> Vec<Cell> {
    let event_type = event.as_ref().map_or("-", |event| &event.event_type);
    vec![
        Cell::new(&letter.processor),
        Cell::new(&letter.tenant),
        Cell::new(letter.position),
        Cell::new(text::one_line(event_type)),
        Cell::new(text::one_line(&stream_of(letter).unwrap_or_else(|| "-".into()))),
        Cell::new(text::one_line(&letter.class)),
        Cell::new(letter.attempts),
        Cell::new(time::format(letter.last_at)),
        Cell::new(text::within(&text::one_line(&letter.message), MESSAGE)),
    ]
}

/// A letter's stream and version, if they are known.
fn stream_of(letter: &StoredLetter) -> Option<String> {
    letter.stream.as_ref().map(|(stream, version)| format!("{stream}@{version}"))
}

/// The sentence for an empty listing.
fn none_found(LetterFilter { processor, tenant, class, since }: &LetterFilter) -> String {
    let named = [("processor", processor), ("tenant", tenant), ("class", class)];
    let named = named.into_iter().filter_map(|(what, value)| Some(format!("{what} {}", value.as_ref()?)));
    let since = since.map(|since| format!("set aside since {}", time::format(since)));
    let filters: Vec<String> = named.chain(since).collect();
    if filters.is_empty() {
        return "there are no dead letters".into();
    }
    format!("there are no dead letters with {}", filters.join(", "))
}

/// The line about letters that are not listed, if there are any.
fn more_letters(more: i64) -> Option<String> {
    let (over, more) = if more > COUNTED { ("over ", COUNTED) } else { ("", more) };
    let more = u64::try_from(more).ok().filter(|more| *more > 0)?;
    Some(format!("{over}{}; --limit 0 lists all", count(more, "more dead letter")))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LetterJson<'a> {
    processor: &'a str,
    tenant: &'a str,
    key: &'a str,
    position: i64,
    event_id: &'a str,
    stream: Option<&'a str>,
    version: Option<i64>,
    class: &'a str,
    message: &'a str,
    attempts: i32,
    digest: &'a str,
    first_at: String,
    last_at: String,
    plugin: &'a str,
    plugin_version: Option<&'a str>,
    backtrace: Option<&'a str>,
    log: Option<&'a str>,
    event: Option<&'a StoredEvent>,
}

async fn show(args: ShowLetterArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let ShowLetterArgs { processor, position, json } = args;
    let session = connect(db, "dead-letters").await?;
    let found = find_letter(&session, &processor, position).await?;
    let version = version_of(&session, &found).await.map_err(|error| with_remedy(&error))?;
    let event = read_event(&session, &found.letter).await.map_err(|error| with_remedy(&error))?;
    if json {
        let FoundLetter { letter, backtrace, log_tail, plugin, .. } = &found;
        output::print_json(&LetterJson {
            processor: &letter.processor,
            tenant: &letter.tenant,
            key: &letter.key,
            position,
            event_id: &letter.event_id,
            stream: letter.stream.as_ref().map(|(stream, _)| stream.as_str()),
            version: letter.stream.as_ref().map(|(_, version)| *version),
            class: &letter.class,
            message: &letter.message,
            attempts: letter.attempts,
            digest: &letter.digest,
            first_at: time::format_exactly(letter.first_at),
            last_at: time::format_exactly(letter.last_at),
            plugin,
            plugin_version: version.as_deref(),
            backtrace: Some(backtrace.as_str()).filter(|text| !text.is_empty()),
            log: Some(log_tail.as_str()).filter(|text| !text.is_empty()),
            event: event.as_ref(),
        })?;
    } else {
        output::print_plain(&describe(&found, version.as_deref(), event.as_ref()))?;
    }
    let Some(bytes) = event.and_then(|event| event.unread_bytes) else { return Ok(ExitCode::SUCCESS) };
    output::note(&format!("the event's data is not shown: its {bytes} bytes exceed {} MiB", LARGEST_LISTED >> 20));
    Ok(ExitCode::FAILURE)
}

/// Finds the letter of a known processor for the event at a position.
async fn find_letter(session: &Session, processor: &ProcessorId, position: i64) -> anyhow::Result<FoundLetter> {
    check_known(session, processor).await?;
    let found = dead_letters::find(session, processor.as_str(), position).await.map_err(|error| with_remedy(&error))?;
    let Some(found) = found else {
        bail!(
            "{processor} has no dead letter at position {position}; `sandmill dead-letters list --processor {processor}` lists those that it has"
        );
    };
    Ok(found)
}

/// The version of the plugin that set the event aside, if it is known.
async fn version_of(session: &Session, found: &FoundLetter) -> Result<Option<String>, Error> {
    if found.letter.digest == found.digest_now {
        return Ok(Some(found.version_now.clone()).filter(|version| !version.is_empty()));
    }
    history::version_of(session, &found.plugin, &found.letter.digest).await
}

/// Reads the event of a letter, if it is still in the store.
async fn read_event(session: &Session, letter: &StoredLetter) -> Result<Option<StoredEvent>, Error> {
    let headers = store::headers(session, &[letter.position]).await?;
    if !headers.iter().any(|event| is_event_of(event, letter)) {
        return Ok(None);
    }
    let events = store::page(session, &Filter::default(), letter.position - 1, 1).await?;
    Ok(pin!(events).try_next().await?.filter(|event| event.position == letter.position))
}

/// A letter for people: its properties, one a line, and what can be done.
fn describe(found: &FoundLetter, version: Option<&str>, event: Option<&StoredEvent>) -> String {
    let FoundLetter { letter, backtrace, log_tail, plugin, digest_now, version_now } = found;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |name: &str, value: &str| rows.push(vec![name.into(), text::one_line(value).into_owned()]);
    add("processor", &letter.processor);
    add("tenant", &letter.tenant);
    add("lane", &letter.key);
    add("position", &letter.position.to_string());
    add("event id", &letter.event_id);
    match event {
        None => add("event", "no longer in the store"),
        Some(event) => add("type", &event.event_type),
    }
    if let Some(stream) = stream_of(letter) {
        add("stream", &stream);
    }
    if let Some(event) = event {
        add("recorded at", &time::format(event.recorded_at));
        if event.unread_bytes.is_none() {
            add("data", &text::cut(event.data.get(), DATA));
            add("metadata", &text::cut(event.metadata.get(), DATA));
        }
    }
    add("set aside at", &time::format(letter.first_at));
    if letter.last_at != letter.first_at {
        add("last at", &time::format(letter.last_at));
    }
    add("attempts", &letter.attempts.to_string());
    add("plugin", &plugin_line(plugin, version, &letter.digest));
    if letter.digest != *digest_now {
        add("now runs", &plugin_line(plugin, Some(version_now), digest_now));
    }
    add("class", &letter.class);
    let width = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0) + 2;
    let message = letter.message.trim_end().replace('\n', &format!("\n{}", " ".repeat(width)));
    rows.push(vec!["message".into(), message]);
    let sections = [("backtrace", backtrace), ("last log lines of the call", log_tail)];
    let sections: String = sections.iter().map(|(title, lines)| section(title, lines)).collect();
    format!("{}{sections}\n{}", table(&rows), remedies(&letter.processor, letter.position))
}

/// Lines under a title, indented; nothing if there are none.
fn section(title: &str, lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    if lines.is_empty() { lines } else { format!("\n{title}:\n{lines}") }
}

/// A plugin's file, version and the first digits of its digest.
fn plugin_line(plugin: &str, version: Option<&str>, digest: &str) -> String {
    let version = version.filter(|version| !version.is_empty()).unwrap_or("(version unknown)");
    format!("{plugin} {version} {}", digest.get(..12).unwrap_or(digest))
}

/// What can be done about a letter.
fn remedies(processor: &str, position: i64) -> String {
    format!(
        "\
{processor} continued without this event.
- To see why, replay it: `sandmill dead-letters export {processor} {position}`
- If the plugin is wrong, put a corrected one into the plugins folder, then handle the event again:
  `sandmill dead-letters retry {processor} {position}`
- If the event is wrong, append a corrected event, then discard the letter:
  `sandmill dead-letters discard {processor} {position}`
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> StoredLetter {
        StoredLetter {
            processor: "door-watch".into(),
            tenant: "acme".into(),
            key: "acme".into(),
            position: 17,
            event_id: "e-17".into(),
            class: "plugin:invalid-data".into(),
            message: "missing \u{1b}[31m\nat door 3".into(),
            digest: "0123456789abcdef".into(),
            attempts: 1,
            first_at: time::from_micros(time::parse("2026-01-02T03:04:05Z").unwrap()),
            last_at: time::from_micros(time::parse("2026-01-02T04:04:05Z").unwrap()),
            stream: Some(("door-3".into(), 2)),
        }
    }

    #[test]
    fn a_listed_letter_is_one_line_in_a_pipe() {
        let event = EventHeader {
            position: 17,
            tenant: "acme".into(),
            stream: "door-3".into(),
            version: 2,
            event_type: "Opened".into(),
            id: "e-17".into(),
        };
        let mut table = empty_table();
        table.row(row(&ListedLetter { letter: letter(), event: Some(event) }));
        table.row(row(&ListedLetter { letter: StoredLetter { stream: None, ..letter() }, event: None }));
        assert_eq!(
            table.show(OutputStyle::PLAIN),
            "PROCESSOR   TENANT  POSITION  TYPE    STREAM    CLASS                ATTEMPTS  AT                        MESSAGE\n\
             door-watch  acme          17  Opened  door-3@2  plugin:invalid-data         1  2026-01-02T04:04:05.000Z  missing \u{fffd}[31m at door 3\n\
             door-watch  acme          17  -       -         plugin:invalid-data         1  2026-01-02T04:04:05.000Z  missing \u{fffd}[31m at door 3\n"
        );
    }

    #[test]
    fn a_description_names_both_versions_and_aligns_the_message() {
        let found = FoundLetter {
            letter: letter(),
            backtrace: "0: door::open at 0x1f\n1: project at 0x2f\n".into(),
            log_tail: "INFO door 3\n  \u{1b}[31m\nWARN stderr: stuck\n".into(),
            plugin: "door-watch".into(),
            digest_now: "fedcba9876543210".into(),
            version_now: "0.2.0".into(),
        };
        let text = describe(&found, None, None);
        for part in [
            "event         no longer in the store\nstream        door-3@2\n",
            "set aside at  2026-01-02T03:04:05.000Z\nlast at       2026-01-02T04:04:05.000Z\n",
            "\n\nbacktrace:\n  0: door::open at 0x1f\n  1: project at 0x2f\n\nlast log lines of the call:\n  INFO door 3\n    ",
            "  WARN stderr: stuck\n\ndoor-watch continued",
            "plugin        door-watch (version unknown) 0123456789ab\nnow runs      door-watch 0.2.0 fedcba987654\n",
            "message       missing \u{1b}[31m\n              at door 3\n\n",
            "`sandmill dead-letters retry door-watch 17`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn letters_that_are_not_listed_are_counted() {
        assert_eq!(more_letters(0), None);
        assert_eq!(more_letters(1).unwrap(), "1 more dead letter; --limit 0 lists all");
        assert_eq!(more_letters(COUNTED + 1).unwrap(), "over 10000 more dead letters; --limit 0 lists all");
    }

    #[test]
    fn an_empty_listing_names_its_filters() {
        assert_eq!(none_found(&LetterFilter::default()), "there are no dead letters");
        let filter =
            LetterFilter { tenant: Some("acme".into()), since: Some(letter().first_at), ..LetterFilter::default() };
        let expected = "there are no dead letters with tenant acme, set aside since 2026-01-02T03:04:05.000Z";
        assert_eq!(none_found(&filter), expected);
    }
}
