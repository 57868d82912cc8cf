//! Single-document projections: each event changes one document. The author names the document and
//! the change; the SDK reads, writes and handles batches. Built on [`fold_entries`], so a batch
//! costs one read, and one write per changed document.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Batch, Descriptor, Event, Failure, Halt, Projection, Projector, fold_entries};

/// A document that events change, one document per event. Every `Document` is a [`Projector`].
///
/// The initial state is [`Default`]. A document is created by its first event. All functions must
/// be pure: no clock, no randomness, no state kept between calls.
///
/// ```
/// use sandmill_guest::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// enum AccountEvent {
///     Deposited { cents: u64 },
///     Withdrawn { cents: u64 },
///     Closed,
/// }
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Account {
///     balance: u64,
///     #[serde(skip)]
///     closed: bool,
/// }
///
/// impl Document for Account {
///     const COLLECTION: &str = "accounts";
///     type Event<'e> = AccountEvent;
///
///     fn descriptor() -> Descriptor {
///         descriptor!("accounts")
///     }
///
///     fn check(&self, event: &AccountEvent, _: Event<'_>) -> Result<(), Failure> {
///         match event {
///             AccountEvent::Withdrawn { cents } if *cents > self.balance => {
///                 Err(Failure::skip("overdrawn", format!("{} of {}", cents, self.balance)))
///             }
///             _ => Ok(()),
///         }
///     }
///
///     fn evolve(&mut self, event: AccountEvent, _: Event<'_>) {
///         match event {
///             AccountEvent::Deposited { cents } => self.balance += cents,
///             AccountEvent::Withdrawn { cents } => self.balance -= cents,
///             AccountEvent::Closed => self.closed = true,
///         }
///     }
///
///     fn is_gone(&self) -> bool {
///         self.closed
///     }
/// }
///
/// export_projector!(Account);
///
/// use sandmill_guest::testing::{event, given, json};
/// let deposited = |account: &str| event("Deposited", json!({"cents": 500})).stream(account);
/// let withdrawn = |account: &str, cents: u64| event("Withdrawn", json!({"cents": cents})).stream(account);
/// given::<Account>([
///     deposited("ann"),
///     withdrawn("ann", 200),
///     withdrawn("ann", 400),
///     deposited("bob"),
///     event("Closed", "{}").stream("bob"),
/// ])
/// .then("accounts", [("ann", json!({"balance": 300}))])
/// .then_skipped([(2, "overdrawn")]);
/// ```
pub trait Document: Default + Serialize + DeserializeOwned {
    /// The collection of the documents, `[a-z][a-z0-9_]{0,47}`. The descriptor need not name it.
    const COLLECTION: &'static str;

    /// The treatment of events whose type has no variant in [`Event`](Document::Event).
    const UNKNOWN_TYPES: UnknownTypes = UnknownTypes::Ignore;

    /// An enum with a variant per event type, of the same name. `#[serde(rename)]` and `alias`
    /// count. A variant's fields are read from the event's data. See [`Event::typed`].
    ///
    /// The plugin receives events of these types, unless the descriptor names others. With a
    /// variant `#[serde(other)]` it receives every type.
    type Event<'e>: Deserialize<'e>;

    /// Describes the plugin. `descriptor!("my-processor")` is enough for most documents.
    fn descriptor() -> Descriptor;

    /// The id of the document that an event changes. Default: the stream's id, one document per
    /// stream.
    fn id<'e>(event: &Self::Event<'e>, recorded: Event<'e>) -> Cow<'e, str> {
        let _ = event;
        Cow::Borrowed(recorded.stream_id())
    }

    /// Checks an event before it changes the document. A document that does not exist yet is in its
    /// initial state.
    ///
    /// # Errors
    ///
    /// The reason to skip the event or to stop the lane. Default: none.
    fn check(&self, event: &Self::Event<'_>, recorded: Event<'_>) -> Result<(), Failure> {
        let _ = (event, recorded);
        Ok(())
    }

    /// Applies an event to the document. `recorded` has its id, stream, time and metadata.
    fn evolve(&mut self, event: Self::Event<'_>, recorded: Event<'_>);

    /// Whether to remove the document, asked after each event. A later event finds the initial
    /// state. Default: no.
    fn is_gone(&self) -> bool {
        false
    }
}

/// The treatment of events whose type the plugin does not know. With `Skip` and `Stop` a plugin
/// receives every type, unless its descriptor names some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownTypes {
    /// The event is acknowledged without effect.
    Ignore,
    /// The event becomes a dead letter with the code `unknown-event-type`.
    Skip,
    /// The lane stops before the event, with the code `unknown-event-type`, until a person resumes
    /// it.
    Stop,
}

impl UnknownTypes {
    /// Restricts a descriptor to the types of an enum, unless events of other types matter too.
    pub(crate) fn restrict<'de, E: Deserialize<'de>>(self, descriptor: Descriptor) -> Descriptor {
        match self {
            UnknownTypes::Ignore => descriptor.or_event_types_of::<E>(),
            UnknownTypes::Skip | UnknownTypes::Stop => descriptor,
        }
    }

    /// The outcome of an event whose type the plugin does not know.
    pub(crate) fn meet(self, event: Event<'_>) -> Result<(), Failure> {
        let message =
            || format!("the plugin does not handle events of the type {}; add a variant for it", event.event_type());
        match self {
            UnknownTypes::Ignore => Ok(()),
            UnknownTypes::Skip => Err(Failure::skip("unknown-event-type", message())),
            UnknownTypes::Stop => Err(Failure::stop("unknown-event-type", message())),
        }
    }
}

impl<D: Document> Projector for D {
    fn describe() -> Descriptor {
        D::UNKNOWN_TYPES.restrict::<D::Event<'_>>(D::descriptor().or_collection(D::COLLECTION))
    }

    fn project(batch: &Batch) -> Result<Projection, Halt> {
        Ok(fold_entries(
            batch,
            D::COLLECTION,
            |recorded| match recorded.typed::<D::Event<'_>>()? {
                Some(event) => Ok(Some((D::id(&event, recorded), event))),
                None => D::UNKNOWN_TYPES.meet(recorded).map(|()| None),
            },
            |entry: &mut Option<D>, recorded, event| {
                let document = entry.get_or_insert_default();
                document.check(&event, recorded)?;
                document.evolve(event, recorded);
                if document.is_gone() {
                    *entry = None;
                }
                Ok(())
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        raw,
        testing::{Lane, event, given, json},
    };

    #[derive(Deserialize)]
    enum DoorEvent<'e> {
        DoorPassed {
            #[serde(borrow)]
            door: Cow<'e, str>,
            people: i64,
        },
        DoorRemoved {
            #[serde(borrow)]
            door: Cow<'e, str>,
        },
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Door<const UNKNOWN: u8> {
        people: i64,
        last: i64,
        #[serde(skip)]
        removed: bool,
    }

    impl<const UNKNOWN: u8> Document for Door<UNKNOWN> {
        const COLLECTION: &str = "doors";
        const UNKNOWN_TYPES: UnknownTypes = match UNKNOWN {
            0 => UnknownTypes::Ignore,
            1 => UnknownTypes::Skip,
            _ => UnknownTypes::Stop,
        };
        type Event<'e> = DoorEvent<'e>;

        fn descriptor() -> Descriptor {
            crate::descriptor!("door-watch").collection("other")
        }

        fn id<'e>(event: &DoorEvent<'e>, _: Event<'e>) -> Cow<'e, str> {
            match event {
                DoorEvent::DoorPassed { door, .. } | DoorEvent::DoorRemoved { door } => door.clone(),
            }
        }

        fn check(&self, event: &DoorEvent<'_>, _: Event<'_>) -> Result<(), Failure> {
            match event {
                DoorEvent::DoorPassed { people, .. } if self.people + people < 0 => Err(Failure::skip("too-few", "")),
                _ => Ok(()),
            }
        }

        fn evolve(&mut self, event: DoorEvent<'_>, recorded: Event<'_>) {
            match event {
                DoorEvent::DoorPassed { people, .. } => self.people += people,
                DoorEvent::DoorRemoved { .. } => self.removed = true,
            }
            self.last = recorded.position() as i64;
        }

        fn is_gone(&self) -> bool {
            self.removed
        }
    }

    fn passed(door: &str, people: i64) -> crate::testing::NewEvent {
        event("DoorPassed", json!({"door": door, "people": people}))
    }

    fn removed(door: &str) -> crate::testing::NewEvent {
        event("DoorRemoved", json!({"door": door}))
    }

    fn described<P: Projector>() -> raw::Descriptor {
        P::describe().into()
    }

    #[test]
    fn a_removed_document_is_created_again_by_a_later_event() {
        given::<Door<0>>([passed("a", 2), passed("b", 1), removed("a"), passed("b", 3), passed("a", 5), removed("c")])
            .then("doors", [("a", json!({"people": 5, "last": 5})), ("b", json!({"people": 4, "last": 4}))]);
        given::<Door<0>>([passed("a", 2), removed("a")]).then_empty("doors");
    }

    #[test]
    fn a_skipped_event_changes_no_document() {
        given::<Door<0>>([passed("a", -1), passed("b", 1), passed("b", -2), event("DoorPassed", "{}")])
            .then("doors", [("b", json!({"people": 1, "last": 2}))])
            .then_skipped([(0, "too-few"), (2, "too-few"), (3, "invalid-data")]);
    }

    #[test]
    fn the_descriptor_is_derived_from_the_documents_types() {
        let door = described::<Door<0>>();
        assert_eq!(door.collections, ["other", "doors"]);
        assert_eq!(door.event_types, Some(vec!["DoorPassed".into(), "DoorRemoved".into()]));
        assert_eq!((described::<Door<1>>().event_types, described::<Door<2>>().event_types), (None, None));
    }

    #[test]
    fn unknown_types_are_ignored_skipped_or_stop_the_lane() {
        let events = || [passed("a", 1), event("DoorPainted", "{}"), passed("a", 1)];
        // As with a manifest that names more types than the plugin knows.
        let answer = Lane::<Door<0>>::new("acme").handle(events());
        assert!(answer.skipped.is_empty() && answer.halted.is_none() && answer.changes.len() == 1);
        given::<Door<1>>(events())
            .then("doors", [("a", json!({"people": 2, "last": 3}))])
            .then_skipped([(1, "unknown-event-type")]);
        given::<Door<2>>(events())
            .then("doors", [("a", json!({"people": 1, "last": 1}))])
            .then_halted(1, "unknown-event-type");
    }
}
