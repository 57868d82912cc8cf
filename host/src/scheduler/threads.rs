//! A group of guest threads and the ring that they serve.
//!
//! Each thread takes the next task from the ring, polls it once, and charges the thread's own CPU
//! time to the task. Dropping the last handle ends the threads.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_task::Runnable;
use rustix::time::{ClockId, clock_gettime};

use super::{
    held_wakes,
    meter::TaskMeter,
    ring::{Class, Grant, Length, Ring},
};
use crate::model::ids::TenantId;

/// Pause of a thread after each slice of a long task: as short as the kernel allows, some 60 µs.
///
/// The kernel moves a thread that computes without end off its core only after several
/// milliseconds. A commit crosses several such waits: the runtime's, and those of PostgreSQL's
/// sessions if it is on the same machine. Measured with quiet tenants beside three that spin: p99
/// of 31 ms without the pause, 15 ms with it. Where nothing else waits, it costs long tasks a
/// twentieth of their time.
const REST: Duration = Duration::from_micros(1);

/// Running threads. The last clone ends them.
#[derive(Clone)]
pub(super) struct GuestThreads(Arc<ThreadsGuard>);

/// Ends the threads when it is dropped.
struct ThreadsGuard(Arc<RunQueue>);

impl GuestThreads {
    pub(super) fn start(name: &str, threads: usize, ring: Ring<ReadyTask>) -> std::io::Result<Self> {
        let state = QueueState { ring, idle_threads: 0, waking_threads: 0, ended: false };
        let queue = Arc::new(RunQueue { state: Mutex::new(state), ready: Condvar::new() });
        let guard = ThreadsGuard(queue.clone());
        for number in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || queue.work())?;
        }
        Ok(GuestThreads(Arc::new(guard)))
    }

    pub(super) fn queue(&self) -> &Arc<RunQueue> {
        &self.0.0
    }
}

impl Drop for ThreadsGuard {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.ready.notify_all();
    }
}

/// The ring that a group of threads shares.
pub(super) struct RunQueue {
    state: Mutex<QueueState>,
    ready: Condvar,
}

pub(super) struct QueueState {
    pub(super) ring: Ring<ReadyTask>,
    /// Threads that wait for a task and have not been woken. Waking one is a system call, made only
    /// if there are any.
    idle_threads: usize,
    /// Threads that were woken and do not run yet. Each will take a task, so it needs no second
    /// wake-up.
    waking_threads: usize,
    ended: bool,
}

impl QueueState {
    /// Whether to wake a thread, which the caller then must do.
    fn claim_thread(&mut self) -> bool {
        let claim = self.idle_threads > 0 && self.ring.servable() > self.waking_threads;
        if claim {
            self.idle_threads -= 1;
            self.waking_threads += 1;
        }
        claim
    }
}

/// A task that can be polled.
pub(super) struct ReadyTask {
    pub(super) runnable: Runnable,
    pub(super) meter: Arc<TaskMeter>,
    pub(super) ready_since: Instant,
}

impl RunQueue {
    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing panics while holding it, and the state is consistent between any two calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, tenant: &TenantId, class: Class, length: Length, task: ReadyTask) {
        let mut state = self.lock();
        state.ring.push(tenant, class, length, task);
        let wake = state.claim_thread();
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    /// The loop of one thread: takes a task, polls it once, and charges its tenant.
    fn work(&self) {
        let (mut finished, mut clock) = (None, thread_cpu());
        while let Some((grant, task, was_idle)) = self.next(finished.take()) {
            if was_idle {
                clock = thread_cpu();
            }
            task.meter.polled(task.ready_since.elapsed());
            if grant.is_long() {
                held_wakes::release();
            }
            held_wakes::run(grant.class() != Class::Live, || {
                task.runnable.run();
            });
            // The clock is read once per poll, so a poll also pays for finding its task.
            let now = thread_cpu();
            let cpu = now.saturating_sub(clock);
            task.meter.charge(cpu);
            if grant.is_long() {
                std::thread::sleep(REST);
            }
            finished = Some((grant, cpu));
            clock = now;
        }
        held_wakes::release();
    }

    /// Returns a grant and waits for the next task. The last value reports whether the thread had
    /// to wait. None once the threads are to end.
    fn next(&self, finished: Option<(Grant, Duration)>) -> Option<(Grant, ReadyTask, bool)> {
        let (mut state, mut was_idle) = (self.lock(), false);
        if let Some((grant, cpu)) = finished {
            state.ring.finish(grant, cpu);
        }
        loop {
            if state.ended {
                return None;
            }
            if let Some((grant, task)) = state.ring.next() {
                // One finished grant may allow two tasks.
                if state.claim_thread() {
                    self.ready.notify_one();
                }
                return Some((grant, task, was_idle));
            }
            // What this thread holds may lead to its next task. It looks again afterwards: a task
            // that is pushed in between wakes nobody, as this thread does not count as idle yet.
            if held_wakes::any() {
                drop(state);
                held_wakes::release();
                state = self.lock();
                continue;
            }
            state.idle_threads += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            // A thread that wakes by itself may use up the wake-up of another, which then counts
            // as the one that woke by itself.
            match state.waking_threads.checked_sub(1) {
                Some(others) => state.waking_threads = others,
                None => state.idle_threads -= 1,
            }
            was_idle = true;
        }
    }
}

/// CPU time that this thread has used since it started.
pub(super) fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
