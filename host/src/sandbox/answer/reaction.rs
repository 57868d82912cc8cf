//! The part of the check that concerns a reactor's effects outside its documents.

use super::malformed;
use crate::{
    model::{
        effects::Skipped,
        handler::Reason,
        json,
        reaction::{Append, AppendFault, ExpectedVersion, NewEvent},
    },
    sandbox::{
        bindings::{SideEffects, v0_1::reactor},
        failure,
        limits::Limits,
    },
};

/// Bytes of the longest type and id of an event, and of the longest stream's name.
const TYPE_BYTES: usize = 200;
const STREAM_BYTES: usize = 512;

/// Checks the effects of a call that handled `handled` events, of which some were skipped. `bytes`
/// is what its documents take of `limits.output-mib`.
pub(super) fn check(
    effects: SideEffects,
    handled: usize,
    skipped: &[Skipped],
    bytes: u64,
    limits: &Limits,
) -> Result<Vec<Append>, Reason> {
    let SideEffects { appends, messages, timers } = effects;
    if let Some(message) = messages.first() {
        let sink = super::short(&message.sink);
        return Err(malformed(format!("sent a message to the sink `{sink}`; this host has no sinks")));
    }
    if !timers.is_empty() {
        return Err(malformed("changed a timer; this host has no timers".into()));
    }
    let events: usize = appends.iter().map(|append| append.events.len()).sum();
    if events > limits.appends {
        let message = format!("appended {events} events; {} are allowed (limits.appends)", limits.appends);
        return Err(Reason::new("appends-limit", message));
    }
    if bytes + appends.iter().map(bytes_of).sum::<u64>() > limits.output_bytes() as u64 {
        return Err(failure::output_limit());
    }
    let mut last = 0;
    for append in &appends {
        let cause = append.cause as usize;
        let wrong = |problem: String| Err(malformed(format!("appended to a stream with the cause {cause}, {problem}")));
        if cause >= handled {
            return wrong(format!("but handled only {handled} events"));
        }
        if cause < last {
            return wrong(format!("after one with the cause {last}; causes must not fall"));
        }
        if skipped.iter().any(|skipped| skipped.index == cause) {
            return wrong("which it skipped".into());
        }
        last = cause;
    }
    appends.into_iter().map(|append| check_append(append, limits)).collect()
}

fn bytes_of(append: &reactor::Append) -> u64 {
    let of_event = |event: &reactor::NewEvent| {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        event.event_type.len() + event.data.len() + optional(&event.id) + optional(&event.metadata)
    };
    (append.stream_id.len() + append.events.iter().map(of_event).sum::<usize>()) as u64
}

fn check_append(append: reactor::Append, limits: &Limits) -> Result<Append, Reason> {
    let reactor::Append { cause, stream_id, expected, events } = append;
    let checked = || {
        if !is_text(&stream_id, STREAM_BYTES) {
            return Err(AppendFault::Stream(stream_id.len()));
        }
        if events.is_empty() {
            return Err(AppendFault::Empty);
        }
        let expected = match expected {
            reactor::ExpectedVersion::Any => ExpectedVersion::Any,
            reactor::ExpectedVersion::NoStream => ExpectedVersion::Exactly(0),
            reactor::ExpectedVersion::Exactly(version) => {
                ExpectedVersion::Exactly(i64::try_from(version).map_err(|_| AppendFault::Version(version))?)
            }
        };
        let events = events.into_iter().map(|event| check_event(event, limits)).collect::<Result<_, _>>()?;
        Ok((expected, events))
    };
    match checked() {
        Ok((expected, events)) => Ok(Append { cause: cause as usize, stream: stream_id.into(), expected, events }),
        Err(fault) => {
            let message = format!("an append to stream `{}`: {fault}", super::short(&stream_id));
            Err(match fault {
                AppendFault::Json { problem: json::Invalid::TooDeep { .. }, .. } => {
                    Reason::new("json-depth-limit", message + " (limits.json-depth)")
                }
                _ => malformed(message),
            })
        }
    }
}

fn check_event(event: reactor::NewEvent, limits: &Limits) -> Result<NewEvent, AppendFault> {
    let reactor::NewEvent { id, event_type, data, metadata } = event;
    if !is_text(&event_type, TYPE_BYTES) {
        return Err(AppendFault::Type(event_type.len()));
    }
    if let Some(id) = id.as_ref().filter(|id| !is_text(id, TYPE_BYTES)) {
        return Err(AppendFault::Id(id.len()));
    }
    let fault = |part, problem| AppendFault::Json { part, event_type: super::short(&event_type), problem };
    json::check_value(&data, limits.json_depth).map_err(|problem| fault("data", problem))?;
    if let Some(metadata) = &metadata {
        json::check_object(metadata, limits.json_depth).map_err(|problem| fault("metadata", problem))?;
    }
    Ok(NewEvent {
        id: id.map(Into::into),
        event_type: event_type.into(),
        data: data.into(),
        metadata: metadata.map(Into::into),
    })
}

/// Whether a text has 1 to `most` bytes, and nothing that a column cannot hold.
fn is_text(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> reactor::NewEvent {
        reactor::NewEvent { id: None, event_type: "Earned".into(), data: "1".into(), metadata: None }
    }

    fn append(cause: u32) -> reactor::Append {
        let expected = reactor::ExpectedVersion::NoStream;
        reactor::Append { cause, stream_id: "points".into(), expected, events: vec![event()] }
    }

    fn checked(appends: Vec<reactor::Append>) -> Result<Vec<Append>, Reason> {
        let skipped = [Skipped { index: 1, code: String::new(), message: String::new() }];
        let effects = SideEffects { appends, ..SideEffects::default() };
        check(effects, 4, &skipped, 0, &Limits { appends: 3, json_depth: 2, ..Limits::default() })
    }

    #[test]
    fn appends_that_follow_the_rules_pass() {
        let passed = checked(vec![append(0), append(0), append(3)]).unwrap();
        assert_eq!(passed.iter().map(|append| append.cause).collect::<Vec<_>>(), [0, 0, 3]);
        assert_eq!(passed[0].expected, ExpectedVersion::Exactly(0));
    }

    #[test]
    fn causes_are_handled_events_in_order() {
        for (causes, expected) in [
            (vec![4], "cause 4, but handled only 4 events"),
            (vec![2, 0], "cause 0, after one with the cause 2; causes must not fall"),
            (vec![1], "cause 1, which it skipped"),
        ] {
            let reason = checked(causes.into_iter().map(append).collect()).unwrap_err();
            assert_eq!(reason.class, "malformed-output");
            assert!(reason.message.contains(expected), "{reason}");
        }
    }

    #[test]
    fn an_append_that_the_store_would_refuse_is_refused_with_the_reason() {
        let with = |change: fn(&mut reactor::Append)| {
            let mut append = append(0);
            change(&mut append);
            checked(vec![append]).unwrap_err().to_string()
        };
        for (message, expected) in [
            (with(|a| a.stream_id = "s".repeat(513)), "malformed-output: an append to stream"),
            (with(|a| a.events.clear()), "malformed-output: an append to stream `points`: it has no events"),
            (with(|a| a.events = vec![event(); 4]), "appends-limit: appended 4 events; 3 are allowed"),
            (with(|a| a.events[0].event_type.clear()), "an event's type must have 1 to 200 bytes"),
            (with(|a| a.events[0].id = Some("\0".into())), "an event's id must have 1 to 200 bytes"),
            (with(|a| a.events[0].data = "{".into()), "the data of an event of type `Earned`: not JSON"),
            (with(|a| a.events[0].data = "[[[]]]".into()), "json-depth-limit: an append to stream"),
            (
                with(|a| a.events[0].metadata = Some("1".into())),
                "the metadata of an event of type `Earned`: not a JSON",
            ),
            (with(|a| a.expected = reactor::ExpectedVersion::Exactly(u64::MAX)), "is larger than any stream's"),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }
}
