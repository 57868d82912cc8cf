// Roles that read one tenant's documents: the views in `sandmill_tenant`, and the documents that
// grants and the setting `sandmill.tenant` make visible there.

use super::*;

/// The result of a role's read of a view: each tenant with its number of documents, or the error.
async fn reads(session: &Session, view: &str) -> Result<Vec<(String, i64)>, String> {
    let sql = format!("select _partition, count(*) from sandmill_tenant.{view} group by 1 order by 1");
    let rows = session.query(&sql, &[]).await.map_err(|error| describe(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn only(tenant: &str, documents: i64) -> Result<Vec<(String, i64)>, String> {
    Ok(vec![(tenant.into(), documents)])
}

async fn choose(session: &Session, tenant: &str) {
    session.execute("select set_config('sandmill.tenant', $1, false)", &[&tenant]).await.unwrap();
}

async fn migrate(database: &Database, arguments: &[&str]) -> Value {
    object(&database.address, &[&["migrate", "--json"], arguments].concat()).await
}

/// A database in which `scripted` has handled events of two tenants.
async fn two_tenants() -> (Database, tempfile::TempDir) {
    let database = database().await;
    for tenant in ["acme", "globex"] {
        database.append(tenant, "s", &[json!({})]).await;
    }
    let folder = plugins(&["scripted"]);
    let arguments = ["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()];
    let (code, _, errors) = run(&database.address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");
    (database, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_reads_only_its_tenant_in_later_collections_and_generations_too() {
    let (database, folder) = two_tenants().await;
    let reader = session(&with_role(&database, "acme_portal").await).await;
    let admin = session(&database.address).await;
    assert!(reads(&reader, "scripted_log").await.unwrap_err().contains("permission denied"));
    let granted = migrate(&database, &["--grant-read", "acme_portal", "--tenant", "acme"]).await;
    let one = &granted["granted"][0];
    assert_eq!((&one["tenant"], &one["before"]), (&json!("acme"), &json!(false)), "{granted}");
    assert_eq!(reads(&reader, "scripted_log").await, only("acme", 1));

    // A later collection of the tenant, and one of another tenant.
    for tenant in ["acme", "globex"] {
        let own = folder.path().join(tenant);
        std::fs::create_dir(&own).unwrap();
        place(&own, "scripted.wasm", &std::fs::read(component("scripted")).unwrap());
    }
    let arguments = ["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()];
    let (code, _, errors) = run(&database.address, &arguments).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(reads(&reader, r#""scripted_log@acme""#).await, only("acme", 1));
    assert!(reads(&reader, r#""scripted_log@globex""#).await.unwrap_err().contains("permission denied"));

    // A later generation.
    admin
        .batch_execute(
            "select sandmill.make_documents_table(1, 2);
             update sandmill.collections set generation = 2 where number = 1;
             select sandmill.make_documents_view('scripted_log', 1, 2);
             insert into sandmill_documents.c1_2 (_id, data, _partition)
             select n::text, '{}', tenant from generate_series(1, 3) n, unnest(array['acme', 'globex']) tenant",
        )
        .await
        .unwrap();
    assert_eq!(reads(&reader, "scripted_log").await, only("acme", 3));
    let moved = admin.query_one("select count(*) from public.scripted_log", &[]).await.unwrap();
    assert_eq!(moved.get::<_, i64>(0), 6, "the view of all documents reads the same generation");

    // The grant decides, no matter what the session sets.
    choose(&reader, "globex").await;
    let refused = reads(&reader, "scripted_log").await.unwrap_err();
    assert!(refused.contains("the role acme_portal may not read documents of tenant globex"), "{refused}");
    choose(&reader, "acme").await;
    assert_eq!(reads(&reader, "scripted_log").await, only("acme", 3));
    assert_denied(
        &reader,
        &[
            "select * from public.scripted_log",
            "select * from sandmill_documents.c1_2",
            "select * from sandmill.role_grants",
            "select sandmill.tenant_of('postgres')",
            "delete from sandmill_tenant.scripted_log",
            "create view sandmill_tenant.mine as select 1",
        ],
    )
    .await;

    let revoked = migrate(&database, &["--revoke-read", "acme_portal", "--tenant", "acme"]).await;
    let one = &revoked["revoked"][0];
    assert_eq!((&one["before"], &one["stillAllowed"]), (&json!(true), &json!(false)), "{revoked}");
    let views = ["select * from sandmill_tenant.scripted_log", r#"select * from sandmill_tenant."scripted_log@acme""#];
    assert_denied(&reader, &views).await;
    admin
        .batch_execute(
            "drop view sandmill_tenant.scripted_log; select sandmill.make_documents_view('scripted_log', 1, 2)",
        )
        .await
        .unwrap();
    assert_denied(&reader, &views).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_read_several_tenants_chooses_one() {
    let (database, _folder) = two_tenants().await;
    let app = session(&with_role(&database, "many_portals").await).await;
    migrate(&database, &["--grant-read", "many_portals", "--tenant", "acme", "--tenant", "globex"]).await;
    let undecided = reads(&app, "scripted_log").await.unwrap_err();
    assert!(
        undecided.contains("none is selected") && undecided.contains("set_config('sandmill.tenant'"),
        "{undecided}"
    );
    for tenant in ["acme", "globex"] {
        choose(&app, tenant).await;
        assert_eq!(reads(&app, "scripted_log").await, only(tenant, 1));
    }
    choose(&app, "initech").await;
    assert!(reads(&app, "scripted_log").await.unwrap_err().contains("may not read documents of tenant initech"));

    // Revoking one grant keeps the rights that another one needs.
    migrate(&database, &["--revoke-read", "many_portals", "--tenant", "globex"]).await;
    choose(&app, "").await;
    assert_eq!(reads(&app, "scripted_log").await, only("acme", 1));
    // A grant for all tenants, and its revocation together with all grants for individual ones.
    migrate(&database, &["--grant-read", "many_portals"]).await;
    choose(&app, "initech").await;
    assert_eq!(reads(&app, "scripted_log").await, Ok(vec![]), "a role that reads all documents may choose any tenant");
    let revoke = ["migrate", "--revoke-read", "many_portals", "--tenant", "globex"];
    let (code, printed, errors) = run(&database.address, &revoke).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.contains("may still read") && printed.contains("has a grant for all tenants"), "{printed}");
    let revoked = migrate(&database, &["--revoke-read", "many_portals"]).await;
    assert_eq!(revoked["revoked"][0]["stillAllowed"], json!(false), "{revoked}");
    let views = ["select * from sandmill_tenant.scripted_log", "select * from public.scripted_log"];
    assert_denied(&app, &views).await;
    let stored = session(&database.address).await.query("select from sandmill.role_grants", &[]).await.unwrap();
    assert!(stored.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_role_reads_what_the_role_reads() {
    let (database, _folder) = two_tenants().await;
    let member = session(&with_role(&database, "member").await).await;
    execute(&database, "create role acme_readers; grant acme_readers to member").await;
    migrate(&database, &["--grant-read", "acme_readers", "--tenant", "acme"]).await;
    assert_eq!(reads(&member, "scripted_log").await, only("acme", 1));
    let revoked = migrate(&database, &["--revoke-read", "member", "--tenant", "acme"]).await;
    let one = &revoked["revoked"][0];
    assert_eq!((&one["before"], &one["stillAllowed"]), (&json!(false), &json!(true)), "{revoked}");
    // The owner of the tables may read all tenants, so it must choose one.
    let admin = session(&database.address).await;
    assert!(reads(&admin, "scripted_log").await.unwrap_err().contains("none is selected"));
    choose(&admin, "globex").await;
    assert_eq!(reads(&admin, "scripted_log").await, only("globex", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_and_operators_of_a_reader_see_no_rows_of_other_tenants() {
    let (database, _folder) = two_tenants().await;
    let address = with_role(&database, "curious").await;
    execute(&database, "create schema curious authorization curious").await;
    migrate(&database, &["--grant-read", "curious", "--tenant", "acme"]).await;
    let reader = session(&address).await;
    // A function so cheap that the planner would call it first, and an operator that replaces `=`.
    reader
        .batch_execute(
            "create function curious.leak(tenant text) returns boolean language plpgsql cost 0.0001 as $$
             begin
               if tenant <> 'acme' then raise exception 'saw %', tenant; end if;
               return true;
             end $$;
             create function curious.always(text, text) returns boolean language sql as 'select true';
             create operator curious.= (function = curious.always, leftarg = text, rightarg = text);
             set search_path = curious, pg_catalog",
        )
        .await
        .unwrap();
    let leaking = "select _id from sandmill_tenant.scripted_log where curious.leak(_partition)";
    assert_eq!(reader.query(leaking, &[]).await.unwrap().len(), 1);
    assert_eq!(reads(&reader, "scripted_log").await, only("acme", 1));
    choose(&reader, "globex").await;
    reads(&reader, "scripted_log").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_looked_up_by_id_with_the_tables_key() {
    let (database, _folder) = two_tenants().await;
    let reader = session(&with_role(&database, "looks_up").await).await;
    migrate(&database, &["--grant-read", "looks_up", "--tenant", "acme"]).await;
    let admin = session(&database.address).await;
    let table = database.table("scripted_log").await;
    let fill = format!(
        "insert into {table} (_id, data, _partition)
         select n::text, '{{}}', tenant from generate_series(1, 5000) n, unnest(array['acme', 'globex']) tenant;
         analyze {table}"
    );
    admin.batch_execute(&fill).await.unwrap();
    let plan = "explain (costs off) select data, _version from sandmill_tenant.scripted_log where _id = '77' limit 1";
    let plan: Vec<String> = reader.query(plan, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let condition = plan.iter().find(|line| line.contains("Index Cond:")).unwrap_or_else(|| panic!("{plan:#?}"));
    assert!(condition.contains("_partition =") && condition.contains("_id = '77'"), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.contains("Seq Scan")), "{plan:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_option_tenant_requires_a_grant_or_revocation_to_read() {
    let database = database().await;
    with_role(&database, "no_tenant").await;
    for (arguments, message) in [
        (&["migrate", "--tenant", "acme"][..], "--tenant requires --grant-read or --revoke-read"),
        (&["migrate", "--grant-append", "no_tenant", "--tenant", "acme"], "--tenant requires --grant-read"),
        (&["migrate", "--grant-read", "no_tenant", "--tenant", "a b"], "a b"),
    ] {
        let (code, _, errors) = run(&database.address, arguments).await;
        assert!(code == Some(2) && errors.contains(message), "{arguments:?}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_an_older_store_read_by_tenant_after_a_migration() {
    let database = migrated_by(before("0020_document_views")).await;
    let reader = session(&with_role(&database, "old_reader").await).await;
    execute(
        &database,
        "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
         values ('p', 'p', '', '', '', 'tenant', 1);
         select sandmill.ensure_collection('', 'things', 'p', false, 0), sandmill.ensure_collection('', 'others', 'p', false, 0);
         insert into sandmill_documents.c1_1 (_id, data, _partition) values ('1', '{}', 'acme'), ('1', '{}', 'globex');
         insert into sandmill.role_grants (role, permission) values ('old_reader', 'read');
         grant select on public.things to old_reader;
         drop view public.others; drop table sandmill_documents.c2_1",
    )
    .await;
    object(&database.address, &["migrate", "--json"]).await;
    choose(&reader, "acme").await;
    assert_eq!(reads(&reader, "things").await, only("acme", 1));
    reader.batch_execute("select * from public.things").await.unwrap();
}
