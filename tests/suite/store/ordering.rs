//! The two orderings of a store, and a change of the ordering while applications append.

use sandmill::{
    db::{Session, SqlState, Transaction},
    store::{Ordering, ordering, set_ordering},
};
use sandmill_client::{Append, AppendError, NewEvent, append};
use sandmill_tests::{Database, database, until};

async fn session(database: &Database) -> Session {
    database.db.connect("test").await.unwrap()
}

fn to(tenant: &str, stream: &str) -> Append {
    Append::to(tenant, stream).event(NewEvent::new("T", "{}"))
}

async fn pid(session: &Session) -> i32 {
    session.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// Waits until a session waits for a lock.
async fn until_waiting(watcher: &Session, pid: i32) {
    until("a session waits for a lock", async || {
        let sql = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1";
        watcher.query_one(sql, &[&pid]).await.unwrap().get::<_, Option<bool>>(0) == Some(true)
    })
    .await;
}

async fn begin(session: &mut Session) -> Transaction<'_> {
    let transaction = session.client_mut().transaction().await.unwrap();
    // No statement may time out; the test ends each wait.
    transaction.batch_execute("set local lock_timeout = 0").await.unwrap();
    transaction
}

#[tokio::test]
async fn ordered_by_stream_appends_to_different_streams_run_concurrently() {
    let database = database().await;
    let (mut one, two) = (session(&database).await, session(&database).await);
    assert_eq!(ordering(&two).await.unwrap(), Ordering::Stream);
    let open = begin(&mut one).await;
    append(&open, &to("acme", "a")).await.unwrap();
    // If this waited, it would fail after the session's lock timeout.
    append(&*two, &to("acme", "b")).await.unwrap();
    open.commit().await.unwrap();
}

#[tokio::test]
async fn ordered_by_tenant_appends_of_one_tenant_follow_each_other() {
    let database = database().await;
    let (mut one, mut two, mut watcher) =
        (session(&database).await, session(&database).await, session(&database).await);
    assert_eq!(set_ordering(&mut watcher, Ordering::Tenant, "ann").await.unwrap(), Ordering::Stream);
    assert_eq!(ordering(&watcher).await.unwrap(), Ordering::Tenant);

    let open = begin(&mut one).await;
    let first = append(&open, &to("acme", "a")).await.unwrap();
    append(&*watcher, &to("other", "b")).await.unwrap();

    let waiting = pid(&two).await;
    let second = async {
        let transaction = begin(&mut two).await;
        let second = append(&transaction, &to("acme", "b")).await.unwrap();
        transaction.commit().await.unwrap();
        second
    };
    let release = async {
        until_waiting(&watcher, waiting).await;
        open.commit().await.unwrap();
    };
    let (second, ()) = tokio::join!(second, release);
    assert!(first[0].position < second[0].position);
}

#[tokio::test]
async fn a_change_of_the_ordering_waits_for_open_appends_and_applies_to_later_ones() {
    let database = database().await;
    let (mut before, mut after, mut changer) =
        (session(&database).await, session(&database).await, session(&database).await);
    let watcher = session(&database).await;

    let open = begin(&mut before).await;
    append(&open, &to("acme", "a")).await.unwrap();
    let (changer_pid, after_pid) = (pid(&changer).await, pid(&after).await);
    let change = set_ordering(&mut changer, Ordering::Tenant, "ann");
    let follow = async {
        until_waiting(&watcher, changer_pid).await;
        let transaction = begin(&mut after).await;
        append(&transaction, &to("acme", "b")).await.unwrap();
        let sql = "select count(*) from pg_locks where pid = $1 and locktype = 'advisory' and classid = 5 and granted";
        let locks: i64 = watcher.query_one(sql, &[&after_pid]).await.unwrap().get(0);
        transaction.commit().await.unwrap();
        locks
    };
    let release = async {
        until_waiting(&watcher, after_pid).await;
        open.commit().await.unwrap();
    };
    let (changed, locks, ()) = tokio::join!(change, follow, release);
    assert_eq!(changed.unwrap(), Ordering::Stream);
    assert_eq!(locks, 1, "the append that waited for the change must use the new ordering");
    assert_eq!(set_ordering(&mut changer, Ordering::Tenant, "ann").await.unwrap(), Ordering::Tenant);
}

#[tokio::test]
async fn a_snapshot_from_before_the_change_cannot_append_in_the_old_ordering() {
    let database = database().await;
    let (old, mut changer) = (session(&database).await, session(&database).await);
    old.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    set_ordering(&mut changer, Ordering::Tenant, "ann").await.unwrap();
    let error = append(&*old, &to("acme", "a")).await.unwrap_err();
    let AppendError::Database(error) = error else { panic!("{error}") };
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    old.batch_execute("rollback").await.unwrap();
    append(&*old, &to("acme", "a")).await.unwrap();
}
