//! The effects of a reactor outside its own documents, as data. They are committed together with
//! the lane's progress.

use super::json::Invalid;

/// The version that a stream must have before an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Any version.
    Any,
    /// The stream's last event must have this version; 0 if the stream must not exist.
    Exactly(i64),
}

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id, unique within the tenant; none if it is derived from the cause.
    pub id: Option<Box<str>>,
    /// Its type, 1 to 200 bytes.
    pub event_type: Box<str>,
    /// Its content: JSON.
    pub data: Box<str>,
    /// A JSON object; none for `{}`.
    pub metadata: Option<Box<str>>,
}

/// An append to one stream of the lane's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Index into the batch of the event that led to it.
    pub cause: usize,
    /// The stream, 1 to 512 bytes.
    pub stream: Box<str>,
    /// The version that it must have.
    pub expected: ExpectedVersion,
    /// The events, at least one.
    pub events: Vec<NewEvent>,
}

/// An append that was not carried out, because its stream had another version. It is passed to the
/// handler with the next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendConflict {
    /// Position in the log of the event that led to the append.
    pub cause: i64,
    /// The stream.
    pub stream: Box<str>,
    /// The version that the append asked for.
    pub expected: i64,
    /// The stream's version at that time, 0 if it did not exist.
    pub actual: i64,
}

/// Why an append is invalid regardless of its stream's state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppendFault {
    /// The stream's name is not allowed.
    #[error("a stream's name must have 1 to 512 bytes without U+0000, and this one has {0} bytes")]
    Stream(usize),
    /// There are no events.
    #[error("it has no events")]
    Empty,
    /// The expected version is larger than any stream's.
    #[error("the expected version {0} is larger than any stream's")]
    Version(u64),
    /// An event's type is not allowed.
    #[error("an event's type must have 1 to 200 bytes without U+0000, and this one has {0} bytes")]
    Type(usize),
    /// An event's id is not allowed.
    #[error("an event's id must have 1 to 200 bytes without U+0000, and this one has {0} bytes")]
    Id(usize),
    /// An event's data or metadata is not JSON that can be stored.
    #[error("the {part} of an event of type `{event_type}`: {problem}")]
    Json {
        /// `data` or `metadata`.
        part: &'static str,
        /// The event's type.
        event_type: String,
        /// What is wrong with it.
        problem: Invalid,
    },
}
