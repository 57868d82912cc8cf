// The tracker of pages and lane checkpoints against a model of the log and the database: no database, no clock, every interleaving.
//
// The model has transactions that begin, append, commit or roll back in any order, and so snapshots with gaps; a source that reads differences
// between them as the real one does; and a database that holds a cursor, lane checkpoints and what each lane has handled. After every
// commit each lane must have handled exactly the events that its row, or else the cursor, covers, each stream in order.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use sandmill::{
    model::{
        cursor::Progress,
        event::{Event, Page},
        handler::Reason,
        ids::LaneKey,
    },
    processor::{
        in_flight::{Ending, InFlight, Patience},
        lane_checkpoints::{LaneRow, LaneState, RowState},
        pauses::Pause,
    },
};

mod log;
mod world;

use log::{LANES, lane, tenant};
use world::{BOUNDS, Handled, PAUSING, SHEDDING, World};

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
        let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
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
    world.dispatch(9);
    world.run();
    world.settle();
}

/// Another processor handles the event that stopped it.
#[test]
fn a_lane_that_fails_while_it_is_replaced_waits_for_that_and_for_no_person() {
    let mut world = World::new();
    world.append(0);
    world.dispatch(9);
    world.start();
    let replaced = Reason::new("replaced", "by another processor");
    let pause = Pause { tenant: Some(tenant(0).as_shared()), key: None, reason: replaced.clone() };
    world.host.in_flight.pause(vec![pause]);
    let (blocked, now) = (Ending::Stopped(LaneState::Blocked(Reason::new("trap", "for a test"))), world.now);
    world.host.finish(0, 0, blocked, now);
    world.plan(Duration::ZERO, true);
    let plan = world.host.plan.as_ref().unwrap();
    let states: Vec<&LaneState> = plan.left.iter().map(|(_, checkpoint)| &checkpoint.state).collect();
    assert_eq!(states, [&LaneState::Paused(replaced)]);
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
        let reading = world.host.in_flight.next_reading(world.now, 1, |_| false).unwrap();
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
        world.dispatch(99);
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
        world.dispatch(9);
    }
    let (key, work) = world.host.in_flight.start(|_| None).unwrap();
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
        world.dispatch(9);
    }
    while world.host.in_flight.pages_open() > 0 {
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
        world.dispatch(9);
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

/// Where all lanes that run wait for a commit it is made at once, however patient it is with
/// others.
#[test]
fn lanes_that_wait_for_a_commit_are_left_behind_by_it() {
    let mut world = World::new();
    // An event of each of three lanes.
    for random in [0, 9, 18] {
        world.append(random);
    }
    world.dispatch(9);
    for _ in 0..3 {
        world.start();
    }
    let patience = Duration::from_secs(9);
    world.plan_while(3, patience, false);
    assert!(!world.commit(), "a commit of nothing would not help them");
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan_while(1, patience, false);
    assert!(!world.commit(), "one of two may end without it");
    world.plan_while(2, patience, false);
    assert!(world.commit());
    assert_eq!((world.database.handled.len(), world.database.rows.len()), (1, 2));
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(patience, false);
    assert!(world.commit());
    assert_eq!((world.database.handled.len(), world.database.rows.len()), (3, 0));
}

/// What waits for its commit is counted every time, also where it says the same documents anew.
#[test]
fn nothing_starts_while_too_much_waits_for_its_commit() {
    let mut world = World::new();
    for _ in 0..4 {
        // Three events of the first lane.
        world.append(2);
        world.dispatch(9);
    }
    let mut started = 0;
    while let Some((key, work)) = world.host.in_flight.start(|_| None) {
        started += 1;
        world.host.running.push((key, work));
        world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    }
    assert_eq!(started, 3);
    world.plan(Duration::ZERO, false);
    assert!(world.host.in_flight.start(|_| None).is_none(), "a commit on its way still holds it");
    assert!(world.commit());
    assert!(world.host.in_flight.start(|_| None).is_some());
}

/// A lane that is told to wait while it works: its row says so once what ran is committed, and is not moved on by it.
#[test]
fn a_lane_that_is_paused_while_it_works_stays_paused() {
    let pause = |world: &mut World, told: bool| world.host.pause(told.then(|| tenant(0)));
    let mut world = World::new();
    world.append(2);
    world.dispatch(9);
    world.start();
    pause(&mut world, true);
    assert_eq!(world.host.in_flight.rows_to_come(), 1, "the database does not know of it");
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let state = |world: &World| world.database.rows[&lane(&tenant(0))].state.clone();
    assert_eq!(state(&world), LaneState::CatchingUp, "it still works");
    world.host.finish(0, 1, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert!(matches!(state(&world), LaneState::Paused(_)), "{:?}", state(&world));
    assert_eq!(world.database.handled[&lane(&tenant(0))].len(), 1);
    assert!(world.host.in_flight.next_reading(world.now, 9, |_| false).is_none());

    // It goes on when nobody tells it to wait any more, also if its row was written after a person had decided that.
    pause(&mut world, false);
    world.settle();
    assert_eq!(world.database.rows, BTreeMap::new());

    // And one that is let go before its work has ended never waits.
    world.append(2);
    world.dispatch(9);
    world.start();
    pause(&mut world, true);
    pause(&mut world, false);
    world.host.finish(0, 1, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(state(&world), LaneState::CatchingUp);
    world.settle();
}

/// A lane that a person or a new version lets go on waits all the same while a pause holds it, and goes on when that is lifted.
#[test]
fn a_lane_that_is_let_go_on_still_waits_for_its_pause() {
    let mut world = World::new();
    world.append(2);
    world.dispatch(9);
    world.start();
    world.host.finish(0, 0, Ending::Stopped(LaneState::Blocked(Reason::new("test", "stopped"))), world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    world.host.pause(Some(tenant(0)));
    let resume = |world: &mut World| {
        world.database.rows.get_mut(&lane(&tenant(0))).unwrap().state = LaneState::CatchingUp;
        world.host.in_flight.resume(&lane(&tenant(0)));
    };
    for _ in 0..2 {
        resume(&mut world);
        assert!(world.host.in_flight.next_reading(world.now, 9, |_| false).is_none());
        world.plan(Duration::ZERO, true);
        assert!(world.commit());
        let state = &world.database.rows[&lane(&tenant(0))].state;
        assert!(matches!(state, LaneState::Paused(_)), "its row says why: {state:?}");
        // The settings are looked at again and again.
        world.host.pause(Some(tenant(0)));
    }
    assert_eq!(world.database.handled.get(&lane(&tenant(0))), None);
    world.settle();
    assert_eq!(world.database.handled[&lane(&tenant(0))].len(), 3);
}

/// A lane that is told to wait while it reads: what it reads then leads to nothing, though its row said that it waits before the reading ended.
#[test]
fn a_lane_that_is_paused_while_it_reads_stays_paused() {
    let mut world = World::new();
    leave_the_first_behind(&mut world);
    let reading = world.host.in_flight.next_reading(world.now, 1, |_| false).unwrap();
    world.begin_reading(reading, false);
    world.host.pause(Some(tenant(0)));
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    while !world.host.read(0, &world.log) {}
    assert!(world.host.in_flight.start(|_| None).is_none());
    let state = &world.database.rows[&lane(&tenant(0))].state;
    assert!(matches!(state, LaneState::Paused(_)), "{state:?}");
    world.settle();
    assert_eq!(world.database.rows, BTreeMap::new());
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
        world.dispatch(9);
        for _ in 0..2 {
            world.start();
        }
        world.host.finish(1, usize::MAX, Ending::Handled, world.now);
        world.plan(Duration::ZERO, true);
        assert!(world.commit());
        let mut appended = 1;
        while world.host.in_flight.full().is_none() && !world.host.in_flight.is_detached(&lane(&tenant(0))) {
            // An event of the first lane that weighs a third of what a lane may keep.
            world.append(99);
            world.dispatch(9);
            appended += 1;
            world.plan(Duration::ZERO, true);
            world.commit();
            assert!(appended < 20);
        }
        let detached = world.host.in_flight.is_detached(&lane(&tenant(0)));
        assert_eq!(detached, bounds.detaches, "after {appended} events");
        assert_eq!(world.host.in_flight.full().is_some(), !bounds.detaches);
        world.host.finish(0, usize::MAX, Ending::Handled, world.now);
        world.settle();
        assert_eq!(world.database.handled[&lane(&tenant(0))].len(), appended);
    }
}

/// What a jump skips is of those lanes alone that have nothing left to do: one that works reads for itself, and handles it or skips it then.
#[test]
fn a_leap_is_for_lanes_that_have_nothing_to_do() {
    let mut world = World::bounded(SHEDDING);
    // Three events of the first lane, of which it works on; and then one of each of the first two.
    world.append(2);
    world.dispatch(9);
    world.start();
    for random in [0, 9] {
        world.append(random);
    }
    world.jump(1);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.shed.keys().cloned().collect::<Vec<_>>(), [lane(&tenant(1))]);
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
    world.begin_reading(reading, true);
    while !world.host.read(0, &world.log) {}
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.shed[&lane(&tenant(0))].len(), 1);
    assert_eq!(world.database.rows, BTreeMap::new());
    world.settle();
}

/// An event as the model's log has it.
fn first_event() -> Arc<Event> {
    let mut world = World::new();
    world.append(0);
    world.log.committed()[0].1.clone()
}

/// The first lane is left behind before an event, and reads for itself when `world.now` says so.
fn leave_the_first_behind(world: &mut World) {
    world.append(0);
    world.dispatch(9);
    world.start();
    let state = LaneState::Retrying { at: world.now, reason: Reason::new("test", "stopped") };
    world.host.finish(0, 0, Ending::Stopped(state), world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.rows.len(), 1);
}

/// What a lane skipped may be so much that nothing begins before its commit, which then waits for nobody either.
#[test]
fn a_commit_does_not_wait_for_lanes_that_wait_for_it() {
    let mut world = World::bounded(SHEDDING);
    leave_the_first_behind(&mut world);
    // Nine events more of the first lane, which it skips; and one of the second, which has to wait for the commit of that.
    for _ in 0..3 {
        world.append(2);
        world.dispatch(9);
    }
    world.append(9);
    world.dispatch(9);
    let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
    world.begin_reading(reading, true);
    while !world.host.read(0, &world.log) {}
    assert!(world.host.in_flight.start(|_| None).is_none());
    world.plan(Duration::from_secs(9), false);
    assert!(world.commit());
    world.settle();
    assert_eq!(world.database.handled[&lane(&tenant(1))].len(), 1);
}

/// A lane that is told to wait when a later page of it waits for its commit: that commit does not make it go on.
#[test]
fn a_stop_is_told_with_the_last_of_what_was_finished() {
    let mut world = World::new();
    // An event of the second lane, which is slow, and in the next page one of the first.
    for random in [9, 0] {
        world.append(random);
        world.dispatch(9);
    }
    for _ in 0..2 {
        world.start();
    }
    world.host.finish(1, usize::MAX, Ending::Handled, world.now);
    let pause = Pause { tenant: Some(tenant(0).as_shared()), key: None, reason: Reason::new("paused", "by a test") };
    world.host.in_flight.pause(vec![pause]);
    world.plan(Duration::from_secs(9), false);
    world.commit();
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let row = &world.database.rows[&lane(&tenant(0))];
    assert!(matches!(row.state, LaneState::Paused(_)), "{row:?}");
    world.settle();
}

/// Whoever asks for too much while it reads what it is behind by comes to handle that: sent away again each time, it never would.
#[test]
fn a_lane_that_reads_for_itself_is_not_sent_away_before_it_has_handled_any_of_it() {
    let mut world = World::new();
    leave_the_first_behind(&mut world);
    let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
    world.begin_reading(reading, false);
    world.over = true;
    for _ in 0..2 {
        world.append(0);
        world.dispatch(9);
    }
    while !world.host.read(0, &world.log) {}
    for _ in 0..3 {
        world.run();
    }
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.handled[&lane(&tenant(0))].len(), 3);
    assert_eq!(world.database.rows, BTreeMap::new());
}

/// However many lanes stand, pages, commits and readings of others walk over none of them, and events of theirs are kept nowhere.
#[test]
fn lanes_that_stand_cost_no_step_of_the_book_anything() {
    const BLOCKED: usize = 5_000;
    let lane = |n: usize| LaneKey { tenant: tenant(n % 7), key: format!("{n}").into() };
    let progress: Progress = "9:9:||".parse().unwrap();
    let row = || LaneRow { progress: "5:5:||".parse().unwrap(), state: RowState::Blocked, attempts: 1 };
    let mut in_flight: InFlight<Handled> =
        InFlight::new(progress.clone(), (0..BLOCKED).map(|n| (lane(n), row())), BOUNDS);
    assert_eq!((in_flight.rows_counted(), in_flight.lanes_active()), ((BLOCKED, BLOCKED), 0));
    let now = SystemTime::UNIX_EPOCH;
    assert!(in_flight.next_reading(now, 9, |_| panic!("nobody asks for any of them")).is_none());
    assert_eq!((in_flight.ready(now), in_flight.next_due(), in_flight.is_busy()), (None, None, false));

    // An event of each of them and of one more.
    let event =
        |n: usize| Event { position: n as i64 + 1, stream: format!("{n}").into(), ..Event::clone(&first_event()) };
    let events: Vec<Arc<Event>> =
        (0..=BLOCKED).map(|n| Arc::new(Event { tenant: lane(n).tenant, ..event(n) })).collect();
    let lanes = events.iter().enumerate().map(|(n, event)| (lane(n), vec![event.clone()])).collect();
    let page = Page { from: progress, to: "20:20:||".parse().unwrap(), events };
    in_flight.dispatch(&page, lanes, |_| false);
    assert_eq!((in_flight.lanes_active(), in_flight.pages_open()), (1, 1));
    let (key, work) = in_flight.start(|_| None).unwrap();
    assert_eq!((&key, work.events.len()), (&lane(BLOCKED), 1));
    assert!(in_flight.start(|_| None).is_none());
    in_flight.finish(&key, work, 1, Handled::default(), Ending::Handled, now);
    let plan = in_flight.plan(now, Patience { first: Duration::ZERO, last: Duration::ZERO }, true, 0).unwrap();
    assert_eq!((plan.left.len(), plan.moved.len(), plan.rejoined.len(), plan.results.len()), (0, 0, 0, 1));
    in_flight.committed(plan);
    assert_eq!((in_flight.rows_counted(), in_flight.lanes_active()), ((BLOCKED, BLOCKED), 0));

    // One of them is resumed, and does what a lane behind does; the others still stand.
    in_flight.resume(&lane(17));
    let reading = in_flight.next_reading(now, 9, |_| false).unwrap();
    assert_eq!(
        (&reading.lane, in_flight.lanes_active(), in_flight.rows_counted()),
        (&lane(17), 1, (BLOCKED, BLOCKED - 1))
    );
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
