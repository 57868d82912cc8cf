//! What hogs get of the guest threads' time: as each event costs the same, by how many of them were handled.

use std::time::Duration;

use crate::{
    backlog, neighbours,
    neighbours::{COLLECTION, hogs},
    report::{Report, median},
    world::{Database, World, until, view},
};

const PART: &str = "shares";
/// So many that none of them meets the limit of threads for one tenant, which is another thing.
const HOGS: usize = 6;
/// What an event computes: little beside a run, so that counting events is counting time.
const EVENT: Duration = Duration::from_millis(2);
/// Events of each: more than one hog could have done meanwhile.
const BACKLOG: usize = 15_000;
/// How long they are counted.
const COUNTED: Duration = Duration::from_secs(12);

/// Measures what each of six gets when all have the same weight, and when one has three times as much.
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

/// How many events of each hog were handled.
async fn handled(world: &World, a_thousand: Duration, arguments: &[&str]) -> anyhow::Result<Vec<f64>> {
    let database = world.database(PART).await?;
    let process = neighbours::start(world, &database, &database.address, arguments).await?;
    let event = hogs::work(EVENT, a_thousand);
    for hog in 0..HOGS {
        backlog::append(&database.session, &hogs::name(hog), 1, &event, BACKLOG).await?;
    }
    // All of them are at work, and none is ahead because it came first.
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
