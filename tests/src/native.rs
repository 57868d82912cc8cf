//! A host in this process with native handlers, for tests that observe or delay the handler.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use sandmill::{
    app::{self, Ended, Until},
    model::{
        effects::{Change, Effects},
        event::{Batch, Event},
        handler::{BoxFuture, CallFailure, Documents, Failure, Handler},
        ids::{CollectionName, ProcessorId},
        spec::{PartitionBy, ProcessorSpec},
    },
    plugins::registry::RunnableVersion,
};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    Database,
    host::{config, eventually},
    ledger::Chain,
};

/// A host that runs [`Folding`].
pub struct NativeHost {
    task: JoinHandle<anyhow::Result<Ended>>,
    drain: oneshot::Sender<()>,
}

impl NativeHost {
    /// Starts a host with settings in the form `KEY=VALUE`, and waits until its processor is
    /// registered.
    pub async fn start(database: &Database, folding: Folding, settings: &[&str]) -> NativeHost {
        NativeHost::start_all(database, vec![folding], settings).await
    }

    /// Starts a host with several processors.
    pub async fn start_all(database: &Database, foldings: Vec<Folding>, settings: &[&str]) -> NativeHost {
        let (db, config) = (database.db.clone(), config("".as_ref(), settings));
        let ids: Vec<String> = foldings.iter().map(|folding| folding.id.to_string()).collect();
        let handlers = foldings.into_iter().map(|folding| RunnableVersion::native(folding.spec(), Arc::new(folding)));
        let handlers = handlers.collect();
        let (drain, requested) = oneshot::channel();
        let drained = async {
            let _ = requested.await;
        };
        let run = async move { app::run_handlers(&config, &db, handlers, Until::Stopped, drained, pending()).await };
        let host = NativeHost { task: tokio::spawn(run), drain };
        let session = database.db.connect("test").await.expect("connect");
        let sql = "select 1 from sandmill.processors where id = any ($1) having count(*) = cardinality($1)";
        // The table does not exist before the host has migrated the database.
        let registered = async || session.query_opt(sql, &[&ids]).await.ok()?;
        eventually(&format!("{ids:?} are registered"), registered).await;
        host
    }

    /// Drains the host and waits for its end.
    pub async fn stop(self) {
        let _ = self.drain.send(());
        self.task.await.expect("the host ends in order").expect("the host ends well");
    }
}

/// Decides whether a batch fails.
type Fails = Box<dyn Fn(&Batch) -> Option<Failure> + Send + Sync>;

/// A native handler that folds like the guest `scripted`, under the same names. It calls a function
/// before each event, and yields its thread between events.
pub struct Folding {
    before: Box<dyn Fn(&Event) + Send + Sync>,
    fails: Fails,
    id: ProcessorId,
    collection: CollectionName,
    partition_by: PartitionBy,
}

impl Folding {
    /// A handler that calls `before` before each event.
    pub fn after(before: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let collection = CollectionName::parse("scripted_log").expect("a name");
        let id = ProcessorId::parse("scripted").expect("a name");
        let fails = Box::new(|_: &Batch| None);
        Folding { before: Box::new(before), fails, id, collection, partition_by: PartitionBy::Tenant }
    }

    /// A handler that fails a batch if `fails` returns a failure for it.
    pub fn failing(fails: impl Fn(&Batch) -> Option<Failure> + Send + Sync + 'static) -> Self {
        Folding { fails: Box::new(fails), ..Folding::after(|_| ()) }
    }

    /// This handler under another name, with the collection `NAME_log`.
    pub fn named(self, name: &str) -> Self {
        let collection = CollectionName::parse(&format!("{name}_log")).expect("a name");
        Folding { id: ProcessorId::parse(name).expect("a name"), collection, ..self }
    }

    /// This handler with one lane per stream.
    pub fn by_stream(self) -> Self {
        Folding { partition_by: PartitionBy::EventStream, ..self }
    }

    fn spec(&self) -> ProcessorSpec {
        let partition_by = self.partition_by.clone();
        let mut spec = ProcessorSpec::projector(self.id.clone(), vec![self.collection.clone()]);
        spec.descriptor.partition_by = partition_by;
        spec
    }

    /// Handles a batch: adds each event to the chain in its stream's document.
    async fn fold(self: Arc<Self>, batch: Arc<Batch>, documents: Arc<dyn Documents>) -> Result<Effects, Failure> {
        if let Some(failure) = (self.fails)(&batch) {
            return Err(failure);
        }
        let mut streams: Vec<String> = batch.events.iter().map(|event| event.stream.to_string()).collect();
        streams.sort_unstable();
        streams.dedup();
        let found = documents.get_many(&self.collection, &streams).await?;
        let known = |text: Option<Arc<str>>| text.map_or_else(Chain::default, |text| chain(&text));
        let mut chains: BTreeMap<&str, Chain> =
            streams.iter().map(String::as_str).zip(found.into_iter().map(known)).collect();
        for event in &batch.events {
            (self.before)(event);
            // Yields to other calls, as a guest does at the end of its time slice.
            tokio::task::yield_now().await;
            if let Some(chain) = chains.get_mut(&*event.stream) {
                chain.push(&event.id);
            }
        }
        let put = |(stream, chain): (&str, Chain)| Change::Put {
            collection: self.collection.clone(),
            id: stream.into(),
            data: json!({"count": chain.events, "chain": chain.chain}).to_string().into(),
        };
        Ok(Effects { changes: chains.into_iter().map(put).collect(), ..Effects::default() })
    }
}

impl Handler for Folding {
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
        Duration::from_secs(60)
    }
}

/// A gate that blocks calls while it is closed.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Opens the gate for good.
    pub fn open(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }

    /// A handler that waits at the gate before each event of one tenant.
    pub fn before(&self, tenant: &'static str) -> Folding {
        let gate = self.0.clone();
        Folding::after(move |event| {
            if event.tenant.as_str() == tenant {
                drop(gate.1.wait_while(gate.0.lock().expect("not poisoned"), |open| !*open).expect("not poisoned"));
            }
        })
    }
}

/// The chain in a document.
fn chain(text: &str) -> Chain {
    let data: Value = serde_json::from_str(text).expect("a document is JSON");
    Chain { events: data["count"].as_i64().unwrap_or(0), chain: data["chain"].as_str().unwrap_or("").into() }
}
