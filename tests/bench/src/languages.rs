//! The same plugin in each language, without a database: the size of its component, the times of
//! compiling, of a new instance and of batches of different sizes, and the memory of one instance.
//! A language whose component was not built is left out, with a note.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::anyhow;
use sandmill::{
    model::{
        handler::{Documents, Handler},
        ids::TenantId,
    },
    sandbox::{Plugin, Sandbox},
    scheduler::{Class, Scheduler},
};

use crate::{calls, documents::InMemory, machine, report::Report, world::World};

const PART: &str = "languages";
const LANGUAGES: [(&str, &str); 3] =
    [("Rust", "cart-summary"), ("JavaScript", "cart-summary-js"), ("Python", "cart-summary-py")];
/// Number of calls whose mean is one sample.
const CALLS: usize = 100;
/// Number of tenants whose warm instances are measured together.
const TENANTS: usize = 30;

/// Measures every language whose component was built.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let config = world.config(Path::new(""))?;
    let scheduler = Scheduler::start(&config.scheduler)?;
    let documents: Arc<dyn Documents> = Arc::new(InMemory(Default::default()));
    for (language, name) in LANGUAGES {
        let Ok(file) = world.plugin(name) else {
            eprintln!("{name} was not built; {language} is left out");
            continue;
        };
        let bytes = std::fs::read(file)?;
        let mut add = |what: &str, unit, samples| report.add(PART, format!("{language}: {what}"), unit, samples);
        add("component", "MiB", vec![bytes.len() as f64 / 1_048_576.0]);
        let sandbox = Sandbox::new(config.limits.clone(), config.compile.clone())?;
        let (plugin, compiled) = load(&sandbox, &bytes)?;
        let (_, loaded) = load(&sandbox, &bytes)?;
        add("compile, on one core", "s", vec![compiled]);
        add("load from the cache", "s", vec![loaded]);

        let call = async |tenant: &TenantId, events: usize| {
            let (batch, handler) =
                (Arc::new(calls::batch(tenant, events, calls::CARTS, &calls::item())?), plugin.clone());
            let began = Instant::now();
            let effects =
                scheduler.run(tenant, Class::Live, &Arc::default(), handler.handle(batch, documents.clone())).await;
            effects.map_err(|failure| anyhow!("a call failed: {failure:?}"))?;
            anyhow::Ok(began.elapsed().as_secs_f64() * 1e6)
        };
        let acme = TenantId::parse("acme")?;
        let mut first = Vec::new();
        for _ in 0..world.rounds {
            let mut sum = 0.0;
            for _ in 0..CALLS {
                plugin.forget_all();
                sum += call(&acme, 1).await?;
            }
            first.push(sum / CALLS as f64);
        }
        add("a new instance and its first call, 1 event", "µs", first);
        for events in [1, 10, 100, 1000] {
            let mut samples = Vec::new();
            for _ in 0..world.rounds {
                let mut sum = 0.0;
                for _ in 0..CALLS {
                    sum += call(&acme, events).await?;
                }
                samples.push(sum / (CALLS * events) as f64);
            }
            add(&format!("an event in calls of {events}"), "µs", samples);
        }

        plugin.forget_all();
        let before = machine::memory_now(std::process::id());
        let held = sandbox.usage().memory_bytes;
        for tenant in 0..TENANTS {
            call(&TenantId::parse(&format!("tenant-{tenant}"))?, 100).await?;
        }
        let idle = sandbox.usage().idle.max(1) as f64;
        let linear = (sandbox.usage().memory_bytes - held) as f64 / 1_048_576.0;
        add("linear memory of a warm instance", "MiB", vec![linear / idle]);
        if let (Some(before), Some(now)) = (before, machine::memory_now(std::process::id())) {
            add("resident memory of a warm instance", "MiB", vec![(now - before) / idle]);
        }
    }
    Ok(())
}

/// Loads a plugin, and measures the seconds that it took.
fn load(sandbox: &Sandbox, bytes: &[u8]) -> anyhow::Result<(Arc<Plugin>, f64)> {
    let began = Instant::now();
    let plugin = tokio::task::block_in_place(|| sandbox.load(bytes))?;
    Ok((Arc::new(plugin), began.elapsed().as_secs_f64()))
}
