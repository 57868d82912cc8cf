//! What the database tells about what may hold something back.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::host_lock,
    db::{Error, Row, Session},
    processor::{
        roster,
        status::{self, LaneBehind, Status},
    },
    tenants::status::{self as usage, Order, TenantStatus},
};

/// All that is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// How every processor stands, without its single lanes.
    pub status: Status,
    /// Lanes behind.
    pub lanes: Vec<LanesAlike>,
    /// Those of the tenant that was asked for.
    pub lanes_of_tenant: Vec<LanesAlike>,
    /// Whether a host works on this database.
    pub host: bool,
    /// Processors that run as far as sessions and recent errors show, whether or not a host has
    /// recorded their plugins.
    pub running: BTreeSet<String>,
    /// What it has recorded of its plugins.
    pub plugins: Vec<PluginFile>,
    /// What the tenants use whose lanes are named, and the one asked for.
    pub tenants: BTreeMap<String, TenantStatus>,
    /// Transactions that one of our sessions waits for.
    pub blockers: Vec<Blocker>,
    /// Transactions that have written something and go on for long: what they appended is not visible yet.
    pub open: Vec<OpenTransaction>,
}

/// Lanes of a processor that are behind in the same state for the same kind of reason.
#[derive(Clone, Debug)]
pub struct LanesAlike {
    /// The processor.
    pub processor: String,
    /// How many there are.
    pub lanes: usize,
    /// The one that has waited longest.
    pub first: LaneBehind,
}

/// What a host has recorded of a file in its plugins folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// The file's name without its ending.
    pub plugin: String,
    /// The processor that it runs; empty if it runs none.
    pub processor: String,
    /// Why it is not run, if it was refused.
    pub refused: String,
}

/// A transaction of somebody else.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTransaction {
    /// Its database session.
    pub pid: i32,
    /// `application_name` of it, and who it is.
    pub application: String,
    /// Seconds since it began.
    pub age: f64,
}

/// A transaction that one of our sessions waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    /// What our session is for, as in `commit route-performance`; cut if it is long.
    pub session: String,
    /// The processor that it works for, if that is certain.
    pub processor: Option<String>,
    /// Seconds that it has waited.
    pub waited: f64,
    /// For whom.
    pub transaction: OpenTransaction,
}

impl Facts {
    /// Reads them. `tenant` is one to know of even if no lane of it is behind.
    pub async fn read(session: &Session, tenant: Option<&str>) -> Result<Self, Error> {
        let status = status::read(session, 0).await?;
        let lanes = lanes(session, None).await?;
        let lanes_of_tenant = match tenant {
            Some(_) => self::lanes(session, tenant).await?,
            None => Vec::new(),
        };
        let named = lanes.iter().chain(&lanes_of_tenant).map(|alike| alike.first.tenant.as_str());
        let mut concerned: Vec<&str> = named.chain(tenant).collect();
        concerned.sort_unstable();
        concerned.dedup();
        let used = usage::read(session, Some(&concerned), Order::Name, i64::MAX).await?;
        let transaction = |row: &Row, first: usize| OpenTransaction {
            pid: row.get(first),
            application: row.get(first + 1),
            age: row.get(first + 2),
        };
        let blockers = session.query(include_str!("facts/blockers.sql"), &[]).await?;
        let open = session.query(include_str!("facts/open.sql"), &[]).await?;
        let blocker = |row: &Row| {
            let (session, commits_for): (String, Option<String>) = (row.get(0), row.get(1));
            let processor = commits_for.or_else(|| works_for(&session, &status));
            Blocker { session, processor, waited: row.get(2), transaction: transaction(row, 3) }
        };
        let plugins = session.query(include_str!("facts/plugins.sql"), &[]).await?;
        let plugin = |row: &Row| PluginFile { plugin: row.get(0), processor: row.get(1), refused: row.get(2) };
        let roster = roster::read(session).await?.into_iter();
        let running = roster.filter(|entry| entry.runs || entry.failed_lately).map(|entry| entry.id);
        Ok(Facts {
            running: running.collect(),
            host: host_lock::is_held(&**session).await?,
            plugins: plugins.iter().map(plugin).collect(),
            tenants: used.into_iter().map(|tenant| (tenant.tenant.clone(), tenant)).collect(),
            blockers: blockers.iter().map(blocker).collect(),
            open: open.iter().map(|row| transaction(row, 0)).collect(),
            lanes,
            lanes_of_tenant,
            status,
        })
    }
}

async fn lanes(session: &Session, tenant: Option<&str>) -> Result<Vec<LanesAlike>, Error> {
    let rows = session.query(include_str!("facts/lanes.sql"), &[&tenant]).await?;
    let alike = |row: &Row| {
        let (class, reason): (&str, &str) = (row.get(5), row.get(6));
        LanesAlike {
            processor: row.get(0),
            lanes: row.get::<_, i64>(1) as usize,
            first: LaneBehind {
                tenant: row.get(2),
                key: row.get(3),
                state: row.get(4),
                reason: if class.is_empty() { reason.into() } else { format!("{class}: {reason}") },
                attempts: row.get(7),
                event_position: row.get(8),
                since: row.get(9),
            },
        }
    };
    Ok(rows.iter().map(alike).collect())
}

/// The processor that a session's purpose names, as in `read route-performance`. PostgreSQL cuts a
/// session's name at 63 bytes, so a long one may stand for several processors; then it is none.
fn works_for(session: &str, status: &Status) -> Option<String> {
    const KEPT: usize = 63 - "sandmill ".len();
    let (work, id) = session.split_once(' ')?;
    let is_meant = |whole: &str| {
        if session.len() < KEPT { whole == id } else { format!("{work} {whole}").get(..KEPT) == Some(session) }
    };
    let mut meant = status.processors.iter().filter(|p| is_meant(&p.id));
    let first = meant.next()?;
    meant.next().is_none().then(|| first.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::status::ProcessorStatus;

    #[test]
    fn a_session_whose_name_was_cut_works_for_nobody_if_several_are_meant() {
        let (long, other) = (format!("{}/orders", "x".repeat(64)), format!("{}y/orders", "x".repeat(63)));
        let processor = |id: &str| ProcessorStatus { id: id.into(), ..ProcessorStatus::default() };
        let status =
            |ids: &[&str]| Status { processors: ids.iter().map(|id| processor(id)).collect(), ..Status::default() };
        let both = status(&["orders", "orders-2", &long, &other]);
        assert_eq!(works_for("read orders", &both).as_deref(), Some("orders"));
        assert_eq!(works_for("lanes orders-2", &both).as_deref(), Some("orders-2"));
        // As the database shows it: 63 bytes with what stands before.
        let cut = &format!("read {long}")[..63 - "sandmill ".len()];
        assert_eq!(works_for(cut, &both), None);
        assert_eq!(works_for(cut, &status(&["orders", &long])).as_deref(), Some(&*long));
        assert_eq!(works_for("wake", &both), None);
    }
}
