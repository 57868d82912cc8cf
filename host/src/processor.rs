//! A processor: one named follower of the log.
//!
//! It reads pages, dispatches them to lanes, runs the lanes through the handler, and commits what they led to together with its progress: all
//! at the same time, and nobody waits for anybody slow. A lane that is slow, fails or holds too much is left behind by an exception in the commit that
//! passes it, and everybody else goes on. All of this happens within a [`term::Term`]; whatever shakes the ground (a lost connection, a refused
//! fence, an unknown outcome) ends the term, and the next one starts from what the database says.
//!
//! [`in_flight`] decides, [`engine`] carries out, [`lane`] runs the handler, whose [`code`] may be exchanged meanwhile, by a version that [`dry_run`] has tried, [`commit`] is the one transaction, [`exceptions`] are the lanes behind, [`gather`] is
//! how they read for themselves. What is done about lanes that cannot keep up is chosen for each processor ([`pressure`]): processors may wait for each
//! other ([`lockstep`]), or skip what is too much (`shed`).

pub mod code;
pub mod commit;
pub mod connections;
pub mod decisions;
mod engine;
pub mod gather;
pub mod in_flight;
pub mod lane;
pub mod lane_checkpoints;
pub mod lockstep;
pub mod pauses;
pub mod pressure;
pub mod registration;
pub mod removal;
pub mod report;
mod retry;
pub mod roster;
mod shed;
pub mod status;
pub mod term;
mod term_errors;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use crate::{
    cluster::{
        fence::{self, Fence},
        host_lock::{HostLock, LockError},
    },
    consumer::{pages::Pages, router::Router, wake::Wakeups},
    db::{Db, Error, describe, pool::Borrower, sqlstate},
    model::{
        cursor::Snapshot,
        handler::{Descriptor, Reason},
    },
    supervisor::Stop,
    telemetry::metrics::Metrics,
    tenants::Tenants,
};
use connections::Connections;
use decisions::Decisions;
use engine::{Engine, Parts};
use lane::Runner;
use lockstep::{Lockstep, Place};
use pressure::Strategy;
use report::{Instances, Report};
use term::Term;
use term_errors::TermErrors;

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Events read at once. Default 5000: enough that reading, handling and writing cost little beside what they move. A processor that is behind reads up
    /// to four times as many, so that a document which changes often is written once for all of them.
    pub page_events: usize,
    /// What a page weighs, KiB, judged by what events weighed lately; it never holds more than twice as much. Default 8192. Data over 64 KiB, or over
    /// twice an event's share of the page if that is less (but never under 2 KiB), is loaded when its lane handles it.
    pub page_kib: usize,
    /// Pages of a processor that are read and not yet committed. Default 4: one being read, one being handled, one being committed, and one that is
    /// ready when it is.
    pub pages_ahead: usize,
    /// Lanes of a processor under way at once. Default 64: some more than there are guest threads, so that reads of documents meet.
    pub lanes_at_once: usize,
    /// Events waiting for one lane that was left behind, KiB; with more it drops them and reads the log for itself. Default 4096: about what it reads
    /// for itself at once.
    pub lane_queue_kib: usize,
    /// Documents and dead letters in one commit, MiB, unless one lane's alone are more. Default 16: larger commits keep everybody waiting for one.
    pub commit_mib: usize,
    /// Documents and dead letters of a processor that wait for their commit, MiB; with more no further lane starts. Default 128: some commits' worth.
    pub waiting_mib: usize,
    /// Documents kept in memory for each processor, MiB. Default 64.
    pub document_cache_mib: usize,
    /// Documents that one call may read from the database at once, MiB. Default 64: as much as an instance may hold (`limits.memory-mib`).
    pub read_mib: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            page_events: 5_000,
            page_kib: 8_192,
            pages_ahead: 4,
            lanes_at_once: 64,
            lane_queue_kib: 4_096,
            commit_mib: 16,
            waiting_mib: 128,
            document_cache_mib: 64,
            read_mib: 64,
        }
    }
}

/// Before a new term after one that ended, at first and at most.
const NEXT_TERM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// The same at most where terms end young although each committed something: what ends them may be there to stay, and each costs the database some connections.
const NEXT_TERM_MOVED: Duration = Duration::from_millis(500);

/// How long the record that a processor has ended may take. Default 500 ms, of the second in which a host ends.
const RELEASE: Duration = Duration::from_millis(500);

/// What all processors of a host share.
#[derive(Clone)]
pub struct Shared {
    /// The database.
    pub db: Db,
    /// The log.
    pub pages: Arc<Pages>,
    /// News of it.
    pub wakeups: Wakeups,
    /// Notice of operators' decisions.
    pub decisions: Decisions,
    /// Pools of sessions to write and read documents.
    pub connections: Connections,
    /// The right to work on it.
    pub host_lock: Arc<HostLock>,
    /// What tenants may use, and what they have used.
    pub tenants: Tenants,
    /// The plugin instances alive, for people.
    pub instances: Instances,
    /// Processors that wait for each other.
    pub lockstep: Arc<Lockstep>,
    /// Metrics of the host.
    pub metrics: Metrics,
    /// The settings.
    pub config: Config,
}

/// Where a processor stands, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub struct ProcessorState {
    /// Everything visible here is handled, or belongs to a lane that is behind; none before the first page.
    pub seen: Option<Snapshot>,
    /// Lanes that will go on by themselves.
    pub lanes_moving: usize,
    /// Lanes that wait for a person; their rows say why.
    pub lanes_needing_person: usize,
    /// Why the whole processor waits, if a person told it to.
    pub paused: Option<Reason>,
    /// The number of changes of replacements that it has applied.
    pub replaced: u64,
}

/// One processor.
pub struct Processor {
    descriptor: Descriptor,
    router: Router,
    runner: Runner,
    shared: Shared,
    pressure: pressure::Settings,
    /// Where it stands among those it waits for, and they for it.
    place: Option<Place>,
    state: watch::Sender<ProcessorState>,
    report: Report,
    errors: TermErrors,
    /// Whether this term has committed anything.
    moved: bool,
    /// The fence of the last term.
    fence: Option<Fence>,
}

/// The pause before the next term, after one that lasted so long and may have moved: pure.
fn next_term(pause: Duration, lasted: Duration, moved: bool) -> Duration {
    // A term that lasted was no failed attempt.
    if lasted > NEXT_TERM.1 {
        return NEXT_TERM.0;
    }
    (pause * 2).min(if moved { NEXT_TERM_MOVED } else { NEXT_TERM.1 })
}

impl Processor {
    /// A processor, registered already, and where to learn how it stands. All processors of a
    /// host are made before the first of them runs, as they may wait for each other.
    pub fn new(
        descriptor: Descriptor,
        runner: Runner,
        shared: Shared,
        pressure: pressure::Settings,
    ) -> (Self, watch::Receiver<ProcessorState>) {
        let (state, watcher) = watch::channel(ProcessorState::default());
        let router = Router::new(&descriptor);
        let counters = shared.metrics.of_processor(descriptor.id.as_str());
        let report = Report::new(shared.instances.clone(), counters);
        let place = (pressure.back_pressure == Strategy::Lockstep).then(|| shared.lockstep.join(&descriptor.id));
        let processor = Processor {
            descriptor,
            router,
            runner,
            shared,
            pressure,
            place,
            state,
            report,
            errors: TermErrors::default(),
            moved: false,
            fence: None,
        };
        (processor, watcher)
    }

    /// Follows the log until told to stop. Fails only when another host has taken over.
    pub async fn run(mut self, mut stop: Stop) -> anyhow::Result<()> {
        let ended = self.follow(&mut stop).await;
        self.release().await;
        self.shared.metrics.processor_ended(self.descriptor.id.as_str());
        ended
    }

    /// Records that it does not run any more.
    async fn release(&self) {
        let (id, commits) = (&self.descriptor.id, &self.shared.connections.commits);
        let Some(fence) = &self.fence else { return };
        let release = async {
            let session = commits.lend(&Borrower::of(id, "release")).await?;
            fence::release(&session, id, fence).await?;
            session.give_back();
            Ok::<_, Error>(())
        };
        // If that fails, the row is right once the host has ended.
        match timeout(RELEASE, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(processor = %id, "could not record that it ended: {}", describe(&error)),
            Err(_) => tracing::debug!(processor = %id, "could not record in time that it ended"),
        }
    }

    async fn follow(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let mut pause = NEXT_TERM.0;
        loop {
            let began = Instant::now();
            let Err(TermEnded(error)) = self.term(stop).await else { return Ok(()) };
            // What guests remember of this term may never have been committed.
            self.runner.code.current().handler.forget_all();
            if let Some(held @ (LockError::Held { .. } | LockError::Taken { .. })) = error.downcast_ref() {
                tracing::error!(processor = %self.descriptor.id, "{held}");
                return Err(error);
            }
            let error = term_errors::words(&error);
            let processor = &self.descriptor.id;
            match sqlstate(&error) {
                None => tracing::warn!(%processor, error, "lost the database connection; reconnecting"),
                Some(_) => {
                    tracing::warn!(%processor, error, "a database error ended the term; restarting from the last commit")
                }
            }
            self.errors.ended(&error, SystemTime::now());
            self.shared.metrics.term_ended(self.descriptor.id.as_str(), sqlstate(&error));
            tokio::select! {
                () = stop.drain() => return Ok(()),
                () = self.errors.store(&self.shared.connections.commits, &self.descriptor.id) => {}
            }
            pause = next_term(pause, began.elapsed(), std::mem::take(&mut self.moved));
            tokio::select! {
                () = stop.drain() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One term, until it was told to stop.
    async fn term(&mut self, stop: &mut Stop) -> Result<(), TermEnded> {
        let begin = async {
            let host = self.shared.host_lock.ensure().await?;
            Ok::<_, TermEnded>(Term::begin(&self.shared, &self.descriptor, host).await.context("begin a term")?)
        };
        let term = tokio::select! {
            // A database that does not answer keeps nobody from ending.
            () = stop.drain() => return Ok(()),
            term = begin => term?,
        };
        self.fence = Some(term.committer.fence().clone());
        let shared = self.shared.clone();
        let parts = Parts {
            id: &self.descriptor.id,
            router: &self.router,
            runner: &self.runner,
            config: &shared.config,
            tenants: &shared.tenants,
            pressure: &self.pressure,
            place: &mut self.place,
            report: &mut self.report,
            errors: &mut self.errors,
            moved: &mut self.moved,
        };
        let engine = Engine::new(term, parts);
        let state = &self.state;
        let Shared { wakeups, decisions, .. } = &mut self.shared;
        engine.run(wakeups, decisions, stop, |now| _ = state.send_replace(now)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_end_young_begin_ever_later_also_if_they_moved() {
        let young = Duration::from_millis(20);
        let after = |terms: u32, moved: bool| (0..terms).fold(NEXT_TERM.0, |pause, _| next_term(pause, young, moved));
        assert_eq!(after(1, true), Duration::from_millis(100));
        assert_eq!((after(9, true), after(9, false)), (NEXT_TERM_MOVED, NEXT_TERM.1));
        assert_eq!(next_term(NEXT_TERM.1, Duration::from_secs(6), false), NEXT_TERM.0);
    }
}
