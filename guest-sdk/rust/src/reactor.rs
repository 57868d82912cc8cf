//! Reactors: from events to side effects. A [`Reactor`] handles one event at a time. The general
//! form is a [`BatchReactor`], which receives whole batches; every `Reactor` is one.

use serde::Deserialize;

use crate::{Batch, Conflicts, Descriptor, Effects, Event, Failure, Halt, Reaction, ReadAhead, UnknownTypes};

/// A reactor in its general form: turns batches of events into effects. Every [`Reactor`] and every
/// [`Workflow`](crate::Workflow) is one.
///
/// Effects are data. The host commits them together with the reactor's progress, and derives their
/// ids from their cause. So an event leads to its effects once, no matter how often a call is
/// repeated. The outcome must not depend on where a batch ends.
///
/// [`ReadAhead::react`] is the shortest way to handle a batch with reads of documents;
/// [`Reaction::effects`] handles one by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a reactor",
    label = "implements neither `Reactor`, `Workflow` nor `BatchReactor`",
    note = "implement `sandmill_guest::Reactor` to handle one event at a time, `sandmill_guest::Workflow` for a process with \
            state, or `sandmill_guest::BatchReactor` otherwise"
)]
pub trait BatchReactor {
    /// Describes the plugin. Called without a tenant, once per plugin file. Of the host's
    /// functions, only logging works here.
    fn describe() -> Descriptor;

    /// Handles a batch of one lane. `conflicts` are those of earlier attempts at its events, of
    /// which nothing was committed.
    ///
    /// # Errors
    ///
    /// A [`Halt`] stops the lane before the first event, so the batch has no effects. To keep the
    /// effects of the events before a failing one, use [`Reaction::halt`].
    fn react(batch: &Batch, conflicts: &Conflicts) -> Result<Reaction, Halt>;
}

/// A reactor that handles one event at a time. Every `Reactor` is a [`BatchReactor`].
///
/// An event that fails has no effects, even if it has already added some.
///
/// ```
/// use sandmill_guest::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// enum AccountEvent {
///     Overdrawn { customer: String, cents: u64 },
/// }
///
/// #[derive(Serialize)]
/// struct Reminder {
///     cents: u64,
/// }
///
/// struct Reminders;
///
/// impl Reactor for Reminders {
///     type Event<'e> = AccountEvent;
///
///     fn descriptor() -> Descriptor {
///         descriptor!("reminders")
///     }
///
///     fn react(event: AccountEvent, _: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
///         let AccountEvent::Overdrawn { customer, cents } = event;
///         if customer.is_empty() {
///             return Err(Failure::skip("no-customer", "the account has no customer"));
///         }
///         effects.send("letters", "Reminder", &Reminder { cents })?.header("customer", customer);
///         Ok(())
///     }
/// }
///
/// export_reactor!(Reminders);
///
/// use sandmill_guest::testing::{event, json, reactor};
/// let overdrawn = |customer: &str| event("Overdrawn", json!({"customer": customer, "cents": 1250}));
/// reactor::<Reminders>()
///     .given([overdrawn("ann"), overdrawn("")])
///     .then_sent("letters", "Reminder", json!({"cents": 1250}))
///     .then_headers([("customer", "ann")])
///     .then_skipped([(1, "no-customer")])
///     .then_nothing_else();
/// ```
pub trait Reactor {
    /// The treatment of events whose type has no variant in [`Event`](Reactor::Event).
    const UNKNOWN_TYPES: UnknownTypes = UnknownTypes::Ignore;

    /// An enum with a variant per event type, as for [`Document::Event`](crate::Document::Event).
    type Event<'e>: Deserialize<'e>;

    /// Describes the plugin. `descriptor!("my-processor")` is enough for a reactor without
    /// documents; add a [`collection`](Descriptor::collection) for each kind of document.
    fn descriptor() -> Descriptor;

    /// Names the documents that an event needs, as collections and ids. They are read at once for
    /// the whole batch. This only saves time: a document that is not named here is read when the
    /// event asks for it, possibly with a round trip to the database for each. Default: none.
    fn reads<'e>(event: &Self::Event<'e>, recorded: Event<'e>) -> Vec<(&'static str, String)> {
        let _ = (event, recorded);
        Vec::new()
    }

    /// Handles an event. `recorded` has its id, stream, time and metadata.
    ///
    /// # Errors
    ///
    /// The reason to skip the event or to stop the lane. All effects of the event are dropped.
    fn react<'e>(event: Self::Event<'e>, recorded: Event<'e>, effects: &mut Effects<'_>) -> Result<(), Failure>;
}

impl<R: Reactor> BatchReactor for R {
    fn describe() -> Descriptor {
        R::UNKNOWN_TYPES.restrict::<R::Event<'_>>(R::descriptor())
    }

    fn react(batch: &Batch, conflicts: &Conflicts) -> Result<Reaction, Halt> {
        let events = ReadAhead::parse(batch, |recorded| match recorded.typed::<R::Event<'_>>()? {
            Some(event) => Ok(Some(event)),
            None => R::UNKNOWN_TYPES.meet(recorded).map(|()| None),
        });
        let events = events.reads_all(|event, recorded| R::reads(event, recorded));
        Ok(events.react(conflicts, |effects, event, recorded| R::react(event, recorded, effects)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        raw,
        testing::{Lane, NewEvent, event, json, reactor, take_reads},
    };

    #[derive(Deserialize)]
    enum CounterEvent {
        Counted { counter: String, by: i64 },
        Claimed { name: String },
    }

    /// Counts, and reports every time a counter passes 10. Reads ahead if `READ_AHEAD`.
    struct Counters<const READ_AHEAD: bool>;

    impl<const READ_AHEAD: bool> Reactor for Counters<READ_AHEAD> {
        const UNKNOWN_TYPES: UnknownTypes = if READ_AHEAD { UnknownTypes::Ignore } else { UnknownTypes::Skip };
        type Event<'e> = CounterEvent;

        fn descriptor() -> Descriptor {
            crate::descriptor!("counters").collection("counters")
        }

        fn reads(event: &CounterEvent, _: Event<'_>) -> Vec<(&'static str, String)> {
            match event {
                CounterEvent::Counted { counter, .. } if READ_AHEAD => vec![("counters", counter.clone())],
                _ => Vec::new(),
            }
        }

        fn react(event: CounterEvent, recorded: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
            match event {
                CounterEvent::Counted { counter, by } => {
                    let mut sums: BTreeMap<String, i64> = effects.get("counters", &counter)?.unwrap_or_default();
                    let sum = sums.entry("sum".into()).or_default();
                    let before = *sum / 10;
                    *sum += by;
                    if *sum / 10 > before {
                        effects.append("reports").event("Passed", &json!({"counter": counter, "sum": sum}))?;
                    }
                    match *sum {
                        0 => effects.remove("counters", counter),
                        13 => return Err(Failure::skip("thirteen", recorded.id())),
                        _ => effects.put("counters", counter, &sums)?,
                    }
                }
                CounterEvent::Claimed { name } => match effects.conflicts().next() {
                    Some(conflict) => effects.send("mail", "Taken", &conflict.actual).map(drop)?,
                    None => effects.append(name).expect_no_stream().event("Claimed", &()).map(drop)?,
                },
            }
            Ok(())
        }
    }

    fn counted(counter: &str, by: i64) -> NewEvent {
        event("Counted", json!({"counter": counter, "by": by}))
    }

    #[test]
    fn an_event_sees_the_documents_of_earlier_events_in_any_batch() {
        fn holds<R: BatchReactor>() {
            reactor::<R>()
                .given([counted("a", 7), counted("a", 5), counted("b", 4), counted("a", 1), counted("b", -4)])
                .then_appended("reports", [("Passed", json!({"counter": "a", "sum": 12}))])
                .then("counters", [("a", json!({"sum": 12}))])
                .then_skipped([(3, "thirteen")])
                .then_nothing_else();
        }
        holds::<Counters<true>>();
        holds::<Counters<false>>();
    }

    #[test]
    fn documents_that_events_name_are_read_once_per_batch() {
        let events = || [counted("a", 1), counted("b", 1), counted("a", 1)];
        take_reads();
        Lane::<Counters<true>>::new("acme").react(events());
        assert_eq!(take_reads(), [("counters".to_owned(), 2)]);
        Lane::<Counters<false>>::new("acme").react(events());
        assert_eq!(take_reads(), [("counters".to_owned(), 1), ("counters".to_owned(), 1)]);
    }

    #[test]
    fn a_conflict_is_passed_to_the_event_that_led_to_it() {
        let claimed = |name: &str| event("Claimed", json!({"name": name}));
        let conflict = raw::AppendConflict {
            cause: 1,
            stream_id: "b".into(),
            expected: raw::ExpectedVersion::NoStream,
            actual: 4,
        };
        let answer = Lane::<Counters<true>>::new("acme").react_again([claimed("a"), claimed("b")], [conflict]);
        let appends: Vec<_> = answer.appends.iter().map(|append| (append.cause, append.stream_id.as_str())).collect();
        assert_eq!(appends, [(0, "a")]);
        let messages: Vec<_> = answer.messages.iter().map(|message| (message.cause, message.body.as_str())).collect();
        assert_eq!(messages, [(1, "4")]);
    }

    #[test]
    fn the_descriptor_is_derived_from_the_events() {
        let described = |descriptor: Descriptor| raw::Descriptor::from(descriptor).event_types;
        assert_eq!(described(Counters::<true>::describe()), Some(vec!["Counted".into(), "Claimed".into()]));
        assert_eq!(described(Counters::<false>::describe()), None);
    }

    #[test]
    fn unknown_types_are_treated_as_the_reactor_demands() {
        reactor::<Counters<false>>()
            .given([event("Reset", "{}"), counted("a", 1)])
            .then("counters", [("a", json!({"sum": 1}))])
            .then_skipped([(0, "unknown-event-type")])
            .then_nothing_else();
        let answer = Lane::<Counters<true>>::new("acme").react([event("Reset", "{}")]);
        assert!(answer.skipped.is_empty() && answer.halted.is_none());
    }
}
