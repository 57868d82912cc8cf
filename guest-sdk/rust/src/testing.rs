//! A test kit that runs a plugin without a host. [`given()`] states events and asserts the
//! documents of a projector; [`reactor()`] does the same for the effects of a reactor. A [`Lane`]
//! runs batches one at a time and returns each answer. Documents are kept in memory, and the host's
//! limits are not checked. Not available on WebAssembly.
//!
//! ```
//! use sandmill_guest::{prelude::*, testing::{event, given, json}};
//! # struct Counter;
//! # impl Projector for Counter {
//! #     fn describe() -> Descriptor { descriptor!("counter").collection("counts") }
//! #     fn project(batch: &Batch) -> Result<Projection, Halt> {
//! #         Ok(fold(batch, "counts", |event| Ok((event.stream_id(), ())), |count: &mut std::collections::BTreeMap<String, u64>, _, ()| {
//! #             *count.entry("count".into()).or_default() += 1; Ok(())
//! #         }))
//! #     }
//! # }
//!
//! given::<Counter>([event("Opened", "{}").stream("door-1"), event("Shut", "{}").stream("door-1")])
//!     .then("counts", [("door-1", json!({"count": 2}))]);
//! ```

mod diff;
mod effects;
mod given;
mod outcome;
mod reactor;
mod scenario;

use std::{cell::RefCell, collections::BTreeMap, marker::PhantomData};

use crate::{Batch, BatchReactor, Conflicts, Projection, Projector, Reaction, raw};

pub use given::{Given, given};
pub use reactor::{ReactorTest, reactor};
#[doc(no_inline)]
pub use serde_json::json;

/// A lane of a tenant, with its documents and the numbers of its events. `P` is a [`Projector`] or
/// a [`BatchReactor`].
#[derive(Debug)]
pub struct Lane<P> {
    tenant: String,
    store: Store,
    versions: BTreeMap<String, u64>,
    position: u64,
    plugin: PhantomData<P>,
}

/// An event for a test, made by [`event`].
#[derive(Clone, Debug)]
pub struct NewEvent {
    id: Option<String>,
    event_type: String,
    stream: String,
    data: String,
    metadata: String,
    recorded_at: i64,
}

/// An event with its type and its data, as JSON text or [`json!`]. Defaults: stream `stream-1`, id
/// `event-N` after its position, no metadata, recorded at 0.
pub fn event(event_type: impl Into<String>, data: impl ToString) -> NewEvent {
    NewEvent {
        id: None,
        event_type: event_type.into(),
        stream: "stream-1".into(),
        data: data.to_string(),
        metadata: "{}".into(),
        recorded_at: 0,
    }
}

impl NewEvent {
    /// Sets the event's id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the event's stream.
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = stream.into();
        self
    }

    /// Sets the event's metadata: a JSON object, as text or [`json!`].
    pub fn metadata(mut self, metadata: impl ToString) -> Self {
        self.metadata = metadata.to_string();
        self
    }

    /// Sets when the event was recorded, in milliseconds since 1970-01-01T00:00:00Z. Default: 0.
    pub fn recorded_at(mut self, milliseconds: i64) -> Self {
        self.recorded_at = milliseconds;
        self
    }
}

impl<P> Lane<P> {
    /// A lane without documents.
    pub fn new(tenant: impl Into<String>) -> Self {
        Lane {
            tenant: tenant.into(),
            store: Store::default(),
            versions: BTreeMap::new(),
            position: 0,
            plugin: PhantomData,
        }
    }

    /// Sets a setting of the plugin.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.store.settings.insert(key.into(), value.into());
    }

    /// Stores a document, given as JSON text.
    pub fn store(&mut self, collection: impl Into<String>, id: impl Into<String>, text: impl Into<String>) {
        self.store.documents.insert((collection.into(), id.into()), text.into());
    }

    /// A document's JSON text. `None` if it does not exist.
    pub fn text(&self, collection: &str, id: &str) -> Option<&str> {
        self.store.documents.get(&(collection.to_owned(), id.to_owned())).map(String::as_str)
    }

    /// All documents of a collection, as ids and JSON texts, sorted by id.
    pub fn texts(&self, collection: &str) -> Vec<(&str, &str)> {
        let all = self.store.documents.iter().filter(|((of, _), _)| of == collection);
        all.map(|((_, id), text)| (id.as_str(), text.as_str())).collect()
    }

    fn append_all(&mut self, events: impl IntoIterator<Item = NewEvent>) -> Vec<raw::Event> {
        events.into_iter().map(|event| self.append(event)).collect()
    }

    fn append(&mut self, event: NewEvent) -> raw::Event {
        let NewEvent { id, event_type, stream, data, metadata, recorded_at } = event;
        self.position += 1;
        let version = self.versions.entry(stream.clone()).or_default();
        *version += 1;
        raw::Event {
            id: id.unwrap_or_else(|| format!("event-{}", self.position)),
            event_type,
            stream_id: stream,
            stream_version: *version,
            position: self.position,
            recorded_at,
            data,
            metadata,
        }
    }

    /// Passes a batch to the plugin, which reads this lane's documents and settings.
    fn call<T>(&mut self, attempt: u32, events: Vec<raw::Event>, plugin: impl FnOnce(&Batch) -> T) -> T {
        let (tenant, partition_key) = (self.tenant.clone(), self.tenant.clone());
        let batch = Batch::from(raw::Batch { tenant, partition_key, attempt, replaying: false, events });
        STORE.replace(std::mem::take(&mut self.store));
        let answer = plugin(&batch);
        self.store = STORE.take();
        answer
    }

    fn apply(&mut self, changes: &[raw::Change]) {
        for change in changes {
            match change {
                raw::Change::Put(document) => self.store(&document.collection, &document.id, &document.data),
                raw::Change::Remove(key) => {
                    self.store.documents.remove(&(key.collection.clone(), key.id.clone()));
                }
            }
        }
    }
}

impl<P: Projector> Lane<P> {
    /// Appends the events, runs the projector on them as one batch at its first attempt, applies
    /// the changes, and returns the answer. A panic of the projector fails the test.
    pub fn handle(&mut self, events: impl IntoIterator<Item = NewEvent>) -> raw::Projection {
        let events = self.append_all(events);
        self.project(events)
    }

    fn project(&mut self, events: Vec<raw::Event>) -> raw::Projection {
        let answer = self.call(1, events, |batch| P::project(batch).unwrap_or_else(Projection::halted_at_once));
        let answer = raw::Projection::from(answer);
        self.apply(&answer.changes);
        answer
    }
}

impl<R: BatchReactor> Lane<R> {
    /// Appends the events, runs the reactor on them as one batch at its first attempt, applies the
    /// changes to documents, and returns the answer. Its other effects are not carried out. A panic
    /// of the reactor fails the test.
    pub fn react(&mut self, events: impl IntoIterator<Item = NewEvent>) -> raw::Reaction {
        self.react_again(events, [])
    }

    /// Runs the reactor as [`react`](Lane::react) does, but at the second attempt if there are
    /// conflicts of a first one, of which nothing was committed.
    pub fn react_again(
        &mut self,
        events: impl IntoIterator<Item = NewEvent>,
        conflicts: impl IntoIterator<Item = raw::AppendConflict>,
    ) -> raw::Reaction {
        let events = self.append_all(events);
        self.react_to(events, conflicts.into_iter().collect())
    }

    fn react_to(&mut self, events: Vec<raw::Event>, conflicts: Vec<raw::AppendConflict>) -> raw::Reaction {
        let attempt = if conflicts.is_empty() { 1 } else { 2 };
        let conflicts = Conflicts::from(conflicts);
        let react = |batch: &Batch| R::react(batch, &conflicts).unwrap_or_else(Reaction::halted_at_once);
        let answer = raw::Reaction::from(self.call(attempt, events, react));
        self.apply(&answer.changes);
        answer
    }
}

/// The host's state, while a batch is handled on this thread.
#[derive(Debug, Default)]
struct Store {
    documents: BTreeMap<(String, String), String>,
    settings: BTreeMap<String, String>,
}

thread_local! {
    static STORE: RefCell<Store> = RefCell::default();
    #[cfg(test)]
    static READS: RefCell<Vec<(String, usize)>> = RefCell::default();
}

/// Takes the recorded reads of this thread: the collection and the number of documents of each.
#[cfg(test)]
pub(crate) fn take_reads() -> Vec<(String, usize)> {
    READS.take()
}

pub(crate) fn documents(collection: &str, ids: &[&str]) -> Vec<Option<String>> {
    #[cfg(test)]
    READS.with_borrow_mut(|reads| reads.push((collection.to_owned(), ids.len())));
    let find =
        |id: &&str| STORE.with_borrow(|store| store.documents.get(&(collection.to_owned(), (*id).to_owned())).cloned());
    ids.iter().map(find).collect()
}

pub(crate) fn setting(key: &str) -> Option<String> {
    STORE.with_borrow(|store| store.settings.get(key).cloned())
}

pub(crate) fn settings() -> Vec<(String, String)> {
    STORE.with_borrow(|store| store.settings.clone().into_iter().collect())
}
