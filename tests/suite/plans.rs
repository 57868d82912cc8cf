//! Plans of the statements that read the log: each uses its index and reads about as many rows as
//! it returns.
//!
//! A bad plan gives right results, so no other test notices it, but it can make a host read its
//! whole log at every poll. The store here has old large transactions and recent small ones. Every
//! statement is checked before the table was analysed, after that, and for a tenant that is missing
//! in the statistics, each time with custom and generic plans.

use sandmill::db::Session;
use sandmill_tests::database;
use serde_json::Value;

const HISTORY: i64 = 150_000;
/// Events in one old transaction, and in one recent transaction.
const LARGE: i64 = 5_000;
const SMALL: i64 = 5;
const EVENTS: i64 = 200_000;
const TENANTS: i64 = 50;

macro_rules! statement {
    ($name:literal) => {
        statement!("source/native", $name)
    };
    ($folder:literal, $name:literal) => {
        include_str!(concat!("../../host/src/", $folder, "/", $name, ".sql"))
    };
}

/// One execution of a statement, with its bounds.
struct Case {
    name: &'static str,
    sql: &'static str,
    types: &'static str,
    params: String,
    index: &'static str,
    /// Maximum number of rows of the log that it may read.
    reads: i64,
}

impl Case {
    fn narrow(from: &str, limit: i64, reads: i64) -> Case {
        let params = format!("'{from}', {limit}, 2048");
        let (name, sql) = ("narrow", statement!("narrow"));
        Case { name, sql, types: "text, bigint, int", params, index: "events_xid_position", reads }
    }

    fn floor(from: &str, to: &str, reads: i64) -> Case {
        let params = format!("'{from}', '{to}'");
        let (name, sql) = ("floor", statement!("floor"));
        Case { name, sql, types: "text, text", params, index: "events_xid_position", reads }
    }

    fn wide(from: &str, to: &str, after: i64, limit: i64, reads: i64) -> Case {
        let params = format!("'{from}', '{to}', {after}, {limit}, 2048");
        let (name, sql) = ("wide", statement!("wide"));
        Case { name, sql, types: "text, text, bigint, bigint, int", params, index: "events_pkey", reads }
    }

    fn lag(from: &str, last: i64, limit: i64, reads: i64) -> Case {
        let params = format!("array['{from}'], array['{from}'], array[{last}], {limit}");
        let (name, sql) = ("lag", statement!("lag"));
        Case { name, sql, types: "text[], text[], bigint[], bigint", params, index: "events_xid_position", reads }
    }

    fn tenant_lag(from: &str, tenant: &str, limit: i64, reads: i64) -> Case {
        let progress = format!("array['{from}'], array['{from}'], array[{}]", i64::MIN);
        let params = format!("array['{tenant}'], array[1], {progress}, {limit}");
        let (name, sql) = ("tenant_lag", statement!("tenant_lag"));
        let types = "text[], bigint[], text[], text[], bigint[], bigint";
        Case { name, sql, types, params, index: "events_tenant_xid", reads }
    }

    fn last(up_to: i64, limit: i64, reads: i64) -> Case {
        let params = format!("{up_to}, array['Happened'], 5000, {limit}, 2048");
        let (name, sql) = ("last", statement!("last"));
        Case { name, sql, types: "bigint, text[], bigint, bigint, int", params, index: "events_pkey", reads }
    }

    fn tenant_last(tenant: &str, up_to: i64, limit: i64, reads: i64) -> Case {
        let params = format!("{up_to}, array['Happened'], 5000, {limit}, '{tenant}', 2048");
        let (name, sql) = ("tenant_last", statement!("tenant_last"));
        let types = "bigint, text[], bigint, bigint, text, int";
        Case { name, sql, types, params, index: "events_tenant_position", reads }
    }

    fn tenant_floor(from: &str, to: &str, tenant: &str, reads: i64) -> Case {
        let params = format!("'{from}', '{to}', '{tenant}'");
        let (name, sql) = ("tenant_floor", statement!("tenant_floor"));
        Case { name, sql, types: "text, text, text", params, index: "events_tenant_xid", reads }
    }

    fn headers(positions: &str, reads: i64) -> Case {
        let (name, sql) = ("headers", statement!("store", "headers"));
        Case { name, sql, types: "bigint[]", params: positions.into(), index: "events_pkey", reads }
    }

    fn tenant_page(from: &str, to: &str, tenant: &str, after: i64, limit: i64, reads: i64) -> Case {
        let params = format!("'{from}', '{to}', '{tenant}', {after}, {}, {limit}, 2048", i64::MAX);
        let (name, sql) = ("tenant_page", statement!("tenant_page"));
        let types = "text, text, text, bigint, bigint, bigint, int";
        Case { name, sql, types, params, index: "events_tenant_position", reads }
    }

    /// Executes the statement, and asserts that it uses its index and reads few rows and blocks.
    async fn check(&self, reader: &Session, circumstances: &str) {
        let sql = format!(
            "deallocate all; prepare statement ({}) as {}; \
             explain (analyze, buffers, timing off, format json) execute statement ({})",
            self.types, self.sql, self.params
        );
        let rows = reader.simple_query(&sql).await.unwrap();
        let text = rows.iter().find_map(|message| match message {
            sandmill::db::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Value = serde_json::from_str(text.unwrap()).unwrap();
        let root = &plan[0]["Plan"];
        let mut cost = Cost::default();
        cost.add(root, self.index);
        let blocks = number(root, "Shared Hit Blocks") + number(root, "Shared Read Blocks");
        let report = format!("{} ({}), {circumstances}: {cost:?}, {blocks} blocks\n{plan:#}", self.name, self.params);
        assert!(cost.elsewhere.is_empty(), "does not use only {}: {report}", self.index);
        assert!(cost.read <= self.reads, "reads more than {} rows: {report}", self.reads);
        // Each row may lie in a different block, and a few more are needed to find the first.
        assert!(blocks <= 40 + self.reads * 3 / 2, "reads too many blocks: {report}");
    }
}

/// The work of a plan.
#[derive(Debug, Default)]
struct Cost {
    /// Rows of the log that it read.
    read: i64,
    /// Scans other than of the expected index, and sorts.
    elsewhere: Vec<String>,
}

impl Cost {
    /// Adds the work of a plan's node and of the nodes below it.
    fn add(&mut self, node: &Value, index: &str) {
        let kind = node["Node Type"].as_str().unwrap();
        if kind.contains("Sort") {
            self.elsewhere.push(kind.into());
        }
        if node["Relation Name"] == "events" {
            if node["Index Name"] == index {
                let each = number(node, "Actual Rows")
                    + number(node, "Rows Removed by Filter")
                    + number(node, "Rows Removed by Index Recheck");
                self.read += each * number(node, "Actual Loops");
            } else {
                self.elsewhere.push(format!("{kind} {}", node["Index Name"]));
            }
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.add(child, index);
        }
    }
}

fn number(node: &Value, key: &str) -> i64 {
    node[key].as_f64().unwrap_or(0.0) as i64
}

/// Uses up this many xids and returns the first.
async fn use_up(writer: &Session, xids: i64) -> i64 {
    let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let first = writer.query_one(sql, &[]).await.unwrap().get(0);
    let sql = format!("do $$ begin for i in 1..{xids} loop perform pg_current_xact_id(); commit; end loop; end $$");
    writer.batch_execute(&sql).await.unwrap();
    first
}

#[tokio::test]
async fn every_statement_uses_its_index_and_reads_only_what_it_returns() {
    let database = database().await;
    let writer = database.db.connect("test").await.unwrap();
    // The test decides when the table is analysed.
    let sql = "alter table sandmill.events set (autovacuum_enabled = off); set synchronous_commit = off";
    writer.batch_execute(sql).await.unwrap();
    let large = HISTORY / LARGE;
    let small = (EVENTS - HISTORY) / SMALL;
    let first = use_up(&writer, large + small + 1).await;
    let sql = "insert into sandmill.events (tenant, stream, version, type, data, xid)
               select 'tenant-' || g % $5::bigint, 'stream-' || g % 1000, 1 + g / 1000, 'Happened', '{\"some\":\"data of a usual length\"}',
                      (case when g < $1::bigint then $2::bigint + g / $3::bigint
                       else $2 + $1 / $3 + (g - $1) / $4::bigint end)::text::xid8
               from generate_series(0, $6::bigint - 1) g";
    writer.execute(sql, &[&HISTORY, &first, &LARGE, &SMALL, &TENANTS, &EVENTS]).await.unwrap();

    let end = first + large + small;
    let to = format!("{end}:{end}:");
    // Snapshots: 100 small transactions ago, the same with two transactions that were running then,
    // and half of the old transactions ago.
    let lately = format!("{0}:{0}:", end - 100);
    let running = format!("{0}:{1}:{0},{2}", first + 20, end - 100, end - 1_000);
    let long_ago = format!("{0}:{0}:", first + large / 2);
    let (new, tenants_new) = (100 * SMALL, 100 * SMALL / TENANTS);
    let since = EVENTS - HISTORY / 2;
    let cases = [
        Case::narrow(&lately, 1_000, new),
        Case::narrow(&running, 10_000, new + LARGE + SMALL),
        Case::narrow(&long_ago, 1_001, 1_001),
        Case::narrow(&to, 1_001, 0),
        Case::floor(&lately, &to, new),
        Case::floor(&running, &to, new + LARGE + SMALL),
        Case::floor(&long_ago, &to, since),
        Case::wide("1:1:", &to, 0, 1_000, 1_000),
        Case::wide(&long_ago, &to, HISTORY / 2, 1_000, 1_000),
        Case::wide(&lately, &to, EVENTS - new, 1_000, new),
        Case::tenant_floor(&lately, &to, "tenant-7", tenants_new),
        Case::tenant_floor(&running, &to, "tenant-7", tenants_new + 2),
        Case::tenant_floor(&long_ago, &to, "tenant-7", since / TENANTS),
        Case::tenant_floor(&running, &to, "nobody", 0),
        Case::lag(&lately, i64::MIN, 100_000, new),
        Case::lag(&running, i64::MIN, 100_000, new + LARGE + SMALL),
        Case::lag(&long_ago, i64::MIN, 1_000, 1_000),
        Case::tenant_lag(&lately, "tenant-7", 100_000, tenants_new),
        Case::tenant_lag(&running, "tenant-7", 100_000, tenants_new + (LARGE + SMALL) / TENANTS + 2),
        Case::tenant_lag(&long_ago, "tenant-7", 1_000, 1_000),
        Case::tenant_lag(&running, "nobody", 100_000, 0),
        Case::last(i64::MAX, 100, 100),
        Case::last(HISTORY / 2, 10_000, 5_000),
        Case::tenant_last("tenant-7", i64::MAX, 100, 100),
        Case::tenant_last("tenant-7", HISTORY / 2, 10_000, 5_000),
        Case::tenant_last("nobody", i64::MAX, 100, 0),
        Case::tenant_page("1:1:", &to, "tenant-7", 0, 1_000, 1_000),
        Case::tenant_page(&long_ago, &to, "tenant-7", HISTORY / 2, 1_000, 1_000),
        Case::tenant_page(&lately, &to, "tenant-7", EVENTS - new, 1_000, tenants_new),
        Case::tenant_page("1:1:", &to, "nobody", 0, 1_000, 0),
        Case::headers("array[7, 150000, 1000000]", 3),
    ];
    check_all(&database, &cases, "never analysed").await;

    writer.batch_execute("analyze sandmill.events").await.unwrap();
    check_all(&database, &cases, "analysed").await;

    // A new tenant is imported after the table was analysed.
    let import = use_up(&writer, 2).await;
    let sql = "insert into sandmill.events (tenant, stream, version, type, data, xid)
               select 'new', 'stream', g, 'Happened', '{}', $1::bigint::text::xid8 from generate_series(1, 20000) g";
    writer.execute(sql, &[&import]).await.unwrap();
    let (before, after) = (format!("{import}:{import}:"), format!("{0}:{0}:", import + 1));
    let cases = [
        Case::tenant_floor("1:1:", &after, "new", 20_000),
        Case::tenant_floor(&after, &after, "new", 0),
        Case::tenant_floor(&before, &after, "tenant-7", 0),
        Case::tenant_page("1:1:", &after, "new", EVENTS, 100, 100),
        Case::tenant_last("new", i64::MAX, 100, 100),
        Case::tenant_page(&before, &after, "tenant-7", EVENTS, 100, 0),
        Case::floor(&before, &after, 20_000),
    ];
    check_all(&database, &cases, "a tenant that is missing in the statistics").await;
}

async fn check_all(database: &sandmill_tests::Database, cases: &[Case], circumstances: &str) {
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let reader = database.db.connect("test").await.unwrap();
        reader.execute(statement!("session"), &[]).await.unwrap();
        reader.batch_execute(&format!("set plan_cache_mode = {mode}")).await.unwrap();
        for case in cases {
            case.check(&reader, &format!("{circumstances}, {mode}")).await;
        }
    }
}
