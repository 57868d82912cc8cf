//! Appends with the client: versions, expected versions, ids, and rejected events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandmill::db::{Db, Session};
use sandmill_client::{Append, AppendError, Appended, ExpectedVersion, NewEvent, append, read_stream};
use sandmill_tests::database;

async fn session() -> Session {
    database().await.db.connect("test").await.unwrap()
}

fn one(stream: &str, expected: ExpectedVersion) -> Append {
    Append::to("acme", stream).expecting(expected).event(NewEvent::new("T", "{}"))
}

fn versions(appended: &[Appended]) -> Vec<u64> {
    appended.iter().map(|event| event.version).collect()
}

async fn count(session: &Session) -> i64 {
    session.query_one("select count(*) from sandmill.events", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn versions_count_from_one_and_positions_increase() {
    let session = session().await;
    let request = one("s", ExpectedVersion::NoStream).event(NewEvent::new("T", "2"));
    let first = append(&*session, &request).await.unwrap();
    assert_eq!(versions(&first), [1, 2]);
    assert!(first[0].position < first[1].position);
    let second = append(&*session, &one("s", ExpectedVersion::Exactly(2))).await.unwrap();
    assert_eq!(versions(&second), [3]);
    assert!(first[1].position < second[0].position);
    let third = append(&*session, &one("s", ExpectedVersion::Any)).await.unwrap();
    assert_eq!(versions(&third), [4]);
    // In another tenant the same name is another stream.
    let other = Append::to("other", "s").event(NewEvent::new("T", "{}"));
    assert_eq!(versions(&append(&*session, &other).await.unwrap()), [1]);
}

#[tokio::test]
async fn a_version_conflict_names_the_actual_version_and_stores_nothing() {
    let session = session().await;
    let conflict = |error: AppendError| match error {
        AppendError::Conflict { tenant, stream, expected, actual } => (tenant, stream, expected, actual),
        other => panic!("{other}"),
    };
    let missing = append(&*session, &one("s", ExpectedVersion::Exactly(1))).await.unwrap_err();
    assert_eq!(conflict(missing), ("acme".into(), "s".into(), ExpectedVersion::Exactly(1), 0));
    append(&*session, &one("s", ExpectedVersion::Any)).await.unwrap();
    let exists = append(&*session, &one("s", ExpectedVersion::NoStream)).await.unwrap_err();
    assert_eq!(conflict(exists), ("acme".into(), "s".into(), ExpectedVersion::NoStream, 1));
    assert_eq!(count(&session).await, 1);
    let version: i64 = session.query_one("select version from sandmill.streams", &[]).await.unwrap().get(0);
    assert_eq!(version, 1);

    let raised = session.query("select sandmill.append('acme', 's', '{T}', '{1}', 7)", &[]).await.unwrap_err();
    assert_eq!(raised.code().unwrap().code(), "SM409");
}

#[tokio::test]
async fn only_one_of_concurrent_appends_with_the_same_expected_version_succeeds() {
    let database = database().await;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(database.db.connect("test").await.unwrap());
    }
    let request = one("s", ExpectedVersion::NoStream);
    let results = futures_util::future::join_all(sessions.iter().map(|session| append(&**session, &request))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.into_iter().filter_map(Result::err).all(|e| matches!(e, AppendError::Conflict { actual: 1, .. })));

    let request = one("s", ExpectedVersion::Any);
    let results = futures_util::future::join_all(sessions.iter().map(|session| append(&**session, &request))).await;
    let mut appended: Vec<Appended> = results.into_iter().flat_map(Result::unwrap).collect();
    appended.sort_by_key(|event| event.version);
    assert_eq!(versions(&appended), (2..=9).collect::<Vec<_>>());
    assert!(appended.is_sorted_by_key(|event| event.position));
}

#[tokio::test]
async fn an_event_is_read_back_as_it_was_written() {
    let session = session().await;
    let time = UNIX_EPOCH + Duration::from_micros(1_357_016_400_123_456);
    let full =
        NewEvent::new("Ä", "{\"b\" : 1.10,\n \"a\": 1e2}").metadata("{ \"user\":\"ann\"}").id("e1").recorded_at(time);
    let before = SystemTime::now() - Duration::from_secs(60);
    append(&*session, &Append::to("acme", "s").event(full).event(NewEvent::new("T", "null"))).await.unwrap();
    let events = read_stream(&*session, "acme", "s", 1, 10).await.unwrap();
    let [full, plain] = &events[..] else { panic!("{events:?}") };
    assert_eq!((full.event_type.as_str(), full.id.as_str(), full.recorded_at), ("Ä", "e1", time));
    assert_eq!((full.data.as_str(), full.metadata.as_str()), ("{\"b\" : 1.10,\n \"a\": 1e2}", "{ \"user\":\"ann\"}"));
    assert_eq!((plain.data.as_str(), plain.metadata.as_str()), ("null", "{}"));
    assert!(plain.id.len() == 36 && plain.recorded_at > before);
    assert_eq!(read_stream(&*session, "acme", "s", 2, 10).await.unwrap(), events[1..]);
    assert_eq!(read_stream(&*session, "acme", "s", 1, 1).await.unwrap(), events[..1]);
    assert!(read_stream(&*session, "acme", "none", 0, u64::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_id_is_accepted_once() {
    let session = session().await;
    let with = |ids: &[&str]| Append::to("acme", "s").events(ids.iter().map(|id| NewEvent::new("T", "{}").id(*id)));
    append(&*session, &with(&["a"])).await.unwrap();
    let duplicate = append(&*session, &with(&["b", "a"])).await.unwrap_err();
    assert!(matches!(&duplicate, AppendError::DuplicateId { id, .. } if id == "a"), "{duplicate}");
    let twice = append(&*session, &with(&["c", "c"])).await.unwrap_err();
    assert!(matches!(&twice, AppendError::DuplicateId { id, .. } if id == "c"), "{twice}");
    assert_eq!(versions(&append(&*session, &with(&["b", "c"])).await.unwrap()), [2, 3]);
}

#[tokio::test]
async fn events_that_no_document_can_hold_are_rejected() {
    let session = session().await;
    let with = |event: NewEvent| Append::to("acme", "s").event(event);
    for (request, message) in [
        (with(NewEvent::new("T", r#"{"a":"\u0000"}"#)), "unsupported Unicode escape"),
        (with(NewEvent::new("T", r#"{"a":"\ud800"}"#)), "invalid input syntax for type json"),
        (with(NewEvent::new("T", "{}").metadata(r#"{"a":"\u0000"}"#)), "unsupported Unicode escape"),
        (with(NewEvent::new("T", "{}").metadata("[]")), "metadata must be an object"),
        (with(NewEvent::new("T", "{")), "invalid input syntax for type json"),
        (with(NewEvent::new("", "{}")), "an event's type must not be empty"),
        (with(NewEvent::new("T", "{}").id("")), "an event's id must not be empty"),
        (Append::to("a b", "s").event(NewEvent::new("T", "{}")), "cannot be a tenant"),
        (Append::to("acme", "").event(NewEvent::new("T", "{}")), "a stream must not be empty"),
        (Append::to("acme", "s"), "there are no events"),
    ] {
        let error = append(&*session, &request).await.unwrap_err();
        assert!(matches!(&error, AppendError::Invalid(text) if text.contains(message)), "{message}: {error:?}");
    }
    assert_eq!(count(&session).await, 0);
}

#[tokio::test]
async fn the_database_enforces_the_same_rules_as_the_client() {
    let session = session().await;
    let long = "x".repeat(513);
    for (tenant, stream, event_type, id) in [
        ("a b", "s", "T", "i"),
        (".a", "s", "T", "i"),
        ("a\n", "s", "T", "i"),
        (&long[..65], "s", "T", "i"),
        ("a", "", "T", "i"),
        ("a", &long, "T", "i"),
        ("a", "s", "", "i"),
        ("a", "s", &long[..201], "i"),
        ("a", "s", "T", ""),
        ("a", "s", "T", &long[..201]),
    ] {
        let sql = "select sandmill.append($1, $2, array[$3::text], '{1}', null, null, array[$4::text])";
        let error = session.query(sql, &[&tenant, &stream, &event_type, &id]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23514", "{tenant:?} {stream:?} {event_type:?} {id:?}");
    }
    let uneven = session.query("select sandmill.append('a', 's', '{T,U}', '{1}')", &[]).await.unwrap_err();
    assert!(uneven.as_db_error().unwrap().message().contains("2 types, but 1 data"));
}

#[tokio::test]
async fn an_append_is_part_of_the_callers_transaction() {
    let mut session = session().await;
    let transaction = session.client_mut().transaction().await.unwrap();
    append(&transaction, &one("s", ExpectedVersion::NoStream)).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(count(&session).await, 0);
    let transaction = session.client_mut().transaction().await.unwrap();
    append(&transaction, &one("s", ExpectedVersion::NoStream)).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&session).await, 1);
}

#[tokio::test]
async fn a_role_with_four_grants_can_append_and_read_but_not_change() {
    let database = database().await;
    let owner = database.db.connect("test").await.unwrap();
    owner
        .batch_execute(
            "create role shop login; \
             grant usage on schema sandmill to shop; \
             grant execute on function \
               sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[]) to shop; \
             grant select on sandmill.events to shop",
        )
        .await
        .unwrap();
    let shop = Db::parse(&database.address.replace("user=sandmill", "user=shop")).unwrap();
    let shop = shop.connect("test").await.unwrap();
    assert_eq!(versions(&append(&*shop, &one("s", ExpectedVersion::NoStream)).await.unwrap()), [1]);
    assert_eq!(read_stream(&*shop, "acme", "s", 1, 10).await.unwrap().len(), 1);
    for denied in ["delete from sandmill.events", "update sandmill.streams set version = 9"] {
        assert!(shop.execute(denied, &[]).await.is_err());
    }
}
