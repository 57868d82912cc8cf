//! `sandmill append`: appends one event to a stream.

use std::process::ExitCode;

use sandmill_client::{Append, AppendError, Appended, DEFAULT_TENANT, ExpectedVersion, NewEvent, append, check};
use tokio::{
    fs::File,
    io::{AsyncReadExt, stdin},
};

use super::{
    UsageError,
    database::{connect, with_remedy},
    output::{self, Tone},
};
use crate::db::Db;

/// Maximum number of bytes to read from an argument. 32 MiB and one byte: one byte more than the
/// largest event that a store can allow.
const MAX_BYTES: u64 = (32 << 20) + 1;

/// The exit code if the stream is not at the expected version.
pub(super) const CONFLICT: u8 = 5;

const EXAMPLES: &str = "\
Examples:
  sandmill append --stream cart-1 --type ItemAdded --data '{\"sku\":\"x\",\"quantity\":2}'
  sandmill append --tenant acme --stream cart-1 --type CheckedOut --data '{}' --expected-version 1
  jq '.order' order.json | sandmill append --stream orders --type OrderPlaced --data -";

const DETAILS: &str = "\
With --json it prints one object: {\"id\", \"version\", \"position\"}

Limits: data and metadata together 4 MiB (`sandmill migrate --max-event-bytes` changes it), 512
levels of nesting, numbers of 1,000 characters.

Exit codes:
  0  appended
  1  failed: standard error says why, for example an event over a limit or an id that exists
  2  invalid arguments, for example --data that is not JSON; nothing was appended
  5  the stream is not at the expected version; nothing was appended";

/// Appends an event to a stream
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct AppendArgs {
    /// The tenant that the event belongs to
    #[arg(long, default_value = DEFAULT_TENANT, value_parser = tenant)]
    tenant: String,
    /// The stream to append to
    #[arg(long, value_parser = stream)]
    stream: String,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    event_type: String,
    /// The event's data as JSON; `@FILE` reads it from a file, `-` from standard input
    #[arg(long, value_name = "JSON")]
    data: String,
    /// The event's metadata: a JSON object, or `@FILE`
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// The event's id, unique within the tenant [default: a random id]
    #[arg(long, value_parser = id)]
    id: Option<String>,
    /// Append only if the stream's last event has this version; 0: only if the stream does not
    /// exist
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Parses a tenant's name.
pub(super) fn tenant(text: &str) -> Result<String, String> {
    check::tenant(text).map(|()| text.to_owned())
}

fn stream(text: &str) -> Result<String, String> {
    check::stream(text).map(|()| text.to_owned())
}

fn event_type(text: &str) -> Result<String, String> {
    check::event_type(text).map(|()| text.to_owned())
}

fn id(text: &str) -> Result<String, String> {
    check::id(text).map(|()| text.to_owned())
}

/// Runs the command.
pub(super) async fn run(args: AppendArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let data = read_argument("--data", &args.data).await?;
    check_json("--data", &data)?;
    let mut event = NewEvent::new(&args.event_type, data);
    if let Some(metadata) = &args.metadata {
        if metadata == "-" {
            return Err(UsageError(
                "only --data can be read from standard input; pass --metadata @FILE instead".into(),
            )
            .into());
        }
        let metadata = read_argument("--metadata", metadata).await?;
        check_json("--metadata", &metadata)?;
        if !metadata.trim_start().starts_with('{') {
            return Err(UsageError("--metadata must be a JSON object, such as {\"user\":\"ann\"}".into()).into());
        }
        event = event.metadata(metadata);
    }
    if let Some(id) = &args.id {
        event = event.id(id);
    }
    let expected = match args.expected_version {
        None => ExpectedVersion::Any,
        Some(0) => ExpectedVersion::NoStream,
        Some(version) => ExpectedVersion::Exactly(version),
    };
    let session = connect(db, "append").await?;
    let request = Append::to(&args.tenant, &args.stream).expecting(expected).event(event);
    match append(&*session, &request).await {
        Ok(appended) => {
            for event in &appended {
                if args.json {
                    let Appended { id, version, position } = event;
                    output::print_json(&serde_json::json!({ "id": id, "version": version, "position": position }))?;
                } else {
                    output::print_plain(&as_text(event, &args))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(conflict @ AppendError::Conflict { .. }) => {
            output::message(Tone::Bad, "conflict:", &format!("{conflict}. Nothing was appended."));
            Ok(ExitCode::from(CONFLICT))
        }
        Err(error @ AppendError::DuplicateId { .. }) => Err(anyhow::anyhow!("{error}. This call appended nothing.")),
        Err(AppendError::Database(error)) => Err(with_remedy(&error)),
        Err(error) => Err(error.into()),
    }
}

fn as_text(event: &Appended, args: &AppendArgs) -> String {
    let AppendArgs { event_type, stream, tenant, .. } = args;
    let Appended { id, version, position } = event;
    format!(
        "appended {event_type} to stream {stream} of tenant {tenant}: version {version}, position {position}, id {id}\n"
    )
}

/// The value of an argument: the text itself, or the contents of `@FILE` or of standard input
/// (`-`).
async fn read_argument(argument: &str, text: &str) -> anyhow::Result<String> {
    let mut content = String::new();
    let read = match text.strip_prefix('@') {
        Some(path) => match File::open(path).await {
            Ok(file) => file.take(MAX_BYTES).read_to_string(&mut content).await,
            Err(error) => Err(error),
        },
        None if text == "-" => stdin().take(MAX_BYTES).read_to_string(&mut content).await,
        None => return Ok(text.into()),
    };
    let from = text.strip_prefix('@').unwrap_or("standard input");
    read.map_err(|error| UsageError(format!("{argument} cannot be read from {from}: {error}")))?;
    if content.len() as u64 == MAX_BYTES {
        return Err(UsageError(format!(
            "{argument} is too large: {from} has {MAX_BYTES} bytes or more, and an event has at most 32 MiB"
        ))
        .into());
    }
    Ok(content)
}

/// Checks that an argument is JSON. The error shows the line with a mark below the mistake.
fn check_json(argument: &str, text: &str) -> Result<(), UsageError> {
    let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) else { return Ok(()) };
    let message = error.to_string();
    let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem);
    let location = ErrorLocation::of(text, error.line(), error.column());
    let ErrorLocation { line, column, before, after } = &location;
    let pointer = format!("{}^", " ".repeat(before.chars().count()));
    Err(UsageError(format!(
        "{argument} is not valid JSON: {problem}, in line {line}, column {column}\n  {before}{after}\n  {pointer}"
    )))
}

/// A location in a text, with the text around it on its line.
struct ErrorLocation {
    /// Counted from 1.
    line: usize,
    /// Counted in characters, from 1.
    column: usize,
    /// At most 36 characters, so that the line fits a terminal.
    before: String,
    /// At most 36 characters.
    after: String,
}

impl ErrorLocation {
    /// Converts serde_json's line and column. Its column counts bytes, and is 0 for the end of the
    /// previous line.
    fn of(text: &str, line: usize, column: usize) -> Self {
        const SHOWN: usize = 36;
        let begin_of_line: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let offset = text.floor_char_boundary((begin_of_line + column).saturating_sub(1));
        let (before, after) = text.split_at(offset);
        let line = before.matches('\n').count() + 1;
        let before: Vec<char> = before.rsplit('\n').next().unwrap_or_default().chars().collect();
        let after = after.split('\n').next().unwrap_or_default().chars().take(SHOWN).collect();
        let shown = before[before.len().saturating_sub(SHOWN)..].iter().collect();
        ErrorLocation { line, column: before.len() + 1, before: shown, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_json_is_reported_with_its_location() {
        assert!(check_json("--data", r#" {"a": [1, null]} "#).is_ok());
        let message = |text| check_json("--data", text).unwrap_err().to_string();
        assert_eq!(
            message(r#"{"ü":"x" "n":1}"#),
            "--data is not valid JSON: expected `,` or `}`, in line 1, column 10\n  {\"ü\":\"x\" \"n\":1}\n           ^"
        );
        assert!(message("{\n  \"a\": tru\n}").ends_with("in line 2, column 11\n    \"a\": tru\n            ^"));
        assert!(message("").contains("EOF while parsing a value"));
        let long = format!("[{}, x, {}]", "1,".repeat(100), "2,".repeat(100));
        assert!(message(&long).lines().all(|line| line.chars().count() <= 80));
    }
}
