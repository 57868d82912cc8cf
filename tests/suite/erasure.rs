// The tables that hold a tenant's data. Each is keyed by tenant, and `docs/questions.md` says how
// its rows are erased.

use std::collections::BTreeMap;

use sandmill_tests::{database, host::root};

/// What the rows of a table say about tenants.
enum Data {
    /// Each row belongs to the tenant in the column `tenant`, or to all if that is empty.
    Tenants,
    /// Each row belongs to a plugin. Its name, in this column, begins with the tenant that owns it.
    Plugins(&'static str),
    /// Each row belongs to a processor, in this column. It is deleted with the processor, and a
    /// tenant's own processors are removed first.
    Processors(&'static str),
    /// No row belongs to a tenant, for this reason.
    Nobodys(&'static str),
}

use Data::{Nobodys, Plugins, Processors, Tenants};

/// Every table of the schema `sandmill`. A new one is added here, and to the answer about erasing a
/// tenant if it holds a tenant's data.
const TABLES: [(&str, Data); 22] = [
    ("audit", Tenants),
    ("collections", Tenants),
    ("components", Nobodys("bytes of plugin versions, deleted with the last row that names them")),
    ("cursors", Processors("processor")),
    ("dead_letters", Tenants),
    ("events", Tenants),
    ("folder_problems", Nobodys("the plugins folder as a host last saw it, replaced at each change")),
    ("generations", Processors("processor")),
    ("lane_checkpoints", Tenants),
    ("migrations", Nobodys("the history of the schema")),
    ("parked_streams", Tenants),
    ("pauses", Tenants),
    ("plugin_holds", Plugins("plugin")),
    ("plugin_versions", Plugins("plugin")),
    ("plugins", Plugins("plugin")),
    ("processors", Tenants),
    ("retained_versions", Plugins("plugin")),
    ("role_grants", Tenants),
    ("sheds", Tenants),
    ("store", Nobodys("one row of settings")),
    ("streams", Tenants),
    ("tenant_usage", Tenants),
];

/// The tables whose rows are not deleted by a statement of their own, and the words of
/// `docs/questions.md` about what deletes them.
const ERASED_BY: [(&str, &str); 4] = [
    ("collections", "`sandmill processors remove acme/ID --drop-documents --yes`"),
    ("processors", "`sandmill processors remove acme/ID --drop-documents --yes`"),
    ("retained_versions", "delete from sandmill.plugins where starts_with(plugin, 'acme/');"),
    ("role_grants", "`sandmill migrate --revoke-read ROLE --tenant acme`"),
];

/// The columns of the tables of a schema.
async fn columns(schema: &str) -> BTreeMap<String, Vec<String>> {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let sql = "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
               values ('p', 'p', '', '', '', 'tenant', 1);
               select sandmill.ensure_collection('', 'things', 'p', false, 0);
               select sandmill.ensure_collection('acme', 'things', 'p', false, 10)";
    session.batch_execute(sql).await.unwrap();
    let sql = "select c.relname::text, array_agg(a.attname::text order by a.attnum)
               from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'p', 'f', 'm')
               group by c.relname";
    let rows = session.query(sql, &[&schema]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn every_table_with_a_tenants_data_is_keyed_by_tenant() {
    let found = columns("sandmill").await;
    let listed: Vec<&str> = TABLES.iter().map(|(table, _)| *table).collect();
    let tables: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(tables, listed, "each table is listed here, with what its rows say about tenants");
    for (table, data) in TABLES {
        let has = |column: &str| found[table].iter().any(|name| name == column);
        match data {
            Tenants => assert!(has("tenant"), "{table} has no column `tenant`"),
            Plugins(key) | Processors(key) => {
                assert!(has(key) && !has("tenant"), "{table} is keyed by its column `{key}` alone")
            }
            Nobodys(why) => assert!(!has("tenant"), "{table} has a column `tenant`, but no tenant's data: {why}"),
        }
    }
    // One table holds the documents of all tenants of a collection.
    let documents = columns("sandmill_documents").await;
    assert_eq!(documents.len(), 2);
    for (table, columns) in documents {
        assert!(columns.iter().any(|name| name == "_partition"), "{table} has no column `_partition`: {columns:?}");
    }
}

#[test]
fn the_answer_about_erasing_a_tenant_names_every_table() {
    let page = std::fs::read_to_string(root().join("docs/questions.md")).unwrap();
    let answer = page.split("\n## ").find(|section| section.starts_with("How do I erase a tenant?")).unwrap();
    for (table, data) in TABLES {
        let deleted_by = match data {
            Tenants => format!("delete from sandmill.{table} where tenant = 'acme';"),
            Plugins(key) => format!("delete from sandmill.{table} where starts_with({key}, 'acme/');"),
            Processors(_) | Nobodys(_) => continue,
        };
        let other = ERASED_BY.iter().find(|(other, _)| *other == table).map(|(_, words)| (*words).to_owned());
        let words = other.unwrap_or(deleted_by);
        assert!(answer.contains(&words), "sandmill.{table}: the answer does not contain {words}");
    }
}
