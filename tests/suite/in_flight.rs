// The in-flight tracker, checked against a model of the log and the database. There is no database
// and no clock, and the interleavings are random.
//
// The model has transactions that begin, append, commit or roll back in any order, and so snapshots
// with gaps. Its source reads differences between snapshots as the real one does. Its database
// holds a cursor, lane checkpoints and the events that each lane has handled. After every commit
// each lane must have handled exactly the events that its row, or else the cursor, covers, and each
// stream in order.

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
        in_flight::{Ending, InFlight, Patience, RunEnd},
        lane_checkpoints::{LaneRow, LaneState, RowState},
        pauses::Pause,
    },
};

mod log;
mod refusals;
mod world;

use log::{FIRST, SECOND, THIRD, lane, tenant};
use world::{BOUNDS, Handled, PAUSING, SHEDDING, World};

/// A restricted lane that rejoins the tail gets several events at once there. No event is blamed
/// for another one.
#[test]
fn a_restricted_lane_blocks_only_at_an_event_that_was_rejected_alone() {
    let mut world = World::new();
    world.log.begin([(FIRST, 0)], 0);
    world.poison.insert(1);
    world.settle();
    world.cure();
    // It handles that event, and then an empty reading.
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
    // Three more events in one page, the last one rejected.
    world.append(FIRST, 3);
    world.poison.insert(4);
    world.dispatch(9);
    world.run();
    world.settle();
}

/// Another processor handles the event that stopped the lane.
#[test]
fn a_lane_that_fails_while_it_is_replaced_is_paused_instead_of_blocked() {
    let mut world = World::new();
    world.append(FIRST, 1);
    world.dispatch(9);
    world.start();
    let replaced = Reason::new("replaced", "by another processor");
    let pause = Pause { tenant: Some(tenant(FIRST).as_shared()), key: None, reason: replaced.clone() };
    world.host.in_flight.pause(vec![pause]);
    let (blocked, now) = (Ending::Stopped(LaneState::Blocked(Reason::new("trap", "for a test"))), world.now);
    world.host.finish(0, 0, blocked, now);
    world.plan(Duration::ZERO, true);
    let plan = world.host.plan.as_ref().unwrap();
    let states: Vec<&LaneState> = plan.left.iter().map(|(_, checkpoint)| &checkpoint.state).collect();
    assert_eq!(states, [&LaneState::Paused(replaced)]);
}

/// The number of events that the first lane has to read does not matter.
#[test]
fn lanes_behind_take_turns_in_reading() {
    let mut world = World::new();
    world.log.begin([(FIRST, 0); 3], 0);
    world.log.begin([(SECOND, 0)], 0);
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

/// The next commit begins with the lane that found no room, even if earlier lanes have new results.
#[test]
fn a_lane_without_room_in_a_commit_begins_the_next_one() {
    let mut world = World::new();
    let mut commits = Vec::new();
    for _ in 0..4 {
        // Two lanes' events are more than a commit takes.
        for lane in [FIRST, SECOND, THIRD] {
            world.log.begin([(lane, 0); 3], 0);
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

/// A page that is committed before a later one leaves lanes of the later one alone.
#[test]
fn a_lane_of_a_later_page_is_not_left_behind_by_an_earlier_one() {
    let mut world = World::new();
    for lane in [FIRST, FIRST, SECOND] {
        world.append(lane, 1);
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

/// Only a lane with a row is detached for the size of its queue: open pages are bounded anyway.
#[test]
fn a_lane_that_keeps_up_is_not_detached() {
    let mut world = World::new();
    for _ in 0..4 {
        world.append_large(FIRST);
        world.dispatch(9);
    }
    while world.host.in_flight.pages_open() > 0 {
        world.run();
        world.plan(Duration::ZERO, false);
        assert!(world.commit());
        assert_eq!(world.database.rows, BTreeMap::new());
    }
}

/// Lanes of a later page wait for the slow lane no longer than for one in their own page.
#[test]
fn a_slow_lane_alone_in_its_page_does_not_delay_later_pages() {
    let mut world = World::new();
    for lane in [FIRST, SECOND] {
        world.append(lane, 1);
        world.dispatch(9);
    }
    for _ in 0..2 {
        world.start();
    }
    world.host.finish(1, usize::MAX, Ending::Handled, world.now);
    let patience = Duration::from_millis(3);
    world.plan(patience, false);
    assert!(!world.commit(), "patience has not ended");
    world.now += patience;
    world.plan(patience, false);
    assert!(world.commit());
    let behind: Vec<String> = world.database.rows.keys().map(|key| key.tenant.to_string()).collect();
    assert_eq!(behind, ["lane0"]);
    assert_eq!(world.database.handled[&lane(&tenant(SECOND))], [2]);
}

/// A commit is made immediately if all running lanes wait for one, no matter how much patience is
/// left.
#[test]
fn lanes_that_wait_for_a_commit_are_left_behind_by_it() {
    let mut world = World::new();
    for lane in [FIRST, SECOND, THIRD] {
        world.append(lane, 1);
    }
    world.dispatch(9);
    for _ in 0..3 {
        world.start();
    }
    let patience = Duration::from_secs(9);
    world.plan_while(3, patience, false);
    assert!(!world.commit(), "there is nothing to commit yet");
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan_while(1, patience, false);
    assert!(!world.commit(), "one of the two lanes may still finish");
    world.plan_while(2, patience, false);
    assert!(world.commit());
    assert_eq!((world.database.handled.len(), world.database.rows.len()), (1, 2));
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(patience, false);
    assert!(world.commit());
    assert_eq!((world.database.handled.len(), world.database.rows.len()), (3, 0));
}

/// Uncommitted results count each time, even if they change the same documents again.
#[test]
fn nothing_starts_while_too_many_results_are_uncommitted() {
    let mut world = World::new();
    for _ in 0..4 {
        world.append(FIRST, 3);
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
    assert!(world.host.in_flight.start(|_| None).is_none(), "results in a commit under way still count");
    assert!(world.commit());
    assert!(world.host.in_flight.start(|_| None).is_some());
}

/// Once the running work is committed, the row has the pause. The commit does not resume the lane.
#[test]
fn a_lane_that_is_paused_while_it_works_stays_paused() {
    let pause = |world: &mut World, paused: bool| world.host.pause(paused.then(|| tenant(FIRST)));
    let mut world = World::new();
    world.append(FIRST, 3);
    world.dispatch(9);
    world.start();
    pause(&mut world, true);
    assert_eq!(world.host.in_flight.rows_pending(), 1, "the pause is not stored yet");
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let state = |world: &World| world.database.rows[&lane(&tenant(FIRST))].state.clone();
    assert_eq!(state(&world), LaneState::CatchingUp, "its work has not ended");
    world.host.finish(0, 1, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert!(matches!(state(&world), LaneState::Paused(_)), "{:?}", state(&world));
    assert_eq!(world.database.handled[&lane(&tenant(FIRST))].len(), 1);
    assert!(world.host.in_flight.next_reading(world.now, 9, |_| false).is_none());

    // It continues when the pause is lifted, even if its row was written after that.
    pause(&mut world, false);
    world.settle();
    assert_eq!(world.database.rows, BTreeMap::new());

    // A pause that is lifted before the work has ended is never stored.
    world.append(FIRST, 3);
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

/// A person or a new version resumes the lane, but it continues only when its pause is lifted.
#[test]
fn a_resumed_lane_still_waits_for_its_pause() {
    let mut world = World::new();
    world.append(FIRST, 3);
    world.dispatch(9);
    world.start();
    world.host.finish(0, 0, Ending::Stopped(LaneState::Blocked(Reason::new("test", "stopped"))), world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    world.host.pause(Some(tenant(FIRST)));
    let resume = |world: &mut World| {
        world.database.rows.get_mut(&lane(&tenant(FIRST))).unwrap().state = LaneState::CatchingUp;
        world.host.in_flight.resume(&lane(&tenant(FIRST)), None);
    };
    for _ in 0..2 {
        resume(&mut world);
        assert!(world.host.in_flight.next_reading(world.now, 9, |_| false).is_none());
        world.plan(Duration::ZERO, true);
        assert!(world.commit());
        let state = &world.database.rows[&lane(&tenant(FIRST))].state;
        assert!(matches!(state, LaneState::Paused(_)), "its row has the pause: {state:?}");
        // The pauses are applied again and again.
        world.host.pause(Some(tenant(FIRST)));
    }
    assert_eq!(world.database.handled.get(&lane(&tenant(FIRST))), None);
    world.settle();
    assert_eq!(world.database.handled[&lane(&tenant(FIRST))].len(), 3);
}

/// The events of a reading under way are dropped, even if the row has the pause before it ends.
#[test]
fn a_lane_that_is_paused_while_it_reads_stays_paused() {
    let mut world = World::new();
    leave_the_first_behind(&mut world);
    let reading = world.host.in_flight.next_reading(world.now, 1, |_| false).unwrap();
    world.begin_reading(reading, false);
    world.host.pause(Some(tenant(FIRST)));
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    while !world.host.read(0, &world.log) {}
    assert!(world.host.in_flight.start(|_| None).is_none());
    let state = &world.database.rows[&lane(&tenant(FIRST))].state;
    assert!(matches!(state, LaneState::Paused(_)), "{state:?}");
    world.settle();
    assert_eq!(world.database.rows, BTreeMap::new());
}

/// The bounds decide which of the two happens, with the same events and the same slow lane.
#[test]
fn a_full_lane_is_detached_or_prevents_further_pages() {
    for bounds in [BOUNDS, PAUSING] {
        let mut world = World::bounded(bounds);
        // The first lane does not finish, and is left behind.
        for lane in [FIRST, SECOND] {
            world.append(lane, 1);
        }
        world.dispatch(9);
        for _ in 0..2 {
            world.start();
        }
        world.host.finish(1, usize::MAX, Ending::Handled, world.now);
        world.plan(Duration::ZERO, true);
        assert!(world.commit());
        let mut appended = 1;
        while world.host.in_flight.full().is_none() && !world.host.in_flight.is_detached(&lane(&tenant(FIRST))) {
            world.append_large(FIRST);
            world.dispatch(9);
            appended += 1;
            world.plan(Duration::ZERO, true);
            world.commit();
            assert!(appended < 20);
        }
        let detached = world.host.in_flight.is_detached(&lane(&tenant(FIRST)));
        assert_eq!(detached, bounds.detaches, "after {appended} events");
        assert_eq!(world.host.in_flight.full().is_some(), !bounds.detaches);
        world.host.finish(0, usize::MAX, Ending::Handled, world.now);
        world.settle();
        assert_eq!(world.database.handled[&lane(&tenant(FIRST))].len(), appended);
    }
}

/// A lane that still works is detached instead, and reads the log to handle or shed the events
/// later.
#[test]
fn a_jump_sheds_only_events_of_idle_lanes() {
    let mut world = World::bounded(SHEDDING);
    // The first lane still works on three events when the jump passes one of each lane.
    world.append(FIRST, 3);
    world.dispatch(9);
    world.start();
    for lane in [FIRST, SECOND] {
        world.append(lane, 1);
    }
    world.jump(1);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.shed.keys().cloned().collect::<Vec<_>>(), [lane(&tenant(SECOND))]);
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
    world.begin_reading(reading, true);
    while !world.host.read(0, &world.log) {}
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.shed[&lane(&tenant(FIRST))].len(), 1);
    assert_eq!(world.database.rows, BTreeMap::new());
    world.settle();
}

/// An event of the model's log.
fn first_event() -> Arc<Event> {
    let mut world = World::new();
    world.append(FIRST, 1);
    world.log.committed()[0].1.clone()
}

/// Leaves the first lane behind before an event. It is due to read at `world.now`.
fn leave_the_first_behind(world: &mut World) {
    world.append(FIRST, 1);
    world.dispatch(9);
    world.start();
    let state = LaneState::Retrying { at: world.now, reason: Reason::new("test", "stopped") };
    world.host.finish(0, 0, Ending::Stopped(state), world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.rows.len(), 1);
}

/// Shed events may weigh so much that nothing starts before their commit. That commit must not wait
/// for lanes that cannot start.
#[test]
fn a_commit_does_not_wait_for_lanes_that_wait_for_it() {
    let mut world = World::bounded(SHEDDING);
    leave_the_first_behind(&mut world);
    // The first lane sheds nine events, and the event of the second waits for their commit.
    for _ in 0..3 {
        world.append(FIRST, 3);
        world.dispatch(9);
    }
    world.append(SECOND, 1);
    world.dispatch(9);
    let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
    world.begin_reading(reading, true);
    while !world.host.read(0, &world.log) {}
    assert!(world.host.in_flight.start(|_| None).is_none());
    world.plan(Duration::from_secs(9), false);
    assert!(world.commit());
    world.settle();
    assert_eq!(world.database.handled[&lane(&tenant(SECOND))].len(), 1);
}

/// The lane is paused while results of a later page wait. Their commit stores the pause, and does
/// not resume the lane.
#[test]
fn a_pause_is_stored_with_the_last_finished_results() {
    let mut world = World::new();
    // The second lane is slow; the first has an event in the next page.
    for lane in [SECOND, FIRST] {
        world.append(lane, 1);
        world.dispatch(9);
    }
    for _ in 0..2 {
        world.start();
    }
    world.host.finish(1, usize::MAX, Ending::Handled, world.now);
    let pause =
        Pause { tenant: Some(tenant(FIRST).as_shared()), key: None, reason: Reason::new("paused", "by a test") };
    world.host.in_flight.pause(vec![pause]);
    world.plan(Duration::from_secs(9), false);
    world.commit();
    world.host.finish(0, usize::MAX, Ending::Handled, world.now);
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    let row = &world.database.rows[&lane(&tenant(FIRST))];
    assert!(matches!(row.state, LaneState::Paused(_)), "{row:?}");
    world.settle();
}

/// Otherwise a lane that exceeds its share could be detached again after each reading, and never
/// move.
#[test]
fn a_lane_is_not_detached_again_before_it_has_handled_what_it_read() {
    let mut world = World::new();
    leave_the_first_behind(&mut world);
    let reading = world.host.in_flight.next_reading(world.now, 9, |_| false).unwrap();
    world.begin_reading(reading, false);
    world.exceeds_share = true;
    for _ in 0..2 {
        world.append(FIRST, 1);
        world.dispatch(9);
    }
    while !world.host.read(0, &world.log) {}
    for _ in 0..3 {
        world.run();
    }
    world.plan(Duration::ZERO, true);
    assert!(world.commit());
    assert_eq!(world.database.handled[&lane(&tenant(FIRST))].len(), 3);
    assert_eq!(world.database.rows, BTreeMap::new());
}

/// Pages, commits and readings of other lanes visit none of them, and keep none of their events.
#[test]
fn blocked_lanes_cost_no_step_of_the_tracker_anything() {
    const BLOCKED: usize = 5_000;
    let lane = |n: usize| LaneKey { tenant: tenant(n % 7), key: format!("{n}").into() };
    let progress: Progress = "9:9:||".parse().unwrap();
    let row = || LaneRow { progress: "5:5:||".parse().unwrap(), state: RowState::Blocked, attempts: 1, skip: None };
    let mut in_flight: InFlight<Handled> =
        InFlight::new(progress.clone(), (0..BLOCKED).map(|n| (lane(n), row())), BOUNDS);
    assert_eq!((in_flight.rows_counted(), in_flight.lanes_active()), ((BLOCKED, BLOCKED), 0));
    let now = SystemTime::UNIX_EPOCH;
    assert!(in_flight.next_reading(now, 9, |_| panic!("no blocked lane is visited")).is_none());
    assert_eq!((in_flight.ready(now), in_flight.next_due(), in_flight.is_busy()), (None, None, false));

    // One event of each of them, and of one more lane.
    let event =
        |n: usize| Event { position: n as i64 + 1, stream: format!("{n}").into(), ..Event::clone(&first_event()) };
    let events: Vec<Arc<Event>> =
        (0..=BLOCKED).map(|n| Arc::new(Event { tenant: lane(n).tenant, ..event(n) })).collect();
    let lanes = events.iter().enumerate().map(|(n, event)| (lane(n), vec![event.clone()])).collect();
    let page = Page { from: progress, to: "20:20:||".parse().unwrap(), events };
    in_flight.dispatch(&page, false, lanes, |_| false);
    assert_eq!((in_flight.lanes_active(), in_flight.pages_open()), (1, 1));
    let (key, work) = in_flight.start(|_| None).unwrap();
    assert_eq!((&key, work.events.len()), (&lane(BLOCKED), 1));
    assert!(in_flight.start(|_| None).is_none());
    let end = RunEnd {
        handled: 1,
        ending: Ending::Handled,
        streams: Vec::new(),
        skipped: false,
        results: Handled::default(),
    };
    in_flight.finish(&key, work, end, now);
    let plan = in_flight.plan(now, Patience { first: Duration::ZERO, last: Duration::ZERO }, true, 0).unwrap();
    assert_eq!((plan.left.len(), plan.moved.len(), plan.rejoined.len(), plan.results.len()), (0, 0, 0, 1));
    in_flight.committed(plan);
    assert_eq!((in_flight.rows_counted(), in_flight.lanes_active()), ((BLOCKED, BLOCKED), 0));

    // One of them is resumed and reads; the others stay blocked.
    in_flight.resume(&lane(17), None);
    let reading = in_flight.next_reading(now, 9, |_| false).unwrap();
    assert_eq!(
        (&reading.lane, in_flight.lanes_active(), in_flight.rows_counted()),
        (&lane(17), 1, (BLOCKED, BLOCKED - 1))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_interleavings_lose_repeat_and_reorder_nothing(
        before in prop::collection::vec(any::<u32>(), 1..400),
        after in prop::collection::vec(any::<u32>(), 0..100),
        bounds in prop::sample::select(vec![BOUNDS, PAUSING, SHEDDING]),
        sets_aside in any::<bool>(),
    ) {
        let mut world = World { sets_aside, ..World::bounded(bounds) };
        for op in before {
            world.step(op);
        }
        world.settle();
        // Lanes whose results were rejected are restricted for a while.
        world.cure();
        for op in after {
            world.step(op);
        }
        world.settle();
    }
}
