//! Swaps of plugin versions while 50 tenants append 5,000 events per second, with broken files in
//! between. Also the start of a host with a hundred plugins.
//!
//! A *gap* is the time from the moment when the new file has its name until the new version begins
//! a call that handles an event. It is measured for versions that were compiled before and for new
//! ones. The latency of documents is measured as well, for this processor and for another one
//! beside it. At the end every stream is compared with the log, and its number of versions with the
//! number of swaps.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use sandmill::{
    db::Session,
    plugins::history::{self, HistoryEntry},
};

use crate::{
    backlog,
    host::Process,
    open_loop::OpenLoop,
    report::{Report, quantile},
    soak,
    world::{Database, World, until, view},
};

const PART: &str = "swaps";
const PLUGIN: &str = "scripted";
const COLLECTION: &str = "scripted_log";
/// The plugin of the other processor, which is never swapped.
const OTHER: &str = "scripted-by-stream";
const OTHERS_COLLECTION: &str = "scripted_stream_log";
const TENANTS: u64 = 50;
/// Events per second whose documents are measured, for each of the two processors, and all other
/// events per second.
const WAITED_FOR: u32 = 250;
const IN_BULK: usize = 4_500;
/// Interval between two appends in bulk.
const TICK: Duration = Duration::from_millis(20);
/// Length of the phase with swaps, and of the one without.
const PHASE: Duration = Duration::from_secs(60);
/// Number of new versions in each series of them.
const COLD: usize = 8;
/// Plugins in the folder of the last part.
const HUNDRED: usize = 100;

/// Measures swaps.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = world.database("swaps").await?;
    let folder = world.scratch("swaps")?;
    let as_built = std::fs::read(world.plugin(PLUGIN)?)?;
    place(&folder, &version(&as_built, "V0")?)?;
    std::fs::copy(world.plugin(OTHER)?, folder.join(format!("{OTHER}.wasm")))?;
    Process::start(&world.binaries[0], &database, &folder, &["--until-caught-up"])?.wait().await?;
    let process = Process::start(&world.binaries[0], &database, &folder, &[])?;
    let session = database.db.connect("bench swaps").await?;
    let (own, other) = (
        OpenLoop::new(&database, COLLECTION, TENANTS).await?,
        OpenLoop::new(&database, OTHERS_COLLECTION, TENANTS).await?,
    );
    let mut swaps = Swaps { session, folder: folder.clone(), as_built, done: 0 };

    // The host is idle except for a few events, which the new version needs to handle one.
    let (cold, _) = tokio::try_join!(swaps.cold("I"), own.run(50, Duration::from_secs(12)))?;
    gaps(report, "a version never seen, idle", "600", &cold);

    let load = tokio::spawn(bulk(database.db.connect("bench bulk").await?));
    own.run(WAITED_FOR, Duration::from_secs(3)).await?;
    // Half before the swaps and half after them, because tables and their maintenance grow.
    let quiet = async || tokio::try_join!(own.run(WAITED_FOR, PHASE / 2), other.run(WAITED_FOR, PHASE / 2));
    let (mut without, mut others_without) = quiet().await?;
    let before = swaps.last().await?.map_or(0, |past| past.id);
    let (cached, with, others_with) =
        tokio::try_join!(swaps.cached(PHASE), own.run(WAITED_FOR, PHASE), other.run(WAITED_FOR, PHASE))?;
    let (without_again, others_without_again) = quiet().await?;
    without.extend(without_again);
    others_without.extend(others_without_again);
    gaps(report, "a version compiled before, at 5,000 events/s", "100", &cached);
    let waits = swaps.waits(before).await?;
    gaps(
        report,
        "longest wait of a lane for its first answer of a version, from when its events were ready",
        "20",
        &waits,
    );
    let (cold, _) = tokio::try_join!(swaps.cold("F"), own.run(WAITED_FOR, Duration::from_secs(20)))?;
    gaps(report, "a version never seen, at 5,000 events/s", "1500", &cold);
    load.abort();
    for (what, without, with) in
        [("its documents", &without, &with), ("the other processor's", &others_without, &others_with)]
    {
        for (part, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "most")] {
            let (without, with) = (quantile(without, part), quantile(with, part));
            report.add(PART, format!("append to {what}, no swaps: {name}"), "ms", vec![without]);
            report.add(PART, format!("append to {what}, a swap a second: {name}"), "ms", vec![with]);
            report.add_ratio(PART, format!("append to {what}, with / without: {name}"), &[with], &[without]);
        }
    }
    process.end().await?;
    Process::start(&world.binaries[0], &database, &folder, &["--until-caught-up"])?.wait().await?;
    let events = soak::verify(&database).await?;
    let most = changes(&database).await?;
    report.add(PART, "swaps", "", vec![swaps.done as f64]);
    report.add(PART, "events whose order and number were compared", "", vec![events as f64]);
    report.add(PART, "changes of the version in one stream, at most", "", vec![most as f64]);
    ensure!(most <= swaps.done, "a stream has seen {most} changes of {} swaps", swaps.done);
    Ok(())
}

fn gaps(report: &mut Report, what: &str, aim: &str, gaps: &[f64]) {
    for (part, name) in [(0.5, "p50"), (1.0, "most")] {
        report.add(PART, format!("{what}: {name} (aim: at most {aim})"), "ms", vec![quantile(gaps, part)]);
    }
}

/// A series of swaps.
struct Swaps {
    session: Session,
    folder: std::path::PathBuf,
    as_built: Vec<u8>,
    done: usize,
}

impl Swaps {
    /// Swaps between two versions once a second, with a broken file every five seconds.
    async fn cached(&mut self, lasting: Duration) -> anyhow::Result<Vec<f64>> {
        let versions = [version(&self.as_built, "A")?, version(&self.as_built, "B")?];
        let mut gaps = Vec::new();
        let began = Instant::now();
        for (number, version) in (0..).zip(versions.iter().cycle()) {
            let due = Duration::from_secs(number);
            if due >= lasting {
                break;
            }
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            if number % 5 == 4 {
                let before = self.last().await?.map_or(0, |past| past.id);
                place(&self.folder, &version[..version.len() / 2])?;
                let refused =
                    async || Ok(self.last().await?.is_some_and(|past| past.id > before && past.event == "rejected"));
                until("the broken file is rejected", refused).await?;
            }
            let gap = self.swap(version).await?;
            // The first swap to each version compiles it.
            if number >= 2 {
                gaps.push(gap);
            }
        }
        Ok(gaps)
    }

    /// Swaps to new versions.
    async fn cold(&mut self, series: &str) -> anyhow::Result<Vec<f64>> {
        let mut gaps = Vec::new();
        for number in 0..COLD {
            let version = version(&self.as_built, &unseen(series, number)?)?;
            gaps.push(self.swap(&version).await?);
        }
        Ok(gaps)
    }

    /// Places a version, and waits until it has handled an event. Returns the milliseconds from the
    /// moment when the file had its name until that call began.
    async fn swap(&mut self, version: &[u8]) -> anyhow::Result<f64> {
        let before = self.last().await?.map_or(0, |past| past.id);
        place(&self.folder, version)?;
        let placed = SystemTime::now();
        let mut gap = None;
        until("the version has handled an event", async || {
            let swapped = self.last().await?.filter(|past| past.id > before && past.event == "swapped");
            gap = swapped.and_then(|past| Some((past.at, past.gap_ms?)));
            Ok(gap.is_some())
        })
        .await?;
        let (at, gap) = gap.context("it was seen")?;
        self.done += 1;
        Ok(at.duration_since(placed).unwrap_or_default().as_secs_f64() * 1e3 + gap)
    }

    /// For each swap after an entry of the history, the longest wait of a lane for its first
    /// answer, milliseconds.
    async fn waits(&self, after: i64) -> anyhow::Result<Vec<f64>> {
        let past = history::entries(&self.session, PLUGIN, 1_000).await?;
        Ok(past.iter().filter(|past| past.id > after).filter_map(|past| past.longest_ms).collect())
    }

    /// The last entry of the history.
    async fn last(&self) -> anyhow::Result<Option<HistoryEntry>> {
        Ok(history::entries(&self.session, PLUGIN, 1).await?.pop())
    }
}

/// A new version's name, which no earlier run used, so that its code is not in the cache.
fn unseen(series: &str, number: usize) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
    Ok(format!("{series}{number:02}{:04x}", now & 0xffff))
}

/// The guest with a version's name, which it keeps in its documents.
fn version(as_built: &[u8], name: &str) -> anyhow::Result<Vec<u8>> {
    const MARK: &[u8] = b"scripted-mark-0000000";
    let at = as_built.windows(MARK.len()).position(|window| window == MARK).context("the guest has its mark")?;
    let mut bytes = as_built.to_vec();
    let end = at + MARK.len();
    bytes.get_mut(end - 7..end).context("seven bytes")?.copy_from_slice(format!("{name:_<7}").as_bytes());
    Ok(bytes)
}

/// Writes the plugin's file under another name, and renames it into place.
fn place(folder: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let unfinished = folder.join(".unfinished");
    std::fs::write(&unfinished, bytes)?;
    Ok(std::fs::rename(unfinished, folder.join(format!("{PLUGIN}.wasm")))?)
}

/// Appends events in small batches to each tenant in turn, until it is aborted.
async fn bulk(session: Session) -> anyhow::Result<()> {
    let events = (IN_BULK as f64 * TICK.as_secs_f64()) as usize;
    let began = Instant::now();
    for number in 0_u32.. {
        tokio::time::sleep((TICK * number).saturating_sub(began.elapsed())).await;
        let tenant = format!("live-{}", u64::from(number) % TENANTS);
        backlog::append_to(&session, &tenant, "bulk", "{}", events).await?;
    }
    Ok(())
}

/// The maximum number of version changes in one stream.
async fn changes(database: &Database) -> anyhow::Result<usize> {
    let sql =
        format!("select coalesce(max(json_array_length(data::json->'versions')), 1) - 1 from {}", view(COLLECTION));
    Ok(usize::try_from(database.session.query_one(&sql, &[]).await?.get::<_, i32>(0))?)
}

/// Measures the start of a host with a hundred plugins, compiled before or not: from the start of
/// the process until all plugins are registered, and until each has handled a waiting event.
pub async fn hundred(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = world.database("hundred").await?;
    let folder = world.scratch("hundred")?;
    let as_built = std::fs::read(world.plugin(PLUGIN)?)?;
    for number in 0..HUNDRED {
        // Each plugin is a tenant's own, so it becomes a separate processor.
        let own = folder.join(format!("t{number:03}"));
        std::fs::create_dir(&own)?;
        std::fs::write(own.join(format!("{PLUGIN}.wasm")), version(&as_built, &unseen("H", number)?)?)?;
    }
    let (mut cold, mut cached, mut handled) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..world.rounds.max(2) {
        // The first host creates the tables.
        if round > 0 {
            for number in 0..HUNDRED {
                backlog::append_to(&database.session, &format!("t{number:03}"), "waits", "{}", 1).await?;
            }
        }
        let began = Instant::now();
        let process = Process::start(&world.binaries[0], &database, &folder, &[])?;
        let sql = "select count(*) from sandmill.plugins where digest <> ''";
        // The table does not exist before the first start of a host.
        let running = async || database.session.query_one(sql, &[]).await.map_or(0, |row| row.get::<_, i64>(0));
        until("a hundred plugins run", async || Ok(running().await >= HUNDRED as i64)).await?;
        (if round == 0 { &mut cold } else { &mut cached }).push(began.elapsed().as_secs_f64() * 1e3);
        if round > 0 {
            let sql = format!("select coalesce(sum((data->>'count')::bigint), 0)::bigint from {}", view(COLLECTION));
            let all = (HUNDRED * round) as i64;
            let count = async || Ok(database.session.query_one(&sql, &[]).await?.get::<_, i64>(0) >= all);
            until("each has handled an event", count).await?;
            handled.push(began.elapsed().as_secs_f64() * 1e3);
        }
        process.end().await?;
        database.session.batch_execute("truncate sandmill.plugins").await?;
    }
    report.add(PART, "a start with a hundred plugins, none compiled before", "ms", cold);
    report.add(PART, "a start with a hundred plugins, compiled before (aim: at most 300)", "ms", cached);
    report.add(PART, "the same, until each has handled an event that waited for it", "ms", handled);
    Ok(())
}
