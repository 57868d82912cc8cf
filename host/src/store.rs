//! The event store for the command line and the host: import, listing, ordering, size limit, views
//! schema, and the cluster that its xids belong to.
//!
//! Applications append with the client crate or with `sandmill.append` in SQL. Import, listing and
//! re-anchoring take no lock that delays a reader; changes of the ordering and of the views' schema
//! do, until they commit. A listing is by position, and an event may become visible later at a
//! position lower than those already listed. A reader that must not miss events follows the log
//! instead.

pub mod anchor;
pub mod import;
mod list;
pub mod size_limit;
mod tally;
pub mod views_schema;

use std::{fmt, str::FromStr};

pub use list::{EventHeader, Filter, LARGEST_LISTED, StoredEvent, headers, page};
pub use tally::Tally;

use serde_json::json;

use crate::db::{
    Error, Session,
    audit::{self, AuditEntry},
};

/// Maximum wait of a change of the ordering for appends in progress. 60 s: appends are part of
/// transactions of applications, which may take a while, and new appends queue behind the change.
const PATIENCE_FOR_APPENDS: &str = "60s";

/// The scope in which appends follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// Appends to one stream follow each other. Those to different streams run concurrently and may
    /// become visible in any order.
    #[default]
    Stream,
    /// Appends of one tenant follow each other. Positions, commits and delivery have the same
    /// order, at the price of one commit at a time for each tenant.
    Tenant,
}

impl fmt::Display for Ordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ordering::Stream => "stream",
            Ordering::Tenant => "tenant",
        })
    }
}

impl FromStr for Ordering {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stream" => Ok(Ordering::Stream),
            "tenant" => Ok(Ordering::Tenant),
            _ => Err("an ordering is `stream` or `tenant`".into()),
        }
    }
}

/// The ordering of the store.
pub async fn ordering(session: &Session) -> Result<Ordering, Error> {
    let row = session.query_one("select ordering = 'tenant' from sandmill.store", &[]).await?;
    Ok(if row.get(0) { Ordering::Tenant } else { Ordering::Stream })
}

/// Whether a tenant has events.
pub async fn knows_tenant(session: &Session, tenant: &str) -> Result<bool, Error> {
    let sql = "select exists (select from sandmill.streams where tenant = $1)";
    Ok(session.query_one(sql, &[&tenant]).await?.get(0))
}

/// The first `limit` tenants that have events, by name.
pub async fn tenants(session: &Session, limit: i64) -> Result<Vec<String>, Error> {
    let rows = session.query(include_str!("store/tenants.sql"), &[&limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Changes the ordering of the store on behalf of `who`, and returns the former one. It waits until
/// every append under way has ended, so from then on all appends follow the new ordering.
pub async fn set_ordering(session: &mut Session, ordering: Ordering, who: &str) -> Result<Ordering, Error> {
    let transaction = session.client_mut().transaction().await?;
    // Every append reads this table and keeps its lock until its transaction ends.
    transaction
        .batch_execute(&format!(
            "set local lock_timeout = '{PATIENCE_FOR_APPENDS}'; lock table sandmill.store in access exclusive mode"
        ))
        .await?;
    let by_tenant: bool = transaction.query_one("select ordering = 'tenant' from sandmill.store", &[]).await?.get(0);
    let before = if by_tenant { Ordering::Tenant } else { Ordering::Stream };
    if before != ordering {
        // The row is replaced and not only updated. An append at repeatable read with an older
        // snapshot would still see the old ordering. After a truncate, which ignores snapshots, it
        // finds no row and fails.
        transaction.batch_execute("create temporary table refill on commit drop as table sandmill.store").await?;
        transaction.batch_execute("truncate sandmill.store; insert into sandmill.store select * from refill").await?;
        transaction.execute("update sandmill.store set ordering = $1", &[&ordering.to_string()]).await?;
        let details = json!({ "before": before.to_string(), "now": ordering.to_string() });
        audit::record(&transaction, &AuditEntry { details, ..AuditEntry::new(who, "migrate --ordering") }).await?;
        transaction.commit().await?;
    }
    Ok(before)
}
