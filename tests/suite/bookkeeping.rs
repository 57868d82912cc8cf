// The book of pages and exceptions against a model of the log and the database: no database, no clock, every interleaving.
//
// The model has transactions that begin, append, commit or roll back in any order, and so snapshots with gaps; a source that reads differences
// between them as the real one does; and a database that holds a cursor, exception rows and what each lane has handled. After every
// commit each lane must have handled exactly the events that its row, or else the cursor, covers, each stream in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use sandmill::{
    model::{
        cursor::{Progress, Snapshot},
        event::Event,
        handler::Reason,
        ids::LaneKey,
    },
    processor::{
        book::{Book, Bounds, Ending, Patience, Plan, Reading, Results, Work},
        exceptions::{Exception, LaneState},
        gather::Gather,
        pauses::Pause,
    },
};

mod log;

use log::{LANES, Log, STREAMS, lane, tenant};

/// Little enough that lanes are detached, commits do not take everything, and what waits for them keeps others from starting.
const BOUNDS: Bounds =
    Bounds { lane_bytes: 600, lane_events: usize::MAX, detaches: true, commit_bytes: 5, waiting_bytes: 8 };
/// The bounds of a processor that does not send lanes away, and of one that skips.
const PAUSING: Bounds = Bounds { detaches: false, ..BOUNDS };
const SHEDDING: Bounds = Bounds { lane_events: 3, ..BOUNDS };

/// The positions of the events that a piece of work handled, or that were skipped instead.
#[derive(Debug, Default)]
struct Handled {
    positions: Vec<i64>,
    skipped: bool,
}

impl Results for Handled {
    fn weight(&self) -> usize {
        self.positions.len()
    }
}

/// What the database holds.
struct Database {
    cursor: Progress,
    rows: BTreeMap<LaneKey, Exception>,
    handled: BTreeMap<LaneKey, Vec<i64>>,
    skipped: BTreeMap<LaneKey, BTreeSet<i64>>,
    /// Events that it ever refused.
    refused: BTreeSet<i64>,
}

impl Database {
    /// Carries a plan out, or refuses it because of a poisoned event.
    fn commit(&mut self, plan: &Plan<Handled>, poison: &BTreeSet<i64>) -> Result<(), ()> {
        assert_eq!(plan.from, self.cursor, "the cursor is compared");
        let handled = plan.results.iter().filter(|(_, handled)| !handled.skipped);
        let positions = handled.flat_map(|(_, handled)| &handled.positions);
        let refused: Vec<i64> = positions.copied().filter(|position| poison.contains(position)).collect();
        if !refused.is_empty() {
            self.refused.extend(refused);
            return Err(());
        }
        for (key, row) in &plan.left {
            assert!(self.rows.insert(key.clone(), row.clone()).is_none(), "{key} had a row already");
        }
        for (key, before, row) in &plan.moved {
            let old = self.rows.insert(key.clone(), row.clone());
            assert_eq!(old.map(|row| row.progress).as_ref(), Some(before), "the row of {key} is compared");
        }
        for (key, before) in &plan.rejoined {
            let old = self.rows.remove(key);
            assert_eq!(old.map(|row| row.progress).as_ref(), Some(before), "the row of {key} is compared");
        }
        let blocked =
            plan.left.iter().map(|(key, row)| (key, row)).chain(plan.moved.iter().map(|(key, _, row)| (key, row)));
        for (key, row) in blocked {
            let refused = matches!(&row.state, LaneState::Blocked(reason) if reason.class == "refused-commit");
            let named = row.event_position.is_some_and(|position| self.refused.contains(&position));
            assert!(named || !refused, "{key} blames an event that was never refused: {row:?}");
        }
        for (key, handled) in &plan.results {
            if handled.skipped {
                let skipped = self.skipped.entry(key.clone()).or_default();
                for position in &handled.positions {
                    assert!(skipped.insert(*position), "{key} skipped {position} twice");
                }
            } else {
                self.handled.entry(key.clone()).or_default().extend(&handled.positions);
            }
        }
        self.cursor = plan.to.clone();
        Ok(())
    }

    /// Each lane has handled or skipped exactly what its row, or else the cursor, covers; each stream in order.
    fn check(&self, log: &Log) {
        for index in 0..LANES {
            let key = lane(&tenant(index));
            let progress = self.rows.get(&key).map_or(&self.cursor, |row| &row.progress);
            let handled = self.handled.get(&key).cloned().unwrap_or_default();
            let set: BTreeSet<i64> = handled.iter().copied().collect();
            assert_eq!(set.len(), handled.len(), "{key} handled something twice: {handled:?}");
            let skipped = self.skipped.get(&key).cloned().unwrap_or_default();
            assert!(set.is_disjoint(&skipped), "{key} handled what it skipped: {handled:?} and {skipped:?}");
            let both: BTreeSet<i64> = set.union(&skipped).copied().collect();
            assert_eq!(both, log.covered(&key, progress), "{key} at {progress}");
            for stream in 0..STREAMS {
                let of_stream: BTreeSet<i64> = log
                    .committed()
                    .iter()
                    .filter(|(_, e)| e.tenant == key.tenant && *e.stream == *stream.to_string())
                    .map(|(_, e)| e.position)
                    .collect();
                let order: Vec<i64> = handled.iter().copied().filter(|p| of_stream.contains(p)).collect();
                assert!(order.is_sorted(), "{key} stream {stream} out of order: {order:?}");
            }
        }
    }
}

/// The host: its book, and what is under way.
struct Host {
    book: Book<Handled>,
    running: Vec<(LaneKey, Work)>,
    /// With the positions that it skips, where it does.
    readings: Vec<(Reading, Gather, Option<Vec<i64>>)>,
    plan: Option<Plan<Handled>>,
}

impl Host {
    fn start(database: &Database, bounds: Bounds) -> Self {
        Host {
            book: Book::new(database.cursor.clone(), database.rows.clone(), bounds),
            running: Vec::new(),
            readings: Vec::new(),
            plan: None,
        }
    }

    fn finish(&mut self, index: usize, handled: usize, ending: Ending, now: SystemTime) {
        let (key, work) = self.running.swap_remove(index);
        let handled = handled.min(work.events.len());
        let positions = work.events[..handled].iter().map(|e| e.position).collect();
        let results = Handled { positions, skipped: false };
        self.book.finish(&key, work, handled, results, ending, now);
    }

    /// One step of a lane's own reading; true when it came to its end.
    fn read(&mut self, index: usize, log: &Log) -> bool {
        let (reading, gather, skipped) = &mut self.readings[index];
        if let Some((difference, limit)) = gather.next() {
            let limit = if skipped.is_some() { 2 } else { limit };
            let mut events = log.difference(difference, Some(&reading.lane.tenant), limit);
            let (more, last) = (events.len() == limit, events.last().map(|e| e.position));
            if let Some(skipped) = skipped {
                skipped.extend(events.drain(..).map(|e| e.position));
            }
            gather.read(last, events, more);
            return false;
        }
        let (reading, gather, skipped) = self.readings.swap_remove(index);
        let results = skipped.map(|positions| Handled { positions, skipped: true });
        self.book.found(&reading, gather.finish(), results);
        true
    }
}

struct World {
    log: Log,
    database: Database,
    host: Host,
    poison: BTreeSet<i64>,
    now: SystemTime,
    bounds: Bounds,
}

impl World {
    fn new() -> Self {
        World::bounded(BOUNDS)
    }

    fn bounded(bounds: Bounds) -> Self {
        let database = Database {
            cursor: Progress::at(Snapshot::nothing()),
            rows: BTreeMap::new(),
            handled: BTreeMap::new(),
            skipped: BTreeMap::new(),
            refused: BTreeSet::new(),
        };
        let host = Host::start(&database, bounds);
        let log = Log { next_xid: 3, ..Log::default() };
        World { log, database, host, poison: BTreeSet::new(), now: SystemTime::UNIX_EPOCH, bounds }
    }

    fn deal(&mut self, limit: usize) {
        if self.host.book.pages_open() >= 4 || self.host.book.full().is_some() {
            return;
        }
        let page = self.log.page(self.host.book.tail(), limit);
        let mut lanes: Vec<(LaneKey, Vec<Arc<Event>>)> = Vec::new();
        for event in &page.events {
            let key = lane(&event.tenant);
            match lanes.iter_mut().find(|(other, _)| *other == key) {
                Some((_, events)) => events.push(event.clone()),
                None => lanes.push((key, vec![event.clone()])),
            }
        }
        // Whoever is said to ask for too much reads for itself from then on.
        let over = self.log.next_position % 5 == 0;
        self.host.book.deal(&page, lanes, |_| over);
    }

    /// Whether a lane is to skip what it would read, and so whether it is a processor that skips.
    fn sheds(&self) -> bool {
        self.bounds.lane_events < usize::MAX
    }

    fn begin_reading(&mut self, reading: Reading, skips: bool) {
        let gather = if skips { reading.gather_all() } else { reading.gather() };
        self.host.readings.push((reading, gather, skips.then(Vec::new)));
    }

    /// Goes on at the head of the log.
    fn leap(&mut self, limit: usize) {
        let mut at = self.host.book.tail().clone();
        let head = self.log.snapshot();
        let mut skipped: BTreeMap<LaneKey, Vec<i64>> = BTreeMap::new();
        while !at.seen().covers(&head) {
            let after = if at.is_boundary() { Progress::entering(at.seen().clone(), head.clone()) } else { at };
            let page = self.log.page(&after, limit);
            for event in &page.events {
                skipped.entry(lane(&event.tenant)).or_default().push(event.position);
            }
            at = page.to;
        }
        let results = |positions| Handled { positions, skipped: true };
        self.host.book.leap(at, skipped.into_iter().map(|(key, positions)| (key, results(positions))).collect());
    }

    fn plan(&mut self, patience: Duration, store: bool) {
        if self.host.plan.is_none() {
            let patience = Patience { first: patience, last: patience };
            self.host.plan = self.host.book.plan(self.now, patience, store);
        }
    }

    fn commit(&mut self) -> bool {
        let Some(plan) = self.host.plan.take() else { return false };
        match self.database.commit(&plan, &self.poison) {
            Ok(()) => self.host.book.committed(plan),
            Err(()) => {
                self.host.book.refused(plan, None, "refused-commit", "poison");
            }
        }
        self.database.check(&self.log);
        true
    }

    fn step(&mut self, op: u32) {
        let random = op >> 5;
        let pick = |n: usize| random as usize % n;
        self.now += Duration::from_millis(1);
        match op % 32 {
            0..=4 => self.log.begin(random),
            5..=8 => self.log.end(random, true),
            9 => self.log.end(random, false),
            10..=12 => self.deal(pick(6) + 1),
            13..=15 => {
                // Now and then a lane's tenant has used up what it may use in a second.
                let until = self.now + Duration::from_millis(2);
                let held =
                    |_: &LaneKey| random.is_multiple_of(4).then(|| (until, Reason::new("throttled", "by a test")));
                if let Some(started) = self.host.book.start(held) {
                    self.host.running.push(started);
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
                let state = match random & 1 {
                    0 => LaneState::Blocked(reason),
                    _ => LaneState::Retrying { at: self.now + Duration::from_millis(3), reason },
                };
                let index = pick(self.host.running.len());
                let events = self.host.running[index].1.events.len();
                self.host.finish(index, pick(events), Ending::Stopped(state), self.now);
            }
            22 => self.plan(Duration::ZERO, true),
            23 => self.plan(Duration::from_secs(9), false),
            24..=26 => {
                self.commit();
            }
            27 => {
                if let Some(reading) = self.host.book.next_reading(self.now, pick(5) + 1) {
                    let skips = self.sheds() && random & 32 == 0;
                    self.begin_reading(reading, skips);
                }
            }
            28 | 29 if !self.host.readings.is_empty() => {
                let index = pick(self.host.readings.len());
                self.host.read(index, &self.log);
            }
            30 if self.sheds() && random.is_multiple_of(4) => self.leap(pick(3) + 1),
            30 if random.is_multiple_of(3) => {
                // A person tells a lane to wait, or lifts that again.
                let tenant = tenant(pick(LANES)).as_shared();
                let pause = Pause { tenant: Some(tenant), key: None, reason: Reason::new("paused", "by a test") };
                self.host.book.pause(if random & 8 == 0 { vec![pause] } else { Vec::new() });
            }
            30 => {
                let rows: Vec<LaneKey> = self.host.book.rows().map(|(key, _)| key.clone()).collect();
                if let Some(key) = rows.get(pick(LANES)) {
                    // A person lets it go on: first in the database, then the host learns of it.
                    if let Some(row) = self.database.rows.get_mut(key) {
                        row.state = LaneState::CatchingUp;
                    }
                    self.host.book.resume(key);
                }
            }
            31 if random.is_multiple_of(4) => {
                // The host dies; the commit under way may have reached the database or not.
                if random & 64 == 0
                    && let Some(plan) = self.host.plan.take()
                {
                    let _ = self.database.commit(&plan, &self.poison);
                }
                self.database.check(&self.log);
                self.host = Host::start(&self.database, self.bounds);
            }
            31 => {
                let newest = self.log.next_position;
                self.poison.insert(newest - i64::from(random % 3));
            }
            _ => {}
        }
    }

    /// Commits events, which follow from a number: see [`Log::begin`].
    fn append(&mut self, random: u32) {
        self.log.begin(random);
        self.log.end(0, true);
    }

    /// Starts the next lane, which there is.
    fn start(&mut self) {
        let started = self.host.book.start(|_| None).unwrap();
        self.host.running.push(started);
    }

    /// Runs every lane that can be started, to its end.
    fn run(&mut self) {
        while let Some(started) = self.host.book.start(|_| None) {
            self.host.running.push(started);
        }
        while !self.host.running.is_empty() {
            self.host.finish(0, usize::MAX, Ending::Handled, self.now);
        }
    }

    /// Lets everything come to its end: no more failures but those in the data.
    fn settle(&mut self) {
        self.host.book.pause(Vec::new());
        while self.log.transactions.iter().any(|t| t.running) {
            self.log.end(0, true);
        }
        for _ in 0..5_000 {
            self.now += Duration::from_secs(1);
            self.deal(3);
            self.run();
            self.plan(Duration::ZERO, true);
            let committed = self.commit();
            let mut read = false;
            while let Some(reading) = self.host.book.next_reading(self.now, 4) {
                self.begin_reading(reading, false);
            }
            while !self.host.readings.is_empty() {
                read = true;
                self.host.read(0, &self.log);
            }
            let blocked: Vec<(LaneKey, bool)> = self
                .host
                .book
                .rows()
                .filter_map(|(key, row)| match &row.state {
                    LaneState::Blocked(reason) | LaneState::Paused(reason) => {
                        Some((key.clone(), reason.class == "refused-commit"))
                    }
                    _ => None,
                })
                .collect();
            // Lanes that the handler blocked are let go; those with poison stay.
            for (key, poisoned) in &blocked {
                if !poisoned {
                    self.database.rows.get_mut(key).unwrap().state = LaneState::CatchingUp;
                    self.host.book.resume(key);
                    read = true;
                }
            }
            let level = self.host.book.tail().seen().covers(&self.log.snapshot());
            if level && !committed && !read && !self.host.book.is_busy() {
                return self.check_end();
            }
        }
        panic!("it does not come to an end; rows {:?}", self.database.rows);
    }

    /// The database refuses nothing any more, and a person lets all lanes go on.
    fn cure(&mut self) {
        self.poison.clear();
        for (key, row) in &mut self.database.rows {
            row.state = LaneState::CatchingUp;
            self.host.book.resume(key);
        }
    }

    fn check_end(&self) {
        self.database.check(&self.log);
        assert_eq!(self.host.book.ready(self.now), None, "whoever has work and waits for nothing would have moved");
        let everything = self.log.snapshot();
        assert!(self.host.book.settled().seen().covers(&everything), "the tail has seen everything");
        for (key, row) in &self.database.rows {
            // Whoever is still behind stands right before an event that the database refuses.
            let next = self.log.committed().into_iter().map(|(_, e)| e.position);
            let covered = self.log.covered(key, &row.progress);
            let waiting: Vec<i64> = next
                .filter(|p| !covered.contains(p))
                .filter(|p| self.log.committed().iter().any(|(_, e)| e.position == *p && e.tenant == key.tenant))
                .collect();
            assert!(
                waiting.iter().any(|p| self.poison.contains(p)),
                "{key} is behind at {row:?} without poison; waiting {waiting:?}"
            );
            assert!(row.event_position.is_some_and(|p| self.poison.contains(&p)), "{key} names its culprit: {row:?}");
        }
    }
}

/// A lane that is watched comes back to the tail and gets more than one event at once there: none of them is blamed for another.
#[test]
fn a_lane_that_is_watched_is_blamed_for_one_event_alone() {
    let mut world = World::new();
    // One event of the first lane, refused.
    world.log.begin(0);
    world.poison.insert(1);
    world.settle();
    world.cure();
    // It handles that event, and then reads that there is no other.
    for events in [1, 0] {
        let reading = world.host.book.next_reading(world.now, 9).unwrap();
        world.begin_reading(reading, false);
        while !world.host.read(0, &world.log) {}
        if events == 1 {
            world.run();
            world.plan(Duration::ZERO, true);
            assert!(world.commit());
        }
    }
    // Three more in one page, the last refused.
    world.append(2);
    world.poison.insert(4);
    world.deal(9);
    world.run();
    world.settle();
}

/// Lanes behind take turns in reading, however much the first of them has to read.
#[test]
fn lanes_behind_take_turns() {
    let mut world = World::new();
    // Three events of the first lane and one of the second, refused until somebody sees to it.
    world.log.begin(2);
    world.log.begin(1 << 3);
    world.poison.extend([1, 4]);
    world.settle();
    world.cure();
    let mut turns = Vec::new();
    for _ in 0..4 {
        let reading = world.host.book.next_reading(world.now, 1).unwrap();
        turns.push(reading.lane.tenant.to_string());
        world.begin_reading(reading, false);
        while !world.host.read(0, &world.log) {}
        world.run();
        world.plan(Duration::ZERO, true);
        assert!(world.commit());
    }
    assert_eq!(turns, ["lane0", "lane1", "lane0", "lane1"]);
}

/// A commit takes as much as it may, and what found no room begins the next one, however much the first lanes have again by then.
#[test]
fn what_finds_no_room_in_a_commit_begins_the_next() {
    // What makes the log append three events to one lane.
    let three =
        |lane: usize| (0..).find(|r: &u32| r % 3 == 2 && (0..3).all(|i| (r >> (3 + 5 * i)) as usize % LANES == lane));
    let mut world = World::new();
    let mut commits = Vec::new();
    for _ in 0..4 {
        // Two lanes' events are more than a commit takes.
        for lane in 0..3 {
            world.log.begin(three(lane).unwrap());
        }
        while world.log.transactions.iter().any(|t| t.running) {
            world.log.end(0, true);
        }
        world.deal(99);
        world.run();
        world.plan(Duration::ZERO, true);
        let plan = world.host.plan.as_ref().unwrap();
        let mut lanes: Vec<String> = plan.results.iter().map(|(key, _)| key.tenant.to_string()).collect();
        lanes.dedup();
        commits.push(lanes.join(" "));
        assert!(world.commit());
    }
    assert_eq!(commits, ["lane0", "lane1", "lane2", "lane0"]);
    world.settle();
}

/// Pages are read ahead: whom only later ones concern is none of an earlier one's business.
#[test]
fn a_lane_of_a_later_page_is_not_left_behind_by_an_earlier_one() {
    let mut world = World::new();
    // An event of the first lane in each of two pages, and one of the second in a third.
    for random in [0, 0, 9] {
        world.append(random);
        world.deal(9);
    }
    let (key, work) = world.host.book.start(|_| None).unwrap();
    world.host.running.push((key, work));
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(Duration::from_secs(9), false);
    assert!(world.commit());
    assert_eq!(world.database.rows, BTreeMap::new());
    world.settle();
}

/// All events are one tenant's: what the open pages hold is not too much for its lane, whatever one that is left behind may keep.
#[test]
fn a_lane_that_keeps_up_is_not_sent_to_read_for_itself() {
    let mut world = World::new();
    for _ in 0..4 {
        // An event of the first lane that weighs a third of what a lane may keep.
        world.append(99);
        world.deal(9);
    }
    while world.host.book.pages_open() > 0 {
        world.run();
        world.plan(Duration::ZERO, false);
        assert!(world.commit());
        assert_eq!(world.database.rows, BTreeMap::new());
    }
}

/// A slow lane may be all that a page concerns: those of later pages wait for it no longer than for one of their own.
#[test]
fn a_slow_lane_alone_in_its_page_holds_nobody_up() {
    let mut world = World::new();
    // An event of the first lane, and in the next page one of the second.
    for random in [0, 9] {
        world.append(random);
        world.deal(9);
    }
    for _ in 0..2 {
        world.start();
    }
    world.host.finish(1, usize::MAX, Ending::Handled, world.now);
    let patience = Duration::from_millis(3);
    world.plan(patience, false);
    assert!(!world.commit(), "it waits as long as it may");
    world.now += patience;
    world.plan(patience, false);
    assert!(world.commit());
    let behind: Vec<String> = world.database.rows.keys().map(|key| key.tenant.to_string()).collect();
    assert_eq!(behind, ["lane0"]);
    assert_eq!(world.database.handled[&lane(&tenant(1))], [2]);
}

/// What waits for its commit is counted every time, also where it says the same documents anew.
#[test]
fn nothing_starts_while_too_much_waits_for_its_commit() {
    let mut world = World::new();
    for _ in 0..4 {
        // Three events of the first lane.
        world.append(2);
        world.deal(9);
    }
    let mut started = 0;
    while let Some((key, work)) = world.host.book.start(|_| None) {
        started += 1;
        world.host.running.push((key, work));
        world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    }
    assert_eq!(started, 3);
    world.plan(Duration::ZERO, false);
    assert!(world.host.book.start(|_| None).is_none(), "a commit on its way still holds it");
    assert!(world.commit());
    assert!(world.host.book.start(|_| None).is_some());
}

/// A lane that is told to wait while it works: its row says so once what ran is committed, and is not moved on by it.
#[test]
fn a_lane_that_is_paused_while_it_works_stays_paused() {
    let pause = |world: &mut World, told: bool| {
        let tenant = Some(tenant(0).as_shared());
        let pause = Pause { tenant, key: None, reason: Reason::new("paused", "by a test") };
        world.host.book.pause(if told { vec![pause] } else { Vec::new() });
    };
    let mut world = World::new();
    world.append(2);
    world.deal(9);
    world.start();
    pause(&mut world, true);
    assert_eq!(world.host.book.rows_to_come(), 1, "the database does not know of it");
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let state = |world: &World| world.database.rows[&lane(&tenant(0))].state.clone();
    assert_eq!(state(&world), LaneState::CatchingUp, "it still works");
    world.host.finish(0, 1, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert!(matches!(state(&world), LaneState::Paused(_)), "{:?}", state(&world));
    assert_eq!(world.database.handled[&lane(&tenant(0))].len(), 1);
    assert!(world.host.book.next_reading(world.now, 9).is_none());

    // It goes on when nobody tells it to wait any more, also if its row was written after a person had decided that.
    pause(&mut world, false);
    world.settle();
    assert_eq!(world.database.rows, BTreeMap::new());

    // And one that is let go before its work has ended never waits.
    world.append(2);
    world.deal(9);
    world.start();
    pause(&mut world, true);
    pause(&mut world, false);
    world.host.finish(0, 1, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(state(&world), LaneState::CatchingUp);
    world.settle();
}

/// With the same events and the same slow lane: sent away where lanes are detached, kept and full where they are not.
#[test]
fn a_full_lane_is_detached_or_holds_the_page() {
    for bounds in [BOUNDS, PAUSING] {
        let mut world = World::bounded(bounds);
        // An event of each of the first two lanes; the first does not come to its end, and is left behind.
        for random in [0, 9] {
            world.append(random);
        }
        world.deal(9);
        for _ in 0..2 {
            world.start();
        }
        world.host.finish(1, usize::MAX, Ending::Handled, world.now);
        world.plan(Duration::ZERO, true);
        assert!(world.commit());
        let mut appended = 1;
        while world.host.book.full().is_none() && !world.host.book.is_detached(&lane(&tenant(0))) {
            // An event of the first lane that weighs a third of what a lane may keep.
            world.append(99);
            world.deal(9);
            appended += 1;
            world.plan(Duration::ZERO, true);
            world.commit();
            assert!(appended < 20);
        }
        let detached = world.host.book.is_detached(&lane(&tenant(0)));
        assert_eq!(detached, bounds.detaches, "after {appended} events");
        assert_eq!(world.host.book.full().is_some(), !bounds.detaches);
        world.host.finish(0, usize::MAX, Ending::Handled, world.now);
        world.settle();
        assert_eq!(world.database.handled[&lane(&tenant(0))].len(), appended);
    }
}

/// What a leap skips is of those lanes alone that have nothing left to do: one that works reads for itself, and handles it or skips it then.
#[test]
fn a_leap_is_for_lanes_that_have_nothing_to_do() {
    let mut world = World::bounded(SHEDDING);
    // Three events of the first lane, of which it works on; and then one of each of the first two.
    world.append(2);
    world.deal(9);
    world.start();
    for random in [0, 9] {
        world.append(random);
    }
    world.leap(1);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.skipped.keys().cloned().collect::<Vec<_>>(), [lane(&tenant(1))]);
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let reading = world.host.book.next_reading(world.now, 9).unwrap();
    world.begin_reading(reading, true);
    while !world.host.read(0, &world.log) {}
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.skipped[&lane(&tenant(0))].len(), 1);
    assert_eq!(world.database.rows, BTreeMap::new());
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_loses_repeats_and_reorders_nothing(
        before in prop::collection::vec(any::<u32>(), 1..400),
        after in prop::collection::vec(any::<u32>(), 0..100),
        bounds in prop::sample::select(vec![BOUNDS, PAUSING, SHEDDING]),
    ) {
        let mut world = World::bounded(bounds);
        for op in before {
            world.step(op);
        }
        world.settle();
        // Lanes that the database refused are watched with care for a while.
        world.cure();
        for op in after {
            world.step(op);
        }
        world.settle();
    }
}
