//! Events that are written between a restore and `sandmill migrate --reanchor`: `sandmill.append`
//! and the import reject them, and events that a plain INSERT wrote are handled.

use sandmill_client::AppendError;
use serde_json::Value;

use super::*;

/// A plain INSERT of an event and its stream, as by an older `sandmill.append` or an operator's
/// script.
fn insert(tenant: &str, stream: &str, event_type: &str) -> String {
    format!(
        "with s as (insert into sandmill.streams as s (tenant, stream, version) values ('{tenant}', '{stream}', 1)
                    on conflict (tenant, stream) do update set version = s.version + 1 returning version)
         insert into sandmill.events (tenant, stream, version, type, data)
         select '{tenant}', '{stream}', version, '{event_type}', '{{}}' from s"
    )
}

async fn make_foreign(session: &Session) {
    session.batch_execute("update sandmill.store set system_identifier = 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_inserted_between_a_restore_and_reanchoring_are_handled() {
    let (one, two) =
        (Embedded::start(Options::default()).await.unwrap(), Embedded::start(Options::default()).await.unwrap());
    let origin = migrated(&one).await;
    // The old cursors have seen xids far beyond the next ones of the new cluster.
    use_up_xids(&origin, 3_000).await;
    let writer = origin.db.connect("test").await.unwrap();
    let flight = |tenant: &str| Append::to(tenant, "plane-1").event(NewEvent::new("FlightFlown", "{}"));
    for tenant in ["acme", "globex"] {
        append(&*writer, &flight(tenant)).await.unwrap();
    }
    assert!(matches!(catch_up(&origin, &["plane-log"], &[]).await, Ended::CaughtUp { .. }));

    let restored = restore(&origin, &two).await;
    let run = |arguments: &[&str]| sandmill(&restored.address).args(arguments).output().unwrap();
    let session = restored.db.connect("test").await.unwrap();
    for _ in 0..2 {
        let error = append(&*session, &flight("acme")).await.unwrap_err();
        assert!(matches!(error, AppendError::OtherCluster(_)), "{error:?}");
        assert!(error.to_string().contains("Run `sandmill migrate --reanchor`"), "{error}");
    }
    let sql = "select sandmill.append('acme', 'plane-1', '{FlightFlown}', '{1}')";
    assert_eq!(session.query(sql, &[]).await.unwrap_err().code().unwrap().code(), "SM421");
    let lines = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(lines.path(), r#"{"stream":"s","type":"T","data":1}"#).unwrap();
    for output in [
        run(&["append", "--stream", "s", "--type", "T", "--data", "1"]),
        run(&["import", lines.path().to_str().unwrap()]),
    ] {
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("sandmill migrate --reanchor"), "{}", stderr(&output));
    }

    session.batch_execute(&insert("acme", "plane-1", "FlightFlown")).await.unwrap();
    // In a subtransaction and twice on the same stream, so that only the transactions that wrote
    // the rows show that these are new.
    for _ in 0..2 {
        let nested = format!("begin; savepoint s; {}; release s; commit", insert("globex", "plane-1", "FlightFlown"));
        session.batch_execute(&nested).await.unwrap();
    }
    let done = run(&["migrate", "--reanchor"]);
    let printed = stdout(&done) + &stderr(&done);
    assert!(printed.contains("re-anchored 5 events and 1 checkpoint of"), "{printed}");
    assert!(printed.contains("events from position 3 on were appended since the restore"), "{printed}");
    let status: Value = serde_json::from_str(&stdout(&run(&["status", "--json"]))).unwrap();
    assert_eq!(status["processors"][0]["lagEvents"], 3, "{status}");

    assert!(matches!(catch_up(&restored, &["plane-log"], &[]).await, Ended::CaughtUp { .. }));
    let status: Value = serde_json::from_str(&stdout(&run(&["status", "--json"]))).unwrap();
    assert_eq!(status["processors"][0]["lagEvents"], 0, "{status}");
    assert_plane_log(&restored).await;
    append(&*session, &flight("acme")).await.unwrap();
}

/// pg_upgrade keeps rows and xids, and changes only the system identifier.
#[tokio::test]
async fn reanchoring_after_pg_upgrade_repeats_no_event() {
    let database = database().await;
    let store = Store::make(database.clone()).await;
    let mut session = database.db.connect("test").await.unwrap();
    let since = append_to(&session, "acme", "a", 2).await;
    make_foreign(&session).await;
    // The session has appended before, and is still rejected.
    let request = Append::to("acme", "a").event(NewEvent::new("T", "1"));
    assert!(matches!(append(&*session, &request).await, Err(AppendError::OtherCluster(_))));
    let done = reanchor(&mut session, None, "ann").await.unwrap();
    assert_eq!(done.events, 34);
    store.assert_same(&store, &since).await;
    append(&*session, &request).await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_read_the_control_file_can_append() {
    let database = database().await;
    let owner = database.db.connect("test").await.unwrap();
    let rights = "do $$ begin create role plain login; exception when duplicate_object then null; end $$;
                  revoke execute on function pg_control_system() from public;
                  grant usage on schema sandmill to plain; grant execute on all functions in schema sandmill to plain";
    owner.batch_execute(rights).await.unwrap();
    let plain =
        Db::parse(&database.address.replace("user=sandmill", "user=plain")).unwrap().connect("test").await.unwrap();
    append_to(&plain, "acme", "a", 1).await;
    // A value that the session set itself does not count.
    plain.batch_execute("set sandmill.cluster = 'nonsense'").await.unwrap();
    append_to(&plain, "acme", "a", 1).await;
}

/// Streams that were restored one by one have different writers, like rows of appends, so the rows
/// do not show which events are new.
#[tokio::test]
async fn the_operator_names_the_first_new_event_if_the_rows_do_not_show_it() {
    let database = database().await;
    let store = Store::make(database.clone()).await;
    let mut session = database.db.connect("test").await.unwrap();
    let sql = "do $$ declare s record; begin
                 for s in select tenant, stream from sandmill.streams loop
                   update sandmill.streams set version = version where tenant = s.tenant and stream = s.stream; commit;
                 end loop;
                 update sandmill.cursors set fence = 'restored'; end $$";
    session.batch_execute(sql).await.unwrap();
    for _ in 0..2 {
        let nested = format!("begin; savepoint s; {}; release s; commit", insert("acme", "z", "Happened"));
        session.batch_execute(&nested).await.unwrap();
    }
    make_foreign(&session).await;
    let error = reanchor(&mut session, None, "ann").await.unwrap_err();
    assert!(matches!(error, ReanchorError::Undecided { events: 1, first: 34, last: 34 }), "{error:?}");
    assert!(error.to_string().contains("sandmill migrate --reanchor --appended-from POSITION"), "{error}");
    assert!(matches!(check(&session).await, Err(AnchorError::OtherCluster { .. })), "nothing was changed");

    let done = reanchor(&mut session, Some(34), "ann").await.unwrap();
    assert_eq!(done.appended_from, Some(34));
    let ids = session.query("select id from sandmill.events where stream = 'z'", &[]).await.unwrap();
    store.assert_same(&store, &ids.iter().map(|row| row.get(0)).collect::<Vec<String>>()).await;
}
