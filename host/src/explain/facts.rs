//! What the database tells about what may hold something back.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::host_lock,
    db::{Error, Session},
    processor::status::{self, Status},
    tenants::status::{self as usage, Order, TenantStatus},
};

/// Tenants of which it is read what they use, at most: those of the lanes that are behind.
const TENANTS: usize = 200;

/// All that is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// How every processor stands, its lanes behind among it.
    pub status: Status,
    /// Whether a host works on this database.
    pub host: bool,
    /// Processors that a host runs now.
    pub running: BTreeSet<String>,
    /// What the tenants of lanes behind use, and the ones asked for.
    pub tenants: BTreeMap<String, TenantStatus>,
    /// Transactions that one of our sessions waits for.
    pub blockers: Vec<Blocker>,
    /// Transactions that have written something and go on for long: what they appended is not visible yet.
    pub open: Vec<OpenTransaction>,
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
    /// What our session is for, as in `commit route-performance`; cut where that is long.
    pub session: String,
    /// The processor that it works for, where that is sure.
    pub processor: Option<String>,
    /// Seconds that it has waited.
    pub waited: f64,
    /// For whom.
    pub transaction: OpenTransaction,
}

impl Facts {
    /// Reads them. `tenant` is one to know of even if no lane of it is behind.
    pub async fn read(session: &Session, tenant: Option<&str>) -> Result<Self, Error> {
        let status = status::read(session).await?;
        let behind = status.processors.iter().flat_map(|p| &p.lanes_behind).map(|lane| lane.tenant.as_str());
        let concerned: BTreeSet<&str> = behind.take(TENANTS).chain(tenant).collect();
        let concerned: Vec<&str> = concerned.into_iter().collect();
        let used = usage::read(session, Some(&concerned), Order::Name, i64::MAX).await?;
        let transaction = |row: &crate::db::Row, first: usize| OpenTransaction {
            pid: row.get(first),
            application: row.get(first + 1),
            age: row.get(first + 2),
        };
        let blockers = session.query(include_str!("facts/blockers.sql"), &[]).await?;
        let open = session.query(include_str!("facts/open.sql"), &[]).await?;
        let running = session.query(include_str!("facts/running.sql"), &[]).await?;
        let blocker = |row: &crate::db::Row| {
            let (session, commits_for): (String, Option<String>) = (row.get(0), row.get(1));
            let processor = commits_for.or_else(|| works_for(&session, &status));
            Blocker { session, processor, waited: row.get(2), transaction: transaction(row, 3) }
        };
        Ok(Facts {
            host: host_lock::is_held(&**session).await?,
            running: running.iter().map(|row| row.get(0)).collect(),
            tenants: used.into_iter().map(|tenant| (tenant.tenant.clone(), tenant)).collect(),
            blockers: blockers.iter().map(blocker).collect(),
            open: open.iter().map(|row| transaction(row, 0)).collect(),
            status,
        })
    }
}

/// The processor that a session's purpose names, as in `read route-performance`. The database cuts
/// it so that it has 63 bytes with what stands before it, so a long one may stand for several
/// processors; then it is none.
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
        let status = |ids: &[&str]| Status { processors: ids.iter().map(|id| processor(id)).collect() };
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
