//! CPU time of guests: its measurement, its slices and its limit.
//!
//! A guest's future is polled on one thread at a time, usually a guest thread. The CPU time that
//! this thread spends inside the poll is the guest's. It is read from the thread's own CPU clock,
//! so neither a loaded machine nor a wait for the host counts. Once a millisecond the engine's
//! epoch advances and the running guest calls [`CpuMeter::end_of_slice`], which lets it yield or
//! ends it.

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

/// A guest's CPU time exceeded its limit.
#[derive(Debug, thiserror::Error)]
#[error("guest CPU time over {0:?}")]
pub(super) struct CpuLimitExceeded(pub(super) Duration);

/// The CPU time of one call.
#[derive(Debug)]
pub(super) struct CpuMeter {
    limit: Duration,
    /// Nanoseconds of finished polls.
    spent: AtomicU64,
    /// The thread's CPU clock at the start of the current poll, nanoseconds.
    poll_began: AtomicU64,
}

impl CpuMeter {
    pub(super) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(CpuMeter { limit, spent: AtomicU64::new(0), poll_began: AtomicU64::new(0) })
    }

    /// CPU time of the call so far. For use within its poll.
    fn spent_now(&self) -> Duration {
        let current = thread_cpu_nanos().saturating_sub(self.poll_began.load(Relaxed));
        Duration::from_nanos(self.spent.load(Relaxed) + current)
    }

    /// Ends the guest at the end of a slice if it is over its limit.
    pub(super) fn end_of_slice(&self) -> Result<(), CpuLimitExceeded> {
        if self.spent_now() > self.limit { Err(CpuLimitExceeded(self.limit)) } else { Ok(()) }
    }

    /// Counts every poll of a future in this meter.
    pub(super) fn measure<F: Future>(self: &Arc<Self>, future: F) -> Metered<F> {
        Metered { meter: self.clone(), future: Box::pin(future) }
    }
}

/// A future whose polls are counted.
pub(super) struct Metered<F> {
    meter: Arc<CpuMeter>,
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

/// A future that yields once. It wakes itself, so it is polled again after the tasks that wait now.
#[derive(Default)]
pub(super) struct YieldOnce {
    yielded: bool,
}

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
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
    async fn waiting_costs_no_cpu_time_and_computing_does() {
        let meter = CpuMeter::new(Duration::from_millis(20));
        let inner = meter.clone();
        let outcome = meter
            .measure(async move {
                // Waits on the same thread, for longer than the limit.
                tokio::time::sleep(Duration::from_millis(60)).await;
                let after_waiting = inner.end_of_slice();
                loop {
                    if let Err(over) = inner.end_of_slice() {
                        return (after_waiting, over);
                    }
                    std::hint::black_box((0..1000u64).sum::<u64>());
                    YieldOnce::default().await;
                }
            })
            .await;
        assert!(outcome.0.is_ok());
        assert_eq!(outcome.1.to_string(), "guest CPU time over 20ms");
    }
}
