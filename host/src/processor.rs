//! A processor: one named follower of the log, and the loop that moves it.
//!
//! The loop reads the page after its progress, runs the page's lanes through the handler, and commits what they led to together with the
//! progress. A lane that fails is left behind by an exception in that same commit and everybody else goes on; later it reads the
//! log for itself, in turns with the tail, until it stands where the tail stands. All of this happens within a [`term::Term`]; whatever
//! shakes the ground (a lost connection, a refused fence, an unknown outcome) ends the term, and the next one starts from what the
//! database says. [`lane`] runs the handler, [`commit`] is the one transaction, [`exceptions`] are the lanes behind.

pub mod book;
pub mod commit;
pub mod exceptions;
pub mod gather;
pub mod lane;
pub mod registration;
mod retry;
pub mod status;
pub mod term;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    cluster::host_lock::{HostLock, LockError},
    consumer::{pages::Pages, router::Router, wake::Wakeups},
    db::Db,
    failpoint,
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Event, Page},
        handler::{Descriptor, Reason},
        ids::LaneKey,
    },
    projections::documents::Changes,
    supervisor::Stop,
};
use commit::{CommitError, LaneCommit, LaneMove, PageCommit, Results};
use exceptions::{Exception, LaneState};
use lane::{GroundLost, Run, Runner, Trouble};
use term::Term;

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Events read at once, and handled in one call at most. Default 5000: enough that reading, handling and writing cost little beside
    /// what they move, and that a document which changes often is written once for many events.
    pub page_events: usize,
    /// Documents kept in memory for each processor, MiB. Default 64.
    pub document_cache_mib: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { page_events: 5_000, document_cache_mib: 64 }
    }
}

/// How long passed-over events may stay unstored. Longer saves writes; a restart reads so much again.
const STORE_AFTER: Duration = Duration::from_secs(1);
/// How often rows that others may have changed (a lane that was resumed) are read again while there are any that wait.
const LOOK_AT_EXCEPTIONS: Duration = Duration::from_millis(250);
/// Between two reports for people.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Before a new term after one that ended, at first and at most.
const NEXT_TERM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Lanes of a page under way at once: some more than there are guest threads, so that reads of documents overlap.
const LANES_AT_ONCE: usize = 16;

/// What all processors of a host share.
#[derive(Clone)]
pub struct Ground {
    /// The database.
    pub db: Db,
    /// The log.
    pub pages: Arc<Pages>,
    /// News of it.
    pub wakeups: Wakeups,
    /// The right to work on it.
    pub host_lock: Arc<HostLock>,
    /// The settings.
    pub config: Config,
}

/// Where a processor stands, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Everything visible here is handled, or belongs to a lane that is behind; none before the first page.
    pub seen: Option<Snapshot>,
    /// Lanes that will go on by themselves.
    pub lanes_moving: usize,
    /// Lanes that wait for a person, and why.
    pub lanes_blocked: Vec<(LaneKey, Reason)>,
}

/// One processor.
pub struct Processor {
    descriptor: Descriptor,
    digest: String,
    router: Router,
    runner: Runner,
    ground: Ground,
    standing: watch::Sender<Standing>,
    report: Report,
    looked_at_exceptions: Instant,
}

/// Why a term ended.
enum TermEnd {
    /// It was asked to.
    Drained,
    /// What shook the ground; a new term may begin.
    Shaken(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for TermEnd {
    fn from(error: E) -> Self {
        TermEnd::Shaken(error.into())
    }
}

impl Processor {
    /// A processor, registered already, and where to learn how it stands. `digest` is the version of the code in `runner`.
    pub fn new(
        descriptor: Descriptor,
        digest: String,
        runner: Runner,
        ground: Ground,
    ) -> (Self, watch::Receiver<Standing>) {
        let (standing, watcher) = watch::channel(Standing::default());
        let router = Router::new(&descriptor);
        let processor = Processor {
            descriptor,
            digest,
            router,
            runner,
            ground,
            standing,
            report: Report::default(),
            looked_at_exceptions: Instant::now(),
        };
        (processor, watcher)
    }

    /// Follows the log until told to stop. Fails only when another host has taken over.
    pub async fn run(mut self, mut stop: Stop) -> anyhow::Result<()> {
        let mut pause = NEXT_TERM.0;
        loop {
            let began = Instant::now();
            let shaken = match self.term(&mut stop).await {
                TermEnd::Drained => return Ok(()),
                TermEnd::Shaken(error) => error,
            };
            if let Some(held @ LockError::Held { .. }) = shaken.downcast_ref() {
                tracing::error!(processor = %self.descriptor.id, "{held}");
                return Err(shaken);
            }
            tracing::warn!(
                processor = %self.descriptor.id,
                error = format!("{shaken:#}"),
                "a term ended; starting over from what is committed"
            );
            // A term that lasted was no failed attempt.
            pause = if began.elapsed() > NEXT_TERM.1 { NEXT_TERM.0 } else { (pause * 2).min(NEXT_TERM.1) };
            tokio::select! {
                () = stop.drain() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn term(&mut self, stop: &mut Stop) -> TermEnd {
        match self.follow(stop).await {
            Ok(()) => TermEnd::Drained,
            Err(end) => end,
        }
    }

    async fn follow(&mut self, stop: &mut Stop) -> Result<(), TermEnd> {
        self.ground.host_lock.ensure().await?;
        let cache_bytes = self.ground.config.document_cache_mib << 20;
        let term = Term::begin(&self.ground.db, &self.ground.pages, &self.descriptor, &self.digest, cache_bytes);
        let mut term = term.await.context("begin a term")?;
        let mut passed_since: Option<Instant> = None;
        loop {
            if stop.is_draining() {
                return Ok(self.store_last(&mut term).await?);
            }
            let lanes_moved = self.advance_lanes(&mut term).await?;
            let page = term.reader.page(&term.progress).await?;
            failpoint::hit("page.read");
            let read = !page.events.is_empty();
            self.handle(&mut term, &page).await?;
            self.tell(&term);
            if !term.passed_events {
                passed_since = None;
            } else if passed_since.get_or_insert_with(Instant::now).elapsed() >= STORE_AFTER {
                self.store(&mut term).await?;
                passed_since = None;
            }
            if !read && !lanes_moved {
                self.wait(&term, passed_since, stop).await;
            }
        }
    }

    /// Waits for news, a lane's next attempt, or the end.
    async fn wait(&mut self, term: &Term, passed_since: Option<Instant>, stop: &mut Stop) {
        let now = SystemTime::now();
        let lanes = term.exceptions.values().filter_map(|exception| exception.state.due_in(now));
        let look = (!term.exceptions.is_empty()).then_some(LOOK_AT_EXCEPTIONS);
        let store = passed_since.map(|since| STORE_AFTER.saturating_sub(since.elapsed()));
        let timer = lanes.chain(look).chain(store).min();
        tokio::select! {
            () = stop.drain() => {}
            () = self.ground.wakeups.next() => {}
            () = tokio::time::sleep(timer.unwrap_or(Duration::MAX)), if timer.is_some() => {}
        }
    }

    /// Runs a page's lanes and commits them.
    async fn handle(&mut self, term: &mut Term, page: &Page) -> Result<(), TermEnd> {
        let mut lanes = self.router.route(&page.events);
        lanes.retain(|(lane, _)| !term.exceptions.contains_key(lane));
        if lanes.is_empty() {
            term.progress = page.to.clone();
            term.passed_events |= !page.events.is_empty();
            return Ok(());
        }
        let runs = lanes.into_iter().map(|(lane, events)| {
            let (runner, documents) = (self.runner.clone(), term.documents.clone());
            async move {
                let run = runner.run(lane, &events, 0, documents).await;
                run.map(|run| (run, events))
            }
        });
        let runs: Vec<Result<(Run, Vec<Arc<Event>>), GroundLost>> =
            stream::iter(runs).buffer_unordered(LANES_AT_ONCE).collect().await;
        failpoint::hit("lanes.run");

        let mut changes = Changes::new();
        let mut results = Results::default();
        let mut left = Vec::new();
        let mut concerned = Vec::new();
        let mut handled = 0;
        for run in runs {
            let (run, events) = run.map_err(|GroundLost(why)| anyhow::anyhow!("read documents: {why}"))?;
            handled += run.handled;
            if let Some(trouble) = run.trouble {
                let progress = match run.handled {
                    0 => page.from.clone(),
                    n => page.difference().handled_up_to(events[n - 1].position),
                };
                left.push((run.lane.clone(), exception(progress, trouble, &run.lane, &events[run.handled], 1)));
            }
            concerned.push(run.lane);
            changes.extend(run.changes);
            results.dead_letters.extend(run.dead_letters);
        }
        self.report.count(handled);
        results.report = self.report.take();
        results.writes = term.documents.prepare(changes).await.map_err(|e| anyhow::anyhow!(crate::db::describe(&e)))?;
        let commit = PageCommit { from: &term.stored, to: &page.to, left: &left, results: &results };
        match term.committer.page(commit).await {
            Ok(()) => term.documents.settle(results.writes),
            Err(CommitError::Data(why)) => {
                // Some lane's data is refused, and all lanes' effects with it. Each lane commits for itself now, so that only
                // the one that cannot stays behind.
                tracing::warn!(processor = %self.descriptor.id, why, "the database refused a page; its lanes commit one by one");
                left = concerned
                    .into_iter()
                    .map(|lane| {
                        let exception = Exception {
                            progress: page.from.clone(),
                            state: LaneState::CatchingUp,
                            attempts: 0,
                            event_position: None,
                        };
                        (lane, exception)
                    })
                    .collect();
                let results = Results::default();
                let commit = PageCommit { from: &term.stored, to: &page.to, left: &left, results: &results };
                term.committer.page(commit).await?;
            }
            Err(error) => return Err(error.into()),
        }
        term.progress = page.to.clone();
        term.stored = page.to.clone();
        term.passed_events = false;
        for (lane, exception) in left {
            self.say(&lane, &exception);
            term.exceptions.insert(lane, exception);
        }
        Ok(())
    }

    /// Stores progress over events that were not this processor's.
    async fn store(&mut self, term: &mut Term) -> Result<(), CommitError> {
        if term.passed_events {
            let results = Results { report: self.report.take(), ..Results::default() };
            let commit = PageCommit { from: &term.stored, to: &term.progress, left: &[], results: &results };
            term.committer.page(commit).await?;
            term.stored = term.progress.clone();
            term.passed_events = false;
        }
        Ok(())
    }

    /// Moves every lane behind the tail that can move, by one page each. Says whether any moved.
    async fn advance_lanes(&mut self, term: &mut Term) -> Result<bool, TermEnd> {
        if term.exceptions.is_empty() {
            return Ok(false);
        }
        self.look_at_exceptions(term).await?;
        let now = SystemTime::now();
        let due: Vec<LaneKey> = term
            .exceptions
            .iter()
            .filter(|(_, exception)| exception.state.due_in(now) == Some(Duration::ZERO))
            .map(|(lane, _)| lane.clone())
            .collect();
        if due.is_empty() {
            return Ok(false);
        }
        // A lane never reads beyond what the cursor rows say: after a crash the tail may come another way.
        self.store_all(term).await?;
        for lane in &due {
            self.advance_lane(term, lane).await?;
        }
        Ok(true)
    }

    /// Stores what is not stored yet, before an end in order.
    async fn store_last(&mut self, term: &mut Term) -> Result<(), CommitError> {
        if term.stored == term.progress && self.report.handled == 0 {
            return Ok(());
        }
        let results = Results { report: Some(self.report.flush()), ..Results::default() };
        let commit = PageCommit { from: &term.stored, to: &term.progress, left: &[], results: &results };
        term.committer.page(commit).await
    }

    /// Stores progress whether or not events lie on the way, so that the rows say where the tail is.
    async fn store_all(&mut self, term: &mut Term) -> Result<(), CommitError> {
        term.passed_events |= term.stored != term.progress;
        self.store(term).await
    }

    async fn advance_lane(&mut self, term: &mut Term, lane: &LaneKey) -> Result<(), TermEnd> {
        let Some(exception) = term.exceptions.get(lane).cloned() else { return Ok(()) };
        let mut limit = self.ground.config.page_events;
        loop {
            let page = self.lane_page(term, lane, &exception.progress, limit).await?;
            let events = &page.events;
            let run = self.runner.run(lane.clone(), events, exception.attempts, term.documents.clone()).await;
            let run = run.map_err(|GroundLost(why)| anyhow::anyhow!("read documents: {why}"))?;
            let next = match run.trouble {
                Some(trouble) => {
                    let progress = match run.handled {
                        0 => exception.progress.clone(),
                        n => page.difference.handled_up_to(events[n - 1].position),
                    };
                    let attempts = if run.handled == 0 { exception.attempts + 1 } else { 1 };
                    let event = &events[run.handled];
                    Some(self::exception(progress, trouble, lane, event, attempts))
                }
                None if page.end == term.stored => None,
                None => Some(Exception {
                    progress: page.end.clone(),
                    state: LaneState::CatchingUp,
                    attempts: 0,
                    event_position: None,
                }),
            };
            let prepared = term.documents.prepare(run.changes).await;
            let results = Results {
                writes: prepared.map_err(|e| anyhow::anyhow!(crate::db::describe(&e)))?,
                dead_letters: run.dead_letters,
                report: self.report.count(run.handled).take(),
            };
            let to = match &next {
                Some(next) => LaneMove::Moved(next),
                None => LaneMove::Rejoined(&term.stored),
            };
            let commit = LaneCommit { lane, from: &exception.progress, to, results: &results };
            match term.committer.lane(commit).await {
                Ok(()) => {
                    term.documents.settle(results.writes);
                    match next {
                        Some(next) => {
                            self.say(lane, &next);
                            term.exceptions.insert(lane.clone(), next);
                        }
                        None => {
                            tracing::info!(processor = %self.descriptor.id, %lane, "the lane has caught up");
                            term.exceptions.remove(lane);
                        }
                    }
                    return Ok(());
                }
                // Some event's effects are refused: find it by handling fewer at a time.
                Err(CommitError::Data(_)) if events.len() > 1 => limit = events.len() / 2,
                Err(CommitError::Data(why)) => {
                    let event = events.first().map(|event| event.position);
                    let blocked = Exception {
                        progress: exception.progress.clone(),
                        state: LaneState::Blocked(Reason::new("refused-commit", why)),
                        attempts: exception.attempts + 1,
                        event_position: event,
                    };
                    let results = Results::default();
                    let to = LaneMove::Moved(&blocked);
                    let commit = LaneCommit { lane, from: &exception.progress, to, results: &results };
                    term.committer.lane(commit).await?;
                    self.say(lane, &blocked);
                    term.exceptions.insert(lane.clone(), blocked);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What a lane behind the tail reads next: events of one difference, on its way to where the cursor rows stand.
    async fn lane_page(
        &self,
        term: &mut Term,
        lane: &LaneKey,
        progress: &Progress,
        limit: usize,
    ) -> Result<LanePage, TermEnd> {
        for mut difference in progress.hops_to(&term.stored) {
            loop {
                let (mut events, more) = term.reader.tenant_page(&lane.tenant, &difference, limit).await?;
                let last = events.last().map(|event| event.position);
                let end = match last {
                    Some(last) if more => difference.handled_up_to(last),
                    _ => difference.then.clone(),
                };
                events.retain(|event| self.router.takes(event) && self.router.lane(event) == *lane);
                if !events.is_empty() {
                    return Ok(LanePage { events, difference, end });
                }
                if !more {
                    break;
                }
                difference.after = last;
            }
        }
        Ok(LanePage { events: Vec::new(), difference: nowhere(&term.stored), end: term.stored.clone() })
    }

    /// Learns what people decided about lanes that wait.
    async fn look_at_exceptions(&mut self, term: &mut Term) -> Result<(), TermEnd> {
        if self.looked_at_exceptions.elapsed() < LOOK_AT_EXCEPTIONS {
            return Ok(());
        }
        self.looked_at_exceptions = Instant::now();
        let rows = exceptions::read(term.committer.session(), &self.descriptor.id).await;
        let rows = rows.map_err(|e| anyhow::anyhow!(crate::db::describe(&e)))?;
        for (lane, row) in &rows {
            if let Some(known) = term.exceptions.get_mut(lane)
                && known.progress == row.progress
                && row.state == LaneState::CatchingUp
                && known.state != LaneState::CatchingUp
            {
                tracing::info!(processor = %self.descriptor.id, %lane, "the lane was resumed");
                known.state = LaneState::CatchingUp;
            }
        }
        let same = rows.len() == term.exceptions.len()
            && rows
                .iter()
                .all(|(lane, row)| term.exceptions.get(lane).is_some_and(|known| known.progress == row.progress));
        if !same {
            return Err(anyhow::anyhow!("somebody else wrote this processor's exceptions").into());
        }
        Ok(())
    }

    /// Says once what became of a lane.
    fn say(&self, lane: &LaneKey, exception: &Exception) {
        let (processor, position) = (&self.descriptor.id, exception.event_position);
        match &exception.state {
            LaneState::Blocked(reason) => {
                tracing::warn!(%processor, %lane, position, %reason, "the lane is blocked; others go on. `sandmill resume {processor}` lets it try again");
            }
            LaneState::Retrying { reason, .. } => {
                tracing::info!(%processor, %lane, position, %reason, attempts = exception.attempts, "the lane will try again");
            }
            LaneState::CatchingUp => {}
        }
    }

    /// Tells whoever waits how things stand.
    fn tell(&self, term: &Term) {
        let blocked = term.exceptions.iter().filter_map(|(lane, exception)| match &exception.state {
            LaneState::Blocked(reason) => Some((lane.clone(), reason.clone())),
            _ => None,
        });
        let lanes_blocked: Vec<_> = blocked.collect();
        self.standing.send_replace(Standing {
            seen: Some(term.progress.seen().clone()),
            lanes_moving: term.exceptions.len() - lanes_blocked.len(),
            lanes_blocked,
        });
    }
}

/// Events that a lane behind the tail handles next.
struct LanePage {
    /// All of one difference.
    events: Vec<Arc<Event>>,
    /// That difference.
    difference: Difference,
    /// Where the lane stands after them.
    end: Progress,
}

/// The difference of a lane that has nothing left to read.
fn nowhere(at: &Progress) -> Difference {
    let here = at.seen().clone();
    Difference { from: here.clone(), to: here, after: None, up_to: None, then: at.clone() }
}

/// The exception of a lane that is stopped before an event.
fn exception(progress: Progress, trouble: Trouble, lane: &LaneKey, event: &Event, attempts: u32) -> Exception {
    let state = match trouble {
        Trouble::Block(reason) => LaneState::Blocked(reason),
        Trouble::Retry { after, reason } => {
            let pause = retry::back_off(attempts, after, u64::from(lane.bucket()) << 32 | event.position as u64);
            LaneState::Retrying { at: SystemTime::now() + pause, reason }
        }
    };
    Exception { progress, state, attempts, event_position: Some(event.position) }
}

/// Counts handled events, and says now and then how many there were.
struct Report {
    since: Instant,
    handled: usize,
    rate: f64,
}

impl Default for Report {
    fn default() -> Self {
        Report { since: Instant::now(), handled: 0, rate: 0.0 }
    }
}

impl Report {
    fn count(&mut self, handled: usize) -> &mut Self {
        self.handled += handled;
        self
    }

    /// The events since the last report and how many a second, when it is time for one.
    fn take(&mut self) -> Option<(i64, f64)> {
        (self.since.elapsed() >= REPORT_EVERY).then(|| self.flush())
    }

    /// The same at any time; a window too short to tell a rate repeats the last one.
    fn flush(&mut self) -> (i64, f64) {
        let handled = std::mem::take(&mut self.handled);
        let elapsed = self.since.elapsed();
        if elapsed >= REPORT_EVERY || self.rate == 0.0 {
            self.rate = handled as f64 / elapsed.as_secs_f64().max(0.001);
        }
        self.since = Instant::now();
        (handled as i64, self.rate)
    }
}
