//! Real flights through two plugins: `route-performance`, with a few hundred documents that change
//! often, and `plane-log`, with some thousand documents and two hashes per event.

use std::path::Path;

use anyhow::Context;
use sandmill::store::import::{ImportInput, import};

use crate::{
    host,
    report::Report,
    world::{Database, World},
};

const PART: &str = "flights";
const REPOSITORY: &str = "example-plugins/data/flights-20000.ndjson.gz";
/// Appends every event again for each of 15 years, in its own stream.
const AGAIN: &str = "insert into sandmill.events (tenant, stream, version, type, data, metadata)
  select e.tenant, e.stream, e.version + year * s.version, e.type, e.data, e.metadata
  from generate_series(1, 15) year, sandmill.events e join sandmill.streams s using (tenant, stream)
  order by year, e.position";

/// Measures the events per second of each plugin, the host's memory, and the number of statements.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = load(world).await?;
    for name in ["route-performance", "plane-log"] {
        host::compare_binaries(world, &database, name, (PART, name), report).await?;
    }
    Ok(())
}

async fn load(world: &World) -> anyhow::Result<Database> {
    let mut database = world.database("flights").await?;
    let file = world.flights.as_deref().unwrap_or(Path::new(REPOSITORY));
    eprintln!("importing {}", file.display());
    let input = ImportInput::open(file).with_context(|| format!("open {}", file.display()))?;
    import(&mut database.session, input, |_| {}).await?;
    if world.flights.is_none() {
        database.session.batch_execute(AGAIN).await?;
    }
    database.session.batch_execute("vacuum analyze sandmill.events").await?;
    Ok(database)
}
