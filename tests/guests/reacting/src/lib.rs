//! A reactor that does what the events ask for: tests write their script into the events' data.
//!
//! It handles every event type, its own events included. Its collection `reacting_log` has one
//! document for each stream, with the stream's id: `{"count", "lastVersion", "chain"}`, as the
//! guest `scripted` has. `chain` runs over the ids of the folded events as documented by the
//! example plugin `plane-log`.
//!
//! An event's data may be an object with a key `do`, a [`Deed`]; without one the event is folded.
//! Answers that break the contract reach the host as they are, because they are made of the
//! contract's own types.

use std::collections::BTreeMap;

use sandmill_guest::{prelude::*, raw};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

const COLLECTION: &str = "reacting_log";

/// The script of one event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Script {
    #[serde(default, rename = "do")]
    deed: Deed,
    /// `skip`, `retry`, `stop`: the failure's code.
    #[serde(default)]
    code: String,
    /// The same: the failure's message. `trap`: the text to log.
    #[serde(default)]
    message: String,
    /// `trap`: the first attempt that only folds; 0 for none.
    #[serde(default)]
    n: u32,
    /// Appends and timers: the stream of the event. Default: `reacted`.
    stream: Option<String>,
    /// The type of the event or message. Default: `Reacted`.
    #[serde(rename = "type")]
    effect_type: Option<String>,
    /// Appends and timers: the data of the event. Default: `{}`.
    data: Option<Value>,
    /// Appends: the version that the stream must have, or `none` for no stream. Default: any.
    expected: Option<Expected>,
    /// `append`: number of events. `send`: number of messages. Default: 1.
    count: Option<usize>,
    /// `send`: the sink. Default: `log`.
    sink: Option<String>,
    /// `send`: the body. Default: `{}`.
    body: Option<Value>,
    /// `timer`, `cancel`: the timer's name. Default: `timer`.
    name: Option<String>,
    /// `timer`: milliseconds since 1970-01-01T00:00:00Z. Default: 0, which is due immediately.
    #[serde(default)]
    due_at: i64,
}

/// The action that an event asks for. Unless it fails, the event is folded too.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    /// Folds the event into its stream's document.
    #[default]
    Ok,
    /// Appends `count` equal events to `stream`.
    Append,
    /// Sends `count` equal messages to `sink`.
    Send,
    /// Sets the timer `name`.
    Timer,
    /// Cancels the timer `name`.
    Cancel,
    /// Stores in the document as `conflicts` those that the call was given: `[{"cause", "streamId",
    /// "expected", "actual"}]`. If `stream` is named, and this event had no conflict, appends to it
    /// as `append` does.
    CountConflicts,

    /// Panics with `message`.
    Trap,
    /// Skips the event.
    Skip,
    /// Halts before it with a retry.
    Retry,
    /// Halts before it until the lane is resumed.
    Stop,

    /// Answers with an append whose cause is behind the batch's end.
    BadCause,
    /// Answers with an append for the next event, and then with one for this event. At the batch's
    /// end the first cause is out of range too.
    UnorderedCauses,
    /// Answers with an append that has no events.
    EmptyAppend,
}

/// The version that an append demands.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Expected {
    Version(u64),
    Word(Word),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    None,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    count: u64,
    last_version: u64,
    chain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conflicts: Option<Vec<Conflict>>,
}

/// A conflict, as a document has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conflict {
    cause: u32,
    stream_id: String,
    /// A version, `none` or `any`.
    expected: Value,
    actual: u64,
}

impl Default for Log {
    fn default() -> Self {
        Log { count: 0, last_version: 0, chain: "0".repeat(64), conflicts: None }
    }
}

struct Reacting;

impl BatchReactor for Reacting {
    fn describe() -> Descriptor {
        descriptor!(env!("CARGO_PKG_NAME")).collection(COLLECTION)
    }

    fn react(batch: &Batch, conflicts: &Conflicts) -> Result<Reaction, Halt> {
        let mut run = Run::begin(batch, conflicts)?;
        for event in batch.events() {
            match run.event(event) {
                Ok(()) => {}
                Err(Failure::Skip(skip)) => run.skip(event, skip),
                Err(Failure::Halt(halt)) => return Ok(run.end(Some((event, halt)))),
            }
        }
        Ok(run.end(None))
    }
}

export_reactor!(Reacting);

/// The handling of a batch.
struct Run<'b> {
    batch: &'b Batch,
    conflicts: &'b Conflicts,
    logs: BTreeMap<&'b str, Option<Log>>,
    touched: Vec<&'b str>,
    /// The answer besides the documents of `logs`. Raw, because the SDK does not allow much of it.
    answer: raw::Reaction,
}

impl<'b> Run<'b> {
    fn begin(batch: &'b Batch, conflicts: &'b Conflicts) -> Result<Self, Halt> {
        let mut streams: Vec<&str> = batch.events().map(|event| event.stream_id()).collect();
        streams.sort_unstable();
        streams.dedup();
        let logs = streams.iter().copied().zip(documents::get_many(COLLECTION, &streams)?).collect();
        Ok(Run { batch, conflicts, logs, touched: Vec::new(), answer: Reaction::new().into() })
    }

    fn event(&mut self, event: Event<'b>) -> Result<(), Failure> {
        let script: Script = event.data()?;
        let Script { code, message, .. } = &script;
        let cause = event.index();
        match script.deed {
            Deed::Ok => {}
            Deed::Append => self.append(cause, &script, script.count.unwrap_or(1)),
            Deed::Send => (0..script.count.unwrap_or(1)).for_each(|_| self.answer.messages.push(script.message(cause))),
            Deed::Timer => self.answer.timers.push(raw::TimerChange::Set(script.timer(cause))),
            Deed::Cancel => self.answer.timers.push(raw::TimerChange::Cancel(script.name())),
            Deed::CountConflicts => {
                self.log(event).conflicts = Some(self.conflicts.all().map(Conflict::from).collect());
                if script.stream.is_some() && self.conflicts.of(cause).next().is_none() {
                    self.append(cause, &script, script.count.unwrap_or(1));
                }
            }
            Deed::Trap if script.n > 0 && self.batch.attempt() >= script.n => {}
            Deed::Trap => panic!("event {} asks for a trap {message}", event.id()),
            Deed::Skip => return Err(Failure::skip(code, message)),
            Deed::Retry => return Err(Failure::retry(code, message)),
            Deed::Stop => return Err(Failure::stop(code, message)),
            Deed::BadCause => self.append(self.batch.len() as u32 + 5, &script, 1),
            Deed::UnorderedCauses => {
                self.append(cause + 1, &script, 1);
                self.append(cause, &script, 1);
            }
            Deed::EmptyAppend => self.append(cause, &script, 0),
        }
        let log = self.log(event);
        log.count += 1;
        log.last_version = event.stream_version();
        log.chain = next(&log.chain, event.id());
        Ok(())
    }

    fn append(&mut self, cause: u32, script: &Script, events: usize) {
        self.answer.appends.push(raw::Append {
            cause,
            stream_id: script.stream(),
            expected: script.expected(),
            events: vec![script.new_event(); events],
        });
    }

    /// The document of an event's stream, marked as changed.
    fn log(&mut self, event: Event<'b>) -> &mut Log {
        self.touched.push(event.stream_id());
        self.logs.entry(event.stream_id()).or_default().get_or_insert_default()
    }

    fn skip(&mut self, event: Event<'b>, skip: Skip) {
        let mut reaction = Reaction::from(std::mem::replace(&mut self.answer, Reaction::new().into()));
        reaction.skip(event, skip);
        self.answer = reaction.into();
    }

    fn end(mut self, halted: Option<(Event<'b>, Halt)>) -> Reaction {
        self.touched.sort_unstable();
        self.touched.dedup();
        for stream in self.touched {
            let Some(log) = self.logs.get(stream).and_then(Option::as_ref) else { continue };
            let data = serde_json::to_string(log).expect("a log has no keys but texts");
            let document = raw::Document { collection: COLLECTION.into(), id: stream.into(), data };
            self.answer.changes.push(raw::Change::Put(document));
        }
        let mut reaction = Reaction::from(self.answer);
        if let Some((event, halt)) = halted {
            reaction.halt(event, halt);
        }
        reaction
    }
}

impl Script {
    fn stream(&self) -> String {
        self.stream.clone().unwrap_or_else(|| "reacted".into())
    }

    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "timer".into())
    }

    fn effect_type(&self) -> String {
        self.effect_type.clone().unwrap_or_else(|| "Reacted".into())
    }

    fn expected(&self) -> raw::ExpectedVersion {
        match self.expected {
            None => raw::ExpectedVersion::Any,
            Some(Expected::Word(Word::None)) => raw::ExpectedVersion::NoStream,
            Some(Expected::Version(version)) => raw::ExpectedVersion::Exactly(version),
        }
    }

    fn new_event(&self) -> raw::NewEvent {
        raw::NewEvent { id: None, event_type: self.effect_type(), data: text_of(self.data.as_ref()), metadata: None }
    }

    fn message(&self, cause: u32) -> raw::Message {
        raw::Message {
            cause,
            sink: self.sink.clone().unwrap_or_else(|| "log".into()),
            message_type: self.effect_type(),
            headers: Vec::new(),
            body: text_of(self.body.as_ref()),
        }
    }

    fn timer(&self, cause: u32) -> raw::Timer {
        raw::Timer { cause, name: self.name(), due_at: self.due_at, stream_id: self.stream(), event: self.new_event() }
    }
}

impl From<&raw::AppendConflict> for Conflict {
    fn from(conflict: &raw::AppendConflict) -> Self {
        let expected = match conflict.expected {
            raw::ExpectedVersion::Any => "any".into(),
            raw::ExpectedVersion::NoStream => "none".into(),
            raw::ExpectedVersion::Exactly(version) => version.into(),
        };
        Conflict { cause: conflict.cause, stream_id: conflict.stream_id.clone(), expected, actual: conflict.actual }
    }
}

/// The text of a value, `{}` for none.
fn text_of(value: Option<&Value>) -> String {
    value.map_or_else(|| "{}".into(), Value::to_string)
}

/// The chain after one more event.
fn next(chain: &str, event_id: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let hash = Sha256::new().chain_update(chain).chain_update(event_id).finalize();
    hash.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{Lane, NewEvent, event, json, reactor};

    use super::*;

    fn scripted(script: Value) -> NewEvent {
        event("A", script)
    }

    fn log(ids: &[&str]) -> Value {
        let chain = ids.iter().fold("0".repeat(64), |chain, id| next(&chain, id));
        json!({"count": ids.len(), "lastVersion": ids.len(), "chain": chain})
    }

    #[test]
    fn events_without_a_script_are_folded() {
        reactor::<Reacting>()
            .given([event("A", "{}").id("a").stream("s"), event("B", r#"{"do":"ok"}"#).id("b").stream("s")])
            .then(COLLECTION, [("s", log(&["a", "b"]))])
            .then_nothing_else();
        assert_eq!(next(&"0".repeat(64), "a"), "798681f5061511d34f32f43ab175a3ee7007fecfdc844295e054315b0af2d23d");
    }

    #[test]
    fn effects_are_answered_as_scripted() {
        let append = json!({"do": "append", "stream": "s", "type": "T", "data": [1], "expected": 3, "count": 2});
        reactor::<Reacting>()
            .given([
                scripted(append),
                scripted(json!({"do": "append", "expected": "none"})),
                scripted(json!({"do": "send", "sink": "mail", "type": "M", "body": {"a": 1}})),
                scripted(json!({"do": "timer", "name": "t", "dueAt": 7, "stream": "s", "type": "Due"})),
                scripted(json!({"do": "cancel", "name": "u"})),
            ])
            .then_appended("s", [("T", "[1]"), ("T", "[1]")])
            .then_expected_version("s", 3)
            .then_appended("reacted", [("Reacted", "{}")])
            .then_expected_no_stream("reacted")
            .then_sent("mail", "M", json!({"a": 1}))
            .then_scheduled("t", 7, "s", "Due", "{}")
            .then_cancelled("u")
            .then(COLLECTION, [("stream-1", log(&["event-1", "event-2", "event-3", "event-4", "event-5"]))])
            .then_nothing_else();
    }

    #[test]
    fn events_that_fail_have_no_effects() {
        reactor::<Reacting>()
            .given([
                scripted(json!({"do": "skip", "code": "odd", "message": "m"})).stream("s"),
                scripted(json!({"do": "append"})).id("a"),
                scripted(json!({"do": "retry", "code": "busy"})),
                scripted(json!({"do": "append"})),
            ])
            .then_appended("reacted", [("Reacted", "{}")])
            .then(COLLECTION, [("stream-1", log(&["a"]))])
            .then_skipped([(0, "odd")])
            .then_halted(2, "busy")
            .then_nothing_else();
        reactor::<Reacting>().given([scripted(json!({"do": "stop", "code": "full"}))]).then_halted(0, "full");
    }

    #[test]
    fn conflicts_are_counted_once_and_not_provoked_again() {
        let script = json!({"do": "count-conflicts", "stream": "s", "type": "T", "expected": "none"});
        let mut lane = Lane::<Reacting>::new("acme");
        let answer = lane.react([scripted(script.clone())]);
        assert_eq!(answer.appends.len(), 1);
        let expected = raw::ExpectedVersion::NoStream;
        let conflict = raw::AppendConflict { cause: 0, stream_id: "s".into(), expected, actual: 2 };
        let answer = lane.react_again([scripted(script)], [conflict]);
        assert!(answer.appends.is_empty());
        let document: Value = serde_json::from_str(lane.text(COLLECTION, "stream-1").unwrap()).unwrap();
        let conflicts = json!([{"cause": 0, "streamId": "s", "expected": "none", "actual": 2}]);
        assert_eq!(document["conflicts"], conflicts);
    }

    #[test]
    fn answers_that_break_the_contract_are_answered_unchanged() {
        let causes = |deed: &str| {
            let answer = Lane::<Reacting>::new("acme").react([scripted(json!({"do": deed})), event("A", "{}")]);
            answer.appends.iter().map(|append| (append.cause, append.events.len())).collect::<Vec<_>>()
        };
        assert_eq!(causes("bad-cause"), [(7, 1)]);
        assert_eq!(causes("unordered-causes"), [(1, 1), (0, 1)]);
        assert_eq!(causes("empty-append"), [(0, 0)]);
    }
}
