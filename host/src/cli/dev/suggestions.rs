//! Suggested commands: for each running plugin, an `append` of an event that it handles.
//!
//! A suggestion is printed when a plugin starts, and again when its event types change. The event
//! comes from a file `events.ndjson`, like the one that `sandmill plugin new` creates. Otherwise it
//! has the first event type of the plugin's descriptor and no data. The running plugins are read
//! from the database, as in the live view. Event types come from plugins, so they are quoted for a
//! shell, and those that cannot be copied safely are left out.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use sandmill_client::DEFAULT_TENANT;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::program;
use crate::{
    db::{Db, Error, Session},
    model::text,
    processor::status::{self, RunningProcessor},
};

/// Time between two checks for newly running plugins.
const INTERVAL: Duration = Duration::from_millis(250);
/// The name of a file with sample events.
const SAMPLES: &str = "events.ndjson";
/// Maximum bytes read from a file. 1 MiB: the first events suffice.
const SAMPLES_BYTES: u64 = 1 << 20;
/// Maximum bytes of data in a suggestion. 500: more is awkward to copy.
const DATA_BYTES: usize = 500;

/// The suggestions for running plugins.
pub(super) struct Suggestions {
    db: Db,
    session: Option<Session>,
    samples: Vec<PathBuf>,
    /// The processors that have a suggestion, with their event types at that time.
    known: HashMap<String, Option<Vec<String>>>,
}

impl Suggestions {
    /// Suggestions with samples from these folders. The first folder with a suitable sample wins.
    pub(super) fn new<'a>(db: &Db, folders: impl IntoIterator<Item = &'a Path>) -> Self {
        let samples = folders.into_iter().map(|folder| folder.join(SAMPLES)).collect();
        Suggestions { db: db.clone(), session: None, samples, known: HashMap::new() }
    }

    /// Waits until a plugin needs a suggestion, and returns the text. Retries while the database
    /// does not answer.
    pub(super) async fn next(&mut self) -> String {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Ok(running) = self.running().await else {
                self.session = None;
                continue;
            };
            let mut text = String::new();
            for processor in running {
                if self.known.get(&processor.id) == Some(&processor.event_types) {
                    continue;
                }
                if let Some(command) = self.command(&processor) {
                    let RunningProcessor { id, .. } = &processor;
                    text.push_str(&format!("`{id}` is running. Append an event that it handles:\n  {command}\n"));
                }
                self.known.insert(processor.id, processor.event_types);
            }
            if !text.is_empty() {
                return text;
            }
        }
    }

    async fn running(&mut self) -> Result<Vec<RunningProcessor>, Error> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.db.connect("dev").await?,
        };
        status::running(self.session.insert(session)).await
    }

    fn command(&self, processor: &RunningProcessor) -> Option<String> {
        let sampled = self.samples.iter().find_map(|path| {
            let file = File::open(path).ok()?.take(SAMPLES_BYTES);
            BufReader::new(file).lines().map_while(Result::ok).find_map(|line| sampled(&line, processor))
        });
        let command = sampled.or_else(|| without_data(processor))?;
        Some(format!("{} {command}", program()))
    }
}

/// An event of a file, in the format of `sandmill import`.
#[derive(Deserialize)]
struct Sample<'a> {
    tenant: Option<String>,
    stream: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The command for an event of a file; none if the processor does not handle the event, or if it
/// cannot be copied safely.
fn sampled(line: &str, processor: &RunningProcessor) -> Option<String> {
    let Sample { tenant, stream, event_type, data } = serde_json::from_str(line).ok()?;
    let handles = processor.event_types.as_ref().is_none_or(|types| types.contains(&event_type));
    let tenant = processor.tenant.clone().or(tenant);
    (handles && data.get().len() <= DATA_BYTES).then(|| append(tenant.as_deref(), &stream, &event_type, data.get()))?
}

/// The command for an event without data.
fn without_data(processor: &RunningProcessor) -> Option<String> {
    let stream = format!("{}-1", processor.family);
    let append = |event_type: &String| append(processor.tenant.as_deref(), &stream, event_type, "{}");
    match &processor.event_types {
        Some(types) => types.iter().find_map(append),
        None => append(&"Anything".to_owned()),
    }
}

/// The arguments that append an event; none if one of them cannot be quoted.
fn append(tenant: Option<&str>, stream: &str, event_type: &str, data: &str) -> Option<String> {
    let mut command = "append".to_owned();
    let tenant = tenant.filter(|tenant| *tenant != DEFAULT_TENANT).map(|tenant| ("--tenant", tenant));
    for (option, value) in tenant.into_iter().chain([("--stream", stream), ("--type", event_type), ("--data", data)]) {
        command.push_str(&format!(" {option} {}", quoted(value)?));
    }
    Some(command)
}

/// A word quoted for a shell; `None` if it cannot be copied from a terminal or would be parsed as
/// an option.
fn quoted(word: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+@".contains(c);
    match word {
        // In fish, a backslash escapes inside single quotes as well.
        _ if word.is_empty() || word.starts_with('-') || word.contains('\\') || word.contains(text::is_unsafe) => None,
        _ if word.chars().all(is_plain) => Some(word.to_owned()),
        _ => Some(format!("'{}'", word.replace('\'', r"'\''"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(tenant: Option<&str>, types: Option<&[&str]>) -> RunningProcessor {
        let event_types = types.map(|types| types.iter().map(|name| (*name).to_owned()).collect());
        RunningProcessor { id: "carts".into(), family: "carts".into(), tenant: tenant.map(Into::into), event_types }
    }

    #[test]
    fn a_sample_is_suggested_if_the_plugin_handles_it() {
        let line = |tenant: &str, event_type: &str, data: &str| {
            format!(r#"{{"tenant":"{tenant}","stream":"cart 1","type":"{event_type}","id":"x","data":{data}}}"#)
        };
        let some = |line: &str, processor: &RunningProcessor| sampled(line, processor).unwrap_or_default();
        let carts = processor(None, Some(&["ItemAdded", "CartLost"]));
        let mug = line("acme", "ItemAdded", r#"{"sku": "Ann's mug"}"#);
        let expected = r#"append --tenant acme --stream 'cart 1' --type ItemAdded --data '{"sku": "Ann'\''s mug"}'"#;
        assert_eq!(some(&mug, &carts), expected);
        let own = processor(Some("umbrella"), None);
        assert_eq!(some(&mug, &own), expected.replace("acme", "umbrella"));
        let default = line(DEFAULT_TENANT, "CartLost", "{}");
        assert_eq!(some(&default, &carts), "append --stream 'cart 1' --type CartLost --data '{}'");
        let long = line("acme", "ItemAdded", &format!("[\"{}\"]", "x".repeat(DATA_BYTES)));
        for odd in [&line("acme", "Seen", "{}"), "not JSON", "{}", &long, &line("acme", "ItemAdded", "\"\u{202e}\"")] {
            assert_eq!(sampled(odd, &carts), None, "{odd}");
        }
    }

    #[test]
    fn without_a_sample_the_first_event_type_is_suggested() {
        let suggested = |types: Option<&[&str]>| without_data(&processor(None, types)).unwrap_or_default();
        assert_eq!(suggested(Some(&["ItemAdded", "CartLost"])), "append --stream carts-1 --type ItemAdded --data '{}'");
        let odd = ["--help", "a\u{1b}[2J", "a\nb", "a\\';id;#", "$(reboot) `it's`"];
        let quoted = r"append --stream carts-1 --type '$(reboot) `it'\''s`' --data '{}'";
        assert_eq!(suggested(Some(&odd)), quoted);
        assert_eq!(suggested(Some(&odd[..4])), "");
        assert_eq!(suggested(None), "append --stream carts-1 --type Anything --data '{}'");
    }
}
