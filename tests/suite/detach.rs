//! A lane that is too slow for what it gets: left behind by itself, and one with the others again once it is fast.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sandmill::db::Session;
use sandmill_tests::{
    Database, database,
    host::eventually,
    ledger::{assert_scripted_log, until_counted},
    native::{Folding, NativeHost},
};
use serde_json::json;

/// What an event of the slow tenant takes.
const EVENT: Duration = Duration::from_millis(5);
/// So much is kept waiting for it.
const BACKLOG: i64 = 2_000;
/// A queue that holds a fraction of that, some seventy events.
const SETTINGS: [&str; 2] = ["processor.page-events=100", "processor.lane-queue-kib=16"];

/// Events of tenants in the log, and as counted in documents.
async fn counts(session: &Session, tenants: &str) -> (i64, i64) {
    let sql = format!(
        "select (select count(*) from sandmill.events where tenant {tenants}),
                (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.scripted_log where _partition {tenants})"
    );
    let row = session.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Keeps a backlog for the tenant `slow` as long as it is slow, and events coming for it all the time.
async fn keep_busy(database: Database, done: Arc<AtomicBool>) -> i64 {
    let session = database.db.connect("test").await.unwrap();
    let mut appended = 0;
    while !done.load(Relaxed) {
        let (there, counted) = counts(&session, "= 'slow'").await;
        let count = if there - counted < BACKLOG { 50 } else { 1 };
        database.append("slow", &format!("s{}", appended % 7), &vec![json!({}); count]).await;
        appended += count as i64;
        tokio::time::sleep(EVENT * 2).await;
    }
    appended
}

/// Whether the slow lane was left behind and has read the log since. A session for lanes is readied before a term leaves anybody behind, and shows since then
/// the last statement that it was readied with, which is another.
async fn reads_for_itself(database: &Database, session: &Session) -> bool {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and application_name = 'sandmill lanes scripted'
                 and query like '%Reads a page of one tenant%'";
    database.lanes_behind("scripted").await == ["slow catching-up"]
        && session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_lane_is_left_behind_and_comes_back_while_events_arrive() {
    let database = database().await;
    let slow = Arc::new(AtomicBool::new(true));
    let folding = Folding::after({
        let slow = slow.clone();
        move |event| {
            if event.tenant.as_str() == "slow" && slow.load(Relaxed) {
                std::thread::sleep(EVENT);
            }
        }
    });
    database.append("slow", "s0", &vec![json!({}); BACKLOG as usize]).await;
    let host = NativeHost::start(&database, folding, &SETTINGS).await;
    let done = Arc::new(AtomicBool::new(false));
    let busy = tokio::spawn(keep_busy(database.clone(), done.clone()));

    let session = database.db.connect("test").await.unwrap();
    eventually("the slow lane reads for itself", async || reads_for_itself(&database, &session).await.then_some(()))
        .await;
    let mut progress = 0;
    for round in 0..10 {
        for tenant in 0..8 {
            database.append(&format!("quick-{tenant}"), "s", &vec![json!({}); 10]).await;
        }
        eventually("the others have everything", async || {
            let (there, counted) = counts(&session, "<> 'slow'").await;
            (there == counted).then_some(())
        })
        .await;
        let (there, counted) = counts(&session, "= 'slow'").await;
        assert!(there > counted, "round {round}: the slow tenant still has a backlog");
        let behind = database.lanes_behind("scripted").await;
        assert!(behind.contains(&"slow catching-up".to_string()), "round {round}: {behind:?}");
        // It is behind and yet moves.
        eventually("the slow lane moves", async || {
            let counted = counts(&session, "= 'slow'").await.1;
            (counted > progress).then(|| progress = counted)
        })
        .await;
    }

    slow.store(false, Relaxed);
    eventually("the slow lane is one with the tail", async || {
        database.lanes_behind("scripted").await.is_empty().then_some(())
    })
    .await;
    assert!(!busy.is_finished(), "events still arrive for it");
    done.store(true, Relaxed);
    assert!(busy.await.unwrap() > 0);
    until_counted(&database, &["scripted_log"]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, "true").await;
}
