//! Compilation of components to machine code, never in this process.
//!
//! A compiler is a large program that reads untrusted bytes. It may take minutes or gigabytes, or
//! crash. So it runs in its own process, at the lowest priority and under limits (`worker`); how
//! many run at once is decided in `queue`. Its output, machine code, is cached under the digests of
//! the component and the engine, so a file is compiled once and not at every start.
//!
//! Code is loaded only if this host's compiler has just produced it, or if it carries this host's
//! seal. Both are checked in memory, over the very bytes that are loaded. This does not make the
//! component trusted: its code runs inside the sandbox, no matter who compiled it.

mod cache;
mod key;
mod process;
mod queue;
pub mod worker;

use std::{
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use cache::CodeCache;
use queue::CompilerQueue;
pub use queue::Effort;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use crate::model::user_cache::user_cache;

/// The settings of compilation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Folder for compiled code; only this host's user may write there. Empty: no cache, and every
    /// start compiles again. Default: `sandmill` in the user's cache folder, or a private folder
    /// among the temporary files if the user has none.
    pub cache: PathBuf,
    /// Size of the cache, MiB. The least recently used code is removed. Default 1024: about thirty
    /// plugins in JavaScript or Python, or two thousand in Rust.
    pub cache_mib: u64,
    /// Memory of one compiler, MiB. Default 2048: a guest with a whole JavaScript or Python runtime
    /// takes about 1000.
    pub memory_mib: u64,
    /// CPU time of one compiler over all its threads, seconds. Its wall-clock time may be four
    /// times as long, since it has the lowest priority. Default 120: four times what the largest
    /// runtimes take.
    pub seconds: u64,
    /// Program that compiles: a `sandmill` of exactly this host's version. Empty, the default: this
    /// program itself.
    pub worker: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let cache = user_cache().unwrap_or_else(private_folder);
        Config { cache, cache_mib: 1_024, memory_mib: 2_048, seconds: 120, worker: PathBuf::new() }
    }
}

/// A folder among the temporary files, for a user without a cache folder.
fn private_folder() -> PathBuf {
    std::env::temp_dir().join(format!("sandmill-{}", rustix::process::geteuid().as_raw()))
}

impl Config {
    /// Refuses values out of range; the error names the setting and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("cache-mib", self.cache_mib, 1, 1 << 20),
            ("memory-mib", self.memory_mib, 128, 1 << 20),
            ("seconds", self.seconds, 1, 86_400),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("compile.{name} = {value} is out of range; use {low} to {high}"));
            }
        }
        Ok(())
    }
}

/// Why a component has no code that runs here.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a component, or use features that this host does not compile.
    #[error("the component does not compile: {0}\nRebuild it with `sandmill plugin build`, or with up-to-date tools.")]
    Invalid(String),
    /// The compiler exceeded its memory.
    #[error(
        "compiling it takes more than {mib} MiB of memory (compile.memory-mib)\n\
         Very large functions cost most; make the component smaller, or raise the setting if it is trusted."
    )]
    Memory {
        /// The setting.
        mib: u64,
    },
    /// The compiler exceeded its CPU time.
    #[error(
        "compiling it takes more than {seconds} s of CPU time (compile.seconds)\n\
         Make the component smaller, or raise the setting if it is trusted."
    )]
    Time {
        /// The setting.
        seconds: u64,
    },
    /// The compiler exceeded its wall-clock time.
    #[error(
        "compiling it was not done after {waited} s, four times compile.seconds\n\
         The compiler has the lowest priority, and the machine leaves it no time. Try again when the machine \
         is less busy, or raise the setting."
    )]
    Starved {
        /// Time waited, seconds.
        waited: u64,
    },
    /// The system killed the compiler.
    #[error(
        "the system killed its compiler (SIGKILL), probably for lack of memory\n\
         Give the host more memory, or make the component smaller."
    )]
    Killed,
    /// The system cannot start a compiler's process now.
    #[error("its compiler could not be started now: {0}\nGive the host more memory, processes or open files.")]
    Scarce(String),
    /// It takes more than a quick compiler has.
    #[error("compiling it takes longer than a small component may take")]
    Unfinished,
    /// All compilers were stopped, because the host is stopping.
    #[error("it was not compiled, because the host is stopping")]
    Stopped,
    /// The compiler could not be started, or failed in an unexpected way.
    #[error("the compiler failed: {0}")]
    Worker(String),
    /// The code is good, but cannot run within this host's limits.
    #[error("it cannot run here: {0}")]
    Unfit(String),
}

impl CompileError {
    /// Whether the cause is the machine's current state, and not the component.
    pub fn is_shortage(&self) -> bool {
        matches!(self, CompileError::Killed | CompileError::Scarce(_) | CompileError::Starved { .. })
    }

    /// A stable name for metrics.
    pub(super) fn class(&self) -> &'static str {
        match self {
            CompileError::Killed | CompileError::Scarce(_) => "compile-shortage",
            CompileError::Memory { .. } => "compile-memory-limit",
            CompileError::Time { .. } | CompileError::Starved { .. } => "compile-time-limit",
            CompileError::Invalid(_)
            | CompileError::Worker(_)
            | CompileError::Unfit(_)
            | CompileError::Unfinished
            | CompileError::Stopped => "refused-file",
        }
    }
}

/// Machine code that a compiler of this host wrote. Only this module and its children make one.
struct MachineCode {
    bytes: Vec<u8>,
    /// Where the code begins, behind its seal.
    from: usize,
}

/// Prefix of the names of unfinished files in the cache's folder.
const PART: &str = ".part-";

/// Wall-clock time of a compiler, as a multiple of its full CPU time. It has the lowest priority,
/// so on a busy machine a small component waits as long as a large one.
const WALL_FACTOR: u64 = 4;

/// Size of a component, bytes, from which compiling takes seconds and is announced in the log. A
/// component with a JavaScript or Python runtime is larger, a Rust guest is not.
pub const LARGE: usize = 1 << 20;

/// Compiles components for one engine.
pub(super) struct Compiler {
    engine: Engine,
    config: Config,
    cache: Option<CodeCache>,
    queue: CompilerQueue,
    /// Components compiled, and the nanoseconds that this took.
    compiled: (AtomicU64, AtomicU64),
}

impl Compiler {
    /// Opens the cache. If that fails, logs why and works without one.
    pub(super) fn new(engine: &Engine, config: Config) -> Self {
        let cache = if config.cache.as_os_str().is_empty() {
            None
        } else {
            let opened = CodeCache::open(&config.cache, config.cache_mib << 20, fingerprint(engine));
            opened
                .inspect_err(|problem| {
                    tracing::warn!("compiled code is not cached, so each start compiles again: {problem}")
                })
                .ok()
        };
        Compiler {
            engine: engine.clone(),
            config,
            cache,
            queue: CompilerQueue::default(),
            compiled: Default::default(),
        }
    }

    /// The component of these bytes, whose SHA-256 is `digest`.
    pub(super) fn component(&self, bytes: &[u8], digest: &[u8; 32], effort: Effort) -> Result<Component, CompileError> {
        let cached = || self.cache.as_ref().and_then(|cache| cache.get(digest));
        if let Some(code) = cached() {
            return self.load(&code);
        }
        let _work = self.queue.begin_work();
        let slot = self.queue.enter(effort)?;
        // The compiler that ran meanwhile may have compiled this component.
        if let Some(code) = cached() {
            return self.load(&code);
        }
        let began = Instant::now();
        if bytes.len() >= LARGE {
            let then = if self.cache.is_some() {
                "the next start reads it from the cache"
            } else {
                "each start compiles it again, as there is no cache"
            };
            tracing::info!(
                component_kib = bytes.len() >> 10,
                "compiling a large component in a separate process, at the lowest priority; this takes a \
                 while; {then}"
            );
        }
        let code = self.compile(bytes, effort)?;
        drop(slot);
        let took = began.elapsed();
        self.compiled.0.fetch_add(1, Relaxed);
        self.compiled.1.fetch_add(took.as_nanos() as u64, Relaxed);
        let (kib, ms) = (code.bytes.len() >> 10, took.as_millis());
        tracing::info!(component_kib = bytes.len() >> 10, code_kib = kib, ms, "compiled a component");
        let component = self.load(&code)?;
        // A host that ends must not leave a half-written file.
        if let Some(cache) = self.cache.as_ref().filter(|_| !self.queue.is_stopped()) {
            cache.put(digest, &code);
        }
        Ok(component)
    }

    fn compile(&self, bytes: &[u8], effort: Effort) -> Result<MachineCode, CompileError> {
        let (bounds, full) = (effort.bounds(&self.config), Effort::Full.bounds(&self.config));
        let wall_seconds = full.seconds * WALL_FACTOR;
        process::compile(&self.config.worker, bounds, wall_seconds, &self.queue, bytes).map_err(|error| match error {
            // Full bounds may be enough.
            CompileError::Memory { .. }
            | CompileError::Time { .. }
            | CompileError::Starved { .. }
            | CompileError::Worker(_)
                if bounds != full =>
            {
                CompileError::Unfinished
            }
            error => error,
        })
    }

    /// Number of components compiled, and the time that this took.
    pub(super) fn compiled(&self) -> (u64, Duration) {
        (self.compiled.0.load(Relaxed), Duration::from_nanos(self.compiled.1.load(Relaxed)))
    }

    /// Kills all running compilers and starts no more.
    pub(super) fn stop(&self) {
        self.queue.stop();
    }

    /// Waits until no component is being compiled or cached.
    pub(super) async fn idle(&self) {
        self.queue.idle().await;
    }

    /// The component whose bytes had this digest, if its code is cached.
    pub(super) fn cached(&self, digest: &[u8; 32]) -> Option<Component> {
        self.load(&self.cache.as_ref()?.get(digest)?).ok()
    }

    /// Loads code from memory.
    #[allow(unsafe_code, reason = "loading our own authenticated compiled code")]
    fn load(&self, code: &MachineCode) -> Result<Component, CompileError> {
        // SAFETY: these bytes decide what this process executes. They come from the compiler that
        // this host has just run, or carry the host's seal over all of them (see `cache`). The seal
        // was checked in memory, so a later change of the file has no effect.
        let component = unsafe { Component::deserialize(&self.engine, &code.bytes[code.from..]) };
        component.map_err(|e| CompileError::Unfit(format!("{e:#}")))
    }
}

/// Digest of what code depends on besides its component: the version and settings of the compiler,
/// and the features of the CPU.
fn fingerprint(engine: &Engine) -> [u8; 32] {
    struct HashInput(Sha256);
    impl Hasher for HashInput {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut input = HashInput(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut input);
    input.0.finalize().into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Limits, engine};

    /// The host's engine has a pool of instances and the compiler's has none. Code must not depend
    /// on that, nor on any limit.
    #[test]
    fn the_compilers_engine_produces_code_for_the_hosts_engine() {
        let limits = Limits { instances: 2, stack_kib: 1_024, memory_mib: 7, ..Limits::default() };
        let (pooled, _) = engine::start(&limits).unwrap();
        assert_eq!(fingerprint(&pooled), fingerprint(&engine::for_compiling().unwrap()));
    }
}
