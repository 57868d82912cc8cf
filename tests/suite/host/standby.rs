// A standby host. It changes nothing while another host works, and takes over when that host is
// gone, no matter how it ended.

use sandmill::{
    cluster::host_lock::{self, HostLock},
    db::{
        Db,
        embedded::{Embedded, Options},
        migrate,
    },
};
use sandmill_tests::{
    Database, database, empty_database,
    host::{Process, eventually, eventually_or, plugins, sandmill, stderr},
    ledger::{EVERY_EVENT, assert_scripted_log},
    native::{Folding, NativeHost},
    until,
};
use serde_json::json;

use super::footprint;

const STANDS_BY: &str = "standing by: another host is running on this database (database session ";
const CANNOT_CONNECT: &str = "standing by: cannot connect to the database: ";

/// Waits until a host has logged this.
async fn logged(host: &Process, what: &str) {
    let logged = async || if host.log().contains(what) { Ok(()) } else { Err(host.log()) };
    eventually_or(&format!("the host logs: {what}"), logged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_host_takes_over_from_one_that_is_killed() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    database.append("acme", "s", &vec![json!({}); 5]).await;
    let first = Process::start(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    let second = Process::stand_by(&database, folder.path());
    logged(&second, STANDS_BY).await;
    // Dropping the host kills it.
    drop(first);
    database.append("acme", "s", &vec![json!({}); 5]).await;
    database.append("globex", "t", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    assert_scripted_log(&database, EVERY_EVENT).await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 11);
    let log = second.log();
    assert!(log.contains("the other host is gone; taking over"), "{log}");
    assert_eq!(second.end().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_host_changes_nothing_reports_once_and_ends_on_a_signal() {
    let database = empty_database().await;
    let holder = HostLock::acquire(&database.db, std::time::Duration::ZERO).await.unwrap();
    let folder = plugins(&["scripted"]);
    let host = Process::stand_by(&database, folder.path());
    logged(&host, STANDS_BY).await;
    // It retries on one session; the other one is the holder's.
    let session = database.db.connect("test").await.unwrap();
    let sql = "select max(query_start)::text from pg_stat_activity where datname = current_database() and application_name = 'sandmill host'";
    let mut asked = std::collections::BTreeSet::new();
    until("it has retried several times", async || {
        asked.extend(session.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0));
        asked.len() > 3
    })
    .await;
    // Not even a schema.
    assert_eq!(footprint(&database).await, "");
    let log = host.log();
    assert_eq!(log.lines().filter(|line| line.contains("standing by")).count(), 1, "{log}");
    assert_eq!(host.end().await, Some(0));
    holder.ensure().await.unwrap();

    let both = ["run", "--standby", "--until-caught-up", "--plugins", "."];
    let refused = sandmill(&database.address).args(both).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
}

/// A standby host survives an outage of the database, and can be ended during one.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_stands_by_while_the_database_is_unreachable() {
    let server = Embedded::start(Options::default()).await.unwrap();
    let address = server.address();
    let db = Db::parse(&address).unwrap();
    migrate::migrate(&mut db.connect("test").await.unwrap()).await.unwrap();
    let database = Database { db, address };
    let holder = HostLock::acquire(&database.db, std::time::Duration::ZERO).await.unwrap();
    let folder = plugins(&["scripted"]);
    let [stays, ends] = [(); 2].map(|()| Process::stand_by(&database, folder.path()));
    logged(&stays, STANDS_BY).await;
    logged(&ends, STANDS_BY).await;
    server.crash().await.unwrap();
    logged(&stays, CANNOT_CONNECT).await;
    logged(&ends, CANNOT_CONNECT).await;
    assert_eq!(ends.end().await, Some(0));
    // The holder has lost its session and does not take the lock again.
    server.start_again().await.unwrap();
    database.append("acme", "s", &[json!({}), json!({})]).await;
    database.scripted_settles(&[]).await;
    assert_scripted_log(&database, EVERY_EVENT).await;
    assert_eq!(stays.end().await, Some(0));
    drop(holder);
}

/// Losing only the lock's session is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lost_its_lock_takes_it_again_for_the_same_processors() {
    let database = database().await;
    let host = NativeHost::start(&database, Folding::after(|_| {}), &[]).await;
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    let session = database.db.connect("test").await.unwrap();
    let running = "select pid from sandmill.running_processors where id = 'scripted'";
    let former: i32 = session.query_one(running, &[]).await.unwrap().get(0);
    session.execute("select pg_terminate_backend($1)", &[&former]).await.unwrap();
    eventually("another session holds the lock", async || {
        let row = session.query_opt(running, &[]).await.unwrap()?;
        (row.get::<_, i32>(0) != former).then_some(())
    })
    .await;
    assert!(host_lock::is_held(&*session).await.unwrap());
    host.stop().await;
    assert!(session.query_opt(running, &[]).await.unwrap().is_none(), "it no longer runs");
}

/// PostgreSQL lets any role take any advisory lock.
#[tokio::test(flavor = "multi_thread")]
async fn another_session_that_holds_the_lock_is_named_with_the_remedy() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("drop role if exists squatter; create role squatter login").await.unwrap();
    let address = format!("{} user=squatter", database.address);
    let squatter = Db::parse(&address).unwrap().connect("host").await.unwrap();
    let pid: i32 = squatter.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    squatter.batch_execute("select pg_advisory_lock(1398894180, 1)").await.unwrap();
    assert!(!host_lock::is_held(&*session).await.unwrap());
    let error = HostLock::acquire(&database.db, std::time::Duration::ZERO).await.err().unwrap().to_string();
    let expected = format!("session {pid} of the role squatter holds the lock that a host needs, but is not a host");
    assert!(error.starts_with(&expected) && error.ends_with(&format!("pg_terminate_backend({pid})")), "{error}");
    drop(squatter);
    eventually("the lock is free", async || HostLock::acquire(&database.db, std::time::Duration::ZERO).await.ok())
        .await;
    session.batch_execute("drop role squatter").await.unwrap();
}

/// The lock is checked before the rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_gets_the_error_about_the_other_host() {
    let database = database().await;
    let holder = HostLock::acquire(&database.db, std::time::Duration::ZERO).await.unwrap();
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("drop role if exists stranger; create role stranger login").await.unwrap();
    let stranger = Db::parse(&format!("{} user=stranger", database.address)).unwrap();
    let error = HostLock::acquire(&stranger, std::time::Duration::ZERO).await.err().unwrap().to_string();
    assert!(error.starts_with("another host is running on this database"), "{error}");
    holder.ensure().await.unwrap();
    session.batch_execute("drop role stranger").await.unwrap();
}
