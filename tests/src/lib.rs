//! The test harness: one private PostgreSQL server per test process, one migrated database per
//! test.
//!
//! A test has its [`database`] to itself, so tests run concurrently and need no cleanup. Databases
//! are copies of a template that is migrated once, which costs some ten milliseconds each. The
//! server ends with the test process, even if that is killed. A test that stops or crashes the
//! server starts its own with [`Embedded::start`].

pub mod calls;
pub mod conformance;
pub mod examples;
pub mod follower;
pub mod handmade;
pub mod host;
pub mod ledger;
pub mod native;
pub mod random;
pub mod writers;

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use sandmill::db::{
    Db,
    embedded::{Embedded, Options},
    migrate,
};
use tokio::sync::OnceCell;

/// Begins a transaction that may be idle for any time. Otherwise a session of [`Db`] ends after ten
/// seconds in which its transaction is idle, and releases its locks.
pub const BEGIN: &str = "begin; set local idle_in_transaction_session_timeout = 0";

/// The migrated database that is the template of all others.
const TEMPLATE: &str = "migrated";

/// The server of this test process, started by the first test that needs it.
pub async fn server() -> &'static Embedded {
    static SERVER: OnceCell<Embedded> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            // Prepared transactions are off by default, and sources are tested with them.
            let settings = vec![("max_prepared_transactions".into(), "16".into())];
            let options = Options { settings, ..Options::default() };
            Embedded::start(options).await.expect("start the tests' server")
        })
        .await
}

/// A test's own database.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its parsed address, for this process.
    pub db: Db,
    /// Its address as text, for other processes.
    pub address: String,
}

/// A fresh database with the current schema.
pub async fn database() -> Database {
    static TEMPLATE_READY: OnceCell<()> = OnceCell::const_new();
    TEMPLATE_READY.get_or_init(async || migrate_template().await.expect("migrate the template")).await;
    create(Some(TEMPLATE)).await
}

/// A fresh database without any schema.
pub async fn empty_database() -> Database {
    create(None).await
}

async fn create(template: Option<&str>) -> Database {
    static CREATED: AtomicU32 = AtomicU32::new(0);
    let server = server().await;
    let name = format!("test_{}", CREATED.fetch_add(1, Ordering::Relaxed));
    server.create_database(&name, template).await.expect("create a test's database");
    let address = server.address_of(&name);
    Database { db: Db::parse(&address).expect("parse our own address"), address }
}

async fn migrate_template() -> anyhow::Result<()> {
    let server = server().await;
    server.create_database(TEMPLATE, None).await?;
    let mut session = Db::parse(&server.address_of(TEMPLATE))?.connect("template").await?;
    migrate::migrate(&mut session).await.context("migrate")?;
    Ok(())
}

impl Database {
    /// The table of a shared collection.
    pub async fn table(&self, collection: &str) -> String {
        let session = self.db.connect("test").await.expect("connect");
        let sql = "select format('sandmill_documents.c%s_%s', number, generation) from sandmill.collections where tenant = '' and name = $1";
        session.query_one(sql, &[&collection]).await.expect("a collection that there is").get(0)
    }
}

/// Waits until a condition holds, by polling.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    host::eventually(what, async || condition().await.then_some(())).await;
}
