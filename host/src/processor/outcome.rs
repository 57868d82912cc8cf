//! Results that wait for their commit: one field for each kind of effect.
//!
//! A run, or a jump past shed events, fills an [`Outcome`]. The tracker holds it without looking
//! inside, and a commit writes it. A new kind of effect is a field here, and a module that writes
//! it.

use std::sync::Arc;

use super::{appends::PlannedAppend, in_flight::StreamPlace, shed::Shed};
use crate::{
    model::{diagnostics::Diagnostics, event::Event, handler::Reason, ids::LaneKey},
    projections::documents::{self, Changes},
};

/// The results of handled or shed events.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Number of events that the lane has passed, counted from the first: all that were handled,
    /// set aside or passed over.
    pub handled: usize,
    /// Changed documents, with the last change of each. Shared with the commit that writes them,
    /// because they are needed again if it is rejected.
    pub documents: Arc<Changes>,
    /// The passed events that were set aside.
    pub dead_letters: Vec<DeadLetter>,
    /// Number of passed events that wait because their stream is parked.
    pub parked: usize,
    /// Parked streams that have changed; the last change of each counts.
    pub streams: Vec<StreamChange>,
    /// Positions of dead letters that are deleted: they were handled again, or discarded.
    pub answered: Vec<i64>,
    /// Number of set-aside events that were discarded.
    pub discarded: usize,
    /// Events that are appended, in order.
    pub appends: Vec<PlannedAppend>,
    /// Events that were shed instead of being handled.
    pub shed: Option<Shed>,
}

impl Outcome {
    /// The outcome of events that were shed.
    pub fn shed(shed: Shed) -> Self {
        Outcome { shed: Some(shed), ..Outcome::default() }
    }

    /// Bytes that it holds until the commit.
    pub fn bytes(&self) -> usize {
        let failed = self.streams.iter().filter_map(|change| change.failed.as_ref());
        let letters = self.dead_letters.iter().chain(failed).map(DeadLetter::bytes).sum::<usize>();
        let appends = self.appends.iter().map(PlannedAppend::bytes).sum::<usize>();
        documents::bytes(&self.documents) + letters + appends
    }

    /// Number of events that count as handled.
    pub fn counted(&self) -> usize {
        self.handled.saturating_sub(self.dead_letters.len() + self.parked)
    }
}

/// A dead letter: an event that was set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its lane.
    pub lane: LaneKey,
    /// Its position in the log.
    pub position: i64,
    /// Its id.
    pub event_id: Box<str>,
    /// Its stream.
    pub stream: Box<str>,
    /// Its version in the stream.
    pub stream_version: i64,
    /// The version of the code that set it aside, as SHA-256.
    pub digest: Arc<str>,
    /// Why it was set aside.
    pub reason: Reason,
    /// Number of attempts.
    pub attempts: u32,
    /// What the last attempt left behind, if anything.
    pub diagnostics: Option<Box<Diagnostics>>,
}

/// A change of a parked stream.
#[derive(Clone, Debug)]
pub struct StreamChange {
    /// The lane that handles the stream.
    pub lane: LaneKey,
    /// The stream.
    pub stream: Arc<str>,
    /// The events that wait now.
    pub place: StreamPlace,
    /// The event that failed, if one did.
    pub failed: Option<DeadLetter>,
    /// Whether it answers an operator's request.
    pub answers: bool,
}

impl DeadLetter {
    /// A letter for an event of a lane.
    pub(super) fn new(
        lane: &LaneKey,
        event: &Event,
        digest: Arc<str>,
        reason: Reason,
        attempts: u32,
        diagnostics: Option<Box<Diagnostics>>,
    ) -> Self {
        DeadLetter {
            lane: lane.clone(),
            position: event.position,
            event_id: event.id.clone(),
            stream: event.stream.clone(),
            stream_version: event.version,
            digest,
            reason,
            attempts,
            diagnostics,
        }
    }

    /// The letter of an event that can no longer be read. The stored columns of the event stay.
    pub(super) fn of_missing(lane: &LaneKey, position: i64, reason: Reason) -> Self {
        DeadLetter {
            lane: lane.clone(),
            position,
            event_id: "".into(),
            stream: "".into(),
            stream_version: 0,
            digest: "".into(),
            reason,
            attempts: 0,
            diagnostics: None,
        }
    }

    /// Bytes that it holds until the commit.
    pub fn bytes(&self) -> usize {
        let diagnostics = self.diagnostics.as_ref().map_or(0, |diagnostics| diagnostics.bytes());
        self.event_id.len() + self.stream.len() + self.reason.message.len() + diagnostics
    }
}
