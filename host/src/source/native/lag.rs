//! Counts of the events that follow a progress, in the whole log or of individual tenants.
//!
//! A reader of the log counts on its own session, to find out whether it is far behind. Reports on
//! processors and tenants count for many progresses in one statement, on any session that is in no
//! transaction. Each count has a limit, so its cost does not grow with the log.

use std::collections::HashMap;

use crate::{
    db::{Error, Row, Session, types::ToSql},
    model::cursor::Progress,
};

/// The statement that begins a transaction on a session that is not a reader's, with the planner
/// settings of session.sql. Each count has one right index, and the statistics of a growing log are
/// always outdated.
const PLANNER: &str = "begin read only; \
    set local enable_seqscan = off; set local enable_bitmapscan = off; \
    set local enable_sort = off; set local enable_incremental_sort = off";

/// The statement that counts in the whole log.
pub(super) const LOG: &str = include_str!("lag.sql");
/// The statement that counts a tenant's events.
pub(super) const TENANTS: &str = include_str!("tenant_lag.sql");

/// The events that follow a progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Their number, up to the limit of the count.
    pub events: i64,
    /// The lowest position among those counted; none if there are none.
    pub first: Option<i64>,
}

/// A tenant and its own progresses, in addition to those that all tenants share.
#[derive(Clone, Debug)]
pub struct TenantProgresses {
    /// The tenant.
    pub tenant: String,
    /// Its own progresses.
    pub progresses: Vec<Progress>,
}

/// Counts the events that follow each progress, at most `limit` for each.
pub async fn of_log(session: &Session, progresses: &[Progress], limit: i64) -> Result<Vec<Lag>, Error> {
    let mut binds = ProgressBinds::default();
    let numbers: Vec<usize> = progresses.iter().map(|progress| binds.number(progress)).collect();
    let mut lags = vec![Lag::default(); binds.len()];
    for row in read(session, LOG, &[&binds.seen, &binds.to, &binds.last, &limit]).await? {
        if let Some(lag) = index(&row, 0).and_then(|index| lags.get_mut(index)) {
            *lag = Lag { events: row.get(1), first: row.get(2) };
        }
    }
    Ok(numbers.iter().filter_map(|number| lags.get(*number).copied()).collect())
}

/// Counts each tenant's events after one progress: of its own and of those `shared` by all tenants,
/// the one that most events follow. At most `limit` events are counted for each progress.
pub async fn of_tenants(
    session: &Session,
    tenants: &[TenantProgresses],
    shared: &[Progress],
    limit: i64,
) -> Result<Vec<Lag>, Error> {
    let mut binds = ProgressBinds::default();
    let (mut names, mut numbers) = (Vec::new(), Vec::new());
    for TenantProgresses { tenant, progresses } in tenants {
        let mut of_tenant: Vec<i64> =
            progresses.iter().chain(shared).map(|progress| binds.number(progress) as i64 + 1).collect();
        of_tenant.sort_unstable();
        of_tenant.dedup();
        names.extend(of_tenant.iter().map(|_| tenant.as_str()));
        numbers.extend(of_tenant);
    }
    let mut most: HashMap<String, Lag> = HashMap::new();
    for row in read(session, TENANTS, &[&names, &numbers, &binds.seen, &binds.to, &binds.last, &limit]).await? {
        let lag = Lag { events: row.get(2), first: row.get(3) };
        let most = most.entry(row.get(0)).or_default();
        // Of equal counts, the one with the older first event.
        if lag.events > most.events || lag.events == most.events && lag.first < most.first {
            *most = lag;
        }
    }
    Ok(tenants.iter().map(|tenant| most.get(&tenant.tenant).copied().unwrap_or_default()).collect())
}

/// The ages of the events at these positions, in seconds, by position. Events that are gone are
/// left out.
pub async fn ages(session: &Session, positions: &[i64]) -> Result<HashMap<i64, f64>, Error> {
    if positions.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = read(session, include_str!("ages.sql"), &[&positions]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Runs a statement with the planner's settings. All three requests are sent before the first is
/// answered, so a caller that stops waiting leaves no transaction open.
async fn read(session: &Session, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
    let statement = session.prepared(sql).await?;
    let (begun, rows, ended) = tokio::join!(
        biased;
        session.batch_execute(PLANNER),
        session.query(&statement, params),
        session.batch_execute("commit"),
    );
    begun?;
    let rows = rows?;
    ended?;
    Ok(rows)
}

/// The index that a row's column holds as a number from 1.
fn index(row: &Row, column: usize) -> Option<usize> {
    usize::try_from(row.get::<_, i64>(column)).ok()?.checked_sub(1)
}

/// Distinct progresses, as the statements bind them: processors that are level share one count.
#[derive(Default)]
pub(super) struct ProgressBinds {
    indexes: HashMap<Progress, usize>,
    pub(super) seen: Vec<String>,
    pub(super) to: Vec<String>,
    pub(super) last: Vec<i64>,
}

impl ProgressBinds {
    /// A single progress.
    pub(super) fn of(progress: &Progress) -> Self {
        let mut binds = ProgressBinds::default();
        binds.number(progress);
        binds
    }

    fn len(&self) -> usize {
        self.seen.len()
    }

    /// The index of a progress, which is added if it is not known yet.
    fn number(&mut self, progress: &Progress) -> usize {
        if let Some(index) = self.indexes.get(progress) {
            return *index;
        }
        let seen = progress.seen().to_string();
        let (to, last) = match progress.remainder() {
            Some(rest) => (rest.to.to_string(), rest.after.unwrap_or(i64::MIN)),
            None => (seen.clone(), i64::MIN),
        };
        let index = self.seen.len();
        self.seen.push(seen);
        self.to.push(to);
        self.last.push(last);
        self.indexes.insert(progress.clone(), index);
        index
    }
}
