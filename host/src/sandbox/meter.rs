//! Guest CPU time: measured, sliced and ended.
//!
//! A guest's future is polled on some guest thread; the CPU time that thread spends inside the poll is the guest's. It is the thread's own
//! CPU clock, so neither a loaded machine nor a wait for the host counts. Once a millisecond the engine's epoch advances, and
//! the running guest asks here what now: give way to others, or end.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A guest computed longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("guest CPU time over {0:?}")]
pub(super) struct CpuLimitReached(pub(super) Duration);

/// The account of one call.
#[derive(Debug)]
pub(super) struct Meter {
    limit: Duration,
    /// Nanoseconds of finished polls.
    spent: AtomicU64,
    /// The thread's CPU clock when the poll under way began.
    poll_began: AtomicU64,
}

impl Meter {
    pub(super) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Meter { limit, spent: AtomicU64::new(0), poll_began: AtomicU64::new(0) })
    }

    /// What the call has cost so far, asked from within its poll.
    fn spent_now(&self) -> Duration {
        let under_way = thread_cpu_nanos().saturating_sub(self.poll_began.load(Relaxed));
        Duration::from_nanos(self.spent.load(Relaxed) + under_way)
    }

    /// What the running guest must do at the end of a slice: go on later, or end.
    pub(super) fn end_of_slice(&self) -> Result<(), CpuLimitReached> {
        if self.spent_now() > self.limit { Err(CpuLimitReached(self.limit)) } else { Ok(()) }
    }

    /// Charges every poll of a future to this account.
    pub(super) fn measure<F: Future>(self: &Arc<Self>, future: F) -> Metered<F> {
        Metered { meter: self.clone(), future: Box::pin(future) }
    }
}

/// A future whose polls are charged.
pub(super) struct Metered<F> {
    meter: Arc<Meter>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let began = thread_cpu_nanos();
        self.meter.poll_began.store(began, Relaxed);
        let result = self.future.as_mut().poll(cx);
        self.meter.spent.fetch_add(thread_cpu_nanos().saturating_sub(began), Relaxed);
        result
    }
}

fn thread_cpu_nanos() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Gives way once: wakes at once, but behind everyone who waits already.
pub(super) struct GiveWay(pub(super) bool);

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_is_free_and_computing_is_not() {
        let meter = Meter::new(Duration::from_millis(20));
        let account = meter.clone();
        let outcome = meter
            .measure(async move {
                // Waits for longer than the limit, on the same thread.
                tokio::time::sleep(Duration::from_millis(60)).await;
                let after_waiting = account.end_of_slice();
                loop {
                    if let Err(over) = account.end_of_slice() {
                        return (after_waiting, over);
                    }
                    std::hint::black_box((0..1000u64).sum::<u64>());
                    GiveWay(false).await;
                }
            })
            .await;
        assert!(outcome.0.is_ok());
        assert_eq!(outcome.1.to_string(), "guest CPU time over 20ms");
    }
}
