// Back-pressure strategies: the observable behaviour of each one.

use std::collections::BTreeMap;

use sandmill::{db::Session, processor::pauses};
use sandmill_tests::{
    Database, database,
    host::{Host, eventually},
    ledger::{EVERY_EVENT, assert_log, assert_scripted_log, documents, until_counted},
    native::{Folding, Gate, NativeHost},
};
use serde_json::json;

/// Events counted in the documents of a collection, of some tenants.
async fn counted(session: &Session, collection: &str, tenants: &str) -> i64 {
    let sql = format!(
        "select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.{collection} where _partition {tenants}"
    );
    session.query_one(&sql, &[]).await.unwrap().get(0)
}

/// Two processors have the same slow lane. One detaches it and soon handles the next event of a
/// quick lane; the other reads nothing more and reports why.
#[tokio::test(flavor = "multi_thread")]
async fn with_pause_all_lanes_wait_for_a_full_one_and_with_detach_none() {
    let database = database().await;
    let gate = Gate::default();
    let foldings = vec![gate.before("slow").named("detaches"), gate.before("slow").named("pauses")];
    let settings = [
        "processor.lane-queue-kib=16",
        "processors.pauses.back-pressure=pause",
        // The gate blocks one thread for each processor.
        "scheduler.threads=3",
        "scheduler.tenant-threads=2",
    ];
    let host = NativeHost::start_all(&database, foldings, &settings).await;
    let session = database.db.connect("test").await.unwrap();
    let quick = async |processor: &str| counted(&session, &format!("{processor}_log"), "= 'quick'").await;
    database.append("slow", "s", &[json!({})]).await;
    database.append("quick", "s", &[json!({})]).await;
    for processor in ["detaches", "pauses"] {
        eventually("the quick lane does not wait for the slow one", async || {
            (quick(processor).await == 1).then_some(())
        })
        .await;
        eventually("the slow lane is left behind", async || {
            (database.lanes_behind(processor).await == ["slow catching-up"]).then_some(())
        })
        .await;
    }
    // More events than the queue of the slow lane may hold.
    database.append("slow", "s", &vec![json!({}); 100]).await;
    let held = eventually("status names the lane or processor that it waits for", async || {
        database.status("pauses").await?.held
    })
    .await;
    assert!(held.starts_with("waiting for tenant slow, whose queue is full (back-pressure pause) since "), "{held}");
    database.append("quick", "s", &[json!({})]).await;
    eventually("the processor that detaches handles the next event", async || {
        (quick("detaches").await == 2).then_some(())
    })
    .await;
    assert_eq!(quick("pauses").await, 1);
    assert!(database.status("detaches").await.unwrap().held.is_none());

    gate.open();
    until_counted(&database, &["detaches_log", "pauses_log"]).await;
    for processor in ["detaches", "pauses"] {
        database.settles(processor, &[]).await;
        eventually("the hold is cleared", async || database.status(processor).await?.held.is_none().then_some(()))
            .await;
    }
    host.stop().await;
    for collection in ["detaches_log", "pauses_log"] {
        assert_log(&database, collection, EVERY_EVENT).await;
    }
}

/// A blocked lane is left behind even where lanes wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_lane_delays_no_other_lane_under_any_strategy() {
    for strategy in ["pause", "lockstep"] {
        let database = database().await;
        let strategy = format!("processors.scripted.back-pressure={strategy}");
        let settings = ["processor.page-events=20", "processor.lane-queue-kib=1", strategy.as_str()];
        let host = Host::start(&database, &["scripted"], &settings);
        database.append("a", "s", &[json!({"do": "stop", "code": "full"})]).await;
        for _ in 0..5 {
            database.append("a", "s", &vec![json!({}); 50]).await;
            database.append("b", "s", &vec![json!({}); 50]).await;
        }
        database.scripted_settles(&["a blocked plugin:full"]).await;
        host.stop().await;
        assert_scripted_log(&database, "e.tenant = 'b'").await;
    }
}

/// Maximum number of events in a page of a processor that is behind, with a setting of 10: four
/// times that, and twice as much after a page in which its only lane had few.
const PAGE: i64 = 80;

/// One of two processors stands still. In lockstep the other one reads no page more, and reports
/// why; without lockstep it continues.
#[tokio::test(flavor = "multi_thread")]
async fn in_lockstep_processors_stay_within_a_page_of_each_other() {
    const EVENTS: i64 = 400;
    for lockstep in [false, true] {
        let database = database().await;
        let gate = Gate::default();
        let foldings = vec![gate.before("a").named("still"), Folding::after(|_| {}).named("quick")];
        database.append("a", "s", &vec![json!({}); EVENTS as usize]).await;
        // The gate blocks one thread, so a tenant may use two.
        let mut settings = vec!["processor.page-events=10", "scheduler.threads=3", "scheduler.tenant-threads=2"];
        if lockstep {
            settings.extend(["processors.still.back-pressure=lockstep", "processors.quick.back-pressure=lockstep"]);
        }
        let host = NativeHost::start_all(&database, foldings, &settings).await;
        let session = database.db.connect("test").await.unwrap();
        if lockstep {
            let held = eventually("status names the lane or processor that it waits for", async || {
                database.status("quick").await?.held
            })
            .await;
            assert!(held.starts_with("waiting for still (back-pressure lockstep) since "), "{held}");
            assert!((1..=PAGE).contains(&counted(&session, "quick_log", "is not null").await));
        } else {
            until_counted(&database, &["quick_log"]).await;
        }
        assert_eq!(counted(&session, "still_log", "is not null").await, 0);

        gate.open();
        let sql = "select (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.still_log),
                          (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.quick_log)";
        eventually("both have handled everything", async || {
            let row = session.query_one(sql, &[]).await.unwrap();
            let (still, quick): (i64, i64) = (row.get(0), row.get(1));
            assert!(!lockstep || (still - quick).abs() <= PAGE, "{still} and {quick}");
            (still == EVENTS && quick == EVENTS).then_some(())
        })
        .await;
        host.stop().await;
    }
}

/// The results of the page exceed the bound of a tenant's uncommitted results.
#[tokio::test(flavor = "multi_thread")]
async fn in_lockstep_a_page_with_large_results_is_committed_in_parts() {
    let database = database().await;
    for stream in 0..60 {
        let giant = json!({"do": "giant", "mib": 2, "id": format!("x{stream}")});
        database.append("acme", &format!("s{stream}"), &[giant]).await;
    }
    let settings = [
        "limits.document-kib=4096",
        "processors.scripted.back-pressure=lockstep",
        "processors.scripted-by-stream.back-pressure=lockstep",
    ];
    let host = Host::start(&database, &["scripted", "scripted-by-stream"], &settings);
    for processor in ["scripted", "scripted-by-stream"] {
        database.settles(processor, &[]).await;
    }
    host.stop().await;
}

/// The other processor continues alone. After the resume it waits until both have the same
/// progress.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_processor_leaves_the_lockstep_and_returns_when_it_is_resumed() {
    let database = database().await;
    let lockstep = |id: &str| format!("processors.{id}.back-pressure=lockstep");
    let (one, two) = (lockstep("one"), lockstep("two"));
    let gate = Gate::default();
    let foldings = vec![gate.before("b").named("one"), Folding::after(|_| {}).named("two")];
    database.append("a", "s", &vec![json!({}); 30]).await;
    let host = NativeHost::start_all(&database, foldings, &["processor.page-events=10", &one, &two]).await;
    until_counted(&database, &["one_log", "two_log"]).await;
    let session = database.db.connect("test").await.unwrap();
    assert!(pauses::pause(&*session, "one", None, None).await.unwrap());
    // Until the host has noticed the pause, the second is at most a page ahead of the first.
    eventually("the second continues alone", async || {
        database.append("a", "s", &vec![json!({}); 10]).await;
        let ahead = counted(&session, "two_log", "= 'a'").await - counted(&session, "one_log", "= 'a'").await;
        (ahead > PAGE).then_some(())
    })
    .await;
    database.append("b", "s", &vec![json!({}); 50]).await;
    until_counted(&database, &["two_log"]).await;
    assert_eq!(counted(&session, "one_log", "= 'b'").await, 0);

    // After the resume the first continues up to the gate.
    pauses::lift(&*session, "one", None, None).await.unwrap();
    let held = eventually("the second waits for the first", async || {
        database.append("a", "s", &[json!({})]).await;
        database.status("two").await?.held
    })
    .await;
    assert!(held.starts_with("waiting for one "), "{held}");
    gate.open();
    until_counted(&database, &["one_log", "two_log"]).await;
    host.stop().await;
}

/// Asserts that every event was either handled or counted as shed. Returns the number of shed
/// events by tenant.
async fn assert_handled_or_shed(database: &Database) -> BTreeMap<String, i64> {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select tenant, count(*), (select coalesce(sum(s.events), 0)::bigint from sandmill.sheds s where s.tenant = e.tenant)
               from sandmill.events e group by tenant";
    let handled = documents(database, "scripted_log").await;
    let mut shed_by_tenant = BTreeMap::new();
    for row in session.query(sql, &[]).await.unwrap() {
        let (tenant, there, shed): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let of_tenant = handled.iter().filter(|((owner, _), _)| *owner == tenant);
        let counted: i64 = of_tenant.map(|(_, data)| data["count"].as_i64().unwrap()).sum();
        assert_eq!(counted + shed, there, "{tenant}: {counted} handled and {shed} shed");
        shed_by_tenant.extend((shed > 0).then_some((tenant, shed)));
    }
    let status = database.status("scripted").await.unwrap();
    assert_eq!(status.shed, shed_by_tenant.values().sum::<i64>());
    assert_eq!(status.last_shed.is_some(), status.shed > 0);
    shed_by_tenant
}

/// After a short stop, in contrast, the processor handles everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_is_too_far_behind_jumps_to_the_head() {
    let database = database().await;
    let settings = [
        "processor.page-events=20",
        "processors.scripted.back-pressure=shed",
        "processors.scripted.shed-after-events=100",
    ];
    let start = async || NativeHost::start(&database, Folding::after(|_| {}), &settings).await;
    for tenant in ["a", "b"] {
        database.append(tenant, "s", &vec![json!({}); 50]).await;
    }
    let host = start().await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(assert_handled_or_shed(&database).await, BTreeMap::new());

    for tenant in ["a", "b", "c"] {
        database.append(tenant, "s", &vec![json!({}); 50]).await;
    }
    let host = start().await;
    database.scripted_settles(&[]).await;
    // From here on it is at the head, and handles new events.
    database.append("a", "later", &vec![json!({}); 70]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    let shed = [("a", 50), ("b", 50), ("c", 50)].map(|(tenant, events)| (tenant.to_string(), events));
    assert_eq!(assert_handled_or_shed(&database).await, BTreeMap::from(shed));
    assert_scripted_log(&database, "e.stream = 'later' or e.tenant <> 'c' and e.version <= 50").await;
}

/// One lane stands still while many events arrive for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_too_far_behind_sheds_alone() {
    let database = database().await;
    let settings = [
        "processor.page-events=20",
        "processors.scripted.back-pressure=shed",
        "processors.scripted.shed-after-events=100",
    ];
    let gate = Gate::default();
    let host = NativeHost::start(&database, gate.before("slow"), &settings).await;
    for round in 0..8 {
        // In one page with other lanes, so that it is left behind.
        database.append("slow", "s", &vec![json!({}); 30]).await;
        for tenant in ["a", "b"] {
            database.append(tenant, "s", &vec![json!({}); 10]).await;
        }
        let session = database.db.connect("test").await.unwrap();
        eventually("the other lanes have handled everything", async || {
            (counted(&session, "scripted_log", "<> 'slow'").await == 20 * (round + 1)).then_some(())
        })
        .await;
    }
    assert_eq!(database.lanes_behind("scripted").await, ["slow catching-up"]);
    gate.open();
    database.scripted_settles(&[]).await;
    database.append("slow", "later", &vec![json!({}); 30]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    let shed = assert_handled_or_shed(&database).await;
    assert_eq!(shed.keys().collect::<Vec<_>>(), ["slow"]);
    assert!(shed["slow"] > 100, "{shed:?}");
    assert_scripted_log(
        &database,
        "e.tenant <> 'slow' or e.stream = 'later' or e.version <= 240 - (select sum(events) from sandmill.sheds)",
    )
    .await;
}

/// The shed events belong to more lanes than one commit should have.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_very_many_lanes_are_shed_in_several_commits() {
    let database = database().await;
    let settings = [
        "processor.page-events=100",
        "processors.scripted.back-pressure=shed",
        "processors.scripted.shed-after-events=100",
    ];
    let session = database.db.connect("test").await.unwrap();
    let append = "select sandmill.append('t' || n, 's', array['Scripted'], array['{}']::json[]) from generate_series(1, 24000) n";
    session.batch_execute(append).await.unwrap();
    let host = NativeHost::start(&database, Folding::after(|_| {}), &settings).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    let largest = "select max(lanes), sum(lanes)::bigint, sum(events)::bigint
                   from (select count(*) lanes, sum(events) events from sandmill.sheds group by to_progress::text) s";
    let row = session.query_one(largest, &[]).await.unwrap();
    let (largest, lanes, events): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(largest <= 20_000, "{largest} lanes in one commit");
    let handled = documents(&database, "scripted_log").await.len() as i64;
    assert_eq!((lanes + handled, events + handled), (24_000, 24_000));
    assert!(handled <= 100, "{handled} were handled");
}
