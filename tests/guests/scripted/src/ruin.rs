//! Ways in which a guest ruins itself, and would ruin its host if it could. Only [`turn`] returns.

use std::hint::black_box;

use sandmill_guest::{documents, log};

/// Panics, which logs the message and traps.
pub(crate) fn trap(event_id: &str, message: &str) -> ! {
    panic!("event {event_id} asks for a trap {message}")
}

/// Keeps the host busy and computes hardly anything itself.
pub(crate) fn read_forever(collection: &str) -> ! {
    loop {
        black_box(documents::get_many_text(collection, &["x"]));
    }
}

/// Logs without end.
pub(crate) fn log_forever(message: &str) -> ! {
    loop {
        log::warn!("{message}");
    }
}

/// Takes CPU time and nothing else. `black_box` keeps the compiler from removing the loop.
pub(crate) fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Takes CPU time for a number of turns, for guests that are only slow.
pub(crate) fn turn(turns: u64) {
    for turn in 0..turns {
        black_box(turn);
    }
}

/// Allocates memory and writes to it until there is none left.
pub(crate) fn bomb() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![0xa5_u8; 1 << 20]));
    }
}

/// Takes stack. Every call keeps an array that the next one reads, so no call can become a jump.
pub(crate) fn recurse() -> ! {
    let depth = descend(&[0; 32]);
    panic!("the stack held {depth} calls and did not end")
}

#[allow(unconditional_recursion, reason = "it is meant never to end")]
fn descend(above: &[u64; 32]) -> u64 {
    let here = black_box([above[0].wrapping_add(1); 32]);
    descend(&here).wrapping_add(black_box(here[31]))
}
