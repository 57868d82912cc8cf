//! The thread that advances the engine's epoch while guests run.
//!
//! A tick ends a slice of each running guest. Without guests the thread pauses, because a thousand
//! wake-ups a second would cost an idle host some two percent of a core. A call that begins then
//! wakes it. It outlasts short gaps between calls, so a busy host wakes it rarely.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

use anyhow::Context;
use wasmtime::EngineWeak;

/// Period of the epoch, and so the time for which a guest runs before it yields. Neither a
/// register-only loop nor a parser is measurably slower for it; longer slices would add to the
/// latency of other guests.
const SLICE: Duration = Duration::from_millis(1);
/// Ticks without a guest after which the thread pauses.
const IDLE_TICKS: u32 = 10;
/// Time between two checks of a paused thread whether the engine still exists.
const ENGINE_CHECK: Duration = Duration::from_secs(1);

/// The ticking thread of one engine.
#[derive(Default)]
pub(super) struct Ticker {
    /// Guests that run or wait for the host.
    running: AtomicUsize,
    paused: AtomicBool,
    thread: OnceLock<Thread>,
}

/// Keeps the thread ticking for one guest.
pub(super) struct Ticking(Arc<Ticker>);

impl Ticker {
    /// Starts the thread, which ends with the engine.
    pub(super) fn start(engine: EngineWeak) -> anyhow::Result<Arc<Self>> {
        let ticker = Arc::new(Ticker::default());
        let ticking = ticker.clone();
        let tick = move || engine.upgrade().inspect(wasmtime::Engine::increment_epoch).is_some();
        let thread = thread::Builder::new().name("epoch".into()).spawn(move || ticking.run(tick));
        // Nobody else has set it.
        let _ = ticker.thread.set(thread.context("start the epoch thread")?.thread().clone());
        Ok(ticker)
    }

    /// Ticks until the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Ticking {
        // The order of the two accesses matters, here and in `run`: either this sees the pause, or
        // the thread sees the guest.
        self.running.fetch_add(1, SeqCst);
        if self.paused.load(SeqCst)
            && self.paused.swap(false, SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Ticking(self.clone())
    }

    /// Ticks while there are guests, until `tick` returns false.
    fn run(&self, tick: impl Fn() -> bool) {
        let mut idle_ticks = 0;
        loop {
            thread::sleep(SLICE);
            if !tick() {
                return;
            }
            idle_ticks = if self.running.load(SeqCst) == 0 { idle_ticks + 1 } else { 0 };
            if idle_ticks < IDLE_TICKS {
                continue;
            }
            idle_ticks = 0;
            self.paused.store(true, SeqCst);
            while self.running.load(SeqCst) == 0 && self.paused.load(SeqCst) {
                thread::park_timeout(ENGINE_CHECK);
                // No tick right after a guest has begun: it would end its first slice early.
                if self.paused.load(SeqCst) && !tick() {
                    return;
                }
            }
            self.paused.store(false, SeqCst);
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};

    use super::*;

    #[test]
    fn the_thread_pauses_without_guests_and_ticks_for_each_that_begins() {
        let ticker = Arc::new(Ticker::default());
        let (sender, ticks) = sync_channel(0);
        let ticking = ticker.clone();
        // Each tick waits until it is received, and the thread ends with the receiver.
        let thread = thread::spawn(move || ticking.run(|| sender.send(()).is_ok()));
        ticker.thread.set(thread.thread().clone()).unwrap();
        for _ in 0..3 {
            let first = ticker.begin();
            let second = ticker.begin();
            drop(first);
            for _ in 0..3 * IDLE_TICKS {
                ticks.recv().unwrap();
                assert!(!ticker.paused.load(SeqCst), "a guest still runs");
            }
            drop(second);
            while !ticker.paused.load(SeqCst) {
                match ticks.recv_timeout(SLICE) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => panic!("the thread has ended"),
                }
            }
        }
        drop(ticks);
        thread.join().unwrap();
    }
}
