//! The facts behind an explanation, read from the database.

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

/// The state of hosts, processors, lanes, tenants and transactions.
#[derive(Debug, Default)]
pub struct Facts {
    /// The status of each processor, without its lanes.
    pub status: Status,
    /// The lanes behind, grouped by cause.
    pub lanes: Vec<LaneGroup>,
    /// The same for the requested tenant only.
    pub lanes_of_tenant: Vec<LaneGroup>,
    /// Whether a host is running on this database.
    pub host: bool,
    /// Processors that are running according to sessions and recent errors, even if the host could
    /// not record their plugins.
    pub running: BTreeSet<String>,
    /// The plugin files as recorded by the host.
    pub plugins: Vec<RecordedPlugin>,
    /// The usage of the requested tenant, and of the tenants in `lanes`.
    pub tenants: BTreeMap<String, TenantStatus>,
    /// Transactions that hold locks which sessions of the host wait for.
    pub blockers: Vec<Blocker>,
    /// Long-running transactions of other programs that have written; events they appended are not
    /// visible yet.
    pub open: Vec<OpenTransaction>,
}

/// Lanes of a processor that are behind in the same state and for the same class of reason.
#[derive(Clone, Debug)]
pub struct LaneGroup {
    /// The processor.
    pub processor: String,
    /// The number of lanes.
    pub lanes: usize,
    /// The lane that has waited longest.
    pub first: LaneBehind,
}

/// A file in the plugins folder, as recorded by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedPlugin {
    /// The file's name without its extension.
    pub plugin: String,
    /// The processor that it provides; empty if it does not run.
    pub processor: String,
    /// The reason if it was rejected, else empty.
    pub rejected: String,
}

/// A transaction of another program.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTransaction {
    /// The process id of its session.
    pub pid: i32,
    /// The session's `application_name` and user.
    pub application: String,
    /// Seconds since it began.
    pub age: f64,
}

/// A transaction that holds a lock which a session of the host waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    /// The purpose of the waiting session, such as `commit route-performance`. PostgreSQL cuts long
    /// names.
    pub session: String,
    /// The processor that the session works for, if the purpose is unambiguous.
    pub processor: Option<String>,
    /// Seconds that the session has waited.
    pub waited: f64,
    /// The transaction that holds the lock.
    pub transaction: OpenTransaction,
}

impl Facts {
    /// Reads all facts. `tenant` is included even if none of its lanes is behind.
    pub async fn read(session: &Session, tenant: Option<&str>) -> Result<Self, Error> {
        let status = status::read(session, 0).await?;
        let lanes = lanes(session, None).await?;
        let lanes_of_tenant = match tenant {
            Some(_) => self::lanes(session, tenant).await?,
            None => Vec::new(),
        };
        let named = lanes.iter().chain(&lanes_of_tenant).map(|group| group.first.tenant.as_str());
        let mut tenants: Vec<&str> = named.chain(tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let used = usage::read(session, Some(&tenants), Order::Name, i64::MAX).await?;
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
        let plugin = |row: &Row| RecordedPlugin { plugin: row.get(0), processor: row.get(1), rejected: row.get(2) };
        let roster = roster::read(session).await?.into_iter();
        let running = roster.filter(|entry| entry.runs || entry.failed_recently).map(|entry| entry.id);
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

/// Reads the lanes behind, grouped by cause, of one tenant or of all.
async fn lanes(session: &Session, tenant: Option<&str>) -> Result<Vec<LaneGroup>, Error> {
    let rows = session.query(include_str!("facts/lanes.sql"), &[&tenant]).await?;
    let group = |row: &Row| {
        let (class, reason): (&str, &str) = (row.get(5), row.get(6));
        LaneGroup {
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
    Ok(rows.iter().map(group).collect())
}

/// The processor in a session's purpose, such as `read route-performance`. PostgreSQL cuts a
/// session's name at 63 bytes, so a long one may match several processors; then the result is none.
fn works_for(session: &str, status: &Status) -> Option<String> {
    const KEPT: usize = 63 - "sandmill ".len();
    let (work, id) = session.split_once(' ')?;
    let is_match = |processor: &str| {
        if session.len() < KEPT { processor == id } else { format!("{work} {processor}").get(..KEPT) == Some(session) }
    };
    let mut matches = status.processors.iter().filter(|p| is_match(&p.id));
    let first = matches.next()?;
    matches.next().is_none().then(|| first.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::status::ProcessorStatus;

    #[test]
    fn a_cut_session_name_that_matches_several_processors_matches_none() {
        let (long, other) = (format!("{}/orders", "x".repeat(64)), format!("{}y/orders", "x".repeat(63)));
        let processor = |id: &str| ProcessorStatus { id: id.into(), ..ProcessorStatus::default() };
        let status =
            |ids: &[&str]| Status { processors: ids.iter().map(|id| processor(id)).collect(), ..Status::default() };
        let both = status(&["orders", "orders-2", &long, &other]);
        assert_eq!(works_for("read orders", &both).as_deref(), Some("orders"));
        assert_eq!(works_for("lanes orders-2", &both).as_deref(), Some("orders-2"));
        // As PostgreSQL shows it: 63 bytes including the prefix.
        let cut = &format!("read {long}")[..63 - "sandmill ".len()];
        assert_eq!(works_for(cut, &both), None);
        assert_eq!(works_for(cut, &status(&["orders", &long])).as_deref(), Some(&*long));
        assert_eq!(works_for("wake", &both), None);
    }
}
