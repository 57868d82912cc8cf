//! Quiet tenants beside hogs: fifty tenants with five events a second each, and none, one, three or
//! ten hogs of each kind.
//!
//! Every case has its own host and database. The host is the process that users start, with default
//! settings. A sample is the time from the moment when an append was due until a poller has seen
//! its document. The quiet tenants alone are measured first and last. Everything shares one
//! machine: the server, the appends of quiet tenants and hogs, and the poller use the cores too.

pub mod hogs;
pub mod shares;
mod slow_wire;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use sandmill::scheduler::{Class, Scheduler};
use serde_json::json;

use crate::{
    calls, documents, host, machine,
    open_loop::OpenLoop,
    plot::{Dots, Mark},
    report::{Report, median, quantile},
    world::{Database, World},
};
use hogs::{Herd, Kind};
use slow_wire::SlowWire;

const PART: &str = "neighbours";
/// The plugin of all tenants, its processor and its documents.
pub const PLUGIN: &str = "scripted";
/// See [`PLUGIN`].
pub const COLLECTION: &str = "scripted_log";
/// Number of quiet tenants, and the appends per second of all of them together.
const TENANTS: u64 = 50;
const RATE: u32 = 250;
/// Numbers of hogs.
const HOGS: [usize; 3] = [1, 3, 10];
/// The aims for p99 in milliseconds: beside one or three hogs, and beside ten.
const AIMS: [f64; 2] = [25.0, 50.0];
/// Warm-up of the quiet tenants, and then of the hogs, before the measurement.
const WARM: Duration = Duration::from_secs(2);

/// Options of this benchmark.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// neighbours: seconds of each case
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub seconds: u64,
    /// neighbours: only hogs of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    pub only: Vec<Kind>,
    /// neighbours, soak: the file for the plot [default: beside the JSON]
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// One case.
struct Cell {
    beside: Option<(Kind, usize)>,
    p50: f64,
    p99: f64,
    worst: f64,
    samples: usize,
    /// Cores used by the host, and by everything else except this process: mostly the server.
    host: f64,
    rest: f64,
    memory: f64,
}

/// Measures all cases, and plots them.
pub async fn measure(world: &World, options: &Options, svg: &Path, report: &mut Report) -> anyhow::Result<()> {
    let a_thousand = pace(world).await?;
    report.add(PART, "a million turns of the guest's loop", "ms", vec![a_thousand.as_secs_f64() * 1e6]);
    let kinds: Vec<Kind> = match &options.only[..] {
        [] => <Kind as clap::ValueEnum>::value_variants().to_vec(),
        only => only.to_vec(),
    };
    let mut cells = vec![cell(world, options, a_thousand, None).await?];
    for kind in kinds {
        for hogs in HOGS {
            cells.push(cell(world, options, a_thousand, Some((kind, hogs))).await?);
        }
    }
    cells.push(cell(world, options, a_thousand, None).await?);

    let alone =
        |of: fn(&Cell) -> f64| median(&cells.iter().filter(|cell| cell.beside.is_none()).map(of).collect::<Vec<_>>());
    let (p50, p99) = (alone(|cell| cell.p50), alone(|cell| cell.p99));
    let rows = cells.iter().map(|cell| {
        let figures =
            [cell.p50, cell.p99, cell.worst, cell.p50 / p50, cell.p99 / p99, cell.host, cell.rest, cell.memory];
        (cell.words(), figures.to_vec())
    });
    let heads = ["p50 ms", "p99 ms", "most ms", "p50 ×", "p99 ×", "host cores", "rest cores", "host MiB"];
    report.add_table(PART, "quiet tenants beside", &heads, rows.collect());
    let lower = cells.iter().map(|cell| cell.samples).min().unwrap_or(0);
    report.add(PART, "samples of each case, at least", "", vec![lower as f64]);
    std::fs::write(svg, draw(&cells, p99)).with_context(|| format!("write {}", svg.display()))?;
    eprintln!("drawn in {}", svg.display());
    Ok(())
}

/// The time of a thousand iterations of the guest's loop: the best of several calls, because other
/// processes may use the cores.
pub async fn pace(world: &World) -> anyhow::Result<Duration> {
    let scheduler = Scheduler::start(&world.config(Path::new(""))?.scheduler)?;
    let handler = host::plugin(world, PLUGIN)?.handler;
    let thousands = 20_000;
    let batch =
        std::sync::Arc::new(calls::batch(&"acme".parse()?, 1, 1, &json!({"do": "work", "n": thousands}).to_string())?);
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let none = std::sync::Arc::new(documents::InMemory([].into()));
        let began = Instant::now();
        let call = scheduler.run(
            &batch.lane.tenant,
            Class::Live,
            &std::sync::Arc::default(),
            handler.clone().handle(batch.clone(), none),
        );
        call.await.map_err(|failure| anyhow!("a call failed: {failure:?}"))?;
        best = best.min(began.elapsed());
    }
    Ok(best / thousands)
}

async fn cell(
    world: &World,
    options: &Options,
    a_thousand: Duration,
    beside: Option<(Kind, usize)>,
) -> anyhow::Result<Cell> {
    let database = world.database(PART).await?;
    let wire = matches!(beside, Some((Kind::SlowReads, _))).then(|| SlowWire::open(world)).transpose()?;
    let address = wire.as_ref().map_or_else(|| database.address.clone(), |wire| wire.address(PART));
    let process = start(world, &database, &address, &[]).await?;
    let quiet = OpenLoop::new(&database, COLLECTION, TENANTS).await?;
    quiet.run(RATE, WARM).await?;
    let herd = match beside {
        Some((kind, hogs)) => Some(Herd::start(kind, hogs, &database, PLUGIN, a_thousand).await?),
        None => None,
    };
    // A flood begins with the measurement, because its first second is its worst. The other hogs
    // begin before, because their steady state is measured.
    if !matches!(beside, Some((Kind::Flood, _))) {
        quiet.run(RATE, WARM).await?;
    }
    if let Some(herd) = &herd {
        herd.now();
    }
    let spent = || -> Option<[f64; 3]> {
        let process = [machine::cpu_seconds(process.id())?, machine::cpu_seconds(std::process::id())?];
        Some([process[0], process[1], machine::busy_seconds()?])
    };
    let (began, before) = (Instant::now(), spent());
    let samples = quiet.run(RATE, Duration::from_secs(options.seconds)).await?;
    let (lasted, after) = (began.elapsed().as_secs_f64(), spent());
    let cores = |of: fn([f64; 3]) -> f64| match (before, after) {
        (Some(before), Some(after)) => (of(after) - of(before)) / lasted,
        _ => f64::NAN,
    };
    let cell = Cell {
        beside,
        p50: quantile(&samples, 0.5),
        p99: quantile(&samples, 0.99),
        worst: quantile(&samples, 1.0),
        samples: samples.len(),
        host: cores(|[host, ..]| host),
        rest: cores(|[host, own, all]| all - host - own),
        memory: process.peak_memory(),
    };
    eprintln!("beside {}: p50 {:.1} ms, p99 {:.1} ms, most {:.0} ms", cell.words(), cell.p50, cell.p99, cell.worst);
    drop((herd, process, quiet, database));
    world.discard(PART).await?;
    Ok(cell)
}

/// Starts the host as users do, on a database with the plugin's tables.
pub async fn start(
    world: &World,
    database: &Database,
    address: &str,
    arguments: &[&str],
) -> anyhow::Result<host::Process> {
    let folder = world.folder(PLUGIN)?;
    // Creates the tables.
    host::Process::start(&world.binaries[0], database, &folder, &["--until-caught-up"])?.wait().await?;
    let log = world.scratch("logs")?.join("host.log");
    host::Process::start_talking(&world.binaries[0], address, &folder, arguments, &log)
}

impl Cell {
    fn words(&self) -> String {
        match self.beside {
            None => "nobody".into(),
            Some((kind, hogs)) => format!("{hogs:>2} × {}", kind.words()),
        }
    }
}

fn draw(cells: &[Cell], alone: f64) -> String {
    let mut rows: Vec<(String, Vec<Mark>)> = Vec::new();
    for cell in cells {
        let (name, series) = match cell.beside {
            None => ("nobody", 0),
            Some((kind, hogs)) => (kind.words(), 1 + HOGS.iter().position(|one| *one == hogs).unwrap_or(0)),
        };
        let mark = Mark { series, low: cell.p50, high: cell.p99 };
        match rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, marks)) => marks.push(mark),
            None => rows.push((name.into(), vec![mark])),
        }
    }
    Dots {
        title: "Quiet tenants beside hogs".into(),
        subtitle: format!(
            "{TENANTS} tenants with {} events a second each, from the moment an append was due until its document shows",
            u64::from(RATE) / TENANTS
        ),
        axis: "milliseconds, p50 (tick) to p99 (dot), logarithmic".into(),
        series: std::iter::once("alone".to_string())
            .chain(HOGS.map(|hogs| format!("{hogs} hog{}", if hogs == 1 { "" } else { "s" })))
            .collect(),
        lines: vec![
            (alone, "p99 alone".into()),
            (AIMS[0], "aim: 25".into()),
            (AIMS[1], "beside 10: 50".into()),
        ],
        rows,
    }
    .svg()
}
