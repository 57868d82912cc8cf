//! Real flights through two plugins: `route-performance`, a few hundred documents that change all the time, and `plane-log`, some thousand
//! documents and two hashes an event.

use std::path::Path;

use anyhow::Context;
use sandmill::store::import::{Input, import};

use crate::{
    host,
    report::Report,
    world::{Database, World},
};

const PART: &str = "flights";
const REPOSITORY: &str = "example-plugins/data/flights-20000.ndjson.gz";
/// Appends every event once more for each of so many years, in the streams it is in.
const AGAIN: &str = "insert into sandmill.events (tenant, stream, version, type, data, metadata)
  select e.tenant, e.stream, e.version + year * s.version, e.type, e.data, e.metadata
  from generate_series(1, 15) year, sandmill.events e join sandmill.streams s using (tenant, stream)
  order by year, e.position";

/// Measures events a second of each plugin, the host's memory, and statements.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = load(world).await?;
    let events = database.events().await?;
    for name in ["route-performance", "plane-log"] {
        let folder = world.folder(name)?;
        let mut rates = vec![Vec::new(); world.binaries.len()];
        let mut peaks = vec![Vec::new(); world.binaries.len()];
        let mut statements = vec![Vec::new(); world.binaries.len()];
        // The first run of a binary compiles, and is not counted.
        for round in 0..=world.rounds {
            for (which, binary) in world.binaries.iter().enumerate() {
                database.reset().await?;
                let began = std::time::Instant::now();
                let peak = host::Process::start(binary, &database, &folder, &["--until-caught-up"])?.wait().await?;
                let seconds = began.elapsed().as_secs_f64();
                if round > 0 {
                    rates[which].push(events / seconds);
                    peaks[which].push(peak);
                    let (all, pages) = database.statements().await?;
                    statements[which].push(all / pages.max(1.0));
                }
            }
        }
        for (which, label) in ["", ", compared with"].into_iter().take(world.binaries.len()).enumerate() {
            report.add(PART, format!("{name}{label}"), "events/s", std::mem::take(&mut rates[which]));
            report.add(PART, format!("{name}{label}: peak memory"), "MiB", std::mem::take(&mut peaks[which]));
            report.add(PART, format!("{name}{label}: statements a page"), "", std::mem::take(&mut statements[which]));
        }
    }
    Ok(())
}

async fn load(world: &World) -> anyhow::Result<Database> {
    let mut database = world.database("flights").await?;
    let file = world.flights.as_deref().unwrap_or(Path::new(REPOSITORY));
    eprintln!("importing {}", file.display());
    let input = Input::open(file).with_context(|| format!("open {}", file.display()))?;
    import(&mut database.session, input, |_| {}).await?;
    if world.flights.is_none() {
        database.session.batch_execute(AGAIN).await?;
    }
    database.session.batch_execute("vacuum analyze sandmill.events").await?;
    Ok(database)
}
