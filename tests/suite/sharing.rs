//! Connections shared by processors: their bound, and the report of processors that wait for one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use sandmill::db::{
    Db, Session,
    embedded::{Embedded, Options},
};
use sandmill_tests::{
    BEGIN, Database, database, empty_database,
    host::{eventually, sandmill, stderr, stdout},
    native::{Folding, NativeHost},
};
use serde_json::json;

/// The number of a host's connections to a test's database.
async fn connections(session: &Session) -> i64 {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database()
                 and application_name ~ '^sandmill (host|wake|start|commit|read|lanes|documents|large|plugins|tenants|waits|term)'";
    session.query_one(sql, &[]).await.unwrap().get(0)
}

fn foldings(count: usize) -> Vec<Folding> {
    (0..count).map(|number| Folding::after(|_| {}).named(&format!("p{number}"))).collect()
}

/// Waits until each of the processors has counted this many events. Returns the highest number of
/// the host's connections in the meantime.
async fn until_all_counted(session: &Session, processors: usize, events: i64) -> i64 {
    let table = |number| format!("select coalesce(sum((data ->> 'count')::bigint), 0) as n from public.p{number}_log");
    let tables: Vec<String> = (0..processors).map(table).collect();
    let sql = format!("select min(n)::bigint, max(n)::bigint from ({}) as p", tables.join(" union all "));
    let statement = session.prepare(&sql).await.unwrap();
    let mut most = 0;
    eventually("all processors have counted all events", async || {
        most = most.max(connections(session).await);
        let row = session.query_one(&statement, &[]).await.unwrap();
        let (least, more): (i64, i64) = (row.get(0), row.get(1));
        assert!(more <= events, "{more} of {events} events were counted");
        (least == events).then_some(most)
    })
    .await
}

/// Lets processors catch up and follow the log. Returns the highest number of their connections.
async fn connections_of(processors: usize) -> i64 {
    let database = database().await;
    for stream in 0..20 {
        database.append("acme", &format!("s{stream}"), &[json!({}), json!({})]).await;
    }
    let host = NativeHost::start_all(&database, foldings(processors), &[]).await;
    let session = database.db.connect("test").await.unwrap();
    let catching_up = until_all_counted(&session, processors, 40).await;
    for _ in 0..3 {
        database.append("acme", "s0", &[json!({})]).await;
    }
    let live = until_all_counted(&session, processors, 43).await;
    println!("{processors} processors: {catching_up} connections while catching up, {live} live");
    host.stop().await;
    catching_up.max(live)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_processors_share_forty_connections() {
    for (processors, most) in [(1, 10), (30, 40), (300, 40)] {
        let connections = connections_of(processors).await;
        assert!(connections <= most, "{connections} connections of {processors} processors");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_few_connections_serves_all_plugins() {
    // PostgreSQL reserves three of them for superusers.
    let settings = vec![("max_connections".to_string(), "17".to_string())];
    let server = Embedded::start(Options { settings, ..Options::default() }).await.unwrap();
    server.create_database("few", None).await.unwrap();
    let admin = Db::parse(&server.address_of("few")).unwrap().connect("admin").await.unwrap();
    admin
        .batch_execute(
            "create role keeper login; grant create on database few to keeper; grant create on schema public to keeper",
        )
        .await
        .unwrap();
    let address = format!("{} user=keeper", server.address_of("few"));
    let database = Database { db: Db::parse(&address).unwrap(), address };
    let host = NativeHost::start_all(&database, foldings(6), &[]).await;
    for stream in 0..10 {
        database.append("acme", &format!("s{stream}"), &[json!({}), json!({})]).await;
    }
    let most = until_all_counted(&admin, 6, 20).await;
    assert!(most <= 12, "{most} connections; the role has 14 and the host must leave two of them");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_too_few_connections_for_a_host_is_rejected() {
    let database = empty_database().await;
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("drop role if exists limited; create role limited login connection limit 5").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run =
        sandmill(&format!("{} user=limited", database.address)).args(["run", "--plugins"]).arg(folder.path()).output();
    let run = run.unwrap();
    let errors = stderr(&run);
    let expected = "the server allows this role 5 connections at once, and a host needs 9; nothing was changed";
    assert!(!run.status.success() && errors.contains(expected), "{errors}");
    session.batch_execute("drop role limited").await.unwrap();
}

/// There is one connection for commits. A commit that waits for a lock keeps it from the other
/// processor.
#[tokio::test(flavor = "multi_thread")]
async fn status_shows_a_processor_that_waits_for_a_connection_until_it_continues() {
    let database = database().await;
    let host = NativeHost::start_all(&database, foldings(2), &["connections=9"]).await;
    database.append("acme", "s", &[json!({})]).await;
    let session = database.db.connect("test").await.unwrap();
    until_all_counted(&session, 2, 1).await;
    let holder = database.db.connect("holder").await.unwrap();
    let table = database.table("p0_log").await;
    holder.batch_execute(&format!("{BEGIN}; lock table {table} in exclusive mode")).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    // So there is always something to commit.
    let events = tokio::spawn({
        let (database, done) = (database.clone(), done.clone());
        async move {
            let mut events = 1;
            while !done.load(Relaxed) {
                database.append("acme", "s", &[json!({})]).await;
                events += 1;
            }
            events
        }
    });
    let waiting = "p1 is waiting for a connection to the database; all that `connections` allows are busy since ";
    eventually("status reports the waiting processor", async || {
        let status = sandmill(&database.address).arg("status").output().unwrap();
        stdout(&status).contains(waiting).then_some(())
    })
    .await;
    holder.batch_execute("commit").await.unwrap();
    done.store(true, Relaxed);
    let events = events.await.unwrap();
    until_all_counted(&session, 2, events).await;
    eventually("no processor waits any longer", async || {
        let status = sandmill(&database.address).arg("status").output().unwrap();
        (!stdout(&status).contains("waiting for a connection")).then_some(())
    })
    .await;
    host.stop().await;
}
