// The schema of the collections' views, a setting of the store: views move with the rights on them,
// and later views are created there.

use super::*;

/// Runs a plugin on one event. Returns its folder, and the arguments to run it again.
async fn run_plugin(database: &Database) -> (tempfile::TempDir, Vec<String>) {
    database.append("acme", "s", &[json!({})]).await;
    let folder = plugins(&["scripted"]);
    let arguments = ["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()].map(String::from);
    catch_up(&database.address, &arguments).await;
    (folder, arguments.to_vec())
}

async fn catch_up(address: &str, arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, _, errors) = run(address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");
}

fn place_for_acme(folder: &tempfile::TempDir) {
    let own = folder.path().join("acme");
    std::fs::create_dir(&own).unwrap();
    place(&own, "scripted.wasm", &std::fs::read(component("scripted")).unwrap());
}

/// The schemas and names of the views of all tenants' documents.
async fn views(database: &Database) -> Vec<String> {
    let sql = "select c.oid::regclass::text from pg_class c
               where obj_description(c.oid, 'pg_class') = 'sandmill collection' order by 1";
    let session = session(&format!("{} options='-c search_path='", database.address)).await;
    session.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn views_move_with_the_rights_on_them_and_later_views_are_created_there() {
    let database = database().await;
    let reader = session(&with_role(&database, "moved_reader").await).await;
    let (folder, arguments) = run_plugin(&database).await;
    object(&database.address, &["migrate", "--grant-read", "moved_reader", "--json"]).await;
    reader.batch_execute("select * from public.scripted_log").await.unwrap();

    for (before, json) in [("public", true), ("My views", true), ("My views", false)] {
        let mut arguments = vec!["migrate", "--views-schema", "My views"];
        arguments.extend(json.then_some("--json"));
        let (code, printed, errors) = run(&database.address, &arguments).await;
        assert_eq!(code, Some(0), "{errors}");
        if json {
            let moved: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(moved["viewsSchema"], json!({"before": before, "now": "My views"}));
        } else {
            assert!(printed.contains("the collections' views are already in the schema My views"), "{printed}");
        }
    }
    assert_eq!(views(&database).await, [r#""My views".scripted_log"#]);
    reader.batch_execute(r#"select * from "My views".scripted_log"#).await.unwrap();

    place_for_acme(&folder);
    catch_up(&database.address, &arguments).await;
    assert_eq!(views(&database).await, [r#""My views"."scripted_log@acme""#, r#""My views".scripted_log"#]);
    reader.batch_execute(r#"select * from "My views"."scripted_log@acme""#).await.unwrap();

    // Commands read the views in their schema, and name it.
    let (_, printed, errors) = run(&database.address, &["documents", "scripted_log@acme"]).await;
    assert!(printed.contains("acme"), "{printed}{errors}");
    std::fs::remove_dir_all(folder.path().join("acme")).unwrap();
    let removal = ["processors", "remove", "acme/scripted", "--drop-documents", "--yes"];
    let (_, printed, errors) = run(&database.address, &removal).await;
    assert!(
        printed.contains(r#"dropped 1 document with the view "My views"."scripted_log@acme""#),
        "{printed}{errors}"
    );

    object(&database.address, &["migrate", "--views-schema", "public", "--json"]).await;
    assert_eq!(views(&database).await, ["public.scripted_log"]);
    reader.batch_execute("select * from public.scripted_log").await.unwrap();
    object(&database.address, &["migrate", "--revoke-read", "moved_reader", "--json"]).await;
    assert_denied(&reader, &["select * from public.scripted_log", "select * from sandmill_tenant.scripted_log"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_checked_in_the_schema_that_contains_or_will_contain_the_views() {
    let database = empty_database().await;
    let address = with_role(&database, "views_maker").await;
    execute(&database, "create schema app").await;
    let name = database.address.split("dbname=").nth(1).unwrap().split(' ').next().unwrap();
    let on_database = format!("grant create on database {name} to views_maker;");
    let move_to = |schema: &'static str| ["migrate", "--views-schema", schema];
    let needed = statements(&address, &move_to("app")).await;
    assert_eq!(needed, [&on_database, "grant usage, create on schema app to views_maker;"]);
    // A role that may create schemas needs no right on a missing one.
    assert_eq!(statements(&address, &move_to("missing")).await, [on_database.as_str()]);
    execute(&database, &needed.concat()).await;
    let (code, printed, errors) = run(&address, &move_to("app")).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.contains("the collections' views are now in the schema app; they were in public"), "{printed}");

    // From now on the role needs no rights in `public`.
    let (_folder, _) = run_plugin(&Database { address: address.clone(), ..database.clone() }).await;
    assert_eq!(views(&database).await, ["app.scripted_log"]);
    execute(&database, "revoke create on schema app from views_maker").await;
    assert_eq!(statements(&address, &["migrate"]).await, ["grant usage, create on schema app to views_maker;"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_onto_another_relation_changes_nothing() {
    let database = database().await;
    let (_folder, _) = run_plugin(&database).await;
    execute(&database, "create schema app; create table app.scripted_log (mine int)").await;
    let (code, _, errors) = run(&database.address, &["migrate", "--views-schema", "app"]).await;
    assert!(code == Some(1) && errors.contains("cannot move a view to app.scripted_log"), "{errors}");
    assert_eq!(views(&database).await, ["public.scripted_log"]);
    for name in ["sandmill", "sandmill_tenant", "pg_catalog", ""] {
        let (code, _, errors) = run(&database.address, &["migrate", "--views-schema", name]).await;
        assert_eq!(code, Some(2), "{name}: {errors}");
    }
    // The table has the same bounds.
    let session = session(&database.address).await;
    session.batch_execute("update sandmill.store set views_schema = 'sandmill'").await.unwrap_err();
    let stored = session.query_one("select views_schema from sandmill.store", &[]).await.unwrap();
    assert_eq!(stored.get::<_, &str>(0), "public");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_created_during_a_move_moves_too() {
    let database = database().await;
    let mut maker = session(&database.address).await;
    let transaction = maker.client_mut().transaction().await.unwrap();
    let sql = "set local idle_in_transaction_session_timeout = 0;
               insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
               values ('p', 'p', '', '', '', 'tenant', 1);
               select sandmill.ensure_collection('', 'things', 'p', false, 0)";
    transaction.batch_execute(sql).await.unwrap();
    let address = database.address.clone();
    let moving = tokio::spawn(async move { object(&address, &["migrate", "--views-schema", "app", "--json"]).await });
    let watcher = session(&database.address).await;
    let waits = "select count(*) from pg_locks where not granted and relation = 'sandmill.role_grants'::regclass";
    until("the move waits for the view", async || watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1)
        .await;
    transaction.commit().await.unwrap();
    moving.await.unwrap();
    assert_eq!(views(&database).await, ["app.things"]);
}
