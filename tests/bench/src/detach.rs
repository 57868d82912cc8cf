//! A tenant that is far too slow for its events, and its neighbours.
//!
//! Each event of the tenant `slow` computes for 5 ms. It has a backlog of 20,000 events and gets 50
//! more every second, while eight others get 50 a second together. The others are measured without
//! it, beside it, and after it: it becomes quick, catches up and rejoins the tail while events
//! still arrive. At the end every document must hold exactly its stream's events, in order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sandmill::{
    app::{self, Until},
    db::Session,
    model::{
        effects::{Change, Effects},
        event::Batch,
        handler::{BoxFuture, CallFailure, Documents, Failure, Handler, Reason},
        ids::{CollectionName, ProcessorId},
        spec::ProcessorSpec,
    },
    plugins::registry::RunnableVersion,
    processor::status,
};
use serde::{Deserialize, Serialize};

use crate::{
    backlog, machine,
    open_loop::OpenLoop,
    report::{Report, quantile},
    world::{Database, World, until, view},
};

const PART: &str = "detach";
const COLLECTION: &str = "ledger";
const SLOW: &str = "slow";
/// Streams of the slow tenant.
const STREAMS: usize = 7;
const BACKLOG: usize = 20_000;
const SLOW_EVENT: Duration = Duration::from_millis(5);
/// Interval between two events of the slow tenant, after its backlog.
const GROWTH: Duration = Duration::from_millis(20);
/// Appends per second of the other tenants.
const OTHERS: u32 = 50;
/// Length of each measurement of the other tenants.
const MEASURED: Duration = Duration::from_secs(30);

/// Measures the other tenants' latency before, beside and after the slow one, its time to catch up,
/// and memory.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = world.database("detach").await?;
    let slow = Arc::new(AtomicBool::new(true));
    let ledger = Ledger { slow: slow.clone(), collection: CollectionName::parse(COLLECTION)? };
    let version = RunnableVersion::native(ledger.spec()?, Arc::new(ledger));
    let config = world.config("".as_ref())?;
    let (drain, requested) = tokio::sync::oneshot::channel::<()>();
    let db = database.db.clone();
    let host = tokio::spawn(async move {
        let drained = async {
            let _ = requested.await;
        };
        app::run_handlers(&config, &db, vec![version], Until::Stopped, drained, std::future::pending()).await
    });
    until("the collection is there", async || {
        let sql = "select to_regclass($1) is not null";
        Ok(database.session.query_one(sql, &[&view(COLLECTION)]).await?.get(0))
    })
    .await?;

    let others = OpenLoop::new(&database, COLLECTION, 8).await?;
    others.run(OTHERS, Duration::from_secs(3)).await?;
    let before = others.run(OTHERS, MEASURED).await?;
    let memory_before = machine::memory_now(std::process::id());

    let growing = Arc::new(AtomicBool::new(true));
    backlog::append(&database.session, SLOW, STREAMS, "{}", BACKLOG).await?;
    let growth = tokio::spawn(grow(database.db.connect("bench growth").await?, growing.clone()));
    until("the slow lane has a row", async || Ok(lanes_behind(&database).await? == ["slow catching-up"])).await?;
    let watched = AtomicBool::new(true);
    let (beside, memory) = tokio::join!(
        async {
            let samples = others.run(OTHERS, MEASURED).await;
            watched.store(false, Relaxed);
            samples
        },
        memory_while(&watched)
    );
    let (beside, left) = (beside?, waiting(&database).await?);
    anyhow::ensure!(left > BACKLOG as i64 / 2, "the slow tenant was not slow: {left} events left");
    anyhow::ensure!(lanes_behind(&database).await? == ["slow catching-up"], "the slow lane has no row");

    slow.store(false, Relaxed);
    let began = Instant::now();
    until("the slow lane is one with the tail", async || Ok(lanes_behind(&database).await?.is_empty())).await?;
    let back = began.elapsed();
    anyhow::ensure!(growing.load(Relaxed), "events came all the time");
    let after = others.run(OTHERS, MEASURED).await?;

    growing.store(false, Relaxed);
    growth.await??;
    until("everything is handled", async || Ok(waiting(&database).await? == 0)).await?;
    let _ = drain.send(());
    host.await??;
    let events = verify(&database).await?;

    for (samples, when) in [(before, "before"), (beside, "beside it"), (after, "after")] {
        for (part, name) in [(0.5, "p50"), (0.99, "p99")] {
            report.add(PART, format!("others, {when}: {name}"), "ms", vec![quantile(&samples, part)]);
        }
    }
    report.add(PART, "events left when it became quick", "", vec![left as f64]);
    report.add(PART, "until it was one with the tail", "s", vec![back.as_secs_f64()]);
    report.add(PART, "events whose order and number were compared", "", vec![events as f64]);
    report.add(PART, "memory before the backlog", "MiB", memory_before.into_iter().collect());
    report.add(PART, "memory beside it, second by second", "MiB", memory);
    Ok(())
}

async fn memory_while(watched: &AtomicBool) -> Vec<f64> {
    let mut samples = Vec::new();
    while watched.load(Relaxed) {
        samples.extend(machine::memory_now(std::process::id()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    samples
}

async fn grow(session: Session, growing: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(GROWTH);
    while growing.load(Relaxed) {
        ticks.tick().await;
        backlog::append(&session, SLOW, STREAMS, "{}", 1).await?;
    }
    Ok(())
}

/// Lanes with a row, as `tenant state`.
async fn lanes_behind(database: &Database) -> anyhow::Result<Vec<String>> {
    let status = status::read(&database.session, 100).await?;
    let lanes = status.processors.into_iter().flat_map(|processor| processor.lanes_behind);
    Ok(lanes.map(|lane| format!("{} {}", lane.tenant, lane.state)).collect())
}

/// Events that no document contains yet.
async fn waiting(database: &Database) -> anyhow::Result<i64> {
    let sql = format!(
        "select (select count(*) from sandmill.events) - (select coalesce(sum((data->>'count')::bigint), 0)::bigint from {})",
        view(COLLECTION)
    );
    Ok(database.session.query_one(&sql, &[]).await?.get(0))
}

/// Compares every document with its stream's events. Returns the number of events.
async fn verify(database: &Database) -> anyhow::Result<usize> {
    let mut expected: BTreeMap<(String, String), Entry> = BTreeMap::new();
    let sql = "select tenant, stream, id from sandmill.events order by tenant, stream, version";
    let events = database.session.query(sql, &[]).await?;
    for row in &events {
        expected.entry((row.get(0), row.get(1))).or_default().push(row.get(2));
    }
    let sql = format!("select _partition, _id, (data - array['_id', '_version'])::text from {}", view(COLLECTION));
    let documents = database.session.query(&sql, &[]).await?;
    anyhow::ensure!(documents.len() == expected.len(), "{} documents of {} streams", documents.len(), expected.len());
    for row in &documents {
        let key = (row.get(0), row.get(1));
        let found: Entry = serde_json::from_str(row.get(2))?;
        anyhow::ensure!(
            expected.get(&key) == Some(&found),
            "{key:?} holds {found:?} and should hold {:?}",
            expected.get(&key)
        );
    }
    Ok(events.len())
}

/// A stream's document: the number of events, and a hash over their ids in order.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
struct Entry {
    count: u64,
    chain: u32,
}

impl Entry {
    /// Adds an event. The hash is FNV-1a, continued from the previous event.
    fn push(&mut self, id: &str) {
        self.count += 1;
        for byte in id.bytes() {
            self.chain = (self.chain ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
}

/// A handler that keeps the entries, and computes before each event of the slow tenant.
struct Ledger {
    slow: Arc<AtomicBool>,
    collection: CollectionName,
}

impl Ledger {
    fn spec(&self) -> anyhow::Result<ProcessorSpec> {
        Ok(ProcessorSpec::projector(ProcessorId::parse("ledger")?, vec![self.collection.clone()]))
    }

    async fn fold(self: Arc<Self>, batch: Arc<Batch>, documents: Arc<dyn Documents>) -> Result<Effects, Failure> {
        let broken = |error: serde_json::Error| Failure::Block(Reason::new("unreadable-document", error.to_string()));
        let streams: Vec<String> = batch.events.iter().map(|event| event.stream.to_string()).collect();
        let found = documents.get_many(&self.collection, &streams).await?;
        let mut entries: BTreeMap<&str, Entry> = BTreeMap::new();
        for (stream, text) in streams.iter().zip(found) {
            let entry = text.map_or(Ok(Entry::default()), |text| serde_json::from_str(&text)).map_err(broken)?;
            entries.entry(stream).or_insert(entry);
        }
        for event in &batch.events {
            if event.tenant.as_str() == SLOW && self.slow.load(Relaxed) {
                compute(SLOW_EVENT).await;
            }
            if let Some(entry) = entries.get_mut(&*event.stream) {
                entry.push(&event.id);
            }
        }
        let mut effects = Effects::default();
        for (stream, entry) in entries {
            let data = serde_json::to_string(&entry).map_err(broken)?;
            let (collection, id) = (self.collection.clone(), stream.into());
            effects.changes.push(Change::Put { collection, id, data: data.into() });
        }
        Ok(effects)
    }
}

impl Handler for Ledger {
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, CallFailure>> {
        Box::pin(async move { Ok(self.fold(batch, documents).await?) })
    }

    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
        self
    }

    fn wall_time(&self) -> Duration {
        Duration::from_secs(600)
    }
}

/// Keeps its thread busy for a time, and yields it every millisecond, as a guest must.
async fn compute(lasting: Duration) {
    let began = Instant::now();
    let mut slice = began;
    while began.elapsed() < lasting {
        if slice.elapsed() >= Duration::from_millis(1) {
            tokio::task::yield_now().await;
            slice = Instant::now();
        }
        std::hint::spin_loop();
    }
}
