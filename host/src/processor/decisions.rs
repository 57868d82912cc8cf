//! Operators' decisions, noticed once for all processors: pauses, and lanes that were resumed.
//!
//! Commands write rows, and a running host reads them. If each of hundreds of processors read its
//! own rows several times a second, that would cost more than their work. So one task reads a mark
//! for each processor that has such rows, and a processor reads its rows only when its mark has
//! changed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::connections::CommitSession;
use crate::{
    consumer::wake::Wakeups,
    db::{
        Error, describe,
        pool::{Borrower, Pool},
    },
    model::ids::ProcessorId,
    supervisor::Stop,
};

/// Time between two reads of the marks while the database changes. Default 250 ms: people do not
/// notice it.
const LOOK: Duration = Duration::from_millis(250);

/// The marks of processors, by id.
type Marks = HashMap<Box<str>, Box<str>>;

/// A subscription to operators' decisions.
#[derive(Clone)]
pub struct Decisions {
    marks: watch::Receiver<Marks>,
    /// The mark at the last notice.
    known: Option<Box<str>>,
}

impl Decisions {
    /// Waits until something may have been decided about a processor. Cancel safe.
    pub async fn about(&mut self, processor: &ProcessorId) {
        loop {
            if self.marks.changed().await.is_err() {
                // The watcher has ended, which happens only while the host stops.
                std::future::pending::<()>().await;
            }
            let mark = self.marks.borrow_and_update().get(processor.as_str()).cloned();
            if mark != self.known {
                self.known = mark;
                return;
            }
        }
    }
}

/// Publishes the marks of processors.
pub struct DecisionWatcher {
    sessions: Arc<Pool<CommitSession>>,
    marks: watch::Sender<Marks>,
}

impl DecisionWatcher {
    /// A watcher, and a subscription to clone for each processor.
    pub fn new(sessions: Arc<Pool<CommitSession>>) -> (Self, Decisions) {
        let (sender, marks) = watch::channel(Marks::new());
        (DecisionWatcher { sessions, marks: sender }, Decisions { marks, known: None })
    }

    /// Reads the marks after each change of the database, until it is asked to stop.
    pub async fn run(self, mut wakeups: Wakeups, mut stop: Stop) -> anyhow::Result<()> {
        let looking = async {
            for number in 0_u64.. {
                let began = Instant::now();
                match self.read(number).await {
                    Ok(marks) => {
                        _ = self.marks.send_if_modified(|known| {
                            *known != marks && {
                                *known = marks;
                                true
                            }
                        })
                    }
                    Err(error) => {
                        tracing::debug!(error = describe(&error), "cannot read operators' decisions");
                        // A failed read is repeated, even if nothing else changes.
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                }
                tokio::time::sleep(LOOK.saturating_sub(began.elapsed())).await;
                wakeups.next().await;
            }
        };
        tokio::select! {
            () = stop.drain() => Ok(()),
            () = looking => Ok(()),
        }
    }

    async fn read(&self, number: u64) -> Result<Marks, Error> {
        let session = self.sessions.lend(&Borrower::host("decisions")).await?;
        let statement = session.prepared(include_str!("decisions/marks.sql")).await?;
        // With the number, the mark also changes if lanes are resumed while a processor reads
        // others.
        let rows = session.query(&statement, &[&format!("resumed {number}")]).await?;
        session.give_back();
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_processor_is_notified_once_when_its_own_mark_changes() {
        let (sender, marks) = watch::channel(Marks::new());
        let mut decisions = Decisions { marks, known: None };
        let (mine, mark) = (ProcessorId::parse("mine").unwrap(), |id: &str, mark: &str| (id.into(), mark.into()));
        let mut heard = |marks: Vec<(Box<str>, Box<str>)>| {
            sender.send_replace(marks.into_iter().collect());
            decisions.about(&mine).now_or_never().is_some()
        };
        assert!(!heard(vec![mark("other", "paused")]));
        assert!(heard(vec![mark("other", "paused"), mark("mine", "paused")]));
        assert!(!heard(vec![mark("mine", "paused")]));
        assert!(heard(vec![mark("mine", "resumed 1")]));
        assert!(heard(vec![mark("mine", "resumed 2")]));
        assert!(heard(vec![]));
        assert!(!heard(vec![]));
    }
}
