//! The latency from an append to its visible document, with a host in its own process and an
//! open-loop load. It is measured alone, and beside an open transaction that holds an xid, as a
//! forgotten session or a backup does. The costs of noticing appends are measured as well: queries
//! and CPU time of an idle host, and CPU time under the load.

use std::time::{Duration, Instant};

use anyhow::Context;
use sandmill::db::Session;

use crate::{
    carts::COLLECTION,
    host::Process,
    machine,
    open_loop::OpenLoop,
    report::{Report, quantile},
    world::{Database, World},
};

const PART: &str = "latency";
/// Appends per second, with the length of a round.
const LOADS: [(u32, Duration); 2] = [(20, Duration::from_secs(10)), (500, Duration::from_secs(5))];
/// Time for which the host is idle.
const IDLE: Duration = Duration::from_secs(10);
/// Time after which polls of a host without appends are rare.
const CALM: Duration = Duration::from_secs(2);

/// The figures of one binary: each with its unit, and one sample for each round.
type Figures = Vec<(String, &'static str, Vec<f64>)>;

/// Measures the milliseconds from the moment when an append was due until a poller has seen its
/// document. Binaries take turns.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = world.database("latency").await?;
    let folders = world.folders("cart-summary")?;
    // Creates the tables.
    Process::start(&world.binaries[0], &database, &folders[0], &["--until-caught-up"])?.wait().await?;
    let appends = OpenLoop::new(&database, COLLECTION, 8).await?;
    let forgotten = database.db.connect("bench forgotten").await?;
    let mut figures = vec![Figures::new(); world.binaries.len()];
    for round in 0..world.rounds {
        for turn in 0..world.binaries.len() {
            let which = (turn + round) % world.binaries.len();
            let process = Process::start(&world.binaries[which], &database, &folders[which], &[])?;
            let mut of_round = of_process(&process, &database, &appends, &forgotten).await?;
            of_round.push(("the host's peak memory".into(), "MiB", process.peak_memory()));
            process.end().await?;
            for (number, (what, unit, sample)) in of_round.into_iter().enumerate() {
                match figures[which].get_mut(number) {
                    Some((_, _, samples)) => samples.push(sample),
                    None => figures[which].push((what, unit, vec![sample])),
                }
            }
        }
    }
    for (figures, against) in figures.into_iter().zip(["", ", compared with"]) {
        for (what, unit, samples) in figures {
            report.add(PART, format!("{what}{against}"), unit, samples);
        }
    }
    Ok(())
}

/// Measures one process: each figure with its unit.
async fn of_process(
    process: &Process,
    database: &Database,
    appends: &OpenLoop,
    forgotten: &Session,
) -> anyhow::Result<Vec<(String, &'static str, f64)>> {
    let mut figures = Vec::new();
    appends.run(100, Duration::from_secs(2)).await?;
    for (rate, lasting) in LOADS {
        let began = Usage::now(process, database).await?;
        let (alone, append) = appends.run_both(rate, lasting).await?;
        let (cpu, queries) = began.elapsed(process, database).await?;
        let hold = "set idle_in_transaction_session_timeout = 0; begin; select pg_current_xact_id()";
        forgotten.batch_execute(hold).await?;
        let beside = appends.run(rate, lasting).await?;
        forgotten.batch_execute("commit").await?;
        let cases = [(&append, ", the append alone"), (&alone, ""), (&beside, ", beside an open transaction")];
        for (samples, label) in cases {
            for (part, name) in [(0.5, "p50"), (0.99, "p99")] {
                figures.push((format!("{rate}/s{label}: {name}"), "ms", quantile(samples, part)));
            }
        }
        let over = quantile(&alone, 0.99) - quantile(&append, 0.99);
        figures.push((format!("{rate}/s: p99 over the append's own"), "ms", over));
        figures.push((format!("{rate}/s: CPU time of the host"), "% of a core", cpu));
        figures.push((format!("{rate}/s: statements"), "/s", queries));
    }
    tokio::time::sleep(CALM).await;
    let began = Usage::now(process, database).await?;
    tokio::time::sleep(IDLE).await;
    let (cpu, queries) = began.elapsed(process, database).await?;
    figures.push(("idle: CPU time of the host".into(), "% of a core", cpu));
    figures.push(("idle: statements".into(), "/s", queries));
    Ok(figures)
}

/// CPU time and statements so far.
struct Usage {
    at: Instant,
    cpu: f64,
    statements: f64,
}

impl Usage {
    async fn now(process: &Process, database: &Database) -> anyhow::Result<Self> {
        let sql = "select sum(calls)::float8 from public.pg_stat_statements s join pg_database d on d.oid = s.dbid where datname = current_database()";
        let statements = database.session.query_one(sql, &[]).await?.get(0);
        Ok(Usage { at: Instant::now(), cpu: machine::cpu_seconds(process.id()).context("CPU time")?, statements })
    }

    /// Since then: CPU time of the host in percent of a core, and statements a second of all
    /// clients.
    async fn elapsed(self, process: &Process, database: &Database) -> anyhow::Result<(f64, f64)> {
        let now = Usage::now(process, database).await?;
        let seconds = (now.at - self.at).as_secs_f64();
        Ok(((now.cpu - self.cpu) / seconds * 100.0, (now.statements - self.statements) / seconds))
    }
}
