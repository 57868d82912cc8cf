//! A slow lane, which alone is left behind, and which rejoins the tail once it is fast again.

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
    ledger::{EVERY_EVENT, assert_scripted_log, until_counted},
    native::{Folding, NativeHost},
};
use serde_json::json;

/// Time per event of the slow tenant.
const EVENT: Duration = Duration::from_millis(5);
/// Events that are kept pending for it.
const BACKLOG: i64 = 2_000;
/// Settings with a queue for a fraction of the backlog, about seventy events.
const SETTINGS: [&str; 2] = ["processor.page-events=100", "processor.lane-queue-kib=16"];

/// Numbers of events of tenants: in the log, and as counted in documents.
async fn counts(session: &Session, tenants: &str) -> (i64, i64) {
    let sql = format!(
        "select (select count(*) from sandmill.events where tenant {tenants}),
                (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.scripted_log where _partition {tenants})"
    );
    let row = session.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Keeps a backlog for the tenant `slow` while it is slow, and appends events for it all the time.
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

/// Whether the slow lane was left behind and has read the log since then. The session that reads
/// the log for lanes is opened earlier, but shows another statement until its first read.
async fn reads_for_itself(database: &Database, session: &Session) -> bool {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and application_name = 'sandmill lanes scripted'
                 and query like '%Reads a page of one tenant%'";
    database.lanes_behind("scripted").await == ["slow catching-up"]
        && session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_lane_is_left_behind_and_rejoins_while_events_arrive() {
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
    eventually("the slow lane reads the log", async || reads_for_itself(&database, &session).await.then_some(())).await;
    let mut progress = 0;
    for round in 0..10 {
        for tenant in 0..8 {
            database.append(&format!("quick-{tenant}"), "s", &vec![json!({}); 10]).await;
        }
        eventually("the other lanes have handled everything", async || {
            let (there, counted) = counts(&session, "<> 'slow'").await;
            (there == counted).then_some(())
        })
        .await;
        let (there, counted) = counts(&session, "= 'slow'").await;
        assert!(there > counted, "round {round}: the slow tenant has no backlog");
        let behind = database.lanes_behind("scripted").await;
        assert!(behind.contains(&"slow catching-up".to_string()), "round {round}: {behind:?}");
        // It is behind, but moves.
        eventually("the slow lane moves", async || {
            let counted = counts(&session, "= 'slow'").await.1;
            (counted > progress).then(|| progress = counted)
        })
        .await;
    }

    slow.store(false, Relaxed);
    eventually("the slow lane has rejoined the tail", async || {
        database.lanes_behind("scripted").await.is_empty().then_some(())
    })
    .await;
    assert!(!busy.is_finished(), "events no longer arrive for it");
    done.store(true, Relaxed);
    assert!(busy.await.unwrap() > 0);
    until_counted(&database, &["scripted_log"]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}
