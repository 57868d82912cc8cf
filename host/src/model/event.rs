//! An event as the host sees it: parsed from a row once, then shared.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    cursor::{Difference, Progress},
    ids::{LaneKey, TenantId},
};

/// One recorded fact. `data` and `metadata` stay the JSON text they were written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number within the log. Has gaps; never a cursor by itself.
    pub position: i64,
    /// Unique within the store.
    pub id: Box<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// What happened. Few types make many events, so they share their texts.
    pub event_type: Arc<str>,
    /// The stream it was appended to, unique within the tenant.
    pub stream: Box<str>,
    /// Number within the stream, from 1.
    pub version: i64,
    /// When it was recorded, milliseconds since 1970-01-01T00:00:00Z.
    pub recorded_at: i64,
    /// JSON text.
    pub data: Box<str>,
    /// JSON text of an object; shared where it says nothing.
    pub metadata: Arc<str>,
    /// Set if data and metadata stayed in the store because one of them is large. Both are empty
    /// here then, and are read when the event is handled.
    pub deferred: Option<Deferred>,
}

/// A partition key, or why it cannot be read.
type Key = Result<Arc<str>, Arc<str>>;

/// Marks an event whose large data is read only when it is needed.
#[derive(Clone, Debug)]
pub struct Deferred {
    /// Data or metadata has more bytes than this.
    pub larger_than: usize,
    /// Keys of its lanes, by the JSON pointer that leads to them: all that was read of its data to
    /// route it.
    keys: Arc<Mutex<BTreeMap<Box<str>, Key>>>,
}

impl Deferred {
    /// Nothing was read of its data yet.
    pub fn new(larger_than: usize) -> Self {
        Deferred { larger_than, keys: Arc::default() }
    }

    /// The key that a pointer leads to, or why there is none; nothing if that was not read.
    pub fn key(&self, pointer: &str) -> Option<Key> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(pointer).cloned()
    }

    /// Remembers the key that a pointer leads to.
    pub fn set_key(&self, pointer: &str, key: Key) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(pointer.into(), key);
    }
}

/// Remembered keys are derived from the event and are no part of it.
impl PartialEq for Deferred {
    fn eq(&self, other: &Self) -> bool {
        self.larger_than == other.larger_than
    }
}

impl Eq for Deferred {}

impl Event {
    /// Bytes it occupies, for bounds on memory: its texts and a flat sum for the rest.
    pub fn weight(&self) -> usize {
        self.id.len() + self.event_type.len() + self.stream.len() + self.data.len() + self.metadata.len() + 160
    }
}

/// A bounded, ordered part of the log: what a follower at `from` reads next, and where that takes it.
#[derive(Clone, Debug)]
pub struct Page {
    /// The progress before it.
    pub from: Progress,
    /// The progress after it. Differs from `from` also when there are no events, as the snapshot moved on.
    pub to: Progress,
    /// By position.
    pub events: Vec<Arc<Event>>,
}

impl Page {
    /// The difference that this page is a part of.
    pub fn difference(&self) -> Difference {
        let target = [&self.from, &self.to].into_iter().find_map(Progress::target).unwrap_or(self.to.seen());
        Difference {
            from: self.from.seen().clone(),
            to: target.clone(),
            after: self.from.remainder().and_then(|rest| rest.after),
            up_to: None,
            then: Progress::at(target.clone()),
        }
    }

    /// Bytes its events occupy.
    pub fn weight(&self) -> usize {
        self.events.iter().map(|e| e.weight()).sum()
    }
}

/// Consecutive events of one lane, at least one, and how often the first was tried.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lane.
    pub lane: LaneKey,
    /// 1 the first time the first event is handled, then counting up.
    pub attempt: u32,
    /// Whether the events were handled before, and nothing that this leads to is kept.
    pub replaying: bool,
    /// By position.
    pub events: Vec<Arc<Event>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_left_inside_a_page_stands_in_the_pages_own_difference() {
        for (from, to) in [
            ("5:5:||", "9:9:||"),
            ("5:5:||", "5:5:|9:9:|70"),
            ("5:5:|9:9:|70", "9:9:||"),
            ("5:5:|9:9:|70", "5:5:|9:9:|90"),
        ] {
            let page = Page { from: from.parse().unwrap(), to: to.parse().unwrap(), events: vec![] };
            assert_eq!(page.difference().handled_up_to(75).to_string(), "5:5:|9:9:|75", "{from} to {to}");
        }
    }
}
