//! The cost of very many blocked lanes: a host whose plugin has stopped on 60,000 streams of one
//! tenant, compared with a host without blocked lanes.
//!
//! Both hosts are restarted, so that the cost of blocking the lanes is separate from the cost of
//! having them. Each host is measured while it is idle, then beside quiet tenants that append, and
//! its status is read.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    host::Process,
    machine,
    open_loop::OpenLoop,
    report::{Report, quantile},
    world::{Database, World, until},
};

const PART: &str = "blocked";
const PLUGIN: &str = "scripted-by-stream";
const COLLECTION: &str = "scripted_stream_log";
const LANES: i64 = 60_000;
/// Bytes of the message that each lane stops with: about as much as the host stores.
const MESSAGE: usize = 900;
/// Length of the measurement of the idle host.
const ALONE: Duration = Duration::from_secs(10);
/// Length of the measurement beside quiet tenants, and their appends per second.
const MEASURED: Duration = Duration::from_secs(15);
const RATE: u32 = 50;

/// The measurements of one host.
struct Measurements {
    /// CPU time of the idle host, percent of one core.
    idle_percent: f64,
    /// CPU time beside quiet tenants, percent of one core.
    busy_percent: f64,
    mib: f64,
    p50: f64,
    p99: f64,
    status_ms: f64,
    status_kib: f64,
}

/// Measures both hosts.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let folder = world.folder(PLUGIN)?;
    let none = world.database("blocked_none").await?;
    let many = world.database("blocked_many").await?;
    let sql = "select count(*) from generate_series(1, $1::bigint) n,
               sandmill.append('hog', 's' || n, '{Scripted}', array[json_build_object('do', 'stop', 'code', 'closed', 'message', repeat('x', $2::int) || n)])";
    many.session.query_one(sql, &[&LANES, &(MESSAGE as i32)]).await?;
    let binary = &world.binaries[0];

    let began = Instant::now();
    let host = Process::start(binary, &many, &folder, &[])?;
    until("all lanes are blocked", async || Ok(blocked(&many).await? == LANES)).await?;
    report.add(PART, format!("until {LANES} lanes are blocked"), "s", vec![began.elapsed().as_secs_f64()]);
    report.add(PART, "peak memory meanwhile", "MiB", vec![host.peak_memory()]);
    host.end().await?;

    let mut measured = Vec::new();
    for database in [&none, &many] {
        measured.push(measure_host(binary, database, &folder).await?);
    }
    anyhow::ensure!(blocked(&many).await? == LANES, "lanes continued that nobody resumed");
    for (which, one) in ["none", "all"].iter().zip(&measured) {
        let what = |what: &str| format!("{what}, {which} of {LANES} lanes blocked");
        report.add(PART, what("CPU of the idle host"), "%", vec![one.idle_percent]);
        report.add(PART, what("CPU of the host beside quiet tenants"), "%", vec![one.busy_percent]);
        report.add(PART, what("memory after a start"), "MiB", vec![one.mib]);
        report.add(PART, what("a quiet tenant's document, median"), "ms", vec![one.p50]);
        report.add(PART, what("a quiet tenant's document, p99"), "ms", vec![one.p99]);
        report.add(PART, what("`status --json`"), "ms", vec![one.status_ms]);
        report.add(PART, what("`status --json`"), "KiB", vec![one.status_kib]);
    }
    let [none, many] = &measured[..] else { anyhow::bail!("two hosts were measured") };
    report.add(PART, "CPU for blocked lanes (aim: at most 2)", "%", vec![many.idle_percent - none.idle_percent]);
    report.add(PART, "the same beside quiet tenants", "%", vec![many.busy_percent - none.busy_percent]);
    report.add(PART, "memory for blocked lanes (aim: at most 32)", "MiB", vec![many.mib - none.mib]);
    Ok(())
}

async fn measure_host(binary: &Path, database: &Database, folder: &Path) -> anyhow::Result<Measurements> {
    let host = Process::start(binary, database, folder, &[])?;
    // The collection exists once the plugin has begun.
    until("the plugin runs", async || {
        let sql = "select to_regclass('public.scripted_stream_log') is not null";
        Ok(database.session.query_one(sql, &[]).await?.get(0))
    })
    .await?;
    let quiet = OpenLoop::new(database, COLLECTION, 8).await?;
    quiet.run(RATE, Duration::from_secs(3)).await?;
    let cpu = || machine::cpu_seconds(host.id()).context("read the host's CPU time");
    let (before, began) = (cpu()?, Instant::now());
    tokio::time::sleep(ALONE).await;
    let idle_percent = (cpu()? - before) / began.elapsed().as_secs_f64() * 100.0;
    let (before, began) = (cpu()?, Instant::now());
    let samples = quiet.run(RATE, MEASURED).await?;
    let busy_percent = (cpu()? - before) / began.elapsed().as_secs_f64() * 100.0;
    let mib = machine::memory_now(host.id()).context("read the host's memory")?;
    let began = Instant::now();
    let status = Command::new(binary).args(["status", "--json"]).env("DATABASE_URL", &database.address).output()?;
    anyhow::ensure!(status.status.success(), "status: {}", String::from_utf8_lossy(&status.stderr));
    let status_ms = began.elapsed().as_secs_f64() * 1e3;
    host.end().await?;
    Ok(Measurements {
        idle_percent,
        busy_percent,
        mib,
        p50: quantile(&samples, 0.5),
        p99: quantile(&samples, 0.99),
        status_ms,
        status_kib: status.stdout.len() as f64 / 1024.0,
    })
}

async fn blocked(database: &Database) -> anyhow::Result<i64> {
    let sql = "select count(*) from sandmill.lane_checkpoints where state = 'blocked'";
    Ok(database.session.query_one(sql, &[]).await?.get(0))
}
