// Counts that operators see. They change only with commits, and say whether there may be more.

use sandmill_tests::{
    Database, database,
    host::{Host, catch_up, eventually, sandmill, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::{Value, json};

/// Makes every statement of a kind fail with an error that ends the term, until [`repair`] is
/// called.
async fn break_statements(database: &Database, trigger: &str) {
    let session = database.db.connect("test").await.unwrap();
    session
        .batch_execute(&format!(
            "create function public.fail() returns trigger language plpgsql as
             $$ begin raise exception 'nothing is written here' using errcode = 'XX000'; end $$;
             create trigger fail {trigger} execute function public.fail()"
        ))
        .await
        .unwrap();
}

async fn repair(database: &Database) {
    let mut session = database.db.connect("test").await.unwrap();
    // Each commit locks the table for a moment.
    session.batch_execute("set lock_timeout = 0").await.unwrap();
    let transaction = session.client_mut().transaction().await.unwrap();
    transaction.batch_execute("drop function public.fail() cascade").await.unwrap();
    transaction.commit().await.unwrap();
}

/// Waits until that many consecutive terms have ended.
async fn terms_end(database: &Database, times: i64) {
    eventually("terms end", async || (database.status("scripted").await?.term_error?.times >= times).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_counted_once_even_if_terms_ended_before_their_commit() {
    let database = database().await;
    database.append("acme", "s", &[json!({}), json!({})]).await;
    break_statements(
        &database,
        "before update on sandmill.cursors for each row when (old.progress::text <> new.progress::text)",
    )
    .await;
    let host = Host::start(&database, &["scripted"], &[]);
    terms_end(&database, 3).await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 0);
    repair(&database).await;
    database.scripted_settles(&[]).await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 2);
    // The same for commits of lanes behind the cursor, which do not move it.
    let session = database.db.connect("test").await.unwrap();
    database.append("acme", "s", &[json!({"do": "retry-until-attempt", "n": 2}), json!({})]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 4);
    let counted: i64 =
        session.query_one("select events from sandmill.tenant_usage where tenant = 'acme'", &[]).await.unwrap().get(0);
    assert_eq!(counted, 4);
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_counted_once_even_if_terms_ended_before_its_lane_stopped() {
    let database = database().await;
    database.append("acme", "s", &[json!({"do": "stop", "code": "closed"})]).await;
    break_statements(&database, "before insert on sandmill.lane_checkpoints for each row").await;
    let host = Host::start(&database, &["scripted"], &[]);
    terms_end(&database, 3).await;
    repair(&database).await;
    database.scripted_settles(&["acme blocked plugin:closed"]).await;
    host.stop().await;
    let session = database.db.connect("test").await.unwrap();
    let row = session.query_one("select failures, error from sandmill.tenant_usage where tenant = 'acme'", &[]).await;
    let row = row.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    assert!(row.get::<_, &str>(1).starts_with("plugin:closed: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_count_of_dead_letters_says_that_there_are_more() {
    let database = database().await;
    database.append("acme", "s", &[json!({}), json!({"do": "skip", "code": "odd"})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let session = database.db.connect("test").await.unwrap();
    let shown = async |more: i64| {
        let copy = "insert into sandmill.dead_letters (processor, generation, tenant, lane_key, position, event_id, class, message, digest, attempts)
                    select processor, generation, tenant, lane_key, position + n, event_id, class, message, digest, attempts
                    from sandmill.dead_letters, generate_series(1, $1::bigint) n where position = (select max(position) from sandmill.dead_letters)";
        session.execute(copy, &[&more]).await.unwrap();
        let status: Value =
            serde_json::from_str(&stdout(&sandmill(&database.address).args(["status", "--json"]).output().unwrap()))
                .unwrap();
        let processor = &status["processors"][0];
        let text = stdout(&sandmill(&database.address).arg("status").output().unwrap());
        (processor["deadLetters"].clone(), processor["deadLettersAtLeast"].clone(), text)
    };
    let (letters, at_least, text) = shown(9_999).await;
    assert_eq!((letters, at_least), (json!(10_000), json!(false)));
    assert!(text.contains("scripted has 10000 dead letters"), "{text}");
    let (letters, at_least, text) = shown(1).await;
    assert_eq!((letters, at_least), (json!(10_000), json!(true)));
    assert!(text.contains("scripted has more than 10000 dead letters"), "{text}");
}
