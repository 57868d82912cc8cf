// Failure policies, compared with a model that handles events one by one: the outcome is the same
// for any pattern of good and bad events, and for any batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use proptest::prelude::*;
use sandmill::{
    model::{
        effects::{Change, Effects, Halt, HaltAction, Skipped},
        event::{Batch, Event},
        handler::{BoxFuture, CallFailure, Documents, Failure, Handler, Reason},
        ids::{CollectionName, LaneKey, ProcessorId, TenantId},
        spec::ProcessorSpec,
    },
    processor::{
        code::{CodeVersion, SwappableCode},
        in_flight::{ParkedStreams, StreamPlace},
        lane::{Delivery, DeliverySource, RunStop, Runner},
        policy::{FailedAttempt, FailurePolicy, Verdict, Wish},
    },
    scheduler::{self, Class, Scheduler},
};
use serde_json::json;

/// How an event fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The whole call fails with this class.
    Call(&'static str),
    /// The handler stops before the event, or asks for a retry.
    Own(&'static str, Wish),
    /// The handler skips the event.
    Skip,
}

/// An event of a scenario: its stream, and how it fails until which attempt.
#[derive(Clone, Debug)]
struct Step {
    stream: usize,
    fault: Option<(Fault, u32)>,
}

/// The classes of failures whose policy differs from case to case.
const CLASSES: [&str; 5] = ["trap", "malformed-output", "cpu-limit", "plugin:odd", "plugin:later"];
const ACTIONS: [&str; 3] = ["stop", "dead-letter", "park-stream"];

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        prop::sample::select(vec!["trap", "malformed-output", "cpu-limit"]).prop_map(Fault::Call),
        Just(Fault::Own("odd", Wish::Stop)),
        Just(Fault::Own("later", Wish::Retry { after: None })),
        Just(Fault::Skip),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let faulty = (fault(), prop_oneof![3 => Just(u32::MAX), 1 => 2..4_u32]);
    (0..4_usize, prop::option::weighted(0.3, faulty)).prop_map(|(stream, fault)| Step { stream, fault })
}

/// What has become of the events of a lane.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fate {
    /// Positions that each stream's document has seen.
    handled: BTreeMap<String, Vec<i64>>,
    /// Dead letters: position, class and attempts.
    letters: Vec<(i64, String, u32)>,
    /// Parked streams: the versions that wait, and their number.
    parked: BTreeMap<String, (i64, i64, u64)>,
    /// Position of the event before which the lane is blocked.
    blocked: Option<i64>,
}

/// A handler that fails as the scenario says.
struct Faulty {
    faults: BTreeMap<i64, (Fault, u32)>,
    collection: CollectionName,
}

impl Faulty {
    /// How an event of a batch fails, if it does.
    fn fault(&self, batch: &Batch, index: usize) -> Option<Fault> {
        let (fault, until) = self.faults.get(&batch.events[index].position)?;
        // Only the first event may have been attempted before.
        let attempt = if index == 0 { batch.attempt } else { 1 };
        (attempt < *until).then_some(*fault)
    }

    async fn answer(&self, batch: &Batch, documents: &dyn Documents) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        let mut seen: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (index, event) in batch.events.iter().enumerate() {
            let message = "as the scenario says".to_string();
            match self.fault(batch, index) {
                Some(Fault::Call(class)) => {
                    let reason = Reason::new(class, message);
                    return Err(Failure::Block(reason));
                }
                Some(Fault::Own(code, wish)) => {
                    let action = match wish {
                        Wish::Retry { after } => HaltAction::Retry { after },
                        _ => HaltAction::Stop,
                    };
                    effects.halted = Some(Halt { index, action, code: code.into(), message });
                    break;
                }
                Some(Fault::Skip) => effects.skipped.push(Skipped { index, code: "skipped".into(), message }),
                None => {
                    let stream = event.stream.to_string();
                    if !seen.contains_key(&stream) {
                        let found = documents.get_many(&self.collection, std::slice::from_ref(&stream)).await?;
                        let before = found.into_iter().flatten().next();
                        let before = before.map_or_else(Vec::new, |text| serde_json::from_str(&text).unwrap());
                        seen.insert(stream.clone(), before);
                    }
                    seen.get_mut(&stream).unwrap().push(event.position);
                }
            }
        }
        effects.changes = seen
            .into_iter()
            .map(|(id, seen)| {
                let data = serde_json::to_string(&seen).unwrap().into();
                Change::Put { collection: self.collection.clone(), id: id.as_str().into(), data }
            })
            .collect();
        Ok(effects)
    }
}

impl Handler for Faulty {
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, CallFailure>> {
        Box::pin(async move { Ok(self.answer(&batch, &*documents).await?) })
    }

    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
        self
    }

    fn wall_time(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// Committed documents, in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Arc<str>>>);

impl Documents for Memory {
    fn get_many<'a>(
        &'a self,
        _: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        let documents = self.0.lock().unwrap();
        let found = ids.iter().map(|id| documents.get(id).cloned()).collect();
        Box::pin(async move { Ok(found) })
    }
}

fn lane() -> LaneKey {
    let tenant = TenantId::parse("acme").unwrap();
    LaneKey { key: tenant.as_shared(), tenant }
}

fn events(steps: &[Step]) -> Vec<Arc<Event>> {
    let mut versions = [0_i64; 4];
    let event = |(index, step): (usize, &Step)| {
        versions[step.stream] += 1;
        Arc::new(Event {
            position: index as i64 + 1,
            id: index.to_string().into(),
            tenant: lane().tenant,
            event_type: "T".into(),
            stream: format!("s{}", step.stream).into(),
            version: versions[step.stream],
            recorded_at: 0,
            data: "{}".into(),
            metadata: "{}".into(),
            deferred: None,
        })
    };
    steps.iter().enumerate().map(event).collect()
}

/// The outcome of handling events one by one.
fn one_by_one(steps: &[Step], policy: &FailurePolicy) -> Fate {
    let mut fate = Fate::default();
    'events: for (event, step) in events(steps).iter().zip(steps) {
        let stream = event.stream.to_string();
        if let Some((_, last, waiting)) = fate.parked.get_mut(&stream) {
            (*last, *waiting) = (event.version, *waiting + 1);
            continue;
        }
        for attempt in 1.. {
            let fault = step.fault.filter(|(_, until)| attempt < *until);
            let (class, wish) = match fault.map(|(fault, _)| fault) {
                None => {
                    fate.handled.entry(stream).or_default().push(event.position);
                    break;
                }
                Some(Fault::Skip) => {
                    fate.letters.push((event.position, "plugin:skipped".into(), attempt));
                    break;
                }
                Some(Fault::Call(class)) => (class.to_string(), Wish::None),
                Some(Fault::Own(code, wish)) => (format!("plugin:{code}"), wish),
            };
            let failed = FailedAttempt { class: &class, wish, attempt, on_probation: false, spread: 0 };
            match policy.verdict(&failed) {
                Verdict::Again { .. } => {}
                Verdict::SetAside => {
                    fate.letters.push((event.position, class, attempt));
                    break;
                }
                Verdict::Park => {
                    fate.parked.insert(stream, (event.version, event.version, 1));
                    break;
                }
                Verdict::Stop | Verdict::StopProcessor => {
                    fate.blocked = Some(event.position);
                    break 'events;
                }
            }
        }
    }
    fate
}

fn scheduler() -> &'static Scheduler {
    static SCHEDULER: OnceLock<Scheduler> = OnceLock::new();
    SCHEDULER.get_or_init(|| Scheduler::start(&scheduler::Config::default()).unwrap())
}

/// The outcome of a lane's runs over pages of these sizes, with calls of at most `batch` events.
async fn by_runs(steps: &[Step], policy: &FailurePolicy, pages: &[usize], batch: u32) -> Fate {
    let collection = CollectionName::parse("c").unwrap();
    let spec = ProcessorSpec::projector(ProcessorId::parse("p").unwrap(), vec![collection.clone()]);
    let faults = steps.iter().enumerate().filter_map(|(index, step)| Some((index as i64 + 1, step.fault?))).collect();
    let handler = Arc::new(Faulty { faults, collection });
    let version = CodeVersion::new("digest", handler, Some(batch)).with_policy(policy.clone());
    let runner = Runner::new(&spec, Arc::new(SwappableCode::new(version)), scheduler().clone());
    let (lane, memory, mut fate) = (lane(), Arc::new(Memory::default()), Fate::default());
    let (mut parked, mut attempts) = (ParkedStreams::new(), 0);
    let all = events(steps);
    let mut sizes = pages.iter().copied().cycle();
    let mut next = 0;
    while next < all.len() && fate.blocked.is_none() {
        let page = &all[next..(next + sizes.next().unwrap()).min(all.len())];
        let mut handled = 0;
        while handled < page.len() && fate.blocked.is_none() {
            let delivery = Delivery {
                events: &page[handled..],
                attempts,
                cost: None,
                skip: None,
                parked: Some(&parked),
                conflicts: None,
                source: DeliverySource::Log,
            };
            let run = runner.deliver(&lane, Class::Live, delivery, memory.clone()).await;
            let run = run.unwrap_or_else(|ended| panic!("{:?}", ended.0));
            let outcome = run.outcome;
            for (key, data) in outcome.documents.iter() {
                memory.0.lock().unwrap().insert(key.id.to_string(), data.clone().unwrap());
            }
            let letter = |letter: &sandmill::processor::outcome::DeadLetter| {
                (letter.position, letter.reason.class.clone(), letter.attempts)
            };
            fate.letters.extend(outcome.dead_letters.iter().map(letter));
            for change in &outcome.streams {
                parked.insert(change.stream.clone(), change.place);
            }
            handled += outcome.handled;
            attempts = match run.stop {
                None => 0,
                Some(RunStop::Retry { counts, .. }) => {
                    (if outcome.handled == 0 { attempts } else { 0 }) + u32::from(counts)
                }
                Some(RunStop::Block(_)) => {
                    fate.blocked = Some(page[handled].position);
                    0
                }
            };
        }
        next += page.len();
    }
    let place = |(stream, place): (Arc<str>, StreamPlace)| (stream.to_string(), (place.next, place.last, place.events));
    fate.parked = parked.into_iter().map(place).collect();
    let documents = memory.0.lock().unwrap();
    fate.handled = documents.iter().map(|(id, text)| (id.clone(), serde_json::from_str(text).unwrap())).collect();
    fate
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batches_have_the_outcome_of_handling_events_one_by_one(
        steps in prop::collection::vec(step(), 1..40),
        actions in prop::collection::vec(prop::sample::select(ACTIONS.to_vec()), CLASSES.len()),
        attempts in prop::collection::vec(1..4_u32, CLASSES.len()),
        pages in prop::collection::vec(1..20_usize, 1..4),
        batch in 1..20_u32,
    ) {
        let rules = CLASSES.iter().zip(actions.iter().zip(&attempts));
        let settings: serde_json::Map<_, _> = rules
            .map(|(class, (then, attempts))| ((*class).to_string(), json!({"then": then, "attempts": attempts})))
            .collect();
        let settings = serde_json::from_value(settings.into()).unwrap();
        let policy = FailurePolicy::new(Default::default(), settings);
        let expected = one_by_one(&steps, &policy);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(by_runs(&steps, &policy, &pages, batch));
        prop_assert_eq!(&found, &expected);
        // Each event is counted once.
        let handled: usize = found.handled.values().map(Vec::len).sum();
        let waiting: u64 = found.parked.values().map(|(.., events)| events).sum();
        let passed = found.blocked.map_or(steps.len(), |position| position as usize - 1);
        prop_assert_eq!(handled + found.letters.len() + waiting as usize, passed);
        let letters: BTreeSet<i64> = found.letters.iter().map(|(position, ..)| *position).collect();
        prop_assert_eq!(letters.len(), found.letters.len());
    }
}
