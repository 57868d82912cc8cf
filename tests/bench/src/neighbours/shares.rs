//! The hogs' shares of the guest threads' time. Each event costs the same, so the number of handled
//! events measures the time.

use std::time::Duration;

use crate::{
    backlog, neighbours,
    neighbours::{COLLECTION, hogs},
    report::{Report, median},
    world::{Database, World, until, view},
};

const PART: &str = "shares";
/// Number of hogs: enough that none of them reaches the limit of threads per tenant.
const HOGS: usize = 6;
/// Computing time of an event: short compared with a run, so that events measure time.
const EVENT: Duration = Duration::from_millis(2);
/// Events of each hog: more than it can handle during the measurement.
const BACKLOG: usize = 15_000;
/// Length of the measurement.
const COUNTED: Duration = Duration::from_secs(12);

/// Measures the share of each of six hogs, with equal weights, and with one of weight 3.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let a_thousand = neighbours::pace(world).await?;
    let (mut spreads, mut threefold) = (Vec::new(), Vec::new());
    let heavy = format!("tenants.{}.weight=3", hogs::name(0));
    for _ in 0..world.rounds {
        let equal = handled(world, a_thousand, &[]).await?;
        let mean = equal.iter().sum::<f64>() / equal.len() as f64;
        spreads.push(equal.iter().map(|one| (one / mean - 1.0).abs() * 100.0).fold(0.0, f64::max));
        let weighted = handled(world, a_thousand, &["--set", &heavy]).await?;
        threefold.push(weighted[0] / median(&weighted[1..]));
        eprintln!("events of each: {equal:?}; the first with three times the weight: {weighted:?}");
    }
    report.add(PART, "equal weights: the farthest from the mean", "%", spreads);
    report.add(PART, "weight 3, beside weight 1", "×", threefold);
    Ok(())
}

/// The number of events that each hog handled.
async fn handled(world: &World, a_thousand: Duration, arguments: &[&str]) -> anyhow::Result<Vec<f64>> {
    let database = world.database(PART).await?;
    let process = neighbours::start(world, &database, &database.address, arguments).await?;
    let event = hogs::work(EVENT, a_thousand);
    for hog in 0..HOGS {
        backlog::append(&database.session, &hogs::name(hog), 1, &event, BACKLOG).await?;
    }
    // The measurement begins when all hogs are active, so that no hog is ahead by its earlier
    // start.
    until("every hog is at work", async || Ok(counts(&database).await?.iter().all(|count| *count >= 500.0))).await?;
    let before = counts(&database).await?;
    tokio::time::sleep(COUNTED).await;
    let after = counts(&database).await?;
    anyhow::ensure!(after.iter().all(|count| *count < BACKLOG as f64), "a hog had nothing left to do");
    drop((process, database));
    world.discard(PART).await?;
    Ok(after.iter().zip(before).map(|(after, before)| after - before).collect())
}

async fn counts(database: &Database) -> anyhow::Result<Vec<f64>> {
    let sql =
        format!("select coalesce(sum((data->>'count')::float8), 0) from {} where _partition = $1", view(COLLECTION));
    let mut counts = Vec::new();
    for hog in 0..HOGS {
        counts.push(database.session.query_one(&sql, &[&hogs::name(hog)]).await?.get(0));
    }
    Ok(counts)
}
