//! CPU time of calls: the plugin's handler on this thread, without a scheduler or a database,
//! beside native code. CPU time is steadier than elapsed time, and on a busy machine the minimum
//! says more than the median. Builds of the plugin in other folders take turns with the first, so
//! they are compared in one run.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use anyhow::{Context as _, anyhow};
use rustix::time::{ClockId, clock_gettime};
use sandmill::{
    model::{handler::Handler, ids::TenantId},
    sandbox::Sandbox,
};

use super::{CARTS, batch, carts, item};
use crate::{carts::COLLECTION, folding::Carts, report::Report, world::World};

const PART: &str = "cpu";
const PLUGIN: &str = "cart-summary";
/// Samples for each of the world's rounds, because each is short.
const SAMPLES: usize = 3;
/// Events whose mean cost is one sample: about a hundredth of a second.
const EVENTS: usize = 20_000;

/// What is measured: the events of a call, the carts that they belong to, and whether each call
/// gets a new instance.
const CASES: [(&str, usize, usize, bool); 5] = [
    ("a new instance and a call of 1", 1, CARTS, true),
    ("a call of 1", 1, CARTS, false),
    ("a call of 10", 10, CARTS, false),
    ("a call of 1000", 1_000, CARTS, false),
    ("a call of 1000, a document each", 1_000, 1_000, false),
];

/// One of the handlers that take turns.
struct Contender {
    /// What its figures are labelled with.
    label: String,
    handler: Arc<dyn Handler>,
    samples: Vec<f64>,
}

/// Measures the CPU time of a call, microseconds.
pub fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let contender = |label: String, handler| Contender { label, handler, samples: Vec::new() };
    let mut native = contender(", native code".into(), Arc::new(Carts::new(COLLECTION)?));
    let mut plugins = vec![contender(String::new(), plugin(world, &world.plugin(PLUGIN)?)?)];
    for folder in &world.against_plugins {
        let file = folder.join(PLUGIN).with_extension("wasm");
        plugins.push(contender(format!(", {}", folder.display()), plugin(world, &file)?));
    }
    let tenant = TenantId::parse("acme")?;
    for (case, events, in_carts, fresh) in CASES {
        let (batch, documents) = (Arc::new(batch(&tenant, events, in_carts, &item())?), carts(in_carts));
        let calls = (EVENTS / events).min(1_000);
        let sample = |handler: &Arc<dyn Handler>| {
            let began = cpu_time();
            for _ in 0..calls {
                if fresh {
                    handler.forget_all();
                }
                let effects = run(handler.clone().handle(batch.clone(), documents.clone()));
                let changed = effects.map_err(|failure| anyhow!("a call failed: {failure:?}"))?.changes.len();
                anyhow::ensure!(changed == events.min(in_carts), "a call changed {changed} documents");
            }
            anyhow::Ok((cpu_time() - began) as f64 / calls as f64 / 1e3)
        };
        // The first round only warms up.
        for round in 0..=SAMPLES * world.rounds {
            let mut turns: Vec<&mut Contender> = plugins.iter_mut().chain([&mut native]).collect();
            let count = turns.len();
            turns.rotate_left(round % count);
            for contender in turns {
                let sample = sample(&contender.handler)?;
                if round > 0 {
                    contender.samples.push(sample);
                }
            }
        }
        let natives = std::mem::take(&mut native.samples);
        for Contender { label, samples, .. } in &mut plugins {
            report.add_ratio(PART, format!("{case}{label}, beside native code"), samples, &natives);
            report.add(PART, format!("{case}{label}"), "µs", std::mem::take(samples));
        }
        report.add(PART, format!("{case}{}", native.label), "µs", natives);
    }
    Ok(())
}

/// Loads a plugin. It owns its sandbox.
fn plugin(world: &World, file: &Path) -> anyhow::Result<Arc<dyn Handler>> {
    let config = world.config(Path::new(""))?;
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let sandbox = Sandbox::new(config.limits, config.compile)?;
    Ok(Arc::new(tokio::task::block_in_place(|| sandbox.load(&bytes))?))
}

/// CPU time of this thread, nanoseconds.
fn cpu_time() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Runs a future to its end on this thread. A call is only pending because its slice ended.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
