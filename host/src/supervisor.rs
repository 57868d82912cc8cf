//! The owner of all long-lived tasks. It names them, and ends the process in order when one fails.
//! It knows nothing about events or plugins.
//!
//! There are two ways to stop. *Drain*: start no work, finish and store the work under way, then
//! end. *Abort*: end immediately. A task listens to a [`Stop`]. If a task fails or panics, all
//! others drain, and its error becomes the supervisor's.

use std::{collections::HashMap, future::Future};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StopPhase {
    Running,
    Draining,
}

/// The error of tasks that were aborted.
#[derive(Debug, thiserror::Error)]
#[error("aborted")]
pub struct Aborted;

/// A task's signal to stop. Cheap to clone.
#[derive(Clone)]
pub struct Stop {
    phase: watch::Receiver<StopPhase>,
}

impl Stop {
    /// Waits until draining begins. Returns immediately if it has begun. Cancel safe.
    pub async fn drain(&mut self) {
        // An error means that the supervisor is gone, so the task must end as well.
        let _ = self.phase.wait_for(|phase| *phase >= StopPhase::Draining).await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= StopPhase::Draining
    }
}

/// A set of tasks that end together.
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    phase: watch::Sender<StopPhase>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor { tasks: JoinSet::new(), phase: watch::Sender::new(StopPhase::Running) }
    }
}

impl Supervisor {
    /// The signal for a task.
    pub fn stop(&self) -> Stop {
        Stop { phase: self.phase.subscribe() }
    }

    /// Starts a task. If it fails, all tasks drain.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let name = name.into();
        self.tasks.spawn(async move { task.await.with_context(|| name) });
    }

    /// Begins to drain all tasks.
    pub fn drain(&self) {
        self.phase.send_replace(StopPhase::Draining);
    }

    /// Runs until all tasks have ended. They drain when `drain` resolves or a task fails, and are
    /// aborted when `abort` resolves. Returns the first failure.
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

/// A set of tasks of which each can be drained separately.
#[derive(Default)]
pub struct Group {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
    phases: HashMap<String, watch::Sender<StopPhase>>,
    failure: Option<anyhow::Error>,
}

impl Group {
    /// Starts a task under a unique name.
    pub fn spawn<F>(&mut self, name: &str, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (phase, watcher) = watch::channel(StopPhase::Running);
        self.phases.insert(name.into(), phase);
        let task = self.tasks.spawn(task(Stop { phase: watcher }));
        self.names.insert(task.id(), name.into());
    }

    /// Begins to drain one task, and does not wait for it.
    pub fn drain(&self, name: &str) {
        if let Some(phase) = self.phases.get(name) {
            phase.send_replace(StopPhase::Draining);
        }
    }

    /// Waits until a draining task has ended. Cancel safe.
    pub async fn ended(&mut self, name: &str) {
        while self.phases.contains_key(name) && self.next().await {}
    }

    /// Waits until a task has failed. Reports each failure once. Cancel safe.
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

    /// Drains all tasks and waits for them. Returns the first failure.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for phase in self.phases.values() {
            phase.send_replace(StopPhase::Draining);
        }
        while self.next().await {}
        self.failure.map_or(Ok(()), Err)
    }

    /// Waits for the next task to end and records its result. Returns whether there was a task.
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
    async fn a_failing_task_drains_the_others_and_is_named_in_the_error() {
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
    async fn tasks_drain_and_tasks_that_ignore_it_are_aborted() {
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
    async fn tasks_of_a_group_end_separately_and_failures_are_reported() {
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
