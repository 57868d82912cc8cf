//! `sandmill tenants`: resource use and lag per tenant, read from the database.

use std::{process::ExitCode, time::SystemTime};

use anyhow::anyhow;
use serde::Serialize;

use super::{
    database::{connect, with_remedy},
    output::{self, OutputStyle, Tone},
    status::age,
    table::{Cell, Column, Table},
};
use crate::{
    db::{Db, Session},
    model::{ids::TenantId, nearest::nearest, text, time},
    store,
    tenants::status::{self, Order, TenantStatus},
};

const EXAMPLES: &str = "\
Examples:
  sandmill tenants
  sandmill tenants acme
  sandmill tenants --by waited --limit 5
  sandmill tenants --json --limit 0 | jq '.tenants[] | {tenant, cpuSeconds}'";

const DETAILS: &str = "\
Columns:
  CPU        CPU time that the tenant's plugin calls have used
  NOW        CPU cores that they are using now
  WAITED     time that its ready calls have waited for CPU time or a rate limit
  EVENTS     events handled, counted once per processor that handled them
  DOCUMENTS  documents written
  WRITTEN    size of the documents and dead letters written
  LAG        pending events in the processor that is furthest behind; `≥` marks a lower bound
  AGE        time since the oldest of them was recorded
  FAILURES   number of times a lane stopped on a failure

With --json it prints one object:
  {\"tenants\": [{\"tenant\", \"cpuSeconds\", \"cpuNow\", \"rate\", \"waitedSeconds\", \"waitedNow\",
    \"throttledSeconds\", \"events\", \"documents\", \"bytes\", \"lagEvents\", \"lagEventsAtLeast\",
    \"lagSeconds\", \"lanesBehind\", \"failures\", \"lastError\", \"lastErrorAt\", \"refusals\",
    \"lastRefusal\"}]}";

/// Shows resource use and lag per tenant
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct TenantsArgs {
    /// Only this tenant
    #[arg(value_parser = TenantId::parse)]
    tenant: Option<TenantId>,
    /// Sort by CPU (cores now, then time so far), longest wait, latest failure, or name
    #[arg(long, value_enum, default_value_t)]
    by: TenantOrder,
    /// Show at most this many tenants; 0 for all
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

// Without doc comments, which would make clap print the help of all options in its long form.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum TenantOrder {
    #[default]
    Cpu,
    Waited,
    Error,
    Name,
}

#[derive(Serialize)]
struct TenantsJson {
    tenants: Vec<TenantStatus>,
}

/// Runs the command.
pub(super) async fn run(args: TenantsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "tenants").await?;
    let order = match args.by {
        TenantOrder::Cpu => Order::Cpu,
        TenantOrder::Waited => Order::Waited,
        TenantOrder::Error => Order::Error,
        TenantOrder::Name => Order::Name,
    };
    let limit = if args.limit == 0 { i64::MAX } else { args.limit.into() };
    // Reads one more than is shown, to know whether there are more.
    let tenant = args.tenant.as_ref().map(TenantId::as_str);
    let only = tenant.as_ref().map(std::slice::from_ref);
    let found = status::read(&session, only, order, limit.saturating_add(1)).await;
    let mut tenants = found.map_err(|error| with_remedy(&error))?;
    if let (Some(tenant), true) = (tenant, tenants.is_empty()) {
        return Err(without_events(&session, tenant).await);
    }
    let more = tenants.len() as i64 > limit;
    tenants.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if args.json {
        output::print_json(&TenantsJson { tenants })?;
    } else {
        output::print(&show(&tenants, more, OutputStyle::stdout(), SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Maximum number of tenants that are compared with an unknown one. 10,000: a fraction of a second.
const COMPARED: i64 = 10_000;

/// The error for a tenant that has no events, which names the nearest one that has.
pub(super) async fn without_events(session: &Session, tenant: &str) -> anyhow::Error {
    let tenants = match store::tenants(session, COMPARED).await {
        Ok(tenants) => tenants,
        Err(error) => return with_remedy(&error),
    };
    if tenants.is_empty() {
        return anyhow!("tenant {tenant} has no events; the store has no events at all");
    }
    let near = nearest(tenant, tenants.into_iter());
    anyhow!(
        "tenant {tenant} has no events; the nearest is {near}; `sandmill tenants --by name --limit 0` lists all tenants"
    )
}

/// The table of tenants, followed by their latest refusals and failures.
fn show(tenants: &[TenantStatus], more: bool, style: OutputStyle, now: SystemTime) -> String {
    if tenants.is_empty() {
        return "there are no tenants: the store has no events\n".into();
    }
    use Column::{Number, Text};
    let mut table = Table::new(vec![
        Text("TENANT"),
        Number("CPU"),
        Number("NOW"),
        Number("WAITED"),
        Number("EVENTS"),
        Number("DOCUMENTS"),
        Number("WRITTEN"),
        Number("LAG"),
        Number("AGE"),
        Number("FAILURES"),
    ]);
    for tenant in tenants {
        let behind = (tenant.lag_events > 0 || tenant.lanes_behind > 0).then_some(Tone::Warning);
        let more = if tenant.lag_events_at_least { "≥ " } else { "" };
        table.row(vec![
            Cell::new(&tenant.tenant),
            Cell::new(format!("{:.1} s", tenant.cpu_seconds)),
            Cell::new(format!("{:.2}", tenant.cpu_now)),
            Cell::new(age(tenant.waited_seconds + tenant.throttled_seconds)),
            Cell::new(tenant.events),
            Cell::new(tenant.documents),
            Cell::new(size(tenant.bytes)),
            Cell::new(format!("{more}{}", tenant.lag_events)).tone(behind),
            Cell::new(age(tenant.lag_seconds)),
            Cell::new(tenant.failures).tone((tenant.failures > 0).then_some(Tone::Bad)),
        ]);
    }
    let mut text = table.show(style);
    if more {
        text.push_str("there are more tenants; --limit 0 shows all\n");
    }
    for tenant in tenants {
        if let Some(refusal) = &tenant.last_refusal {
            let calls = output::count(u64::try_from(tenant.refusals).unwrap_or(0), "failed or refused call");
            text.push_str(&format!("{calls} for {}; the latest: {}\n", tenant.tenant, text::one_line(refusal)));
        }
        let Some(error) = &tenant.last_error else { continue };
        let at = tenant.last_error_at.as_deref().and_then(|at| time::parse(at).ok()).map(time::from_micros);
        let ago = at.map_or(0.0, |at| now.duration_since(at).unwrap_or_default().as_secs_f64());
        text.push_str(&format!("latest failure of {}, {} ago: {}\n", tenant.tenant, age(ago), text::one_line(error)));
    }
    text
}

/// A size in the largest unit of which there are at least two.
fn size(bytes: i64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >= 2 << shift) {
        Some((name, shift)) => format!("{} {name}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_a_terminal_and_failures_follow_it() {
        let acme = TenantStatus {
            tenant: "acme".into(),
            cpu_seconds: 1234.56,
            cpu_now: 0.987,
            rate: 5.0,
            waited_seconds: 100.0,
            waited_now: 1.5,
            throttled_seconds: 30.0,
            events: 1_200_000,
            documents: 300_000,
            bytes: 3 << 30,
            lag_events: status::LAG_COUNTED,
            lag_events_at_least: true,
            lag_seconds: 130.0,
            lanes_behind: 1,
            failures: 2,
            refusals: 7,
            last_refusal: Some("log-lines: more than 100 in one call".into()),
            last_error: Some("door-watch: trap: out of bounds\u{1b}[31m".into()),
            last_error_at: Some("2026-01-02T03:04:05Z".into()),
        };
        let now = time::from_micros(time::parse("2026-01-02T03:06:15Z").unwrap());
        let text = show(&[acme], true, OutputStyle { width: Some(96), colours: false }, now);
        assert_eq!(
            text,
            "TENANT       CPU   NOW  WAITED   EVENTS  DOCUMENTS  WRITTEN      LAG    AGE  FAILURES\n\
             acme    1234.6 s  0.99   2 min  1200000     300000    3 GiB  ≥ 10000  2 min         2\n\
             there are more tenants; --limit 0 shows all\n\
             7 failed or refused calls for acme; the latest: log-lines: more than 100 in one call\n\
             latest failure of acme, 2 min ago: door-watch: trap: out of bounds\u{fffd}[31m\n"
        );
    }

    #[test]
    fn sizes_use_the_largest_unit_of_which_there_are_two() {
        assert_eq!([0, 2047, 2048, 5 << 20, 2 << 30].map(size), ["0 B", "2047 B", "2 KiB", "5 MiB", "2 GiB"]);
    }
}
