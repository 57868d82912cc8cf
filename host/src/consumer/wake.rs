//! Noticing commits: the snapshot is read again and again, often while it changes and rarely while it does not.
//!
//! The whole text of the snapshot is compared, since a transaction older than others leaves its bounds as they are when it commits.
//! A wake-up carries no data and may be one too many; it is never one too few. Losing the connection is healed here, by connecting
//! again, and counts as a wake-up.

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

/// Between two looks while something changes. 1 ms adds that much to the latency of an append and costs some 3 % of one core.
const BUSY: Duration = Duration::from_millis(1);
/// How long nothing must change before looks become rarer.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two looks in the longest silence.
const IDLE_MAX: Duration = Duration::from_millis(100);
/// Between two looks in silence while transactions are running that may commit any moment.
const EXPECTING_MAX: Duration = Duration::from_millis(10);
/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);

/// How long to wait before the next look: pure.
fn pause(silence: Duration, previous: Duration, transactions_running: bool) -> Duration {
    if silence < SILENCE {
        return BUSY;
    }
    let max = if transactions_running { EXPECTING_MAX } else { IDLE_MAX };
    (previous * 2).clamp(BUSY, max)
}

/// Tells that the log may have grown.
#[derive(Clone)]
pub struct Wakeups {
    looks: watch::Receiver<u64>,
}

impl Wakeups {
    /// Waits until something committed since this receiver last waited. Cancel safe.
    pub async fn next(&mut self) {
        if self.looks.changed().await.is_err() {
            // The looker has ended, which happens only while everything stops.
            std::future::pending::<()>().await;
        }
    }
}

/// Looks at the head of one source.
pub struct Wake {
    source: Arc<dyn OpenSource>,
    tell: watch::Sender<u64>,
}

impl Wake {
    /// A looker, and what it tells.
    pub fn new(source: Arc<dyn OpenSource>) -> (Self, Wakeups) {
        let (tell, looks) = watch::channel(0);
        (Wake { source, tell }, Wakeups { looks })
    }

    /// Looks until told to stop.
    pub async fn run(self, mut stop: Stop) -> anyhow::Result<()> {
        let looking = async {
            loop {
                let Err(error) = self.look().await;
                tracing::warn!(%error, "lost sight of the log's head; connecting again");
                tokio::time::sleep(RECONNECT).await;
                // Whoever waits should notice the loss on its own connection too.
                self.tell.send_modify(|looks| *looks += 1);
            }
        };
        tokio::select! {
            () = stop.drain() => Ok(()),
            () = looking => Ok(()),
        }
    }

    async fn look(&self) -> Result<std::convert::Infallible, SourceError> {
        let mut source = self.source.open("wake").await?;
        let mut seen: Option<Snapshot> = None;
        let mut changed_at = Instant::now();
        let mut wait = BUSY;
        loop {
            let head = source.head().await?;
            if seen.as_ref() != Some(&head) {
                changed_at = Instant::now();
                self.tell.send_modify(|looks| *looks += 1);
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
    fn looks_become_rare_only_after_a_second_of_silence() {
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
