//! A soak test: half an hour of quiet tenants and changing hogs.
//!
//! Each of ten hogs has bouts of one kind after another (spinning, slow, flooding, trapping, and
//! allocating), with rests in between. Blocked lanes are resumed, and an event that spins, traps or
//! allocates is ordinary at its third attempt. So at the end all events are handled, and every
//! document is compared with the log by a hash chain over the ids of its stream's events. The
//! host's memory is sampled every second, and the lane checkpoints twenty times a second; a
//! checkpoint that exists only between two samples is not counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    backlog, machine,
    neighbours::{self, COLLECTION, PLUGIN, hogs},
    open_loop::{OpenLoop, Shown},
    plot::{Course, Courses},
    report::{Report, quantile},
    world::{Database, World, view},
};

const PART: &str = "soak";
/// Number of quiet tenants, and the appends per second of all of them together.
const TENANTS: u64 = 50;
const RATE: u32 = 100;
const HOGS: usize = 10;
/// Streams of a hog.
const STREAMS: usize = 20;
/// Seconds whose samples are combined to a point of the plot.
const POINT: f64 = 10.0;
/// The longest wait for the last events.
const PATIENCE: Duration = Duration::from_secs(300);

/// Observations of the host; memory with the seconds since the beginning.
#[derive(Default)]
struct Seen {
    memory: Vec<(f64, f64)>,
    left: usize,
    rejoined: usize,
}

/// Runs the soak test for a time, compares all documents with the log, and plots the observations.
pub async fn measure(world: &World, lasting: Duration, svg: &Path, report: &mut Report) -> anyhow::Result<()> {
    let a_thousand = neighbours::pace(world).await?;
    let database = world.database(PART).await?;
    let process = neighbours::start(world, &database, &database.address, &[]).await?;
    let quiet = OpenLoop::new(&database, COLLECTION, TENANTS).await?;
    quiet.run(RATE, Duration::from_secs(2)).await?;

    let insisting = tokio::spawn(hogs::insist(database.db.connect("bench hogs").await?, PLUGIN));
    let (began, ending, watched) = (Instant::now(), AtomicBool::new(false), AtomicBool::new(true));
    let roam = async {
        let bouts = futures_util::future::try_join_all((0..HOGS).map(|hog| roam(&database, hog, a_thousand, &ending)));
        let bouts = bouts.await.map(|bouts| bouts.iter().sum::<usize>());
        watched.store(false, Relaxed);
        bouts
    };
    let quietly = async {
        let shown = quiet.run_timed(RATE, lasting).await;
        ending.store(true, Relaxed);
        shown
    };
    let watch = watch(&database, process.id(), began, &watched);
    let ((shown, _), bouts, seen) = tokio::try_join!(quietly, roam, watch)?;
    insisting.abort();
    let peak = process.peak_memory();
    process.end().await?;
    let events = verify(&database).await?;

    let samples: Vec<f64> = shown.iter().map(|(_, took)| *took).collect();
    for (part, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "most")] {
        report.add(PART, format!("quiet tenants: {name}"), "ms", vec![quantile(&samples, part)]);
    }
    report.add(PART, "bouts of the hogs", "", vec![bouts as f64]);
    report.add(PART, "lanes left behind, at least", "", vec![seen.left as f64]);
    report.add(PART, "lanes that were one with the tail again, at least", "", vec![seen.rejoined as f64]);
    report.add(PART, "events whose order and number were compared", "", vec![events as f64]);
    report.add(PART, "peak memory", "MiB", vec![peak]);
    // The median of each quarter reveals steady growth, regardless of what the hogs just do.
    let quarter = seen.memory.len().div_ceil(4).max(1);
    let memory = seen.memory.chunks(quarter).map(|part| {
        let held: Vec<f64> = part.iter().map(|(_, held)| *held).collect();
        quantile(&held, 0.5)
    });
    report.add(PART, "memory, quarter by quarter", "MiB", memory.collect());
    std::fs::write(svg, draw(&shown, seen, began, lasting)).with_context(|| format!("write {}", svg.display()))?;
    eprintln!("drawn in {}", svg.display());
    Ok(())
}

/// Runs one hog's bouts, each until all of its events are handled. Returns the number of bouts.
async fn roam(database: &Database, hog: usize, a_thousand: Duration, ending: &AtomicBool) -> anyhow::Result<usize> {
    let (session, tenant) = (database.db.connect("bench hog").await?, hogs::name(hog));
    let sql = format!(
        "select coalesce(sum((data->>'count')::bigint), 0)::bigint from {} where _partition = $1",
        view(COLLECTION)
    );
    let handled = session.prepare(&sql).await?;
    let ruin = |deed: &str| json!({"do": deed, "n": 3}).to_string();
    let mut events = 0;
    for bout in 0.. {
        if ending.load(Relaxed) {
            return Ok(bout);
        }
        let (data, count) = match (hog + bout) % 5 {
            0 => (ruin("spin"), 1),
            1 => (hogs::work(hogs::WORK, a_thousand), 60),
            2 => ("{}".into(), 3_000),
            3 => (ruin("trap"), 20),
            _ => (ruin("bomb"), 1),
        };
        backlog::append(&session, &tenant, STREAMS, &data, count).await?;
        events += count as i64;
        let began = Instant::now();
        while session.query_one(&handled, &[&tenant]).await?.get::<_, i64>(0) < events {
            anyhow::ensure!(began.elapsed() < PATIENCE, "{tenant} was never done with {data}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Rests have different lengths, so that the combination of hogs changes.
        let rest = 300 + (hog * 7 + bout * 13) % 10 * 200;
        tokio::time::sleep(Duration::from_millis(rest as u64)).await;
    }
    Ok(0)
}

async fn watch(database: &Database, process: u32, began: Instant, watched: &AtomicBool) -> anyhow::Result<Seen> {
    let session = database.db.connect("bench watch").await?;
    let rows = session.prepare("select tenant from sandmill.lane_checkpoints").await?;
    let (mut seen, mut behind) = (Seen::default(), BTreeSet::new());
    while watched.load(Relaxed) {
        let now: BTreeSet<String> = session.query(&rows, &[]).await?.iter().map(|row| row.get(0)).collect();
        seen.left += now.difference(&behind).count();
        seen.rejoined += behind.difference(&now).count();
        behind = now;
        let at = began.elapsed().as_secs_f64();
        if seen.memory.last().is_none_or(|(last, _)| at - last >= 1.0) {
            seen.memory.extend(machine::memory_now(process).map(|held| (at, held)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(seen)
}

/// Compares every document with its stream's events. Returns the number of events.
pub async fn verify(database: &Database) -> anyhow::Result<usize> {
    let mut expected: BTreeMap<(String, String), (i64, String)> = BTreeMap::new();
    let sql = "select tenant, stream, id from sandmill.events order by tenant, stream, version";
    let events = database.session.query(sql, &[]).await?;
    for row in &events {
        let (count, chain) = expected.entry((row.get(0), row.get(1))).or_insert_with(|| (0, "0".repeat(64)));
        let hash = Sha256::new().chain_update(&*chain).chain_update(row.get::<_, &str>(2)).finalize();
        (*count, *chain) = (*count + 1, hash.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    let sql = format!("select _partition, _id, (data->>'count')::bigint, data->>'chain' from {}", view(COLLECTION));
    let documents = database.session.query(&sql, &[]).await?;
    anyhow::ensure!(documents.len() == expected.len(), "{} documents of {} streams", documents.len(), expected.len());
    for row in &documents {
        let key = (row.get(0), row.get(1));
        let found = (row.get(2), row.get(3));
        anyhow::ensure!(
            expected.get(&key) == Some(&found),
            "{key:?} holds {found:?} and should hold {:?}",
            expected.get(&key)
        );
    }
    Ok(events.len())
}

fn draw(shown: &[Shown], seen: Seen, began: Instant, lasting: Duration) -> String {
    let mut points: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (due, took) in shown {
        points.entry((due.duration_since(began).as_secs_f64() / POINT) as u64).or_default().push(*took);
    }
    let latency = |part: f64| {
        let point = |(number, samples): (&u64, &Vec<f64>)| (*number as f64 * POINT / 60.0, quantile(samples, part));
        points.iter().map(point).collect()
    };
    let memory = seen.memory.into_iter().map(|(at, held)| (at / 60.0, held)).collect();
    Courses {
        title: format!("{} minutes with hogs that come and go", lasting.as_secs() / 60),
        subtitle: format!("the host's memory, and what {TENANTS} quiet tenants notice of {HOGS} hogs"),
        axis: "minutes".into(),
        panels: vec![
            ("memory of the host, MiB".into(), vec![Course { name: "memory".into(), points: memory }]),
            (
                "append to visible, milliseconds, each point ten seconds".into(),
                vec![
                    Course { name: "p50".into(), points: latency(0.5) },
                    Course { name: "p99".into(), points: latency(0.99) },
                ],
            ),
        ],
    }
    .svg()
}
