// Migration of an old database, with ids joined by hyphens and collections shared by a family.

use sandmill::{
    db::migrate::{MIGRATIONS, migrate},
    model::{
        ids::{CollectionName, ProcessorId},
        spec::ProcessorSpec,
    },
    processor::registration::{Registration, register},
    tenants::{Limits, Tenants},
};
use sandmill_tests::{empty_database, host::root};

use super::*;

/// Rows of old hosts. The plugin `p--acme` of `globex` and the plugin `p` of `acme--globex` claimed
/// the same id. `globex` had it first, and `acme--globex` handled one event under it.
const BEFORE: &str = r#"
insert into sandmill.processors (id, plugin, digest, version, partition_by, read_model_version, family, tenant, handled) values
  ('carts', 'carts', 'd0', '1', 'tenant', 1, 'carts', '', 9),
  ('p--acme--globex', 'globex/x', 'd1', '1', 'tenant', 1, 'p--acme', 'globex', 7),
  ('orders--acme', 'acme/orders', 'd2', '1', 'tenant', 1, 'orders', 'acme', 5),
  ('orders--acme-eu-0badcafe', 'acme.eu/orders', 'd3', '1', 'tenant', 1, 'orders', 'acme.eu', 6);
insert into sandmill.cursors (processor, bucket, progress, fence)
  select p.id, bucket, '100:100:||', 'token of ' || p.id from sandmill.processors p, generate_series(0, 15) bucket;
insert into sandmill.exceptions (processor, bucket, tenant, lane_key, progress, state, reason) values
  ('p--acme--globex', 3, 'globex', 'globex', '90:90:||', 'blocked', 'trap'),
  ('p--acme--globex', 4, 'acme--globex', 'acme--globex', '90:90:||', 'blocked', 'trap'),
  ('carts', 5, 'acme', 'acme', '90:90:||', 'blocked', 'trap');
insert into sandmill.pauses (processor, tenant) values ('orders--acme', ''), ('orders--acme', 'acme'), ('carts', '');
insert into sandmill.dead_letters (processor, tenant, lane_key, position, event_id, class, message, digest, attempts) values
  ('orders--acme-eu-0badcafe', 'acme.eu', 'acme.eu', 4, 'e4', 'odd', 'm', 'd3', 1), ('carts', 'acme', 'acme', 4, 'e4', 'odd', 'm', 'd0', 1);
insert into sandmill.sheds (processor, tenant, lane_key, from_progress, to_progress, events) values
  ('orders--acme', 'acme', 'acme', '80:80:||', '90:90:||', 12);
insert into sandmill.tenant_usage (tenant, error_processor, error) values ('globex', 'p--acme--globex', 'trap'), ('acme', 'carts', 'trap');
insert into sandmill.plugins (plugin, processor, digest) values
  ('carts', 'carts', 'd0'), ('globex/x', 'p--acme--globex', 'd1'), ('acme--globex/y', 'p--acme--globex', 'd9'), ('acme/orders', 'orders--acme', 'd2');
insert into sandmill.plugin_versions (plugin, processor, digest, event) values
  ('globex/x', 'p--acme--globex', 'd1', 'started'), ('acme--globex/y', 'p--acme--globex', 'd9', 'started'), ('carts', 'carts', 'd0', 'started');
select sandmill.ensure_collection(name, owner) from (values ('carts', 'carts'), ('prices', 'p--acme--globex'), ('orders', 'orders--acme'), ('solo', 'orders--acme'))
  as made (name, owner);
insert into sandmill_documents.carts_1 (_partition, _id, data, _version) values ('acme', 'a', '{"n":1}', 1), ('globex', 'a', '{"n":2}', 2);
insert into sandmill_documents.prices_1 (_partition, _id, data) values ('globex', 'a', '{"n":3}'), ('acme--globex', 'a', '{"n":4}');
insert into sandmill_documents.orders_1 (_partition, _id, data, metadata, _version, _archived, _created) values
  ('acme', 'a', '{"n":5}', '{"lane":"s"}', 3, true, '2020-01-02T03:04:05Z'), ('acme', 'b', '{"n":6}', '{}', 1, false, now()),
  ('acme.eu', 'a', '{"n":7}', '{}', 1, false, now());
insert into sandmill_documents.solo_1 (_partition, _id, data) values ('acme', 'a', '{"n":8}');
"#;

/// A database with the first seven migrations.
async fn old_database() -> Database {
    let database = empty_database().await;
    let session = database.db.connect("test").await.unwrap();
    for migration in MIGRATIONS.iter().take_while(|migration| migration.version() <= 7) {
        if migration.version() == 1 {
            let history = fs::read_to_string(root().join("host/src/db/migrate/history.sql")).unwrap();
            session.batch_execute(&history).await.unwrap();
        }
        session.batch_execute(migration.sql).await.unwrap();
        let note = "insert into sandmill.migrations (version, name, checksum) values ($1, $2, $3)";
        session.execute(note, &[&migration.version(), &migration.name, &migration.checksum()]).await.unwrap();
    }
    session.batch_execute(BEFORE).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn old_ids_and_shared_collections_become_each_tenants_own() {
    let database = old_database().await;
    let mut session = database.db.connect("test").await.unwrap();
    migrate(&mut session).await.unwrap();

    let find = async |sql: &str| rows(&database, sql).await;
    let processors = "select id, kind, tenant, family, (select sum(handled) from sandmill.cursors where processor = id)
                      from sandmill.processors order by id";
    // A processor with a dead letter has handled one event less than it had counted.
    assert_eq!(
        find(processors).await,
        [
            "(acme.eu/orders,projector,acme.eu,orders,5)",
            "(acme/orders,projector,acme,orders,5)",
            "(carts,projector,\"\",carts,8)",
            "(globex/p--acme,projector,globex,p--acme,7)",
        ]
    );
    assert_eq!(
        find("select processor, fence, share, first_bucket, last_bucket from sandmill.cursors order by 1").await,
        [
            "(acme.eu/orders,\"token of orders--acme-eu-0badcafe\",0,0,15)",
            "(acme/orders,\"token of orders--acme\",0,0,15)",
            "(carts,\"token of carts\",0,0,15)",
            "(globex/p--acme,\"token of p--acme--globex\",0,0,15)",
        ]
    );
    // The lane of the other tenant has no processor under this id.
    assert_eq!(
        find("select processor, tenant from sandmill.lane_checkpoints order by 1").await,
        ["(carts,acme)", "(globex/p--acme,globex)"]
    );
    assert_eq!(
        find("select processor, tenant from sandmill.pauses order by 1, 2").await,
        ["(acme/orders,\"\")", "(acme/orders,acme)", "(carts,\"\")"]
    );
    let letters = "select processor, tenant, position from sandmill.dead_letters order by 1";
    assert_eq!(find(letters).await, ["(acme.eu/orders,acme.eu,4)", "(carts,acme,4)"]);
    assert_eq!(find("select processor, events from sandmill.sheds").await, ["(acme/orders,12)"]);
    let errors = "select tenant, error_processor from sandmill.tenant_usage order by 1";
    assert_eq!(find(errors).await, ["(acme,carts)", "(globex,globex/p--acme)"]);
    assert_eq!(
        find("select plugin, processor from sandmill.plugins order by 1").await,
        ["(acme--globex/y,\"\")", "(acme/orders,acme/orders)", "(carts,carts)", "(globex/x,globex/p--acme)"]
    );
    assert_eq!(
        find("select plugin, processor from sandmill.plugin_versions order by id").await,
        ["(globex/x,globex/p--acme)", "(acme--globex/y,\"\")", "(carts,carts)"]
    );

    // Numbered in order of their names and tenants. Documents of a tenant without such a processor
    // are kept.
    assert_eq!(
        find("select number, tenant, name, processor, kept_from, view from sandmill.collections order by number").await,
        [
            "(1,\"\",carts,carts,\"\",carts)",
            "(2,acme,orders,acme/orders,\"\",orders@acme)",
            "(3,acme.eu,orders,acme.eu/orders,\"\",orders@acme.eu)",
            "(4,acme--globex,prices,,acme--globex/p--acme,prices@acme--globex)",
            "(5,globex,prices,globex/p--acme,\"\",prices@globex)",
            "(6,acme,solo,acme/orders,\"\",solo@acme)",
        ]
    );
    let names = "select relname from pg_class where relnamespace = 'sandmill_documents'::regnamespace and relkind = 'r' order by relname";
    assert_eq!(find(names).await, ["(c1_1)", "(c2_1)", "(c3_1)", "(c4_1)", "(c5_1)", "(c6_1)"]);
    let views = "select viewname from pg_views where schemaname = 'public' order by viewname collate \"C\"";
    let named =
        ["(carts)", "(orders@acme)", "(orders@acme.eu)", "(prices@acme--globex)", "(prices@globex)", "(solo@acme)"];
    assert_eq!(find(views).await, named);
    let documents = async |view: &str| {
        find(&format!("select _partition, _id, data->>'n', _version from public.\"{view}\" order by 1, 2")).await
    };
    assert_eq!(documents("carts").await, ["(acme,a,1,1)", "(globex,a,2,2)"]);
    assert_eq!(documents("orders@acme").await, ["(acme,a,5,3)", "(acme,b,6,1)"]);
    assert_eq!(documents("orders@acme.eu").await, ["(acme.eu,a,7,1)"]);
    assert_eq!(documents("prices@globex").await, ["(globex,a,3,1)"]);
    assert_eq!(documents("prices@acme--globex").await, ["(acme--globex,a,4,1)"]);
    assert_eq!(documents("solo@acme").await, ["(acme,a,8,1)"]);
    let whole = "select metadata, _archived, _created at time zone 'UTC' from sandmill_documents.c2_1 where _id = 'a'";
    assert_eq!(find(whole).await, [r#"("{""lane"": ""s""}",t,"2020-01-02 03:04:05")"#]);

    // A host's next registrations change nothing.
    let tenants = Tenants::new(&Default::default(), &Limits::default());
    for (id, collections) in
        [("carts", &["carts"][..]), ("acme/orders", &["orders", "solo"]), ("globex/p--acme", &["prices"])]
    {
        let collections = collections.iter().map(|name| CollectionName::parse(name).unwrap()).collect();
        let spec = ProcessorSpec::projector(ProcessorId::parse(id).unwrap(), collections);
        let registration = Registration { spec: &spec, plugin: "p", digest: "d", adopts: false };
        register(&session, &tenants, registration).await.unwrap();
    }
    assert_eq!(find("select from sandmill.collections").await.len(), 6);
    assert_eq!(find(names).await.len(), 6);
}
