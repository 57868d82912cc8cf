//! The events that an import into an empty store would create, without a store.
//!
//! They serve a plugin test, which needs the events of the file that will be imported. Values that
//! a store would assign are derived from the line's number, so a file gives the same events on
//! every read. The number is the event's position. If the line has no id, the number is part of the
//! event's id. If it has no time, the number is the time in milliseconds since 1970. All events are
//! kept in memory. An event may be as large as the highest limit that a store can have.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    ImportInput,
    compare::EventContent,
    input::{InputEnd, LineReader},
    line::EventLine,
};
use crate::{
    model::{event::Event, ids::TenantId},
    store::size_limit,
};

/// The events of a file.
#[derive(Debug, Default)]
pub struct FileEvents {
    /// In the order of their lines. The position of each is its line's number.
    pub events: Vec<Arc<Event>>,
    /// Lines that repeat an earlier one, by tenant, id and content, which an import leaves out.
    pub repeated: u64,
}

/// Why a file has no usable events.
#[derive(Debug, thiserror::Error)]
pub enum FileEventsError {
    /// A line that is not an event.
    #[error("line {line}: {message}")]
    BadLine {
        /// Its number, from 1.
        line: u64,
        /// The reason.
        message: String,
    },
    /// The input could not be read at all.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

impl FileEvents {
    /// Reads all of an input. It blocks.
    pub fn read(input: ImportInput) -> Result<FileEvents, FileEventsError> {
        let bad_line = |(line, message)| FileEventsError::BadLine { line, message };
        let mut lines = LineReader::new(input.into_reader(), *size_limit::RANGE.end())
            .map_err(|error| FileEventsError::Unreadable(error.to_string()))?;
        let mut collector = EventCollector::default();
        loop {
            match lines.next_line() {
                Ok(line) => collector.add(line).map_err(bad_line)?,
                Err(InputEnd::Complete) => return Ok(collector.collected),
                Err(InputEnd::BadLine { number, message }) => return Err(bad_line((number, message))),
                Err(InputEnd::Unreadable(message)) => return Err(FileEventsError::Unreadable(message)),
            }
        }
    }
}

/// The events collected so far.
#[derive(Default)]
struct EventCollector {
    collected: FileEvents,
    /// The index of the event with each id.
    ids: HashMap<(TenantId, Box<str>), usize>,
    versions: HashMap<(TenantId, Box<str>), i64>,
    tenants: HashMap<String, TenantId>,
}

impl EventCollector {
    /// Adds the event of a line, or counts the line as repeated. Fails with the line's number and
    /// the reason if its id belongs to a different event.
    fn add(&mut self, line: EventLine) -> Result<(), (u64, String)> {
        let id: Box<str> = match &line.id {
            Some(id) => id.as_str().into(),
            // In the form of the ids that a store assigns.
            None => format!("00000000-0000-4000-8000-{:012x}", line.number).into(),
        };
        let tenant = match self.tenants.get(&line.tenant) {
            Some(tenant) => tenant.clone(),
            None => {
                let tenant = TenantId::parse(&line.tenant).map_err(|problem| (line.number, problem.to_string()))?;
                self.tenants.insert(line.tenant.clone(), tenant.clone());
                tenant
            }
        };
        match self.ids.entry((tenant.clone(), id.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(self.collected.events.len());
            }
            Entry::Occupied(entry) => {
                let earlier = self.collected.events.get(*entry.get());
                let difference = earlier.and_then(|event| content(event).difference(&line));
                if let Some(message) = difference {
                    return Err((line.number, message));
                }
                self.collected.repeated += 1;
                return Ok(());
            }
        }
        let stream: Box<str> = line.stream.into();
        let version = self.versions.entry((tenant.clone(), stream.clone())).or_default();
        *version += 1;
        self.collected.events.push(Arc::new(Event {
            position: line.number as i64,
            id,
            tenant,
            event_type: line.event_type.into(),
            stream,
            version: *version,
            recorded_at: line.recorded_at.map_or(line.number as i64, |micros| micros / 1_000),
            data: line.data.get().into(),
            metadata: line.metadata.as_ref().map_or("{}", |metadata| metadata.get()).into(),
            deferred: None,
        }));
        Ok(())
    }
}

/// The content of a collected event, for the comparison with a line.
fn content(event: &Event) -> EventContent<'_> {
    EventContent {
        stream: &event.stream,
        event_type: &event.event_type,
        recorded_at: Some(event.recorded_at * 1_000),
        json: Some((&event.data, &event.metadata)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FileEvents, FileEventsError> {
        FileEvents::read(ImportInput::from_reader(std::io::Cursor::new(text.to_owned())))
    }

    #[test]
    fn lines_become_the_events_that_an_import_would_create() {
        let text = r#"{"stream":"s","type":"A","data":{"b" :1.10}}

{"tenant":"UA","stream":"s","type":"B","id":"x","data":1,"recordedAt":"1970-01-01T00:00:01Z","metadata":{"k":1}}
{"tenant":"UA","stream":"s","type":"B","id":"x","data":1.0,"recordedAt":"1970-01-01T00:00:01Z","metadata":{"k" : 1}}
{"stream":"s","type":"C","id":"x","data":2}
{"stream":"s","type":"D","data":3}"#;
        let FileEvents { events, repeated } = read(text).unwrap();
        let shown: Vec<String> = events
            .iter()
            .map(|e| {
                format!(
                    "{} {}/{}#{} {} {} {}",
                    e.position, e.tenant, e.stream, e.version, e.event_type, e.data, e.recorded_at
                )
            })
            .collect();
        assert_eq!(
            shown,
            [r#"1 default/s#1 A {"b" :1.10} 1"#, "3 UA/s#1 B 1 1000", "5 default/s#2 C 2 5", "6 default/s#3 D 3 6"],
            "a repeated line takes no version, and ids are unique only within a tenant"
        );
        assert_eq!((repeated, &*events[0].id), (1, "00000000-0000-4000-8000-000000000001"));
        assert_eq!((&*events[0].metadata, &*events[1].metadata, &*events[1].id), ("{}", r#"{"k":1}"#, "x"));
    }

    #[test]
    fn a_different_event_with_the_same_id_is_a_bad_line() {
        let line = |data| format!("{{\"stream\":\"s\",\"type\":\"A\",\"id\":\"x\",\"data\":{data}}}\n");
        let error = read(&(line(1) + &line(1) + &line(2))).unwrap_err().to_string();
        assert!(
            error.starts_with("line 3: tenant default has another event with the id \"x\": its data differs."),
            "{error}"
        );
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let error = read("{\"stream\":\"s\",\"type\":\"A\",\"data\":1}\n{\"stream\":\"s\"}\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: missing field `type` (column 14)");
    }
}
