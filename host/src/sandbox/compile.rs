//! From a component's bytes to code that runs, without ever compiling in this process.
//!
//! A compiler is a large program fed with a stranger's bytes: it may take minutes or gigabytes, or crash. So it runs as a process of
//! its own, one at a time (`queue`), at the lowest priority and under limits, and what it leaves
//! behind is machine code. That is kept under
//! the component's digest and the engine's, so that a file is compiled once and not at every start. Code is loaded only if this host's
//! compiler gave it to this host just now, or if it carries this host's own seal; both are checked in memory, over the very bytes that are loaded.
//! A component is trusted with nothing by that: its code runs inside the sandbox, whoever compiled it.

mod cache;
mod key;
mod process;
mod queue;
pub mod worker;

use std::{
    ffi::OsString,
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use cache::Cache;
pub use queue::Effort;
use queue::Queue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The folder that keeps compiled code; nobody but this host's user may write there. Empty: keep none, and compile at every start.
    /// Default `sandmill` in the user's cache folder, or a private one among temporary files where there is no such.
    pub cache: PathBuf,
    /// What the cache may hold, MiB; the code that was used least recently is removed. Default 1024: some thirty plugins in JavaScript or
    /// Python, or two thousand in Rust.
    pub cache_mib: u64,
    /// Memory of one compiler, MiB. Default 2048: a guest with a whole JavaScript or Python runtime takes some 1000.
    pub memory_mib: u64,
    /// CPU time of one compiler, seconds, on all its threads together; by the clock on the wall it may take four times as long, as it gives way
    /// to everything else. Default 120: four times what the largest runtimes take.
    pub seconds: u64,
    /// The program that compiles: a `sandmill` of this host's very version. Empty, the default: this program itself.
    pub worker: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = folder(variable("XDG_CACHE_HOME"), variable("HOME"));
        Config { cache, cache_mib: 1_024, memory_mib: 2_048, seconds: 120, worker: PathBuf::new() }
    }
}

fn folder(cache_home: Option<OsString>, home: Option<OsString>) -> PathBuf {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    match (absolute(cache_home), absolute(home)) {
        (Some(cache), _) => cache.join("sandmill"),
        (None, Some(home)) => home.join(".cache/sandmill"),
        (None, None) => std::env::temp_dir().join(format!("sandmill-{}", rustix::process::geteuid().as_raw())),
    }
}

impl Config {
    /// Says which setting has a value that cannot work, with the values that can.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("cache-mib", self.cache_mib, 1, 1 << 20),
            ("memory-mib", self.memory_mib, 128, 1 << 20),
            ("seconds", self.seconds, 1, 86_400),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("compile.{name} = {value} is out of range; it takes {low} to {high}"));
            }
        }
        Ok(())
    }
}

/// Why there is no code to run.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are no component, or of a kind that this host does not compile.
    #[error(
        "the component does not compile: {0}\nBuild it again with `sandmill plugin build`, or with tools of this year."
    )]
    Invalid(String),
    /// The compiler reached its bound on memory.
    #[error(
        "compiling it takes more than {mib} MiB of memory (compile.memory-mib)\nVery large functions cost most; make the component smaller, or raise the setting if it is trusted."
    )]
    Memory {
        /// The setting.
        mib: u64,
    },
    /// The compiler reached its bound on CPU time.
    #[error(
        "compiling it takes more than {seconds} s of CPU time (compile.seconds)\nMake the component smaller, or raise the setting if it is trusted."
    )]
    Time {
        /// The setting.
        seconds: u64,
    },
    /// The compiler was not done long after its CPU time should have been enough.
    #[error(
        "compiling it was not done after {waited} s, four times compile.seconds\nThe machine leaves the compiler no time, since that gives way to everything else; try again when it has less to do, or raise the setting."
    )]
    Starved {
        /// What was waited.
        waited: u64,
    },
    /// The system ended the compiler.
    #[error(
        "the system killed its compiler (SIGKILL), as it does where memory is short\nGive the host more memory, or make the component smaller."
    )]
    Killed,
    /// The system has no room for a compiler's process now.
    #[error("its compiler could not be started now: {0}\nGive the host more memory, processes or open files.")]
    Scarce(String),
    /// It takes more than a quick compiler may.
    #[error("compiling it takes longer than that of a small component does")]
    Unfinished,
    /// All compilers were stopped, since the host ends.
    #[error("it was not compiled, as the host ends")]
    Stopped,
    /// The compiler could not be run, or ended as it never should.
    #[error("the compiler failed: {0}")]
    Worker(String),
    /// The code is good, but cannot be run within this host's limits.
    #[error("it cannot run here: {0}")]
    Unfit(String),
}

impl CompileError {
    /// Whether it says something of the machine now, and nothing of the component.
    pub fn is_shortage(&self) -> bool {
        matches!(self, CompileError::Killed | CompileError::Scarce(_) | CompileError::Starved { .. })
    }

    /// A stable name for counters.
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

/// Machine code that a compiler of this host wrote. Only this module and the ones below it make one.
struct Code {
    bytes: Vec<u8>,
    /// Where it begins, behind whatever it is kept with.
    from: usize,
}

/// How much longer than the CPU time that it may take a compiler may run by the clock on the wall. It runs at the
/// lowest priority, so on a busy machine a small component waits as long as a large one.
const PATIENCE: u64 = 4;

/// From this size on a component takes seconds to compile, and so whoever waits is told, bytes: a runtime of JavaScript or Python is larger, a
/// Rust guest is not.
pub const LARGE: usize = 1 << 20;

/// Compiles components for one engine.
pub(super) struct Compiler {
    engine: Engine,
    config: Config,
    cache: Option<Cache>,
    queue: Queue,
    /// Components compiled, and nanoseconds that it took.
    compiled: (AtomicU64, AtomicU64),
}

impl Compiler {
    /// Opens the cache, or says why there is none and goes on without.
    pub(super) fn new(engine: &Engine, config: Config) -> Self {
        let cache = if config.cache.as_os_str().is_empty() {
            None
        } else {
            let opened = Cache::open(&config.cache, config.cache_mib << 20, fingerprint(engine));
            opened
                .inspect_err(|problem| {
                    tracing::warn!("compiled code is not kept, so each start compiles again: {problem}")
                })
                .ok()
        };
        Compiler { engine: engine.clone(), config, cache, queue: Queue::default(), compiled: Default::default() }
    }

    /// The component of these bytes, whose SHA-256 is `digest`.
    pub(super) fn component(&self, bytes: &[u8], digest: &[u8; 32], effort: Effort) -> Result<Component, CompileError> {
        let kept = || self.cache.as_ref().and_then(|cache| cache.get(digest));
        if let Some(code) = kept() {
            return self.load(&code);
        }
        let _busy = self.queue.busy();
        let place = self.queue.enter(effort)?;
        // Whoever compiled just now may have compiled this.
        if let Some(code) = kept() {
            return self.load(&code);
        }
        let began = Instant::now();
        if bytes.len() >= LARGE {
            let then = if self.cache.is_some() {
                "the next start takes it from the cache"
            } else {
                "each start does it again"
            };
            tracing::info!(
                component_kib = bytes.len() >> 10,
                "compiling a large component in a process of its own, at the lowest priority; this takes a while, and {then}"
            );
        }
        let code = self.compile(bytes, effort)?;
        drop(place);
        let took = began.elapsed();
        self.compiled.0.fetch_add(1, Relaxed);
        self.compiled.1.fetch_add(took.as_nanos() as u64, Relaxed);
        let (kib, ms) = (code.bytes.len() >> 10, took.as_millis());
        tracing::info!(component_kib = bytes.len() >> 10, code_kib = kib, ms, "compiled a component");
        let component = self.load(&code)?;
        // A host that ends leaves nothing half written.
        if let Some(cache) = self.cache.as_ref().filter(|_| !self.queue.is_stopped()) {
            cache.put(digest, &code);
        }
        Ok(component)
    }

    fn compile(&self, bytes: &[u8], effort: Effort) -> Result<Code, CompileError> {
        let (bounds, full) = (effort.bounds(&self.config), Effort::Full.bounds(&self.config));
        let wait = full.seconds * PATIENCE;
        process::compile(&self.config.worker, bounds, wait, &self.queue, bytes).map_err(|error| match error {
            // With more of everything it may be done.
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

    /// How many components were compiled, and the time that it took.
    pub(super) fn compiled(&self) -> (u64, Duration) {
        (self.compiled.0.load(Relaxed), Duration::from_nanos(self.compiled.1.load(Relaxed)))
    }

    /// Kills the compilers that run, and lets no further one begin.
    pub(super) fn stop(&self) {
        self.queue.stop();
    }

    /// Waits until no component is worked on.
    pub(super) async fn idle(&self) {
        self.queue.idle().await;
    }

    /// The component whose bytes had this digest, if its code is kept.
    pub(super) fn kept(&self, digest: &[u8; 32]) -> Option<Component> {
        self.load(&self.cache.as_ref()?.get(digest)?).ok()
    }

    /// Loads code as it stands in memory.
    #[allow(unsafe_code, reason = "loading our own authenticated compiled code")]
    fn load(&self, code: &Code) -> Result<Component, CompileError> {
        // SAFETY: whoever can choose these bytes can choose what this process executes. They come from the compiler that this host ran just now,
        // or carry its seal over all of them (see `cache`); and they were checked here in memory, where no file can change them any more.
        let component = unsafe { Component::deserialize(&self.engine, &code.bytes[code.from..]) };
        component.map_err(|e| CompileError::Unfit(format!("{e:#}")))
    }
}

/// What code depends on besides its component: the compiler's version and settings, and the processor's features.
fn fingerprint(engine: &Engine) -> [u8; 32] {
    struct Collect(Sha256);
    impl Hasher for Collect {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut collect = Collect(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut collect);
    collect.0.finalize().into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Limits, engine};

    /// Instances come from a pool here and from nowhere in the compiler's process; the code must not depend on it, nor on any limit.
    #[test]
    fn the_compilers_engine_makes_code_for_this_one() {
        let limits = Limits { instances: 2, stack_kib: 1_024, memory_mib: 7, ..Limits::default() };
        let (pooled, _) = engine::start(&limits).unwrap();
        assert_eq!(fingerprint(&pooled), fingerprint(&engine::for_compiling().unwrap()));
    }

    #[test]
    fn the_cache_is_in_the_users_folder() {
        let path = |text: &str| Some(OsString::from(text));
        assert_eq!(folder(path("/c"), path("/h")), PathBuf::from("/c/sandmill"));
        assert_eq!(folder(path("relative"), path("/h")), PathBuf::from("/h/.cache/sandmill"));
        assert_eq!(folder(None, path("/h")), PathBuf::from("/h/.cache/sandmill"));
        assert!(folder(None, None).starts_with(std::env::temp_dir()));
    }
}
