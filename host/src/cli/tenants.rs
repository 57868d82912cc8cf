//! `sandmill tenants`: what each tenant uses and how it stands, as the database tells.

use std::{process::ExitCode, time::SystemTime};

use serde::Serialize;

use super::{
    database::{connect, explain},
    output::{self, Screen, Tone},
    status::age,
    table::{Cell, Column, Table},
};
use crate::{
    db::Db,
    model::{ids::TenantId, text},
    store::time,
    tenants::status::{self, Order, TenantStatus},
};

/// Shows what each tenant uses, and how far it is behind
#[derive(Debug, clap::Args)]
#[command(
    after_help = "CPU is what the tenant's guests have computed, NOW how many cores they keep busy at the moment. HELD is the time in which they could have gone on and \
         others did, or their rates held them back. EVENTS counts each once for every processor that handled it. LAG counts events that some processor \
         has not handled yet (`≥` where there may be more), AGE is how long ago the first of them was recorded.

Examples:
  sandmill tenants
  sandmill tenants acme
  sandmill tenants --by held --limit 5
  sandmill tenants --json --limit 0 | jq '.tenants[] | {tenant, cpuSeconds}'"
)]
pub(super) struct TenantsArgs {
    /// Only this tenant
    #[arg(value_parser = TenantId::parse)]
    tenant: Option<TenantId>,
    /// What they are ordered by
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// At most so many; 0 for all of them
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Print one JSON object: {"tenants": [{"tenant", "cpuSeconds", "cpuNow", "rate", "waitedSeconds", "waitedNow", "throttledSeconds", "events", "documents", "bytes",
    /// "lagEvents", "lagEventsAtLeast", "lagSeconds", "lanesBehind", "failures", "lastError", "lastErrorAt", "refusals", "lastRefusal"}]}
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum By {
    /// Who computes most now, then who did so far
    #[default]
    Cpu,
    /// Who was held back longest
    Held,
    /// Who failed last
    Error,
    /// Their names
    Name,
}

#[derive(Serialize)]
struct Tenants {
    tenants: Vec<TenantStatus>,
}

/// Runs the command.
pub(super) async fn run(args: TenantsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "tenants").await?;
    let order = match args.by {
        By::Cpu => Order::Cpu,
        By::Held => Order::Waited,
        By::Error => Order::Error,
        By::Name => Order::Name,
    };
    let limit = if args.limit == 0 { i64::MAX } else { args.limit.into() };
    // One more than is shown, to know whether there are more.
    let tenant = args.tenant.as_ref().map(TenantId::as_str);
    let only = tenant.as_ref().map(std::slice::from_ref);
    let found = status::read(&session, only, order, limit.saturating_add(1)).await;
    let mut tenants = found.map_err(|error| explain(&error))?;
    if let (Some(tenant), true) = (tenant, tenants.is_empty()) {
        anyhow::bail!(
            "no event of tenant {tenant} is in the store; `sandmill tenants --by name --limit 0` lists those that have some"
        );
    }
    let more = tenants.len() as i64 > limit;
    tenants.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if args.json {
        output::print_json(&Tenants { tenants })?;
    } else {
        output::print(&show(&tenants, more, Screen::stdout(), SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(tenants: &[TenantStatus], more: bool, screen: Screen, now: SystemTime) -> String {
    if tenants.is_empty() {
        return "the store has no events, and so no tenants\n".into();
    }
    use Column::{Number, Text};
    let mut table = Table::new(vec![
        Text("TENANT"),
        Number("CPU"),
        Number("NOW"),
        Number("HELD"),
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
    let mut text = table.show(screen);
    if more {
        text.push_str("there are more; --limit 0 shows all of them\n");
    }
    for tenant in tenants {
        if let Some(refusal) = &tenant.last_refusal {
            let times = output::count(u64::try_from(tenant.refusals).unwrap_or(0), "time");
            text.push_str(&format!(
                "{} was refused something {times}, last: {}\n",
                tenant.tenant,
                text::one_line(refusal)
            ));
        }
        let Some(error) = &tenant.last_error else { continue };
        let at = tenant.last_error_at.as_deref().and_then(|at| time::parse(at).ok()).map(time::from_micros);
        let ago = at.map_or(0.0, |at| now.duration_since(at).unwrap_or_default().as_secs_f64());
        text.push_str(&format!("{}, {} ago: {}\n", tenant.tenant, age(ago), text::one_line(error)));
    }
    text
}

/// Bytes for people.
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
    fn it_fits_a_terminal_and_says_what_went_wrong() {
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
        let text = show(&[acme], true, Screen { width: Some(96), colours: false }, now);
        assert_eq!(
            text,
            "TENANT       CPU   NOW   HELD   EVENTS  DOCUMENTS  WRITTEN      LAG    AGE  FAILURES\n\
             acme    1234.6 s  0.99  2 min  1200000     300000    3 GiB  ≥ 10000  2 min         2\n\
             there are more; --limit 0 shows all of them\n\
             acme was refused something 7 times, last: log-lines: more than 100 in one call\n\
             acme, 2 min ago: door-watch: trap: out of bounds\u{fffd}[31m\n"
        );
    }

    #[test]
    fn sizes_are_in_the_unit_that_says_most() {
        assert_eq!([0, 2047, 2048, 5 << 20, 2 << 30].map(size), ["0 B", "2047 B", "2 KiB", "5 MiB", "2 GiB"]);
    }
}
