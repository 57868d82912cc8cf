//! Events, and the pages and batches that contain them. An event is parsed from its row once, and
//! then shared.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    cursor::{Difference, Progress},
    ids::{LaneKey, TenantId},
    reaction::AppendConflict,
};

/// An event: one recorded fact. `data` and `metadata` are JSON texts, kept as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number within the log. The numbers have gaps, and alone they are not a cursor.
    pub position: i64,
    /// Unique within the store.
    pub id: Box<str>,
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// Its type. Many events have the same type, so they share one string.
    pub event_type: Arc<str>,
    /// The stream it was appended to, unique within the tenant.
    pub stream: Box<str>,
    /// Number within the stream, from 1.
    pub version: i64,
    /// The time it was recorded, milliseconds since 1970-01-01T00:00:00Z.
    pub recorded_at: i64,
    /// JSON text.
    pub data: Box<str>,
    /// JSON text of an object. Events without metadata share one string.
    pub metadata: Arc<str>,
    /// Set if data and metadata stayed in the store because one of them is large. Both are then
    /// empty here, and are read when the event is handled.
    pub deferred: Option<Deferred>,
}

/// A partition key, or why it cannot be read.
type PartitionKey = Result<Arc<str>, Arc<str>>;

/// A mark of an event whose large data is read only when it is needed.
#[derive(Clone, Debug)]
pub struct Deferred {
    /// Data or metadata has more bytes than this.
    pub larger_than: usize,
    /// Partition keys by JSON pointer: the only part of the data that is read to route the event.
    keys: Arc<Mutex<BTreeMap<Box<str>, PartitionKey>>>,
}

impl Deferred {
    /// A mark without any partition key.
    pub fn new(larger_than: usize) -> Self {
        Deferred { larger_than, keys: Arc::default() }
    }

    /// The key that a pointer selects, or why it cannot be read; none if that was not read yet.
    pub fn key(&self, pointer: &str) -> Option<PartitionKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(pointer).cloned()
    }

    /// Remembers the key that a pointer selects.
    pub fn set_key(&self, pointer: &str, key: PartitionKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(pointer.into(), key);
    }
}

/// Partition keys are derived from the event, so they do not count in comparisons.
impl PartialEq for Deferred {
    fn eq(&self, other: &Self) -> bool {
        self.larger_than == other.larger_than
    }
}

impl Eq for Deferred {}

impl Event {
    /// Bytes that the event occupies, for memory bounds: its strings, and a constant for the rest.
    pub fn weight(&self) -> usize {
        self.id.len() + self.event_type.len() + self.stream.len() + self.data.len() + self.metadata.len() + 160
    }
}

/// A page: a bounded, ordered part of the log between one progress and the next.
#[derive(Clone, Debug)]
pub struct Page {
    /// The progress before it.
    pub from: Progress,
    /// The progress after it. It may differ from `from` even without events, because the snapshot
    /// has moved on.
    pub to: Progress,
    /// The events, by position.
    pub events: Vec<Arc<Event>>,
}

impl Page {
    /// The difference that the page is a part of.
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

    /// Bytes that its events occupy.
    pub fn weight(&self) -> usize {
        self.events.iter().map(|e| e.weight()).sum()
    }
}

/// Consecutive events of one lane, at least one, for one call of a handler.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lane.
    pub lane: LaneKey,
    /// The attempt at the first event, counted from 1.
    pub attempt: u32,
    /// Whether this is a dry run: the events were handled before, and the effects are discarded.
    pub replaying: bool,
    /// The events, by position.
    pub events: Vec<Arc<Event>>,
    /// Appends of earlier attempts at these events that conflicted; none for most batches.
    pub conflicts: Option<Arc<[AppendConflict]>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_inside_a_page_lies_in_the_pages_own_difference() {
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
