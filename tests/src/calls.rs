//! Calls of a plugin without processors or a database: batches in, effects out.

use std::{sync::Arc, time::Duration};

use sandmill::{
    model::{
        effects::{Change, Effects},
        event::{Batch, Event},
        handler::{BoxFuture, Documents, Failure, Handler},
        ids::{CollectionName, LaneKey, TenantId},
    },
    sandbox::{Limits, Plugin, Sandbox, TenantLimits},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::host::{compile, component};

/// Limits under which no ordinary call ends early, however busy the machine is: a test sets those
/// that it is about.
pub fn unhurried() -> Limits {
    Limits { cpu_ms: 10_000, wall_ms: 600_000, ..Limits::default() }
}

/// A sandbox with these limits.
pub fn sandbox(limits: Limits) -> Sandbox {
    Sandbox::new(limits, compile()).expect("start a sandbox")
}

/// The same where every tenant may have so much.
pub fn sandbox_for(limits: Limits, of_tenant: TenantLimits) -> Sandbox {
    Sandbox::with_tenants(limits, compile(), move |_| of_tenant).expect("start a sandbox")
}

/// One of the components that `make plugins` built, loaded.
pub fn load(sandbox: &Sandbox, name: &str) -> Arc<Plugin> {
    let bytes = std::fs::read(component(name)).expect("read a component");
    Arc::new(sandbox.load(&bytes).expect("load a component"))
}

/// A tenant.
pub fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant's name")
}

/// A batch of one lane, one event for each of these data, of the stream that the data name or one named after the lane.
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
    })
}

/// One call with one event.
pub async fn call(plugin: &Arc<Plugin>, tenant: &str, lane: &str, data: Value) -> Result<Effects, Failure> {
    plugin.clone().handle(batch(tenant, lane, &[data]), Arc::new(NoDocuments)).await
}

/// The class of the failure that one call with one event ends with.
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

/// There are none.
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

/// There are none, and it takes a while to find out.
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

/// Says that it was asked, and answers when it is told to: there are none.
#[derive(Default)]
pub struct HeldDocuments {
    /// It was asked.
    pub asked: Notify,
    /// It may answer.
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
