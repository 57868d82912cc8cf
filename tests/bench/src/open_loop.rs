//! An open-loop load generator: appends at a steady rate, and a poller that checks which of them
//! are in a document.
//!
//! A sample counts from the moment when its append was due, so a delay of the host or the database
//! counts for everything that was due in the meantime. Each append has its own stream, whose
//! document did not exist before.
//!
//! The poller has its own thread, so that a poll waits for no other thread. It adds about 0.2 ms to
//! each sample: half of its pause and a query.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use sandmill::db::{Db, Session};
use sandmill_client::{Append, NewEvent};

use crate::world::{Database, view};

/// Connections that appends are spread over.
const CONNECTIONS: usize = 8;
/// The longest wait for the last documents.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two polls.
const POLL: Duration = Duration::from_micros(250);

/// A load generator.
pub struct OpenLoop {
    db: Db,
    appenders: Vec<Arc<Session>>,
    /// The statement of the poller.
    look: String,
    streams: AtomicU64,
    /// Prefix of its streams' names, so that loops on one database have different documents.
    prefix: String,
    tenants: u64,
}

/// The moment when an append was due, and the milliseconds until its document was visible.
pub type Shown = (Instant, f64);

type Waiting = Arc<Mutex<HashMap<String, (String, Instant)>>>;

impl OpenLoop {
    /// A load generator for a collection whose documents are named like their streams, with
    /// `tenants` tenants that take turns. The collection must exist.
    pub async fn new(database: &Database, collection: &str, tenants: u64) -> anyhow::Result<Self> {
        let mut appenders = Vec::new();
        for _ in 0..CONNECTIONS {
            appenders.push(Arc::new(database.db.connect("bench appender").await?));
        }
        let look = format!(
            "select d._id from unnest($1::text[], $2::text[]) as wanted (tenant, id)
             join {} d on d._partition = wanted.tenant and d._id = wanted.id",
            view(collection)
        );
        let (db, prefix) = (database.db.clone(), collection.into());
        Ok(OpenLoop { db, appenders, look, streams: AtomicU64::new(0), prefix, tenants })
    }

    /// Appends `rate` events a second for a time. Returns for each the milliseconds until it was
    /// visible, and the milliseconds of its append.
    pub async fn run_both(&self, rate: u32, lasting: Duration) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let (shown, appends) = self.run_timed(rate, lasting).await?;
        Ok((shown.into_iter().map(|(_, took)| took).collect(), appends))
    }

    /// Appends as [`run_both`](Self::run_both) does, and also returns when each append was due.
    pub async fn run_timed(&self, rate: u32, lasting: Duration) -> anyhow::Result<(Vec<Shown>, Vec<f64>)> {
        let waiting = Waiting::default();
        let count = (lasting.as_secs_f64() * f64::from(rate)) as u32;
        let (db, look) = (self.db.clone(), self.look.clone());
        let poller = tokio::task::spawn_blocking(move || Poller::connect(&db, &look)).await??;
        let watched = waiting.clone();
        let watch = tokio::task::spawn_blocking(move || poller.watch(count as usize, &watched, lasting + PATIENCE));
        let watch = async { watch.await? };
        let append = self.append_all(count, Duration::from_secs(1) / rate, waiting);
        let (appends, samples) = tokio::try_join!(append, watch)?;
        Ok((samples, appends))
    }

    /// Appends as [`run_both`](Self::run_both) does, and returns only the times until visible.
    pub async fn run(&self, rate: u32, lasting: Duration) -> anyhow::Result<Vec<f64>> {
        Ok(self.run_both(rate, lasting).await?.0)
    }

    async fn append_all(&self, count: u32, every: Duration, waiting: Waiting) -> anyhow::Result<Vec<f64>> {
        let began = Instant::now();
        let mut appends = Vec::new();
        for number in 0..count {
            let due = began + every * number;
            sleep_until(due).await?;
            let serial = self.streams.fetch_add(1, Relaxed);
            let (tenant, stream) = (format!("live-{}", serial % self.tenants), format!("{}-{serial}", self.prefix));
            lock(&waiting).insert(stream.clone(), (tenant.clone(), due));
            let session = self.appenders[serial as usize % CONNECTIONS].clone();
            appends.push(tokio::spawn(async move {
                let data = r#"{"sku":"product-12","quantity":2,"price":499}"#;
                let append = Append::to(tenant, stream).event(NewEvent::new("ItemAdded", data));
                let appended = sandmill_client::append(&**session, &append).await;
                appended.map(|_| due.elapsed().as_secs_f64() * 1e3)
            }));
        }
        let mut samples = Vec::new();
        for append in appends {
            samples.push(append.await?.context("append")?);
        }
        Ok(samples)
    }
}

/// A session that looks for documents, with a runtime for one thread.
struct Poller {
    runtime: tokio::runtime::Runtime,
    session: Session,
    look: tokio_postgres::Statement,
}

impl Poller {
    fn connect(db: &Db, look: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (session, look) = runtime.block_on(async {
            let session = db.connect("bench poller").await?;
            // Forces the lookup by key. For a table that was just empty, the planner might choose a
            // plan whose cost grows with the table.
            session
                .batch_execute("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set plan_cache_mode = force_generic_plan")
                .await?;
            let look = session.prepare(look).await?;
            anyhow::Ok((session, look))
        })?;
        Ok(Poller { runtime, session, look })
    }

    /// Polls on this thread until `count` documents were seen.
    fn watch(self, count: usize, waiting: &Waiting, patience: Duration) -> anyhow::Result<Vec<Shown>> {
        let began = Instant::now();
        let mut samples = Vec::with_capacity(count);
        while samples.len() < count {
            std::thread::sleep(POLL);
            let (tenants, ids): (Vec<String>, Vec<String>) =
                lock(waiting).iter().map(|(stream, (tenant, _))| (tenant.clone(), stream.clone())).unzip();
            if ids.is_empty() {
                continue;
            }
            let rows = self.runtime.block_on(self.session.query(&self.look, &[&tenants, &ids]))?;
            let seen = Instant::now();
            for row in rows {
                if let Some((_, due)) = lock(waiting).remove(row.get::<_, &str>(0)) {
                    samples.push((due, (seen - due).as_secs_f64() * 1e3));
                }
            }
            anyhow::ensure!(began.elapsed() < patience, "{} documents never showed", count - samples.len());
        }
        Ok(samples)
    }
}

/// Sleeps on a thread. The runtime's timer is up to a millisecond late, a fifth of the measured
/// times.
async fn sleep_until(due: Instant) -> anyhow::Result<()> {
    let sleep = move || std::thread::sleep(due.saturating_duration_since(Instant::now()));
    Ok(tokio::task::spawn_blocking(sleep).await?)
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, (String, Instant)>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
