//! A model of the database and of the host around the tracker, with the steps that it can take.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, SystemTime},
};

use sandmill::{
    model::{
        cursor::{Progress, Snapshot},
        event::Event,
        handler::Reason,
        ids::{LaneKey, TenantId},
    },
    processor::{
        gather::Gather,
        in_flight::{
            CommitPlan, CommitRejection, Ending, InFlight, InFlightBounds, LaneReading, LaneWork, ParkedStreams,
            Patience, Redelivered, Redelivery, RedeliveryEnd, Request, RequestAction, RunEnd, SetAside, StreamMove,
            StreamPlace, Weighted,
        },
        lane_checkpoints::{LaneCheckpoint, LaneRow, LaneState, Skip},
        pauses::Pause,
    },
};

use super::log::{LANES, Log, STREAMS, lane, tenant};

/// Bounds so small that lanes are detached, commits do not take everything, and uncommitted results
/// keep lanes from starting.
pub(super) const BOUNDS: InFlightBounds = InFlightBounds {
    lane_bytes: 600,
    lane_events: usize::MAX,
    detaches: true,
    commit_bytes: 5,
    uncommitted_bytes: 8,
    lanes_at_once: 3,
};
/// The bounds of a processor that does not detach lanes, and of one that sheds.
pub(super) const PAUSING: InFlightBounds = InFlightBounds { detaches: false, ..BOUNDS };
pub(super) const SHEDDING: InFlightBounds = InFlightBounds { lane_events: 3, ..BOUNDS };

/// Positions of events that a piece of work handled, or that were shed instead, and what it did
/// with others.
#[derive(Debug, Default)]
pub(super) struct Handled {
    pub(super) positions: Vec<i64>,
    pub(super) shed: bool,
    /// Events that became or stay dead letters.
    letters: Vec<i64>,
    /// Dead letters that are no more.
    answered: Vec<i64>,
    discarded: Vec<i64>,
    streams: Vec<StreamMove>,
    /// Streams whose requests are answered.
    answered_streams: Vec<Arc<str>>,
}

/// What happens to an event that the handler cannot handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Letter,
    Park,
}

impl Handled {
    fn moved(&mut self, stream: Arc<str>, place: StreamPlace) {
        self.streams.retain(|(other, _)| *other != stream);
        self.streams.push((stream, place));
    }
}

impl Weighted for Handled {
    fn weight(&self) -> usize {
        self.positions.len()
    }
}

/// The state of the database.
pub(super) struct Database {
    pub(super) cursor: Progress,
    pub(super) rows: BTreeMap<LaneKey, LaneCheckpoint>,
    pub(super) handled: BTreeMap<LaneKey, Vec<i64>>,
    pub(super) shed: BTreeMap<LaneKey, BTreeSet<i64>>,
    /// Positions of all events that it has rejected.
    pub(super) rejected: BTreeSet<i64>,
    pub(super) letters: BTreeMap<LaneKey, BTreeSet<i64>>,
    pub(super) discarded: BTreeMap<LaneKey, BTreeSet<i64>>,
    pub(super) parked: BTreeMap<LaneKey, ParkedStreams>,
    pub(super) requests: BTreeMap<(LaneKey, SetAside), RequestAction>,
    /// Dead letters that were handled again, and so out of order.
    handled_again: BTreeSet<i64>,
}

impl Database {
    /// Commits a plan, or rejects it because of a poisoned event.
    pub(super) fn commit(&mut self, plan: &CommitPlan<Handled>, poison: &BTreeSet<i64>) -> Result<(), ()> {
        assert_eq!(plan.from, self.cursor, "the plan starts from the stored cursor");
        let handled = plan.results.iter().filter(|(_, handled)| !handled.shed);
        let positions = handled.flat_map(|(_, handled)| &handled.positions);
        let rejected: Vec<i64> = positions.copied().filter(|position| poison.contains(position)).collect();
        if !rejected.is_empty() {
            self.rejected.extend(rejected);
            return Err(());
        }
        for (key, row) in &plan.left {
            assert!(self.rows.insert(key.clone(), row.clone()).is_none(), "{key} had a row already");
        }
        for (key, before, row) in &plan.moved {
            let old = self.rows.insert(key.clone(), row.clone());
            assert_eq!(old.map(|row| row.progress).as_ref(), Some(before), "the plan has the stored progress of {key}");
        }
        for (key, before) in &plan.rejoined {
            let old = self.rows.remove(key);
            assert_eq!(old.map(|row| row.progress).as_ref(), Some(before), "the plan has the stored progress of {key}");
        }
        let blocked =
            plan.left.iter().map(|(key, row)| (key, row)).chain(plan.moved.iter().map(|(key, _, row)| (key, row)));
        for (key, row) in blocked {
            let rejected = matches!(&row.state, LaneState::Blocked(reason) if reason.class == "refused-commit");
            let named = row.event_position.is_some_and(|position| self.rejected.contains(&position));
            assert!(named || !rejected, "{key} blames an event that was never rejected: {row:?}");
        }
        for (key, handled) in &plan.results {
            if handled.shed {
                let shed = self.shed.entry(key.clone()).or_default();
                for position in &handled.positions {
                    assert!(shed.insert(*position), "{key} shed {position} twice");
                }
            } else {
                self.handled.entry(key.clone()).or_default().extend(&handled.positions);
            }
            self.set_aside(key, handled);
        }
        self.cursor = plan.to.clone();
        Ok(())
    }

    fn set_aside(&mut self, key: &LaneKey, results: &Handled) {
        let letters = self.letters.entry(key.clone()).or_default();
        for position in &results.letters {
            letters.insert(*position);
            self.requests.remove(&(key.clone(), SetAside::Letter(*position)));
        }
        for position in &results.answered {
            assert!(letters.remove(position), "{key} answers a letter that is gone: {position}");
            self.requests.remove(&(key.clone(), SetAside::Letter(*position)));
            self.handled_again.insert(*position);
        }
        self.discarded.entry(key.clone()).or_default().extend(&results.discarded);
        let parked = self.parked.entry(key.clone()).or_default();
        for (stream, place) in &results.streams {
            match place.events {
                0 => _ = parked.remove(stream),
                _ => _ = parked.insert(stream.clone(), *place),
            }
        }
        for stream in &results.answered_streams {
            self.requests.remove(&(key.clone(), SetAside::Stream(stream.clone())));
        }
    }

    /// Positions of a lane's events that wait in parked streams.
    fn waiting(&self, key: &LaneKey, log: &Log) -> BTreeSet<i64> {
        let mut waiting = BTreeSet::new();
        for (stream, place) in self.parked.get(key).into_iter().flatten() {
            let versions = place.next..=place.last;
            let of_stream: Vec<i64> = log.stream(key, stream, versions).iter().map(|event| event.position).collect();
            assert_eq!(of_stream.len() as u64, place.events, "{key} counts the waiting events of stream {stream}");
            waiting.extend(of_stream);
        }
        waiting
    }

    /// Checks that each lane has handled or shed exactly the events that its row, or else the
    /// cursor, covers, except for those that are set aside, and each stream in order.
    pub(super) fn check(&self, log: &Log) {
        for index in 0..LANES {
            let key = lane(&tenant(index));
            let progress = self.rows.get(&key).map_or(&self.cursor, |row| &row.progress);
            let handled = self.handled.get(&key).cloned().unwrap_or_default();
            let set: BTreeSet<i64> = handled.iter().copied().collect();
            assert_eq!(set.len(), handled.len(), "{key} handled something twice: {handled:?}");
            let shed = self.shed.get(&key).cloned().unwrap_or_default();
            assert!(set.is_disjoint(&shed), "{key} handled what it shed: {handled:?} and {shed:?}");
            let mut all: Vec<i64> = handled.iter().copied().chain(shed).chain(self.waiting(&key, log)).collect();
            all.extend([&self.letters, &self.discarded].into_iter().filter_map(|of| of.get(&key)).flatten());
            all.sort_unstable();
            let covered: Vec<i64> = log.covered(&key, progress).into_iter().collect();
            assert_eq!(all, covered, "{key} at {progress}");
            for stream in 0..STREAMS {
                let of_stream: BTreeSet<i64> = log
                    .committed()
                    .iter()
                    .filter(|(_, e)| e.tenant == key.tenant && *e.stream == *stream.to_string())
                    .map(|(_, e)| e.position)
                    .collect();
                let order: Vec<i64> = handled
                    .iter()
                    .copied()
                    .filter(|p| of_stream.contains(p) && !self.handled_again.contains(p))
                    .collect();
                assert!(order.is_sorted(), "{key} stream {stream} out of order: {order:?}");
            }
        }
    }
}

/// The host: its tracker, and the work under way.
pub(super) struct Host {
    pub(super) in_flight: InFlight<Handled>,
    pub(super) running: Vec<(LaneKey, LaneWork)>,
    pub(super) redelivering: Vec<(LaneKey, Redelivery)>,
    /// Events that cannot be handled.
    pub(super) bad: BTreeMap<i64, Bad>,
    /// Readings under way; one that sheds has the positions.
    pub(super) readings: Vec<(LaneReading, Gather, Option<Vec<i64>>)>,
    pub(super) plan: Option<CommitPlan<Handled>>,
    /// The tenant that is paused.
    paused: Option<TenantId>,
}

impl Host {
    /// Starts a host from the state of the database, as at the beginning of a term.
    pub(super) fn start(database: &Database, bounds: InFlightBounds) -> Self {
        let rows = database.rows.iter().map(|(key, row)| (key.clone(), LaneRow::from(row)));
        let mut in_flight = InFlight::new(database.cursor.clone(), rows, bounds);
        for (key, streams) in &database.parked {
            for (stream, place) in streams {
                in_flight.insert_stream(key.clone(), stream.clone(), *place);
            }
        }
        for ((lane, subject), action) in &database.requests {
            in_flight.request(Request { lane: lane.clone(), subject: subject.clone(), action: *action });
        }
        Host {
            in_flight,
            redelivering: Vec::new(),
            bad: BTreeMap::new(),
            running: Vec::new(),
            readings: Vec::new(),
            plan: None,
            paused: None,
        }
    }

    /// Pauses one tenant, or none.
    pub(super) fn pause(&mut self, tenant: Option<TenantId>) {
        let pause = |tenant: &TenantId| Pause {
            tenant: Some(tenant.as_shared()),
            key: None,
            reason: Reason::new("paused", "by a test"),
        };
        self.in_flight.pause(tenant.iter().map(pause).collect());
        self.paused = tenant;
    }

    pub(super) fn begin(&mut self, (lane, work): (LaneKey, LaneWork)) {
        assert_ne!(self.paused.as_ref(), Some(&lane.tenant), "a paused lane begins");
        self.running.push((lane, work));
    }

    pub(super) fn finish(&mut self, index: usize, handled: usize, ending: Ending, now: SystemTime) {
        let (key, work) = self.running.swap_remove(index);
        let handled = handled.min(work.events.len());
        let mut results = Handled::default();
        let mut parked = work.parked.as_deref().cloned().unwrap_or_default();
        let mut skipped = false;
        for event in &work.events[..handled] {
            let stream: Arc<str> = (*event.stream).into();
            if let Some(place) = parked.get_mut(&stream) {
                *place = place.passed(event.version);
                results.moved(stream, *place);
            } else if work.skip.as_ref().is_some_and(|skip| skip.position == event.position) {
                results.letters.push(event.position);
                skipped = true;
            } else {
                match self.bad.get(&event.position) {
                    None => results.positions.push(event.position),
                    Some(Bad::Letter) => results.letters.push(event.position),
                    Some(Bad::Park) => {
                        let place = StreamPlace::before(event.version).passed(event.version);
                        parked.insert(stream.clone(), place);
                        results.moved(stream, place);
                    }
                }
            }
        }
        let streams = results.streams.clone();
        self.in_flight.finish(&key, work, RunEnd { handled, ending, streams, skipped, results }, now);
    }

    pub(super) fn start_redelivery(&mut self, now: SystemTime, most: usize) -> bool {
        let Ok((lane, redelivery)) = self.in_flight.start_redelivery(now, most, |_| None) else { return false };
        assert_ne!(self.paused.as_ref(), Some(&lane.tenant), "a paused lane handles a letter again");
        assert!(self.running.iter().all(|(other, _)| *other != lane), "a lane handles two things at once");
        self.redelivering.push((lane, redelivery));
        true
    }

    /// Ends a redelivery after some of its events. The rest is postponed if `postpones` is set.
    pub(super) fn finish_redelivery(&mut self, index: usize, log: &Log, most: usize, postpones: bool, now: SystemTime) {
        let (key, redelivery) = self.redelivering.swap_remove(index);
        let again = postpones.then_some((Duration::from_millis(2), true));
        let mut results = Handled::default();
        let (handled, is_answered, again) = match &redelivery.subject {
            Redelivered::Letters(positions) if redelivery.action != RequestAction::Retry => {
                results.discarded.clone_from(positions);
                results.answered.clone_from(positions);
                (positions.len(), false, None)
            }
            Redelivered::Letters(positions) => {
                let some = &positions[..most.min(positions.len())];
                for position in some {
                    if self.bad.contains_key(position) || redelivery.refused.is_some() {
                        results.letters.push(*position);
                    } else {
                        results.answered.push(*position);
                        results.positions.push(*position);
                    }
                }
                (some.len(), false, again)
            }
            Redelivered::Stream(stream, place, _) if redelivery.action != RequestAction::Retry => {
                let events = log.stream(&key, stream, place.next..=place.last);
                let all = redelivery.action == RequestAction::DiscardAll;
                let discarded = &events[..if all { events.len() } else { events.len().min(1) }];
                results.discarded = discarded.iter().map(|event| event.position).collect();
                let next = discarded.last().map_or(place.next, |event| event.version + 1);
                let events = place.events - discarded.len() as u64;
                results.moved(stream.clone(), StreamPlace { next, events, ..*place });
                results.answered_streams.push(stream.clone());
                (0, true, None)
            }
            Redelivered::Stream(stream, place, at_once) => {
                let events = log.stream(&key, stream, place.next..=place.last);
                let (mut handled, mut failed) = (0, false);
                for event in events.iter().take(most.min(*at_once)) {
                    match self.bad.get(&event.position) {
                        _ if redelivery.refused.is_some() => failed = true,
                        Some(Bad::Park) => failed = true,
                        Some(Bad::Letter) => results.letters.push(event.position),
                        None => results.positions.push(event.position),
                    }
                    if failed {
                        break;
                    }
                    handled += 1;
                }
                let next = events.get(handled).map_or(place.last, |event| event.version);
                let place = StreamPlace { next, events: place.events - handled as u64, ..*place };
                let is_answered = failed || place.events == 0;
                if is_answered {
                    results.answered_streams.push(stream.clone());
                }
                if handled > 0 || is_answered {
                    results.moved(stream.clone(), place);
                }
                (handled, is_answered, again.filter(|_| !is_answered))
            }
        };
        let streams = results.streams.clone();
        let end = RedeliveryEnd { handled, is_answered, again, streams, results };
        self.in_flight.finish_redelivery(&key, redelivery, end, now);
    }

    /// Takes one step of a lane's reading. Returns whether the reading has ended.
    pub(super) fn read(&mut self, index: usize, log: &Log) -> bool {
        let (reading, gather, shed) = &mut self.readings[index];
        if let Some((difference, limit)) = gather.next() {
            let limit = if shed.is_some() { 2 } else { limit };
            let mut events = log.difference(difference, Some(&reading.lane.tenant), limit);
            let (more, last) = (events.len() == limit, events.last().map(|e| e.position));
            if let Some(shed) = shed {
                shed.extend(events.drain(..).map(|e| e.position));
            }
            gather.read(last, events, more);
            return false;
        }
        let (reading, gather, shed) = self.readings.swap_remove(index);
        let results = shed.map(|positions| Handled { positions, shed: true, ..Handled::default() });
        self.in_flight.finish_reading(&reading, gather.finish(), results);
        true
    }
}

/// The number of kinds of steps.
const KINDS: u32 = 42;

pub(super) struct World {
    pub(super) log: Log,
    pub(super) database: Database,
    pub(super) host: Host,
    pub(super) poison: BTreeSet<i64>,
    pub(super) now: SystemTime,
    pub(super) bounds: InFlightBounds,
    /// Whether every lane exceeds its share. Otherwise lanes do so from time to time.
    pub(super) exceeds_share: bool,
    /// Whether an event whose results are rejected alone is set aside.
    pub(super) sets_aside: bool,
}

impl World {
    pub(super) fn new() -> Self {
        World::bounded(BOUNDS)
    }

    /// A world with an empty log, and with these bounds of the tracker.
    pub(super) fn bounded(bounds: InFlightBounds) -> Self {
        let database = Database {
            cursor: Progress::at(Snapshot::nothing()),
            rows: BTreeMap::new(),
            handled: BTreeMap::new(),
            shed: BTreeMap::new(),
            rejected: BTreeSet::new(),
            letters: BTreeMap::new(),
            discarded: BTreeMap::new(),
            parked: BTreeMap::new(),
            requests: BTreeMap::new(),
            handled_again: BTreeSet::new(),
        };
        let host = Host::start(&database, bounds);
        let log = Log { next_xid: 3, ..Log::default() };
        World {
            log,
            database,
            host,
            poison: BTreeSet::new(),
            now: SystemTime::UNIX_EPOCH,
            bounds,
            exceeds_share: false,
            sets_aside: false,
        }
    }

    /// Reads the next page of at most `limit` events, and dispatches it.
    pub(super) fn dispatch(&mut self, limit: usize) {
        if self.host.in_flight.pages_open() >= 4 || self.host.in_flight.full().is_some() {
            return;
        }
        let page = self.log.page(self.host.in_flight.tail(), limit);
        let mut lanes: Vec<(LaneKey, Vec<Arc<Event>>)> = Vec::new();
        for event in &page.events {
            let key = lane(&event.tenant);
            match lanes.iter_mut().find(|(other, _)| *other == key) {
                Some((_, events)) => events.push(event.clone()),
                None => lanes.push((key, vec![event.clone()])),
            }
        }
        // A lane that exceeds its share is detached if it is behind.
        let exceeds_share = self.exceeds_share || self.log.next_position % 5 == 0;
        self.host.in_flight.dispatch(&page, false, lanes, |_| exceeds_share);
    }

    /// Whether the processor sheds.
    pub(super) fn is_shedding(&self) -> bool {
        self.bounds.lane_events < usize::MAX
    }

    pub(super) fn begin_reading(&mut self, reading: LaneReading, sheds: bool) {
        assert_ne!(self.host.paused.as_ref(), Some(&reading.lane.tenant), "a paused lane reads");
        let gather = if sheds { reading.gather_all() } else { reading.gather() };
        self.host.readings.push((reading, gather, sheds.then(Vec::new)));
    }

    /// Jumps to the head of the log.
    pub(super) fn jump(&mut self, limit: usize) {
        let mut at = self.host.in_flight.tail().clone();
        let head = self.log.snapshot();
        let mut shed: BTreeMap<LaneKey, Vec<i64>> = BTreeMap::new();
        while !at.seen().covers(&head) {
            let after = if at.is_boundary() { Progress::entering(at.seen().clone(), head.clone()) } else { at };
            let page = self.log.page(&after, limit);
            for event in &page.events {
                shed.entry(lane(&event.tenant)).or_default().push(event.position);
            }
            at = page.to;
        }
        let results = |positions| Handled { positions, shed: true, ..Handled::default() };
        self.host.in_flight.shed_to(at, shed.into_iter().map(|(key, positions)| (key, results(positions))).collect());
    }

    pub(super) fn plan(&mut self, patience: Duration, store: bool) {
        self.plan_while(0, patience, store);
    }

    /// The same while some of the running lanes wait for a commit.
    pub(super) fn plan_while(&mut self, runs_waiting: usize, patience: Duration, store: bool) {
        if self.host.plan.is_none() {
            let patience = Patience { first: patience, last: patience };
            self.host.plan = self.host.in_flight.plan(self.now, patience, store, runs_waiting);
        }
    }

    pub(super) fn commit(&mut self) -> bool {
        let Some(plan) = self.host.plan.take() else { return false };
        match self.database.commit(&plan, &self.poison) {
            Ok(()) => self.host.in_flight.committed(plan),
            Err(()) => {
                let rejection = CommitRejection { class: "refused-commit", why: "poison", sets_aside: self.sets_aside };
                self.host.in_flight.rejected(plan, None, &rejection);
            }
        }
        self.database.check(&self.log);
        true
    }

    /// Takes one step. The remainder of `op` chooses its kind, the rest its details.
    pub(super) fn step(&mut self, op: u32) {
        let random = op / KINDS;
        let pick = |n: usize| random as usize % n;
        self.now += Duration::from_millis(1);
        match op % KINDS {
            0..=4 => self.log.begin_random(random),
            5..=8 => self.log.end(random, true),
            9 => self.log.end(random, false),
            10..=12 => self.dispatch(pick(6) + 1),
            13..=15 => {
                // From time to time the lane's tenant is throttled.
                let until = self.now + Duration::from_millis(2);
                let throttle =
                    |_: &LaneKey| random.is_multiple_of(4).then(|| (until, Reason::new("throttled", "by a test")));
                if let Some(started) = self.host.in_flight.start(throttle) {
                    self.host.begin(started);
                }
            }
            16..=19 if !self.host.running.is_empty() => {
                let index = pick(self.host.running.len());
                self.host.finish(index, usize::MAX, Ending::Handled, self.now);
            }
            20 if !self.host.running.is_empty() => {
                let index = pick(self.host.running.len());
                self.host.finish(index, pick(3), Ending::Handled, self.now);
            }
            21 if !self.host.running.is_empty() => {
                let reason = Reason::new("test", "stopped");
                let at = self.now + Duration::from_millis(3);
                let ending = match random & 3 {
                    0 | 2 => Ending::Stopped(LaneState::Blocked(reason)),
                    1 => Ending::Stopped(LaneState::Retrying { at, reason }),
                    _ => Ending::Postponed(LaneState::Retrying { at, reason }),
                };
                let index = pick(self.host.running.len());
                let events = self.host.running[index].1.events.len();
                self.host.finish(index, pick(events), ending, self.now);
            }
            22 => self.plan(Duration::ZERO, true),
            23 => self.plan_while(pick(self.host.running.len() + 1), Duration::from_secs(9), false),
            24..=26 => {
                self.commit();
            }
            27 => {
                if let Some(reading) = self.host.in_flight.next_reading(self.now, pick(5) + 1, |_| false) {
                    let sheds = self.is_shedding() && random & 32 == 0;
                    self.begin_reading(reading, sheds);
                }
            }
            28 | 29 if !self.host.readings.is_empty() => {
                let index = pick(self.host.readings.len());
                self.host.read(index, &self.log);
            }
            30 if self.is_shedding() && random.is_multiple_of(4) => self.jump(pick(3) + 1),
            30 if random.is_multiple_of(3) => {
                // A person pauses a lane, or lifts the pause.
                self.host.pause((random & 8 == 0).then(|| tenant(pick(LANES))));
            }
            30 => {
                let rows: Vec<LaneKey> = self.host.in_flight.rows().map(|(key, _)| key.clone()).collect();
                if let Some(key) = rows.get(pick(LANES)) {
                    // A person resumes it, first in the database, then in the host.
                    if let Some(row) = self.database.rows.get_mut(key) {
                        row.state = LaneState::CatchingUp;
                    }
                    self.host.in_flight.resume(key, None);
                }
            }
            31 if random.is_multiple_of(4) => {
                // The host crashes; the commit under way may have reached the database or not.
                if random & 64 == 0
                    && let Some(plan) = self.host.plan.take()
                {
                    let _ = self.database.commit(&plan, &self.poison);
                }
                self.database.check(&self.log);
                let bad = std::mem::take(&mut self.host.bad);
                self.host = Host { bad, ..Host::start(&self.database, self.bounds) };
            }
            31 => {
                let newest = self.log.next_position;
                self.poison.insert(newest - i64::from(random % 3));
            }
            32 | 33 => _ = self.host.start_redelivery(self.now, pick(3) + 1),
            34 | 35 if !self.host.redelivering.is_empty() => {
                let (index, most) = (pick(self.host.redelivering.len()), pick(4));
                self.host.finish_redelivery(index, &self.log, most, random & 2048 == 0, self.now);
            }
            36 => self.request_letter(random),
            37 => self.request_stream(random),
            38 => {
                // A later version of the code handles it.
                let bad: Vec<i64> = self.host.bad.keys().copied().collect();
                if let Some(position) = bad.get(pick(bad.len().max(1))) {
                    self.host.bad.remove(position);
                }
            }
            39 if random.is_multiple_of(2) => {
                let bad = if random & 2 == 0 || self.is_shedding() { Bad::Letter } else { Bad::Park };
                self.host.bad.insert(self.log.next_position - i64::from(random % 3), bad);
            }
            39 => self.skip(random),
            40 => self.refuse_busy(random),
            41 => self.refuse_conflicts(random),
            _ => {}
        }
    }

    /// A person asks to handle a dead letter again, or to discard it.
    fn request_letter(&mut self, random: u32) {
        let letters: Vec<(LaneKey, i64)> =
            self.database.letters.iter().flat_map(|(key, of)| of.iter().map(|at| (key.clone(), *at))).collect();
        let Some((lane, position)) = letters.get(random as usize % letters.len().max(1)) else { return };
        let action = if random.is_multiple_of(3) { RequestAction::Discard } else { RequestAction::Retry };
        self.request(lane.clone(), SetAside::Letter(*position), action);
    }

    /// A person asks to drain a parked stream, or to discard its events.
    fn request_stream(&mut self, random: u32) {
        let parked = self.database.parked.iter();
        let streams: Vec<(LaneKey, Arc<str>)> =
            parked.flat_map(|(key, of)| of.keys().map(|stream| (key.clone(), stream.clone()))).collect();
        let Some((lane, stream)) = streams.get(random as usize % streams.len().max(1)) else { return };
        let action = match random % 5 {
            0 => RequestAction::Discard,
            1 => RequestAction::DiscardAll,
            _ => RequestAction::Retry,
        };
        self.request(lane.clone(), SetAside::Stream(stream.clone()), action);
    }

    /// Adds a request, unless there is one, first in the database, then in the host.
    fn request(&mut self, lane: LaneKey, subject: SetAside, action: RequestAction) {
        if let Entry::Vacant(entry) = self.database.requests.entry((lane.clone(), subject.clone())) {
            entry.insert(action);
            self.host.in_flight.request(Request { lane, subject, action });
        }
    }

    /// A person lets a blocked lane continue after the event before which it stopped.
    fn skip(&mut self, random: u32) {
        let blocked = self.database.rows.iter_mut().filter(|(_, row)| matches!(row.state, LaneState::Blocked(_)));
        let mut blocked: Vec<_> = blocked.filter(|(_, row)| row.event_position.is_some()).collect();
        let index = random as usize % blocked.len().max(1);
        let Some((key, row)) = blocked.get_mut(index) else { return };
        let Some(position) = row.event_position else { return };
        let skip = Arc::new(Skip { position, reason: Reason::new("test", "skipped") });
        (row.state, row.skip) = (LaneState::CatchingUp, Some(skip.clone()));
        self.host.in_flight.resume(key, Some(skip));
    }

    /// Commits events for one lane.
    pub(super) fn append(&mut self, lane: usize, events: usize) {
        self.log.begin(vec![(lane, 0); events], 0);
        self.log.end(0, true);
    }

    /// Commits an event for one lane that weighs a third of what its queue may hold.
    pub(super) fn append_large(&mut self, lane: usize) {
        self.log.begin([(lane, 0)], 49);
        self.log.end(0, true);
    }

    /// Starts the next lane; there must be one.
    pub(super) fn start(&mut self) {
        let started = self.host.in_flight.start(|_| None).unwrap();
        self.host.begin(started);
    }

    /// Starts every lane that can start, and finishes its work.
    pub(super) fn run(&mut self) {
        while let Some(started) = self.host.in_flight.start(|_| None) {
            self.host.begin(started);
        }
        while !self.host.running.is_empty() {
            self.host.finish(0, usize::MAX, Ending::Handled, self.now);
        }
    }

    /// Runs until nothing is left to do; only poisoned events still fail.
    pub(super) fn settle(&mut self) {
        self.host.pause(None);
        while self.log.transactions.iter().any(|t| t.running) {
            self.log.end(0, true);
        }
        for _ in 0..5_000 {
            self.now += Duration::from_secs(1);
            self.dispatch(3);
            self.run();
            while self.host.start_redelivery(self.now, 3) {}
            while !self.host.redelivering.is_empty() {
                self.host.finish_redelivery(0, &self.log, 2, false, self.now);
            }
            self.plan(Duration::ZERO, true);
            let committed = self.commit();
            let mut read = self.host.in_flight.has_requests();
            while let Some(reading) = self.host.in_flight.next_reading(self.now, 4, |_| false) {
                self.begin_reading(reading, false);
            }
            while !self.host.readings.is_empty() {
                read = true;
                self.host.read(0, &self.log);
            }
            let blocked: Vec<(LaneKey, bool)> = self
                .host
                .in_flight
                .rows()
                .filter(|(_, row)| row.state.needs_attention())
                .map(|(key, _)| {
                    let reason = self.database.rows.get(key).and_then(|row| row.state.reason());
                    (key.clone(), reason.is_some_and(|reason| reason.class == "refused-commit"))
                })
                .collect();
            // Lanes that the handler blocked are resumed; lanes at a poisoned event stay.
            for (key, poisoned) in &blocked {
                if !poisoned {
                    self.database.rows.get_mut(key).unwrap().state = LaneState::CatchingUp;
                    self.host.in_flight.resume(key, None);
                    read = true;
                }
            }
            let at_head = self.host.in_flight.tail().seen().covers(&self.log.snapshot());
            if at_head && !committed && !read && !self.host.in_flight.is_busy() {
                return self.check_end();
            }
        }
        panic!("work never ends; rows {:?}", self.database.rows);
    }

    /// Stops rejecting events, and resumes all lanes.
    pub(super) fn cure(&mut self) {
        self.poison.clear();
        for (key, row) in &mut self.database.rows {
            row.state = LaneState::CatchingUp;
            self.host.in_flight.resume(key, None);
        }
    }

    /// Checks the state in which nothing is left to do: only lanes at poisoned events are behind.
    pub(super) fn check_end(&self) {
        self.database.check(&self.log);
        assert_eq!(self.database.requests, BTreeMap::new(), "a request is never answered");
        assert_eq!(self.host.in_flight.ready(self.now), None, "a lane with work stands still");
        let everything = self.log.snapshot();
        assert!(self.host.in_flight.settled().seen().covers(&everything), "the tail has seen everything");
        for (key, row) in &self.database.rows {
            // A lane that is still behind is right before a poisoned event.
            let next = self.log.committed().into_iter().map(|(_, e)| e.position);
            let covered = self.log.covered(key, &row.progress);
            let waiting: Vec<i64> = next
                .filter(|p| !covered.contains(p))
                .filter(|p| self.log.committed().iter().any(|(_, e)| e.position == *p && e.tenant == key.tenant))
                .collect();
            assert!(
                waiting.iter().any(|p| self.poison.contains(p)),
                "{key} is behind at {row:?} without a poisoned event; unhandled {waiting:?}"
            );
            assert!(row.event_position.is_some_and(|p| self.poison.contains(&p)), "{key} names its culprit: {row:?}");
        }
    }
}
