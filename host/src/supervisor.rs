//! Owns every long-lived task: its name, and that its failure ends the process in order. Knows no domain word.
//!
//! Stopping is told in two words. *Drain*: take nothing new, finish what is under way, store it, end. *Abort*: end now. A task gets a
//! [`Stop`] and listens to it; one that fails, or panics, drains the others, and its error is the supervisor's.

use std::{collections::HashMap, future::Future};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
}

/// The tasks were aborted, wherever they were.
#[derive(Debug, thiserror::Error)]
#[error("aborted")]
pub struct Aborted;

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
                    return Err(failure.unwrap_or_else(|| Aborted.into()));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Tasks that come and go, each of which can be told to end alone.
#[derive(Default)]
pub struct Group {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
    phases: HashMap<String, watch::Sender<Phase>>,
    failure: Option<anyhow::Error>,
}

impl Group {
    /// Starts a task under a name that no other one has.
    pub fn spawn<F>(&mut self, name: &str, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (phase, watcher) = watch::channel(Phase::Running);
        self.phases.insert(name.into(), phase);
        let task = self.tasks.spawn(task(Stop { phase: watcher }));
        self.names.insert(task.id(), name.into());
    }

    /// Tells one task to drain, and does not wait for it.
    pub fn drain(&self, name: &str) {
        if let Some(phase) = self.phases.get(name) {
            phase.send_replace(Phase::Draining);
        }
    }

    /// Waits until a task has ended that was told to drain. Cancel safe.
    pub async fn ended(&mut self, name: &str) {
        while self.phases.contains_key(name) && self.next().await {}
    }

    /// Waits until a task has failed; says so once. Cancel safe.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            if let Some(failure) = self.failure.take() {
                return failure;
            }
            if !self.next().await {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells all of them to drain, and waits for them. Returns the first failure.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for phase in self.phases.values() {
            phase.send_replace(Phase::Draining);
        }
        while self.next().await {}
        self.failure.map_or(Ok(()), Err)
    }

    /// Takes note of one that has ended; whether there was one.
    async fn next(&mut self) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else { return false };
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(panic) => (panic.id(), Err(anyhow::anyhow!("it ended abnormally: {panic}"))),
        };
        let name = self.names.remove(&id).unwrap_or_default();
        self.phases.remove(&name);
        if let Err(error) = result {
            self.failure.get_or_insert(error.context(name));
        }
        true
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

    #[tokio::test]
    async fn in_a_group_each_ends_alone_and_a_failure_is_told() {
        let patient = |mut stop: Stop| async move {
            stop.drain().await;
            Ok(())
        };
        let mut group = Group::default();
        group.spawn("one", patient);
        group.spawn("two", patient);
        group.drain("one");
        group.ended("one").await;
        group.ended("nobody").await;
        assert_eq!(group.phases.keys().collect::<Vec<_>>(), ["two"]);
        group.spawn("one", |_| async { anyhow::bail!("no ground") });
        assert_eq!(format!("{:#}", group.failed().await), "one: no ground");
        group.spawn("clumsy", |_| async { std::panic::resume_unwind(Box::new("tripped")) });
        group.ended("clumsy").await;
        assert!(format!("{:#}", group.failed().await).starts_with("clumsy: it ended abnormally"));
        group.spawn("three", |mut stop| async move {
            stop.drain().await;
            anyhow::bail!("late")
        });
        assert_eq!(format!("{:#}", group.end().await.unwrap_err()), "three: late");
    }
}
