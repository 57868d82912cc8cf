//! The effects of a reactor in a test, besides its documents: a list in the order of the answers.
//! An effect is compared and printed as its line of text.

use std::fmt;

use serde_json::Value;

use super::outcome::parse;
use crate::raw;

/// The effects of all answers.
#[derive(Debug, Default)]
pub(super) struct EffectList {
    pub(super) entries: Vec<Entry>,
}

/// An effect, and whether the test has asserted it.
#[derive(Debug)]
pub(super) struct Entry {
    /// The index of its cause among the given events. `None` where the contract has no cause.
    place: Option<usize>,
    pub(super) effect: Effect,
    pub(super) is_asserted: bool,
}

/// An effect. An append is split into its events.
#[derive(Debug)]
pub(super) enum Effect {
    /// An event that is appended.
    Append { stream: String, expected: Expected, event: Event },
    /// A message that is sent.
    Message { sink: String, message_type: String, headers: Vec<(String, String)>, body: Value },
    /// A timer that is set.
    Timer { name: String, due_at: i64, stream: String, event: Event },
    /// A timer that is cancelled.
    Cancel { name: String },
}

/// An event that the reactor makes.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) event_type: String,
    pub(super) data: Value,
    id: Option<String>,
    metadata: Option<Value>,
}

/// The version that an append demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Any,
    NoStream,
    Exactly(u64),
}

impl EffectList {
    /// Adds the effects of an answer to events with these places.
    #[track_caller]
    pub(super) fn add(&mut self, answer: &raw::Reaction, places: &[usize]) {
        let fault = fault(answer, places.len());
        assert!(fault.is_none(), "a host would reject the answer: {}", fault.unwrap_or_default());
        let mut push = |cause: Option<u32>, effect| {
            let place = cause.map(|cause| places[cause as usize]);
            self.entries.push(Entry { place, effect, is_asserted: false });
        };
        for append in &answer.appends {
            for event in &append.events {
                let (stream, expected) = (append.stream_id.clone(), Expected::from(append.expected));
                push(Some(append.cause), Effect::Append { stream, expected, event: event.into() });
            }
        }
        for message in &answer.messages {
            let raw::Message { cause, sink, message_type, headers, body } = message.clone();
            let body = parse(&format!("the message {message_type}"), &body);
            push(Some(cause), Effect::Message { sink, message_type, headers, body });
        }
        for change in &answer.timers {
            match change.clone() {
                raw::TimerChange::Set(timer) => {
                    let raw::Timer { cause, name, due_at, stream_id, event } = timer;
                    push(Some(cause), Effect::Timer { name, due_at, stream: stream_id, event: (&event).into() });
                }
                raw::TimerChange::Cancel(name) => push(None, Effect::Cancel { name }),
            }
        }
    }

    /// The lines of the effects of one kind, for comparison. Kinds are listed apart, because
    /// batches divide an answer of several kinds.
    fn lines(&self, kind: impl Fn(&Effect) -> bool) -> Vec<String> {
        self.entries.iter().filter(|entry| kind(&entry.effect)).map(Entry::to_string).collect()
    }

    /// The differences to other effects. Empty if there are none.
    pub(super) fn differences(&self, other: &EffectList) -> String {
        let kinds: [fn(&Effect) -> bool; 3] = [
            |effect| matches!(effect, Effect::Append { .. }),
            |effect| matches!(effect, Effect::Message { .. }),
            |effect| matches!(effect, Effect::Timer { .. } | Effect::Cancel { .. }),
        ];
        let mut differences = String::new();
        for kind in kinds {
            let (expected, found) = (self.lines(kind), other.lines(kind));
            if expected != found {
                differences += &format!("  expected\n{}  found\n{}", expected.concat(), found.concat());
            }
        }
        differences
    }

    /// The change that counts for a timer, which is the last one. Earlier ones count as asserted.
    pub(super) fn last_timer_change(&mut self, timer: &str) -> Option<&mut Entry> {
        let mut changes: Vec<&mut Entry> = self
            .entries
            .iter_mut()
            .filter(|entry| match &entry.effect {
                Effect::Timer { name, .. } | Effect::Cancel { name } => name == timer,
                Effect::Append { .. } | Effect::Message { .. } => false,
            })
            .collect();
        changes.iter_mut().for_each(|entry| entry.is_asserted = true);
        changes.pop()
    }
}

/// All effects, one line each.
impl fmt::Display for EffectList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return writeln!(f, "  no effects");
        }
        self.entries.iter().try_for_each(|entry| entry.fmt(f))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  ")?;
        if let Some(place) = self.place {
            write!(f, "event {place} ")?;
        }
        match &self.effect {
            Effect::Append { stream, expected, event } => {
                write!(f, "appends {event} to the stream {stream}")?;
                match expected {
                    Expected::Any => {}
                    Expected::NoStream => f.write_str(", which must not exist")?,
                    Expected::Exactly(version) => write!(f, ", which must be at version {version}")?,
                }
            }
            Effect::Message { sink, message_type, headers, body } => {
                write!(f, "sends {message_type} {body} to the sink {sink}")?;
                headers.iter().try_for_each(|(name, value)| write!(f, ", with the header {name}: {value}"))?;
            }
            Effect::Timer { name, due_at, stream, event } => {
                write!(f, "schedules {name}: {event} to the stream {stream} at {due_at}")?;
            }
            Effect::Cancel { name } => write!(f, "cancels the timer {name}")?,
        }
        writeln!(f)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { event_type, data, id, metadata } = self;
        write!(f, "{event_type} {data}")?;
        if let Some(id) = id {
            write!(f, " with the id {id}")?;
        }
        if let Some(metadata) = metadata {
            write!(f, " with the metadata {metadata}")?;
        }
        Ok(())
    }
}

impl From<&raw::NewEvent> for Event {
    fn from(event: &raw::NewEvent) -> Self {
        let raw::NewEvent { id, event_type, data, metadata } = event;
        Event {
            event_type: event_type.clone(),
            data: parse(&format!("the data of {event_type}"), data),
            id: id.clone(),
            metadata: metadata.as_ref().map(|metadata| parse(&format!("the metadata of {event_type}"), metadata)),
        }
    }
}

impl From<raw::ExpectedVersion> for Expected {
    fn from(expected: raw::ExpectedVersion) -> Self {
        match expected {
            raw::ExpectedVersion::Any => Expected::Any,
            raw::ExpectedVersion::NoStream => Expected::NoStream,
            raw::ExpectedVersion::Exactly(version) => Expected::Exactly(version),
        }
    }
}

/// Why a host would reject an answer to a batch of this many events, if it would: the rules on
/// causes, which only an answer made by hand can break.
fn fault(answer: &raw::Reaction, events: usize) -> Option<String> {
    let timers = answer.timers.iter().filter_map(|change| match change {
        raw::TimerChange::Set(timer) => Some(timer.cause),
        raw::TimerChange::Cancel(_) => None,
    });
    let kinds: [(&str, Vec<u32>); 3] = [
        ("an append", answer.appends.iter().map(|append| append.cause).collect()),
        ("a message", answer.messages.iter().map(|message| message.cause).collect()),
        ("a timer", timers.collect()),
    ];
    for (kind, causes) in kinds {
        for cause in &causes {
            if *cause as usize >= events {
                return Some(format!("{kind} has the cause {cause}, and the batch has {events} events"));
            }
            if answer.halted.as_ref().is_some_and(|halt| *cause >= halt.index) {
                return Some(format!("{kind} has the cause {cause}, before which the lane stopped"));
            }
            if answer.skipped.iter().any(|skipped| skipped.index == *cause) {
                return Some(format!("{kind} has the cause {cause}, which is skipped"));
            }
        }
        if !causes.is_sorted() {
            return Some(format!("{kind} has an earlier cause than the one before it: {causes:?}"));
        }
    }
    let empty = answer.appends.iter().find(|append| append.events.is_empty())?;
    Some(format!("an append to {} has no events", empty.stream_id))
}
