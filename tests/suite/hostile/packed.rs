//! Hand-made components in the packed form of the contract, whose ranges of texts are broken.
//!
//! The answer at 4096 is a string of texts and a list of changes, each a pointer and a length. A
//! change has 28 bytes: a zero for a put, then the ranges of its collection, id and document. A
//! range is a start and a length.

use sandmill_tests::handmade;

use super::components::{Component, made};

/// Five bytes of texts at 5000: a letter, and two characters of two bytes each.
const TEXTS: &str =
    "(i32.store8 (i32.const 5000) (i32.const 0x61)) (i32.store (i32.const 5001) (i32.const 0xa4c3a4c3))";
/// More memory, for the hostile tenant only.
const GROW: &str = "(drop (memory.grow (i32.const 200)))";
/// A mebibyte of zeros, as pointer and length.
const MEBIBYTE: [u32; 2] = [1 << 20, 1 << 20];
/// A place for long lists.
const LIST: u32 = 4 << 20;

/// All components.
pub(super) fn all() -> Vec<Component> {
    const MALFORMED: &str = "malformed-output: gave the host data that it cannot use: ";
    const OUTPUT: &str = "output-limit: passed more data to the host than";
    let of =
        |id, body: &str, reason| made(handmade::packed, id, r#"(memory (export "memory") 1)"#, "", body, Some(reason));
    vec![
        of("packed-invalid-utf8", &answer([5002, 3], [LIST, 0]), MALFORMED),
        of("packed-wild-texts", &answer([5000, 1_000_000], [LIST, 0]), MALFORMED),
        of("packed-wild-list", &answer([5000, 0], [6000, 1_000_000]), MALFORMED),
        of(
            "packed-outside",
            &change([0, 1, 1, 5, 0, 0]),
            "malformed-output: passed 5 bytes of texts and in them a document's id of 5 bytes at 1, which lies outside",
        ),
        of(
            "packed-overflow",
            &change([u32::MAX, u32::MAX, 0, 1, 0, 0]),
            "malformed-output: passed 5 bytes of texts and in them a collection of 4294967295 bytes at 4294967295, \
             which lies outside them",
        ),
        of(
            "packed-cut",
            &change([0, 1, 0, 1, 1, 3]),
            "malformed-output: passed 5 bytes of texts and in them a document of 3 bytes at 1, which cuts a character",
        ),
        of("packed-foreign", &change([0, 1, 0, 1, 0, 0]), "malformed-output: wrote to collection `a`, which its"),
        // 1,024 documents that are all the same mebibyte.
        of(
            "packed-gibibyte",
            &format!("{} {}", fill(1_024, 28, 24, MEBIBYTE[1]), answer(MEBIBYTE, [LIST, 1_024])),
            OUTPUT,
        ),
        of("packed-million", &format!("{GROW} {}", answer([5000, 0], [LIST, 300_000])), OUTPUT),
        of(
            "packed-asks-outside",
            &asked([4, 2]),
            "malformed-output: passed 5 bytes of texts and in them a document's id of 2 bytes at 4, which lies outside",
        ),
        of(
            "packed-asks-overflow",
            &asked([u32::MAX, 2]),
            "malformed-output: passed 5 bytes of texts and in them a document's id of 2 bytes at 4294967295, which lies",
        ),
        of(
            "packed-asks-cut",
            &asked([2, 1]),
            "malformed-output: passed 5 bytes of texts and in them a document's id of 1 bytes at 2, which cuts a",
        ),
        // 1,024 ids that are all the same mebibyte.
        of(
            "packed-asks-gibibyte",
            &format!("{} {}", fill(1_024, 8, 4, MEBIBYTE[1]), ask(MEBIBYTE, [LIST, 1_024])),
            "reads-limit: asked for documents whose ids have 1073741824 bytes together",
        ),
        of("packed-asks-million", &format!("{GROW} {}", ask([5000, 0], [LIST, 1_000_000])), OUTPUT),
    ]
}

/// Stores words one after the other.
fn store(at: u32, words: &[u32]) -> String {
    let places = (at..).step_by(4);
    places.zip(words).map(|(at, word)| format!("(i32.store (i32.const {at}) (i32.const {word}))")).collect()
}

/// Stores an answer.
fn answer(texts: [u32; 2], changes: [u32; 2]) -> String {
    format!("{TEXTS} {}", store(4096, &[texts, changes].concat()))
}

/// An answer with a put that has these ranges.
fn change(ranges: [u32; 6]) -> String {
    format!("{} {}", store(6004, &ranges), answer([5000, 5], [6000, 1]))
}

/// Asks for documents.
fn ask([texts, bytes]: [u32; 2], [ids, count]: [u32; 2]) -> String {
    let collection = "(i32.const 5000) (i32.const 1)";
    format!(
        "{TEXTS} (call $get-many {collection} (i32.const {texts}) (i32.const {bytes}) (i32.const {ids}) \
         (i32.const {count}) (i32.const 4000))"
    )
}

/// Asks for a document whose id has this range.
fn asked(range: [u32; 2]) -> String {
    format!("{} {}", store(6000, &range), ask([5000, 5], [6000, 1]))
}

/// Stores a word into each entry of a list.
fn fill(entries: u32, size: u32, place: u32, word: u32) -> String {
    let end = LIST + entries * size;
    format!(
        "(local $at i32) {GROW} (local.set $at (i32.const {LIST}))
         (loop (i32.store offset={place} (local.get $at) (i32.const {word}))
               (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {size}))) (i32.const {end}))))"
    )
}
