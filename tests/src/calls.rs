//! Calls of a plugin without processors or a database: a test passes a batch and gets effects.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sandmill::{
    model::{
        effects::{Change, Effects},
        event::{Batch, Event},
        handler::{BoxFuture, CallFailure, Documents, Failure, Handler},
        ids::{CollectionName, LaneKey, TenantId},
    },
    sandbox::{Limits, Plugin, Sandbox, TenantLimits},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::host::{compile, component};

/// Limits under which no ordinary call ends early, even on a busy machine. A test lowers the limits
/// that it is about.
pub fn unhurried() -> Limits {
    Limits { cpu_ms: 10_000, wall_ms: 600_000, ..Limits::default() }
}

/// A sandbox with these limits.
pub fn sandbox(limits: Limits) -> Sandbox {
    Sandbox::new(limits, compile()).expect("start a sandbox")
}

/// A sandbox with these limits, and the same limits for every tenant.
pub fn sandbox_for(limits: Limits, tenant: TenantLimits) -> Sandbox {
    Sandbox::with_tenants(limits, compile(), move |_| tenant).expect("start a sandbox")
}

/// Loads a component that `make plugins` or `make guests` has built.
pub fn load(sandbox: &Sandbox, name: &str) -> Arc<Plugin> {
    let bytes = std::fs::read(component(name)).expect("read a component");
    Arc::new(sandbox.load(&bytes).expect("load a component"))
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant's name")
}

/// A batch of one lane with one event for each item of data. The event's stream is the item's
/// `stream`, or else is named after the lane.
pub fn batch(tenant_name: &str, lane: &str, data: &[Value]) -> Arc<Batch> {
    let tenant = tenant(tenant_name);
    let event = |(index, data): (usize, &Value)| {
        Arc::new(Event {
            position: index as i64 + 1,
            id: format!("{lane}-{index}").into(),
            tenant: tenant.clone(),
            event_type: "Scripted".into(),
            stream: data["stream"].as_str().unwrap_or(lane).into(),
            version: index as i64 + 1,
            recorded_at: 0,
            data: data.to_string().into(),
            metadata: "{}".into(),
            deferred: None,
        })
    };
    Arc::new(Batch {
        lane: LaneKey { tenant: tenant.clone(), key: lane.into() },
        attempt: 1,
        replaying: false,
        events: data.iter().enumerate().map(event).collect(),
        conflicts: None,
    })
}

/// One call with one event.
pub async fn call(plugin: &Arc<Plugin>, tenant: &str, lane: &str, data: Value) -> Result<Effects, Failure> {
    diagnosed_call(plugin, tenant, lane, data).await.map_err(|failed| failed.failure)
}

/// One call with one event, whose failure comes with its diagnostics.
pub async fn diagnosed_call(
    plugin: &Arc<Plugin>,
    tenant: &str,
    lane: &str,
    data: Value,
) -> Result<Effects, CallFailure> {
    plugin.clone().handle(batch(tenant, lane, &[data]), Arc::new(NoDocuments)).await
}

/// The failure class of one call with one event, which must fail.
pub async fn refused(plugin: &Arc<Plugin>, tenant: &str, data: Value) -> String {
    match call(plugin, tenant, "lane", data.clone()).await {
        Err(Failure::Block(reason) | Failure::Retry(reason)) => reason.class,
        other => panic!("{data}: {other:?}"),
    }
}

/// The only document that these effects put.
pub fn document(effects: &Effects) -> Value {
    match effects.changes.as_slice() {
        [Change::Put { data, .. }] => serde_json::from_str(data).expect("a document is JSON"),
        other => panic!("{other:?}"),
    }
}

/// Documents of which none exists.
pub struct NoDocuments;

impl Documents for NoDocuments {
    fn get_many<'a>(
        &'a self,
        _: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        let count = ids.len();
        Box::pin(async move { Ok(vec![None; count]) })
    }
}

/// Documents that calls have put, of one tenant and any number of collections.
#[derive(Default)]
pub struct Kept(Mutex<KeptDocuments>);

/// The data of each document, by collection and id.
type KeptDocuments = HashMap<(CollectionName, Arc<str>), Arc<str>>;

impl Kept {
    /// Applies the changes of a call.
    pub fn keep(&self, effects: &Effects) {
        let mut kept = self.0.lock().expect("nothing panics while it is held");
        for change in &effects.changes {
            match change {
                Change::Put { collection, id, data } => {
                    kept.insert((collection.clone(), id.clone()), data.clone());
                }
                Change::Remove { collection, id } => {
                    kept.remove(&(collection.clone(), id.clone()));
                }
            }
        }
    }
}

impl Documents for Kept {
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        let kept = self.0.lock().expect("nothing panics while it is held");
        let find = |id: &String| kept.get(&(collection.clone(), id.as_str().into())).cloned();
        let found = ids.iter().map(find).collect();
        Box::pin(async move { Ok(found) })
    }
}

/// Documents of which none exists, with a delay before each answer.
pub struct SlowDocuments(pub Duration);

impl Documents for SlowDocuments {
    fn get_many<'a>(
        &'a self,
        _: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        let count = ids.len();
        Box::pin(async move {
            // The wait is what is tested.
            tokio::time::sleep(self.0).await;
            Ok(vec![None; count])
        })
    }
}

/// Documents of which none exists. They report that they were asked, and wait for a permission to
/// answer.
#[derive(Default)]
pub struct HeldDocuments {
    /// Notified when a guest asks.
    pub asked: Notify,
    /// To be notified for the answer.
    pub answer: Notify,
}

impl Documents for HeldDocuments {
    fn get_many<'a>(
        &'a self,
        _: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        let count = ids.len();
        Box::pin(async move {
            self.asked.notify_one();
            self.answer.notified().await;
            Ok(vec![None; count])
        })
    }
}
