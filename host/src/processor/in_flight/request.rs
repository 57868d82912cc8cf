//! Operators' requests about set-aside events, and the redeliveries that carry them out. Pure.

use std::{sync::Arc, time::Duration};

use super::parked_streams::{StreamMove, StreamPlace};
use crate::model::{handler::Reason, ids::LaneKey};

/// Something that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetAside {
    /// A dead letter, by its event's position.
    Letter(i64),
    /// A parked stream, by its name.
    Stream(Arc<str>),
}

/// What an operator wants done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestAction {
    /// Handle it again: a letter once, a stream until an event fails.
    Retry,
    /// Discard it: a letter, or the first waiting event of a stream.
    Discard,
    /// Discard all waiting events of a stream.
    DiscardAll,
}

/// An operator's request about something that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its lane.
    pub lane: LaneKey,
    /// What was set aside.
    pub subject: SetAside,
    /// What is to be done.
    pub action: RequestAction,
}

/// Set-aside events of one lane that are handled again or discarded.
#[derive(Clone, Debug)]
pub struct Redelivery {
    /// The events.
    pub subject: Redelivered,
    /// What is to be done.
    pub action: RequestAction,
    /// Earlier attempts at the first event since the request.
    pub attempts: u32,
    /// Why the database rejected the results of the event; none if it did not. The event then
    /// stays set aside, with this reason.
    pub refused: Option<Reason>,
}

/// The events of a redelivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redelivered {
    /// Those of dead letters, by position.
    Letters(Vec<i64>),
    /// The waiting events of a parked stream, at most this many.
    Stream(Arc<str>, StreamPlace, usize),
}

/// The end of a redelivery.
#[derive(Debug)]
pub struct RedeliveryEnd<T> {
    /// Number of letters that are answered, or of events of the stream that were handled, counted
    /// from the first.
    pub handled: usize,
    /// Whether the request about a stream is answered. If not, the redelivery continues.
    pub is_answered: bool,
    /// The delay before the next event is attempted again, and whether the attempt counts; none if
    /// it was not postponed.
    pub again: Option<(Duration, bool)>,
    /// The streams that it changed.
    pub streams: Vec<StreamMove>,
    /// Its results.
    pub results: T,
}

/// A redelivery whose results wait for their commit.
#[derive(Clone, Debug)]
pub(super) struct FinishedRedelivery {
    pub(super) redelivery: Redelivery,
    pub(super) handled: usize,
    pub(super) is_answered: bool,
}
