//! Concurrent writers, whose transactions are as hard as possible for followers of the log.
//!
//! The transactions have a random length and write several streams of several tenants. They take
//! their xid early or late, roll back savepoints or everything, and sleep in between. So positions
//! become visible in a different order from the one in which they were assigned. Streams are locked
//! in one order, so that writers do not deadlock. The events suit `plane-log` and `scripted`, also
//! by property: a stream's events have the same `lane`, and streams of a tenant share lanes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sandmill::db::{Db, Session};
use sandmill_client::{Append, NewEvent};
use tokio::task::JoinHandle;

use crate::random::Random;

const STREAMS: usize = 24;
const TENANTS: usize = 5;
/// Number of consecutive streams with the same lane.
const STREAMS_A_LANE: usize = 9;
/// The longest sleep inside a transaction: many times what a follower needs for a page.
const SLEEP_MS: usize = 8;

/// A set of running writers.
pub struct Writers {
    tasks: Vec<JoinHandle<anyhow::Result<Vec<String>>>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Starts `count` writers of `transactions` each. An error ends a writer.
    pub fn start(db: &Db, random: &mut Random, count: usize, transactions: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..count).map(|_| {
            let (db, mut random) = (db.clone(), random.fork());
            tokio::spawn(async move {
                let session = connect(&db).await?;
                let mut committed = Vec::new();
                for _ in 0..transactions {
                    committed.extend(transaction(&session, &mut random).await?);
                }
                Ok(committed)
            })
        });
        Writers { tasks: tasks.collect(), stop }
    }

    /// Starts writers that write until [`stop`](Self::stop), and reconnect after a loss of the
    /// server.
    pub fn start_stubborn(db: &Db, random: &mut Random, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..count).map(|_| {
            let (db, mut random, stop) = (db.clone(), random.fork(), stop.clone());
            tokio::spawn(async move {
                let mut committed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let Ok(session) = connect(&db).await else {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(ids) = transaction(&session, &mut random).await else { break };
                        committed.extend(ids);
                    }
                }
                Ok(committed)
            })
        });
        Writers { tasks: tasks.collect(), stop }
    }

    /// Whether all have ended.
    pub fn have_ended(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// Waits for those that end by themselves; the ids of all events whose commit was acknowledged.
    pub async fn join(self) -> Vec<String> {
        let mut committed = Vec::new();
        for task in self.tasks {
            committed.extend(task.await.expect("a writer ends in order").expect("a writer's transactions succeed"));
        }
        committed
    }

    /// Stops the writers and waits for their end. Returns the ids of all committed events.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.join().await
    }
}

async fn connect(db: &Db) -> anyhow::Result<Session> {
    let session = db.connect("writer").await?;
    // On a busy machine, the transactions of other writers may hold a stream for long.
    session.batch_execute("set lock_timeout = 0; set idle_in_transaction_session_timeout = 0").await?;
    Ok(session)
}

/// Runs one random transaction. Returns the ids of the events that it committed.
async fn transaction(session: &Session, random: &mut Random) -> anyhow::Result<Vec<String>> {
    session.batch_execute("begin").await?;
    if random.percent(30) {
        session.batch_execute("select pg_current_xact_id()").await?;
        nap(random).await;
    }
    let mut committed = Vec::new();
    for stream in 0..STREAMS {
        if !random.percent(10) {
            continue;
        }
        let savepoint = random.percent(25);
        if savepoint {
            session.batch_execute("savepoint s").await?;
        }
        let data = format!(r#"{{"lane":"{}"}}"#, stream / STREAMS_A_LANE);
        let events = (0..1 + random.below(3))
            .map(|_| NewEvent::new(if random.percent(70) { "FlightFlown" } else { "FlightNoted" }, data.as_str()));
        let append = Append::to(format!("tenant-{}", stream % TENANTS), format!("plane-{stream}")).events(events);
        let appended = sandmill_client::append(&**session, &append).await?;
        nap(random).await;
        if savepoint && random.percent(50) {
            session.batch_execute("rollback to s").await?;
        } else {
            committed.extend(appended.into_iter().map(|event| event.id));
        }
    }
    if random.percent(10) {
        session.batch_execute("rollback").await?;
        return Ok(Vec::new());
    }
    session.batch_execute("commit").await?;
    Ok(committed)
}

async fn nap(random: &mut Random) {
    if random.percent(30) {
        tokio::time::sleep(Duration::from_millis(1 + random.below(SLEEP_MS) as u64)).await;
    }
}
