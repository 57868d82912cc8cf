// Collections belong to their tenant: equal names of several tenants, bounds on their number, and
// the names of views.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sandmill::{
    model::{
        ids::{CollectionName, ProcessorId, TenantId},
        spec::ProcessorSpec,
    },
    processor::registration::{Registration, register},
    tenants::{Limits, Tenants},
};
use sandmill_tests::{
    database,
    handmade::listing,
    host::{Host, component},
};
use serde_json::json;

use super::*;

/// The views of all collections, each with its tenant and the processor that writes it.
async fn owners(database: &Database) -> Vec<String> {
    rows(database, "select view, tenant, processor from sandmill.collections order by view").await
}

/// The existing document tables.
async fn tables(database: &Database) -> Vec<String> {
    let sql = "select relname from pg_class where relnamespace = 'sandmill_documents'::regnamespace and relkind = 'r' order by 1";
    rows(database, sql).await
}

/// Documents as `sandmill documents --json` lists them: view, tenant and count.
async fn documents(database: &Database, arguments: &[&str]) -> Vec<(String, String, i64)> {
    let all = [&["documents", "--json"], arguments].concat();
    let document = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_string();
        (text("view"), text("tenant"), line["data"]["count"].as_i64().unwrap())
    };
    run(database, &all).await.unwrap().lines().map(document).collect()
}

/// Mallory's plugin lists the collection names of others first. That affects no other plugin, and
/// no error file shows mallory anything about them.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_name_that_one_tenant_uses_is_free_for_all_others() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    for (tenant, events) in [("acme", 2), ("globex", 3), ("other", 4)] {
        database.append(tenant, "s", &vec![json!({}); events]).await;
    }
    let names = ["scripted_log", "scripted_stream_log"];
    give(folder.path(), "mallory", "first", &listing("first", &names));
    let host = Host::start_in(&database, folder.path(), &[]);
    eventually("mallory's plugin runs", async || database.status("mallory/first").await.map(drop)).await;

    // The shared plugin handles all tenants' events, until tenants have their own plugins.
    let bytes = fs::read(component("scripted")).unwrap();
    place(folder.path(), "orders.wasm", &bytes);
    sandmill_tests::ledger::until_counted(&database, &["scripted_log"]).await;
    give(folder.path(), "acme", "orders", &bytes);
    give(folder.path(), "globex", "orders", &bytes);
    until_counted(&database, "scripted_log@acme", "acme/scripted", 2).await;
    until_counted(&database, "scripted_log@globex", "globex/scripted", 3).await;
    assert_eq!(
        owners(&database).await,
        [
            "(scripted_log,\"\",scripted)",
            "(scripted_log@acme,acme,acme/scripted)",
            "(scripted_log@globex,globex,globex/scripted)",
            "(scripted_log@mallory,mallory,mallory/first)",
            "(scripted_stream_log@mallory,mallory,mallory/first)",
        ]
    );
    let named: Vec<String> = (1..=5).map(|number| format!("(c{number}_1)")).collect();
    assert_eq!(tables(&database).await, named, "no table name comes from a tenant or a plugin");

    // A collection name selects the shared documents and those of all tenants, `--tenant` restricts
    // them, and a view name selects one collection.
    let line = |view: &str, tenant: &str, count: i64| (view.to_string(), tenant.to_string(), count);
    let shared = [line("scripted_log", "acme", 2), line("scripted_log", "globex", 3), line("scripted_log", "other", 4)];
    let own = [line("scripted_log@acme", "acme", 2), line("scripted_log@globex", "globex", 3)];
    assert_eq!(documents(&database, &["scripted_log"]).await, [&shared[..], &own].concat());
    let of_acme = documents(&database, &["scripted_log", "--tenant", "acme"]).await;
    assert_eq!(of_acme, [shared[0].clone(), own[0].clone()]);
    assert_eq!(documents(&database, &["scripted_log@globex"]).await, [own[1].clone()]);
    assert_eq!(documents(&database, &["scripted_log", "--limit", "4"]).await.len(), 4);
    let none = run(&database, &["documents", "orders"]).await.unwrap_err();
    assert!(
        none.contains("there is no collection `orders`; existing collections: scripted_log, scripted_log@acme, "),
        "{none}"
    );

    // Conflicts between mallory's own files are reported by mallory's names.
    give(folder.path(), "mallory", "second", &listing("first", &names[..1]));
    give(folder.path(), "mallory", "third", &listing("third", &names[..1]));
    let second = until_error(folder.path(), "mallory/second", "claims the processor id").await;
    assert!(
        second.starts_with("claims the processor id mallory/first, which mallory/first.wasm already has"),
        "{second}"
    );
    let third = until_error(folder.path(), "mallory/third", "collection scripted_log").await;
    assert!(third.contains("collection scripted_log belongs to processor mallory/first"), "{third}");
    host.stop().await;
}

/// The plugin's tables would fill the lock table that all transactions share.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_lists_thousands_of_collections_is_rejected_before_any_is_made() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let names = |count: usize| (0..count).map(|number| format!("hoard_{number}")).collect::<Vec<_>>();
    give(folder.path(), "mallory", "hoard", &listing("hoard", &names(2_500)));
    place(folder.path(), "hoard.wasm", &listing("hoard", &names(2_500)));
    place(folder.path(), "modest.wasm", &listing("modest", &names(32)));
    let host = Host::start_in(&database, folder.path(), &[]);
    let reason =
        "`describe` lists 2500 collections; limits.collections allows 32\nCorrect its answer and rebuild the plugin.\n";
    for plugin in ["mallory/hoard", "hoard"] {
        assert_eq!(until_error(folder.path(), plugin, "2500").await, reason);
    }
    eventually("the modest one runs", async || database.status("modest").await.map(drop)).await;
    assert_eq!(tables(&database).await.len(), 32);
    assert_eq!(rows(&database, "select id from sandmill.processors").await, ["(modest)"]);
    host.stop().await;
}

/// The bound on each plugin's collections would not bound a tenant with many plugins.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_collections_are_bounded_over_all_its_plugins() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    give(folder.path(), "acme", "one", &listing("one", &["a", "b", "c"]));
    let host = Host::start_in(&database, folder.path(), &["tenant-limits.collections=5", "tenants.rich.collections=6"]);
    eventually("the first plugin runs", async || database.status("acme/one").await.map(drop)).await;
    for tenant in ["acme", "globex", "rich"] {
        give(folder.path(), tenant, "two", &listing("two", &["x", "y", "z"]));
    }
    give(folder.path(), "rich", "three", &listing("three", &["a", "b", "c"]));
    let error = until_error(folder.path(), "acme/two", "collections over all its own plugins").await;
    assert!(error.contains("tenant acme has reached its limit of 5 collections over all its own plugins"), "{error}");
    assert!(error.contains("tenants.acme.collections or tenant-limits.collections"), "{error}");
    for processor in ["globex/two", "rich/two", "rich/three"] {
        eventually(&format!("{processor} runs"), async || database.status(processor).await.map(drop)).await;
    }
    let sql = "select tenant, count(*) from sandmill.collections group by 1 order by 1";
    assert_eq!(
        rows(&database, sql).await,
        ["(acme,3)", "(globex,3)", "(rich,6)"],
        "a rejected plugin leaves nothing behind"
    );
    assert_eq!(tables(&database).await.len(), 12);
    host.stop().await;
}

/// The bound also holds with another default isolation level of the database.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_registrations_do_not_exceed_their_tenants_bound() {
    let database = database().await;
    let name = database.db.connect("test").await.unwrap();
    let name: String = name.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let isolation = format!("alter database {name} set default_transaction_isolation = 'repeatable read'");
    database.db.connect("test").await.unwrap().batch_execute(&isolation).await.unwrap();
    let tenants = Tenants::new(&BTreeMap::new(), &Limits { collections: 5, ..Limits::default() });
    let acme = TenantId::parse("acme").unwrap();
    let registrations = (0..12).map(async |number| {
        let session = database.db.connect("test").await.unwrap();
        // They wait for each other without a timeout.
        session.batch_execute("set lock_timeout = 0").await.unwrap();
        let id = ProcessorId::parse(&format!("p{number}")).unwrap().owned_by(&acme);
        let spec = ProcessorSpec::projector(id, vec![CollectionName::parse(&format!("c{number}")).unwrap()]);
        let registration = Registration { spec: &spec, plugin: "p", digest: "d", adopts: false };
        register(&session, &tenants, registration).await.map_err(|error| error.to_string())
    });
    let outcomes = join_all(registrations).await;
    let refused: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(refused.len(), 7, "{refused:?}");
    assert!(refused.iter().all(|reason| reason.contains("has reached its limit of")), "{refused:?}");
    assert_eq!(rows(&database, "select count(*) from sandmill.collections").await, ["(5)"]);
    assert_eq!(tables(&database).await.len(), 5);
}

/// PostgreSQL silently cuts identifiers after 63 bytes, so two tenants could share a view.
#[tokio::test(flavor = "multi_thread")]
async fn views_whose_names_are_too_long_for_an_identifier_are_named_by_number() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let long = |last: char| format!("{}{last}", "x".repeat(63));
    let (name, events) = ("c".repeat(48), [3, 4]);
    for (tenant, events) in [long('a'), long('b')].iter().zip(events) {
        database.append(tenant, "s", &vec![json!({}); events]).await;
        give(folder.path(), tenant, "scripted", &fs::read(component("scripted")).unwrap());
        give(folder.path(), tenant, "long", &listing("long", &[&name]));
    }
    // 48 + 1 + 14 bytes are 63, the longest identifier.
    let (fits, does_not) = ("t".repeat(14), "u".repeat(15));
    give(folder.path(), &fits, "long", &listing("long", &[&name]));
    give(folder.path(), &does_not, "long", &listing("long", &[&name]));
    let host = Host::start_in(&database, folder.path(), &[]);
    let there = "select from sandmill.collections";
    eventually("all of them run", async || (rows(&database, there).await.len() == 6).then_some(())).await;
    let sql = "select view, number, tenant, name from sandmill.collections order by number";
    let session = database.db.connect("test").await.unwrap();
    for row in session.query(sql, &[]).await.unwrap() {
        let (view, number, tenant, name): (&str, i32, &str, &str) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let wanted = if tenant == fits { format!("{name}@{tenant}") } else { format!("{name}@#{number}") };
        assert_eq!(view, wanted);
        let there = "select 1 from pg_views where schemaname = 'public' and viewname = $1";
        assert!(session.query_opt(there, &[&view]).await.unwrap().is_some(), "{view}");
    }
    for (tenant, events) in [long('a'), long('b')].iter().zip(events) {
        until_counted(&database, "scripted_log", &format!("{tenant}/scripted"), events as i64).await;
    }
    host.stop().await;
}
