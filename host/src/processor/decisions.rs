//! Operators' decisions, noticed once for all processors: pauses, and lanes that were resumed.
//!
//! Commands write rows, and a running host reads them. With hundreds of processors, each reading its own several times a second, that would cost more
//! than their work. So one task reads a mark for each processor that people have decided something about, and a processor reads its rows
//! only when its mark has changed.

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

/// Between two looks while the database changes. Default 250 ms: people do not notice it.
const LOOK: Duration = Duration::from_millis(250);

/// By processor.
type Marks = HashMap<Box<str>, Box<str>>;

/// Tells a processor that something was decided about it.
#[derive(Clone)]
pub struct Decisions {
    marks: watch::Receiver<Marks>,
    /// The mark that the processor knows.
    known: Option<Box<str>>,
}

impl Decisions {
    /// Waits until something may have been decided about a processor. Cancel safe.
    pub async fn about(&mut self, processor: &ProcessorId) {
        loop {
            if self.marks.changed().await.is_err() {
                // Nobody looks any more, which happens only while everything stops.
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

/// Looks for decisions.
pub struct Look {
    sessions: Arc<Pool<CommitSession>>,
    marks: watch::Sender<Marks>,
}

impl Look {
    /// One that looks, and what it tells processors.
    pub fn new(sessions: Arc<Pool<CommitSession>>) -> (Self, Decisions) {
        let (sender, marks) = watch::channel(Marks::new());
        (Look { sessions, marks: sender }, Decisions { marks, known: None })
    }

    /// Looks after each change of the database until told to stop.
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
                    Err(error) => tracing::debug!(error = describe(&error), "cannot read what people decided"),
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
        // Lanes that are resumed while a processor takes note of others must change its mark as well.
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
    fn a_processor_hears_of_what_concerns_it_and_once() {
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
