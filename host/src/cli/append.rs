//! `sandmill append`: one event, from the shell.

use std::process::ExitCode;

use sandmill_client::{Append, AppendError, Appended, DEFAULT_TENANT, ExpectedVersion, NewEvent, append, check};
use tokio::{
    fs::File,
    io::{AsyncReadExt, stdin},
};

use super::{
    Misuse,
    database::{connect, explain},
    output::{self, Tone},
};
use crate::db::Db;

/// Bytes that are read of an argument: one more than the largest event that a store may allow has.
const MOST_BYTES: u64 = (32 << 20) + 1;

/// What the command exits with when the stream is not at the expected version.
pub(super) const CONFLICT: u8 = 5;

const EXAMPLES: &str = "\
Examples:
  sandmill append --tenant acme --stream cart-1 --type ItemAdded --data '{\"sku\":\"x\",\"quantity\":2}'
  sandmill append --tenant acme --stream cart-1 --type CheckedOut --data '{}' --expected-version 1
  jq '.order' order.json | sandmill append --stream orders --type OrderPlaced --data -

The exit code is 5 when the stream is not at the expected version, and 2 when --data is no JSON; nothing is appended then.
Data and metadata have 4 MiB at most together (`sandmill migrate --max-event-bytes`), 512 levels, and numbers of 1,000 characters.";

/// Appends an event to a stream
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AppendArgs {
    /// Whose event it is
    #[arg(long, default_value = DEFAULT_TENANT, value_parser = tenant)]
    tenant: String,
    /// The stream it is appended to
    #[arg(long, value_parser = stream)]
    stream: String,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    event_type: String,
    /// The event's data, as JSON; `@FILE` reads it from a file, `-` from standard input
    #[arg(long, value_name = "JSON")]
    data: String,
    /// What is known beside its data, as a JSON object or `@FILE`
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// The event's id, unique within the tenant; random when not given
    #[arg(long, value_parser = id)]
    id: Option<String>,
    /// Append only if the stream's last event has this version; 0 means that there must be no such stream
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    /// Print one JSON object: {"id", "version", "position"}
    #[arg(long)]
    json: bool,
}

/// Reads a tenant's name.
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
    let data = given("--data", &args.data).await?;
    check_json("--data", &data)?;
    let mut event = NewEvent::new(&args.event_type, data);
    if let Some(metadata) = &args.metadata {
        if metadata == "-" {
            return Err(
                Misuse("only --data is read from standard input; name a file with --metadata @FILE".into()).into()
            );
        }
        let metadata = given("--metadata", metadata).await?;
        check_json("--metadata", &metadata)?;
        if !metadata.trim_start().starts_with('{') {
            return Err(Misuse("--metadata must be a JSON object, such as {\"user\":\"ann\"}".into()).into());
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
            output::say(Tone::Bad, "conflict:", &format!("{conflict}. Nothing was appended."));
            Ok(ExitCode::from(CONFLICT))
        }
        Err(error @ AppendError::DuplicateId { .. }) => Err(anyhow::anyhow!("{error}. Nothing was appended.")),
        Err(AppendError::Database(error)) => Err(explain(&error)),
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

/// The text that an argument gives: itself, or what is in the file or comes on standard input.
async fn given(argument: &str, text: &str) -> anyhow::Result<String> {
    let mut found = String::new();
    let read = match text.strip_prefix('@') {
        Some(path) => match File::open(path).await {
            Ok(file) => file.take(MOST_BYTES).read_to_string(&mut found).await,
            Err(error) => Err(error),
        },
        None if text == "-" => stdin().take(MOST_BYTES).read_to_string(&mut found).await,
        None => return Ok(text.into()),
    };
    let from = text.strip_prefix('@').unwrap_or("standard input");
    read.map_err(|error| Misuse(format!("{argument} cannot be read from {from}: {error}")))?;
    if found.len() as u64 == MOST_BYTES {
        return Err(Misuse(format!(
            "{argument} is larger than an event can be: {from} has {MOST_BYTES} bytes or more"
        ))
        .into());
    }
    Ok(found)
}

/// Whether an argument is JSON; if not, the message points at the place.
fn check_json(argument: &str, text: &str) -> Result<(), Misuse> {
    let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) else { return Ok(()) };
    let said = error.to_string();
    let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
    let place = Place::of(text, error.line(), error.column());
    let Place { line, column, before, after } = &place;
    let pointer = format!("{}^", " ".repeat(before.chars().count()));
    Err(Misuse(format!(
        "{argument} is not valid JSON: {what}, in line {line}, column {column}\n  {before}{after}\n  {pointer}"
    )))
}

/// A place in a text, counted from 1 and in characters, and what stands around it on its line, no more than fits on a terminal's.
struct Place {
    line: usize,
    column: usize,
    before: String,
    after: String,
}

impl Place {
    /// The place that a parser means by this line and column: it counts bytes, and has column 0 for a line's end before it.
    fn of(text: &str, line: usize, column: usize) -> Self {
        const NEAR: usize = 36;
        let begin_of_line: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let offset = text.floor_char_boundary((begin_of_line + column).saturating_sub(1));
        let (before, after) = text.split_at(offset);
        let line = before.matches('\n').count() + 1;
        let before: Vec<char> = before.rsplit('\n').next().unwrap_or_default().chars().collect();
        let after = after.split('\n').next().unwrap_or_default().chars().take(NEAR).collect();
        let near = before[before.len().saturating_sub(NEAR)..].iter().collect();
        Place { line, column: before.len() + 1, before: near, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_json_is_pointed_at() {
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
