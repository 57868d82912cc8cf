//! The events that a reactor appends, with the ids and the metadata that the host gives them. Pure.
//!
//! The id of an event follows from the processor, the event that caused it, and its number among
//! the events with the same cause. So handling the cause again leads to the same id, and the store
//! holds the event at most once.
//!
//! Each appended event has in its metadata the number of *hops*: the length of the chain of
//! processors that led to it. Above [`MOST_HOPS`] the lane stops, because reactors that trigger
//! each other would loop forever.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, Value};
use sha2::{Digest, Sha256};

use crate::model::{
    event::{Batch, Event},
    handler::Reason,
    ids::ProcessorId,
    reaction::{Append, ExpectedVersion},
};

/// Maximum number of hops. 32: far more than workflows need, and a loop reaches it within a second.
pub const MOST_HOPS: u64 = 32;
/// The class of a failure because of too many hops.
pub const HOP_LIMIT: &str = "hop-limit";
/// Keys of the metadata of appended events.
const HOPS: &str = "sandmill.hops";
const CAUSE: &str = "sandmill.cause";
const PROCESSOR: &str = "sandmill.processor";
/// The key of W3C Trace Context, which an appended event inherits from its cause.
const TRACE: &str = "traceparent";
/// The longest value that is inherited, bytes of JSON. 100: the current version has 57.
const TRACE_BYTES: usize = 100;

/// An append that is ready to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedAppend {
    /// Position in the log of the event that caused it.
    pub cause: i64,
    /// The stream.
    pub stream: Box<str>,
    /// The version that the stream must have.
    pub expected: ExpectedVersion,
    /// Whether the handler chose the id of an event.
    pub names_ids: bool,
    /// The events.
    pub events: Vec<PlannedEvent>,
}

/// An event of a [`PlannedAppend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    /// Its id.
    pub id: Box<str>,
    /// Its type.
    pub event_type: Box<str>,
    /// Its data: JSON.
    pub data: Box<str>,
    /// Its metadata: a JSON object.
    pub metadata: Box<str>,
}

impl PlannedAppend {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        let of_event =
            |event: &PlannedEvent| event.id.len() + event.event_type.len() + event.data.len() + event.metadata.len();
        self.stream.len() + self.events.iter().map(of_event).sum::<usize>()
    }
}

/// Gives the events of a batch's appends their ids and metadata. Fails with the class
/// [`HOP_LIMIT`] if one of the causes has too many hops.
pub fn plan(processor: &ProcessorId, batch: &Batch, appends: Vec<Append>) -> Result<Vec<PlannedAppend>, Reason> {
    let mut planned = Vec::with_capacity(appends.len());
    // The current cause, its origin, and the number of its events so far.
    let (mut current, mut number): (Option<(usize, Origin)>, usize) = (None, 0);
    for append in appends {
        // The answer was checked: an index is within the batch.
        let Some(event) = batch.events.get(append.cause) else { continue };
        let origin = match current.take() {
            Some((cause, origin)) if cause == append.cause => origin,
            _ => {
                number = 0;
                Origin::of(event)
            }
        };
        if origin.hops >= MOST_HOPS {
            let message = format!(
                "it leads to an append to stream {} after a chain of {MOST_HOPS} processors; reactors that trigger \
                 each other would loop forever",
                append.stream
            );
            return Err(Reason::new(HOP_LIMIT, message));
        }
        let names_ids = append.events.iter().any(|new| new.id.is_some());
        let mut events = Vec::with_capacity(append.events.len());
        for new in append.events {
            let id = new.id.unwrap_or_else(|| key(processor, event, "append", number).into());
            number += 1;
            let metadata = origin.metadata(processor, event, new.metadata.as_deref()).into();
            events.push(PlannedEvent { id, event_type: new.event_type, data: new.data, metadata });
        }
        let (stream, expected) = (append.stream, append.expected);
        planned.push(PlannedAppend { cause: event.position, stream, expected, names_ids, events });
        current = Some((append.cause, origin));
    }
    Ok(planned)
}

/// A key for an effect: 32 hexadecimal digits of SHA-256 over the tenant, the processor, the id of
/// the cause, the kind of effect, and its number among those with the same cause and kind. Each
/// text is preceded by its length, so that different parts never have the same bytes.
fn key(processor: &ProcessorId, cause: &Event, kind: &str, number: usize) -> String {
    let mut hash = Sha256::new();
    let number = number.to_string();
    for part in [cause.tenant.as_str(), processor.as_str(), &cause.id, kind, &number] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// An event's origin, from its metadata.
struct Origin {
    hops: u64,
    trace: Option<Box<RawValue>>,
}

impl Origin {
    fn of(event: &Event) -> Self {
        // Metadata that is not an object counts as empty.
        let metadata: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&event.metadata).unwrap_or_default();
        let hops = metadata.get(HOPS).and_then(|text| text.get().parse().ok()).unwrap_or(0);
        let is_trace = |text: &str| text.starts_with('"') && text.len() <= TRACE_BYTES;
        Origin { hops, trace: metadata.get(TRACE).filter(|text| is_trace(text.get())).cloned() }
    }

    /// The metadata to store, given the handler's own.
    fn metadata(&self, processor: &ProcessorId, cause: &Event, given: Option<&str>) -> String {
        let mut metadata: BTreeMap<String, Box<RawValue>> =
            given.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut set = |key: &str, value: Value| {
            if let Ok(value) = serde_json::value::to_raw_value(&value) {
                metadata.insert(key.into(), value);
            }
        };
        set(HOPS, (self.hops + 1).into());
        set(CAUSE, (*cause.id).into());
        set(PROCESSOR, processor.as_str().into());
        if let Some(trace) = &self.trace {
            metadata.entry(TRACE.into()).or_insert_with(|| trace.clone());
        }
        serde_json::to_string(&metadata).unwrap_or_else(|_| "{}".into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        ids::{LaneKey, TenantId},
        reaction::NewEvent,
    };

    fn event(tenant: &str, id: &str, metadata: &str) -> Arc<Event> {
        Arc::new(Event {
            position: 7,
            id: id.into(),
            tenant: TenantId::parse(tenant).unwrap(),
            event_type: "Ordered".into(),
            stream: "order-1".into(),
            version: 1,
            recorded_at: 0,
            data: "{}".into(),
            metadata: metadata.into(),
            deferred: None,
        })
    }

    fn append(cause: usize, ids: &[Option<&str>]) -> Append {
        let new = |id: &Option<&str>| NewEvent {
            id: id.map(Box::from),
            event_type: "Earned".into(),
            data: "{}".into(),
            metadata: Some(r#"{"by":1e400,"sandmill.hops":0}"#.into()),
        };
        Append { cause, stream: "points".into(), expected: ExpectedVersion::Any, events: ids.iter().map(new).collect() }
    }

    fn planned(events: &[Arc<Event>], appends: Vec<Append>) -> Result<Vec<PlannedAppend>, Reason> {
        let lane = LaneKey { tenant: events[0].tenant.clone(), key: "k".into() };
        let batch = Batch { lane, attempt: 1, replaying: false, events: events.to_vec(), conflicts: None };
        plan(&ProcessorId::parse("points").unwrap(), &batch, appends)
    }

    fn ids(planned: &[PlannedAppend]) -> Vec<String> {
        planned.iter().flat_map(|append| &append.events).map(|event| event.id.to_string()).collect()
    }

    #[test]
    fn ids_follow_from_the_cause_and_the_number_and_not_from_the_batch() {
        let (one, two) = (event("acme", "e1", "{}"), event("acme", "e2", "{}"));
        let together = ids(&planned(
            &[one.clone(), two.clone()],
            vec![append(0, &[None, None]), append(0, &[None]), append(1, &[None])],
        )
        .unwrap());
        let first =
            ids(&planned(std::slice::from_ref(&one), vec![append(0, &[None, None]), append(0, &[None])]).unwrap());
        let second = ids(&planned(&[two], vec![append(0, &[None])]).unwrap());
        assert_eq!(together, [first, second].concat());
        let mut distinct = together.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!((distinct.len(), together[0].len()), (4, 32));
        let other = ids(&planned(&[event("globex", "e1", "{}")], vec![append(0, &[None])]).unwrap());
        assert_ne!(other[0], together[0], "ids are unique within a tenant only");
        assert_eq!(ids(&planned(&[one], vec![append(0, &[Some("mine")])]).unwrap()), ["mine"]);
    }

    #[test]
    fn metadata_names_the_cause_and_keeps_what_the_handler_gave() {
        let cause = event("acme", "e\"1", r#"{"traceparent":"00-1","sandmill.hops":4,"secret":1}"#);
        let metadata = &planned(&[cause], vec![append(0, &[None])]).unwrap()[0].events[0].metadata;
        let expected = r#"{"by":1e400,"sandmill.cause":"e\"1","sandmill.hops":5,"sandmill.processor":"points","traceparent":"00-1"}"#;
        assert_eq!(&**metadata, expected);
    }

    #[test]
    fn a_trace_that_is_none_is_not_inherited() {
        for trace in ["1", &format!("\"{}\"", "x".repeat(200))] {
            let cause = event("acme", "e1", &format!(r#"{{"traceparent":{trace}}}"#));
            let metadata = &planned(&[cause], vec![append(0, &[None])]).unwrap()[0].events[0].metadata;
            assert!(!metadata.contains("traceparent"), "{metadata}");
        }
    }

    #[test]
    fn reactors_that_answer_each_other_stop_at_the_hop_limit() {
        let cause = |hops: u64| event("acme", "e1", &format!(r#"{{"sandmill.hops":{hops}}}"#));
        assert!(planned(&[cause(MOST_HOPS - 1)], vec![append(0, &[None])]).is_ok());
        let reason = planned(&[cause(MOST_HOPS)], vec![append(0, &[None])]).unwrap_err();
        assert_eq!(reason.class, HOP_LIMIT);
        assert!(planned(&[event("acme", "e1", "[]")], vec![append(0, &[None])]).is_ok(), "no object, no hops");
    }
}
