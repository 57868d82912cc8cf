//! A guest's answer to a batch, with the same parts for projectors in both forms and for reactors.

use std::fmt;

use super::{
    packed::text,
    v0_1::{self, Halt, PackedChange, PackedProjection, Projection, SkippedEvent, Text, reactor},
};

/// An answer that is yet to be checked.
pub(in crate::sandbox) struct Answer {
    pub(in crate::sandbox) changes: Changes,
    pub(in crate::sandbox) skipped: Vec<SkippedEvent>,
    pub(in crate::sandbox) halted: Option<Halt>,
    /// Effects outside the documents; none of a projector.
    pub(in crate::sandbox) effects: SideEffects,
}

/// The effects of a reactor outside its documents.
#[derive(Default)]
pub(in crate::sandbox) struct SideEffects {
    pub(in crate::sandbox) appends: Vec<reactor::Append>,
    pub(in crate::sandbox) messages: Vec<reactor::Message>,
    pub(in crate::sandbox) timers: Vec<reactor::TimerChange>,
}

/// The changes of an answer, in the form in which the guest passed them.
pub(in crate::sandbox) enum Changes {
    Plain(Vec<v0_1::Change>),
    Packed { texts: String, changes: Vec<PackedChange> },
}

/// A change to a document.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Change<'a> {
    Put { collection: &'a str, id: &'a str, data: &'a str },
    Remove { collection: &'a str, id: &'a str },
}

/// A range that is no text of its string.
#[derive(Debug)]
pub(in crate::sandbox) struct BrokenText {
    /// The part of the call that it should be.
    part: &'static str,
    range: Text,
    /// The string's length.
    bytes: usize,
}

impl Changes {
    pub(in crate::sandbox) fn len(&self) -> usize {
        match self {
            Changes::Plain(changes) => changes.len(),
            Changes::Packed { changes, .. } => changes.len(),
        }
    }

    /// Bytes of all ids and documents. Ranges of the packed form may overlap, so they can be many
    /// times as long together as the string that the guest passed.
    pub(in crate::sandbox) fn bytes(&self) -> u64 {
        match self {
            Changes::Plain(changes) => changes.iter().map(plain_bytes).sum(),
            Changes::Packed { changes, .. } => changes.iter().map(packed_bytes).sum(),
        }
    }

    /// The changes in order. A change of the packed form has a [`BrokenText`] if a range of it is
    /// broken.
    pub(in crate::sandbox) fn iter(&self) -> impl Iterator<Item = Result<Change<'_>, BrokenText>> {
        let (plain, texts, packed) = match self {
            Changes::Plain(changes) => (&changes[..], "", &[][..]),
            Changes::Packed { texts, changes } => (&[][..], &texts[..], &changes[..]),
        };
        plain.iter().map(|change| Ok(Change::from(change))).chain(packed.iter().map(|change| unpack(change, texts)))
    }
}

fn plain_bytes(change: &v0_1::Change) -> u64 {
    match change {
        v0_1::Change::Put(document) => document.id.len() as u64 + document.data.len() as u64,
        v0_1::Change::Remove(key) => key.id.len() as u64,
    }
}

fn packed_bytes(change: &PackedChange) -> u64 {
    match change {
        PackedChange::Put(document) => u64::from(document.id.length) + u64::from(document.data.length),
        PackedChange::Remove(key) => u64::from(key.id.length),
    }
}

fn unpack<'a>(change: &PackedChange, texts: &'a str) -> Result<Change<'a>, BrokenText> {
    let of = |part, range| BrokenText::check(part, texts, range);
    Ok(match change {
        PackedChange::Put(document) => Change::Put {
            collection: of("a collection", document.collection)?,
            id: of("a document's id", document.id)?,
            data: of("a document", document.data)?,
        },
        PackedChange::Remove(key) => {
            Change::Remove { collection: of("a collection", key.collection)?, id: of("a document's id", key.id)? }
        }
    })
}

impl BrokenText {
    /// The text of a range, which is a part of a call.
    pub(in crate::sandbox) fn check<'t>(part: &'static str, texts: &'t str, range: Text) -> Result<&'t str, Self> {
        text(texts, range).ok_or(BrokenText { part, range, bytes: texts.len() })
    }
}

impl fmt::Display for BrokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BrokenText { part, range: Text { start, length }, bytes } = self;
        let why = match u64::from(*start) + u64::from(*length) > *bytes as u64 {
            true => "lies outside them",
            false => "cuts a character",
        };
        write!(f, "passed {bytes} bytes of texts and in them {part} of {length} bytes at {start}, which {why}")
    }
}

impl<'a> From<&'a v0_1::Change> for Change<'a> {
    fn from(change: &'a v0_1::Change) -> Self {
        match change {
            v0_1::Change::Put(v0_1::Document { collection, id, data }) => Change::Put { collection, id, data },
            v0_1::Change::Remove(v0_1::DocumentKey { collection, id }) => Change::Remove { collection, id },
        }
    }
}

impl From<Projection> for Answer {
    fn from(answer: Projection) -> Self {
        let Projection { changes, skipped, halted } = answer;
        Answer { changes: Changes::Plain(changes), skipped, halted, effects: SideEffects::default() }
    }
}

impl From<PackedProjection> for Answer {
    fn from(answer: PackedProjection) -> Self {
        let PackedProjection { texts, changes, skipped, halted } = answer;
        Answer { changes: Changes::Packed { texts, changes }, skipped, halted, effects: SideEffects::default() }
    }
}

impl From<reactor::Reaction> for Answer {
    fn from(answer: reactor::Reaction) -> Self {
        let reactor::Reaction { changes, appends, messages, timers, skipped, halted } = answer;
        Answer { changes: Changes::Plain(changes), skipped, halted, effects: SideEffects { appends, messages, timers } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::bindings::v0_1::packed_types;

    fn range(start: u32, length: u32) -> Text {
        Text { start, length }
    }

    fn put(collection: Text, id: Text, data: Text) -> PackedChange {
        PackedChange::Put(packed_types::Document { collection, id, data })
    }

    fn packed(texts: &str, changes: Vec<PackedChange>) -> Changes {
        Changes::Packed { texts: texts.into(), changes }
    }

    #[test]
    fn both_forms_have_the_same_changes() {
        let document = |collection: &str, id: &str, data: &str| {
            v0_1::Change::Put(v0_1::Document { collection: collection.into(), id: id.into(), data: data.into() })
        };
        let key = v0_1::DocumentKey { collection: "doors".into(), id: "ä".into() };
        let plain = Changes::Plain(vec![document("doors", "a", "{}"), v0_1::Change::Remove(key)]);
        let remove = PackedChange::Remove(packed_types::DocumentKey { collection: range(0, 5), id: range(8, 2) });
        let packed = packed("doorsa{}ä", vec![put(range(0, 5), range(5, 1), range(6, 2)), remove]);
        let expected =
            [Change::Put { collection: "doors", id: "a", data: "{}" }, Change::Remove { collection: "doors", id: "ä" }];
        for changes in [plain, packed] {
            assert_eq!(changes.iter().collect::<Result<Vec<_>, _>>().unwrap(), expected);
            assert_eq!((changes.len(), changes.bytes()), (2, 5));
        }
    }

    #[test]
    fn a_broken_range_is_named_with_its_part() {
        let broken = |change| packed("ä{}", vec![change]).iter().next().unwrap().unwrap_err().to_string();
        let good = range(0, 2);
        for (change, expected) in [
            (put(range(3, 2), good, good), "a collection of 2 bytes at 3, which lies outside them"),
            (put(good, range(1, 1), good), "a document's id of 1 bytes at 1, which cuts a character"),
            (put(good, good, range(u32::MAX, 9)), "a document of 9 bytes at 4294967295, which lies outside them"),
        ] {
            assert_eq!(broken(change), format!("passed 4 bytes of texts and in them {expected}"));
        }
    }

    #[test]
    fn overlapping_ranges_count_each_time() {
        let all = range(0, u32::MAX);
        let changes = packed("", vec![put(all, all, all); 1_000]);
        assert_eq!(changes.bytes(), 2_000 * u64::from(u32::MAX));
    }
}
