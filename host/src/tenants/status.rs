//! The usage and the state of tenants, read from the database alone, so that no running host is
//! needed.

use serde::Serialize;

use crate::{
    db::{Error, Session, types::ToSql},
    model::cursor::Progress,
    source::native::lag::{self, TenantProgresses},
};

/// Maximum number of pending events that are counted per tenant and processor. 10,000: counting
/// reads each of them.
pub const LAG_COUNTED: i64 = 10_000;

/// Maximum number of lanes that are examined for a tenant's lag per processor, if lanes are finer
/// than tenants. 16: each costs a count.
const LANES_COUNTED: i64 = 16;

/// The usage and the state of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Its name.
    pub tenant: String,
    /// CPU time of its guests so far.
    pub cpu_seconds: f64,
    /// Cores that its guests used during the last report, some two seconds; 0 without a report for
    /// 5 s.
    pub cpu_now: f64,
    /// Events handled per second, during the last report.
    pub rate: f64,
    /// Time that its guests waited for a guest thread, summed over the guests.
    pub waited_seconds: f64,
    /// Waiting time per second, during the last report.
    pub waited_now: f64,
    /// Time that its rate limits delayed it.
    pub throttled_seconds: f64,
    /// Events handled, counted once per processor that handled them.
    pub events: i64,
    /// Documents written.
    pub documents: i64,
    /// Bytes of documents and dead letters written.
    pub bytes: i64,
    /// Pending events of any type in the processor that has most of them. At most 10,000 are
    /// counted.
    pub lag_events: i64,
    /// Whether there may be more pending events: more than are counted, or in lanes that were not
    /// examined.
    pub lag_events_at_least: bool,
    /// Age of the first pending event, seconds.
    pub lag_seconds: f64,
    /// Its lanes that are behind their processors' cursors.
    pub lanes_behind: i64,
    /// Number of times that one of its lanes stopped, after a failure or on request of its handler.
    pub failures: i64,
    /// Number of actions of its guests that a limit refused, such as calls and log lines, whether
    /// or not they caused a failure.
    pub refusals: i64,
    /// The last refusal.
    pub last_refusal: Option<String>,
    /// The last failure, with its processor.
    pub last_error: Option<String>,
    /// The time of the last failure, RFC 3339.
    pub last_error_at: Option<String>,
}

/// The order in which tenants are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Most CPU time now first, then most so far.
    Cpu,
    /// Most time waited or throttled first.
    Waited,
    /// Latest failure first.
    Error,
    /// By name.
    Name,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Order::Cpu => "cpu",
            Order::Waited => "waited",
            Order::Error => "error",
            Order::Name => "name",
        }
    }
}

/// A tenant's usage so far, and its lanes by state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenantSums {
    /// Its name.
    pub tenant: String,
    /// Events handled, counted once per processor that handled them.
    pub events: i64,
    /// CPU time of its guests.
    pub cpu_seconds: f64,
    /// Number of refusals of its guests.
    pub refusals: i64,
    /// Its lanes behind, by state.
    pub lanes: [(&'static str, i64); 4],
}

/// Reads the sums of these tenants.
pub async fn sums(session: &Session, tenants: &[String]) -> Result<Vec<TenantSums>, Error> {
    let rows = session.query(include_str!("status/sums.sql"), &[&tenants]).await?;
    let of_row = |row: &crate::db::Row| TenantSums {
        tenant: row.get(0),
        events: row.get(1),
        cpu_seconds: row.get(2),
        refusals: row.get(3),
        lanes: [("blocked", row.get(4)), ("retrying", row.get(5)), ("paused", row.get(6)), ("catching-up", row.get(7))],
    };
    Ok(rows.iter().map(of_row).collect())
}

/// Reads tenants in this order, at most `limit`: all, or only those with these names that exist in
/// the store.
pub async fn read(
    session: &Session,
    only: Option<&[&str]>,
    order: Order,
    limit: i64,
) -> Result<Vec<TenantStatus>, Error> {
    let params: [&(dyn ToSql + Sync); 4] = [&only, &order.name(), &limit, &LANES_COUNTED];
    let rows = session.query(include_str!("status/tenants.sql"), &params).await?;
    let of_row = |row: &crate::db::Row| TenantStatus {
        tenant: row.get(0),
        cpu_seconds: row.get(1),
        cpu_now: row.get(2),
        rate: row.get(3),
        waited_seconds: row.get(4),
        waited_now: row.get(5),
        throttled_seconds: row.get(6),
        events: row.get(7),
        documents: row.get(8),
        bytes: row.get(9),
        failures: row.get(10),
        last_error: row.get(11),
        last_error_at: row.get(12),
        lanes_behind: row.get(13),
        refusals: row.get(14),
        last_refusal: row.get(15),
        lag_events: 0,
        lag_events_at_least: row.get(16),
        lag_seconds: 0.0,
    };
    let mut tenants: Vec<TenantStatus> = rows.iter().map(of_row).collect();
    let of_tenants =
        rows.iter().map(|row| TenantProgresses { tenant: row.get(0), progresses: parsed(row.get(17)) }).collect();
    add_lags(session, &mut tenants, of_tenants).await?;
    Ok(tenants)
}

/// Adds each tenant's lag: its pending events in the processor that has most of them. They follow
/// the progress of one of its lanes, or a cursor.
async fn add_lags(
    session: &Session,
    tenants: &mut [TenantStatus],
    progresses: Vec<TenantProgresses>,
) -> Result<(), Error> {
    let cursors = session.query(include_str!("status/cursors.sql"), &[]).await?;
    let cursors = parsed(cursors.iter().map(|row| row.get(0)).collect());
    let lags = lag::of_tenants(session, &progresses, &cursors, LAG_COUNTED).await?;
    let positions: Vec<i64> = lags.iter().filter_map(|lag| lag.first).collect();
    let ages = lag::ages(session, &positions).await?;
    for (tenant, lag) in tenants.iter_mut().zip(lags) {
        tenant.lag_events = lag.events;
        tenant.lag_events_at_least |= lag.events >= LAG_COUNTED;
        tenant.lag_seconds = lag.first.and_then(|first| ages.get(&first).copied()).unwrap_or_default();
    }
    Ok(())
}

/// Parses progress values from the database.
fn parsed(texts: Vec<&str>) -> Vec<Progress> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
