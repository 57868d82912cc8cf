//! Errors of `sandmill.append`, which name the tenant, the stream, the event, the rule and the
//! remedy.

use sandmill::db::{Session, SqlState};
use sandmill_tests::database;

/// The error of a statement: SQLSTATE, message, constraint and hint.
async fn refusal(session: &Session, sql: &str) -> (String, String, String, String) {
    let error = session.simple_query(sql).await.expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    let text = |of: Option<&str>| of.unwrap_or_default().to_string();
    (error.code().code().into(), error.message().into(), text(error.constraint()), text(error.hint()))
}

#[tokio::test]
async fn every_error_names_tenant_stream_event_rule_and_remedy() {
    let session = database().await.db.connect("test").await.unwrap();
    session
        .batch_execute(
            "select sandmill.append('acme', 's', '{T}', '{1}', null, null, '{e-1}');
             select sandmill.append('globex', 'secret', '{T}', '{1}', null, null, '{e-9}')",
        )
        .await
        .unwrap();
    let two =
        |types: &str, data: &str, rest: &str| format!("select sandmill.append('acme', 's', {types}, {data}{rest})");
    let id_of_two = ", null, null, array['e-2', 'e-3']";
    for (sql, code, message, constraint, hint) in [
        (
            two("'{T}'", "'{1}'", ", 7"),
            "SM409",
            "stream s of tenant acme is at version 1, expected 7",
            "",
            "Read the stream again",
        ),
        (
            two("'{T,T}'", "'{1,1}'", ", null, null, array['e-2', 'e-1']"),
            "23505",
            "event 2 of 2 (id e-1) for stream s of tenant acme: this event was appended before, as version 1",
            "events_tenant_id_key",
            "the first one succeeded",
        ),
        (
            two("'{T,T}'", "'{1,2}'", ", null, null, array['e-2', 'e-1']"),
            "23505",
            "event 2 of 2 (id e-1) for stream s of tenant acme: its id is taken by an event with other content, version 1 of stream s",
            "events_tenant_id_key",
            "a unique id",
        ),
        (
            two("'{T,T}'", "'{1,2}'", ", null, null, array['e-2', 'e-2']"),
            "23505",
            "event 2 of 2 (id e-2) for stream s of tenant acme: event 1 has the same id",
            "events_tenant_id_key",
            "a unique id",
        ),
        (
            two("array['T', repeat('x', 201)]", "'{1,2}'", id_of_two),
            "23514",
            "event 2 of 2 (id e-3) for stream s of tenant acme: its type has 201 bytes; 1 to 200 bytes are allowed",
            "events_type_check",
            "short type",
        ),
        (
            two("array['T', null]", "'{1,2}'", ""),
            "23502",
            "event 2 of 2 for stream s of tenant acme: its type is null; 1 to 200 bytes are allowed",
            "",
            "Nothing was appended",
        ),
        (
            two("'{T,T}'", "'{1,2}'", ", null, null, array['e-2', repeat('x', 201)]"),
            "23514",
            "event 2 of 2 for stream s of tenant acme: its id has 201 bytes; 1 to 200 bytes are allowed",
            "events_id_check",
            "generates one",
        ),
        (
            two("'{T,T}'", "array['1', null]::json[]", id_of_two),
            "23502",
            "event 2 of 2 (id e-3) for stream s of tenant acme: its data is null; data must be JSON",
            "",
            "'null'::json",
        ),
        (
            two("'{T,T}'", "'{1,2}'", ", null, array['{}', '[]']::json[]"),
            "23514",
            "event 2 of 2 for stream s of tenant acme: its metadata is of the JSON type array; metadata must be an object",
            "events_metadata_check",
            "into an object",
        ),
        (
            two("'{T,T}'", "'{1,2}'", ", null, null, null, array[null, 'infinity']::timestamptz[]"),
            "23514",
            "event 2 of 2 for stream s of tenant acme: its time is infinity; a time must be finite",
            "events_recorded_at_check",
            "Omit the time",
        ),
        (
            two("'{T,T}'", r#"array['1', '{"a": "\u0000"}']::json[]"#, id_of_two),
            "22P05",
            "the event with the id e-3, as version 3 of stream s of tenant acme: its data cannot be part of a document: \
             unsupported Unicode escape sequence",
            "",
            "encode the text",
        ),
        (
            two("'{T}'", "array[to_json(repeat('x', 4194303))]", ", null, null, '{e-4}'"),
            "SM413",
            "event 1 of 1 (id e-4) for stream s of tenant acme has 4194305 bytes of data and metadata; this store allows at most 4194304",
            "",
            "--max-event-bytes",
        ),
        (
            two("'{T}'", "array[(repeat('[', 513) || repeat(']', 513))::json]", ", null, null, '{e-4}'"),
            "SM422",
            "event 1 of 1 (id e-4) for stream s of tenant acme: its data is nested deeper than 512 levels",
            "",
            "Flatten it",
        ),
        (
            two("'{T,T}'", "'{1}'", ""),
            "22023",
            "nothing was appended to stream s of tenant acme: there are 2 types, but 1 data, no metadata, no ids and no times",
            "",
            "one entry per event",
        ),
        (
            two("'{}'", "'{}'", ""),
            "22023",
            "nothing was appended to stream s of tenant acme: no events were given",
            "",
            "at least one",
        ),
        (
            "select sandmill.append('a b', 's', '{T}', '{1}')".into(),
            "23514",
            "nothing was appended to stream s of tenant 'a b': a tenant's name must be 1 to 64 letters, digits, dots, hyphens or \
             underscores, and begin with a letter or digit",
            "streams_tenant_check",
            "'default'",
        ),
        (
            "select sandmill.append('acme', repeat('x', 513), '{T}', '{1}')".into(),
            "23514",
            &format!(
                "nothing was appended to stream {}… of tenant acme: a stream's name must have 1 to 512 bytes, and this one has 513",
                "x".repeat(100)
            ),
            "streams_stream_check",
            "shorter name",
        ),
        (
            "select sandmill.append('acme', null, '{T}', '{1}')".into(),
            "23502",
            "nothing was appended to stream null of tenant acme: a stream's name must have 1 to 512 bytes, and this one is null",
            "",
            "shorter name",
        ),
    ] {
        let refused = refusal(&session, &sql).await;
        assert_eq!((refused.0.as_str(), refused.1.as_str(), refused.2.as_str()), (code, message, constraint), "{sql}");
        assert!(refused.3.contains(hint), "{sql}: {}", refused.3);
    }
    // An id of another tenant is free in this one.
    session.batch_execute("select sandmill.append('acme', 's', '{T}', '{2}', null, null, '{e-9}')").await.unwrap();

    session.batch_execute("update sandmill.store set system_identifier = 1; set sandmill.cluster = ''").await.unwrap();
    let (code, message, ..) = refusal(&session, &two("'{T}'", "'{1}'", "")).await;
    assert_eq!(code, "SM421");
    assert!(
        message.starts_with("nothing was appended to stream s of tenant acme: this event store belongs to"),
        "{message}"
    );
}

#[tokio::test]
async fn a_concurrent_append_of_the_same_id_fails_with_the_same_message() {
    let database = database().await;
    let mut first = database.db.connect("test").await.unwrap();
    let second = database.db.connect("test").await.unwrap();
    let transaction = first.client_mut().transaction().await.unwrap();
    transaction
        .batch_execute(
            "set local idle_in_transaction_session_timeout = 0;
             select sandmill.append('acme', 'one', '{T}', '{1}', null, null, '{e-1}')",
        )
        .await
        .unwrap();
    let append = "set lock_timeout = 0; select sandmill.append('acme', 'two', '{T}', '{1}', null, null, '{e-1}')";
    let waiting = tokio::spawn(async move { second.simple_query(append).await.map(drop) });
    let watcher = database.db.connect("test").await.unwrap();
    let waits = "select exists (select from pg_locks where not granted)";
    sandmill_tests::until("the second waits", async || watcher.query_one(waits, &[]).await.unwrap().get(0)).await;
    transaction.commit().await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    let message = error.as_db_error().unwrap().message();
    assert_eq!(
        message,
        "event 1 of 1 (id e-1) for stream two of tenant acme: its id is taken by an event with other content, version 1 of stream one"
    );
}
