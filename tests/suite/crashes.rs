//! A database that dies under a living host, whole or session by session: documents are exactly what the log says afterwards.
//!
//! What a crash takes back was seen by the host, handled, and perhaps committed and acknowledged; the xids of all of it are given out again. So
//! nothing that the host remembers from before may be used after it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill::db::{
    Db, Session,
    embedded::{Embedded, Options},
    migrate,
};
use sandmill_tests::{
    Database, database,
    host::{Host, eventually},
    ledger::{assert_plane_log, assert_scripted_log, until_counted, until_folded},
    native::{Folding, NativeHost},
    random::Random,
    writers::Writers,
};
use serde_json::json;

const PLUGINS: [&str; 2] = ["scripted", "plane-log"];
/// Pages small enough that a crash comes between two of one difference as well.
const SETTINGS: [&str; 1] = ["processor.page-events=20"];

/// A server whose commits do not wait for the disk, with a migrated database.
async fn forgetful_server() -> (Embedded, Database) {
    let settings = [
        ("synchronous_commit", "off"),
        // Room for what nobody writes to the disk any more.
        ("wal_buffers", "64MB"),
        ("bgwriter_lru_maxpages", "0"),
        ("autovacuum", "off"),
    ];
    let settings = settings.map(|(name, value)| (name.to_string(), value.to_string())).to_vec();
    let server = Embedded::start(Options { settings, ..Options::default() }).await.unwrap();
    let address = server.address();
    let db = Db::parse(&address).unwrap();
    migrate::migrate(&mut db.connect("test").await.unwrap()).await.unwrap();
    (server, Database { db, address })
}

/// The process that writes to the disk what was committed without waiting for it.
struct WalWriter(Pid);

impl WalWriter {
    async fn find(session: &Session) -> WalWriter {
        eventually("the server has a WAL writer", async || {
            let sql = "select pid from pg_stat_activity where backend_type = 'walwriter'";
            let row = session.query_opt(sql, &[]).await.unwrap();
            row.and_then(|row| Pid::from_raw(row.get(0)).map(WalWriter))
        })
        .await
    }

    /// From here on commits are in memory alone, unless somebody insists.
    fn freeze(&self) {
        kill_process(self.0, Signal::STOP).unwrap();
    }

    /// The server takes the death of any of its processes as a crash: it cuts all sessions, forgets its memory, and recovers.
    fn kill(self) {
        kill_process(self.0, Signal::KILL).unwrap();
    }
}

/// A session on a server that may not be back yet.
async fn connect(db: &Db) -> Session {
    eventually("the server is back", async || db.connect("test").await.ok()).await
}

/// How many of these events, whose commit was acknowledged, are not there any more.
async fn lost(session: &Session, acknowledged: &[String]) -> usize {
    let sql = "select count(*) from sandmill.events where id = any ($1)";
    let there: i64 = session.query_one(sql, &[&acknowledged]).await.unwrap().get(0);
    acknowledged.len() - there as usize
}

/// Events that the host has folded, as far as it committed them.
async fn folded(session: &Session) -> Option<i64> {
    let sql = "select sum((data->>'count')::bigint)::bigint from public.scripted_log";
    session.query_one(sql, &[]).await.ok()?.get(0)
}

/// Waits until so many more events are folded than the log has now.
async fn until_more_is_folded(session: &Session, events: i64) {
    let there: i64 = session.query_one("select count(*) from sandmill.events", &[]).await.unwrap().get(0);
    eventually("the host goes on", async || folded(session).await.filter(|now| *now >= there + events)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_took_back_is_forgotten() {
    let mut random = Random::seeded();
    let (server, database) = forgetful_server().await;
    let host = Host::start(&database, &PLUGINS, &SETTINGS);
    let writers = Writers::start_stubborn(&database.db, &mut random, 6);
    for round in 0..4 {
        let session = connect(&database.db).await;
        until_more_is_folded(&session, 1).await;
        let wal_writer = WalWriter::find(&session).await;
        wal_writer.freeze();
        until_more_is_folded(&session, 100 + random.below(200) as i64).await;
        wal_writer.kill();
        eventually("the server is down", async || session.batch_execute("").await.err()).await;
        if round % 2 == 1 {
            // Gone for a while, where it otherwise comes back at once.
            server.crash().await.unwrap();
            server.start_again().await.unwrap();
        }
    }
    let session = connect(&database.db).await;
    until_more_is_folded(&session, 100).await;
    let acknowledged = writers.stop().await;
    // Their xids were the next to be given out again.
    let lost = lost(&session, &acknowledged).await;
    println!("{lost} of {} committed events were lost", acknowledged.len());
    assert!(lost > 0, "these crashes took nothing back and prove nothing");
    until_folded(&database).await;
    host.stop().await;
    assert_scripted_log(&database, "true").await;
    assert_plane_log(&database).await;
}

/// The term that read it holds no connection while it works, so none that is lost ends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_crash_is_not_committed_on_a_connection_that_is_opened_after_it() {
    let (_server, database) = forgetful_server().await;
    let (hold, begun) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let folding = Folding::after({
        let (hold, begun) = (hold.clone(), begun.clone());
        move |event| {
            while event.tenant.as_str() == "held" && hold.load(Relaxed) {
                begun.store(true, Relaxed);
                std::thread::yield_now();
            }
        }
    });
    // While one page is handled no other is read.
    let host = NativeHost::start(&database, folding, &["processor.pages-ahead=1"]).await;
    database.append("acme", "s", &[json!({})]).await;
    let session = connect(&database.db).await;
    eventually("the first event is folded", async || folded(&session).await.filter(|events| *events == 1)).await;
    // What comes before the crash is the same after it.
    session.batch_execute("checkpoint").await.unwrap();
    let wal_writer = WalWriter::find(&session).await;
    wal_writer.freeze();
    database.append("held", "s", &[json!({})]).await;
    eventually("the event is being handled", async || begun.load(Relaxed).then_some(())).await;
    wal_writer.kill();
    eventually("the server is down", async || session.batch_execute("").await.err()).await;
    let session = connect(&database.db).await;
    let count = "select count(*) from sandmill.events where tenant = 'held'";
    assert_eq!(
        session.query_one(count, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "the crash took nothing back and proves nothing"
    );
    hold.store(false, Relaxed);
    database.append("held", "s", &[json!({})]).await;
    until_counted(&database, &["scripted_log"]).await;
    host.stop().await;
    assert_scripted_log(&database, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_ended_at_random_a_hundred_times_cost_nothing_but_time() {
    let mut random = Random::seeded();
    let database = database().await;
    let host = Host::start(&database, &PLUGINS, &SETTINGS);
    let writers = Writers::start_stubborn(&database.db, &mut random, 4);
    let session = database.db.connect("test").await.unwrap();
    until_more_is_folded(&session, 1).await;
    for _ in 0..100 {
        let sql = "select pid, application_name from pg_stat_activity
                   where datname = current_database() and application_name ~ '^sandmill (host|wake|documents|read|lanes|commit)'
                   order by application_name, pid";
        let sessions = session.query(sql, &[]).await.unwrap();
        let Some(victim) = sessions.get(random.below(sessions.len().max(1))) else { continue };
        let (pid, name): (i32, &str) = (victim.get(0), victim.get(1));
        println!("ending {name}");
        session.execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
        until_more_is_folded(&session, 1 + random.below(40) as i64).await;
    }
    writers.stop().await;
    until_folded(&database).await;
    host.stop().await;
    assert_scripted_log(&database, "true").await;
    assert_plane_log(&database).await;
}
