//! The one engine configuration, and the thread that advances its clock.
//!
//! Instances come from a pool: address space set aside once, memory mapped copy-on-write, dirty pages found by the kernel when a slot is
//! freed. Where the machine refuses so much address space the pool is tried smaller, and at last done without; slower,
//! and nothing else changes. Component concurrency is off, which makes a call four times cheaper; guests are synchronous.

use std::time::Duration;

use anyhow::Context;
use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use super::{limits::Limits, mappings};

/// How often the epoch advances, and so how long a guest runs before it gives way. A register-only loop does not feel it, a parser
/// does not either; longer slices are other guests' latency.
const SLICE: Duration = Duration::from_millis(1);

/// Core instances of one component: Python's runtime has 38, and packages in C bring one each.
const CORE_INSTANCES: u32 = 64;
/// Memories of one component: JavaScript's runtime has three, two of them of a page or less.
const MEMORIES: u32 = 4;
/// Tables of one component.
const TABLES: u32 = 32;

/// Starts an engine under these limits, and its clock. Says how many instances it has room for.
pub(super) fn start(limits: &Limits) -> anyhow::Result<(Engine, u32)> {
    let (engine, instances) = probe(limits)?;
    let weak = engine.weak();
    std::thread::Builder::new().name("epoch".into()).spawn(move || tick(&weak)).context("start the epoch thread")?;
    Ok((engine, instances))
}

fn tick(engine: &EngineWeak) {
    loop {
        std::thread::sleep(SLICE);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

fn probe(limits: &Limits) -> anyhow::Result<(Engine, u32)> {
    let wanted = mappings::cap(limits.instances);
    let mut instances = wanted;
    loop {
        let mut config = config(limits);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits, instances)));
        let refused = match Engine::new(&config) {
            Ok(engine) => {
                if instances < wanted {
                    tracing::warn!(
                        instances,
                        wanted,
                        "the machine has address space for fewer pooled instances than limits.instances; going on with these"
                    );
                }
                return Ok((engine, instances));
            }
            Err(refused) => refused,
        };
        if instances <= 16 {
            tracing::warn!(
                reason = format!("{refused:#}"),
                "no address space for pooled instances; each one is mapped when needed, which is slower"
            );
            let engine = Engine::new(&self::config(limits)).map_err(|e| anyhow::anyhow!("start the engine: {e:#}"))?;
            return Ok((engine, wanted));
        }
        instances /= 4;
    }
}

/// An engine that compiles for the others and runs nothing: in a compiler's own process, where address space is scarce.
pub(super) fn for_compiling() -> anyhow::Result<Engine> {
    Engine::new(&common()).map_err(|e| anyhow::anyhow!("start the engine: {e:#}"))
}

/// What code depends on, and so what compiling it and running it must agree on.
fn common() -> Config {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config
}

fn config(limits: &Limits) -> Config {
    let mut config = common();
    config.max_wasm_stack(limits.stack_kib << 10);
    // What is left of a fiber's stack above the guest's is for the host's own frames in host calls.
    config.async_stack_size((limits.stack_kib << 10) + (512 << 10));
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn pool(limits: &Limits, instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    // One more than may be lent: a file that is loaded is asked what it is, whatever else goes on.
    let instances = instances + 1;
    // A component is up to three core modules from Rust, and from Python some forty. Their number is only counted, so it bounds nothing that
    // matters; memories and tables have places set aside. There is a memory for each instance and no more, since memories are what takes mappings:
    // a JavaScript guest has three, so fewer such guests are alive at once, and idle ones give way.
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES)
        .total_memories(instances + MEMORIES)
        .total_tables(instances * 4 + TABLES)
        .total_stacks(instances)
        .max_memory_size(limits.memory_bytes())
        .table_elements(limits.table_elements)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}
