//! Dying at a named step, for tests of what survives it.
//!
//! Compiled in only with the feature `failpoints`, which no release has. `SANDMILL_FAILPOINT=NAME:N` in the environment ends the process
//! with SIGKILL when the step NAME is reached for the N-th time. The names: `page.read`, `shed.read` (a part of what will be skipped), `lanes.run`, `commit.begin`, `commit.written` (all
//! statements answered, COMMIT not sent), `commit.sent` (COMMIT on its way), `commit.answered`.

/// Reaches a step.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// Reaches a step.
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
        // The signal may take a moment to arrive; nothing may happen after this step.
        loop {
            std::thread::park();
        }
    }
}
