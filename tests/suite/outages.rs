//! A database that fails without crashing: statements are cancelled, the disk is full, or data is
//! rejected. A failure of the database only delays the host. Rejected data blocks exactly the lane
//! that wrote it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use sandmill::db::{
    Db, Session,
    embedded::{Embedded, Options},
    migrate,
};
use sandmill_tests::{
    BEGIN, Database, database,
    host::{Host, eventually},
    ledger::{EVERY_EVENT, assert_log, assert_scripted_log, until_counted},
    native::{Folding, NativeHost},
    random::Random,
    writers::Writers,
};
use serde_json::json;

const PLUGINS: [&str; 2] = ["scripted", "scripted-by-stream"];
const COLLECTIONS: [&str; 2] = ["scripted_log", "scripted_stream_log"];
/// Pages and queues so small that lanes are detached often.
const TIGHT: [&str; 2] = ["processor.page-events=20", "processor.lane-queue-kib=1"];

/// A separate server with a migrated database. Its log names the application of each cancelled
/// statement.
async fn own_server() -> (Embedded, Database) {
    let settings = vec![("log_line_prefix".into(), "%a:".into())];
    let server = Embedded::start(Options { settings, ..Options::default() }).await.unwrap();
    let address = server.address();
    let db = Db::parse(&address).unwrap();
    migrate::migrate(&mut db.connect("test").await.unwrap()).await.unwrap();
    (server, Database { db, address })
}

/// A session on a server that may not be back yet, without a limit on statements.
async fn connect(db: &Db) -> Session {
    eventually("the server takes a session", async || {
        let session = db.connect("test").await.ok()?;
        session.batch_execute("set statement_timeout = 0").await.ok()?;
        Some(session)
    })
    .await
}

/// The number of events in the log, and the number committed in documents of the first collection.
async fn counts(session: &Session) -> (i64, i64) {
    let sql = "select (select count(*) from sandmill.events),
                      (select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.scripted_log)";
    // Before the first start there is no such view.
    session.query_one(sql, &[]).await.map(|row| (row.get(0), row.get(1))).unwrap_or_default()
}

/// Waits until that many more events are folded than the log has now.
async fn until_more_is_folded(session: &Session, events: i64) {
    let wanted = counts(session).await.0 + events;
    eventually("the host continues", async || (counts(session).await.1 >= wanted).then_some(())).await;
}

async fn assert_logs(database: &Database) {
    for collection in COLLECTIONS {
        assert_log(database, collection, EVERY_EVENT).await;
    }
}

/// Asserts that every lane of every processor has rejoined the tail, and that documents match the
/// log.
async fn assert_recovered(database: &Database, host: Host) {
    until_counted(database, &COLLECTIONS).await;
    for plugin in PLUGINS {
        database.settles(plugin, &[]).await;
    }
    host.stop().await;
    assert_logs(database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_restart_without_warning_only_delays_the_host() {
    let mut random = Random::seeded();
    let (server, database) = own_server().await;
    let host = Host::start(&database, &PLUGINS, &TIGHT);
    let writers = Writers::start_stubborn(&database.db, &mut random, 4);
    for _ in 0..6 {
        let session = connect(&database.db).await;
        until_more_is_folded(&session, 1 + random.below(100) as i64).await;
        server.crash().await.unwrap();
        server.start_again().await.unwrap();
    }
    until_more_is_folded(&connect(&database.db).await, 1).await;
    writers.stop().await;
    assert_recovered(&database, host).await;
}

/// Another session locks rows that the host writes, and the statements that wait for them are
/// cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_statements_only_delay_the_host() {
    let mut random = Random::seeded();
    let (server, database) = own_server().await;
    let host = Host::start(&database, &PLUGINS, &TIGHT);
    let writers = Writers::start_stubborn(&database.db, &mut random, 4);
    let session = connect(&database.db).await;
    until_more_is_folded(&session, 20).await;
    let canceller = connect(&database.db).await;
    let cancel = "select pg_cancel_backend(pid) from pg_stat_activity
                  where application_name like 'sandmill commit%' and wait_event_type = 'Lock'";
    let holds = [
        "select from public.scripted_log for update",
        "select from sandmill.cursors for update",
        "select from public.scripted_stream_log for update",
        "lock table sandmill.lane_checkpoints in share mode",
    ];
    for round in 0..8 {
        // This locks rows in a different order from commits, so PostgreSQL may abort it for a
        // deadlock.
        eventually("the locks are held", async || {
            let held = session.batch_execute(&format!("{BEGIN}; {}", holds[round % holds.len()])).await;
            if held.is_err() {
                session.batch_execute("rollback").await.unwrap();
            }
            held.ok()
        })
        .await;
        let cancelled = cancelled(&server);
        eventually("commits are cancelled", async || {
            canceller.batch_execute(cancel).await.unwrap();
            (self::cancelled(&server) > cancelled + 1).then_some(())
        })
        .await;
        session.batch_execute("rollback").await.unwrap();
        until_more_is_folded(&session, 1).await;
    }
    writers.stop().await;
    assert_recovered(&database, host).await;
}

/// The number of statements of commits that the server has cancelled so far, from its log.
fn cancelled(server: &Embedded) -> usize {
    let log = std::fs::read_to_string(server.log()).unwrap();
    let of_commits = log.lines().filter(|line| line.starts_with("sandmill commit"));
    of_commits.filter(|line| line.contains("canceling statement due to user request")).count()
}

/// Makes every write to a table fail as on a full disk; the sequence `tries` counts the writes.
const FULL: &str = "
    create sequence public.tries;
    create function public.no_room() returns trigger language plpgsql as $$
    begin
      perform nextval('public.tries');
      raise exception 'could not extend file: No space left on device' using errcode = '53100';
    end
    $$;
    create trigger no_room before insert or update or delete on {table}
      for each statement execute function public.no_room();";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_only_delays_the_host() {
    let mut random = Random::seeded();
    let database = database().await;
    let host = Host::start(&database, &PLUGINS, &TIGHT);
    let writers = Writers::start_stubborn(&database.db, &mut random, 4);
    let session = connect(&database.db).await;
    until_more_is_folded(&session, 20).await;
    let table = database.table(COLLECTIONS[0]).await;
    session.batch_execute(&FULL.replace("{table}", &table)).await.unwrap();
    let folded = counts(&session).await.1;
    eventually("several writes have failed", async || {
        let tries: i64 = session.query_one("select last_value from public.tries", &[]).await.unwrap().get(0);
        (tries >= 4).then_some(())
    })
    .await;
    writers.stop().await;
    // The other processor, which writes to another table, continues.
    until_counted(&database, &COLLECTIONS[1..]).await;
    assert_eq!(counts(&session).await.1, folded, "a rejected commit has left something behind");
    assert!(database.lanes_behind("scripted").await.iter().all(|lane| !lane.contains("blocked")));
    session.batch_execute(&format!("drop trigger no_room on {table}")).await.unwrap();
    assert_recovered(&database, host).await;
}

/// SQL that makes the database reject some documents from their fifth event on: a constraint
/// rejects those named `narrow`, a trigger those named `odd`.
fn rejecting(table: &str) -> String {
    format!(
        "alter table {table} add constraint picky check (_id <> 'narrow' or (data->>'count')::int < 5);
         create trigger picky before insert or update on {table} for each row
           when (new._id = 'odd' and (new.data->>'count')::int >= 5) execute function public.reject();"
    )
}

const REJECT: &str = "
    create function public.reject() returns trigger language plpgsql as $$
    begin
      raise exception 'this is odd' using errcode = '22023';
    end
    $$;";

/// Three lanes write documents that the database rejects, among many other lanes.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_data_blocks_exactly_the_lanes_that_wrote_it() {
    let mut random = Random::seeded();
    let database = database().await;
    let host = Host::start(&database, &PLUGINS, &TIGHT);
    let session = connect(&database.db).await;
    database.append("first", "s", &[json!({})]).await;
    until_counted(&database, &COLLECTIONS).await;
    session.batch_execute(REJECT).await.unwrap();
    for collection in COLLECTIONS {
        let table = database.table(collection).await;
        session.batch_execute(&rejecting(&table)).await.unwrap();
    }
    let writers = Writers::start(&database.db, &mut random, 4, 60);
    let culprits = [("a", "narrow"), ("b", "odd"), ("c", "narrow")];
    for _ in 0..10 {
        for (tenant, stream) in culprits {
            database.append(tenant, "fine", &[json!({}), json!({})]).await;
            database.append(tenant, stream, &[json!({})]).await;
        }
    }
    writers.join().await;
    let tenants = ["a blocked refused-commit", "b blocked refused-commit", "c blocked refused-commit"];
    database.settles(PLUGINS[0], &tenants).await;
    let streams =
        ["a/narrow blocked refused-commit", "b/odd blocked refused-commit", "c/narrow blocked refused-commit"];
    database.settles(PLUGINS[1], &streams).await;
    let fifth =
        "select position from sandmill.events where stream in ('narrow', 'odd') and version = 5 order by tenant";
    let fifth: Vec<i64> = session.query(fifth, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    for plugin in PLUGINS {
        let lanes = database.status(plugin).await.unwrap().lanes_behind;
        let stopped: Vec<i64> = lanes.iter().filter_map(|lane| lane.event_position).collect();
        assert_eq!(stopped, fifth, "a lane is not right before its first rejected event");
        assert!(lanes[0].reason.contains("SQLSTATE 23514") && lanes[1].reason.contains("SQLSTATE 22023"), "{lanes:?}");
    }
    let others = "e.tenant not in ('a', 'b', 'c')";
    let before = format!(
        "{others} or e.position < (select f.position from sandmill.events f where f.tenant = e.tenant and f.stream in ('narrow', 'odd') and f.version = 5)"
    );
    assert_log(&database, COLLECTIONS[0], &before).await;
    assert_log(&database, COLLECTIONS[1], &format!("{others} or e.stream = 'fine' or e.version < 5")).await;

    // Without the obstacle, and resumed manually, they catch up.
    for collection in COLLECTIONS {
        let table = database.table(collection).await;
        let sql = format!("alter table {table} drop constraint picky; drop trigger picky on {table}");
        session.batch_execute(&sql).await.unwrap();
    }
    for plugin in PLUGINS {
        assert_eq!(database.resume_lanes(plugin, None).await, 3);
    }
    assert_recovered(&database, host).await;
}

/// An operator's unique index on documents: the term that wrote the data must not end for it,
/// because every later term would write the same data.
#[tokio::test(flavor = "multi_thread")]
async fn a_violated_index_of_an_operator_blocks_exactly_the_lane_that_violated_it() {
    let database = database().await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.append("first", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    let session = connect(&database.db).await;
    let table = database.table(COLLECTIONS[0]).await;
    session.batch_execute(&format!("create unique index picky on {table} (_id)")).await.unwrap();
    database.append("second", "s", &[json!({})]).await;
    database.append("third", "t", &[json!({})]).await;
    database.scripted_settles(&["second blocked refused-commit"]).await;
    assert_log(&database, COLLECTIONS[0], "e.tenant <> 'second'").await;
    session.batch_execute("drop index sandmill_documents.picky").await.unwrap();
    assert_eq!(database.resume_lanes("scripted", None).await, 1);
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// A lane's commit is rejected while the lane handles the next event. Not even the lane itself may
/// see the results of that next event.
#[tokio::test(flavor = "multi_thread")]
async fn work_under_way_when_a_lanes_commit_is_rejected_is_dropped() {
    let database = database().await;
    let (begun, hold) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let folding = Folding::after({
        let (begun, hold) = (begun.clone(), hold.clone());
        move |event| {
            begun.fetch_or(&*event.stream == "late", Relaxed);
            while &*event.stream == "late" && hold.load(Relaxed) {
                std::thread::yield_now();
            }
        }
    });
    let host = NativeHost::start(&database, folding, &[]).await;
    database.append("first", "s", &[json!({})]).await;
    until_counted(&database, &COLLECTIONS[..1]).await;
    let session = connect(&database.db).await;
    let table = database.table(COLLECTIONS[0]).await;
    let reject = format!("alter table {table} add constraint picky check (_id <> 'narrow')");
    let no_writing = format!("{BEGIN}; lock table {table} in exclusive mode");
    for sql in [reject, no_writing] {
        session.batch_execute(&sql).await.unwrap();
    }
    database.append("acme", "narrow", &[json!({})]).await;
    let waits = "select 1 from pg_stat_activity where datname = current_database() and application_name = 'sandmill commit scripted' and wait_event_type = 'Lock'";
    let watch = connect(&database.db).await;
    eventually("the commit waits", async || watch.query_opt(waits, &[]).await.unwrap()).await;
    database.append("acme", "late", &[json!({})]).await;
    eventually("the lane handles the next event", async || begun.load(Relaxed).then_some(())).await;
    session.batch_execute("commit").await.unwrap();
    eventually("the commit is rejected, and the lane is left behind", async || {
        (database.lanes_behind("scripted").await == ["acme catching-up"]).then_some(())
    })
    .await;
    session.batch_execute(&format!("alter table {table} drop constraint picky")).await.unwrap();
    hold.store(false, Relaxed);
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}
