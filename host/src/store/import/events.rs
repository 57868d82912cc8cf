//! The events that an import into an empty store would make, without a store.
//!
//! Who tries a plugin out wants the events that it will be given, from the file that will be imported. What a store would make up is derived
//! from the line instead of drawn, so that the same file is the same events at every reading: a line's number is its event's position, its
//! id where the file has none, and its milliseconds from 1970 where the file does not say when it was recorded. All events are
//! held in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Input,
    input::{End, Lines},
    line::Line,
};
use crate::model::{event::Event, ids::TenantId};

/// The events of a file.
#[derive(Debug, Default)]
pub struct Events {
    /// In the order of their lines; each one's position is its line's number.
    pub events: Vec<Arc<Event>>,
    /// Lines whose id an earlier line had, which an import skips.
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
        let mut lines = Lines::new(input.into_reader()).map_err(|error| EventsError::Unreadable(error.to_string()))?;
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
    ids: HashSet<Box<str>>,
    versions: HashMap<(TenantId, Box<str>), i64>,
    tenants: HashMap<String, TenantId>,
}

impl Reading {
    fn take(&mut self, line: Line) -> Result<(), (u64, String)> {
        let id: Box<str> = match line.id {
            Some(id) => id.into(),
            // In the form of those that a store draws.
            None => format!("00000000-0000-4000-8000-{:012x}", line.number).into(),
        };
        if !self.ids.insert(id.clone()) {
            self.read.repeated += 1;
            return Ok(());
        }
        let tenant = match self.tenants.get(&line.tenant) {
            Some(tenant) => tenant.clone(),
            None => {
                let tenant = TenantId::parse(&line.tenant).map_err(|problem| (line.number, problem.to_string()))?;
                self.tenants.insert(line.tenant, tenant.clone());
                tenant
            }
        };
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
            [r#"1 default/s#1 A {"b" :1.10} 1"#, "3 UA/s#1 B 1 1000", "5 default/s#2 D 3 5"],
            "an id that was there takes no version"
        );
        assert_eq!((repeated, &*events[0].id), (1, "00000000-0000-4000-8000-000000000001"));
        assert_eq!((&*events[0].metadata, &*events[1].metadata, &*events[1].id), ("{}", r#"{"k":1}"#, "x"));
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let error = read("{\"stream\":\"s\",\"type\":\"A\",\"data\":1}\n{\"stream\":\"s\"}\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: missing field `type` (column 14)");
    }
}
