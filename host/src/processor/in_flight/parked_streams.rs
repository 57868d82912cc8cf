//! Parked streams: streams whose events wait in order behind one that failed. Pure.
//!
//! A lane passes over the events of a parked stream without a call. The log keeps them, and the
//! stream's row records which of them wait: all versions from `next` to `last` that the lane has
//! passed. Each piece of work sees the streams as the lane's work before it has left them. If
//! results are dropped, the streams are again as the database has them.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::ids::LaneKey;

/// The events of a parked stream that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlace {
    /// The version of the first.
    pub next: i64,
    /// The version of the last.
    pub last: i64,
    /// Their number; 0 if the stream is no longer parked.
    pub events: u64,
}

impl StreamPlace {
    /// A stream that is parked at this version, before any event of it is passed.
    pub fn before(version: i64) -> Self {
        StreamPlace { next: version, last: version, events: 0 }
    }

    /// The same after the lane has passed one more event.
    pub fn passed(self, version: i64) -> Self {
        StreamPlace { last: version, events: self.events + 1, ..self }
    }
}

/// The parked streams of one lane, by name.
pub type ParkedStreams = BTreeMap<Arc<str>, StreamPlace>;

/// A parked stream that has changed.
pub type StreamMove = (Arc<str>, StreamPlace);

/// The parked streams of all lanes.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamTable {
    lanes: BTreeMap<LaneKey, LaneStreams>,
}

#[derive(Clone, Debug, Default)]
struct LaneStreams {
    /// As the database has them.
    stored: Arc<ParkedStreams>,
    /// As the lane's finished work has left them.
    latest: Arc<ParkedStreams>,
}

impl StreamTable {
    /// Adds a stream that the database has.
    pub(super) fn insert(&mut self, lane: LaneKey, stream: Arc<str>, place: StreamPlace) {
        let streams = self.lanes.entry(lane).or_default();
        Arc::make_mut(&mut streams.stored).insert(stream, place);
        streams.latest = streams.stored.clone();
    }

    /// A lane's streams for its next piece of work; none if it has none.
    pub(super) fn latest(&self, lane: &LaneKey) -> Option<Arc<ParkedStreams>> {
        self.lanes.get(lane).map(|streams| streams.latest.clone()).filter(|streams| !streams.is_empty())
    }

    /// Applies what a finished piece of work has changed.
    pub(super) fn finished(&mut self, lane: &LaneKey, moves: &[StreamMove]) {
        if !moves.is_empty() {
            apply(&mut self.lanes.entry(lane.clone()).or_default().latest, moves);
        }
    }

    /// Records that the changes of a finished piece of work are committed.
    pub(super) fn committed(&mut self, lane: &LaneKey, moves: &[StreamMove]) {
        if moves.is_empty() {
            return;
        }
        let streams = self.lanes.entry(lane.clone()).or_default();
        apply(&mut streams.stored, moves);
        if streams.stored.is_empty() && streams.latest.is_empty() {
            self.lanes.remove(lane);
        }
    }

    /// Forgets the changes of finished work whose results are dropped.
    pub(super) fn dropped(&mut self, lane: &LaneKey) {
        if let Some(streams) = self.lanes.get_mut(lane) {
            streams.latest = streams.stored.clone();
            if streams.stored.is_empty() {
                self.lanes.remove(lane);
            }
        }
    }
}

fn apply(streams: &mut Arc<ParkedStreams>, moves: &[StreamMove]) {
    let streams = Arc::make_mut(streams);
    for (stream, place) in moves {
        match place.events {
            0 => streams.remove(stream),
            _ => streams.insert(stream.clone(), *place),
        };
    }
}
