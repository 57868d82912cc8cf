//! A host in this process whose one processor is native code: for tests that want to look into the handler, or to hold it up.

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
        handler::{BoxFuture, Documents, Failure, Handler},
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
    /// Starts it, with settings as the command line takes them, and waits until its processor has its tables.
    pub async fn start(database: &Database, folding: Folding, settings: &[&str]) -> NativeHost {
        NativeHost::start_all(database, vec![folding], settings).await
    }

    /// The same with several processors.
    pub async fn start_all(database: &Database, foldings: Vec<Folding>, settings: &[&str]) -> NativeHost {
        let (db, config) = (database.db.clone(), config("".as_ref(), settings));
        let ids: Vec<String> = foldings.iter().map(|folding| folding.id.to_string()).collect();
        let handlers = foldings.into_iter().map(|folding| RunnableVersion::native(folding.spec(), Arc::new(folding)));
        let handlers = handlers.collect();
        let (drain, told) = oneshot::channel();
        let drained = async {
            let _ = told.await;
        };
        let run = async move { app::run_handlers(&config, &db, handlers, Until::Stopped, drained, pending()).await };
        let host = NativeHost { task: tokio::spawn(run), drain };
        let session = database.db.connect("test").await.expect("connect");
        let sql = "select 1 from sandmill.processors where id = any ($1) having count(*) = cardinality($1)";
        // Until the host has migrated the database there is no such table.
        let registered = async || session.query_opt(sql, &[&ids]).await.ok()?;
        eventually(&format!("{ids:?} are registered"), registered).await;
        host
    }

    /// Tells it to finish, and waits until it has.
    pub async fn stop(self) {
        let _ = self.drain.send(());
        self.task.await.expect("the host ends in order").expect("the host ends well");
    }
}

/// Folds as the guest `scripted` does, under its names, and does something before each event. Between two events it lets others have its thread.
pub struct Folding {
    before: Box<dyn Fn(&Event) + Send + Sync>,
    id: ProcessorId,
    collection: CollectionName,
    partition_by: PartitionBy,
}

impl Folding {
    /// Does this before each event.
    pub fn after(before: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let collection = CollectionName::parse("scripted_log").expect("a name");
        let id = ProcessorId::parse("scripted").expect("a name");
        Folding { before: Box::new(before), id, collection, partition_by: PartitionBy::Tenant }
    }

    /// The same under another name, with the collection `NAME_log`.
    pub fn named(self, name: &str) -> Self {
        let collection = CollectionName::parse(&format!("{name}_log")).expect("a name");
        Folding { id: ProcessorId::parse(name).expect("a name"), collection, ..self }
    }

    /// The same with a lane for each stream.
    pub fn by_stream(self) -> Self {
        Folding { partition_by: PartitionBy::EventStream, ..self }
    }

    fn spec(&self) -> ProcessorSpec {
        let partition_by = self.partition_by.clone();
        ProcessorSpec { partition_by, ..ProcessorSpec::projector(self.id.clone(), vec![self.collection.clone()]) }
    }

    async fn fold(self: Arc<Self>, batch: Arc<Batch>, documents: Arc<dyn Documents>) -> Result<Effects, Failure> {
        let mut streams: Vec<String> = batch.events.iter().map(|event| event.stream.to_string()).collect();
        streams.sort_unstable();
        streams.dedup();
        let found = documents.get_many(&self.collection, &streams).await?;
        let known = |text: Option<Arc<str>>| text.map_or_else(Chain::default, |text| chain(&text));
        let mut chains: BTreeMap<&str, Chain> =
            streams.iter().map(String::as_str).zip(found.into_iter().map(known)).collect();
        for event in &batch.events {
            (self.before)(event);
            // To the end of the queue of those who want the thread, as a guest goes at the end of its slice.
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
    ) -> BoxFuture<'static, Result<Effects, Failure>> {
        Box::pin(self.fold(batch, documents))
    }

    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
        self
    }

    fn wall_time(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// Holds up whoever comes through it while it is closed.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through from now on.
    pub fn open(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }

    /// Before the events of one tenant.
    pub fn before(&self, tenant: &'static str) -> Folding {
        let gate = self.0.clone();
        Folding::after(move |event| {
            if event.tenant.as_str() == tenant {
                drop(gate.1.wait_while(gate.0.lock().expect("not poisoned"), |open| !*open).expect("not poisoned"));
            }
        })
    }
}

/// A document of ours as the chain it holds.
fn chain(text: &str) -> Chain {
    let data: Value = serde_json::from_str(text).expect("a document is JSON");
    Chain { events: data["count"].as_i64().unwrap_or(0), chain: data["chain"].as_str().unwrap_or("").into() }
}
