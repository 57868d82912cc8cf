//! Results that wait for their commit: one field for each kind of effect.
//!
//! A run, or a jump past shed events, fills an [`Outcome`]. The tracker holds it without looking
//! inside, and a commit writes it. A new kind of effect is a field here, and a module that writes
//! it.

use std::sync::Arc;

use super::shed::Shed;
use crate::{
    model::{diagnostics::Diagnostics, event::Event, handler::Reason, ids::LaneKey},
    projections::documents::{self, Changes},
};

/// The results of handled or shed events.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Number of events handled, counted from the first.
    pub handled: usize,
    /// Changed documents, with the last change of each. Shared with the commit that writes them,
    /// because they are needed again if it is rejected.
    pub documents: Arc<Changes>,
    /// Handled events that were set aside.
    pub dead_letters: Vec<DeadLetter>,
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
        documents::bytes(&self.documents) + self.dead_letters.iter().map(DeadLetter::bytes).sum::<usize>()
    }

    /// Sets a handled event aside.
    pub(super) fn set_aside(
        &mut self,
        lane: &LaneKey,
        event: &Event,
        digest: Arc<str>,
        reason: Reason,
        attempts: u32,
        diagnostics: Option<Box<Diagnostics>>,
    ) {
        self.dead_letters.push(DeadLetter {
            lane: lane.clone(),
            position: event.position,
            event_id: event.id.clone(),
            stream: event.stream.clone(),
            stream_version: event.version,
            digest,
            reason,
            attempts,
            diagnostics,
        });
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

impl DeadLetter {
    /// Bytes that it holds until the commit.
    pub fn bytes(&self) -> usize {
        let diagnostics = self.diagnostics.as_ref().map_or(0, |diagnostics| diagnostics.bytes());
        self.event_id.len() + self.stream.len() + self.reason.message.len() + diagnostics
    }
}
