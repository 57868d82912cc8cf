// Removal of a processor: the rows that are deleted, the documents that are kept, and the plugins
// that may own these afterwards.

use sandmill_tests::{
    database,
    handmade::listing,
    host::{Host, component},
    ledger::assert_log,
};
use serde_json::json;

use super::*;

const OWN: &str = "scripted_log@acme";

/// Waits until a processor is in a state.
async fn until_state(database: &Database, processor: &str, wanted: &str) -> Value {
    eventually(&format!("{processor} is {wanted}"), async || {
        let listed = json(database, &["processors", "list", "--json"]).await;
        let found = listed["processors"].as_array().unwrap().iter().find(|p| p["id"] == processor)?.clone();
        (found["state"] == wanted).then_some(found)
    })
    .await
}

/// The number of a processor's rows in each table.
async fn rows_of(database: &Database, processor: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (table, column) in [
        ("processors", "id"),
        ("generations", "processor"),
        ("cursors", "processor"),
        ("lane_checkpoints", "processor"),
        ("pauses", "processor"),
        ("dead_letters", "processor"),
    ] {
        let sql = format!("select '{table}', count(*) from sandmill.{table} where {column} = '{processor}'");
        found.extend(rows(database, &sql).await);
    }
    found
}

/// A host with `acme/scripted` and the shared `scripted`. Acme's has two dead letters and a blocked
/// lane.
async fn begun(database: &Database, folder: &Path) -> Host {
    let skip = json!({"do": "skip", "code": "odd"});
    database.append("acme", "s", &[json!({}), skip.clone(), skip, json!({})]).await;
    database.append("other", "s", &[json!({})]).await;
    let bytes = fs::read(component("scripted")).unwrap();
    give(folder, "acme", "orders", &bytes);
    place(folder, "scripted.wasm", &bytes);
    let host = Host::start_in(database, folder, &[]);
    database.settles("acme/scripted", &[]).await;
    database.settles("scripted", &[]).await;
    database.append("acme", "late", &[json!({"do": "trap"})]).await;
    database.settles("acme/scripted", &["acme blocked trap"]).await;
    // Acme's own processor replaces the shared one for acme's events.
    database.settles("scripted", &[]).await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_documents_of_a_removed_processor_are_not_written_without_permission() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = begun(&database, folder.path()).await;
    run(&database, &["pause", "acme/scripted", "--tenant", "acme"]).await.unwrap();
    let keep = ["processors", "remove", "acme/scripted", "--keep-documents", "--yes", "--json"];
    let refused = run(&database, &keep).await.unwrap_err();
    assert!(refused.contains("a host runs acme/scripted; nothing was removed"), "{refused}");
    assert!(refused.contains("Take its plugin's file out of the plugins folder, or stop the host"), "{refused}");

    // The host keeps running the others.
    let file = folder.path().join("acme/orders.wasm");
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let listed = until_state(&database, "acme/scripted", "absent").await;
    assert_eq!(
        (&listed["kind"], &listed["tenant"], &listed["plugin"], &listed["collections"][0]["view"]),
        (&json!("projector"), &json!("acme"), &json!("acme/orders"), &json!(OWN))
    );
    until_state(&database, "scripted", "running").await;
    let unsure = run(&database, &keep[..4]).await.unwrap_err();
    assert!(unsure.contains("removing acme/scripted loses 2 dead letters; to confirm, add --yes"), "{unsure}");
    let undecided = run(&database, &["processors", "remove", "acme/scripted"]).await.unwrap_err();
    assert!(undecided.contains("--keep-documents") && undecided.contains("--drop-documents"), "{undecided}");
    let before = rows_of(&database, "acme/scripted").await;
    assert_eq!(
        before,
        ["(processors,1)", "(generations,1)", "(cursors,1)", "(lane_checkpoints,1)", "(pauses,1)", "(dead_letters,2)"]
    );

    assert_eq!(
        json(&database, &keep).await,
        json!({
            "processor": "acme/scripted", "deadLetters": 2, "parkedStreams": 0, "lanes": 1, "pauses": 1, "sheds": 0,
            "documents": "kept",
            "collections": [{"view": OWN, "documents": 1}],
        })
    );
    let after = rows_of(&database, "acme/scripted").await;
    assert_eq!(
        after,
        ["(processors,0)", "(generations,0)", "(cursors,0)", "(lane_checkpoints,0)", "(pauses,0)", "(dead_letters,0)"]
    );
    let document = format!(r#"select _id, data->>'count' from public."{OWN}""#);
    assert_eq!(rows(&database, &document).await, ["(s,2)"]);
    let listed = json(&database, &["processors", "list", "--json"]).await;
    assert_eq!(
        (listed["processors"].as_array().unwrap().len(), &listed["processors"][0]["id"]),
        (1, &json!("scripted"))
    );
    assert_eq!((&listed["kept"][0]["view"], &listed["kept"][0]["keptFrom"]), (&json!(OWN), &json!("acme/scripted")));
    let again = run(&database, &keep).await.unwrap_err();
    assert!(
        again.contains("is already removed and its documents are kept; to drop them, pass --drop-documents"),
        "{again}"
    );

    // No plugin may mix them with documents that it builds from the start of the log.
    place(&folder.path().join("acme"), "orders.wasm", &bytes);
    give(folder.path(), "acme", "heir", &listing("heir", &["scripted_log"]));
    for plugin in ["acme/orders", "acme/heir"] {
        let error = until_error(folder.path(), plugin, "contains documents").await;
        assert!(
            error.contains("collection scripted_log contains documents of the removed processor acme/scripted"),
            "{error}"
        );
        let remedy = "To drop them: sandmill processors remove acme/scripted --drop-documents";
        assert!(error.contains(remedy), "{error}");
    }
    until_state(&database, "scripted", "running").await;
    // A manifest may allow a plugin to continue them.
    place(&folder.path().join("acme"), "heir.toml", b"on-change = 'continue'");
    until_state(&database, "acme/heir", "running").await;
    let owner = "select processor, kept_from from sandmill.collections where tenant = 'acme'";
    assert_eq!(rows(&database, owner).await, ["(acme/heir,\"\")"]);
    assert_eq!(rows(&database, &document).await, ["(s,2)"]);
    let belongs = until_error(folder.path(), "acme/orders", "belongs to").await;
    assert!(belongs.contains("collection scripted_log belongs to processor acme/heir"), "{belongs}");
    host.stop().await;
    until_state(&database, "acme/heir", "no-host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_was_removed_with_its_documents_starts_from_the_beginning_of_the_log() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = begun(&database, folder.path()).await;
    fs::remove_dir_all(folder.path().join("acme")).unwrap();
    until_state(&database, "acme/scripted", "absent").await;
    // The documents are kept first, then dropped.
    run(&database, &["processors", "remove", "acme/scripted", "--keep-documents", "--yes"]).await.unwrap();
    let drop = ["processors", "remove", "acme/scripted", "--drop-documents"];
    let unsure = run(&database, &drop).await.unwrap_err();
    assert!(unsure.contains("removing acme/scripted loses 1 document; to confirm, add --yes"), "{unsure}");
    let shown = run(&database, &[&drop[..], &["--yes"]].concat()).await.unwrap();
    assert_eq!(shown, format!("dropped 1 document with the view public.\"{OWN}\"\n"));
    let views = "select viewname from pg_views where schemaname = 'public' order by 1";
    assert_eq!(rows(&database, views).await, ["(scripted_log)"], "the shared documents are another collection");
    let unknown = run(&database, &drop).await.unwrap_err();
    assert!(
        unknown.contains("there is no processor `acme/scripted`") && unknown.contains("known processors: scripted"),
        "{unknown}"
    );

    // It handles the whole log again, and its documents are exact.
    give(folder.path(), "acme", "orders", &fs::read(component("scripted")).unwrap());
    database.settles("acme/scripted", &["acme blocked trap"]).await;
    host.stop().await;
    let folded = "e.tenant = 'acme' and e.stream = 's' and e.data->>'do' is null";
    assert_log(&database, &format!("\"{OWN}\""), folded).await;
}

/// Dropping all tables in one transaction would fill the lock table. A removal that stopped halfway
/// can be completed.
#[tokio::test(flavor = "multi_thread")]
async fn many_collections_are_dropped_in_several_transactions() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..45).map(|number| format!("hoard_{number}")).collect();
    place(folder.path(), "hoard.wasm", &listing("hoard", &names));
    place(folder.path(), "other.wasm", &listing("neighbor", &["things"]));
    let host = Host::start_in(&database, folder.path(), &["limits.collections=64"]);
    until_state(&database, "hoard", "running").await;
    until_state(&database, "neighbor", "running").await;
    host.stop().await;
    // Another view depends on one of them.
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("create view public.mine as select * from public.hoard_30").await.unwrap();
    let drop = ["processors", "remove", "hoard", "--drop-documents"];
    let failed = run(&database, &drop).await.unwrap_err();
    assert!(
        failed.contains("run the same command again") && failed.contains("public.mine depends on view public.hoard_30"),
        "{failed}"
    );
    assert_eq!(rows(&database, "select from sandmill.collections where kept_from = 'hoard'").await.len(), 25);
    session.batch_execute("drop view public.mine").await.unwrap();
    run(&database, &drop).await.unwrap();
    assert_eq!(rows(&database, "select view, processor from sandmill.collections").await, ["(things,neighbor)"]);
    let left = "select relname from pg_class where relnamespace::regnamespace::text in ('sandmill_documents', 'sandmill_tenant', 'public') and relkind in ('r', 'v')";
    assert_eq!(rows(&database, left).await.len(), 3, "a table and its two views");
}
