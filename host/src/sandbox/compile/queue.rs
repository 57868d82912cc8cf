//! The queue for compilers: which may run at once, and the end of all of them.
//!
//! One compiler has all the memory that the settings allow, so no second one of its kind runs
//! beside it. Small components need a fraction of that and are done in a second: one of them
//! compiles beside a large one, within bounds of its own, so that nobody waits for a whole language
//! runtime. [`stop`] kills the compilers that run and turns away those that wait.
//!
//! [`stop`]: Queue::stop

use std::{
    collections::HashSet,
    io,
    process::{Child, ExitStatus},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::watch;

use super::{CompileError, Config, worker::Bounds};

/// What compiling one component may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// A few seconds and a part of the memory, beside one that takes all of it. What is not done
    /// then is [`CompileError::Unfinished`].
    Quick,
    /// What the settings say.
    #[default]
    Full,
    /// The same while no other compiler runs.
    Alone,
}

/// CPU time of a quick compiler, seconds. Default 5: ten times what a Rust guest takes.
const QUICK_SECONDS: u64 = 5;
/// The part of the memory that a quick compiler may take, and the least that is of use, MiB.
const QUICK_MEMORY: (u64, u64) = (4, 512);

impl Effort {
    /// What a compiler may take under these settings.
    pub(super) fn bounds(self, config: &Config) -> Bounds {
        let Config { memory_mib, seconds, .. } = *config;
        match self {
            Effort::Quick => {
                let (part, least) = QUICK_MEMORY;
                Bounds {
                    memory_mib: (memory_mib / part).max(least).min(memory_mib),
                    seconds: QUICK_SECONDS.min(seconds),
                }
            }
            Effort::Full | Effort::Alone => Bounds { memory_mib, seconds },
        }
    }
}

/// The compilers of one host.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    busy: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// Whether a quick compiler runs, and one with all the memory.
    quick: bool,
    full: bool,
    stopped: bool,
    /// Processes that run and are not reaped, each the leader of its group.
    running: HashSet<Pid>,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { state: Mutex::default(), changed: Condvar::new(), busy: watch::Sender::new(0) }
    }
}

/// A place among the compilers that run. Dropping it lets the next one begin.
pub(super) struct Place<'a> {
    queue: &'a Queue,
    effort: Effort,
}

/// Work on a component, from before its compiler runs until its code is kept or lost.
pub(super) struct Busy<'a>(&'a Queue);

impl Queue {
    /// Counts a component as worked on.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.busy.send_modify(|busy| *busy += 1);
        Busy(self)
    }

    /// Waits for a place. Fails where all compilers are stopped.
    pub(super) fn enter(&self, effort: Effort) -> Result<Place<'_>, CompileError> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(CompileError::Stopped);
            }
            let free = match effort {
                Effort::Quick => !state.quick,
                Effort::Full => !state.full,
                Effort::Alone => !state.full && !state.quick,
            };
            if free {
                state.quick |= effort != Effort::Full;
                state.full |= effort != Effort::Quick;
                return Ok(Place { queue: self, effort });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Kills the compilers that run, and lets no further one begin.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.running.iter().for_each(|leader| kill(*leader));
        drop(state);
        self.changed.notify_all();
    }

    /// Whether all compilers are stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits until no component is worked on.
    pub(super) async fn idle(&self) {
        // The sender is this one.
        let _ = self.busy.subscribe().wait_for(|busy| *busy == 0).await;
    }

    /// Takes charge of a compiler's process, which leads a group of its own.
    pub(super) fn started(&self, child: &Child) {
        let (leader, mut state) = (Pid::from_child(child), self.lock());
        state.running.insert(leader);
        if state.stopped {
            kill(leader);
        }
    }

    /// Kills one compiler and what it has started.
    pub(super) fn kill(&self, child: &Child) {
        let (leader, state) = (Pid::from_child(child), self.lock());
        // Reaped, its number may be another process's by now.
        if state.running.contains(&leader) {
            kill(leader);
        }
    }

    /// How a compiler ended, if it has.
    pub(super) fn reap(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let mut state = self.lock();
        let ended = child.try_wait()?;
        if ended.is_some() {
            state.running.remove(&Pid::from_child(child));
        }
        Ok(ended)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kill(leader: Pid) {
    // One that has just ended is as good as killed.
    let _ = kill_process_group(leader, Signal::KILL);
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if self.effort != Effort::Full {
            state.quick = false;
        }
        if self.effort != Effort::Quick {
            state.full = false;
        }
        drop(state);
        self.queue.changed.notify_all();
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_component_compiles_beside_a_large_one_and_alone_means_alone() {
        let queue = Queue::default();
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
    fn a_quick_compiler_has_a_part_of_the_memory_and_never_more_than_the_settings() {
        let bounds = |memory_mib, seconds| {
            let config = Config { memory_mib, seconds, ..Config::default() };
            let Bounds { memory_mib, seconds } = Effort::Quick.bounds(&config);
            (memory_mib, seconds)
        };
        assert_eq!(bounds(2_048, 120), (512, 5));
        assert_eq!(bounds(8_192, 2), (2_048, 2));
        assert_eq!(bounds(128, 1), (128, 1));
    }
}
