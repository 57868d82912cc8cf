//! Shares and generations of processors: how old rows become a share, on which shares a term
//! begins, and the keys of the rows that a commit writes.

use sandmill::{
    db::{
        Session,
        migrate::{MIGRATIONS, migrate},
    },
    processor::commit::OWN_KEYS,
};
use sandmill_tests::{
    Database, database, empty_database,
    host::{Host, catch_up, eventually, root},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::json;

async fn session(database: &Database) -> Session {
    database.db.connect("test").await.unwrap()
}

/// A database before shares, where each of these processors has sixteen equal cursors.
async fn before_shares(processors: &[&str]) -> Database {
    let database = empty_database().await;
    let session = session(&database).await;
    session
        .batch_execute(&std::fs::read_to_string(root().join("host/src/db/migrate/history.sql")).unwrap())
        .await
        .unwrap();
    for migration in MIGRATIONS.iter().take_while(|migration| migration.version() < 27) {
        session.batch_execute(migration.sql).await.unwrap();
        let note = "insert into sandmill.migrations (version, name, checksum) values ($1, $2, $3)";
        session.execute(note, &[&migration.version(), &migration.name, &migration.checksum()]).await.unwrap();
    }
    for processor in processors {
        let rows = format!(
            "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version, shed_events)
             values ('{processor}', '{processor}', '', '', '', 'tenant', 1, 12);
             insert into sandmill.cursors (processor, bucket, progress, fence, handled)
             select '{processor}', bucket, '100:100:||', 'the token', bucket from generate_series(0, 15) bucket;
             insert into sandmill.lane_checkpoints (processor, bucket, tenant, lane_key, progress, state, reason)
             values ('{processor}', 5, 'acme', 'acme', '90:90:||', 'blocked', 'trap');
             insert into sandmill.dead_letters (processor, tenant, lane_key, position, event_id, class, message, digest, attempts)
             values ('{processor}', 'acme', 'acme', 4, 'e4', 'odd', 'm', '', 1);
             insert into sandmill.sheds (processor, tenant, lane_key, from_progress, to_progress, events)
             values ('{processor}', 'acme', 'acme', '80:80:||', '90:90:||', 12);"
        );
        session.batch_execute(&rows).await.unwrap();
    }
    database
}

async fn rows(session: &Session, sql: &str) -> Vec<String> {
    let rows = session.query(&format!("select q::text from ({sql}) q"), &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn sixteen_equal_cursors_become_one_share_without_losing_a_count() {
    let database = before_shares(&["carts", "orders"]).await;
    let mut session = session(&database).await;
    // As after a re-anchoring that no term followed.
    session.batch_execute("update sandmill.cursors set fence = bucket where processor = 'orders'").await.unwrap();
    migrate(&mut session).await.unwrap();
    let generations = rows(&session, "select * from sandmill.generations order by 1").await;
    assert_eq!(generations, ["(carts,1,serving)", "(orders,1,serving)"]);
    let cursors = "select processor, generation, share, first_bucket, last_bucket, progress::text, handled, shed_events
                   from sandmill.cursors order by 1";
    // A dead letter no longer counts as handled.
    assert_eq!(
        rows(&session, cursors).await,
        ["(carts,1,0,0,15,100:100:||,119,12)", "(orders,1,0,0,15,100:100:||,119,12)"]
    );
    let fences = "select fence = 'the token', fence = any(array(select b::text from generate_series(0, 15) b))
                  from sandmill.cursors order by processor";
    assert_eq!(rows(&session, fences).await, ["(t,f)", "(f,f)"], "a fence is kept, or no host has it");
    for table in ["lane_checkpoints", "dead_letters", "sheds"] {
        let found = rows(&session, &format!("select processor, generation from sandmill.{table} order by 1")).await;
        assert_eq!(found, ["(carts,1)", "(orders,1)"], "{table}");
    }
}

#[tokio::test]
async fn cursors_that_are_not_sixteen_equal_ones_are_refused_with_the_remedy() {
    for (change, found) in [
        (
            "update sandmill.cursors set progress = '99:99:||' where bucket = 3",
            "16 cursors with 2 different progresses",
        ),
        ("delete from sandmill.cursors where bucket = 3", "15 cursors with 1 different progresses"),
    ] {
        let database = before_shares(&["carts", "orders"]).await;
        let mut session = session(&database).await;
        session.batch_execute(&format!("{change} and processor = 'orders'")).await.unwrap();
        let error = migrate(&mut session).await.unwrap_err().to_string();
        assert!(error.contains(&format!("processor orders has {found}")), "{error}");
        assert!(error.contains("sandmill processors remove orders"), "{error}");
        let kept = rows(&session, "select count(*) from sandmill.cursors where bucket < 16").await;
        assert!(matches!(&*kept[0], "(31)" | "(32)"), "nothing was changed: {kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_begins_only_if_each_bucket_has_one_owner() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let session = session(&database).await;
    let divide = "update sandmill.cursors set last_bucket = 7;
                  insert into sandmill.cursors (processor, generation, share, first_bucket, last_bucket, progress)
                  select processor, generation, 1, 8, 15, progress from sandmill.cursors";
    database.append("acme", "s", &[json!({})]).await;
    for (change, error) in [
        ("update sandmill.cursors set last_bucket = 14", "no share owns bucket 15"),
        (divide, "processor scripted has 2 shares"),
        ("update sandmill.cursors set first_bucket = 7 where share = 1", "several shares own bucket 7"),
    ] {
        session.batch_execute(change).await.unwrap();
        let host = Host::start(&database, &["scripted"], &[]);
        eventually(error, async || {
            let ended = database.status("scripted").await?.term_error?;
            ended.error.contains(error).then_some(())
        })
        .await;
        host.stop().await;
        assert_eq!(database.status("scripted").await.unwrap().handled, 1, "nothing was handled");
    }
    session
        .batch_execute("delete from sandmill.cursors where share = 1; update sandmill.cursors set last_bucket = 15")
        .await
        .unwrap();
    catch_up(&database, &["scripted"], &[]).await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// A rebuild handles all events again.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_set_aside_again_is_updated_and_adds_up_its_attempts() {
    let database = database().await;
    database.append("acme", "s", &[json!({}), json!({"do": "skip", "code": "odd"})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let session = session(&database).await;
    let letters = "select generation, position, class, attempts from sandmill.dead_letters";
    assert_eq!(rows(&session, letters).await, ["(1,2,plugin:odd,1)"]);
    session
        .batch_execute(
            "update sandmill.cursors set progress = '1:1:||'; update sandmill.dead_letters set class = 'former'",
        )
        .await
        .unwrap();
    catch_up(&database, &["scripted"], &[]).await;
    assert_eq!(rows(&session, letters).await, ["(1,2,plugin:odd,2)"]);
    assert_eq!(database.status("scripted").await.unwrap().dead_letters, 1);
}

/// A violated key is either known as the host's own, or is taken for a fault of a plugin's data.
#[tokio::test]
async fn the_keys_of_all_rows_that_commits_write_are_known() {
    let database = database().await;
    let sql = "select conname from pg_constraint
               where contype in ('p', 'u', 'f') and conrelid = any(array[
                 'sandmill.generations', 'sandmill.cursors', 'sandmill.lane_checkpoints', 'sandmill.dead_letters',
                 'sandmill.parked_streams', 'sandmill.sheds']::regclass[])
               order by conname";
    let found = rows(&session(&database).await, sql).await;
    assert_eq!(found, OWN_KEYS.map(|key| format!("({key})")));
}
