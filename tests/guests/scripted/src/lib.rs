//! A projector that does what the events ask for: tests write their script into the events' data.
//!
//! It handles every event type. Its collection has one document for each stream, with the stream's
//! id: `{"count", "lastVersion", "chain"}`. `chain` runs over the ids of the folded events as
//! documented by the example plugin `plane-log`: 64 zeros, then the lower-case hex of SHA-256 over
//! the chain's ASCII bytes and the event's id.
//!
//! An event's data may be an object with a key `do`, a [`Deed`]; without one the event is folded.
//! Answers that break the contract are in [`hostile`], deeds that break the guest itself in
//! [`ruin`].
//!
//! Four guests share this source. They differ in partitioning, form of the contract, name and
//! collection: see [`lanes`].

mod hostile;
mod lanes;
mod mark;
mod ruin;

use lanes::COLLECTION;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use sandmill_guest::{prelude::*, raw};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The script of one event.
#[derive(Deserialize)]
struct Script {
    #[serde(default, rename = "do")]
    deed: Deed,
    /// `skip`, `retry`, `retry-after`, `retry-until-attempt`, `stop`: the failure's code.
    #[serde(default)]
    code: String,
    /// The same: the failure's message. `shout`, `trap`: the text to log.
    #[serde(default)]
    message: String,
    /// `retry-after`: the pause in milliseconds.
    #[serde(default)]
    ms: u64,
    /// `retry-until-attempt`: the first attempt that succeeds. `trap-later`: the number of the
    /// first such event that traps. `work`: thousands of turns. `read`: number of documents.
    /// `trap`, `spin`, `bomb`: the first attempt that only folds; 0 for none.
    #[serde(default)]
    n: u32,
    /// `log`, `shout`: number of lines.
    #[serde(default)]
    lines: u32,
    /// `giant`: size of the document, MiB. Default 200.
    mib: Option<usize>,
    /// `write-to`, `giant`: the document's id. Default for `giant`: `x`.
    #[serde(default)]
    id: String,
}

/// The action that an event asks for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    /// Folds the event into its stream's document.
    #[default]
    Ok,
    /// Removes the stream's document.
    Remove,
    /// Folds, and stores in the document as `saw` the tenant that this instance remembered: `""`
    /// for none.
    Remember,
    /// Folds, and stores in the document as `batch` the number of events in the batch.
    CountBatch,
    /// Folds, and stores in the document as `setting` the operator's setting `word`.
    Setting,
    /// Folds, after logging `lines` lines at level `info`.
    Log,
    /// Folds, after logging `message` `lines` times.
    Shout,
    /// Folds, after `n` thousand turns of a loop.
    Work,
    /// Folds, after reading `n` documents that do not exist and that no other event reads.
    Read,
    /// Folds, and puts an empty document `id`, which may be another lane's.
    WriteTo,
    /// Folds, after reading a document of a collection that the descriptor does not list.
    ReadForeign,
    /// Skips the event.
    Skip,
    /// Halts before it with a retry.
    Retry,
    /// Halts before it with a retry after `ms`.
    RetryAfter,
    /// Halts before it while the batch's attempt is below `n`; then folds it.
    RetryUntilAttempt,
    /// Halts before it until the lane is resumed.
    Stop,

    /// Panics with `message`.
    Trap,
    /// Folds, and panics from the `n`th such event on that this instance sees.
    TrapLater,
    /// Reads a document over and over, without end.
    ReadForever,
    /// Logs `message` over and over, without end.
    LogForever,
    /// Never returns.
    Spin,
    /// Allocates without end.
    Bomb,
    /// Calls itself without end.
    Recurse,

    /// Answers with a document of `mib` MiB.
    Giant,
    /// Answers with a document that is not JSON.
    MalformedJson,
    /// Answers with a document `x` of `n` numbers `1e8000`, which are short as written and long as
    /// stored.
    LongNumbers,
    /// Answers with a document that is a JSON array.
    NotObject,
    /// Answers with a document of a collection that the descriptor does not list.
    ForeignCollection,
    /// The same, with U+0000 in the collection's name.
    NulCollection,
    /// Answers with a document whose id is empty.
    EmptyId,
    /// Answers with a document whose id has 513 bytes.
    LongId,
    /// Answers with a document that has the key `_id`.
    ReservedKey,
    /// Answers with a document that holds U+0000, written as a JSON escape.
    Nul,
    /// Answers with a document that holds an unpaired surrogate, written as a JSON escape.
    Surrogate,
    /// Answers with a document of 10,000 nested arrays.
    Deep,
    /// Halts before an event behind the batch's end.
    HaltOutOfRange,
    /// Skips this event twice, so that the skipped indexes do not rise.
    SkipOutOfOrder,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    count: u64,
    last_version: u64,
    chain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    saw: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    setting: Option<String>,
    /// The versions that have handled its events in turn, with the number of events of each. Only
    /// versions with a [mark] are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    versions: Vec<(String, u64)>,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            count: 0,
            last_version: 0,
            chain: "0".repeat(64),
            saw: None,
            batch: None,
            setting: None,
            versions: Vec::new(),
        }
    }
}

/// The tenant of the last event that asked for `remember`. A host must not let another tenant see
/// it.
static REMEMBERED: Mutex<String> = Mutex::new(String::new());

/// Number of events that asked for `trap-later`.
static SEEN: AtomicU32 = AtomicU32::new(0);

struct Scripted;

impl Projector for Scripted {
    fn describe() -> Descriptor {
        lanes::descriptor()
    }

    fn project(batch: &Batch) -> Result<Projection, Halt> {
        let mut run = Run::begin(batch)?;
        for event in batch.events() {
            match run.event(event) {
                Ok(()) => {}
                Err(Failure::Skip(skip)) => run.skip(event, skip),
                Err(Failure::Halt(halt)) => return run.end(Some((event, halt))),
            }
        }
        run.end(None)
    }
}

export_projector!(Scripted);

/// The handling of a batch.
struct Run<'b> {
    batch: &'b Batch,
    logs: BTreeMap<&'b str, Option<Log>>,
    /// The answer besides the documents of `logs`. Raw, because the SDK does not allow much of it.
    answer: raw::Projection,
    touched: Vec<&'b str>,
}

impl<'b> Run<'b> {
    fn begin(batch: &'b Batch) -> Result<Self, Halt> {
        let mut streams: Vec<&str> = batch.events().map(|event| event.stream_id()).collect();
        streams.sort_unstable();
        streams.dedup();
        let logs = streams.iter().copied().zip(documents::get_many(COLLECTION, &streams)?).collect();
        let answer = raw::Projection { changes: Vec::new(), skipped: Vec::new(), halted: None };
        Ok(Run { batch, logs, answer, touched: Vec::new() })
    }

    fn event(&mut self, event: Event<'b>) -> Result<(), Failure> {
        let script: Script = event.data()?;
        let Script { code, message, .. } = &script;
        match script.deed {
            Deed::Ok => {}
            Deed::Remove => {
                self.logs.insert(event.stream_id(), None);
                self.touched.push(event.stream_id());
                return Ok(());
            }
            Deed::Remember => {
                let mut remembered = REMEMBERED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let saw = std::mem::replace(&mut *remembered, self.batch.tenant().to_owned());
                self.log(event).saw = Some(saw);
            }
            Deed::CountBatch => self.log(event).batch = Some(self.batch.len()),
            Deed::Setting => self.log(event).setting = settings::get("word"),
            Deed::Log => (1..=script.lines).for_each(|line| log::info!("line {line} of {}", script.lines)),
            Deed::Shout => (0..script.lines).for_each(|_| log::info!("{message}")),
            Deed::Work => ruin::turn(u64::from(script.n) * 1_000),
            Deed::Read => {
                let ids: Vec<String> = (0..script.n).map(|number| format!("{}/{number}", event.id())).collect();
                documents::get_many_text(COLLECTION, &ids.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Deed::WriteTo => hostile::put(&mut self.answer, COLLECTION, &script.id, "{}"),
            Deed::ReadForeign => {
                documents::get_many_text("somebody_elses", &["a"]);
            }
            Deed::Skip => return Err(Failure::skip(code, message)),
            Deed::Retry => return Err(Failure::retry(code, message)),
            Deed::RetryAfter => return Err(Halt::retry_after(Duration::from_millis(script.ms), code, message).into()),
            Deed::RetryUntilAttempt if self.batch.attempt() < script.n => return Err(Failure::retry(code, message)),
            Deed::RetryUntilAttempt => {}
            Deed::Stop => return Err(Failure::stop(code, message)),
            Deed::Trap if mark::is_cured() => {}
            Deed::Trap | Deed::Spin | Deed::Bomb if script.n > 0 && self.batch.attempt() >= script.n => {}
            Deed::Trap => ruin::trap(event.id(), message),
            Deed::TrapLater => {
                if SEEN.fetch_add(1, Relaxed) + 1 >= script.n {
                    ruin::trap(event.id(), message)
                }
            }
            Deed::ReadForever => ruin::read_forever(COLLECTION),
            Deed::LogForever => ruin::log_forever(message),
            Deed::Spin => ruin::spin(),
            Deed::Bomb => ruin::bomb(),
            Deed::Recurse => ruin::recurse(),
            Deed::Giant => {
                let id = if script.id.is_empty() { "x" } else { &script.id };
                hostile::giant(&mut self.answer, id, script.mib.unwrap_or(200));
            }
            Deed::MalformedJson => hostile::put(&mut self.answer, COLLECTION, "x", r#"{"a":"#),
            Deed::LongNumbers => hostile::long_numbers(&mut self.answer, script.n as usize),
            Deed::NotObject => hostile::put(&mut self.answer, COLLECTION, "x", "[1]"),
            Deed::ForeignCollection => hostile::put(&mut self.answer, "somebody_elses", "x", "{}"),
            Deed::NulCollection => hostile::put(&mut self.answer, "some\0body", "x", "{}"),
            Deed::EmptyId => hostile::put(&mut self.answer, COLLECTION, "", "{}"),
            Deed::LongId => hostile::put(&mut self.answer, COLLECTION, &"x".repeat(513), "{}"),
            Deed::ReservedKey => hostile::put(&mut self.answer, COLLECTION, "x", r#"{"_id":"y"}"#),
            Deed::Nul => hostile::put(&mut self.answer, COLLECTION, "x", r#"{"a":"\u0000"}"#),
            Deed::Surrogate => hostile::put(&mut self.answer, COLLECTION, "x", r#"{"a":"\ud800"}"#),
            Deed::Deep => hostile::deep(&mut self.answer),
            Deed::HaltOutOfRange => hostile::halt_out_of_range(&mut self.answer, self.batch.len()),
            Deed::SkipOutOfOrder => hostile::skip_out_of_order(&mut self.answer, event.index()),
        }
        let log = self.log(event);
        mark::leave(log, event.id());
        log.count += 1;
        log.last_version = event.stream_version();
        log.chain = next(&log.chain, event.id());
        Ok(())
    }

    /// The document of an event's stream, marked as changed.
    fn log(&mut self, event: Event<'b>) -> &mut Log {
        self.touched.push(event.stream_id());
        self.logs.entry(event.stream_id()).or_default().get_or_insert_default()
    }

    fn skip(&mut self, event: Event<'b>, skip: Skip) {
        let mut projection = Projection::from(std::mem::replace(&mut self.answer, hostile::nothing()));
        projection.skip(event, skip);
        self.answer = projection.into();
    }

    fn end(mut self, halted: Option<(Event<'b>, Halt)>) -> Result<Projection, Halt> {
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut projection = Projection::from(self.answer);
        for stream in self.touched {
            match self.logs.get(stream).and_then(Option::as_ref) {
                Some(log) => projection.put(COLLECTION, stream, log)?,
                None => projection.remove(COLLECTION, stream),
            }
        }
        if let Some((event, halt)) = halted {
            projection.halt(event, halt);
        }
        Ok(projection)
    }
}

/// The chain after one more event.
fn next(chain: &str, event_id: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let hash = Sha256::new().chain_update(chain).chain_update(event_id).finalize();
    hash.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{Lane, event};

    use super::*;

    fn chain(ids: &[&str]) -> String {
        ids.iter().fold("0".repeat(64), |chain, id| next(&chain, id))
    }

    #[test]
    fn events_without_a_script_are_folded() {
        let mut lane = Lane::<Scripted>::new("acme");
        lane.handle([event("A", "{}").id("a").stream("s"), event("B", r#"{"do":"ok"}"#).id("b").stream("s")]);
        let expected = format!(r#"{{"count":2,"lastVersion":2,"chain":"{}"}}"#, chain(&["a", "b"]));
        assert_eq!(lane.text(COLLECTION, "s"), Some(expected.as_str()));
        assert_eq!(chain(&["a"]), "798681f5061511d34f32f43ab175a3ee7007fecfdc844295e054315b0af2d23d");
    }

    #[test]
    fn skips_and_halts_are_answered_as_scripted() {
        let mut lane = Lane::<Scripted>::new("acme");
        let answer = lane.handle([
            event("A", "{}").id("a").stream("s"),
            event("A", r#"{"do":"skip","code":"odd","message":"m"}"#).stream("s"),
            event("A", r#"{"do":"retry-after","ms":250}"#).stream("s"),
            event("A", "{}").stream("s"),
        ]);
        assert_eq!((answer.skipped[0].index, answer.skipped[0].code.as_str()), (1, "odd"));
        let halted = answer.halted.unwrap();
        assert_eq!(halted.index, 2);
        assert!(matches!(halted.action, raw::HaltAction::RetryAfter(250)));
        let expected = format!(r#"{{"count":1,"lastVersion":1,"chain":"{}"}}"#, chain(&["a"]));
        assert_eq!(lane.text(COLLECTION, "s"), Some(expected.as_str()));
    }

    #[test]
    fn a_document_can_be_removed_and_created_again() {
        let mut lane = Lane::<Scripted>::new("acme");
        lane.handle([event("A", "{}"), event("A", r#"{"do":"remove"}"#)]);
        assert_eq!(lane.texts(COLLECTION), []);
        lane.handle([event("A", "{}")]);
        assert_eq!(lane.texts(COLLECTION).len(), 1);
    }

    #[test]
    fn skip_out_of_order_skips_one_index_twice() {
        let answer = Lane::<Scripted>::new("acme").handle([event("A", r#"{"do":"skip-out-of-order"}"#)]);
        let indexes: Vec<_> = answer.skipped.iter().map(|skipped| skipped.index).collect();
        assert_eq!(indexes, [0, 0]);
    }

    #[test]
    fn deep_nests_ten_thousand_arrays() {
        let answer = Lane::<Scripted>::new("acme").handle([event("A", r#"{"do":"deep"}"#)]);
        let raw::Change::Put(document) = &answer.changes[0] else { panic!("{answer:?}") };
        assert_eq!(document.data.matches('[').count(), 10_000);
    }
}
