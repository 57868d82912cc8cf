//! The version of the guest: a text in the component's data that tests overwrite, so that one build
//! serves for any number of versions.
//!
//! Seven bytes follow `scripted-mark-`. As built they are zeros and have no effect. Otherwise they
//! are the name of a version, which the guest records in its documents. A version whose name begins
//! with `T` traps on every event; one whose name begins with `S` spins. One whose name begins with
//! `C` is cured: it folds the events that ask for a trap.

use std::hint::black_box;

use crate::{Log, ruin};

static MARK: [u8; 21] = *b"scripted-mark-0000000";

/// The version's name; none as built.
fn version() -> Option<&'static str> {
    // The bytes may have changed since this was compiled.
    let (_, version) = black_box(&MARK).split_at(14);
    std::str::from_utf8(version).ok().filter(|version| *version != "0000000")
}

/// Whether the version folds events that ask for a trap.
pub(crate) fn is_cured() -> bool {
    version().is_some_and(|version| version.starts_with('C'))
}

/// Records in a document that this version has handled one more of its events. Traps or spins if
/// the version's name asks for it.
pub(crate) fn leave(log: &mut Log, event_id: &str) {
    let Some(version) = version() else { return };
    if version.starts_with('T') {
        ruin::trap(event_id, "of a version that traps on every one");
    }
    if version.starts_with('S') {
        ruin::spin();
    }
    match log.versions.last_mut() {
        Some((last, events)) if last == version => *events += 1,
        _ => log.versions.push((version.into(), 1)),
    }
}
