//! A hand-written loop for one projection: the lower bound with which the host is compared.
//!
//! A reader, a fold with everything in memory, and a writer run concurrently. The writer upserts a
//! batch's documents and its checkpoint in one transaction. The loop has no fence, no lanes, no
//! version checks and no sandbox, and it loses events under concurrent writers. It uses the same
//! tables as the host.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use sandmill::db::Session;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    carts::COLLECTION,
    folding::{Cart, CartEvent},
    world::{Database, view},
};

/// Events of one batch: an ordinary batch, and one as large as the host's pages while it catches
/// up. With larger batches, each document is written less often.
pub const BATCHES: [i64; 2] = [5_000, 20_000];

struct Read {
    position: i64,
    tenant: String,
    stream: String,
    event_type: String,
    data: String,
}

/// Reads the log batch by batch. Returns the seconds that it took.
pub async fn read(database: &Database, batch: i64) -> anyhow::Result<f64> {
    let reader = database.db.connect("floor reader").await?;
    let began = Instant::now();
    let (batches, mut read) = mpsc::channel(1);
    let reading = read_all(reader, batches, batch);
    let counting = async {
        while let Some(batch) = read.recv().await {
            std::hint::black_box(&batch);
        }
    };
    tokio::join!(reading, counting).0?;
    Ok(began.elapsed().as_secs_f64())
}

/// Runs the loop over the whole log. Returns the seconds that it took.
pub async fn run(database: &Database, batch: i64) -> anyhow::Result<f64> {
    database.reset().await?;
    let checkpoint = "create table if not exists public.floor_checkpoint (position bigint not null);
      truncate public.floor_checkpoint; insert into public.floor_checkpoint values (0)";
    database.session.batch_execute(checkpoint).await?;
    let began = Instant::now();
    let (reader, writer) = (database.db.connect("floor reader").await?, database.db.connect("floor writer").await?);
    let (batches, read) = mpsc::channel(1);
    let (documents, folded) = mpsc::channel(1);
    let reading = tokio::spawn(read_all(reader, batches, batch));
    let folding = tokio::spawn(fold_all(read, documents));
    write_all(writer, folded).await?;
    reading.await??;
    folding.await??;
    Ok(began.elapsed().as_secs_f64())
}

async fn read_all(session: Session, batches: mpsc::Sender<Vec<Read>>, batch: i64) -> anyhow::Result<()> {
    let sql = "select position, tenant, stream, type, data::text from sandmill.events
               where position > $1 and xid < pg_snapshot_xmin(pg_current_snapshot()) order by position limit $2";
    let statement = session.prepare(sql).await?;
    let mut position = 0_i64;
    loop {
        let rows = session.query(&statement, &[&position, &batch]).await?;
        let batch: Vec<Read> = rows
            .iter()
            .map(|row| Read {
                position: row.get(0),
                tenant: row.get(1),
                stream: row.get(2),
                event_type: row.get(3),
                data: row.get(4),
            })
            .collect();
        let Some(last) = batch.last() else { return Ok(()) };
        position = last.position;
        if batches.send(batch).await.is_err() {
            return Ok(());
        }
    }
}

/// A batch's documents, column by column.
#[derive(Default)]
struct Documents {
    position: i64,
    tenants: Vec<String>,
    ids: Vec<String>,
    data: Vec<String>,
}

async fn fold_all(mut batches: mpsc::Receiver<Vec<Read>>, documents: mpsc::Sender<Documents>) -> anyhow::Result<()> {
    let mut carts: HashMap<(String, String), (Cart, i64)> = HashMap::new();
    while let Some(batch) = batches.recv().await {
        let mut changed = BTreeMap::new();
        let mut out = Documents { position: batch.last().map_or(0, |last| last.position), ..Documents::default() };
        for read in batch {
            let Some(event) = CartEvent::parse(&read.event_type, &read.data)? else { continue };
            let key = (read.tenant, read.stream);
            carts.entry(key.clone()).or_default().0.evolve(event);
            changed.insert(key, ());
        }
        for key in changed.into_keys() {
            let Some((cart, version)) = carts.get_mut(&key) else { continue };
            *version += 1;
            let fields: Box<RawValue> = serde_json::value::to_raw_value(cart)?;
            out.data.push(format!(r#"{{"_id":"{}","_version":"{version}",{}"#, key.1, &fields.get()[1..]));
            out.tenants.push(key.0);
            out.ids.push(key.1);
        }
        if documents.send(out).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn write_all(session: Session, mut folded: mpsc::Receiver<Documents>) -> anyhow::Result<()> {
    session.batch_execute("set synchronous_commit = off").await?;
    let upsert = format!(
        "insert into {} as d (_partition, _id, data) select tenant, id, data::jsonb
         from unnest($1::text[], $2::text[], $3::text[]) as given (tenant, id, data)
         on conflict (_partition, _id) do update set data = excluded.data, _version = d._version + 1, _updated = now()",
        view(COLLECTION)
    );
    let (upsert, checkpoint) = tokio::try_join!(
        session.prepare(&upsert),
        session.prepare("update public.floor_checkpoint set position = $1")
    )?;
    while let Some(Documents { position, tenants, ids, data }) = folded.recv().await {
        // The four statements are pipelined.
        tokio::try_join!(biased;
            session.batch_execute("begin"),
            async { session.execute(&upsert, &[&tenants, &ids, &data]).await.map(|_| ()) },
            async { session.execute(&checkpoint, &[&position]).await.map(|_| ()) },
            session.batch_execute("commit"),
        )?;
    }
    Ok(())
}
