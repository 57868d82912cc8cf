//! A poller of the database's snapshot, which wakes the processors when it has changed.
//!
//! It polls often while the snapshot changes and rarely while it does not. It compares the whole
//! text, because the commit of an old transaction may leave the snapshot's bounds as they were. A
//! wake-up carries no data. Some are spurious; none is missing. A lost connection is opened again,
//! which also counts as a wake-up.
//!
//! It has its own thread and connection, for two reasons. The runtime's timer counts whole
//! milliseconds, so a pause of one takes up to two. And a poll on one thread needs no hand-over
//! between threads, which would cost more than the poll.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::sync::{oneshot, watch};

use crate::{
    model::cursor::Snapshot,
    source::{OpenSource, SourceError},
    supervisor::Stop,
};

/// Shortest time between two polls. 0.5 ms adds half of that to the latency of an append. In a
/// virtual machine, a poll costs some 50 µs of CPU time here and as much in PostgreSQL, nearly all
/// of it for waking each other.
const BUSY_MIN: Duration = Duration::from_micros(500);
/// Longest time between two polls until [`SILENCE`], and the time while traffic is
/// [dense](DENSE).
const BUSY_MAX: Duration = Duration::from_millis(2);
/// Between these two, the pause is this part of the silence before it: twenty appends a second get
/// the shortest one.
const SILENCE_PARTS: u32 = 100;
/// Time between two changes below which traffic is dense: a short pause would make a page and a
/// commit of nearly every event, which costs more than it gains. With 500 appends a second beside
/// an open transaction, polls every 0.5 ms doubled the median latency.
const DENSE: Duration = Duration::from_millis(5);
/// Time without a change after which polls become rarer.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest time between two polls. With 150 ms an idle host sends fewer than ten queries a second.
const IDLE_MAX: Duration = Duration::from_millis(150);
/// Longest time between two polls while transactions are running, which may commit at any moment.
const EXPECTING_MAX: Duration = Duration::from_millis(10);
/// Time between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);

/// The time before the next poll, `silence` after the last change, which came `gap` after the one
/// before.
fn pause(silence: Duration, gap: Duration, previous: Duration, transactions_running: bool) -> Duration {
    if silence.max(gap) < DENSE {
        return BUSY_MAX;
    }
    if silence < SILENCE {
        return (silence / SILENCE_PARTS).clamp(BUSY_MIN, BUSY_MAX);
    }
    let max = if transactions_running { EXPECTING_MAX } else { IDLE_MAX };
    (previous * 2).clamp(BUSY_MAX, max)
}

/// Waits for a pause. The thread itself waits for a short one, which the runtime's timer would
/// prolong.
async fn wait(pause: Duration) {
    if pause <= BUSY_MAX {
        std::thread::sleep(pause);
    } else {
        tokio::time::sleep(pause).await;
    }
}

/// A receiver of wake-ups: the log may have grown.
#[derive(Clone)]
pub struct Wakeups {
    changes: watch::Receiver<u64>,
}

impl Wakeups {
    /// Waits for a change since this receiver's last wait. Cancel safe.
    pub async fn next(&mut self) {
        if self.changes.changed().await.is_err() {
            // The poller has ended, which happens only while the host stops.
            std::future::pending::<()>().await;
        }
    }
}

/// The poller of one source's head.
pub struct Wake {
    source: Arc<dyn OpenSource>,
    changes: watch::Sender<u64>,
}

impl Wake {
    /// A poller and a receiver of its wake-ups.
    pub fn new(source: Arc<dyn OpenSource>) -> (Self, Wakeups) {
        let (sender, receiver) = watch::channel(0);
        (Wake { source, changes: sender }, Wakeups { changes: receiver })
    }

    /// Polls on a thread of its own until `stop`.
    pub async fn run(self, stop: Stop) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, ended) = oneshot::channel();
        let polling = move || {
            runtime.block_on(self.poll_until(stop));
            // Nobody waits for it if the host was aborted.
            let _ = sender.send(());
        };
        std::thread::Builder::new().name("head".into()).spawn(polling).context("start a thread")?;
        ended.await.context("the thread ended abnormally")
    }

    async fn poll_until(&self, mut stop: Stop) {
        let polling = async {
            loop {
                let Err(error) = self.poll().await;
                tracing::warn!(%error, "cannot read new events; reconnecting");
                tokio::time::sleep(RECONNECT).await;
                // Processors should notice the loss on their own connections too.
                self.changes.send_modify(|changes| *changes += 1);
            }
        };
        tokio::select! {
            () = stop.drain() => {}
            () = polling => {}
        }
    }

    async fn poll(&self) -> Result<std::convert::Infallible, SourceError> {
        let mut source = self.source.open("wake").await?;
        let mut seen: Option<Snapshot> = None;
        let (mut changed_at, mut gap) = (Instant::now(), SILENCE);
        let mut waited = BUSY_MIN;
        loop {
            let head = source.head().await?;
            if seen.as_ref() != Some(&head) {
                gap = changed_at.elapsed();
                changed_at = Instant::now();
                self.changes.send_modify(|changes| *changes += 1);
            }
            waited = pause(changed_at.elapsed(), gap, waited, head.has_in_progress());
            seen = Some(head);
            wait(waited).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_silence_and_without_changes_polls_become_rare() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let busy = |silence| pause(silence, ms(50), IDLE_MAX, false);
        assert_eq!([busy(ms(0)), busy(ms(50)), busy(ms(100)), busy(ms(200))], [us(500), us(500), ms(1), ms(2)]);
        assert_eq!([busy(ms(999)), pause(ms(999), ms(0), BUSY_MIN, true)], [BUSY_MAX; 2]);
        let mut wait = BUSY_MAX;
        let mut waits = Vec::new();
        for _ in 0..9 {
            wait = pause(ms(1000), ms(0), wait, false);
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 150, 150, 150]);
        assert_eq!(pause(ms(5000), ms(0), IDLE_MAX, true), EXPECTING_MAX);
    }
    #[test]
    fn dense_traffic_is_polled_less_often() {
        let ms = Duration::from_millis;
        let after = |silence, gap| pause(ms(silence), ms(gap), BUSY_MAX, false);
        assert_eq!([after(0, 2), after(4, 4)], [BUSY_MAX; 2]);
        assert_eq!([after(0, 5), after(5, 2), after(0, 50)], [BUSY_MIN; 3]);
    }
}
