//! Failpoints: crashes at named steps, for tests of recovery.
//!
//! They are compiled in only with the feature `failpoints`, which no release enables.
//! `SANDMILL_FAILPOINT=NAME:N` in the environment kills the process with SIGKILL when the step NAME
//! is reached for the N-th time. The names:
//!
//! - `page.read`: a page was read;
//! - `shed.read`: a part of the events to shed was read;
//! - `lanes.run`: lanes have run, and none of their results are committed;
//! - `commit.begin`: a commit begins;
//! - `commit.written`: all statements are answered, COMMIT is not sent;
//! - `commit.sent`: COMMIT is sent;
//! - `commit.answered`: COMMIT is answered.

/// Crashes here if this step is armed.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// Crashes here if this step is armed.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering::SeqCst},
    };
    static ARMED: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        let text = std::env::var("SANDMILL_FAILPOINT").ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some((name.to_string(), AtomicU32::new(count.parse().ok()?)))
    });
    if let Some((armed, left)) = &*ARMED
        && armed == name
        && left.fetch_sub(1, SeqCst) == 1
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment to arrive, and nothing may run after this step.
        loop {
            std::thread::park();
        }
    }
}
