//! Wake-ups that a guest thread holds back for a moment, so that several are issued at once.
//!
//! A wake-up from a guest thread often costs a system call and two thread switches, more than a
//! short call itself. While a processor catches up, its calls end one after another, and nobody
//! waits for the result of a single one. So a guest thread holds the wake-ups of tasks that end
//! behind the log's head. The processor then wakes once and takes all their results.
//!
//! A thread holds at most [`MAX_HELD`] wake-ups. It releases them after [`HOLD`], before it runs a
//! long task, and as soon as it has no other task. A wake-up may thus be late by [`HOLD`] and one
//! slice. Wake-ups of live work are never held.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use async_task::Task;
use futures_util::task::AtomicWaker;

/// Maximum number of wake-ups that a thread holds.
const MAX_HELD: usize = 16;
/// Time after which a thread releases its wake-ups. 200 µs: several short calls, and far less than
/// a commit takes.
const HOLD: Duration = Duration::from_micros(200);

/// The wake-ups that one thread holds.
#[derive(Default)]
struct HeldWakes {
    /// Whether the task that runs now has its wake-ups held.
    holding: bool,
    wakers: Vec<Waker>,
    /// When the first of them was held.
    since: Option<Instant>,
}

thread_local! {
    static HELD: RefCell<HeldWakes> = RefCell::default();
}

/// Runs a task on this thread. `hold` says whether the wake-ups of its end may be held.
pub(super) fn run(hold: bool, task: impl FnOnce()) {
    HELD.with_borrow_mut(|held| held.holding = hold);
    task();
    let due = HELD.with_borrow_mut(|held| {
        held.holding = false;
        held.wakers.len() >= MAX_HELD || held.since.is_some_and(|since| since.elapsed() >= HOLD)
    });
    if due {
        release();
    }
}

/// Whether this thread holds wake-ups.
pub(super) fn any() -> bool {
    HELD.with_borrow(|held| !held.wakers.is_empty())
}

/// Issues the wake-ups that this thread holds.
pub(super) fn release() {
    let wakers = HELD.with_borrow_mut(|held| {
        held.since = None;
        std::mem::take(&mut held.wakers)
    });
    wakers.into_iter().for_each(Waker::wake);
}

/// A spawned task that is awaited, and whose end may wake its owner a moment later.
pub(super) struct Awaited<T> {
    task: Task<T>,
    owner: Arc<Owner>,
    /// Wakes the owner.
    waker: Waker,
}

impl<T> Awaited<T> {
    pub(super) fn new(task: Task<T>) -> Self {
        let owner = Arc::new(Owner(AtomicWaker::new()));
        Awaited { task, waker: owner.clone().into(), owner }
    }
}

impl<T> Future for Awaited<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Awaited { task, owner, waker } = &mut *self;
        owner.0.register(context.waker());
        Pin::new(task).poll(&mut Context::from_waker(waker))
    }
}

/// The owner of a task, who awaits its end.
struct Owner(AtomicWaker);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(waker) = self.0.take() else { return };
        let now = HELD.with_borrow_mut(|held| {
            if !held.holding {
                return Some(waker);
            }
            held.since.get_or_insert_with(Instant::now);
            held.wakers.push(waker);
            None
        });
        if let Some(waker) = now {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// A waker that counts, and one task's owner that is awaited with it.
    fn owner(wakes: &Arc<Count>) -> Arc<Owner> {
        let owner = Arc::new(Owner(AtomicWaker::new()));
        owner.0.register(&wakes.clone().into());
        owner
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn wakes_of_live_work_are_issued_at_once() {
        let wakes = Arc::<Count>::default();
        let owner = owner(&wakes);
        run(false, || owner.wake());
        assert_eq!(wakes.0.load(SeqCst), 1);
        assert!(!any());
    }

    #[test]
    fn wakes_behind_the_head_are_held_until_they_are_released() {
        let wakes = Arc::<Count>::default();
        let (first, second) = (owner(&wakes), owner(&wakes));
        HELD.with_borrow_mut(|held| held.since = Some(Instant::now() + HOLD * 1_000_000));
        run(true, || first.wake());
        run(true, || second.wake());
        assert_eq!(wakes.0.load(SeqCst), 0);
        assert!(any());
        release();
        assert_eq!(wakes.0.load(SeqCst), 2);
        assert!(!any());
    }

    #[test]
    fn a_thread_holds_a_bounded_number_for_a_bounded_time() {
        let wakes = Arc::<Count>::default();
        HELD.with_borrow_mut(|held| held.since = Some(Instant::now() + HOLD * 1_000_000));
        for _ in 0..MAX_HELD {
            assert_eq!(wakes.0.load(SeqCst), 0);
            let owner = owner(&wakes);
            run(true, || owner.wake());
        }
        assert_eq!(wakes.0.load(SeqCst), MAX_HELD);

        // A wake-up that is held longer is released by the end of the next task.
        let late = owner(&wakes);
        HELD.with_borrow_mut(|held| held.since = Instant::now().checked_sub(HOLD));
        run(true, || late.wake());
        assert_eq!(wakes.0.load(SeqCst), MAX_HELD + 1);
    }
}
