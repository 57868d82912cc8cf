// Recalls of former versions: how many run at once, and what happens if one fails.

use sandmill::db::Session;
use sandmill_tests::{BEGIN, handmade::listing};

use super::{retained::until_retained, *};

/// The number of recalls under way.
async fn recalls(database: &Database) -> i64 {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'sandmill former version'";
    session.query_one(sql, &[]).await.unwrap().get(0)
}

/// A session that blocks all reads of stored components until it commits.
async fn components_locked(database: &Database) -> Session {
    let session = database.db.connect("test").await.unwrap();
    let lock = format!("{BEGIN}; lock table sandmill.components");
    session.batch_execute(&lock).await.unwrap();
    session
}

/// Each recall needs a session and the bytes of a component, so only two run at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_many_broken_files_recalls_two_versions_at_once() {
    const FILES: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    for name in FILES {
        place(folder.path(), &format!("{name}.wasm"), &listing(name, &[format!("of_{name}")]));
    }
    let host = Host::start_in(&database, folder.path(), &[]);
    for name in FILES {
        until_retained(&database, name, 1).await;
    }
    host.stop().await;
    for name in FILES {
        fs::write(folder.path().join(format!("{name}.wasm")), "broken").unwrap();
    }
    place(folder.path(), "a-first.wasm", &version("scripted", GOOD[1]));
    append(&database, "s", 1).await;
    let session = components_locked(&database).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    eventually("two recalls are under way", async || (recalls(&database).await >= 2).then_some(())).await;
    assert!(recalls(&database).await <= 2);
    session.batch_execute("commit").await.unwrap();
    for name in FILES {
        until_event(&database, name, "started", 2).await;
    }
    host.stop().await;
}

/// The former version runs once the database returns it.
#[tokio::test(flavor = "multi_thread")]
async fn no_file_waits_for_a_former_version_that_the_database_does_not_return() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "broken.wasm", &listing("shop", &["carts"]));
    let host = Host::start_in(&database, folder.path(), &[]);
    until_retained(&database, "broken", 1).await;
    host.stop().await;
    fs::write(folder.path().join("broken.wasm"), "broken").unwrap();
    put(folder.path(), GOOD[1]);
    append(&database, "s", 1).await;
    let session = components_locked(&database).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    until_error(folder.path(), "broken", Some("not a WebAssembly component")).await;
    session.batch_execute("commit").await.unwrap();
    until_event(&database, "broken", "started", 2).await;
    host.stop().await;
}
