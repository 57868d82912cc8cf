//! Which version of the guest this is: a text in the component's data that tests write over, so that one build gives as many versions as they want.
//!
//! `scripted-mark-` is followed by seven bytes. As built they are zeros, and nothing follows from them. Otherwise they are a version's name, which the guest
//! keeps in its documents; where it begins with `T`, every event traps, where it begins with `S`, it spins.

use std::hint::black_box;

use crate::{Log, ruin};

static MARK: [u8; 21] = *b"scripted-mark-0000000";

/// What follows the mark's name; none as built.
fn version() -> Option<&'static str> {
    // Not what it was when this was compiled, perhaps.
    let (_, version) = black_box(&MARK).split_at(14);
    std::str::from_utf8(version).ok().filter(|version| *version != "0000000")
}

/// Takes note in a document of the version that has handled one more event of it; or traps, if that is what the version does.
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
