//! The queue for compilers: which may run at once, and the end of all of them.
//!
//! A full compiler has all the memory that the settings allow, so only one of its kind runs at a
//! time. Small components need a fraction of that and take a second. So one *quick* compiler with
//! tighter bounds may run beside a full one, and a small component need not wait for a whole
//! language runtime. [`CompilerQueue::stop`] kills the compilers that run and rejects those that
//! wait.

use std::{
    collections::HashSet,
    io,
    process::{Child, ExitStatus},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::watch;

use super::{CompileError, Config, worker::CompilerBounds};

/// Bounds on compiling a component, and on compilers beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// A few seconds and a part of the memory, beside a full compiler. Exceeding them is
    /// [`CompileError::Unfinished`].
    Quick,
    /// The bounds of the settings.
    #[default]
    Full,
    /// The bounds of the settings, while no other compiler runs.
    Alone,
}

/// CPU time of a quick compiler, seconds. 5: ten times what a Rust guest takes.
const QUICK_SECONDS: u64 = 5;
/// Memory of a quick compiler: this fraction of the setting, but at least as much, MiB.
const QUICK_MEMORY_DIVISOR: u64 = 4;
const QUICK_MEMORY_MIN_MIB: u64 = 512;

impl Effort {
    /// The bounds of a compiler under these settings.
    pub(super) fn bounds(self, config: &Config) -> CompilerBounds {
        let Config { memory_mib, seconds, .. } = *config;
        match self {
            Effort::Quick => CompilerBounds {
                memory_mib: (memory_mib / QUICK_MEMORY_DIVISOR).max(QUICK_MEMORY_MIN_MIB).min(memory_mib),
                seconds: QUICK_SECONDS.min(seconds),
            },
            Effort::Full | Effort::Alone => CompilerBounds { memory_mib, seconds },
        }
    }
}

/// The compilers of one host.
pub(super) struct CompilerQueue {
    slots: Mutex<QueueSlots>,
    changed: Condvar,
    /// Components that are being compiled or cached.
    work: watch::Sender<usize>,
}

#[derive(Default)]
struct QueueSlots {
    /// Whether a quick compiler runs.
    quick: bool,
    /// Whether a full compiler runs.
    full: bool,
    stopped: bool,
    /// Processes that are not reaped, each the leader of its group.
    running: HashSet<Pid>,
}

impl Default for CompilerQueue {
    fn default() -> Self {
        CompilerQueue { slots: Mutex::default(), changed: Condvar::new(), work: watch::Sender::new(0) }
    }
}

/// The right to run a compiler. Dropping it lets the next one begin.
pub(super) struct CompilerSlot<'a> {
    queue: &'a CompilerQueue,
    effort: Effort,
}

/// Work on a component, from before its compiler runs until its code is cached or lost.
pub(super) struct ComponentWork<'a>(&'a CompilerQueue);

impl CompilerQueue {
    /// Counts a component as being worked on, until the result is dropped.
    pub(super) fn begin_work(&self) -> ComponentWork<'_> {
        self.work.send_modify(|components| *components += 1);
        ComponentWork(self)
    }

    /// Waits for a slot. Fails once all compilers are stopped.
    pub(super) fn enter(&self, effort: Effort) -> Result<CompilerSlot<'_>, CompileError> {
        let mut slots = self.lock();
        loop {
            if slots.stopped {
                return Err(CompileError::Stopped);
            }
            let free = match effort {
                Effort::Quick => !slots.quick,
                Effort::Full => !slots.full,
                Effort::Alone => !slots.full && !slots.quick,
            };
            if free {
                slots.quick |= effort != Effort::Full;
                slots.full |= effort != Effort::Quick;
                return Ok(CompilerSlot { queue: self, effort });
            }
            slots = self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Kills all running compilers and starts no more.
    pub(super) fn stop(&self) {
        let mut slots = self.lock();
        slots.stopped = true;
        slots.running.iter().for_each(|leader| kill(*leader));
        drop(slots);
        self.changed.notify_all();
    }

    /// Whether compilers have been stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits until no component is being worked on.
    pub(super) async fn idle(&self) {
        // It cannot fail, since the sender lives as long as `self`.
        let _ = self.work.subscribe().wait_for(|components| *components == 0).await;
    }

    /// Registers a compiler's process, the leader of its own group.
    pub(super) fn started(&self, child: &Child) {
        let (leader, mut slots) = (Pid::from_child(child), self.lock());
        slots.running.insert(leader);
        if slots.stopped {
            kill(leader);
        }
    }

    /// Kills a compiler and the processes that it has started.
    pub(super) fn kill(&self, child: &Child) {
        let (leader, slots) = (Pid::from_child(child), self.lock());
        // Once it is reaped, its number may belong to another process.
        if slots.running.contains(&leader) {
            kill(leader);
        }
    }

    /// The exit status of a compiler that has ended.
    pub(super) fn reap(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let mut slots = self.lock();
        let ended = child.try_wait()?;
        if ended.is_some() {
            slots.running.remove(&Pid::from_child(child));
        }
        Ok(ended)
    }

    fn lock(&self) -> MutexGuard<'_, QueueSlots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kill(leader: Pid) {
    // It fails only for a process that has just ended.
    let _ = kill_process_group(leader, Signal::KILL);
}

impl Drop for CompilerSlot<'_> {
    fn drop(&mut self) {
        let mut slots = self.queue.lock();
        if self.effort != Effort::Full {
            slots.quick = false;
        }
        if self.effort != Effort::Quick {
            slots.full = false;
        }
        drop(slots);
        self.queue.changed.notify_all();
    }
}

impl Drop for ComponentWork<'_> {
    fn drop(&mut self) {
        self.0.work.send_modify(|components| *components -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_compiler_runs_beside_a_full_one_and_alone_waits_for_both() {
        let queue = CompilerQueue::default();
        let (quick, full) = (queue.enter(Effort::Quick).unwrap(), queue.enter(Effort::Full).unwrap());
        std::thread::scope(|scope| {
            let alone = scope.spawn(|| queue.enter(Effort::Alone).map(drop).is_ok());
            drop(quick);
            drop(full);
            assert!(alone.join().unwrap());
        });
        let _full = queue.enter(Effort::Full).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.enter(Effort::Full).map(drop));
            queue.stop();
            assert!(matches!(waits.join().unwrap(), Err(CompileError::Stopped)));
        });
        assert!(matches!(queue.enter(Effort::Quick).map(drop), Err(CompileError::Stopped)));
    }

    #[test]
    fn a_quick_compiler_has_part_of_the_memory_and_never_more_than_the_settings() {
        let bounds = |memory_mib, seconds| {
            let config = Config { memory_mib, seconds, ..Config::default() };
            let CompilerBounds { memory_mib, seconds } = Effort::Quick.bounds(&config);
            (memory_mib, seconds)
        };
        assert_eq!(bounds(2_048, 120), (512, 5));
        assert_eq!(bounds(8_192, 2), (2_048, 2));
        assert_eq!(bounds(128, 1), (128, 1));
    }
}
