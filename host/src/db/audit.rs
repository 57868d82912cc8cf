//! The audit log: what operators changed, when, and who did so.
//!
//! A row is written in the transaction of the change that it records, so neither exists without the
//! other. A command that changes nothing leaves no row. Rows name the tenant that they concern, so
//! that a tenant can be erased. They are kept for [`DAYS`]: each new row deletes some that are
//! older.

use std::time::SystemTime;

use serde_json::{Map, Value};
use tokio_postgres::{Error, GenericClient, Row};

use super::{JsonText, Session};
use crate::model::ids::{ProcessorId, TenantId};

/// Days for which rows are kept. 400: a year, and a month to look back at it.
const DAYS: i32 = 400;
/// Maximum number of old rows that a new row deletes. 100: more than one, so the log shrinks after
/// a time with many changes, and few enough to take no noticeable time.
const DELETED_AT_ONCE: i64 = 100;

/// A change to record.
#[derive(Clone, Debug)]
pub struct AuditEntry<'a> {
    /// Who asked for it.
    pub who: &'a str,
    /// The command without its arguments, such as `processors remove`.
    pub command: &'a str,
    /// The processor, if it concerns one.
    pub processor: Option<&'a ProcessorId>,
    /// The tenant, if it concerns a single one. The owner of a tenant's own processor need not be
    /// named.
    pub tenant: Option<&'a str>,
    /// The lane's key, if it concerns a single lane.
    pub key: Option<&'a str>,
    /// What else there is to know, as an object. Data of events does not belong here.
    pub details: Value,
}

impl<'a> AuditEntry<'a> {
    /// A change that concerns no single processor or tenant, without details.
    pub fn new(who: &'a str, command: &'a str) -> Self {
        AuditEntry { who, command, processor: None, tenant: None, key: None, details: Value::Object(Map::new()) }
    }
}

/// A change as it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRecord {
    /// Its number.
    pub id: i64,
    /// When it was made.
    pub at: SystemTime,
    /// Who asked for it.
    pub who: String,
    /// The database role that made it.
    pub role: String,
    /// The command.
    pub command: String,
    /// The processor, if it concerns one.
    pub processor: Option<String>,
    /// The tenant, if it concerns a single one.
    pub tenant: Option<String>,
    /// The lane's key, if it concerns a single lane.
    pub key: Option<String>,
    /// The details, as a JSON object.
    pub details: String,
}

impl AuditRecord {
    /// The record of a row of `list.sql`.
    fn from_row(row: &Row) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        AuditRecord {
            id: row.get(0),
            at: row.get(1),
            who: row.get(2),
            role: row.get(3),
            command: row.get(4),
            processor: some(row.get(5)),
            tenant: some(row.get(6)),
            key: some(row.get(7)),
            details: row.get::<_, JsonText<'_>>(8).0.to_owned(),
        }
    }
}

/// The records to list; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only of this processor.
    pub processor: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only changes made at this time or later.
    pub since: Option<SystemTime>,
}

/// Records a change. `client` is the transaction that makes it.
pub async fn record(client: &impl GenericClient, entry: &AuditEntry<'_>) -> Result<(), Error> {
    let AuditEntry { who, command, processor, tenant, key, details } = entry;
    let owner = processor.and_then(|processor| processor.owner()).map(TenantId::as_str);
    let processor = processor.map_or("", |processor| processor.as_str());
    let (tenant, key) = (tenant.or(owner).unwrap_or_default(), key.unwrap_or_default());
    client.execute(include_str!("audit/expire.sql"), &[&DAYS, &DELETED_AT_ONCE]).await?;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [who, command, &processor, &tenant, &key, &details.to_string()];
    client.execute(include_str!("audit/record.sql"), &params).await.map(drop)
}

/// Reads up to `limit` records that match the filter, newest first. With `after`, it continues
/// behind that record.
pub async fn list(
    session: &Session,
    filter: &AuditFilter,
    after: Option<&AuditRecord>,
    limit: i64,
) -> Result<Vec<AuditRecord>, Error> {
    let AuditFilter { processor, tenant, since } = filter;
    let before = after.map_or(i64::MAX, |record| record.id);
    let rows = session.query(include_str!("audit/list.sql"), &[processor, tenant, since, &before, &limit]).await?;
    Ok(rows.iter().map(AuditRecord::from_row).collect())
}
