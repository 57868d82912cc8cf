//! The engine's configuration.
//!
//! Instances come from a pool. Address space is set aside once, memory is mapped copy-on-write, and
//! the kernel finds dirty pages when a slot is freed. If the machine refuses that much address
//! space, smaller pools are tried. Without any pool, instances are slower to make, and nothing else
//! changes. Component concurrency is off, which makes a call four times cheaper; guests are
//! synchronous.

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails,
};

use super::{limits::Limits, mappings};

/// Core instances of one component: Python's runtime has 38, and packages in C bring one each.
const CORE_INSTANCES: u32 = 64;
/// Memories of one component: JavaScript's runtime has three, two of them of a page or less.
const MEMORIES: u32 = 4;
/// Tables of one component.
const TABLES: u32 = 32;

/// Starts an engine under these limits. Also returns the number of instances that it has room for.
pub(super) fn start(limits: &Limits) -> anyhow::Result<(Engine, u32)> {
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
                        "the machine has address space for fewer pooled instances than limits.instances; \
                         using these"
                    );
                }
                return Ok((engine, instances));
            }
            Err(refused) => refused,
        };
        if instances <= 16 {
            tracing::warn!(
                reason = format!("{refused:#}"),
                "no address space for pooled instances; each instance is mapped when needed, which is slower"
            );
            let engine = Engine::new(&self::config(limits)).map_err(|e| anyhow::anyhow!("start the engine: {e:#}"))?;
            return Ok((engine, wanted));
        }
        instances /= 4;
    }
}

/// An engine that only compiles, for a compiler's own process, where address space is scarce.
pub(super) fn for_compiling() -> anyhow::Result<Engine> {
    Engine::new(&common()).map_err(|e| anyhow::anyhow!("start the engine: {e:#}"))
}

/// The settings that machine code depends on. Compiling it and running it must agree on them.
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
    // The fiber's stack has room beyond the guest's for the host's own frames in host calls.
    config.async_stack_size((limits.stack_kib << 10) + (512 << 10));
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn pool(limits: &Limits, instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    // One more than can be lent, so that `describe` of a new file finds room.
    let instances = instances + 1;
    // A component from Rust has up to three core modules, one from Python about forty. Core
    // instances are only counted, while memories and tables take address space. There is one memory
    // per instance, because memories take mappings. A JavaScript guest has three, so fewer such
    // guests are alive at once, and idle ones are evicted.
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
