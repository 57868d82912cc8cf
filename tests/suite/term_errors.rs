// Terms that keep ending: what ends them is recorded, shown and explained, and forgotten once a term goes well.

use sandmill::db::Db;
use sandmill_tests::{
    Database, database,
    host::{Host, eventually, sandmill, stderr, stdout},
    ledger::assert_scripted_log,
};
use serde_json::{Value, json};

async fn execute(database: &Database, sql: &str) {
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("set default_transaction_read_only = off; set lock_timeout = 0").await.unwrap();
    session.batch_execute(sql).await.unwrap();
}

/// Waits until it is explained by an error with these words, and gives all that is found of the processor.
async fn explained(database: &Database, words: &str) -> Vec<Value> {
    eventually(&format!("it is explained by: {words}"), async || {
        let output = sandmill(&database.address).args(["explain", "scripted", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let found = told["findings"].as_array().unwrap().clone();
        let blamed = found.iter().any(|finding| finding["what"].as_str().unwrap().contains(words));
        blamed.then_some(found)
    })
    .await
}

/// Nothing that is found blames the plugins folder, and the first finding has this remedy.
fn assert_remedy(found: &[Value], remedy: &str) {
    assert_eq!(found[0]["gravity"], json!("stuck"), "{found:#?}");
    assert!(found[0]["remedy"].as_str().unwrap().contains(remedy), "{found:#?}");
    assert!(found.iter().all(|finding| !finding.to_string().contains("plugins folder")), "{found:#?}");
}

async fn error_is_gone(database: &Database) {
    eventually("a term goes well", async || database.status("scripted").await?.term_error.is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_right_is_named_until_it_is_granted_again() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let role = format!("limited_{}", std::process::id());
    execute(
        &database,
        &format!(
            "create role {role}; grant all on schema sandmill, sandmill_documents, public to {role};
             grant all on all tables in schema sandmill to {role}; grant all on all sequences in schema sandmill to {role}"
        ),
    )
    .await;
    let address = format!("{} options='-c role={role}'", database.address);
    let limited = Database { db: Db::parse(&address).unwrap(), address };
    let host = Host::start(&limited, &["scripted"], &[]);
    database.scripted_settles(&[]).await;

    execute(&database, &format!("revoke all on sandmill_documents.c1_1 from {role}")).await;
    database.append("acme", "s", &[json!({})]).await;
    let found = explained(&database, "permission denied for table c1_1").await;
    assert_remedy(&found, "grant the host's role the missing privilege");
    let error = eventually("several terms have ended", async || {
        database.status("scripted").await?.term_error.filter(|error| error.times >= 2)
    })
    .await;
    assert!(error.since <= error.at && error.error.contains("(SQLSTATE 42501)"), "{error:?}");
    let text = stdout(&sandmill(&database.address).arg("status").output().unwrap());
    assert!(text.contains("scripted fails, ") && text.lines().nth(1).unwrap().contains("  failing  "), "{text}");

    execute(&database, &format!("grant all on sandmill_documents.c1_1 to {role}")).await;
    database.scripted_settles(&[]).await;
    error_is_gone(&database).await;
    host.stop().await;
    assert_scripted_log(&database, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_became_read_only_is_named_and_one_that_can_be_written_again_is_not() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&[]).await;
    let session = database.db.connect("test").await.unwrap();
    let name: String = session.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let reconnect = "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and application_name like 'sandmill %' and pid <> pg_backend_pid()";
    drop(session);
    execute(&database, &format!("alter database {name} set default_transaction_read_only = on; {reconnect}")).await;
    let found = explained(&database, "in a read-only transaction").await;
    assert_remedy(&found, "the database is read-only");
    execute(&database, &format!("alter database {name} reset default_transaction_read_only; {reconnect}")).await;
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    error_is_gone(&database).await;
    host.stop().await;
    assert_scripted_log(&database, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_documents_table_that_is_gone_is_named_also_to_the_next_host() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&[]).await;
    execute(&database, "drop table sandmill_documents.c1_1 cascade").await;
    database.append("acme", "s", &[json!({})]).await;
    let found = explained(&database, "c1_1").await;
    assert_remedy(&found, "missing from the database");
    host.stop().await;
    // What ended the last term is known while no host runs.
    let found = explained(&database, "no host runs on this database").await;
    assert!(found.iter().any(|finding| finding["what"].as_str().unwrap().contains("c1_1")), "{found:#?}");
}
