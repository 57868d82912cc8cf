//! Given-then tests of a reactor: given these events, then these effects.

use std::marker::PhantomData;

use super::{
    NewEvent,
    effects::{Effect, EffectList, Expected},
    outcome::{Outcome, parse},
    scenario::Scenario,
};
use crate::{BatchReactor, raw};

/// A test of a reactor. Skipped events and a halt must be asserted too, or the test fails when this
/// is dropped. Effects must be asserted if [`then_nothing_else`](ReactorTest::then_nothing_else)
/// ends the test.
#[derive(Debug)]
pub struct ReactorTest<R: BatchReactor> {
    scenario: Scenario,
    /// The conflicts of a previous attempt, by the places of their causes.
    conflicts: Vec<(usize, raw::AppendConflict)>,
    /// Set by the first assertion.
    result: Option<(Outcome, EffectList)>,
    /// The message that was asserted last, in the list of effects.
    last_message: Option<usize>,
    reactor: PhantomData<R>,
}

/// Starts a test of a reactor, a workflow or a batch reactor.
///
/// ```
/// use sandmill_guest::{prelude::*, testing::{event, json, reactor}};
/// # #[derive(serde::Deserialize)]
/// # enum DoorEvent { DoorForced }
/// # struct Alarm;
/// # impl Reactor for Alarm {
/// #     type Event<'e> = DoorEvent;
/// #     fn descriptor() -> Descriptor { descriptor!("alarm") }
/// #     fn react(_: DoorEvent, recorded: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
/// #         effects.append("alarms").event("AlarmRaised", &recorded.stream_id())?;
/// #         effects.send("guards", "Look", &recorded.stream_id())?.header("urgent", "yes");
/// #         Ok(())
/// #     }
/// # }
///
/// reactor::<Alarm>()
///     .given([event("DoorForced", "{}").stream("north")])
///     .then_appended("alarms", [("AlarmRaised", json!("north"))])
///     .then_sent("guards", "Look", json!("north"))
///     .then_headers([("urgent", "yes")])
///     .then_nothing_else();
/// ```
#[must_use = "state the events: `.given(events)`"]
#[track_caller]
pub fn reactor<R: BatchReactor>() -> ReactorTest<R> {
    ReactorTest {
        scenario: Scenario::new([]),
        conflicts: Vec::new(),
        result: None,
        last_message: None,
        reactor: PhantomData,
    }
}

impl<R: BatchReactor> ReactorTest<R> {
    /// Adds events, which the reactor handles in one lane. The events that it appends, and those of
    /// its timers, are not handed back to it: state them too.
    #[must_use = "assert the effects: `.then_appended(…)`"]
    pub fn given(mut self, events: impl IntoIterator<Item = NewEvent>) -> Self {
        self.scenario.events.extend(events);
        self
    }

    /// Adds a setting.
    #[must_use = "assert the effects: `.then_appended(…)`"]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.scenario.settings.push((key.into(), value.into()));
        self
    }

    /// Adds a document that exists before the events, as JSON text or [`json!`](super::json).
    #[must_use = "assert the effects: `.then_appended(…)`"]
    pub fn document(mut self, collection: impl Into<String>, id: impl Into<String>, data: impl ToString) -> Self {
        self.scenario.documents.push((collection.into(), id.into(), data.to_string()));
        self
    }

    /// Adds a conflict of a previous attempt, in which the event at `place`, counted from 0 among
    /// the given ones, demanded a version of a stream that was at version `actual`, 0 for none.
    #[must_use = "assert the effects: `.then_appended(…)`"]
    pub fn conflict(
        mut self,
        place: usize,
        stream: impl Into<String>,
        expected: raw::ExpectedVersion,
        actual: u64,
    ) -> Self {
        let conflict = raw::AppendConflict { cause: 0, stream_id: stream.into(), expected, actual };
        self.conflicts.push((place, conflict));
        self
    }

    /// Asserts that exactly these events were appended to the stream, in this order: types and
    /// data, as JSON text or [`json!`](super::json).
    #[track_caller]
    pub fn then_appended<T: AsRef<str>, J: ToString>(
        mut self,
        stream: &str,
        events: impl IntoIterator<Item = (T, J)>,
    ) -> Self {
        let expected: Vec<String> = events
            .into_iter()
            .map(|(event_type, data)| line(event_type.as_ref(), &parse(event_type.as_ref(), &data.to_string())))
            .collect();
        let (outcome, effects) = self.result();
        let mut found = Vec::new();
        for entry in &mut effects.entries {
            if let Effect::Append { stream: to, event, .. } = &entry.effect
                && to == stream
            {
                found.push(line(&event.event_type, &event.data));
                entry.is_asserted = true;
            }
        }
        assert!(
            expected == found,
            "the events appended to {stream} are not the expected ones:\n{}  the effects\n{effects}{outcome}",
            both(&expected, &found)
        );
        self
    }

    /// Asserts that every append to the stream demands this version of it.
    #[track_caller]
    pub fn then_expected_version(self, stream: &str, version: u64) -> Self {
        self.then_expected(stream, Expected::Exactly(version))
    }

    /// Asserts that every append to the stream demands that the stream does not exist.
    #[track_caller]
    pub fn then_expected_no_stream(self, stream: &str) -> Self {
        self.then_expected(stream, Expected::NoStream)
    }

    /// Asserts that the next message to the sink has this type and body, JSON as text or
    /// [`json!`](super::json). Call it for each message, in order.
    #[track_caller]
    pub fn then_sent(mut self, sink: &str, message_type: &str, body: impl ToString) -> Self {
        let expected = line(message_type, &parse(message_type, &body.to_string()));
        let (outcome, effects) = self.result();
        let next = effects.entries.iter_mut().enumerate().find_map(|(index, entry)| match &entry.effect {
            Effect::Message { sink: to, message_type, body, .. } if to == sink && !entry.is_asserted => {
                let found = line(message_type, body);
                entry.is_asserted = true;
                Some((index, found))
            }
            _ => None,
        });
        let found = next.as_ref().map(|(_, found)| found.clone());
        assert!(
            found.as_ref() == Some(&expected),
            "the next message to {sink} is not the expected one:\n{}  the effects\n{effects}{outcome}",
            both(&[expected], found.as_slice())
        );
        self.last_message = next.map(|(index, _)| index);
        self
    }

    /// Asserts that the message of the last [`then_sent`](ReactorTest::then_sent) has exactly these
    /// headers.
    #[track_caller]
    pub fn then_headers<'a>(mut self, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let last = self.last_message;
        let (_, effects) = self.result();
        let message = last.and_then(|index| effects.entries.get(index)).map(|entry| &entry.effect);
        let Some(Effect::Message { headers: found, .. }) = message else {
            assert!(last.is_some(), "no message was asserted yet. Call `.then_sent(…)` before `.then_headers(…)`");
            return self;
        };
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected: Vec<(&str, &str)> = headers.into_iter().collect();
        assert_eq!(expected, found, "the headers of the message are not the expected ones (left)");
        self
    }

    /// Asserts that this timer is set in the end: its name, the time in milliseconds since
    /// 1970-01-01T00:00:00Z, and the event that it appends to the stream. The name of a workflow's
    /// timer is `WORKFLOW/NAME`.
    #[track_caller]
    pub fn then_scheduled(
        mut self,
        name: &str,
        due_at: i64,
        stream: &str,
        event_type: &str,
        data: impl ToString,
    ) -> Self {
        let event = line(event_type, &parse(event_type, &data.to_string()));
        let expected = format!("{event} to {stream} at {due_at}");
        let (outcome, effects) = self.result();
        let found = effects.last_timer_change(name).and_then(|entry| match &entry.effect {
            Effect::Timer { due_at, stream, event, .. } => {
                Some(format!("{} to {stream} at {due_at}", line(&event.event_type, &event.data)))
            }
            _ => None,
        });
        assert!(
            found.as_ref() == Some(&expected),
            "the timer {name} is not the expected one:\n{}  the effects\n{effects}{outcome}",
            both(&[expected], found.as_slice())
        );
        self
    }

    /// Asserts that this timer is cancelled in the end, whether it was set here or earlier.
    #[track_caller]
    pub fn then_cancelled(mut self, name: &str) -> Self {
        let (outcome, effects) = self.result();
        let change = effects.last_timer_change(name).map(|entry| &entry.effect);
        let is_cancelled = matches!(change, Some(Effect::Cancel { .. }));
        assert!(is_cancelled, "the timer {name} was not cancelled. The effects\n{effects}{outcome}");
        self
    }

    /// Asserts that there are no effects besides the asserted ones. Documents and failures do not
    /// count.
    #[track_caller]
    pub fn then_nothing_else(mut self) -> Self {
        let (_, effects) = self.result();
        let others: String =
            effects.entries.iter().filter(|entry| !entry.is_asserted).map(ToString::to_string).collect();
        assert!(others.is_empty(), "there are effects that the test does not assert:\n{others}");
        self
    }

    /// Asserts that the collection has exactly these documents: ids and JSON, as text or
    /// [`json!`](super::json).
    #[track_caller]
    pub fn then<I: Into<String>, J: ToString>(
        mut self,
        collection: &str,
        documents: impl IntoIterator<Item = (I, J)>,
    ) -> Self {
        self.result().0.assert_documents(collection, documents);
        self
    }

    /// Asserts that the collection has no documents.
    #[track_caller]
    pub fn then_empty(self, collection: &str) -> Self {
        self.then::<&str, &str>(collection, [])
    }

    /// Asserts that exactly these events were skipped: the index among the given events, counted
    /// from 0, and the code.
    #[track_caller]
    pub fn then_skipped<'a>(mut self, skipped: impl IntoIterator<Item = (usize, &'a str)>) -> Self {
        self.scenario.skips_asserted = true;
        self.result().0.assert_skipped(skipped);
        self
    }

    /// Asserts that the lane stopped before this event: the index among the given events, counted
    /// from 0, and the code.
    #[track_caller]
    pub fn then_halted(mut self, place: usize, code: &str) -> Self {
        self.scenario.halt_asserted = true;
        self.result().0.assert_halted(place, code);
        self
    }

    #[track_caller]
    fn then_expected(mut self, stream: &str, expected: Expected) -> Self {
        let (_, effects) = self.result();
        let found = effects.entries.iter().filter_map(|entry| match &entry.effect {
            Effect::Append { stream: to, expected, .. } if to == stream => Some(*expected),
            _ => None,
        });
        let found: Vec<Expected> = found.collect();
        assert!(!found.is_empty(), "nothing was appended to {stream}. The effects\n{effects}");
        let others: Vec<Expected> = found.into_iter().filter(|found| *found != expected).collect();
        assert!(others.is_empty(), "an append to {stream} demands {others:?}, not {expected:?}");
        self
    }

    #[track_caller]
    fn result(&mut self) -> &mut (Outcome, EffectList) {
        if self.result.is_none() {
            let differences = |one: &(Outcome, EffectList), other: &(Outcome, EffectList)| {
                one.0.differences(&other.0) + &one.1.differences(&other.1)
            };
            let result = self.scenario.run_in_cuts(|size| self.run(size), differences);
            self.result = Some(result);
        }
        self.result.get_or_insert_default()
    }

    /// Handles the events in batches of a size.
    #[track_caller]
    fn run(&self, size: usize) -> (Outcome, EffectList) {
        let mut effects = EffectList::default();
        let outcome = self.scenario.run::<R>(&R::describe().into(), size, |lane, events, places| {
            let conflicts = self.conflicts.iter().filter_map(|(place, conflict)| {
                let cause = places.iter().position(|other| other == place)? as u32;
                Some(raw::AppendConflict { cause, ..conflict.clone() })
            });
            let answer = lane.react_to(events, conflicts.collect());
            effects.add(&answer, places);
            (answer.skipped, answer.halted)
        });
        (outcome, effects)
    }
}

impl<R: BatchReactor> Drop for ReactorTest<R> {
    fn drop(&mut self) {
        if let Some((outcome, _)) = &self.result {
            self.scenario.assert_complete(outcome);
        }
    }
}

/// A type and its content, for comparison.
fn line(kind: &str, content: &serde_json::Value) -> String {
    format!("{kind} {content}")
}

/// Expected and found lines.
fn both(expected: &[String], found: &[String]) -> String {
    let list = |lines: &[String]| match lines {
        [] => "    nothing\n".to_owned(),
        lines => lines.iter().map(|line| format!("    {line}\n")).collect(),
    };
    format!("  expected\n{}  found\n{}", list(expected), list(found))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use serde::Deserialize;

    use super::*;
    use crate::{
        Batch, Conflicts, Descriptor, Effects, Event, Failure, Halt, Reaction, Reactor, settings,
        testing::{event, json},
    };

    #[derive(Deserialize)]
    enum BellEvent {
        Rang { times: u64 },
        Broke,
    }

    /// Sends a message and appends an event for each ring, and replaces a timer. With the setting
    /// `wrong`, its messages have the number of the attempt, which is a bug.
    struct Bell;

    impl Reactor for Bell {
        type Event<'e> = BellEvent;

        fn descriptor() -> Descriptor {
            crate::descriptor!("bell").collection("bells")
        }

        fn react(event: BellEvent, recorded: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
            let BellEvent::Rang { times } = event else { return Err(Failure::skip("broken", "")) };
            if let Some(conflict) = effects.conflicts().next() {
                effects.send("house", "Late", &conflict.actual)?;
                return Ok(());
            }
            for time in 1..=times {
                let body = if settings::get("wrong").is_some() { u64::from(recorded.index()) } else { time };
                effects.send("house", "Ring", &body)?.header("bell", recorded.stream_id());
            }
            effects.append("rings").expect_version(recorded.position()).event("Ring", &times)?;
            effects.schedule("silence", recorded.recorded_at() + 5, "rings", "Silent", &json!({}))?;
            if times == 0 {
                effects.cancel("silence");
            }
            Ok(())
        }
    }

    fn rang(times: u64) -> NewEvent {
        event("Rang", json!({"times": times})).stream("front")
    }

    fn failure<R: BatchReactor>(test: impl FnOnce() -> ReactorTest<R>) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| drop(test()))).expect_err("the test should have failed");
        panic.downcast_ref::<String>().expect("a message").clone()
    }

    #[test]
    fn correct_assertions_pass() {
        reactor::<Bell>()
            .given([rang(2), event("Other", 7), event("Broke", "{}"), rang(1).recorded_at(10)])
            .then_sent("house", "Ring", 1)
            .then_sent("house", "Ring", "2")
            .then_headers([("bell", "front")])
            .then_sent("house", "Ring", json!(1))
            .then_appended("rings", [("Ring", 2), ("Ring", 1)])
            .then_scheduled("silence", 15, "rings", "Silent", "{}")
            .then_skipped([(2, "broken")])
            .then_empty("bells")
            .then_nothing_else();
        reactor::<Bell>()
            .given([rang(0)])
            .then_cancelled("silence")
            .then_appended("rings", [("Ring", 0)])
            .then_expected_version("rings", 1)
            .then_nothing_else();
        reactor::<Bell>()
            .given([event("Other", 7), rang(3)])
            .conflict(1, "rings", raw::ExpectedVersion::Exactly(2), 9)
            .then_sent("house", "Late", 9)
            .then_nothing_else();
    }

    #[test]
    fn wrong_and_missing_assertions_fail_with_the_effects() {
        let message = failure(|| reactor::<Bell>().given([rang(1)]).then_appended("rings", [("Ring", 2)]));
        let expected = "the events appended to rings are not the expected ones:\n  expected\n    Ring 2\n  found\n    Ring 1\n  \
                        the effects\n  event 0 appends Ring 1 to the stream rings, which must be at version 1\n  event 0 sends \
                        Ring 1 to the sink house, with the header bell: front\n  event 0 schedules silence: Silent {} to the \
                        stream rings at 5\n";
        assert_eq!(message, expected);
        let message = failure(|| reactor::<Bell>().given([rang(1)]).then_sent("garden", "Ring", 1));
        assert!(
            message.contains("the next message to garden") && message.contains("found\n    nothing\n"),
            "{message}"
        );
        let message = failure(|| reactor::<Bell>().given([rang(1)]).then_cancelled("silence"));
        assert!(message.starts_with("the timer silence was not cancelled"), "{message}");
        let message = failure(|| reactor::<Bell>().given([rang(1)]).then_expected_no_stream("rings"));
        assert_eq!(message, "an append to rings demands [Exactly(1)], not NoStream");
        let message = failure(|| reactor::<Bell>().given([rang(0)]).then_nothing_else());
        assert!(
            message.starts_with("there are effects that the test does not assert:\n  event 0 appends"),
            "{message}"
        );
        let message = failure(|| reactor::<Bell>().given([event("Broke", "{}")]).then_nothing_else());
        assert!(message.contains("reactor.rs:") && message.contains("Add `.then_skipped(…)`"), "{message}");
    }

    #[test]
    fn effects_that_depend_on_batch_sizes_fail() {
        let message =
            failure(|| reactor::<Bell>().given([rang(1), rang(1)]).setting("wrong", "yes").then_nothing_else());
        assert!(message.starts_with("the outcome depends on the size of batches"), "{message}");
        assert!(message.contains("event 1 sends Ring 1") && message.contains("event 1 sends Ring 0"), "{message}");
    }

    /// Answers as its event asks, against the rules.
    struct Careless;

    impl BatchReactor for Careless {
        fn describe() -> Descriptor {
            crate::descriptor!("careless")
        }

        fn react(batch: &Batch, _: &Conflicts) -> Result<Reaction, Halt> {
            let append = |cause, events| raw::Append {
                cause,
                stream_id: "s".into(),
                expected: raw::ExpectedVersion::Any,
                events,
            };
            let event = || vec![raw::NewEvent { id: None, event_type: "A".into(), data: "1".into(), metadata: None }];
            let mut answer: raw::Reaction = Reaction::new().into();
            match batch.events().next().map(|event| event.event_type()) {
                Some("Empty") => answer.appends = vec![append(0, Vec::new())],
                Some("Unordered") => answer.appends = vec![append(1, event()), append(0, event())],
                Some("Halted") => {
                    answer.appends = vec![append(0, event())];
                    let (code, message) = (String::new(), String::new());
                    answer.halted = Some(raw::Halt { index: 0, action: raw::HaltAction::Stop, code, message });
                }
                _ => answer.appends = vec![append(7, event())],
            }
            Ok(answer.into())
        }
    }

    #[test]
    fn an_answer_that_a_host_would_reject_fails() {
        for (event_type, fault) in [
            ("Empty", "an append to s has no events"),
            ("Unordered", "an append has an earlier cause than the one before it: [1, 0]"),
            ("Halted", "an append has the cause 0, before which the lane stopped"),
            ("Beyond", "an append has the cause 7, and the batch has 2 events"),
        ] {
            let given = [event(event_type, "{}"), event(event_type, "{}")];
            let message = failure(|| reactor::<Careless>().given(given).then_nothing_else());
            assert_eq!(message, format!("a host would reject the answer: {fault}"));
        }
    }
}
