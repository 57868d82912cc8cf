//! Benchmarks: the costs of Sandmill, compared with lower bounds.
//!
//! Every part compares within one run. The candidates take turns, round after round, and the median
//! is reported, because machines are noisy and noise comes in bursts. The private server runs with
//! `fsync` on, as in production. A table goes to stdout, the same figures as JSON to a file,
//! and progress to stderr. The benchmarks do not judge the figures.

mod backlog;
mod blocked;
mod calls;
mod carts;
mod density;
mod detach;
mod documents;
mod failing;
mod flights;
mod floor;
mod folding;
mod host;
mod languages;
mod latency;
mod machine;
mod neighbours;
mod open_loop;
mod plot;
mod report;
mod soak;
mod swaps;
mod world;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};

use report::Report;
use world::World;

/// Measures Sandmill against native code, a hand-written loop and the raw database.
#[derive(Debug, Parser)]
#[command(name = "sandmill-bench", max_term_width = 100)]
struct Arguments {
    /// What to measure [default: flights, carts, latency and calls]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Rounds, in each of which every candidate takes a turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The binary to measure as a process, and to compile with [default: `sandmill` beside this
    /// one]
    #[arg(long, value_name = "FILE")]
    sandmill: Option<PathBuf>,
    /// Another binary of the host, which takes turns with the first
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// The folder with the example plugins
    #[arg(long, value_name = "DIR", default_value = "target/plugins")]
    plugins: PathBuf,
    /// cpu: more folders with the example plugins, which take turns with the first; flights, carts
    /// and density: the folder for the binary of --against
    #[arg(long, value_name = "DIR")]
    against_plugins: Vec<PathBuf>,
    /// Flights to import [default: the 20,000 of the repository, sixteen times over]
    #[arg(long, value_name = "FILE")]
    flights: Option<PathBuf>,
    /// The file for the figures as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
    #[command(flatten)]
    neighbours: neighbours::Options,
    /// soak: its length in minutes
    #[arg(long, default_value_t = 30, value_name = "N")]
    minutes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Real flights through two plugins
    Flights,
    /// Mixed events of many carts: a plugin, native code in its place, a hand-written loop, reading
    /// alone
    Carts,
    /// From an append to the document that contains it
    Latency,
    /// One call of a plugin
    Calls,
    /// CPU time of calls: each folder's plugin, and native code in its place
    Cpu,
    /// The same plugin in Rust, JavaScript and Python
    Languages,
    /// A tenant that is far too slow for its events, and its neighbours
    Detach,
    /// Quiet tenants beside hogs of all kinds
    Neighbours,
    /// The hogs' shares of the guest threads' time, by their weights
    Shares,
    /// The same events and carts in one, a hundred, a thousand and ten thousand tenants
    Density,
    /// Quiet tenants and changing hogs for half an hour, with a check of all documents
    Soak,
    /// The cost of very many blocked lanes
    Blocked,
    /// Ninety tenants beside ten that fail, each in its own way
    Failing,
    /// Swaps of plugin versions under load
    Swaps,
    /// The start of a host with a hundred plugins
    Hundred,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let needs_server = |part: &Part| !matches!(part, Part::Calls | Part::Cpu | Part::Languages);
    let needs_server = arguments.parts.is_empty() || arguments.parts.iter().any(needs_server);
    let world = World::new(&arguments, needs_server).await?;
    let mut report = Report::new(&world);
    let wanted = |part| match &arguments.parts[..] {
        [] => matches!(part, Part::Flights | Part::Carts | Part::Latency | Part::Calls),
        parts => parts.contains(&part),
    };
    if wanted(Part::Flights) {
        flights::measure(&world, &mut report).await?;
    }
    if wanted(Part::Carts) {
        carts::measure(&world, &mut report).await?;
    }
    if wanted(Part::Latency) {
        latency::measure(&world, &mut report).await?;
    }
    if wanted(Part::Calls) {
        calls::measure(&world, &mut report).await?;
    }
    if wanted(Part::Cpu) {
        calls::cpu::measure(&world, &mut report)?;
    }
    if wanted(Part::Languages) {
        languages::measure(&world, &mut report).await?;
    }
    if wanted(Part::Detach) {
        detach::measure(&world, &mut report).await?;
    }
    let svg = arguments.neighbours.svg.clone().unwrap_or_else(|| arguments.json.with_extension("svg"));
    if wanted(Part::Neighbours) {
        neighbours::measure(&world, &arguments.neighbours, &svg, &mut report).await?;
    }
    if wanted(Part::Shares) {
        neighbours::shares::measure(&world, &mut report).await?;
    }
    if wanted(Part::Swaps) {
        swaps::measure(&world, &mut report).await?;
    }
    if wanted(Part::Hundred) {
        swaps::hundred(&world, &mut report).await?;
    }
    if wanted(Part::Density) {
        density::measure(&world, &mut report).await?;
    }
    if wanted(Part::Blocked) {
        blocked::measure(&world, &mut report).await?;
    }
    if wanted(Part::Failing) {
        failing::measure(&world, &mut report).await?;
    }
    if wanted(Part::Soak) {
        soak::measure(&world, Duration::from_secs(60 * arguments.minutes), &svg, &mut report).await?;
    }
    report.finish(&arguments.json)
}
