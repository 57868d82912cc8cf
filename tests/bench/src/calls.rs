//! Calls of a plugin without a database, in elapsed time; [`cpu`] measures their CPU time. The
//! costs of a new instance, and of batches of different sizes, are compared with equivalent native
//! code. Each call folds events of a tenant with a hundred carts, on a guest thread as in a host.

pub mod cpu;

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::anyhow;
use sandmill::{
    model::{
        event::{Batch, Event},
        handler::{Documents, Handler},
        ids::{LaneKey, TenantId},
    },
    scheduler::{Class, Scheduler},
};
use serde_json::json;

use crate::{carts::COLLECTION, documents::InMemory, folding::Carts, host, report::Report, world::World};

const PART: &str = "calls";
/// Carts of the tenant.
pub const CARTS: usize = 100;
/// Number of calls whose mean is one sample.
const CALLS: usize = 200;

/// Measures the microseconds of a call.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let scheduler = Scheduler::start(&world.config(Path::new(""))?.scheduler)?;
    let plugin = host::plugin(world, "cart-summary")?.handler;
    let native: Arc<dyn Handler> = Arc::new(Carts::new(COLLECTION)?);
    let documents = carts(CARTS);
    let added = item();
    let (tenant, meter) = (TenantId::parse("acme")?, Arc::default());
    let calls = async |handler: &Arc<dyn Handler>, events: usize, fresh: bool| -> anyhow::Result<f64> {
        let batch = Arc::new(batch(&tenant, events, CARTS, &added)?);
        let mut seconds = 0.0;
        for _ in 0..CALLS {
            if fresh {
                handler.forget_all();
            }
            let began = Instant::now();
            let effects = scheduler
                .run(&batch.lane.tenant, Class::Live, &meter, handler.clone().handle(batch.clone(), documents.clone()))
                .await;
            seconds += began.elapsed().as_secs_f64();
            let effects = effects.map_err(|failure| anyhow!("a call failed: {failure:?}"))?;
            anyhow::ensure!(effects.changes.len() == events.min(CARTS), "a call changed {}", effects.changes.len());
        }
        Ok(seconds / CALLS as f64 * 1e6)
    };

    let mut first = Vec::new();
    for _ in 0..world.rounds {
        first.push(calls(&plugin, 1, true).await?);
    }
    report.add(PART, "a new instance and its first call, 1 event", "µs", first);
    for events in [1, 10, 100, 1000] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..world.rounds {
            ours.push(calls(&plugin, events, false).await?);
            theirs.push(calls(&native, events, false).await?);
        }
        report.add(PART, format!("a call of {events}"), "µs", ours);
        report.add(PART, format!("a call of {events}, native code"), "µs", theirs);
    }
    Ok(())
}

/// The data of an event that adds an item to a cart.
pub fn item() -> String {
    json!({"sku": "product-12", "quantity": 2, "price": 499, "note": "x".repeat(120)}).to_string()
}

/// The documents of carts.
fn carts(count: usize) -> Arc<dyn Documents> {
    let cart = json!({"items": 3, "total": 4_500, "status": "open"}).to_string();
    Arc::new(InMemory((0..count).map(|number| (format!("cart-{number}"), cart.as_str().into())).collect()))
}

/// A batch of a tenant's events of carts with this data.
pub fn batch(tenant: &TenantId, events: usize, carts: usize, data: &str) -> anyhow::Result<Batch> {
    let event = |number: usize| {
        Arc::new(Event {
            position: number as i64 + 1,
            id: format!("00000000-0000-4000-8000-{number:012}").into(),
            tenant: tenant.clone(),
            event_type: "ItemAdded".into(),
            stream: format!("cart-{}", number % carts).into(),
            version: (number / carts) as i64 + 1,
            recorded_at: 0,
            data: data.into(),
            metadata: "{}".into(),
            deferred: None,
        })
    };
    let lane = LaneKey { tenant: tenant.clone(), key: tenant.as_shared() };
    Ok(Batch { lane, attempt: 1, replaying: false, events: (0..events).map(event).collect(), conflicts: None })
}
