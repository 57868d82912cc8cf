//! What a guest can do to itself, and would to its host if it could. None of these returns, but [`turn`], which does in the end.

use std::hint::black_box;

use sandmill_guest::{documents, log};

/// A trap, after the panic's message was logged.
pub(crate) fn trap(event_id: &str, message: &str) -> ! {
    panic!("event {event_id} asks for a trap {message}")
}

/// Keeps the host busy, and computes hardly anything itself.
pub(crate) fn read_forever(collection: &str) -> ! {
    loop {
        black_box(documents::get_many_text(collection, &["x"]));
    }
}

/// More log lines than anybody reads.
pub(crate) fn log_forever(message: &str) -> ! {
    loop {
        log::warn!("{message}");
    }
}

/// Takes CPU time and nothing else. `black_box` keeps the loop from being recognised as empty.
pub(crate) fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// The same so often, for guests that are only slow.
pub(crate) fn turn(often: u64) {
    for turn in 0..often {
        black_box(turn);
    }
}

/// Takes memory and writes to it, until there is no more to have.
pub(crate) fn bomb() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![0xa5_u8; 1 << 20]));
    }
}

/// Takes stack: every call keeps an array that the next one reads, so none can be turned into a jump.
pub(crate) fn recurse() -> ! {
    let depth = descend(&[0; 32]);
    panic!("the stack held {depth} calls and did not end")
}

#[allow(unconditional_recursion, reason = "that it never ends is its purpose")]
fn descend(above: &[u64; 32]) -> u64 {
    let here = black_box([above[0].wrapping_add(1); 32]);
    descend(&here).wrapping_add(black_box(here[31]))
}
