//! Our own event store: importing into it, listing it, the order it keeps, its size limit for events, the schema of the documents' views, and the cluster that its numbers belong to.
//!
//! Applications append with the client crate or with `sandmill.append` in SQL; what is here serves the command line and the
//! host. Nothing here takes a lock that makes a reader wait. Reading here is listing, by position: an event may become visible
//! behind one that was listed before it, so whoever must not miss any follows the tail instead.

pub mod anchor;
pub mod import;
mod list;
pub mod size_limit;
mod tally;
pub mod time;
pub mod views_schema;

use std::{fmt, str::FromStr};

pub use list::{Filter, LARGEST_LISTED, StoredEvent, page};
pub use tally::Tally;

use crate::db::{Error, Session};

/// How long a change of the order waits for appends in flight. Default 60 s: an append's transaction is its application's, and
/// may take a while; everybody who appends waits behind the change meanwhile.
const PATIENCE_FOR_APPENDS: &str = "60s";

/// Between which appends the order is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// Appends of one stream follow each other; those of different streams run side by side and may become visible in any order.
    #[default]
    Stream,
    /// Appends of one tenant follow each other: position order, commit order and delivery order are one, at the price of one
    /// commit at a time for each tenant.
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

/// The order that the store keeps.
pub async fn ordering(session: &Session) -> Result<Ordering, Error> {
    let row = session.query_one("select ordering = 'tenant' from sandmill.store", &[]).await?;
    Ok(if row.get(0) { Ordering::Tenant } else { Ordering::Stream })
}

/// Whether a tenant has events.
pub async fn knows_tenant(session: &Session, tenant: &str) -> Result<bool, Error> {
    let known = "select exists (select from sandmill.streams where tenant = $1)";
    Ok(session.query_one(known, &[&tenant]).await?.get(0))
}

/// Changes the order that the store keeps, and returns the one it kept so far. It waits until every append in flight has ended,
/// so that from then on all appends follow the new order.
pub async fn set_ordering(session: &mut Session, ordering: Ordering) -> Result<Ordering, Error> {
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
        // The row is replaced, not only updated: an append at repeatable read with an older snapshot would go on to see the old
        // order. Truncating is not bound to snapshots, so that it finds none and gives up.
        transaction.batch_execute("create temporary table refill on commit drop as table sandmill.store").await?;
        transaction.batch_execute("truncate sandmill.store; insert into sandmill.store select * from refill").await?;
        transaction.execute("update sandmill.store set ordering = $1", &[&ordering.to_string()]).await?;
        transaction.commit().await?;
    }
    Ok(before)
}
