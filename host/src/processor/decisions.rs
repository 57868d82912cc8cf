//! A watcher of operators' decisions for all processors: pauses, and lanes that were resumed.
//!
//! Commands write rows, and a running host reads them. If each of hundreds of processors read its
//! own rows several times a second, that would cost more than their work. So one task reads a mark
//! for each processor that has such rows, and a processor reads its rows only when its mark has
//! changed.
//!
//! A pause may come and go between two reads of the marks, and a processor may have read its rows
//! in between. So a processor also compares the pauses it has read with its mark, and reads again
//! until the two agree.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{connections::CommitSession, pauses::Pause};
use crate::{
    consumer::wake::Wakeups,
    db::{
        Error, Row, describe,
        pool::{Borrower, Pool},
    },
    model::ids::ProcessorId,
    supervisor::Stop,
};

/// Time between two reads of the marks while the database changes. 250 ms: an operator does not
/// notice it.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The marks of processors, by id.
type Marks = HashMap<Box<str>, Mark>;

/// Operators' decisions about one processor; the default if there are none.
#[derive(Clone, Debug, Default, PartialEq)]
struct Mark {
    /// Its pauses, one per line, in byte order.
    pauses: String,
    /// The number of the read that found resumed lanes, if any. It makes each mark different,
    /// because more lanes may be resumed while a processor reads the first ones.
    resumed: Option<u64>,
}

/// A subscription to operators' decisions.
#[derive(Clone)]
pub struct Decisions {
    marks: watch::Receiver<Marks>,
    /// The mark at the last notice.
    known: Mark,
}

impl Decisions {
    /// Waits until something may have been decided about a processor. Cancel safe.
    pub async fn about(&mut self, processor: &ProcessorId) {
        loop {
            if self.marks.changed().await.is_err() {
                // The watcher has ended, which happens only while the host stops.
                std::future::pending::<()>().await;
            }
            let mark = self.marks.borrow_and_update().get(processor.as_str()).cloned().unwrap_or_default();
            if mark != self.known {
                self.known = mark;
                return;
            }
        }
    }

    /// Whether the pauses that a processor has read are those of its mark.
    pub fn agree(&self, processor: &ProcessorId, pauses: &[Pause]) -> bool {
        let mut lines: Vec<String> = pauses.iter().map(Pause::line).collect();
        lines.sort_unstable();
        let marks = self.marks.borrow();
        marks.get(processor.as_str()).map_or("", |mark| &mark.pauses) == lines.join("\n")
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
        (DecisionWatcher { sessions, marks: sender }, Decisions { marks, known: Mark::default() })
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
                        tokio::time::sleep(POLL_INTERVAL).await;
                        continue;
                    }
                }
                tokio::time::sleep(POLL_INTERVAL.saturating_sub(began.elapsed())).await;
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
        let rows = session.query(&statement, &[]).await?;
        session.give_back();
        let mark = |row: &Row| Mark { pauses: row.get(1), resumed: row.get::<_, bool>(2).then_some(number) };
        Ok(rows.iter().map(|row| (row.get(0), mark(row))).collect())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::model::handler::Reason;

    fn mark(id: &str, pauses: &str, resumed: Option<u64>) -> (Box<str>, Mark) {
        (id.into(), Mark { pauses: pauses.into(), resumed })
    }

    #[test]
    fn a_processor_is_notified_once_when_its_own_mark_changes() {
        let (sender, marks) = watch::channel(Marks::new());
        let mut decisions = Decisions { marks, known: Mark::default() };
        let mine = ProcessorId::parse("mine").unwrap();
        let mut notifies = |marks: Vec<(Box<str>, Mark)>| {
            sender.send_replace(marks.into_iter().collect());
            decisions.about(&mine).now_or_never().is_some()
        };
        assert!(!notifies(vec![mark("other", "paused", None)]));
        assert!(notifies(vec![mark("other", "paused", None), mark("mine", "paused", None)]));
        assert!(!notifies(vec![mark("mine", "paused", None)]));
        assert!(notifies(vec![mark("mine", "", Some(1))]));
        assert!(notifies(vec![mark("mine", "", Some(2))]));
        assert!(notifies(vec![]));
        assert!(!notifies(vec![]));
    }

    #[test]
    fn a_pause_that_was_lifted_before_the_next_mark_disagrees_with_it() {
        let (sender, marks) = watch::channel(Marks::new());
        let decisions = Decisions { marks, known: Mark::default() };
        let mine = ProcessorId::parse("mine").unwrap();
        let pause = |tenant: &str, by: &str| Pause {
            tenant: Some(tenant.into()),
            key: None,
            reason: Reason::new("paused", format!("by {by} since 2026-01-02T03:04:05Z")),
        };
        assert!(decisions.agree(&mine, &[]));
        assert!(!decisions.agree(&mine, &[pause("b", "ada")]), "the mark shows that nothing is paused");
        let both = "a  by eve since 2026-01-02T03:04:05Z\nb  by ada since 2026-01-02T03:04:05Z";
        sender.send_replace([mark("mine", both, None)].into_iter().collect());
        assert!(decisions.agree(&mine, &[pause("b", "ada"), pause("a", "eve")]));
        assert!(!decisions.agree(&mine, &[pause("b", "ada")]));
        assert!(!decisions.agree(&mine, &[]));
    }
}
