// Rights of database roles: of the host's role, and of roles that append events or read documents.
// Roles belong to the whole server, so each test has its own roles.

// Readers of one tenant's documents.
mod tenants;
// The schema of the views, which is a setting.
mod views;

use sandmill::db::{
    Db, Session, describe,
    migrate::{MIGRATIONS, Migration},
};
use sandmill_client::{Append, NewEvent, append, read_stream};
use sandmill_tests::{
    Database, database, empty_database,
    host::{Host, component, place, plugins, root, sandmill, stderr, stdout},
    until,
};
use serde_json::{Value, json};

/// Runs statements as the superuser.
async fn execute(database: &Database, sql: &str) {
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}\n{sql}", describe(&error)));
}

/// Creates a role and returns the address for it. In `public` the role has the rights that
/// PostgreSQL 15 and newer grant to all roles.
async fn with_role(database: &Database, role: &str) -> String {
    execute(database, &format!("create role {} login; revoke create on schema public from public", quoted(role))).await;
    database.address.replace("user=sandmill", &format!("user='{role}'"))
}

fn quoted(role: &str) -> String {
    format!("\"{}\"", role.replace('"', "\"\""))
}

async fn session(address: &str) -> Session {
    Db::parse(address).unwrap().connect("test").await.unwrap()
}

/// A command's exit code, its standard output and its standard error.
async fn run(address: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = sandmill(address);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// Runs a command that succeeds, and returns the JSON object that it prints.
async fn object(address: &str, arguments: &[&str]) -> Value {
    let (code, printed, errors) = run(address, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// Runs a command that fails for missing rights, and returns the statements that it prints.
async fn statements(address: &str, arguments: &[&str]) -> Vec<String> {
    let (code, printed, errors) = run(address, arguments).await;
    assert_eq!((code, printed.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("lacks rights") && errors.contains("nothing was changed"), "{errors}");
    let is_statement = |line: &&str| line.ends_with(';') && !line.starts_with("--");
    errors.lines().filter(is_statement).map(String::from).collect()
}

/// Asserts that a role is denied each of these statements.
async fn assert_denied(session: &Session, statements: &[&str]) {
    for sql in statements {
        let error = session.batch_execute(sql).await.expect_err(sql);
        assert!(describe(&error).contains("permission denied"), "{sql}: {}", describe(&error));
    }
}

fn event(tenant: &str, stream: &str) -> Append {
    Append::to(tenant, stream).event(NewEvent::new("Scripted", "{}").metadata(r#"{"user":"ann"}"#))
}

/// The migrations before this one.
fn before(name: &str) -> &'static [Migration] {
    let at = MIGRATIONS.iter().position(|migration| migration.name == name).unwrap();
    &MIGRATIONS[..at]
}

/// The migrations before the one since which `sandmill.append` runs with its owner's rights.
fn before_grants() -> &'static [Migration] {
    before("0019_role_grants")
}

/// A database to which only those migrations were applied.
async fn migrated_before_grants() -> Database {
    migrated_by(before_grants()).await
}

/// A database to which only these migrations were applied.
async fn migrated_by(migrations: &[Migration]) -> Database {
    let database = empty_database().await;
    let session = session(&database.address).await;
    let history = std::fs::read_to_string(root().join("host/src/db/migrate/history.sql")).unwrap();
    session.batch_execute(&history).await.unwrap();
    for migration in migrations {
        session.batch_execute(migration.sql).await.unwrap();
        let record = "insert into sandmill.migrations (version, name, checksum) values ($1, $2, $3)";
        session.execute(record, &[&migration.version(), &migration.name, &migration.checksum()]).await.unwrap();
    }
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_gets_all_the_statements_that_an_empty_database_needs() {
    let database = empty_database().await;
    let address = with_role(&database, r#"Odd "host" ü"#).await;
    let needed = statements(&address, &["migrate"]).await;
    let name = database.address.split("dbname=").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(
        needed,
        [
            format!(r#"grant create on database {name} to "Odd ""host"" ü";"#),
            r#"grant usage, create on schema public to "Odd ""host"" ü";"#.into()
        ]
    );
    let admin = session(&database.address).await;
    let found = admin.query_one("select to_regnamespace('sandmill') is null", &[]).await.unwrap();
    assert!(found.get::<_, bool>(0), "nothing was created");
    execute(&database, &needed.concat()).await;
    let migrated = object(&address, &["migrate", "--json"]).await;
    assert_eq!(migrated["applied"].as_array().unwrap().len(), MIGRATIONS.len());
    // The schemas exist now, so the right to create schemas is no longer needed.
    execute(&database, &needed[0].replace("grant", "revoke").replace(" to ", " from ")).await;
    assert_eq!(object(&address, &["migrate", "--json"]).await["applied"], json!([]));
    database.append("acme", "s", &[json!({})]).await;
    let folder = plugins(&["scripted"]);
    let (code, _, errors) =
        run(&address, &["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_runs_a_migrated_store_must_own_only_the_views() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let arguments = ["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()];
    database.append("acme", "s", &[json!({})]).await;
    let (code, _, errors) = run(&database.address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");

    let address = with_role(&database, "runs_only").await;
    let needed = statements(&address, &arguments).await;
    let owner: Vec<&String> = needed.iter().filter(|statement| statement.contains(" owner to ")).collect();
    let views =
        ["public", "sandmill_tenant"].map(|schema| format!("alter view {schema}.scripted_log owner to runs_only;"));
    assert_eq!(owner, [&views[0], &views[1]], "{needed:#?}");
    assert_eq!(statements(&address, &["migrate"]).await, needed);
    execute(&database, &needed.concat()).await;
    let (code, _, errors) = run(&address, &["migrate"]).await;
    assert_eq!(code, Some(0), "{errors}");

    // It runs the existing plugin, and a new one that creates tables and views.
    let own = folder.path().join("acme");
    std::fs::create_dir(&own).unwrap();
    place(&own, "scripted.wasm", &std::fs::read(component("scripted")).unwrap());
    database.append("acme", "s", &[json!({})]).await;
    database.append("globex", "s", &[json!({})]).await;
    let (code, _, errors) = run(&address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");
    let admin = session(&database.address).await;
    for (view, tenant, events) in [("scripted_log", "globex", 1), (r#""scripted_log@acme""#, "acme", 2)] {
        let count = format!("select (data->>'count')::int from public.{view} where _partition = '{tenant}'");
        assert_eq!(admin.query_one(&count, &[]).await.unwrap().get::<_, i32>(0), events, "{view}");
    }

    execute(&database, "revoke update on sandmill.cursors from runs_only").await;
    let needed = statements(&address, &arguments).await;
    assert_eq!(needed, ["grant select, insert, update, delete on sandmill.cursors to runs_only;"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_must_own_the_tables_while_migrations_are_pending() {
    let database = migrated_before_grants().await;
    let address = with_role(&database, "owns_no_table").await;
    execute(
        &database,
        "grant usage on schema sandmill to owns_no_table; grant select on sandmill.migrations to owns_no_table",
    )
    .await;
    let needed = statements(&address, &["migrate"]).await;
    for statement in [
        "grant usage, create on schema sandmill to owns_no_table;",
        "alter table sandmill.events owner to owns_no_table;",
        "alter sequence sandmill.event_position owner to owns_no_table;",
        "alter domain sandmill.progress owner to owns_no_table;",
        "alter view sandmill.running_processors owner to owns_no_table;",
        "alter function sandmill.unreadable_json(text) owner to owns_no_table;",
    ] {
        assert!(needed.iter().any(|needed| needed == statement), "{statement} is not in {needed:#?}");
    }
    let admin = session(&database.address).await;
    let applied = admin.query_one("select count(*) from sandmill.migrations", &[]).await.unwrap();
    assert_eq!(applied.get::<_, i64>(0), before_grants().len() as i64, "nothing was changed");
    execute(&database, &needed.concat()).await;
    let migrated = object(&address, &["migrate", "--json"]).await;
    let pending: Vec<&str> = MIGRATIONS[before_grants().len()..].iter().map(|migration| migration.name).collect();
    assert_eq!(migrated["applied"], json!(pending));
    append(&*session(&address).await, &event("acme", "s")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_append_can_append_and_read_streams_and_nothing_else() {
    let database = database().await;
    let shop = with_role(&database, "Shop").await;
    let app = session(&shop).await;
    assert_denied(&app, &["select * from sandmill.append('acme', 's', array['T'], array['{}']::json[])"]).await;
    let arguments = ["migrate", "--grant-append", "Shop", "--json"];
    for before in [false, true] {
        let granted = object(&database.address, &arguments).await;
        let [one] = granted["granted"].as_array().unwrap().as_slice() else { panic!("{granted}") };
        let found = (&one["role"], &one["permission"], &one["before"], one["statements"].as_array().unwrap().len());
        assert_eq!(found, (&json!("Shop"), &json!("append"), &json!(before), 3), "{granted}");
        assert_eq!(granted["revoked"], Value::Null);
    }

    let appended = append(&*app, &event("acme", "s")).await.unwrap();
    assert_eq!((appended[0].version, appended[0].position), (1, 1));
    append(&*app, &event("acme", "s")).await.unwrap();
    let conflict = append(&*app, &event("acme", "s").expecting(sandmill_client::ExpectedVersion::NoStream)).await;
    assert!(conflict.unwrap_err().to_string().contains("is at version 2"));
    let duplicate = Append::to("acme", "t").event(NewEvent::new("T", "1").id(&appended[0].id));
    let duplicate = append(&*app, &duplicate).await.unwrap_err();
    assert!(duplicate.to_string().contains("is used by an event of tenant acme"), "{duplicate}");
    let read = read_stream(&*app, "acme", "s", 1, 10).await.unwrap();
    assert_eq!(read.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2]);

    // Events are inserted only by the function, so no event bypasses its checks.
    assert_denied(
        &app,
        &[
            "insert into sandmill.events (tenant, stream, version, type, data) values ('acme', 's', 3, 'T', '{}')",
            "update sandmill.events set data = '{}'",
            "delete from sandmill.events",
            "select xid from sandmill.events",
            "select * from sandmill.streams",
            "update sandmill.streams set version = 9",
            "select * from sandmill.store",
            "select nextval('sandmill.event_position')",
            "select * from sandmill.processors",
            "select * from sandmill.role_grants",
            "select * from sandmill.migrations",
            "insert into sandmill.role_grants (role, permission) values ('Shop', 'read')",
            "create table sandmill.mine ()",
            "create table sandmill_documents.mine ()",
            "create table public.mine ()",
        ],
    )
    .await;
    let (code, _, errors) = run(&shop, &["migrate", "--grant-read", "Shop"]).await;
    assert_eq!(code, Some(1), "{errors}");

    let revoked = object(&database.address, &["migrate", "--revoke-append", "Shop", "--json"]).await;
    let one = &revoked["revoked"][0];
    assert_eq!((&one["before"], &one["stillAllowed"]), (&json!(true), &json!(false)), "{revoked}");
    assert_denied(
        &app,
        &[
            "select * from sandmill.append('acme', 's', array['T'], array['{}']::json[])",
            "select data from sandmill.events",
        ],
    )
    .await;
    assert!(append(&*app, &event("acme", "s")).await.is_err() && read_stream(&*app, "acme", "s", 1, 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_of_an_application_do_not_run_with_the_owners_rights() {
    let database = database().await;
    let address = with_role(&database, "operates").await;
    execute(&database, "create schema own authorization operates").await;
    object(&database.address, &["migrate", "--grant-append", "operates", "--json"]).await;
    let app = session(&address).await;
    app.batch_execute(
        "create function own.fail(int, int) returns boolean language plpgsql as $$ begin raise exception 'taken over as %', current_user; end $$;
         create operator own.= (function = own.fail, leftarg = int, rightarg = int);
         create operator own.<> (function = own.fail, leftarg = int, rightarg = int);
         create function own.cardinality(anyarray) returns int language plpgsql as $$ begin raise exception 'taken over'; end $$;
         set search_path = own, pg_catalog",
    )
    .await
    .unwrap();
    // They are in effect for the role, and the function ignores them.
    assert!(describe(&app.batch_execute("select 1 = 1").await.unwrap_err()).contains("taken over as operates"));
    append(&*app, &event("acme", "s")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_read_reads_all_collections_later_ones_included_and_nothing_else() {
    let database = database().await;
    let (by_admin, reader) = (session(&database.address).await, with_role(&database, "reports").await);
    let reader = session(&reader).await;
    let count = async |view: &str| -> Option<i64> {
        let sql = format!("select count(*) from public.{view}");
        reader.query_one(&sql, &[]).await.ok().map(|row| row.get(0))
    };
    database.append("acme", "s", &[json!({})]).await;
    let folder = plugins(&["scripted"]);
    let host = Host::start_in(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    assert_eq!(count("scripted_log").await, None, "before it is granted");
    let granted = object(&database.address, &["migrate", "--grant-read", "reports", "--json"]).await;
    let statements = granted["granted"][0]["statements"].as_array().unwrap();
    assert!(statements.contains(&json!("grant select on public.scripted_log to reports")), "{granted}");
    assert_eq!(count("scripted_log").await, Some(1));

    // A later collection.
    let own = folder.path().join("acme");
    std::fs::create_dir(&own).unwrap();
    place(&own, "scripted.wasm", &std::fs::read(component("scripted")).unwrap());
    database.settles("acme/scripted", &[]).await;
    until("the later collection is read", async || count(r#""scripted_log@acme""#).await == Some(1)).await;
    host.stop().await;

    // A later generation: the view is replaced, or dropped and created again.
    for (generation, replace) in [(2, "select"), (3, "drop view public.scripted_log")] {
        by_admin
            .batch_execute(&format!(
                "select sandmill.make_documents_table(1, {generation});
                 update sandmill.collections set generation = {generation} where number = 1; {replace};
                 select sandmill.make_documents_view('scripted_log', 1, {generation});
                 insert into public.scripted_log (_id, data) select n::text, '{{}}' from generate_series(1, {generation}) n"
            ))
            .await
            .unwrap();
        assert_eq!(count("scripted_log").await, Some(generation));
    }

    assert_denied(
        &reader,
        &[
            "select * from sandmill_documents.c1_1",
            "select * from sandmill.events",
            "select * from sandmill.append('acme', 's', array['T'], array['{}']::json[])",
            "delete from public.scripted_log",
            "insert into public.scripted_log (_id, data) values ('x', '{}')",
            "create view public.mine as select 1",
        ],
    )
    .await;

    object(&database.address, &["migrate", "--revoke-read", "reports", "--json"]).await;
    by_admin
        .batch_execute("drop view public.scripted_log; select sandmill.make_documents_view('scripted_log', 1, 3)")
        .await
        .unwrap();
    assert_denied(&reader, &["select * from public.scripted_log", r#"select * from public."scripted_log@acme""#]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_created_during_a_grant_is_granted_too() {
    let database = database().await;
    let reader = session(&with_role(&database, "meanwhile").await).await;
    let mut maker = session(&database.address).await;
    let transaction = maker.client_mut().transaction().await.unwrap();
    let sql = "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
               values ('p', 'p', '', '', '', 'tenant', 1);
               select sandmill.ensure_collection('', 'things', 'p', false, 0)";
    transaction.batch_execute("set local idle_in_transaction_session_timeout = 0").await.unwrap();
    transaction.batch_execute(sql).await.unwrap();
    let address = database.address.clone();
    let granting =
        tokio::spawn(async move { object(&address, &["migrate", "--grant-read", "meanwhile", "--json"]).await });
    let watcher = session(&database.address).await;
    let waits = "select count(*) from pg_locks where not granted and relation = 'sandmill.role_grants'::regclass";
    until("the grant waits for the view", async || watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1)
        .await;
    transaction.commit().await.unwrap();
    granting.await.unwrap();
    reader.batch_execute("select * from public.things").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_of_one_command_are_made_together_or_not_at_all() {
    let database = database().await;
    for role in ["one", "Two words", "group_of_one"] {
        with_role(&database, role).await;
    }
    let session = session(&database.address).await;
    let stored = async || -> Vec<String> {
        let sql = "select permission || ' ' || role from sandmill.role_grants order by 1";
        session.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let address = &database.address;
    let typo = ["migrate", "--grant-append", "one", "--grant-read", "tow"];
    let (code, _, errors) = run(address, &typo).await;
    assert!(
        code == Some(1) && errors.contains(r#"there is no role "tow""#) && errors.contains("create role"),
        "{errors}"
    );
    for name in ["", "public", "one;", &"x".repeat(70)] {
        let (code, _, errors) = run(address, &["migrate", "--grant-append", name]).await;
        assert!(code == Some(1) && errors.contains("there is no role"), "{name}: {errors}");
    }
    let (code, _, errors) = run(address, &["migrate", "--grant-read", "one", "--revoke-read", "one"]).await;
    assert!(code == Some(2) && errors.contains("both name the role one"), "{errors}");
    assert!(stored().await.is_empty());

    let arguments = [
        "migrate",
        "--grant-append",
        "one",
        "--grant-append",
        "Two words",
        "--grant-read",
        "one",
        "--grant-read",
        "group_of_one",
    ];
    let (code, printed, errors) = run(address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.contains("the role Two words may now append events and read streams\n"), "{printed}");
    assert_eq!(stored().await, ["append Two words", "append one", "read group_of_one", "read one"]);

    // A right that a role has through another role survives the revocation of its own grant.
    session.batch_execute("grant \"Two words\" to one").await.unwrap();
    let revoked = object(address, &["migrate", "--revoke-append", "one", "--json"]).await;
    assert_eq!(revoked["revoked"][0]["stillAllowed"], json!(true), "{revoked}");
    assert_eq!(stored().await, ["append Two words", "read group_of_one", "read one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_role_does_not_prevent_new_collections() {
    let database = database().await;
    with_role(&database, "leaver").await;
    object(&database.address, &["migrate", "--grant-read", "leaver", "--json"]).await;
    execute(&database, "drop owned by leaver; drop role leaver").await;
    database.append("acme", "s", &[json!({})]).await;
    let folder = plugins(&["scripted"]);
    let arguments = ["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()];
    let (code, _, errors) = run(&database.address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");
    let revoked = object(&database.address, &["migrate", "--revoke-read", "leaver", "--json"]).await;
    assert_eq!(revoked["revoked"][0]["before"], json!(true), "{revoked}");
    let (code, _, errors) = run(&database.address, &["migrate", "--revoke-read", "leaver"]).await;
    assert!(code == Some(1) && errors.contains("there is no role"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_nothing_cannot_grant_and_gets_the_remedy() {
    let database = database().await;
    let address = with_role(&database, "grants_nothing").await;
    execute(&database, &statements(&address, &["migrate"]).await.concat()).await;
    with_role(&database, "never_granted").await;
    for option in ["--grant-append", "--revoke-append"] {
        let (code, _, errors) = run(&address, &["migrate", option, "never_granted"]).await;
        assert!(code == Some(1) && errors.contains("may not grant or revoke this"), "{errors}");
    }
    let session = session(&database.address).await;
    let stored = session.query_one("select count(*) from sandmill.role_grants", &[]).await.unwrap();
    assert_eq!(stored.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_with_rights_on_the_tables_may_still_append_after_a_migration() {
    let database = migrated_before_grants().await;
    let by_table = with_role(&database, "by_table").await;
    let by_column = with_role(&database, "by_column").await;
    let watcher = with_role(&database, "watcher").await;
    execute(
        &database,
        "grant usage on schema sandmill to by_table, by_column, watcher;
         grant select on all tables in schema sandmill to by_table, by_column, watcher;
         grant usage on sequence sandmill.event_position to by_table, by_column;
         grant insert, update on sandmill.streams to by_table, by_column;
         grant insert on sandmill.events to by_table;
         grant insert (tenant, stream, version, type, id, recorded_at, data, metadata) on sandmill.events to by_column",
    )
    .await;
    let sessions = [session(&by_table).await, session(&by_column).await];
    for session in &sessions {
        append(&**session, &event("acme", "s")).await.unwrap();
    }
    object(&database.address, &["migrate", "--json"]).await;
    for session in &sessions {
        append(&**session, &event("acme", "s")).await.unwrap();
    }
    let watcher = session(&watcher).await;
    watcher.batch_execute("select * from sandmill.events").await.unwrap();
    assert_denied(&watcher, &["select * from sandmill.append('acme', 's', array['T'], array['{}']::json[])"]).await;
}
