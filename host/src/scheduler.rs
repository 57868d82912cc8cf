//! Guest threads: where the futures of guests are polled, apart from the runtime that drives sockets and timers.
//!
//! A guest's future yields every slice (see `sandbox::meter`) and then goes to the end of one queue, so with N runnable guests each waits
//! for at most N − 1 slices, whatever the others compute. A guest that waits for the host is in no queue. Dropping what
//! [`Scheduler::run`] returned drops the guest's future at its next slice at the latest. The threads end with the scheduler.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use async_task::Runnable;
use serde::Deserialize;

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Threads that run guests. Default: one for each core, at least 1; guests compute, so more only adds switching.
    pub threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { threads: std::thread::available_parallelism().map_or(1, |n| n.get()) }
    }
}

/// A set of guest threads with one fair queue. Cheap to clone; the last clone ends the threads.
#[derive(Clone)]
pub struct Scheduler {
    _threads: Arc<Threads>,
    queue: Arc<Queue>,
}

impl Scheduler {
    /// Starts the threads.
    pub fn start(config: &Config) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let threads = Threads { queue: queue.clone() };
        for number in 0..config.threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("guest-{number}")).spawn(move || queue.work())?;
        }
        Ok(Scheduler { _threads: Arc::new(threads), queue })
    }

    /// Runs a future on the guest threads. A panic in it comes out where this is awaited.
    pub fn run<F>(&self, future: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let queue = Arc::downgrade(&self.queue);
        let schedule = move |runnable: Runnable| {
            // Without a queue the scheduler is gone, and dropping the runnable cancels the guest.
            if let Some(queue) = queue.upgrade() {
                queue.push(runnable);
            }
        };
        let (runnable, task) = async_task::Builder::new().propagate_panic(true).spawn(|()| future, schedule);
        runnable.schedule();
        task
    }
}

struct Threads {
    queue: Arc<Queue>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.lock().ended = true;
        self.queue.ready.notify_all();
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    runnables: VecDeque<Runnable>,
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, and a queue is whole between any two of its calls anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, runnable: Runnable) {
        self.lock().runnables.push_back(runnable);
        self.ready.notify_one();
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let runnable = loop {
                if state.ended {
                    return;
                }
                if let Some(runnable) = state.runnables.pop_front() {
                    break runnable;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            runnable.run();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    #[tokio::test]
    async fn runs_apart_from_the_runtime_and_gives_turns() {
        let scheduler = Scheduler::start(&Config { threads: 1 }).unwrap();
        let turns = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let hog = scheduler.run({
            let (turns, done) = (turns.clone(), done.clone());
            async move {
                while !done.load(SeqCst) {
                    turns.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                }
                std::thread::current().name().map(str::to_string)
            }
        });
        // One thread, and a hog on it: the other future still gets its turns.
        scheduler
            .run(async move {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                done.store(true, SeqCst);
            })
            .await;
        assert_eq!(hog.await.as_deref(), Some("guest-0"));
        assert!(turns.load(SeqCst) >= 100);
    }

    #[tokio::test]
    async fn a_dropped_run_is_dropped_while_it_loops() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let scheduler = Scheduler::start(&Config { threads: 1 }).unwrap();
        let (told, dropped) = tokio::sync::oneshot::channel();
        let told = Told(Some(told));
        let endless = scheduler.run(async move {
            let _told = told;
            loop {
                tokio::task::yield_now().await;
            }
        });
        drop(endless);
        dropped.await.unwrap();
    }
}
