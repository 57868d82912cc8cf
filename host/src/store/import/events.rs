//! The events that an import into an empty store would make, without a store.
//!
//! Who tries a plugin out wants the events that it will be given, from the file that will be imported. What a store would make up is derived
//! from the line instead of drawn, so that the same file is the same events at every reading: a line's number is its event's position, its
//! id where the file has none, and its milliseconds from 1970 where the file does not say when it was recorded. All events are
//! held in memory. An event may be as large as the largest that any store can be set to take.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    Input,
    input::{End, Lines},
    line::Line,
    same::Content,
};
use crate::{
    model::{event::Event, ids::TenantId},
    store::size_limit,
};

/// The events of a file.
#[derive(Debug, Default)]
pub struct Events {
    /// In the order of their lines; each one's position is its line's number.
    pub events: Vec<Arc<Event>>,
    /// Lines that repeat an earlier one, by tenant, id and content, which an import skips.
    pub repeated: u64,
}

/// Why there are no events.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// A line that cannot be an event.
    #[error("line {line}: {message}")]
    BadLine {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The input could not be read at all.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

impl Events {
    /// Reads all of an input; call it where blocking is allowed.
    pub fn read(input: Input) -> Result<Events, EventsError> {
        let mut lines = Lines::new(input.into_reader(), *size_limit::RANGE.end())
            .map_err(|error| EventsError::Unreadable(error.to_string()))?;
        let mut reading = Reading::default();
        loop {
            match lines.next_line() {
                Ok(line) => reading.take(line).map_err(|(line, message)| EventsError::BadLine { line, message })?,
                Err(End::Complete) => return Ok(reading.read),
                Err(End::BadLine { number: line, message }) => return Err(EventsError::BadLine { line, message }),
                Err(End::Unreadable(message)) => return Err(EventsError::Unreadable(message)),
            }
        }
    }
}

#[derive(Default)]
struct Reading {
    read: Events,
    /// Which event has an id, by its place among those read.
    ids: HashMap<(TenantId, Box<str>), usize>,
    versions: HashMap<(TenantId, Box<str>), i64>,
    tenants: HashMap<String, TenantId>,
}

impl Reading {
    fn take(&mut self, line: Line) -> Result<(), (u64, String)> {
        let id: Box<str> = match &line.id {
            Some(id) => id.as_str().into(),
            // In the form of those that a store draws.
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
            Entry::Vacant(place) => {
                place.insert(self.read.events.len());
            }
            Entry::Occupied(place) => {
                let earlier = self.read.events.get(*place.get());
                let difference = earlier.and_then(|event| content(event).difference(&line));
                if let Some(message) = difference {
                    return Err((line.number, message));
                }
                self.read.repeated += 1;
                return Ok(());
            }
        }
        let stream: Box<str> = line.stream.into();
        let version = self.versions.entry((tenant.clone(), stream.clone())).or_default();
        *version += 1;
        self.read.events.push(Arc::new(Event {
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

/// What an event that was read is, for a line with its id.
fn content(event: &Event) -> Content<'_> {
    Content {
        stream: &event.stream,
        event_type: &event.event_type,
        recorded_at: Some(event.recorded_at * 1_000),
        json: Some((&event.data, &event.metadata)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Events, EventsError> {
        Events::read(Input::from_reader(std::io::Cursor::new(text.to_owned())))
    }

    #[test]
    fn lines_become_the_events_that_an_import_would_make() {
        let text = r#"{"stream":"s","type":"A","data":{"b" :1.10}}

{"tenant":"UA","stream":"s","type":"B","id":"x","data":1,"recordedAt":"1970-01-01T00:00:01Z","metadata":{"k":1}}
{"tenant":"UA","stream":"s","type":"B","id":"x","data":1.0,"recordedAt":"1970-01-01T00:00:01Z","metadata":{"k" : 1}}
{"stream":"s","type":"C","id":"x","data":2}
{"stream":"s","type":"D","data":3}"#;
        let Events { events, repeated } = read(text).unwrap();
        let told: Vec<String> = events
            .iter()
            .map(|e| {
                format!(
                    "{} {}/{}#{} {} {} {}",
                    e.position, e.tenant, e.stream, e.version, e.event_type, e.data, e.recorded_at
                )
            })
            .collect();
        assert_eq!(
            told,
            [r#"1 default/s#1 A {"b" :1.10} 1"#, "3 UA/s#1 B 1 1000", "5 default/s#2 C 2 5", "6 default/s#3 D 3 6"],
            "a line that repeats another takes no version, and an id is its tenant's"
        );
        assert_eq!((repeated, &*events[0].id), (1, "00000000-0000-4000-8000-000000000001"));
        assert_eq!((&*events[0].metadata, &*events[1].metadata, &*events[1].id), ("{}", r#"{"k":1}"#, "x"));
    }

    #[test]
    fn another_event_with_the_same_id_is_a_bad_line() {
        let line = |data| format!("{{\"stream\":\"s\",\"type\":\"A\",\"id\":\"x\",\"data\":{data}}}\n");
        let error = read(&(line(1) + &line(1) + &line(2))).unwrap_err().to_string();
        assert!(
            error.starts_with("line 3: tenant default has another event with the id \"x\": its data is not the same."),
            "{error}"
        );
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let error = read("{\"stream\":\"s\",\"type\":\"A\",\"data\":1}\n{\"stream\":\"s\"}\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: missing field `type` (column 14)");
    }
}
