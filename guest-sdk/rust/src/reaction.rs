//! The output of a reactor: the effects of a batch's events, events that were set aside, and the
//! event before which the lane stopped.
//!
//! Events are handled in order. The effects of the event handled last are dropped if it fails, so
//! an event has all of its effects or none. Documents are kept as in a [`View`]: an event sees what
//! earlier ones wrote.

use std::ops::ControlFlow;

use crate::{
    Conflicts, Effects, Event, Failure, Halt, Skip, View,
    effects::{Mark, Outbox},
    failure::Failures,
    raw,
};

/// The effects of a batch.
#[derive(Debug, Default)]
pub struct Reaction {
    /// Changes that were given as they are, before those of `view`.
    changes: Vec<raw::Change>,
    view: View,
    outbox: Outbox,
    failures: Failures,
    /// The event that is handled, and the outbox before it.
    current: Option<(u32, Mark)>,
}

impl Reaction {
    /// A reaction without effects: every event is acknowledged.
    pub fn new() -> Self {
        Reaction::default()
    }

    /// The reaction to events of which some have failed already, with documents that were read for
    /// the others.
    pub(crate) fn of(view: View, failures: Failures) -> Self {
        Reaction { view, failures, ..Reaction::default() }
    }

    /// Returns the effects of an event, to add to them. Go through the events in order, because a
    /// host rejects effects that are not in the order of their causes.
    ///
    /// ```
    /// # use sandmill_guest::prelude::*;
    /// # fn handle(event: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> { Ok(()) }
    /// fn react(batch: &Batch, conflicts: &Conflicts) -> Reaction {
    ///     let mut reaction = Reaction::new();
    ///     for event in batch.events() {
    ///         if let Err(failure) = handle(event, &mut reaction.effects(event, conflicts))
    ///             && reaction.fail(event, failure).is_break()
    ///         {
    ///             break;
    ///         }
    ///     }
    ///     reaction
    /// }
    /// ```
    pub fn effects<'r>(&'r mut self, event: Event<'_>, conflicts: &'r Conflicts) -> Effects<'r> {
        if !self.is_current(event) {
            self.current = Some((event.index(), self.outbox.mark()));
            self.view.begin_event();
        }
        Effects::new(event.index(), conflicts, &mut self.view, &mut self.outbox)
    }

    /// Sets an event aside as a dead letter, and drops its effects if it is the event handled last.
    /// The lane continues. Events may be skipped in any order; the first reason for an event
    /// counts.
    pub fn skip(&mut self, event: Event<'_>, skip: Skip) {
        self.roll_back(event);
        self.failures.skip(event.index(), skip);
    }

    /// Stops the lane before `event`, and drops its effects if it is the event handled last.
    /// Effects of earlier events are kept. Later events must have no effects.
    pub fn halt(&mut self, event: Event<'_>, halt: Halt) {
        self.roll_back(event);
        self.failures.halt(event.index(), halt);
    }

    /// Skips the event or stops before it, as the failure demands, and drops its effects if it is
    /// the event handled last. Returns whether to continue with the next event.
    pub fn fail(&mut self, event: Event<'_>, failure: Failure) -> ControlFlow<()> {
        self.roll_back(event);
        self.failures.fail(event.index(), failure)
    }

    /// The reaction to a batch that stopped before its first event.
    pub(crate) fn halted_at_once(halt: Halt) -> Self {
        let mut reaction = Reaction::new();
        reaction.failures.halt(0, halt);
        reaction
    }

    fn is_current(&self, event: Event<'_>) -> bool {
        self.current.is_some_and(|(index, _)| index == event.index())
    }

    fn roll_back(&mut self, event: Event<'_>) {
        if let Some((_, mark)) = self.current.take_if(|(index, _)| *index == event.index()) {
            self.outbox.truncate(mark);
            self.view.roll_back();
        }
    }
}

impl From<raw::Reaction> for Reaction {
    fn from(raw: raw::Reaction) -> Self {
        let raw::Reaction { changes, appends, messages, timers, skipped, halted } = raw;
        let (outbox, failures) = (Outbox { appends, messages, timers }, Failures { skipped, halted });
        Reaction { changes, outbox, failures, ..Reaction::default() }
    }
}

impl From<Reaction> for raw::Reaction {
    fn from(reaction: Reaction) -> Self {
        let Reaction { mut changes, view, outbox, failures, .. } = reaction;
        let Outbox { appends, messages, timers } = outbox;
        let Failures { skipped, halted } = failures;
        view.for_each_change(|collection, id, text| {
            let collection = collection.to_owned();
            changes.push(match text {
                Some(data) => raw::Change::Put(raw::Document { collection, id, data }),
                None => raw::Change::Remove(raw::DocumentKey { collection, id }),
            });
        });
        raw::Reaction { changes, appends, messages, timers, skipped, halted }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        Batch, BatchReactor, Descriptor,
        testing::{Lane, NewEvent, event, json},
    };

    /// Has every kind of effect for each event, and then fails if the event's data asks for it.
    struct Busy;

    impl BatchReactor for Busy {
        fn describe() -> Descriptor {
            crate::descriptor!("busy").collection("seen")
        }

        fn react(batch: &Batch, conflicts: &Conflicts) -> Result<Reaction, Halt> {
            let mut reaction = Reaction::new();
            for event in batch.events() {
                let outcome = act(event, &mut reaction.effects(event, conflicts));
                if let Err(failure) = outcome
                    && reaction.fail(event, failure).is_break()
                {
                    break;
                }
            }
            Ok(reaction)
        }
    }

    fn act(event: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
        let id = event.id();
        effects.put("seen", event.stream_id(), &BTreeMap::from([("last", id)]))?;
        effects.append("out").expect_version(7).event("A", &id)?.event("B", &id)?.id("b").metadata(&json!({"m": 1}))?;
        effects.append("new").expect_no_stream().event("C", &id)?;
        effects.send("sink", "M", &id)?.header("h", "1").header("h", "2");
        effects.schedule("later", 5, "out", "T", &id)?;
        effects.cancel("sooner");
        match event.data_text() {
            r#""skip""# => Err(Failure::skip("asked", "")),
            r#""stop""# => Err(Failure::stop("asked", "")),
            r#""unwritable""# => {
                let keys_are_no_texts = BTreeMap::from([(vec![1], "value")]);
                effects.append("out").event("D", &keys_are_no_texts)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fate(fate: &str) -> NewEvent {
        event("E", json!(fate))
    }

    /// The causes of appends, messages and timers.
    fn causes(answer: &raw::Reaction) -> [Vec<u32>; 3] {
        let timers = answer.timers.iter().filter_map(|change| match change {
            raw::TimerChange::Set(timer) => Some(timer.cause),
            raw::TimerChange::Cancel(_) => None,
        });
        [
            answer.appends.iter().map(|append| append.cause).collect(),
            answer.messages.iter().map(|message| message.cause).collect(),
            timers.collect(),
        ]
    }

    #[test]
    fn effects_are_answered_in_the_order_of_calls_with_their_cause() {
        let answer = Lane::<Busy>::new("acme").react([fate(""), fate("")]);
        assert_eq!(causes(&answer), [vec![0, 0, 1, 1], vec![0, 1], vec![0, 1]]);
        let [out, new, ..] = &answer.appends[..] else { panic!("{answer:?}") };
        assert_eq!((out.stream_id.as_str(), new.stream_id.as_str()), ("out", "new"));
        assert!(matches!(out.expected, raw::ExpectedVersion::Exactly(7)));
        assert!(matches!(new.expected, raw::ExpectedVersion::NoStream));
        let texts = |event: &raw::NewEvent| (event.event_type.clone(), event.data.clone(), event.id.clone());
        assert_eq!(texts(&out.events[0]), ("A".into(), r#""event-1""#.into(), None));
        assert_eq!(texts(&out.events[1]), ("B".into(), r#""event-1""#.into(), Some("b".into())));
        assert_eq!(out.events[1].metadata.as_deref(), Some(r#"{"m":1}"#));
        assert_eq!(out.events[0].metadata, None);
        let headers = [("h".to_owned(), "1".to_owned()), ("h".to_owned(), "2".to_owned())];
        assert_eq!(answer.messages[0].headers, headers);
        let [raw::TimerChange::Set(timer), raw::TimerChange::Cancel(name), ..] = &answer.timers[..] else {
            panic!("{answer:?}")
        };
        assert_eq!((timer.name.as_str(), timer.due_at, timer.event.event_type.as_str()), ("later", 5, "T"));
        assert_eq!(name, "sooner");
    }

    #[test]
    fn an_event_that_fails_has_no_effects() {
        let mut lane = Lane::<Busy>::new("acme");
        let answer = lane.react([fate(""), fate("skip").stream("other"), fate(""), fate("stop"), fate("")]);
        assert_eq!(causes(&answer), [vec![0, 0, 2, 2], vec![0, 2], vec![0, 2]]);
        assert_eq!(answer.timers.len(), 4);
        assert_eq!(answer.skipped.iter().map(|skipped| skipped.index).collect::<Vec<_>>(), [1]);
        assert_eq!(answer.halted.map(|halt| (halt.index, halt.code)), Some((3, "asked".to_owned())));
        assert_eq!(lane.texts("seen"), [("stream-1", r#"{"last":"event-3"}"#)]);
    }

    #[test]
    fn data_that_cannot_be_written_stops_the_lane_before_its_event() {
        let answer = Lane::<Busy>::new("acme").react([fate(""), fate("unwritable")]);
        assert_eq!(answer.halted.as_ref().map(|halt| halt.code.as_str()), Some("unwritable-event"));
        assert_eq!(causes(&answer)[0], [0, 0]);
    }

    #[test]
    fn a_raw_reaction_is_answered_unchanged() {
        let append =
            |cause, events| raw::Append { cause, stream_id: "s".into(), expected: raw::ExpectedVersion::Any, events };
        let raw = raw::Reaction {
            changes: vec![raw::Change::Put(raw::Document {
                collection: "c".into(),
                id: "x".into(),
                data: "not JSON".into(),
            })],
            appends: vec![append(9, Vec::new()), append(3, Vec::new())],
            messages: Vec::new(),
            timers: vec![raw::TimerChange::Cancel("t".into())],
            skipped: Vec::new(),
            halted: None,
        };
        let back = raw::Reaction::from(Reaction::from(raw.clone()));
        assert_eq!(format!("{back:?}"), format!("{raw:?}"));
    }
}
