//! Owns every long-lived task: its name, and that its failure ends the process in order. Knows no domain word.
//!
//! Stopping is told in two words. *Drain*: take nothing new, finish what is under way, store it, end. *Abort*: end now. A task gets a
//! [`Stop`] and listens to it; one that fails, or panics, drains the others, and its error is the supervisor's.

use std::future::Future;

use anyhow::Context;
use tokio::{sync::watch, task::JoinSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
}

/// How a task learns that it should end. Cheap to clone.
#[derive(Clone)]
pub struct Stop {
    phase: watch::Receiver<Phase>,
}

impl Stop {
    /// Waits until draining begins; at once when it has begun. Cancel safe.
    pub async fn drain(&mut self) {
        // An error means that the supervisor is gone, and with it every reason to go on.
        let _ = self.phase.wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }
}

/// A set of tasks that live and end together.
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    phase: watch::Sender<Phase>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor { tasks: JoinSet::new(), phase: watch::Sender::new(Phase::Running) }
    }
}

impl Supervisor {
    /// What a task listens to.
    pub fn stop(&self) -> Stop {
        Stop { phase: self.phase.subscribe() }
    }

    /// Starts a task. When it fails everything drains.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let name = name.into();
        self.tasks.spawn(async move { task.await.with_context(|| name) });
    }

    /// Tells every task to drain.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Runs until every task has ended: after `drain` resolved, or a task failed. `abort` ends it at once, wherever the tasks are.
    /// Returns the first failure.
    pub async fn run(mut self, drain: impl Future<Output = ()>, abort: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (mut drain, mut abort) = (std::pin::pin!(drain), std::pin::pin!(abort));
        let mut failure = None;
        let mut draining = false;
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => {
                    let Some(ended) = ended else { break };
                    let result = ended.unwrap_or_else(|panic| Err(anyhow::anyhow!("a task ended abnormally: {panic}")));
                    if let Err(error) = result {
                        self.drain();
                        failure.get_or_insert(error);
                    }
                }
                () = &mut drain, if !draining => {
                    draining = true;
                    self.drain();
                }
                () = &mut abort => {
                    self.tasks.abort_all();
                    return Err(failure.unwrap_or_else(|| anyhow::anyhow!("aborted")));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn a_failing_task_drains_the_others_and_is_named() {
        let mut supervisor = Supervisor::default();
        let mut stop = supervisor.stop();
        supervisor.spawn("patient", async move {
            stop.drain().await;
            Ok(())
        });
        supervisor.spawn("hasty", async { anyhow::bail!("no ground") });
        let error = supervisor.run(pending(), pending()).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "hasty: no ground");
    }

    #[tokio::test]
    async fn drains_when_told_and_aborts_those_who_do_not_listen() {
        let mut supervisor = Supervisor::default();
        let mut stop = supervisor.stop();
        supervisor.spawn("patient", async move {
            stop.drain().await;
            Ok(())
        });
        supervisor.run(ready(()), pending()).await.unwrap();

        let mut supervisor = Supervisor::default();
        supervisor.spawn("deaf", pending());
        let error = supervisor.run(ready(()), ready(())).await.unwrap_err();
        assert_eq!(error.to_string(), "aborted");
    }
}
