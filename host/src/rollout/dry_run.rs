//! The dry run of a new version (the *candidate*): before a swap, it handles recent events again.
//!
//! The candidate handles the processor's last events as it would handle new ones, over the
//! committed documents. Its results are counted and discarded. If it fails (it traps, reaches a
//! limit, or returns malformed output), the running version handles the same events in the same
//! way. If both fail, the failure says nothing about the candidate. If only the candidate fails, it
//! is rejected. Skips and stops are decisions of the plugin's author, and the documents may already
//! contain the effects of these events. So skips and stops are counted and shown, but do not
//! reject a candidate. Both versions run in fresh instances, so that neither remembers discarded
//! results.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{
    consumer::{pages::Reader, router::Router},
    db::{
        Session,
        pool::{Borrower, Pool},
    },
    model::{
        event::Event,
        handler::{BoxFuture, Documents, Failure, Handler, Reason},
        ids::{CollectionName, LaneKey, TenantId},
        loading::LoadEvents,
        spec::{ProcessorSpec, Start},
    },
    processor::{
        Shared,
        code::{CodeVersion, SwappableCode},
        lane::{LaneRun, RunStop, Runner, TermEnded},
    },
    projections::documents::{self, Changes, CommittedReader},
    scheduler::{Class, Scheduler},
};

/// Maximum time for the candidate, and again for the running version where the candidate failed.
/// Only events handled within this time count. A candidate that handled nothing gets a second
/// chance. 2 s: a swap may wait that long, and an ordinary plugin handles far more events in it.
const TIME: Duration = Duration::from_secs(2);
/// Lanes that run concurrently: enough that their reads of documents share a query.
const LANES_AT_ONCE: usize = 16;

/// The outcome of a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRunReport {
    /// Events of the dry run.
    pub events: usize,
    /// Lanes of these events.
    pub lanes: usize,
    /// Events that the candidate handled, including skipped ones.
    pub handled: usize,
    /// Events that it skipped.
    pub skipped: usize,
    /// Lanes that it stopped itself, or that asked for a retry.
    pub stopped: usize,
    /// Lanes in which it failed.
    pub failed: usize,
    /// Why it failed, stopped or skipped: the reason of the gravest of these.
    pub why: Option<String>,
    /// Why it is rejected, if it is: an event that it cannot handle and the running version can.
    #[serde(rename = "worse")]
    pub rejection: Option<String>,
}

/// The reader and documents of consecutive dry runs.
pub struct DryRunSession {
    reader: Reader,
    deferred: Arc<dyn LoadEvents>,
    sessions: Arc<Pool<Session>>,
    read_bytes: usize,
    committed: Arc<CommittedReader>,
    /// Maximum bytes of documents that one version may write in a dry run.
    written_bytes: usize,
}

impl DryRunSession {
    /// A session that has read nothing yet.
    pub fn new(shared: &Shared) -> Self {
        let (sessions, read_bytes) = (shared.connections.documents.clone(), shared.config.read_mib << 20);
        let committed = Arc::new(CommittedReader::new(sessions.clone(), None, read_bytes));
        let written_bytes = shared.config.commit_mib << 20;
        let (reader, deferred) = (shared.pages.reader(Borrower::host("dry run")), shared.pages.deferred());
        DryRunSession { reader, deferred, sessions, read_bytes, committed, written_bytes }
    }

    /// Selects the documents of one tenant's processors, or those of shared processors.
    fn read_for(&mut self, owner: Option<&TenantId>) {
        if self.committed.owner() != owner {
            self.committed = Arc::new(CommittedReader::new(self.sessions.clone(), owner.cloned(), self.read_bytes));
        }
    }
}

/// A dry run of one candidate.
pub struct DryRun<'a> {
    /// The scheduler of the guest threads.
    pub scheduler: &'a Scheduler,
    /// The candidate's spec.
    pub spec: &'a ProcessorSpec,
    /// The candidate's code.
    pub handler: &'a Arc<dyn Handler>,
    /// The running version.
    pub running: &'a CodeVersion,
    /// Its spec.
    pub running_spec: &'a ProcessorSpec,
    /// Maximum number of events.
    pub events: usize,
}

impl DryRun<'_> {
    /// Runs the candidate. None if no recent events apply. After an error the session must not be
    /// used again.
    pub async fn run(&self, session: &mut DryRunSession) -> anyhow::Result<Option<DryRunReport>> {
        let Some((from, up_to)) = self.handled_positions() else { return Ok(None) };
        let (tenants, event_types) = (self.spec.tenants.as_deref(), self.spec.descriptor.event_types.as_deref());
        let mut last = session.reader.last(tenants, event_types, up_to, self.events).await?;
        // The candidate must not see events that the running version never handles: they allow no
        // comparison.
        let running = Router::new(self.running_spec);
        last.retain(|event| event.position >= from && running.handles(event));
        let router = Router::new(self.spec);
        session.reader.route_deferred(&router, &last).await?;
        let lanes = router.route(&last);
        if lanes.is_empty() {
            return Ok(None);
        }
        // Collections that only the candidate has are empty, or belong to another processor.
        let known = |collection: &&CollectionName| self.running_spec.descriptor.collections.contains(collection);
        let collections: Arc<[CollectionName]> =
            self.spec.descriptor.collections.iter().filter(known).cloned().collect();
        session.read_for(self.running_spec.id.owner());
        let new = CodeVersion::new("", self.handler.clone().isolated_clone(), self.spec.max_batch_size);
        let old = CodeVersion::new("", self.running.handler.clone().isolated_clone(), self.running_spec.max_batch_size);
        let [new, old] = [new, old].map(CodeVersion::under_test).map(|version| Candidate {
            runner: Runner {
                replaying: true,
                deferred: Some(session.deferred.clone()),
                ..Runner::new(self.spec, Arc::new(SwappableCode::new(version)), self.scheduler.clone())
            },
            committed: session.committed.clone(),
            collections: collections.clone(),
            bytes_left: AtomicUsize::new(session.written_bytes),
        });
        tokio::select! {
            served = session.committed.serve() => served.map(|never| match never {}).map_err(Into::into),
            report = compare(&new, &old, &lanes) => report.map(Some).map_err(|lost| anyhow::anyhow!("{}", lost.0)),
        }
    }

    /// The range of positions that the processor has handled, or will handle if it has handled
    /// nothing since its start; none if that is unknown. Both versions run under the same
    /// conditions, so a few events that are not handled yet do no harm.
    fn handled_positions(&self) -> Option<(i64, i64)> {
        let positions = self.running.stats().positions;
        match self.running_spec.descriptor.start {
            Start::Beginning => Some((i64::MIN, positions.map_or(i64::MAX, |(_, last)| last))),
            Start::Now => positions,
        }
    }
}

/// The events of a dry run, by lane.
type LaneEvents = [(LaneKey, Vec<Arc<Event>>)];

/// Runs the candidate on all lanes, and the running version where the candidate failed, in the same
/// way and with the same time.
async fn compare(new: &Candidate, old: &Candidate, lanes: &LaneEvents) -> Result<DryRunReport, TermEnded> {
    let count = |lanes: &LaneEvents| lanes.iter().map(|(_, events)| events.len()).sum();
    let events: usize = count(lanes);
    let outcomes = new.run_all(lanes).await?;
    let mut report = DryRunReport { events, lanes: lanes.len(), ..DryRunReport::default() };
    let (mut skip, mut stop, mut failures) = (None, None, Vec::new());
    for ((lane, events), outcome) in lanes.iter().zip(outcomes) {
        report.handled += outcome.handled;
        report.skipped += outcome.skipped;
        skip = skip.or(outcome.skip);
        let Some((reason, harmless)) = outcome.stop else { continue };
        let description = describe(lane, events.get(outcome.handled), &reason);
        if harmless {
            report.stopped += 1;
            stop.get_or_insert(description);
        } else {
            report.failed += 1;
            let up_to_failure = events.iter().take(outcome.handled + 1).cloned().collect();
            failures.push(((lane.clone(), up_to_failure), description));
        }
    }
    if report.handled + report.stopped + report.failed == 0 {
        let count = |outcomes: Vec<LaneOutcome>| outcomes.iter().map(|outcome| outcome.handled).sum::<usize>();
        let mut handled = count(old.run_all(lanes).await?);
        // The candidate ran first and may have paid for opening sessions and filling caches, so it
        // gets a second chance.
        if handled > 0 && count(new.run_all(lanes).await?) > 0 {
            handled = 0;
        }
        let seconds = TIME.as_secs();
        let reason =
            || format!("none of {events} events was handled in {seconds} s; the running version handles {handled}");
        report.rejection = (handled > 0).then(reason);
    } else if !failures.is_empty() {
        let (lanes, descriptions): (Vec<_>, Vec<String>) = failures.into_iter().unzip();
        let outcomes = old.run_all(&lanes).await?;
        let handled_all =
            |((_, events), outcome): &(&(LaneKey, Vec<Arc<Event>>), LaneOutcome)| outcome.handled == events.len();
        let mut compared = lanes.iter().zip(outcomes).zip(&descriptions);
        report.rejection = compared.find(|(pair, _)| handled_all(pair)).map(|(_, description)| description.clone());
        report.why = descriptions.into_iter().next();
    }
    report.why = report.rejection.clone().or(report.why).or(stop).or(skip);
    Ok(report)
}

/// A description of a lane's failure, in a form that any text column can store.
fn describe(lane: &LaneKey, event: Option<&Arc<Event>>, reason: &Reason) -> String {
    let at = event
        .map_or(String::new(), |event| format!(", the event at position {} ({})", event.position, event.event_type));
    format!("{lane}{at}: {reason}").replace('\0', "\u{fffd}")
}

/// A version with everything it needs to run.
struct Candidate {
    runner: Runner,
    committed: Arc<CommittedReader>,
    /// The collections that both versions have.
    collections: Arc<[CollectionName]>,
    /// Bytes that it may still write, over all lanes.
    bytes_left: AtomicUsize,
}

/// The outcome of one lane.
#[derive(Default)]
struct LaneOutcome {
    handled: usize,
    skipped: usize,
    /// The first skip.
    skip: Option<String>,
    /// Why it ended before the last event, unless time or memory ran out. The flag is set if this
    /// is not a failure: the plugin decided it, or the host was short of a resource.
    stop: Option<(Reason, bool)>,
}

impl Candidate {
    /// Runs all lanes, some concurrently, for at most [`TIME`].
    async fn run_all(&self, lanes: &LaneEvents) -> Result<Vec<LaneOutcome>, TermEnded> {
        let outcomes: Vec<Mutex<LaneOutcome>> = lanes.iter().map(|_| Mutex::default()).collect();
        let each = lanes.iter().zip(&outcomes).map(|((lane, events), outcome)| self.run(lane, events, outcome));
        let mut under_way = stream::iter(each).buffer_unordered(LANES_AT_ONCE);
        let all = async {
            while let Some(ended) = under_way.next().await {
                ended?;
            }
            Ok::<_, TermEnded>(())
        };
        timeout(TIME, all).await.unwrap_or(Ok(()))?;
        drop(under_way);
        Ok(outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Handles the events of one lane. Adds what happens to `total` as it goes, so a timeout keeps
    /// it.
    async fn run(&self, lane: &LaneKey, events: &[Arc<Event>], total: &Mutex<LaneOutcome>) -> Result<(), TermEnded> {
        let (committed, collections) = (self.committed.clone(), self.collections.clone());
        let documents = Arc::new(Overlay { lane: lane.clone(), committed, collections, written: Mutex::default() });
        let (mut handled, mut ended) = (0, false);
        while let (Some(rest @ [_, ..]), false) = (events.get(handled..), ended || self.bytes_left.load(Relaxed) == 0) {
            let LaneRun { outcome, stop, .. } =
                self.runner.run_over(lane, Class::CatchUp, rest, 0, None, documents.clone()).await?;
            let weight = documents::bytes(&outcome.documents);
            // Once one lane finds too little room, the room of all lanes is used up.
            let left = |left: usize| Some(left.saturating_sub(weight));
            let _ = self.bytes_left.fetch_update(Relaxed, Relaxed, left);
            handled += outcome.handled;
            ended = stop.is_some();
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            total.handled = handled;
            total.skipped += outcome.dead_letters.len();
            if let (None, Some(letter)) = (&total.skip, outcome.dead_letters.first()) {
                let event = events.iter().find(|event| event.position == letter.position);
                total.skip = Some(describe(lane, event, &letter.reason));
            }
            total.stop = stop.map(|stop| match stop {
                RunStop::Retry { reason, .. } => (reason, true),
                RunStop::Block(reason) => {
                    let own = reason.is_plugins_own() || reason.is_about_the_event();
                    (reason, own)
                }
            });
            documents.written().extend(Arc::unwrap_or_clone(outcome.documents));
        }
        Ok(())
    }
}

/// The documents of one lane: the committed ones, with its own discarded writes on top.
struct Overlay {
    lane: LaneKey,
    committed: Arc<CommittedReader>,
    collections: Arc<[CollectionName]>,
    written: Mutex<Changes>,
}

impl Overlay {
    fn written(&self) -> MutexGuard<'_, Changes> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, collection: &CollectionName, ids: &[String]) -> Result<Vec<Option<Arc<str>>>, Failure> {
        let mut found = match self.collections.contains(collection) {
            true => self.committed.read(&self.lane, collection, ids).await?,
            false => vec![None; ids.len()],
        };
        documents::overlay(&self.written(), &self.lane, collection, ids, &mut found);
        Ok(found)
    }
}

impl Documents for Overlay {
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        Box::pin(self.read(collection, ids))
    }
}

impl DryRunReport {
    /// An error with the reason and the remedy if the candidate is rejected.
    pub fn verdict(&self) -> Result<(), String> {
        let Some(rejection) = &self.rejection else { return Ok(()) };
        Err(format!(
            "a dry run on the last {} events failed, unlike the running version: {rejection}\nFix the plugin, or set `dry-run = false` in its manifest to swap without a dry run.",
            self.events
        ))
    }
}

impl fmt::Display for DryRunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dry run: {} of the last {} events handled", self.handled, self.events)?;
        // The documents may already contain the effects of these events.
        let skipped = "skipped (they were handled before)";
        for (count, what) in [(self.skipped, skipped), (self.stopped, "lanes stopped"), (self.failed, "lanes failed")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        match &self.why {
            Some(why) => write!(f, "; {why}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db::Db,
        model::{
            effects::{Change, Effects, Halt, HaltAction, Skipped},
            event::Batch,
            handler::CallFailure,
            ids::ProcessorId,
        },
        scheduler,
    };

    /// The reaction of a scripted handler to a type of events; it accepts all other types.
    #[derive(Clone, Copy)]
    enum Behaviour {
        Trap,
        /// The host is short of something.
        Shortage,
        Stop,
        Skip,
        Write,
    }

    struct Scripted(&'static [(&'static str, Behaviour)]);

    impl Scripted {
        fn answer(&self, batch: &Batch) -> Result<Effects, Failure> {
            let mut effects = Effects::default();
            for (index, event) in batch.events.iter().enumerate() {
                let (code, message) = (String::new(), String::new());
                match self.0.iter().find(|(of, _)| *of == &*event.event_type).map(|(_, behaviour)| behaviour) {
                    None => {}
                    Some(Behaviour::Trap) => return Err(Failure::Block(Reason::new("trap", "unreachable"))),
                    Some(Behaviour::Shortage) => return Err(Failure::Retry(Reason::new("instances", "all are lent"))),
                    Some(Behaviour::Stop) => {
                        effects.halted = Some(Halt { index, action: HaltAction::Stop, code, message });
                        break;
                    }
                    Some(Behaviour::Skip) => effects.skipped.push(Skipped { index, code, message }),
                    Some(Behaviour::Write) => {
                        let collection = CollectionName::parse("things").unwrap();
                        let (id, data) = ((*event.id).into(), "x".repeat(1_000).into());
                        effects.changes.push(Change::Put { collection, id, data });
                    }
                }
            }
            Ok(effects)
        }
    }

    impl Handler for Scripted {
        fn handle(
            self: Arc<Self>,
            batch: Arc<Batch>,
            _: Arc<dyn Documents>,
        ) -> BoxFuture<'static, Result<Effects, CallFailure>> {
            assert!(batch.replaying);
            Box::pin(async move { Ok(self.answer(&batch)?) })
        }

        fn wall_time(&self) -> Duration {
            Duration::from_secs(60)
        }

        fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
            self
        }
    }

    /// Each lane is written as the types of its events. There is room for 2,500 bytes of documents.
    async fn dry_run(
        new: &'static [(&'static str, Behaviour)],
        old: &'static [(&'static str, Behaviour)],
        lanes: &[&str],
    ) -> DryRunReport {
        // Nothing is read, so the address is never used.
        let nowhere = documents::sessions(&Db::parse("host=nowhere").unwrap(), 1);
        let committed = Arc::new(CommittedReader::new(nowhere, None, 1));
        let scheduler = Scheduler::start(&scheduler::Config::default()).unwrap();
        let spec = ProcessorSpec::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        let [new, old] = [new, old].map(|behaviours| Candidate {
            runner: Runner {
                replaying: true,
                ..Runner::new(
                    &spec,
                    Arc::new(SwappableCode::new(CodeVersion::new("", Arc::new(Scripted(behaviours)), Some(1)))),
                    scheduler.clone(),
                )
            },
            committed: committed.clone(),
            collections: Arc::default(),
            bytes_left: AtomicUsize::new(2_500),
        });
        let mut position = 0;
        let lanes = lanes.iter().enumerate().map(|(number, types)| {
            let tenant = TenantId::parse(&format!("t{number}")).unwrap();
            let event = |event_type: &str| {
                position += 1;
                Arc::new(Event {
                    position,
                    id: format!("e{position}").into(),
                    tenant: tenant.clone(),
                    event_type: event_type.into(),
                    stream: "s".into(),
                    version: position,
                    recorded_at: 0,
                    data: "{}".into(),
                    metadata: "{}".into(),
                    deferred: None,
                })
            };
            let events = types.split(' ').map(event).collect();
            (LaneKey { key: tenant.as_shared(), tenant }, events)
        });
        compare(&new, &old, &lanes.collect::<Vec<_>>()).await.unwrap()
    }

    #[tokio::test]
    async fn a_candidate_is_rejected_only_for_events_that_the_running_version_handles() {
        let both = dry_run(&[("bad", Behaviour::Trap)], &[("bad", Behaviour::Trap)], &["fine bad fine", "fine"]).await;
        assert_eq!((both.events, both.lanes, both.handled, both.failed), (4, 2, 2, 1));
        assert_eq!((both.rejection.as_deref(), both.verdict()), (None, Ok(())));
        let why = "tenant t0, the event at position 2 (bad): trap: unreachable";
        assert_eq!(both.why.as_deref(), Some(why));
        let new = dry_run(&[("bad", Behaviour::Trap)], &[], &["fine", "fine bad fine"]).await;
        let why = "tenant t1, the event at position 3 (bad): trap: unreachable";
        assert_eq!((new.failed, new.rejection.as_deref()), (1, Some(why)));
        assert!(new.verdict().unwrap_err().contains("a dry run on the last 4 events failed"));
        // The running version may fail after the event at which the candidate fails.
        let later = dry_run(&[("bad", Behaviour::Trap)], &[("other", Behaviour::Trap)], &["bad other"]).await;
        assert!(later.rejection.is_some(), "{later:?}");
        let sooner = dry_run(&[("other", Behaviour::Trap)], &[("bad", Behaviour::Trap)], &["bad other"]).await;
        assert_eq!((sooner.handled, sooner.rejection), (1, None));
    }

    #[tokio::test]
    async fn skips_stops_and_shortages_of_the_host_are_counted_but_reject_nothing() {
        let own = dry_run(
            &[("bad", Behaviour::Stop), ("other", Behaviour::Skip)],
            &[],
            &["fine bad fine", "other fine", "fine"],
        )
        .await;
        assert_eq!((own.handled, own.skipped, own.stopped, own.failed, own.rejection), (4, 1, 1, 0, None));
        assert!(own.why.is_some_and(|why| why.contains("position 2 (bad): plugin: ")));
        let shortage = dry_run(&[("bad", Behaviour::Shortage)], &[], &["bad", "bad fine", "fine"]).await;
        assert_eq!((shortage.handled, shortage.stopped, shortage.failed, shortage.rejection), (1, 2, 0, None));
    }

    /// Two documents of about 1,000 bytes fit. A lane without room ends, and no further lane
    /// begins.
    #[tokio::test]
    async fn the_bytes_that_a_dry_run_writes_are_bounded() {
        let report = dry_run(&[("large", Behaviour::Write)], &[], &["large"; 100]).await;
        assert!((3..=LANES_AT_ONCE + 2).contains(&report.handled), "{report:?}");
        assert_eq!((report.failed, report.rejection), (0, None));
    }
}
