//! The latency from an append to its visible document, with a host in its own process and an
//! open-loop load. It is measured alone, and beside an open transaction that holds an xid, as a
//! forgotten session or a backup does.

use std::time::Duration;

use crate::{
    carts::COLLECTION,
    host,
    open_loop::OpenLoop,
    report::{Report, quantile},
    world::World,
};

const PART: &str = "latency";
/// Appends per second, with the length of a round.
const LOADS: [(u32, Duration); 2] = [(20, Duration::from_secs(10)), (500, Duration::from_secs(5))];

/// Measures the milliseconds from the moment when an append was due until a poller has seen its
/// document.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = world.database("latency").await?;
    let folder = world.folder("cart-summary")?;
    // Creates the tables.
    host::Process::start(&world.binaries[0], &database, &folder, &["--until-caught-up"])?.wait().await?;
    let process = host::Process::start(&world.binaries[0], &database, &folder, &[])?;
    let appends = OpenLoop::new(&database, COLLECTION, 8).await?;
    appends.run(100, Duration::from_secs(2)).await?;

    let forgotten = database.db.connect("bench forgotten").await?;
    for (rate, lasting) in LOADS {
        let mut alone = Vec::new();
        let mut beside = Vec::new();
        let mut append_alone = Vec::new();
        for _ in 0..world.rounds {
            let (shown, acknowledged) = appends.run_both(rate, lasting).await?;
            alone.push(shown);
            append_alone.push(acknowledged);
            let hold = "set idle_in_transaction_session_timeout = 0; begin; select pg_current_xact_id()";
            forgotten.batch_execute(hold).await?;
            beside.push(appends.run(rate, lasting).await?);
            forgotten.batch_execute("commit").await?;
        }
        let cases = [(append_alone, ", the append alone"), (alone, ""), (beside, ", beside an open transaction")];
        for (rounds, label) in cases {
            for (part, name) in [(0.5, "p50"), (0.99, "p99")] {
                let of_rounds = rounds.iter().map(|samples| quantile(samples, part)).collect();
                report.add(PART, format!("{rate}/s{label}: {name}"), "ms", of_rounds);
            }
        }
    }
    report.add(PART, "the host's peak memory", "MiB", vec![process.peak_memory()]);
    Ok(())
}
