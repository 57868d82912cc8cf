//! The cost of many tenants: the same 200,000 events of the same 10,000 carts, which belong to one,
//! a hundred, a thousand or ten thousand tenants.
//!
//! Each case has its own database, prepared before the measurements. The host is the process that
//! users start, with room for more warm instances, and handles all events. A start without events
//! is measured as well, and subtracted from the cost of an event.

use std::{path::Path, time::Instant};

use crate::{
    carts::COLLECTION,
    host::{Process, Used},
    report::{Report, median},
    world::{Database, World, view},
};

const PART: &str = "density";
const TENANTS: [usize; 4] = [1, 100, 1_000, 10_000];
/// Settings for many tenants.
const SETTINGS: [&str; 6] =
    ["--set", "limits.warm-instances=2000", "--set", "limits.instances=4000", "--set", "limits.plugin-memory-mib=8192"];

/// The measurements of one binary in one case, round by round.
#[derive(Clone, Default)]
struct Case {
    rates: Vec<f64>,
    /// Microseconds per event, without the start.
    costs: Vec<f64>,
    /// The host's CPU time per event, without the start, microseconds.
    cpu: Vec<f64>,
    peaks: Vec<f64>,
    unshared_peaks: Vec<f64>,
    starts: Vec<f64>,
}

/// Measures all cases in turns.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let folders = world.folders("cart-summary")?;
    let mut databases = Vec::new();
    for tenants in TENANTS {
        databases.push(load(world, tenants).await?);
    }
    let hosts: Vec<(&Path, &Path)> =
        world.binaries.iter().zip(&folders).map(|(binary, folder)| (&**binary, &**folder)).collect();
    let mut cases = vec![<[Case; TENANTS.len()]>::default(); hosts.len()];
    // The first run of a binary compiles, and is not measured.
    for host in &hosts {
        run(*host, &databases[0]).await?;
    }
    for round in 0..world.rounds {
        let mut made = Vec::new();
        for turn in 0..TENANTS.len() * hosts.len() {
            // The order rotates, because each run is affected by the state that the previous one
            // left.
            let (which, host) = ((turn / hosts.len() + round) % TENANTS.len(), (turn + round) % hosts.len());
            let (database, case) = (&databases[which], &mut cases[host][which]);
            database.reset().await?;
            let (seconds, used) = run(hosts[host], database).await?;
            let (start, idle) = run(hosts[host], database).await?;
            let events = database.events().await?;
            case.rates.push(events / seconds);
            case.costs.push((seconds - start) / events * 1e6);
            case.cpu.push((used.cpu - idle.cpu) / events * 1e6);
            case.peaks.push(used.peak);
            case.unshared_peaks.push(used.unshared_peak);
            case.starts.push(start);
            made.push(carts(database).await?);
            eprintln!("{} tenants: {:.0} events/s, {:.0} MiB", TENANTS[which], events / seconds, used.peak);
        }
        anyhow::ensure!(made.iter().all(|one| *one == made[0]), "the carts differ: {made:?}");
    }
    for (cases, against) in cases.into_iter().zip(["", ", compared with"]) {
        let ratio =
            |of: fn(&Case) -> &[f64], above: usize, below: usize| median(of(&cases[above])) / median(of(&cases[below]));
        let many = ratio(|case| &case.rates, 3, 0);
        let dearer = ratio(|case| &case.costs, 3, 2);
        for (Case { rates, costs, cpu, peaks, unshared_peaks, starts }, tenants) in cases.into_iter().zip(TENANTS) {
            let aim = if tenants == 10_000 { " (aim: at most 300)" } else { "" };
            let case = format!("{tenants} tenants{against}");
            report.add(PART, case.clone(), "events/s", rates);
            report.add(PART, format!("{case}: an event, without the start"), "µs", costs);
            report.add(PART, format!("{case}: the host's CPU time for an event"), "µs", cpu);
            report.add(PART, format!("{case}: a start with nothing to do"), "s", starts);
            report.add(PART, format!("{case}: peak memory, shared pages counted for each instance"), "MiB", peaks);
            report.add(PART, format!("{case}: peak memory without shared pages{aim}"), "MiB", unshared_peaks);
        }
        report.add(PART, format!("rate of 10,000 tenants / one{against} (aim: at least 0.55)"), "×", vec![many]);
        report.add(
            PART,
            format!("cost of an event, 10,000 tenants / 1,000{against} (aim: at most 2)"),
            "×",
            vec![dearer],
        );
    }
    Ok(())
}

async fn run((binary, folder): (&Path, &Path), database: &Database) -> anyhow::Result<(f64, Used)> {
    let began = Instant::now();
    let arguments = [&SETTINGS[..], &["--until-caught-up"]].concat();
    let used = Process::start(binary, database, folder, &arguments)?.wait().await?;
    Ok((began.elapsed().as_secs_f64(), used))
}

/// Creates a database with the events of [`carts`](crate::carts), spread over `tenants` tenants.
async fn load(world: &World, tenants: usize) -> anyhow::Result<Database> {
    let database = world.database(&format!("{PART}_{tenants}")).await?;
    eprintln!("making 200,000 events of {tenants} tenants");
    database.session.batch_execute(&crate::carts::events(tenants)).await?;
    database.session.batch_execute("vacuum analyze sandmill.events").await?;
    Ok(database)
}

/// The sums over all carts.
async fn carts(database: &Database) -> anyhow::Result<(i64, f64, f64)> {
    let sql = format!(
        "select count(*), sum((data->>'items')::float8), sum((data->>'total')::float8) from {}",
        view(COLLECTION)
    );
    let row = database.session.query_one(&sql, &[]).await?;
    Ok((row.get(0), row.get(1), row.get(2)))
}
