//! Checks of a guest's answer to a batch, which turn it into [`Effects`]. Downstream code may trust
//! these.

mod reaction;

use std::{sync::Arc, time::Duration};

use super::{
    bindings::{Answer, Change as WitChange, v0_1::HaltAction as WitHaltAction},
    failure,
    limits::Limits,
};
use crate::model::{
    effects::{Change, Effects, Halt, HaltAction, Skipped},
    handler::Reason,
    ids::{CollectionName, is_document_id},
    json::{self, Invalid},
    spec::Descriptor,
};

/// Length of a guest's message for people, bytes. The rest is cut off.
const MESSAGE_BYTES: usize = 2_000;

/// Checks the answer to a batch of `events` events.
pub(super) fn check(
    answer: Answer,
    events: usize,
    descriptor: &Descriptor,
    limits: &Limits,
) -> Result<Effects, Reason> {
    if answer.changes.len() > limits.changes {
        let message =
            format!("answered with {} changes; {} are allowed (limits.changes)", answer.changes.len(), limits.changes);
        return Err(Reason::new("changes-limit", message));
    }
    let bytes = answer.changes.bytes();
    if bytes > limits.output_bytes() as u64 {
        return Err(failure::output_limit());
    }
    let halted = match answer.halted {
        None => None,
        Some(halt) => {
            let index = halt.index as usize;
            if index >= events {
                return Err(malformed(format!("halted at index {index} of a batch of {events} events")));
            }
            let action = match halt.action {
                WitHaltAction::Retry => HaltAction::Retry { after: None },
                WitHaltAction::RetryAfter(ms) => HaltAction::Retry { after: Some(Duration::from_millis(ms.into())) },
                WitHaltAction::Stop => HaltAction::Stop,
            };
            Some(Halt { index, action, code: clean(halt.code), message: clean(halt.message) })
        }
    };
    let end = halted.as_ref().map_or(events, |halt| halt.index);
    let mut skipped: Vec<Skipped> = Vec::with_capacity(answer.skipped.len().min(events));
    for skip in answer.skipped {
        let index = skip.index as usize;
        if index >= end {
            return Err(malformed(format!("skipped index {index}, but handled only {end} events")));
        }
        if skipped.last().is_some_and(|last| last.index >= index) {
            return Err(malformed(format!("skipped index {index} out of order; indexes must rise strictly")));
        }
        skipped.push(Skipped { index, code: clean(skip.code), message: clean(skip.message) });
    }
    let changes = answer.changes.iter().map(|change| match change {
        Ok(change) => check_change(change, descriptor, limits),
        Err(broken) => Err(malformed(broken.to_string())),
    });
    let changes = changes.collect::<Result<_, _>>()?;
    let appends = reaction::check(answer.effects, end, &skipped, bytes, limits)?;
    Ok(Effects { changes, skipped, appends, halted, diagnostics: None })
}

fn check_change(change: WitChange<'_>, descriptor: &Descriptor, limits: &Limits) -> Result<Change, Reason> {
    match change {
        WitChange::Put { collection: name, id, data } => {
            let collection = collection(name, descriptor)?;
            let id = document_id(id, &collection)?;
            let too_large = |bytes: usize, how: &str| {
                let message = format!(
                    "document `{id}` of `{collection}` has {} KiB{how}; {} are allowed (limits.document-kib)",
                    bytes.div_ceil(1024),
                    limits.document_kib
                );
                Reason::new("document-limit", message)
            };
            if data.len() > limits.document_bytes() {
                return Err(too_large(data.len(), ""));
            }
            let printed = json::check_document(data, limits.json_depth).map_err(|problem| {
                let message = format!("document `{id}` of `{collection}`: {problem}");
                match problem {
                    Invalid::TooDeep { .. } => Reason::new("json-depth-limit", message + " (limits.json-depth)"),
                    _ => malformed(message),
                }
            })?;
            if printed > limits.document_bytes() {
                return Err(too_large(printed, " as PostgreSQL prints it (numbers without exponents)"));
            }
            Ok(Change::Put { collection, id, data: data.into() })
        }
        WitChange::Remove { collection: name, id } => {
            let collection = collection(name, descriptor)?;
            let id = document_id(id, &collection)?;
            Ok(Change::Remove { collection, id })
        }
    }
}

fn collection(name: &str, descriptor: &Descriptor) -> Result<CollectionName, Reason> {
    descriptor
        .collections
        .iter()
        .find(|c| c.as_str() == name)
        .cloned()
        .ok_or_else(|| malformed(format!("wrote to collection `{}`, which its descriptor does not list", short(name))))
}

fn document_id(id: &str, collection: &CollectionName) -> Result<Arc<str>, Reason> {
    if is_document_id(id) {
        Ok(id.into())
    } else {
        Err(malformed(format!(
            "wrote a document with an id of {} bytes to `{collection}`; 1 to 512 without U+0000 are allowed",
            id.len()
        )))
    }
}

fn malformed(message: String) -> Reason {
    Reason::new("malformed-output", message)
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A text without NUL, which a database column cannot hold, and of bounded length.
fn clean(text: String) -> String {
    let mut end = MESSAGE_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}
