//! The conformance suite for sources, for any layout of tables.
//!
//! A layout implements [`Layout`] to append events; all other statements are plain SQL. Each case
//! gets a new store. `conformance!(layout)` makes a test of every case, so a new layout needs one
//! line.
//!
//! The cases are those in which followers of a log may lose, repeat or reorder events: transactions
//! that end in a different order from the one in which they began, that end between two pages, or
//! that never end; savepoints; prepared transactions. Other tests run on the same server, and its
//! snapshots contain their transactions too. So a case never asserts the value of a snapshot, only
//! which events it sees.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use sandmill::{
    db::{Db, Session},
    model::{cursor::Progress, event::Event, ids::TenantId},
    source::{Limit, OpenSource},
};
use sandmill_client::{Append, NewEvent};

use crate::{
    BEGIN,
    follower::{Follower, assert_each_once, assert_streams_in_order, ids},
    random::Random,
};

/// A layout of tables: its store, its source, and its way to append events.
pub trait Layout: Send + Sync {
    /// The database of the store, which is empty at first.
    fn db(&self) -> &Db;

    /// The source under test.
    fn source(&self) -> &dyn OpenSource;

    /// Appends events to a stream in the session's transaction, and returns their ids.
    fn append(&self, session: &Session, append: &Append) -> impl Future<Output = Vec<String>> + Send;

    /// Whether JSON keeps its exact text.
    fn keeps_text(&self) -> bool {
        true
    }
}

/// Makes a test of every case. The expression makes a new store for each.
#[macro_export]
macro_rules! conformance {
    ($layout:expr) => {
        $crate::conformance!($layout =>
            progress_moves_in_a_store_without_events,
            events_are_read_in_order_from_the_beginning,
            pages_of_every_size_have_the_same_events,
            a_transaction_that_is_open_across_pages_is_read_once,
            events_that_were_rolled_back_are_never_read,
            a_prepared_transaction_is_read_after_its_commit,
            an_older_transactions_commit_changes_the_head,
            an_open_transaction_delays_no_other_events,
            events_that_commit_during_a_read_come_with_the_next,
            a_large_difference_begins_at_its_lowest_event,
            a_tenants_events_in_a_difference_are_exactly_its_own,
            the_last_events_are_those_before_a_position,
            contents_are_read_as_they_were_written,
        );
    };
    ($layout:expr => $($case:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::conformance::$case(&$layout).await
        })+
    };
}

async fn session(layout: &impl Layout) -> Session {
    layout.db().connect("test").await.expect("connect")
}

async fn execute(session: &Session, sql: &str) {
    session.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", sandmill::db::describe(&error)));
}

/// Appends plain events to a stream of the tenant `acme`, and returns their ids.
async fn append(layout: &impl Layout, session: &Session, stream: &str, count: usize) -> Vec<String> {
    let events = (0..count).map(|n| NewEvent::new("Happened", format!(r#"{{"n":{n}}}"#)));
    layout.append(session, &Append::to("acme", stream).events(events)).await
}

/// There are no events, but progress follows the head.
pub async fn progress_moves_in_a_store_without_events(layout: &impl Layout) {
    let writer = session(layout).await;
    let mut follower = Follower::from_the_beginning(layout.source()).await;
    assert!(follower.page(10).await.is_empty());
    assert!(follower.progress().is_boundary());
    // Progress passes a commit without events, and an append that was rolled back.
    execute(&writer, "begin; select pg_current_xact_id(); commit").await;
    execute(&writer, BEGIN).await;
    append(layout, &writer, "a", 1).await;
    execute(&writer, "rollback").await;
    let head = follower.head().await;
    assert!(follower.page(10).await.is_empty());
    assert!(follower.progress().seen().covers(&head), "a page without events moves as far as the snapshot did");
    let tenant = TenantId::parse("acme").expect("a tenant");
    let beginning = Progress::at(sandmill::model::cursor::Snapshot::nothing());
    for hop in beginning.hops_to(&follower.progress()) {
        let events =
            follower.source().tenant_page(&tenant, &hop, Limit::events(10)).await.expect("read a tenant's page").events;
        assert!(events.is_empty());
    }
}

/// Two writers append in turns.
pub async fn events_are_read_in_order_from_the_beginning(layout: &impl Layout) {
    let writers = [session(layout).await, session(layout).await];
    let mut expected = Vec::new();
    for round in 0..6 {
        expected.extend(append(layout, &writers[round % 2], ["a", "b", "c"][round % 3], 1 + round % 3).await);
    }
    let read = Follower::from_the_beginning(layout.source()).await.rest(100).await;
    assert_eq!(ids(&read), expected);
    assert_streams_in_order(&read);
    let versions: Vec<i64> = read.iter().filter(|event| &*event.stream == "b").map(|event| event.version).collect();
    assert_eq!(versions, (1..=versions.len() as i64).collect::<Vec<_>>(), "versions count from 1 without gaps");
}

/// From the beginning, and from a later snapshot, where a difference is read in a different form.
pub async fn pages_of_every_size_have_the_same_events(layout: &impl Layout) {
    let writer = session(layout).await;
    let first = append(layout, &writer, "a", 3).await;
    let now = Follower::from_now(layout.source()).await.progress();
    let mut later = Vec::new();
    for stream in ["b", "a", "c", "b"] {
        later.extend(append(layout, &writer, stream, 2).await);
    }
    let all = [first, later.clone()].concat();
    for limit in 1..=all.len() + 1 {
        let from_the_beginning = Follower::from_the_beginning(layout.source()).await.rest(limit).await;
        assert_eq!(ids(&from_the_beginning), all, "{limit} at a time");
        let from_now = Follower::at(layout.source(), &now).await.rest(limit).await;
        assert_eq!(ids(&from_now), later, "{limit} at a time");
    }
}

/// A transaction takes low positions, stays open while other events are committed and read, and
/// commits between two pages of one difference.
pub async fn a_transaction_that_is_open_across_pages_is_read_once(layout: &impl Layout) {
    let (slow, quick) = (session(layout).await, session(layout).await);
    for from_the_beginning in [true, false] {
        let mut follower = match from_the_beginning {
            true => Follower::from_the_beginning(layout.source()).await,
            false => Follower::from_now(layout.source()).await,
        };
        execute(&slow, BEGIN).await;
        let mut late = append(layout, &slow, "slow", 2).await;
        let mut expected = if from_the_beginning { Vec::new() } else { append(layout, &quick, "quick", 1).await };
        expected.extend(append(layout, &quick, "quick", 5).await);
        let mut read = follower.page(2).await;
        late.extend(append(layout, &slow, "slow", 1).await);
        assert!(!follower.progress().is_boundary(), "the difference has more");
        execute(&slow, "commit").await;
        read.extend(follower.page(2).await);
        expected.extend(append(layout, &quick, "quick", 1).await);
        read.extend(follower.rest(2).await);
        assert_streams_in_order(&read);
        let (slow, quick): (Vec<_>, Vec<_>) = read.into_iter().partition(|event| &*event.stream == "slow");
        assert_eq!((ids(&slow), ids(&quick)), (late, expected));
    }
}

/// Whole transactions and savepoints are rolled back. There are more subtransactions than the 64
/// that PostgreSQL caches for a session.
pub async fn events_that_were_rolled_back_are_never_read(layout: &impl Layout) {
    let (writer, other) = (session(layout).await, session(layout).await);
    let mut follower = Follower::from_now(layout.source()).await;
    execute(&writer, BEGIN).await;
    append(layout, &writer, "a", 2).await;
    execute(&writer, "rollback; begin").await;
    let mut expected = append(layout, &writer, "a", 1).await;
    execute(&writer, "savepoint one").await;
    append(layout, &writer, "a", 2).await;
    execute(&writer, "rollback to one").await;
    let mut read = Vec::new();
    for n in 0..80 {
        execute(&writer, &format!("savepoint s{n}")).await;
        let appended = append(layout, &writer, "a", 1).await;
        if n % 5 == 4 {
            execute(&writer, &format!("rollback to s{n}")).await;
        } else {
            expected.extend(appended);
        }
        if n % 20 == 10 {
            // This snapshot is taken while there are too many subtransactions to list.
            append(layout, &other, "b", 1).await;
            read.extend(follower.rest(3).await);
        }
    }
    assert!(read.iter().all(|event| &*event.stream == "b"), "events of an open transaction are not visible");
    execute(&writer, "commit").await;
    read.extend(follower.rest(7).await);
    assert_streams_in_order(&read);
    read.retain(|event| &*event.stream == "a");
    assert_eq!(ids(&read), expected);
}

/// After `prepare transaction` the session is free, but the events are not visible yet.
pub async fn a_prepared_transaction_is_read_after_its_commit(layout: &impl Layout) {
    let writer = session(layout).await;
    let most: String = writer.query_one("show max_prepared_transactions", &[]).await.expect("a setting").get(0);
    if most == "0" {
        eprintln!("SKIPPED: a_prepared_transaction_is_read_after_its_commit: max_prepared_transactions is 0");
        return;
    }
    // The name must be unique on the server, which other tests use too.
    let name: String = writer.query_one("select current_database() || ' prepared'", &[]).await.expect("a name").get(0);
    let mut follower = Follower::from_the_beginning(layout.source()).await;
    execute(&writer, BEGIN).await;
    let prepared = append(layout, &writer, "a", 2).await;
    execute(&writer, &format!("prepare transaction '{name}'")).await;
    let others = append(layout, &writer, "b", 2).await;
    assert_eq!(ids(&follower.rest(1).await), others);
    execute(&writer, &format!("commit prepared '{name}'")).await;
    assert_eq!(ids(&follower.rest(1).await), prepared);
    execute(&writer, BEGIN).await;
    append(layout, &writer, "a", 1).await;
    execute(&writer, &format!("prepare transaction '{name}'")).await;
    execute(&writer, &format!("rollback prepared '{name}'")).await;
    assert!(follower.rest(1).await.is_empty());
}

/// A commit may change only the list of a snapshot and not its bounds, so both must be compared.
pub async fn an_older_transactions_commit_changes_the_head(layout: &impl Layout) {
    let (older, younger) = (session(layout).await, session(layout).await);
    let mut follower = Follower::from_the_beginning(layout.source()).await;
    // Other tests move the bounds too; repeat until they have not moved in a round.
    for _ in 0..1_000 {
        execute(&older, BEGIN).await;
        append(layout, &older, "a", 1).await;
        append(layout, &younger, "b", 1).await;
        let before = follower.head().await;
        execute(&older, "commit").await;
        let after = follower.head().await;
        assert_ne!(before, after);
        assert!(after.covers(&before) && !before.covers(&after), "{before} {after}");
        if before.xmax() == after.xmax() {
            return;
        }
    }
    panic!("the bounds moved in every round");
}

/// A transaction holds an xid from before the first append, like a backup or a forgotten session.
pub async fn an_open_transaction_delays_no_other_events(layout: &impl Layout) {
    let (unrelated, writer) = (session(layout).await, session(layout).await);
    execute(&unrelated, &format!("{BEGIN}; select pg_current_xact_id()")).await;
    let mut follower = Follower::from_the_beginning(layout.source()).await;
    for round in 0..5 {
        let expected = append(layout, &writer, "a", 1 + round).await;
        assert_eq!(ids(&follower.rest(2).await), expected);
    }
    execute(&unrelated, "rollback").await;
    assert!(follower.rest(2).await.is_empty());
}

/// Events and their snapshot are read atomically, while other transactions commit between any two
/// statements.
pub async fn events_that_commit_during_a_read_come_with_the_next(layout: &impl Layout) {
    let (one, two) = (session(layout).await, session(layout).await);
    let mut follower = Follower::from_now(layout.source()).await;
    let ended = AtomicUsize::new(0);
    let write = async |session, stream| {
        let mut appended = Vec::new();
        for _ in 0..400 {
            appended.extend(append(layout, session, stream, 1).await);
        }
        ended.fetch_add(1, Ordering::Relaxed);
        appended
    };
    let follow = async {
        let mut read = Vec::new();
        while ended.load(Ordering::Relaxed) < 2 {
            read.extend(follower.page(100).await);
        }
        read.extend(follower.rest(100).await);
        read
    };
    let (ones, twos, read) = tokio::join!(write(&one, "one"), write(&two, "two"), follow);
    assert_each_once(&read, &[ones, twos].concat());
    assert_streams_in_order(&read);
}

/// A difference of several pages begins below events that were handled before.
pub async fn a_large_difference_begins_at_its_lowest_event(layout: &impl Layout) {
    let (slow, quick) = (session(layout).await, session(layout).await);
    let mut follower = Follower::from_now(layout.source()).await;
    execute(&slow, BEGIN).await;
    let late = append(layout, &slow, "slow", 2).await;
    let handled = append(layout, &quick, "quick", 9).await;
    assert_eq!(ids(&follower.rest(100).await), handled);
    execute(&slow, "commit").await;
    let later = append(layout, &quick, "quick", 9).await;
    let first = follower.page(4).await;
    assert_eq!(ids(&first), [&late[..], &later[..2]].concat());
    // Events that commit now belong to the next difference.
    let last = append(layout, &quick, "quick", 3).await;
    assert_eq!(ids(&follower.rest(4).await), [&later[2..], &last[..]].concat());
}

/// Random tenants, types, positions and limits.
pub async fn the_last_events_are_those_before_a_position(layout: &impl Layout) {
    let session = session(layout).await;
    let mut random = Random::seeded();
    let mut reader = Follower::from_the_beginning(layout.source()).await;
    assert!(reader.source().last(None, None, i64::MAX, Limit::events(5)).await.expect("read").is_empty());
    for number in 0..40 {
        let (tenant, kind) = (["acme", "globex"][random.below(2)], ["Happened", "Ended"][random.below(2)]);
        layout.append(&session, &Append::to(tenant, format!("s-{number}")).event(NewEvent::new(kind, "{}"))).await;
    }
    let all = reader.page(100).await;
    for _ in 0..60 {
        let tenant = [None, Some("acme"), Some("globex"), Some("nobody")][random.below(4)];
        let tenant = tenant.map(|tenant| TenantId::parse(tenant).expect("a tenant"));
        let types = [None, Some(vec!["Ended".to_string()]), Some(vec!["Ended".into(), "Never".into()])]
            [random.below(3)]
        .clone();
        let up_to = all[random.below(all.len())].position;
        let limit = 1 + random.below(8);
        let mut expected: Vec<Arc<Event>> = all.clone();
        expected.retain(|event| {
            event.position <= up_to
                && tenant.as_ref().is_none_or(|tenant| event.tenant == *tenant)
                && types.as_ref().is_none_or(|types| types.iter().any(|of| **of == *event.event_type))
        });
        expected.drain(..expected.len().saturating_sub(limit));
        let found =
            reader.source().last(tenant.as_ref(), types.as_deref(), up_to, Limit::events(limit)).await.expect("read");
        assert_eq!(ids(&found), ids(&expected), "{tenant:?} {types:?} up to {up_to}");
    }
}

/// Random transactions and random pages. Between any two progresses of a follower, a tenant's
/// events that are read alone are those that the follower read.
pub async fn a_tenants_events_in_a_difference_are_exactly_its_own(layout: &impl Layout) {
    let mut random = Random::seeded();
    let tenants = ["acme", "globex", "initech"];
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push((session(layout).await, false));
    }
    let mut follower = Follower::from_the_beginning(layout.source()).await;
    let mut read: Vec<Arc<Event>> = Vec::new();
    let mut progresses = vec![(follower.progress(), 0)];
    for step in 0..240 {
        let writer = random.below(writers.len());
        let (session, open) = &mut writers[writer];
        match random.below(10) {
            0..5 => {
                if !*open {
                    execute(session, BEGIN).await;
                    *open = true;
                }
                // Each writer has its own streams, so none waits for another.
                let stream = format!("{writer}-{}", random.below(2));
                let events = (0..1 + random.below(4)).map(|_| NewEvent::new("Happened", "{}"));
                let append = Append::to(tenants[random.below(tenants.len())], stream).events(events);
                layout.append(session, &append).await;
            }
            5..7 if *open => {
                execute(session, if random.percent(80) { "commit" } else { "rollback" }).await;
                *open = false;
            }
            _ => {
                read.extend(follower.page(1 + random.below(if step % 2 == 0 { 3 } else { 30 })).await);
                progresses.push((follower.progress(), read.len()));
            }
        }
    }
    let mut reader = Follower::from_the_beginning(layout.source()).await;
    for _ in 0..60 {
        let (one, two) = (random.below(progresses.len()), random.below(progresses.len()));
        let (from, to) = (&progresses[one.min(two)], &progresses[one.max(two)]);
        for tenant in tenants {
            let tenant = TenantId::parse(tenant).expect("a tenant");
            let expected: Vec<Arc<Event>> =
                read[from.1..to.1].iter().filter(|event| event.tenant == tenant).cloned().collect();
            let found = reader.tenants_part(&tenant, &from.0, &to.0, 1 + random.below(6)).await;
            assert_streams_in_order(&found);
            println!("{tenant} from {} to {}", from.0, to.0);
            assert_each_once(&found, &ids(&expected));
        }
    }
}

/// Times before 1970, any Unicode, and the exact text of JSON.
pub async fn contents_are_read_as_they_were_written(layout: &impl Layout) {
    let writer = session(layout).await;
    let data = [
        r#"{}"#,
        "{ \"b\" : 1,\n\t\"a\" : [ 1.0, 1e2, -0 ] }",
        r#"{"a":1,"a":2}"#,
        r#"{"big":123456789012345678901234567890.10,"escaped":"\u00e9\/\n"}"#,
        r#"{"日本":"𝒳 é עברית \\ \" 🏳️‍🌈"}"#,
        "[null, true]",
        "\"only a string\"",
    ];
    let at = UNIX_EPOCH - Duration::from_millis(86_400_000 * 365 * 100 + 1);
    let times = [at, UNIX_EPOCH - Duration::from_millis(1), UNIX_EPOCH, UNIX_EPOCH + Duration::from_millis(1_001)];
    let events = data.iter().enumerate().map(|(n, data)| {
        NewEvent::new("Ünïcødé 🏁", *data)
            .metadata(r#"{ "by" : "née" }"#)
            .id(format!("id-{n}-é"))
            .recorded_at(times[n % times.len()])
    });
    let stream = "straße/🛣 'quoted\" $1";
    layout.append(&writer, &Append::to("acme", stream).events(events)).await;
    let read = Follower::from_the_beginning(layout.source()).await.rest(100).await;
    assert_eq!(read.len(), data.len());
    let millis: BTreeMap<usize, i64> = [(0, -3_153_600_000_001), (1, -1), (2, 0), (3, 1_001)].into();
    for (n, (event, written)) in read.iter().zip(data).enumerate() {
        assert_eq!((&*event.event_type, &*event.stream, event.tenant.as_str()), ("Ünïcødé 🏁", stream, "acme"));
        assert_eq!(&*event.id, format!("id-{n}-é"));
        assert_eq!(event.recorded_at, millis[&(n % times.len())]);
        if layout.keeps_text() {
            assert_eq!((&*event.data, &*event.metadata), (written, r#"{ "by" : "née" }"#));
        } else {
            let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            assert_eq!(parse(&event.data), parse(written));
        }
    }
}
