//! Hogs: tenants that misuse the host in different ways.
//!
//! Hogs and quiet tenants use the same plugin `scripted`, which does what an event's data requests,
//! so they share a processor, a ring and a cache. A limit or a trap blocks a hog's lane. A task
//! polls for such lanes every 20 ms and resumes them, like an impatient operator with a script. The
//! host notices that within a quarter of a second, so those hogs rest that long between two
//! attempts.

use std::{sync::Arc, time::Duration};

use clap::ValueEnum;
use sandmill::{db::Session, processor::lane_checkpoints};
use serde_json::json;
use tokio::sync::Notify;

use crate::{backlog, world::Database};

/// The behaviour of a hog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// One event that never ends: it computes up to its CPU limit, blocks, is resumed
    Spin,
    /// 30,000 cheap events at once when the measurement begins, then 3,000 a second, over all hogs
    Flood,
    /// A backlog of events that compute 25 ms each
    Work,
    /// One event that allocates up to its memory limit, blocks, is resumed
    Memory,
    /// A backlog of events that log 20,000 lines each, of which the host drops all but 100 a call
    Log,
    /// A backlog of events that trap: each batch is halved down to one event, blocks, is resumed
    Trap,
    /// 20 events a second per hog, whose documents are read over a connection that delays answers
    /// about hogs by 50 ms
    SlowReads,
    /// A backlog of events that read 2,000 documents each
    ManyReads,
    /// A backlog of 1,000 events of 1 MB, over all hogs
    Large,
}

/// Events of the flood's burst, and events per second after it.
const BURST: usize = 30_000;
const FLOOD: usize = 3_000;
/// Interval between two appends of a flood or of slow reads.
const TICK: Duration = Duration::from_millis(50);
/// Computing time of an event of `work`.
pub const WORK: Duration = Duration::from_millis(25);
/// Bytes of a large event.
const LARGE: usize = 1_000_000;
/// Streams of a hog.
const STREAMS: usize = 50;

impl Kind {
    /// Its name in tables.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Spin => "spin",
            Kind::Flood => "flood",
            Kind::Work => "25 ms an event",
            Kind::Memory => "memory bomb",
            Kind::Log => "log flood",
            Kind::Trap => "trap storm",
            Kind::SlowReads => "slow reads",
            Kind::ManyReads => "2,000 reads an event",
            Kind::Large => "1,000 events of 1 MB",
        }
    }
}

/// The name of a hog.
pub fn name(number: usize) -> String {
    format!("hog-{number}")
}

/// An event that computes for a time, given the time of a thousand iterations of the guest's loop.
pub fn work(lasting: Duration, a_thousand: Duration) -> String {
    let thousands = (lasting.as_secs_f64() / a_thousand.as_secs_f64()).ceil();
    json!({"do": "work", "n": thousands as u32}).to_string()
}

/// A set of active hogs, which end when it is dropped.
pub struct Herd {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    burst: Arc<Notify>,
}

impl Herd {
    /// Starts hogs of one kind. Their backlog is complete when this returns, except for the burst
    /// of a flood.
    pub async fn start(
        kind: Kind,
        hogs: usize,
        database: &Database,
        processor: &'static str,
        a_thousand: Duration,
    ) -> anyhow::Result<Self> {
        let session = database.db.connect("bench hogs").await?;
        let (data, count) = match kind {
            Kind::Spin => (json!({"do": "spin"}).to_string(), 1),
            Kind::Memory => (json!({"do": "bomb"}).to_string(), 1),
            Kind::Trap => (json!({"do": "trap"}).to_string(), 500),
            Kind::Work => (work(WORK, a_thousand), 1_500),
            Kind::Log => (json!({"do": "log", "lines": 20_000}).to_string(), 5_000),
            Kind::ManyReads => (json!({"do": "read", "n": 2_000}).to_string(), 5_000),
            Kind::Large => (json!({"pad": "x".repeat(LARGE)}).to_string(), 1_000 / hogs),
            Kind::Flood | Kind::SlowReads => ("{}".into(), 0),
        };
        for hog in 0..hogs {
            backlog::append(&session, &name(hog), STREAMS, &data, count).await?;
        }
        let burst = Arc::new(Notify::new());
        let task = match kind {
            Kind::Flood => tokio::spawn(report_error(flood(session, hogs, burst.clone()))),
            Kind::SlowReads => tokio::spawn(report_error(trickle(session, hogs))),
            _ => tokio::spawn(report_error(insist(session, processor))),
        };
        Ok(Herd { tasks: vec![task], burst })
    }

    /// Signals that the measurement begins.
    pub fn now(&self) {
        self.burst.notify_one();
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn report_error(hog: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = hog.await {
        eprintln!("the hogs have ended: {error:#}");
    }
}

async fn flood(session: Session, hogs: usize, burst: Arc<Notify>) -> anyhow::Result<()> {
    burst.notified().await;
    for hog in 0..hogs {
        backlog::append(&session, &name(hog), STREAMS, "{}", BURST / hogs).await?;
    }
    let mut ticks = tokio::time::interval(TICK);
    let count = FLOOD * TICK.as_millis() as usize / 1_000;
    for tick in 0_usize.. {
        ticks.tick().await;
        let stream = format!("s{}", tick / hogs % STREAMS);
        backlog::append_to(&session, &name(tick % hogs), &stream, "{}", count).await?;
    }
    Ok(())
}

/// Appends events at a low rate. Each event has its own stream, so its document is in no cache.
async fn trickle(session: Session, hogs: usize) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(TICK / hogs as u32);
    for tick in 0_usize.. {
        ticks.tick().await;
        backlog::append_to(&session, &name(tick % hogs), &format!("s{tick}"), "{}", 1).await?;
    }
    Ok(())
}

/// Keeps resuming the lanes of hogs that stop, as long as this is polled.
pub async fn insist(session: Session, processor: &str) -> anyhow::Result<()> {
    let stopped = "select tenant from sandmill.lane_checkpoints where processor = $1 and tenant ^@ 'hog-' and state <> 'catching-up'";
    let stopped = session.prepare(stopped).await?;
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for row in session.query(&stopped, &[&processor]).await? {
            lane_checkpoints::resume(&*session, processor, Some(row.get(0)), None).await?;
        }
    }
}
