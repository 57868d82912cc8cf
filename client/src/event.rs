//! Events to append, and events as the store returns them.

use std::time::SystemTime;

use crate::check;

/// Events to append to one stream together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The tenant that owns the stream.
    pub tenant: String,
    /// The stream's name, unique within the tenant.
    pub stream: String,
    /// The condition on the stream's version.
    pub expected: ExpectedVersion,
    /// The events, in order. At least one.
    pub events: Vec<NewEvent>,
}

impl Append {
    /// An append to a stream at any version, without events so far.
    pub fn to(tenant: impl Into<String>, stream: impl Into<String>) -> Self {
        Append { tenant: tenant.into(), stream: stream.into(), expected: ExpectedVersion::Any, events: Vec::new() }
    }

    /// Sets the condition on the stream's version.
    #[must_use]
    pub fn expecting(mut self, expected: ExpectedVersion) -> Self {
        self.expected = expected;
        self
    }

    /// Adds an event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Adds events.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = NewEvent>) -> Self {
        self.events.extend(events);
        self
    }

    /// Checks what the database would reject, to save the round trip and a failed transaction.
    pub(crate) fn check(&self) -> Result<(), String> {
        check::tenant(&self.tenant)?;
        check::stream(&self.stream)?;
        if self.events.is_empty() {
            return Err("there are no events to append; add at least one".into());
        }
        for (index, event) in self.events.iter().enumerate() {
            event.check().map_err(|problem| {
                let (number, count) = (index + 1, self.events.len());
                format!("event {number} of {count} for stream {} of tenant {}: {problem}", self.stream, self.tenant)
            })?;
        }
        Ok(())
    }
}

/// A condition on a stream's version, checked by an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExpectedVersion {
    /// No condition.
    #[default]
    Any,
    /// The stream must not exist.
    NoStream,
    /// The stream's last event must have this version.
    Exactly(u64),
}

impl ExpectedVersion {
    pub(crate) fn as_number(self) -> Option<i64> {
        match self {
            ExpectedVersion::Any => None,
            ExpectedVersion::NoStream => Some(0),
            // No stream has a larger version, so the append conflicts in either case.
            ExpectedVersion::Exactly(version) => Some(i64::try_from(version).unwrap_or(i64::MAX)),
        }
    }
}

/// Words that fit after "expected".
impl std::fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExpectedVersion::Any => f.write_str("any version"),
            ExpectedVersion::NoStream | ExpectedVersion::Exactly(0) => f.write_str("no such stream"),
            ExpectedVersion::Exactly(version) => write!(f, "version {version}"),
        }
    }
}

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub(crate) event_type: String,
    pub(crate) data: String,
    pub(crate) metadata: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) recorded_at: Option<SystemTime>,
}

impl NewEvent {
    /// An event with its type and its data. The data is any JSON value, and is stored as written.
    pub fn new(event_type: impl Into<String>, data: impl Into<String>) -> Self {
        NewEvent { event_type: event_type.into(), data: data.into(), metadata: None, id: None, recorded_at: None }
    }

    /// Sets the metadata: a JSON object about the event, such as its user or trace. Default: `{}`.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// Sets the event's id, unique within the tenant, 1 to 200 bytes. Default: a random UUID.
    ///
    /// With ids of its own, an application can safely repeat an append whose result it does not
    /// know: a repeated event fails with
    /// [`AppendError::DuplicateId`](crate::AppendError::DuplicateId).
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets when the event happened. Default: the start of the transaction that appends it.
    #[must_use]
    pub fn recorded_at(mut self, time: SystemTime) -> Self {
        self.recorded_at = Some(time);
        self
    }

    fn check(&self) -> Result<(), String> {
        check::event_type(&self.event_type)?;
        if let Some(id) = &self.id {
            check::id(id)?;
        }
        for (part, json) in [("data", Some(&self.data)), ("metadata", self.metadata.as_ref())] {
            check::readable_json(json.map_or("", String::as_str)).map_err(|problem| {
                format!("its {part} {problem}; plugins could not read it. Flatten it, or write the number as a string.")
            })?;
        }
        Ok(())
    }
}

/// An event that was appended, with its place in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Appended {
    /// The event's id.
    pub id: String,
    /// The event's number within the stream, counted from 1.
    pub version: u64,
    /// The event's number within the store's log. Positions grow within a stream; across streams
    /// they become visible in any order.
    pub position: u64,
}

/// An event as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// The event's number within the store's log.
    pub position: u64,
    /// The event's number within the stream, counted from 1.
    pub version: u64,
    /// The event's type.
    pub event_type: String,
    /// The event's id.
    pub id: String,
    /// When the event happened.
    pub recorded_at: SystemTime,
    /// The event's data: the JSON text that was appended.
    pub data: String,
    /// The event's metadata: a JSON object, as text.
    pub metadata: String,
}
