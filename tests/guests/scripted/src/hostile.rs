//! Answers that break the contract. Their types are correct, so they reach the host.

use sandmill_guest::raw::{Change, Document, Halt, HaltAction, Projection, SkippedEvent};

use super::COLLECTION;

/// An answer without effects.
pub(crate) fn nothing() -> Projection {
    Projection { changes: Vec::new(), skipped: Vec::new(), halted: None }
}

/// Puts a document without any check.
pub(crate) fn put(answer: &mut Projection, collection: &str, id: &str, data: &str) {
    push(answer, collection, id, data.to_owned());
}

/// Puts a document of `mib` MiB, allocated once. Where the memory limit is lower, growing fails and
/// the guest traps.
pub(crate) fn giant(answer: &mut Projection, id: &str, mib: usize) {
    let size = mib << 20;
    let mut data = String::with_capacity(size + 8);
    data.push_str(r#"{"a":""#);
    data.extend(std::iter::repeat_n('x', size));
    data.push_str(r#""}"#);
    push(answer, COLLECTION, id, data);
}

/// Puts a short document that a database prints with 8,003 bytes for each number.
pub(crate) fn long_numbers(answer: &mut Projection, count: usize) {
    push(answer, COLLECTION, "x", format!(r#"{{"a":[{}]}}"#, vec!["1e8000"; count].join(",")));
}

/// Puts a document nested deeper than any recursive parser should go.
pub(crate) fn deep(answer: &mut Projection) {
    let depth = 10_000;
    push(answer, COLLECTION, "x", [r#"{"a":"#, &"[".repeat(depth), &"]".repeat(depth), "}"].concat());
}

/// Halts well behind the last event.
pub(crate) fn halt_out_of_range(answer: &mut Projection, events: usize) {
    let index = events as u32 + 5;
    answer.halted = Some(Halt { index, action: HaltAction::Retry, code: String::new(), message: String::new() });
}

/// Skips one index twice.
pub(crate) fn skip_out_of_order(answer: &mut Projection, index: u32) {
    for _ in 0..2 {
        answer.skipped.push(SkippedEvent { index, code: String::new(), message: String::new() });
    }
}

fn push(answer: &mut Projection, collection: &str, id: &str, data: String) {
    answer.changes.push(Change::Put(Document { collection: collection.into(), id: id.into(), data }));
}
