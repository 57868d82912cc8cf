//! Appends at a steady rate, whatever becomes of them, and a poller that looks every millisecond which of them show in a document.
//!
//! The loop is open: a sample counts from the moment at which its append was due, so a host or a database that is late is late for everything
//! that was due meanwhile. Each append makes a stream of its own, whose document did not exist before.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use sandmill::db::Session;
use sandmill_client::{Append, NewEvent};

use crate::world::{Database, view};

/// Connections that appends are spread over.
const CONNECTIONS: usize = 8;
/// How long the last ones are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source of appends and what watches them.
pub struct OpenLoop {
    appenders: Vec<Arc<Session>>,
    poller: Session,
    look: tokio_postgres::Statement,
    streams: AtomicU64,
    /// What its streams' names begin with: loops on one database must not meet in their documents.
    prefix: String,
    tenants: u64,
}

/// When an append was due, and after how many milliseconds its document showed.
pub type Shown = (Instant, f64);

type Waiting = Arc<Mutex<HashMap<String, (String, Instant)>>>;

impl OpenLoop {
    /// One for a collection whose documents have their stream's name, of so many tenants who take turns. The collection exists.
    pub async fn new(database: &Database, collection: &str, tenants: u64) -> anyhow::Result<Self> {
        let mut appenders = Vec::new();
        for _ in 0..CONNECTIONS {
            appenders.push(Arc::new(database.db.connect("bench appender").await?));
        }
        let poller = database.db.connect("bench poller").await?;
        // By the key, whatever the planner thinks of a table that was empty a moment ago: or each look would cost more the longer this runs.
        poller
            .batch_execute("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set plan_cache_mode = force_generic_plan")
            .await?;
        let sql = format!(
            "select d._id from unnest($1::text[], $2::text[]) as wanted (tenant, id)
             join {} d on d._partition = wanted.tenant and d._id = wanted.id",
            view(collection)
        );
        let look = poller.prepare(&sql).await?;
        Ok(OpenLoop { appenders, poller, look, streams: AtomicU64::new(0), prefix: collection.into(), tenants })
    }

    /// Appends `rate` events a second for so long, and says for each after how many milliseconds it showed, and those it took to append.
    pub async fn run_both(&self, rate: u32, lasting: Duration) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let (shown, appends) = self.run_told(rate, lasting).await?;
        Ok((shown.into_iter().map(|(_, took)| took).collect(), appends))
    }

    /// The same, with the moment at which each was due.
    pub async fn run_told(&self, rate: u32, lasting: Duration) -> anyhow::Result<(Vec<Shown>, Vec<f64>)> {
        let waiting = Waiting::default();
        let count = (lasting.as_secs_f64() * f64::from(rate)) as u32;
        let append = self.append_all(count, Duration::from_secs(1) / rate, waiting.clone());
        let watch = self.watch(count as usize, &waiting, lasting + PATIENCE);
        let (appends, samples) = tokio::try_join!(append, watch)?;
        Ok((samples, appends))
    }

    /// The same, of what showed alone.
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

    async fn watch(&self, count: usize, waiting: &Waiting, patience: Duration) -> anyhow::Result<Vec<Shown>> {
        let began = Instant::now();
        let mut samples = Vec::with_capacity(count);
        while samples.len() < count {
            sleep_until(Instant::now() + Duration::from_millis(1)).await?;
            let (tenants, ids): (Vec<String>, Vec<String>) =
                lock(waiting).iter().map(|(stream, (tenant, _))| (tenant.clone(), stream.clone())).unzip();
            if ids.is_empty() {
                continue;
            }
            let rows = self.poller.query(&self.look, &[&tenants, &ids]).await?;
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

/// Sleeps on a thread: the runtime's own timer is up to a millisecond late, which is a fifth of what is measured.
async fn sleep_until(due: Instant) -> anyhow::Result<()> {
    let sleep = move || std::thread::sleep(due.saturating_duration_since(Instant::now()));
    Ok(tokio::task::spawn_blocking(sleep).await?)
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, (String, Instant)>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
