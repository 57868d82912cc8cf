//! What goes into the store and what comes out of it.

use std::time::SystemTime;

use crate::check;

/// Events for one stream, to be appended together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Whose stream it is.
    pub tenant: String,
    /// The stream's name, unique within the tenant.
    pub stream: String,
    /// What must be true of the stream.
    pub expected: ExpectedVersion,
    /// The events, in order; at least one.
    pub events: Vec<NewEvent>,
}

impl Append {
    /// Begins an append to a stream, whatever its version.
    pub fn to(tenant: impl Into<String>, stream: impl Into<String>) -> Self {
        Append { tenant: tenant.into(), stream: stream.into(), expected: ExpectedVersion::Any, events: Vec::new() }
    }

    /// Appends only if the stream is at this version.
    #[must_use]
    pub fn expecting(mut self, expected: ExpectedVersion) -> Self {
        self.expected = expected;
        self
    }

    /// Adds one event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Adds many events.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = NewEvent>) -> Self {
        self.events.extend(events);
        self
    }

    /// Finds what the database would refuse, where that can be told better here.
    pub(crate) fn check(&self) -> Result<(), String> {
        check::tenant(&self.tenant)?;
        check::stream(&self.stream)?;
        if self.events.is_empty() {
            return Err("there are no events to append; add at least one".into());
        }
        for (index, event) in self.events.iter().enumerate() {
            check::event_type(&event.event_type)?;
            if let Some(id) = &event.id {
                check::id(id)?;
            }
            for (part, json) in [("data", Some(&event.data)), ("metadata", event.metadata.as_ref())] {
                check::readable_json(json.map_or("", String::as_str)).map_err(|problem| {
                    let (number, count) = (index + 1, self.events.len());
                    format!(
                        "event {number} of {count} for stream {} of tenant {}: its {part} {problem}; plugins could not read it. Flatten it, \
                         or write the number as a string.",
                        self.stream, self.tenant
                    )
                })?;
            }
        }
        Ok(())
    }
}

/// What must be true of a stream for an append to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExpectedVersion {
    /// Nothing: append in any case.
    #[default]
    Any,
    /// There must be no such stream.
    NoStream,
    /// The stream's last event must have this version.
    Exactly(u64),
}

impl ExpectedVersion {
    pub(crate) fn as_number(self) -> Option<i64> {
        match self {
            ExpectedVersion::Any => None,
            ExpectedVersion::NoStream => Some(0),
            // No stream can have a version beyond, so that the conflict is certain either way.
            ExpectedVersion::Exactly(version) => Some(i64::try_from(version).unwrap_or(i64::MAX)),
        }
    }
}

/// In words that fit behind "expected".
impl std::fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExpectedVersion::Any => f.write_str("any version"),
            ExpectedVersion::NoStream | ExpectedVersion::Exactly(0) => f.write_str("no such stream"),
            ExpectedVersion::Exactly(version) => write!(f, "version {version}"),
        }
    }
}

/// One event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub(crate) event_type: String,
    pub(crate) data: String,
    pub(crate) metadata: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) recorded_at: Option<SystemTime>,
}

impl NewEvent {
    /// An event of a type with its data: any JSON, stored as it is written here.
    pub fn new(event_type: impl Into<String>, data: impl Into<String>) -> Self {
        NewEvent { event_type: event_type.into(), data: data.into(), metadata: None, id: None, recorded_at: None }
    }

    /// What is known about the event beside its data, as a JSON object.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// The event's id, unique among its tenant's events; a random UUID by default. An application
    /// that chooses the ids may repeat an append when it does not know whether the first attempt
    /// arrived.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// When it happened; the beginning of the transaction that appends it when not given.
    #[must_use]
    pub fn recorded_at(mut self, time: SystemTime) -> Self {
        self.recorded_at = Some(time);
        self
    }
}

/// Where an event went.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Appended {
    /// Its id.
    pub id: String,
    /// Its version: its number within the stream, from 1.
    pub version: u64,
    /// Its number in the whole store. Positions grow within a stream; across streams they become visible in any order.
    pub position: u64,
}

/// An event as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its number in the whole store.
    pub position: u64,
    /// Its number within the stream, from 1.
    pub version: u64,
    /// Its type.
    pub event_type: String,
    /// Its id.
    pub id: String,
    /// When it happened.
    pub recorded_at: SystemTime,
    /// Its data: the JSON text that was appended.
    pub data: String,
    /// What is known about it beside its data: the text of a JSON object.
    pub metadata: String,
}
