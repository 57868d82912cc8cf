//! A poller of the database's snapshot, which wakes the processors when it has changed.
//!
//! It polls often while the snapshot changes and rarely while it does not. It compares the whole
//! text, because the commit of an old transaction may leave the snapshot's bounds as they were. A
//! wake-up carries no data. Some are spurious; none is missing. A lost connection is opened again,
//! which also counts as a wake-up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    model::cursor::Snapshot,
    source::{OpenSource, SourceError},
    supervisor::Stop,
};

/// Time between two polls while the snapshot changes. Default 1 ms: it adds that much to the
/// latency of an append, and costs some 3 % of one core.
const BUSY: Duration = Duration::from_millis(1);
/// Time without a change after which polls become rarer.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest time between two polls.
const IDLE_MAX: Duration = Duration::from_millis(100);
/// Longest time between two polls while transactions are running, which may commit at any moment.
const EXPECTING_MAX: Duration = Duration::from_millis(10);
/// Time between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);

/// The time before the next poll.
fn pause(silence: Duration, previous: Duration, transactions_running: bool) -> Duration {
    if silence < SILENCE {
        return BUSY;
    }
    let max = if transactions_running { EXPECTING_MAX } else { IDLE_MAX };
    (previous * 2).clamp(BUSY, max)
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

    /// Polls until `stop`.
    pub async fn run(self, mut stop: Stop) -> anyhow::Result<()> {
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
            () = stop.drain() => Ok(()),
            () = polling => Ok(()),
        }
    }

    async fn poll(&self) -> Result<std::convert::Infallible, SourceError> {
        let mut source = self.source.open("wake").await?;
        let mut seen: Option<Snapshot> = None;
        let mut changed_at = Instant::now();
        let mut wait = BUSY;
        loop {
            let head = source.head().await?;
            if seen.as_ref() != Some(&head) {
                changed_at = Instant::now();
                self.changes.send_modify(|changes| *changes += 1);
            }
            wait = pause(changed_at.elapsed(), wait, head.has_in_progress());
            seen = Some(head);
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_become_rarer_only_after_a_second_without_changes() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(0), ms(100), false), BUSY);
        assert_eq!(pause(ms(999), ms(1), false), BUSY);
        let mut wait = BUSY;
        let mut waits = Vec::new();
        for _ in 0..9 {
            wait = pause(ms(1000), wait, false);
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 100, 100, 100]);
        assert_eq!(pause(ms(5000), ms(100), true), EXPECTING_MAX);
    }
}
