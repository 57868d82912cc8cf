//! A database that crashes under a running host, as a whole or session by session. Afterwards the
//! documents match the log exactly.
//!
//! A crash can take back events that the host has read, handled, and perhaps committed; their xids
//! are assigned again. So the host must not use anything it remembers from before the crash.

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
    ledger::{EVERY_EVENT, assert_plane_log, assert_scripted_log, until_counted, until_folded},
    native::{Folding, NativeHost},
    random::Random,
    writers::Writers,
};
use serde_json::json;

const PLUGINS: [&str; 2] = ["scripted", "plane-log"];
/// Pages so small that a crash also comes between two pages of one difference.
const SETTINGS: [&str; 1] = ["processor.page-events=20"];

/// A server whose commits do not wait for the disk, with a migrated database.
async fn forgetful_server() -> (Embedded, Database) {
    let settings = [
        ("synchronous_commit", "off"),
        // Room for all WAL that the stopped process no longer writes to disk.
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

/// The process that writes asynchronous commits to disk.
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

    /// Stops the process, so that asynchronous commits stay in memory.
    fn freeze(&self) {
        kill_process(self.0, Signal::STOP).unwrap();
    }

    /// Kills the process. The server treats that as a crash: it ends all sessions, drops its
    /// memory, and recovers.
    fn kill(self) {
        kill_process(self.0, Signal::KILL).unwrap();
    }
}

/// A session on a server that may not be back yet.
async fn connect(db: &Db) -> Session {
    eventually("the server is back", async || db.connect("test").await.ok()).await
}

/// The number of these acknowledged events that no longer exist.
async fn lost(session: &Session, acknowledged: &[String]) -> usize {
    let sql = "select count(*) from sandmill.events where id = any ($1)";
    let there: i64 = session.query_one(sql, &[&acknowledged]).await.unwrap().get(0);
    acknowledged.len() - there as usize
}

/// The number of events that the host has folded and committed.
async fn folded(session: &Session) -> Option<i64> {
    let sql = "select sum((data->>'count')::bigint)::bigint from public.scripted_log";
    session.query_one(sql, &[]).await.ok()?.get(0)
}

/// Waits until that many more events are folded than the log has now.
async fn until_more_is_folded(session: &Session, events: i64) {
    let there: i64 = session.query_one("select count(*) from sandmill.events", &[]).await.unwrap().get(0);
    eventually("the host continues", async || folded(session).await.filter(|now| *now >= there + events)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_crash_took_back_are_not_in_the_documents() {
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
            // Down for a while, instead of restarting immediately.
            server.crash().await.unwrap();
            server.start_again().await.unwrap();
        }
    }
    let session = connect(&database.db).await;
    until_more_is_folded(&session, 100).await;
    let acknowledged = writers.stop().await;
    // The lost events' xids were assigned again.
    let lost = lost(&session, &acknowledged).await;
    println!("{lost} of {} committed events were lost", acknowledged.len());
    assert!(lost > 0, "the crashes took no event back, so they prove nothing");
    until_folded(&database).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
    assert_plane_log(&database).await;
}

/// The term that read the event holds no connection while it works, so no lost connection ends it.
#[tokio::test(flavor = "multi_thread")]
async fn events_read_before_a_crash_are_not_committed_on_a_connection_opened_after_it() {
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
    // No further page is read while one is being handled.
    let host = NativeHost::start(&database, folding, &["processor.pages-ahead=1"]).await;
    database.append("acme", "s", &[json!({})]).await;
    let session = connect(&database.db).await;
    eventually("the first event is folded", async || folded(&session).await.filter(|events| *events == 1)).await;
    // Everything up to here survives the crash.
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
        "the crash took no event back, so it proves nothing"
    );
    hold.store(false, Relaxed);
    database.append("held", "s", &[json!({})]).await;
    until_counted(&database, &["scripted_log"]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_randomly_ended_sessions_only_delay_the_host() {
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
    assert_scripted_log(&database, EVERY_EVENT).await;
    assert_plane_log(&database).await;
}
