//! Events that change several documents: each event reads and writes any number of documents
//! through a [`View`].
//!
//! A batch is handled in three steps: parse each event's data, read the documents that the events
//! need (once per collection), handle the events in order. An event sees what earlier events wrote,
//! and the writes of a failing event are dropped. Documents are kept as JSON text, so an event
//! finds the same document whether it was written in this batch or in an earlier one.

use std::{cell::RefCell, collections::BTreeMap};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Batch, Conflicts, Effects, Event, Failure, Halt, Projection, Reaction, documents, failure::Failures};

/// Most documents in one read: half of what a host allows by default (`limits.reads`).
const READ_AT_ONCE: usize = 10_000;

/// Parses the events of a batch in which an event may change several documents. `E` is an enum as
/// for [`Event::typed`]. Events of other types are ignored. Data that does not fit skips its event
/// with the code `invalid-data`.
///
/// ```
/// use sandmill_guest::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// enum TransferEvent {
///     MoneyMoved { from: String, to: String, cents: i64 },
/// }
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Account {
///     balance: i64,
/// }
///
/// struct Accounts;
///
/// impl Projector for Accounts {
///     fn describe() -> Descriptor {
///         descriptor!("accounts").event_types_of::<TransferEvent>().collection("accounts")
///     }
///
///     fn project(batch: &Batch) -> Result<Projection, Halt> {
///         Ok(view(batch)
///             .reads("accounts", |TransferEvent::MoneyMoved { from, to, .. }, _, _| Ok([from.clone(), to.clone()]))
///             .handle(|view, TransferEvent::MoneyMoved { from, to, cents }, _| {
///                 for (id, cents) in [(from, -cents), (to, cents)] {
///                     let mut account: Account = view.get("accounts", &id)?.unwrap_or_default();
///                     account.balance += cents;
///                     view.put("accounts", id, &account)?;
///                 }
///                 Ok(())
///             }))
///     }
/// }
///
/// export_projector!(Accounts);
///
/// use sandmill_guest::testing::{event, given, json};
/// let moved = |from: &str, to: &str| event("MoneyMoved", json!({"from": from, "to": to, "cents": 500}));
/// given::<Accounts>([moved("ann", "bob"), moved("bob", "eve")]).then(
///     "accounts",
///     [("ann", json!({"balance": -500})), ("bob", json!({"balance": 0})), ("eve", json!({"balance": 500}))],
/// );
/// ```
pub fn view<'b, E: Deserialize<'b>>(batch: &'b Batch) -> ReadAhead<'b, E> {
    ReadAhead::parse(batch, |recorded| recorded.typed())
}

/// A parsed batch whose documents are yet to be read, made by [`view()`].
#[derive(Debug)]
#[must_use = "handle the events: `.handle(…)`, or `.react(…)` in a reactor"]
pub struct ReadAhead<'b, E> {
    failures: Failures,
    events: Vec<(Event<'b>, E)>,
    view: View,
}

impl<'b, E> ReadAhead<'b, E> {
    /// Parses the events of a batch. Events that `parse` returns as `None` are ignored.
    pub(crate) fn parse(batch: &'b Batch, mut parse: impl FnMut(Event<'b>) -> Result<Option<E>, Failure>) -> Self {
        let mut failures = Failures::default();
        let mut events = Vec::with_capacity(batch.len());
        for recorded in batch.events() {
            match parse(recorded) {
                Ok(Some(event)) => events.push((recorded, event)),
                Ok(None) => {}
                Err(failure) => {
                    if failures.fail(recorded.index(), failure).is_break() {
                        break;
                    }
                }
            }
        }
        ReadAhead { failures, events, view: View::default() }
    }

    /// Reads the documents of a collection that the events need, all at once. `ids` returns the ids
    /// that one event needs. Its view has the documents as they were before the batch. So documents
    /// of a collection that was read earlier can name documents of this one.
    ///
    /// This only saves time. A document that is not named here is read when an event asks for it,
    /// possibly with a round trip to the database for each. If `ids` fails, it names nothing; the
    /// event may still fail when it is handled.
    pub fn reads<I: IntoIterator<Item: Into<String>>>(
        self,
        collection: &str,
        mut ids: impl FnMut(&E, Event<'b>, &View) -> Result<I, Failure>,
    ) -> Self {
        let named = self.events.iter().filter_map(|(recorded, event)| ids(event, *recorded, &self.view).ok());
        let named = named.flatten().map(Into::into).collect();
        self.view.read_ahead(collection, named);
        self
    }

    /// Reads the documents that the events need, given as collections and ids, each collection at
    /// once.
    pub(crate) fn reads_all(self, mut named: impl FnMut(&E, Event<'b>) -> Vec<(&'static str, String)>) -> Self {
        let mut ids: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (recorded, event) in &self.events {
            for (collection, id) in named(event, *recorded) {
                ids.entry(collection).or_default().push(id);
            }
        }
        for (collection, ids) in ids {
            self.view.read_ahead(collection, ids);
        }
        self
    }

    /// Handles the events in order and returns the changed documents. The writes of a failing event
    /// are dropped.
    pub fn handle(self, mut handle: impl FnMut(&mut View, E, Event<'b>) -> Result<(), Failure>) -> Projection {
        let ReadAhead { mut failures, events, mut view } = self;
        for (recorded, event) in events {
            view.begin_event();
            if let Err(failure) = handle(&mut view, event, recorded) {
                view.roll_back();
                if failures.fail(recorded.index(), failure).is_break() {
                    break;
                }
            }
        }
        let mut projection = Projection::with_failures(failures);
        view.for_each_change(|collection, id, text| match text {
            Some(text) => projection.put_text(collection, &id, &text),
            None => projection.remove(collection, id),
        });
        projection
    }

    /// Handles the events of a reactor in order and returns their effects. All effects of a failing
    /// event are dropped. The documents that events change are read and written through
    /// [`Effects`].
    ///
    /// ```
    /// use sandmill_guest::prelude::*;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Deserialize)]
    /// enum StockEvent {
    ///     ItemSold { sku: String, warehouse: String },
    /// }
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Stock {
    ///     sold: u64,
    /// }
    ///
    /// struct Restock;
    ///
    /// impl BatchReactor for Restock {
    ///     fn describe() -> Descriptor {
    ///         descriptor!("restock").event_types_of::<StockEvent>().collection("stock")
    ///     }
    ///
    ///     fn react(batch: &Batch, conflicts: &Conflicts) -> Result<Reaction, Halt> {
    ///         let most = settings::parse::<u64>("sold")?.unwrap_or(2);
    ///         Ok(view(batch).reads("stock", |StockEvent::ItemSold { sku, .. }, _, _| Ok([sku.clone()])).react(
    ///             conflicts,
    ///             |effects, StockEvent::ItemSold { sku, warehouse }, _| {
    ///                 let mut stock: Stock = effects.get("stock", &sku)?.unwrap_or_default();
    ///                 stock.sold += 1;
    ///                 if stock.sold % most == 0 {
    ///                     effects.append(format!("warehouse-{warehouse}")).event("ItemOrdered", &sku)?;
    ///                 }
    ///                 Ok(effects.put("stock", sku, &stock)?)
    ///             },
    ///         ))
    ///     }
    /// }
    ///
    /// export_reactor!(Restock);
    ///
    /// use sandmill_guest::testing::{event, json, reactor};
    /// let sold = || event("ItemSold", json!({"sku": "mug", "warehouse": "north"}));
    /// reactor::<Restock>()
    ///     .given([sold(), sold(), sold()])
    ///     .then_appended("warehouse-north", [("ItemOrdered", json!("mug"))])
    ///     .then("stock", [("mug", json!({"sold": 3}))])
    ///     .then_nothing_else();
    /// ```
    pub fn react(
        self,
        conflicts: &Conflicts,
        mut handle: impl FnMut(&mut Effects<'_>, E, Event<'b>) -> Result<(), Failure>,
    ) -> Reaction {
        let ReadAhead { failures, events, view } = self;
        let mut reaction = Reaction::of(view, failures);
        for (recorded, event) in events {
            let outcome = handle(&mut reaction.effects(recorded, conflicts), event, recorded);
            if let Err(failure) = outcome
                && reaction.fail(recorded, failure).is_break()
            {
                break;
            }
        }
        reaction
    }
}

/// Whether a host accepts a document's id. An event that asks for an invalid one fails with the
/// host's reason.
fn is_id(id: &str) -> bool {
    (1..=512).contains(&id.len()) && !id.contains('\0')
}

/// The tenant's documents, with the changes of earlier events and of the current one.
#[derive(Debug, Default)]
pub struct View {
    /// The documents read or written so far, by collection and id.
    collections: RefCell<BTreeMap<String, BTreeMap<String, Entry>>>,
    /// The entries that the current event replaced, in order; `None` for a document not known
    /// before.
    undo: Vec<(String, String, Option<Entry>)>,
}

/// A document.
#[derive(Debug, Default)]
struct Entry {
    text: Option<String>,
    /// Whether the host has no such document. False if unknown.
    absent: bool,
    changed: bool,
}

impl View {
    /// Reads a document. `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// A document that is not a `T` stops the lane with the code `unreadable-document`.
    pub fn get<T: DeserializeOwned>(&self, collection: &str, id: &str) -> Result<Option<T>, Halt> {
        if !self.knows(collection, id) {
            self.read(collection, vec![id.to_owned()]);
        }
        let collections = self.collections.borrow();
        let text = collections.get(collection).and_then(|entries| entries.get(id)?.text.as_deref());
        text.map(|text| documents::parse(collection, id, text)).transpose()
    }

    /// Creates or replaces a document.
    ///
    /// # Errors
    ///
    /// As for [`Projection::put`].
    pub fn put<T: Serialize>(&mut self, collection: &str, id: impl Into<String>, document: &T) -> Result<(), Halt> {
        let id = id.into();
        let text = documents::text_of(collection, &id, document)?;
        self.replace(collection, id, Some(text));
        Ok(())
    }

    /// Removes a document. No error if it does not exist.
    pub fn remove(&mut self, collection: &str, id: impl Into<String>) {
        self.replace(collection, id.into(), None);
    }

    fn knows(&self, collection: &str, id: &str) -> bool {
        self.collections.borrow().get(collection).is_some_and(|entries| entries.contains_key(id))
    }

    /// Reads documents that events will need. Invalid ids are left to the events that name them.
    fn read_ahead(&self, collection: &str, mut ids: Vec<String>) {
        ids.retain(|id| is_id(id));
        self.read(collection, ids);
    }

    /// Reads the documents that are not known yet.
    fn read(&self, collection: &str, mut ids: Vec<String>) {
        ids.retain(|id| !self.knows(collection, id));
        ids.sort_unstable();
        ids.dedup();
        let mut collections = self.collections.borrow_mut();
        let entries = collections.entry(collection.to_owned()).or_default();
        for part in ids.chunks(READ_AT_ONCE) {
            let part: Vec<&str> = part.iter().map(String::as_str).collect();
            for (id, text) in part.iter().zip(documents::read(collection, &part).texts()) {
                let entry = Entry { absent: text.is_none(), text: text.map(str::to_owned), changed: false };
                entries.insert((*id).to_owned(), entry);
            }
        }
    }

    fn replace(&mut self, collection: &str, id: String, text: Option<String>) {
        let collections = self.collections.get_mut();
        if !collections.contains_key(collection) {
            collections.insert(collection.to_owned(), BTreeMap::new());
        }
        let Some(entries) = collections.get_mut(collection) else { return };
        let absent = entries.get(&id).is_some_and(|entry| entry.absent);
        let former = entries.insert(id.clone(), Entry { text, absent, changed: true });
        self.undo.push((collection.to_owned(), id, former));
    }

    /// Keeps the writes so far. From here on, [`View::roll_back`] drops those of the next event.
    pub(crate) fn begin_event(&mut self) {
        self.undo.clear();
    }

    /// Drops the writes of the current event.
    pub(crate) fn roll_back(&mut self) {
        let collections = self.collections.get_mut();
        while let Some((collection, id, former)) = self.undo.pop() {
            let Some(entries) = collections.get_mut(&collection) else { continue };
            match former {
                Some(entry) => entries.insert(id, entry),
                None => entries.remove(&id),
            };
        }
    }

    /// Passes each changed document to `change`, in the order of collections and ids: its
    /// collection, id and text, `None` if it was removed.
    pub(crate) fn for_each_change(self, mut change: impl FnMut(&str, String, Option<String>)) {
        for (collection, entries) in self.collections.into_inner() {
            for (id, Entry { text, absent, changed }) in entries {
                if changed && (text.is_some() || !absent) {
                    change(&collection, id, text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Descriptor, Projector, raw,
        testing::{Lane, NewEvent, event, given, json},
    };

    /// An event that adds to documents in order, and then may fail.
    #[derive(Deserialize)]
    enum Step {
        Step { deeds: Vec<(String, String, i64)>, fail: Option<String> },
    }

    /// Sums in two collections, removed at zero. Reads documents ahead if `READ_AHEAD`.
    struct Sums<const READ_AHEAD: bool>;

    impl<const READ_AHEAD: bool> Projector for Sums<READ_AHEAD> {
        fn describe() -> Descriptor {
            crate::descriptor!("sums").event_types_of::<Step>().collection("a").collection("b")
        }

        fn project(batch: &Batch) -> Result<Projection, Halt> {
            let named = |collection: &'static str| {
                move |Step::Step { deeds, .. }: &Step, _: Event<'_>, _: &View| {
                    let of = deeds.iter().filter(|(of, ..)| READ_AHEAD && of == collection);
                    Ok(of.map(|(_, id, _)| id.clone()).collect::<Vec<_>>())
                }
            };
            Ok(view(batch).reads("a", named("a")).reads("b", named("b")).handle(
                |view, Step::Step { deeds, fail }, _| {
                    for (collection, id, add) in deeds {
                        let sum =
                            view.get::<BTreeMap<String, i64>>(&collection, &id)?.map_or(0, |sum| sum["sum"]) + add;
                        match sum {
                            0 => view.remove(&collection, id),
                            _ => view.put(&collection, id, &BTreeMap::from([("sum", sum)]))?,
                        }
                    }
                    match fail.as_deref() {
                        Some("skip") => Err(Failure::skip("asked", "")),
                        Some("stop") => Err(Failure::stop("asked", "")),
                        _ => Ok(()),
                    }
                },
            ))
        }
    }

    fn step(deeds: &[(&str, &str, i64)]) -> NewEvent {
        event("Step", json!({"deeds": deeds}))
    }

    fn failing(fail: &str, deeds: &[(&str, &str, i64)]) -> NewEvent {
        event("Step", json!({"deeds": deeds, "fail": fail}))
    }

    #[test]
    fn an_event_changes_several_documents_and_sees_earlier_writes() {
        fn holds<P: Projector>() {
            given::<P>([step(&[("a", "x", 2), ("b", "x", 3)]), step(&[("a", "x", 5), ("a", "x", 1), ("b", "y", 1)])])
                .then("a", [("x", json!({"sum": 8}))])
                .then("b", [("x", json!({"sum": 3})), ("y", json!({"sum": 1}))]);
        }
        holds::<Sums<true>>();
        holds::<Sums<false>>();
    }

    #[test]
    fn the_writes_of_a_failing_event_are_dropped() {
        fn holds<P: Projector>() {
            given::<P>([
                step(&[("a", "x", 2)]),
                failing("skip", &[("a", "x", 5), ("a", "y", 1), ("a", "x", -7), ("b", "z", 1)]),
                step(&[("a", "x", 1)]),
                event("Step", "{}"),
                event("Other", "{}"),
                failing("stop", &[("a", "x", 9)]),
                step(&[("a", "x", 100)]),
            ])
            .then("a", [("x", json!({"sum": 3}))])
            .then_empty("b")
            .then_skipped([(1, "asked"), (3, "invalid-data")])
            .then_halted(5, "asked");
        }
        holds::<Sums<true>>();
        holds::<Sums<false>>();
    }

    #[test]
    fn a_removed_document_can_be_created_again() {
        let mut lane = Lane::<Sums<true>>::new("acme");
        let answer = lane.handle([step(&[("a", "x", 2)]), step(&[("a", "x", -2)])]);
        assert!(answer.changes.is_empty(), "the document was created and removed within the batch");
        lane.handle([step(&[("a", "x", 2)])]);
        let answer = lane.handle([step(&[("a", "x", -2)])]);
        assert!(matches!(answer.changes[..], [raw::Change::Remove(_)]));
        lane.handle([step(&[("a", "x", 4)])]);
        assert_eq!(lane.texts("a"), [("x", r#"{"sum":4}"#)]);
    }

    #[test]
    fn reading_ahead_reads_each_collection_once_per_batch() {
        let reads = |read_ahead: bool| {
            let events = [step(&[("a", "x", 1), ("b", "x", 1)]), step(&[("a", "y", 1), ("b", "x", 1), ("a", "x", 1)])];
            if read_ahead {
                Lane::<Sums<true>>::new("acme").handle(events);
            } else {
                Lane::<Sums<false>>::new("acme").handle(events);
            }
            crate::testing::take_reads()
        };
        crate::testing::take_reads();
        assert_eq!(reads(true), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(reads(false), [("a".to_owned(), 1), ("b".to_owned(), 1), ("a".to_owned(), 1)]);
    }

    /// Names invalid ids to read ahead, and fails to name ids. Handles every event alike.
    struct Careless;

    impl Projector for Careless {
        fn describe() -> Descriptor {
            crate::descriptor!("careless").event_types_of::<Step>().collection("a")
        }

        fn project(batch: &Batch) -> Result<Projection, Halt> {
            Ok(view::<Step>(batch)
                .reads("a", |_, _, _| Ok([String::new(), "\0".into(), "x".repeat(513)]))
                .reads("a", |_, _, _| Err::<[&str; 0], _>(Failure::stop("never", "")))
                .handle(|view, _, _| {
                    let id = if view.get::<BTreeMap<String, i64>>("a", "x")?.is_some() { "y" } else { "x" };
                    Ok(view.put("a", id, &BTreeMap::<String, i64>::new())?)
                }))
        }
    }

    #[test]
    fn reading_ahead_changes_no_outcome() {
        given::<Careless>([step(&[]), step(&[])]).then("a", [("x", "{}"), ("y", "{}")]);
        crate::testing::take_reads();
        Lane::<Careless>::new("acme").handle([step(&[])]);
        assert_eq!(crate::testing::take_reads(), [("a".to_owned(), 1)]);
    }

    #[test]
    fn an_unreadable_document_stops_only_before_an_event_that_needs_it() {
        let mut lane = Lane::<Sums<true>>::new("acme");
        lane.store("a", "bad", "[]");
        let answer = lane.handle([step(&[("a", "x", 1)]), step(&[("a", "bad", 1)]), step(&[("a", "x", 1)])]);
        assert_eq!(answer.halted.map(|halt| (halt.index, halt.code)), Some((1, "unreadable-document".to_owned())));
        assert_eq!(lane.texts("a"), [("bad", "[]"), ("x", r#"{"sum":1}"#)]);
    }
}
