//! Single-document projections: each event belongs to one document and changes it. An author says which one, and how; reading, writing
//! and batches are the SDK's affair. It stands on [`fold_entries`], so a batch costs one read, and one write for each changed document.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Batch, Descriptor, Event, Failure, Halt, Projection, Projector, fold_entries};

/// A document that events evolve, one document an event. Whoever implements it is a [`Projector`].
///
/// The initial state is [`Default`]; a document comes into being with its first event. Everything here is a pure function of what it
/// is given: no clock, no randomness, nothing kept between calls.
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
    /// Where the documents are, `[a-z][a-z0-9_]{0,47}`. It need not be named in the descriptor too.
    const COLLECTION: &'static str;

    /// What happens to events of a type that [`Event`](Document::Event) does not know.
    const UNKNOWN_TYPES: UnknownTypes = UnknownTypes::Ignore;

    /// An enum with a variant for each event type, named like it (`#[serde(rename)]` and `alias` count); what a variant holds is read
    /// from the event's data. See [`Event::typed`].
    ///
    /// These are the types that the plugin is given, unless the descriptor names others. An enum with a variant `#[serde(other)]`
    /// is given every type.
    type Event<'e>: Deserialize<'e>;

    /// What the plugin is: `descriptor!("my-processor")`, which is all that most documents need.
    fn descriptor() -> Descriptor;

    /// The id of the document that an event belongs to. By default it is the stream's id: a document for each stream.
    fn id<'e>(event: &Self::Event<'e>, recorded: Event<'e>) -> Cow<'e, str> {
        let _ = event;
        Cow::Borrowed(recorded.stream_id())
    }

    /// Refuses an event, before it has changed anything. The document is the initial state where there is none yet.
    fn check(&self, event: &Self::Event<'_>, recorded: Event<'_>) -> Result<(), Failure> {
        let _ = (event, recorded);
        Ok(())
    }

    /// What an event does to the document. `recorded` tells its id, stream, time and metadata.
    fn evolve(&mut self, event: Self::Event<'_>, recorded: Event<'_>);

    /// Whether the document is to be removed. An event that comes later finds the initial state.
    fn is_gone(&self) -> bool {
        false
    }
}

/// What happens to an event of a type that is not known. With `Skip` and `Stop` a plugin is given every type, so that none goes by
/// unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownTypes {
    /// Nothing: it concerns others.
    Ignore,
    /// It is set aside as a dead letter with the code `unknown-event-type`.
    Skip,
    /// The lane stops before it, with the code `unknown-event-type`, until a person resumes it.
    Stop,
}

impl UnknownTypes {
    fn meet(self, event: Event<'_>) -> Result<(), Failure> {
        let message = || format!("the plugin knows no events of the type {}", event.event_type());
        match self {
            UnknownTypes::Ignore => Ok(()),
            UnknownTypes::Skip => Err(Failure::skip("unknown-event-type", message())),
            UnknownTypes::Stop => Err(Failure::stop("unknown-event-type", message())),
        }
    }
}

impl<D: Document> Projector for D {
    fn describe() -> Descriptor {
        let descriptor = D::descriptor().or_collection(D::COLLECTION);
        match D::UNKNOWN_TYPES {
            UnknownTypes::Ignore => descriptor.or_event_types_of::<D::Event<'_>>(),
            UnknownTypes::Skip | UnknownTypes::Stop => descriptor,
        }
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
    fn documents_evolve_go_and_come_again() {
        given::<Door<0>>([passed("a", 2), passed("b", 1), removed("a"), passed("b", 3), passed("a", 5), removed("c")])
            .then("doors", [("a", json!({"people": 5, "last": 5})), ("b", json!({"people": 4, "last": 4}))]);
        given::<Door<0>>([passed("a", 2), removed("a")]).then_empty("doors");
    }

    #[test]
    fn a_refused_event_leaves_no_trace() {
        given::<Door<0>>([passed("a", -1), passed("b", 1), passed("b", -2), event("DoorPassed", "{}")])
            .then("doors", [("b", json!({"people": 1, "last": 2}))])
            .then_skipped([(0, "too-few"), (2, "too-few"), (3, "invalid-data")]);
    }

    #[test]
    fn what_the_plugin_is_follows_from_its_types() {
        let door = described::<Door<0>>();
        assert_eq!(door.collections, ["other", "doors"]);
        assert_eq!(door.event_types, Some(vec!["DoorPassed".into(), "DoorRemoved".into()]));
        assert_eq!((described::<Door<1>>().event_types, described::<Door<2>>().event_types), (None, None));
    }

    #[test]
    fn unknown_types_are_ignored_or_refused_by_choice() {
        let events = || [passed("a", 1), event("DoorPainted", "{}"), passed("a", 1)];
        // As if a manifest had asked for more types than the plugin knows.
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
