//! Events that come between a restore and `sandmill migrate --reanchor`: refused at the doors, and handled if they came in beside them.

use sandmill_client::AppendError;
use serde_json::Value;

use super::*;

/// An event as a plain INSERT writes it, with its stream: what an older `sandmill.append` did, or an operator's script.
fn insert(tenant: &str, stream: &str, event_type: &str) -> String {
    format!(
        "with s as (insert into sandmill.streams as s (tenant, stream, version) values ('{tenant}', '{stream}', 1)
                    on conflict (tenant, stream) do update set version = s.version + 1 returning version)
         insert into sandmill.events (tenant, stream, version, type, data)
         select '{tenant}', '{stream}', version, '{event_type}', '{{}}' from s"
    )
}

async fn foreign(session: &Session) {
    session.batch_execute("update sandmill.store set system_identifier = 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_between_a_restore_and_the_reanchoring_is_handled() {
    let (one, two) =
        (Embedded::start(Options::default()).await.unwrap(), Embedded::start(Options::default()).await.unwrap());
    let origin = migrated(&one).await;
    // The numbers that the old cursors have seen reach far beyond those that the new cluster gives out next.
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
        let refused = append(&*session, &flight("acme")).await.unwrap_err();
        assert!(matches!(refused, AppendError::OtherCluster(_)), "{refused:?}");
        assert!(refused.to_string().contains("Run `sandmill migrate --reanchor`"), "{refused}");
    }
    let sql = "select sandmill.append('acme', 'plane-1', '{FlightFlown}', '{1}')";
    assert_eq!(session.query(sql, &[]).await.unwrap_err().code().unwrap().code(), "SM421");
    let lines = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(lines.path(), r#"{"stream":"s","type":"T","data":1}"#).unwrap();
    for refused in [
        run(&["append", "--stream", "s", "--type", "T", "--data", "1"]),
        run(&["import", lines.path().to_str().unwrap()]),
    ] {
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("sandmill migrate --reanchor"), "{}", stderr(&refused));
    }

    session.batch_execute(&insert("acme", "plane-1", "FlightFlown")).await.unwrap();
    // In a subtransaction, and again on the same stream, so that nothing but the rows' writers tells.
    for _ in 0..2 {
        let nested = format!("begin; savepoint s; {}; release s; commit", insert("globex", "plane-1", "FlightFlown"));
        session.batch_execute(&nested).await.unwrap();
    }
    let done = run(&["migrate", "--reanchor"]);
    let printed = stdout(&done) + &stderr(&done);
    assert!(printed.contains("re-anchored 5 events for 1 different places"), "{printed}");
    assert!(printed.contains("events from position 3 on were appended since the restore"), "{printed}");
    let status: Value = serde_json::from_str(&stdout(&run(&["status", "--json"]))).unwrap();
    assert_eq!(status["processors"][0]["lagEvents"], 3, "{status}");

    assert!(matches!(catch_up(&restored, &["plane-log"], &[]).await, Ended::CaughtUp { .. }));
    let status: Value = serde_json::from_str(&stdout(&run(&["status", "--json"]))).unwrap();
    assert_eq!(status["processors"][0]["lagEvents"], 0, "{status}");
    assert_plane_log(&restored).await;
    append(&*session, &flight("acme")).await.unwrap();
}

/// pg_upgrade moves rows and numbers as they are and changes the identifier alone.
#[tokio::test]
async fn a_cluster_with_another_identifier_hands_out_nothing_twice() {
    let database = database().await;
    let store = Store::make(database.clone()).await;
    let mut session = database.db.connect("test").await.unwrap();
    let since = append_to(&session, "acme", "a", 2).await;
    foreign(&session).await;
    // The session has appended before, and is refused all the same.
    let request = Append::to("acme", "a").event(NewEvent::new("T", "1"));
    assert!(matches!(append(&*session, &request).await, Err(AppendError::OtherCluster(_))));
    let done = reanchor(&mut session, None).await.unwrap();
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
    // What a session says of itself is no reason to refuse or to accept another's.
    plain.batch_execute("set sandmill.cluster = 'nonsense'").await.unwrap();
    append_to(&plain, "acme", "a", 1).await;
}

/// Rows that were restored one by one have a writer each, as rows of appends do, so that the rows do not tell.
#[tokio::test]
async fn where_rows_do_not_tell_the_operator_does() {
    let database = database().await;
    let store = Store::make(database.clone()).await;
    let mut session = database.db.connect("test").await.unwrap();
    let sql = "do $$ declare c record; begin for c in select processor, bucket from sandmill.cursors loop
                 update sandmill.cursors set fence = 'restored' where processor = c.processor and bucket = c.bucket; commit; end loop; end $$";
    session.batch_execute(sql).await.unwrap();
    for _ in 0..2 {
        let nested = format!("begin; savepoint s; {}; release s; commit", insert("acme", "z", "Happened"));
        session.batch_execute(&nested).await.unwrap();
    }
    foreign(&session).await;
    let refused = reanchor(&mut session, None).await.unwrap_err();
    assert!(matches!(refused, ReanchorError::Undecided { events: 1, first: 34, last: 34 }), "{refused:?}");
    assert!(refused.to_string().contains("sandmill migrate --reanchor --appended-from POSITION"), "{refused}");
    assert!(matches!(check(&session).await, Err(AnchorError::OtherCluster { .. })), "nothing was changed");

    let done = reanchor(&mut session, Some(34)).await.unwrap();
    assert_eq!(done.appended_from, Some(34));
    let ids = session.query("select id from sandmill.events where stream = 'z'", &[]).await.unwrap();
    store.assert_same(&store, &ids.iter().map(|row| row.get(0)).collect::<Vec<String>>()).await;
}
