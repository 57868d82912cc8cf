// Errors that end terms. They are recorded, shown and explained, and cleared once a term is
// healthy.

use std::fs;

use sandmill::{db::Db, processor::status::TermError};
use sandmill_tests::{
    Database, database,
    host::{Host, eventually, place, plugins, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::{Value, json};

async fn execute(database: &Database, sql: &str) {
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("set default_transaction_read_only = off; set lock_timeout = 0").await.unwrap();
    session.batch_execute(sql).await.unwrap();
}

/// A connection to the database with a separate role, and that role's name. The role may do
/// everything until rights are revoked.
async fn limited(database: &Database, prefix: &str) -> (Database, String) {
    let role = format!("{prefix}_{}", std::process::id());
    execute(
        database,
        &format!(
            "create role {role}; grant all on schema sandmill, sandmill_documents, sandmill_tenant, public to {role};
             grant all on all tables in schema sandmill to {role}; grant all on all sequences in schema sandmill to {role}"
        ),
    )
    .await;
    let address = format!("{} options='-c role={role}'", database.address);
    (Database { db: Db::parse(&address).unwrap(), address }, role)
}

/// Waits until `explain` has a finding with this text. Returns all findings about the processor.
async fn explained(database: &Database, text: &str) -> Vec<Value> {
    eventually(&format!("explain finds: {text}"), async || {
        let output = sandmill(&database.address).args(["explain", "scripted", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let explanation: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let found = explanation["findings"].as_array().unwrap().clone();
        let blamed = found.iter().any(|finding| finding["what"].as_str().unwrap().contains(text));
        blamed.then_some(found)
    })
    .await
}

/// Asserts that no finding blames the plugins folder, and that the first one has this remedy.
fn assert_remedy(found: &[Value], remedy: &str) {
    assert_eq!(found[0]["gravity"], json!("stuck"), "{found:#?}");
    assert!(found[0]["remedy"].as_str().unwrap().contains(remedy), "{found:#?}");
    let blamed = |finding: &Value| finding["what"].as_str().unwrap().contains("plugins folder");
    assert!(!found.iter().any(blamed), "{found:#?}");
}

/// Waits until that many consecutive terms have ended with an error.
async fn failed(database: &Database, times: i64) -> TermError {
    eventually(&format!("{times} consecutive terms have ended"), async || {
        database.status("scripted").await?.term_error.filter(|error| error.times >= times)
    })
    .await
}

/// The processor's row in the output of `sandmill status`, and the text below it.
fn status(database: &Database) -> (String, String) {
    let text = stdout(&sandmill(&database.address).arg("status").output().unwrap());
    let (_, rest) = text.split_once('\n').unwrap();
    let (row, below) = rest.split_once('\n').unwrap();
    (row.into(), below.into())
}

async fn error_is_gone(database: &Database) {
    eventually("a term goes well", async || database.status("scripted").await?.term_error.is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_right_is_reported_until_it_is_granted_again() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let (limited, role) = limited(&database, "limited").await;
    let host = Host::start(&limited, &["scripted"], &[]);
    database.scripted_settles(&[]).await;

    // Term errors are explained even while the host cannot record its plugins.
    execute(
        &database,
        &format!(
            "revoke insert on sandmill.plugins from {role}; delete from sandmill.plugins;
             revoke all on sandmill_documents.c1_1 from {role}"
        ),
    )
    .await;
    database.append("acme", "s", &[json!({})]).await;
    let found = explained(&database, "permission denied for table c1_1").await;
    assert_remedy(&found, "grant the host's role the missing privilege");
    let error = failed(&database, 2).await;
    assert!(error.since <= error.at && error.error.contains("(SQLSTATE 42501)"), "{error:?}");
    let (row, below) = status(&database);
    assert!(below.contains("scripted is failing: ") && row.contains("  failing  "), "{row}\n{below}");

    execute(&database, &format!("grant all on sandmill_documents.c1_1 to {role}")).await;
    database.scripted_settles(&[]).await;
    error_is_gone(&database).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_reported_until_it_can_be_written_again() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&[]).await;
    // The error of a standby: no setting of a session makes it writable.
    execute(
        &database,
        "create function public.read_only() returns trigger language plpgsql as
         $$ begin raise exception 'cannot execute UPDATE in a read-only transaction' using errcode = '25006'; end $$;
         create trigger read_only before update on sandmill.cursors for each row execute function public.read_only()",
    )
    .await;
    database.append("acme", "s", &[json!({})]).await;
    let found = explained(&database, "in a read-only transaction").await;
    assert_remedy(&found, "the database is read-only");
    execute(&database, "drop trigger read_only on sandmill.cursors").await;
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    error_is_gone(&database).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// Each term takes the fence and fails right after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_processor_whose_terms_cannot_begin_does_not_count_as_running_once_it_has_ended() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let host = Host::start_in(&database, folder.path(), &[]);
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    execute(&database, "alter table sandmill.lane_checkpoints rename to hidden").await;
    execute(
        &database,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'sandmill commit %'
         and datname = current_database()",
    )
    .await;
    // The loss is noticed at the next commit.
    database.append("acme", "s", &[json!({})]).await;
    let session = database.db.connect("test").await.unwrap();
    let is_true = async |sql: &str| session.query_one(sql, &[]).await.ok()?.get::<_, bool>(0).then_some(());
    let failed = "select exists (select from sandmill.processors where term_error like '%lane_checkpoints%')";
    eventually("terms fail", async || is_true(failed).await).await;
    fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    let released = "select bool_and(session is null) from sandmill.processors";
    eventually("the processor is released", async || is_true(released).await).await;
    execute(&database, "alter table sandmill.hidden rename to lane_checkpoints").await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_error_hides_neither_a_missing_file_nor_a_missing_host() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let host = Host::start_in(&database, folder.path(), &[]);
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    execute(&database, "drop table sandmill_documents.c1_1 cascade").await;
    database.append("acme", "s", &[json!({})]).await;
    let found = explained(&database, "c1_1").await;
    assert_remedy(&found, "is missing or incomplete");

    fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    let session = database.db.connect("test").await.unwrap();
    eventually("the plugin has ended", async || {
        session
            .query_opt("select from sandmill.plugins where gone_since is null", &[])
            .await
            .ok()?
            .is_none()
            .then_some(())
    })
    .await;
    // Makes the recorded end of the term an hour old.
    execute(
        &database,
        "update sandmill.processors
         set term_error_at = term_error_at - interval '1 h', term_error_since = term_error_since - interval '1 h'",
    )
    .await;
    let absent =
        explained(&database, "none of its plugins provides this processor, which last ran from scripted.wasm").await;
    host.stop().await;
    let without_host = explained(&database, "no host is running on this database").await;
    for found in [absent, without_host] {
        assert_eq!((&found[0]["gravity"], found.len()), (&json!("stuck"), 2), "{found:#?}");
        let error = found[1]["what"].as_str().unwrap();
        assert!(error.starts_with("its last term ended at ") && error.contains("c1_1"), "{found:#?}");
        assert_eq!(found[1]["gravity"], json!("note"), "{found:#?}");
    }
    let (row, below) = status(&database);
    assert!(row.contains("  no host  ") && below.contains("scripted is not running; its last term"), "{row}\n{below}");
    let host = Host::start(&database, &["scripted-by-stream"], &[]);
    eventually("status shows that the file is absent", async || {
        status(&database).0.contains("  absent  ").then_some(())
    })
    .await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_host_continues_the_count_of_an_earlier_one() {
    let database = database().await;
    execute(
        &database,
        "create function public.fail() returns trigger language plpgsql as
         $$ begin raise exception 'nothing is written here' using errcode = 'XX000'; end $$;
         create trigger fail before update on sandmill.cursors for each row
         when (old.progress::text <> new.progress::text) execute function public.fail()",
    )
    .await;
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    failed(&database, 2).await;
    host.stop().await;
    let before = database.status("scripted").await.unwrap().term_error.unwrap();
    let host = Host::start(&database, &["scripted"], &[]);
    let after = eventually("a term of the next host has ended", async || {
        database
            .status("scripted")
            .await?
            .term_error
            .filter(|error| error.at > before.at || error.times != before.times)
    })
    .await;
    assert!(after.since == before.since && after.times > before.times, "{before:?}\n{after:?}");
    execute(&database, "drop function public.fail() cascade").await;
    database.scripted_settles(&[]).await;
    error_is_gone(&database).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// Each term commits after one second that it passed events of a blocked lane. The read of another
/// lane fails only after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_error_is_not_cleared_by_earlier_commits_of_its_term() {
    let database = database().await;
    let (limited, _) = limited(&database, "slowed").await;
    let stop = || json!({"do": "stop", "code": "closed"});
    database.append("blocked", "s", &[stop()]).await;
    database.append("slow", "slow", &[json!({}), stop()]).await;
    let host = Host::start(&limited, &["scripted"], &[]);
    let settled = ["blocked blocked plugin:closed", "slow blocked plugin:closed"];
    database.scripted_settles(&settled).await;
    host.stop().await;

    execute(
        &database,
        "create function public.fail(id text) returns boolean language plpgsql as
         $$ begin
           if id = 'slow' then
             perform pg_sleep(2.5);
             raise exception 'nothing is read here' using errcode = '55P03';
           end if;
           return true;
         end $$;
         alter table sandmill_documents.c1_1 enable row level security, force row level security;
         create policy fail on sandmill_documents.c1_1 using (public.fail(_id)) with check (true)",
    )
    .await;
    database.resume(Some("slow")).await;
    let host = Host::start(&limited, &["scripted"], &[]);
    let mut first: Option<TermError> = None;
    let error = eventually("two consecutive terms have ended", async || {
        database.append("blocked", "s", &[json!({})]).await;
        let error = database.status("scripted").await?.term_error;
        assert!(error.is_some() || first.is_none(), "the error was cleared: {first:?}");
        if first.is_none() {
            first.clone_from(&error);
        }
        error.filter(|error| error.times >= 2)
    })
    .await;
    assert_eq!(first.map(|first| first.since), Some(error.since.clone()));
    assert!(error.error.contains("(SQLSTATE 55P03)"), "{error:?}");
    execute(&database, "alter table sandmill_documents.c1_1 disable row level security").await;
    database.scripted_settles(&settled).await;
    error_is_gone(&database).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_whose_documents_table_is_gone_can_be_removed_and_rebuilt() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let host = Host::start_in(&database, folder.path(), &[]);
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    execute(&database, "drop table sandmill_documents.c1_1 cascade").await;
    database.append("acme", "s", &[json!({})]).await;
    let found = explained(&database, "c1_1").await;
    assert_remedy(&found, "`sandmill processors remove scripted --drop-documents`");

    // The steps of the remedy.
    let file = folder.path().join("scripted.wasm");
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    eventually("the processor is removed", async || {
        let arguments = ["processors", "remove", "scripted", "--drop-documents"];
        let output = sandmill(&database.address).args(arguments).output().unwrap();
        if stderr(&output).contains("a host runs scripted") {
            return None;
        }
        assert!(output.status.success(), "{}", stderr(&output));
        let printed = stdout(&output);
        assert!(printed.contains("dropped the collection of public.scripted_log"), "{printed}");
        Some(())
    })
    .await;
    place(folder.path(), "scripted.wasm", &bytes);
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}
