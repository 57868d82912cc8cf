//! Migrations on a real server: concurrent starts, foreign histories, roles, encodings and
//! standbys.

use std::os::unix::fs::PermissionsExt;

use sandmill::db::{
    Db, Session,
    embedded::{Embedded, Options},
    migrate::{MIGRATIONS, MigrateError, migrate, pending},
};
use sandmill_tests::{Database, database, empty_database, server};

async fn session(database: &Database) -> Session {
    database.db.connect("test").await.unwrap()
}

fn all() -> Vec<&'static str> {
    MIGRATIONS.iter().map(|migration| migration.name).collect()
}

#[tokio::test]
async fn an_empty_database_gets_all_migrations_and_a_migrated_one_none() {
    let database = empty_database().await;
    let mut session = session(&database).await;
    assert_eq!(pending(&session).await.unwrap(), all());
    assert_eq!(migrate(&mut session).await.unwrap().names, all());
    assert!(pending(&session).await.unwrap().is_empty());
    assert!(migrate(&mut session).await.unwrap().names.is_empty());
}

#[tokio::test]
async fn each_migration_is_applied_by_one_of_two_concurrent_starts() {
    let database = empty_database().await;
    let (mut one, mut two) = (session(&database).await, session(&database).await);
    let (by_one, by_two) = tokio::join!(migrate(&mut one), migrate(&mut two));
    let mut names = [by_one.unwrap().names, by_two.unwrap().names].concat();
    names.sort();
    assert_eq!(names, all());
}

#[tokio::test]
async fn an_altered_or_newer_history_is_rejected_with_the_remedy() {
    let database = database().await;
    let mut session = session(&database).await;
    session
        .batch_execute("insert into sandmill.migrations (version, name, checksum) values (9000, '9000_future', '')")
        .await
        .unwrap();
    let newer = migrate(&mut session).await.unwrap_err();
    assert!(matches!(&newer, MigrateError::Newer { applied, .. } if applied == "9000_future"), "{newer}");
    assert!(newer.to_string().contains("Install the version of Sandmill"), "{newer}");

    session
        .batch_execute(
            "delete from sandmill.migrations where version = 9000; \
             update sandmill.migrations set checksum = 'another' where version = 1",
        )
        .await
        .unwrap();
    let altered = migrate(&mut session).await.unwrap_err();
    assert!(matches!(&altered, MigrateError::Altered { name } if name == MIGRATIONS[0].name), "{altered}");
    assert!(matches!(pending(&session).await, Err(MigrateError::Altered { .. })));
}

#[tokio::test]
async fn a_role_that_owns_the_schemas_can_migrate_and_another_gets_the_statements_it_needs() {
    let database = empty_database().await;
    let superuser = session(&database).await;
    superuser.batch_execute("create role owns_nothing login; create role owns_schema login").await.unwrap();
    let login = |role: &str| Db::parse(&database.address.replace("user=sandmill", &format!("user={role}"))).unwrap();

    let mut session = login("owns_nothing").connect("test").await.unwrap();
    let error = migrate(&mut session).await.unwrap_err();
    assert!(error.to_string().contains("create schema sandmill authorization"), "{error}");

    let prepare = ["sandmill", "sandmill_documents", "sandmill_tenant"]
        .map(|schema| format!("create schema {schema} authorization owns_schema;"))
        .join(" ");
    assert!(error.to_string().contains(&prepare.replace("owns_schema", "owns_nothing")), "{error}");
    superuser.batch_execute(&prepare).await.unwrap();
    superuser.batch_execute("grant create on schema public to owns_schema").await.unwrap();
    let mut session = login("owns_schema").connect("test").await.unwrap();
    assert_eq!(migrate(&mut session).await.unwrap().names, all());
}

#[tokio::test]
async fn another_encoding_than_utf8_is_rejected() {
    let server = server().await;
    let session = Db::parse(&server.address()).unwrap().connect("test").await.unwrap();
    session.batch_execute("create database latin encoding 'LATIN1' template template0").await.unwrap();
    let mut session = Db::parse(&server.address_of("latin")).unwrap().connect("test").await.unwrap();
    let error = migrate(&mut session).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Encoding(name) if name == "LATIN1"), "{error}");
}

#[tokio::test]
async fn a_standby_is_rejected() {
    let server = Embedded::start(Options::default()).await.unwrap();
    let signal = server.log().with_file_name("data/standby.signal");
    std::fs::write(&signal, "").unwrap();
    // The server must be able to flush this file, and may run as a different user from the test.
    std::fs::set_permissions(&signal, std::fs::Permissions::from_mode(0o666)).unwrap();
    server.restart().await.unwrap();
    let mut session = Db::parse(&server.address()).unwrap().connect("test").await.unwrap();
    let error = migrate(&mut session).await.unwrap_err();
    assert!(matches!(error, MigrateError::Standby), "{error}");
}
