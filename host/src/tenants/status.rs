//! What every tenant has used and how it stands, told from the database alone, so that it can be asked whether or not a host runs.

use serde::Serialize;

use crate::{
    db::{Error, Session, types::ToSql},
    model::cursor::Progress,
    source::native::lag::{self, TenantProgresses},
};

/// Events of a tenant's lag that are counted in each processor; there may be more.
pub const LAG_COUNTED: i64 = 10_000;

/// Lanes of a tenant that are looked at for that, in each processor, where lanes are finer than tenants. Default 16: each costs a count.
const LANES_COUNTED: i64 = 16;

/// One tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Its name.
    pub tenant: String,
    /// CPU time of its guests so far.
    pub cpu_seconds: f64,
    /// Cores that they kept busy in the last two seconds in which there was something to tell; 0 when nothing was told for 5 s.
    pub cpu_now: f64,
    /// Events handled a second, in the same seconds.
    pub rate: f64,
    /// Time in which guests of it could have computed and others did, added up over them.
    pub waited_seconds: f64,
    /// The same for each of the last seconds.
    pub waited_now: f64,
    /// Time for which it was held back by its rates.
    pub throttled_seconds: f64,
    /// Events handled, by each processor that did.
    pub events: i64,
    /// Documents written.
    pub documents: i64,
    /// Bytes of documents and dead letters written.
    pub bytes: i64,
    /// Events that some processor has not handled yet, of whatever type, in the processor that has most of them; at most ten thousand are counted.
    pub lag_events: i64,
    /// Whether there may be more: more than are counted, or lanes that were not looked at.
    pub lag_events_at_least: bool,
    /// How long ago the first of them was recorded.
    pub lag_seconds: f64,
    /// Its lanes that are behind their processors' cursors.
    pub lanes_behind: i64,
    /// Times that one of its lanes stopped: it failed, or asked to.
    pub failures: i64,
    /// Times that its guests were refused something, whether they failed of it or not.
    pub refusals: i64,
    /// What they were refused last.
    pub last_refusal: Option<String>,
    /// What went wrong last, with its processor.
    pub last_error: Option<String>,
    /// When, RFC 3339.
    pub last_error_at: Option<String>,
}

/// What tenants are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Who computes most now, then who did so far.
    Cpu,
    /// Who was held back most.
    Waited,
    /// Who failed last.
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
    /// Events handled, by each processor that did.
    pub events: i64,
    /// CPU time of its guests.
    pub cpu_seconds: f64,
    /// How often its guests were refused something.
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

/// Reads the first so many tenants, or of those with these names the ones that the store knows.
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

/// Adds the events that each tenant waits for, in the processor where these are most: after the
/// progress of one of its lanes, or after a cursor.
async fn add_lags(
    session: &Session,
    tenants: &mut [TenantStatus],
    progresses: Vec<TenantProgresses>,
) -> Result<(), Error> {
    let cursors = session.query("select distinct progress::text from sandmill.cursors where bucket = 0", &[]).await?;
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

/// Progresses from their texts in the database.
fn parsed(texts: Vec<&str>) -> Vec<Progress> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
