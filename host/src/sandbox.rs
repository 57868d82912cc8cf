//! The sandbox: turns the bytes of a component into a [`Handler`](crate::model::handler::Handler).
//! The only room that uses wasmtime.
//!
//! A [`Sandbox`] is one engine with one set of limits. [`Sandbox::load`] reads the names in a file,
//! rejects imports that this host does not offer, compiles the file and calls its `describe`. The
//! resulting [`Plugin`] handles batches. Each call runs in an instance that sees one tenant only
//! and, after a successful call, is kept warm for that tenant's next one. A guest can compute and
//! return data; it reaches nothing but the documents of its lane's tenant, its log and its
//! settings. Its bounds are in [`limits`]; [`SandboxUsage`] counts the use and the refusals of all
//! guests. There is no SQL here.

mod answer;
mod bindings;
mod capabilities;
pub mod compile;
mod descriptor;
mod engine;
pub mod examine;
mod failure;
mod guest;
mod inspect;
pub mod limits;
mod load;
mod log;
mod mappings;
mod memory;
mod meter;
mod plugin;
mod tenants;
mod ticker;
mod usage;
mod warm;
mod wasi;

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use compile::{CompileError, Compiler, Effort};
use examine::Examination;
use guest::{Guest, GuestState};
pub use inspect::{FileRejection, Outline};
pub use limits::{Limits, TenantLimits};
pub use plugin::Plugin;
use tenants::TenantAccounts;
use ticker::Ticker;
use tokio::sync::Semaphore;
use usage::RefusalCounts;
pub use usage::SandboxUsage;
use warm::StorePool;
use wasmtime::{Engine, component::Linker};

use crate::model::{handler::Reason, ids::TenantId, settings::PluginSettings};

/// An engine, a linker, a set of limits, and the stores of all plugins. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    ticker: Arc<Ticker>,
    linker: Arc<Linker<GuestState>>,
    limits: Arc<Limits>,
    /// Settings of the plugins that it loads.
    settings: PluginSettings,
    /// The tenant that owns the plugins that it loads; none if all tenants share them.
    owner: Option<TenantId>,
    warm: Arc<StorePool<Guest>>,
    compiler: Arc<Compiler>,
    /// Bounds on compiling one of its plugins.
    effort: Effort,
    /// Linear memory of all live stores, bytes.
    memory: Arc<AtomicUsize>,
    refusals: Arc<RefusalCounts>,
    tenants: Arc<TenantAccounts>,
    /// One permit for each instance that can be lent.
    calls: Arc<Semaphore>,
    /// Plugins loaded so far: the number of the next one.
    loaded: Arc<AtomicU64>,
    /// Held during `describe`, for which the engine has room for one instance.
    describing: Arc<Mutex<()>>,
}

/// Why a file cannot run on this host.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}\nName a component file; `sandmill plugin build DIR` builds one from a crate.")]
    Unreadable(io::Error),
    /// The path is a directory.
    #[error(
        "a directory, not a component file\n\
         Name a file in it; if it is a crate, build one with `sandmill plugin build DIR`."
    )]
    Directory,
    /// The outline rules it out: no component, another contract, or an import that is not offered.
    #[error(transparent)]
    Rejected(#[from] FileRejection),
    /// The caller's check did not accept it.
    #[error("{0}")]
    NotAccepted(String),
    /// It does not compile, or not within limits.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// `describe` failed.
    #[error("`describe` failed: {0}\nLet it return constants only; it may use a tenth of limits.cpu-ms.")]
    Describe(String),
    /// `describe` was not called, because every instance was in a call. The file may be good.
    #[error("`describe` was not called: {0}")]
    NoInstance(String),
    /// The answer of `describe` breaks the contract.
    #[error("`describe` {0}\nCorrect its answer and rebuild the plugin.")]
    Descriptor(String),
}

impl LoadError {
    fn class(&self) -> &'static str {
        match self {
            LoadError::Compile(error) => error.class(),
            LoadError::Rejected(FileRejection::TooLarge { .. }) => "component-limit",
            LoadError::Rejected(FileRejection::Memory { .. }) => "memory-limit",
            LoadError::Rejected(FileRejection::Table { .. }) => "table-limit",
            LoadError::NotAccepted(_) => "not-accepted",
            LoadError::NoInstance(_) => "instance-shortage",
            LoadError::Rejected(_) | LoadError::Describe(_) | LoadError::Descriptor(_) => "refused-file",
            LoadError::Unreadable(_) | LoadError::Directory => "unreadable-file",
        }
    }
}

impl Sandbox {
    /// Starts an engine and the thread that advances its epoch. Fails only if the machine cannot
    /// run wasmtime at all.
    pub fn new(limits: Limits, compile: compile::Config) -> anyhow::Result<Self> {
        Self::with_tenants(limits, compile, |_| TenantLimits::default())
    }

    /// The same, with the limits of each tenant given by `of_tenant`.
    pub fn with_tenants(
        limits: Limits,
        compile: compile::Config,
        of_tenant: impl Fn(&TenantId) -> TenantLimits + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let (engine, instances) = engine::start(&limits)?;
        let ticker = Ticker::start(engine.weak())?;
        let (mut linker, limits) = (Linker::new(&engine), Arc::new(limits));
        capabilities::link(&mut linker)?;
        wasi::link(&mut linker).map_err(|e| anyhow::anyhow!("link WASI: {e:#}"))?;
        Ok(Sandbox {
            compiler: Arc::new(Compiler::new(&engine, compile)),
            effort: Effort::default(),
            engine,
            ticker,
            linker: Arc::new(linker),
            warm: StorePool::new(instances, limits.warm_instances),
            calls: Arc::new(Semaphore::new(instances as usize)),
            tenants: Arc::new(TenantAccounts::new(Arc::new(of_tenant))),
            limits,
            settings: PluginSettings::default(),
            owner: None,
            memory: Arc::default(),
            refusals: Arc::default(),
            loaded: Arc::default(),
            describing: Arc::default(),
        })
    }

    /// The same sandbox for a plugin with its own limits and settings, and perhaps an owner. Memory
    /// and tables of an instance were set aside at start, so the plugin's limits on them may be
    /// lower, never higher.
    pub fn for_plugin(&self, limits: Limits, settings: PluginSettings, owner: Option<&TenantId>) -> Self {
        Sandbox { limits: Arc::new(limits), settings, owner: owner.cloned(), ..self.clone() }
    }

    /// The same sandbox with other bounds on compiling.
    pub fn with_effort(&self, effort: Effort) -> Self {
        Sandbox { effort, ..self.clone() }
    }

    /// Kills all running compilers and starts no more. For a host that is about to end.
    pub fn stop_compiling(&self) {
        self.compiler.stop();
    }

    /// Waits until no component is being compiled and no code is being written to the cache.
    pub async fn wait_for_compilers(&self) {
        self.compiler.idle().await;
    }

    /// The limits of its plugins.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Current use, and refusals so far.
    pub fn usage(&self) -> SandboxUsage {
        let (live, idle) = self.warm.count();
        let max_live = self.warm.max_live();
        let (memory_bytes, refusals) = (self.memory.load(Relaxed), self.refusals.counts());
        SandboxUsage { live, max_live, idle, memory_bytes, refusals, compiled: self.compiler.compiled() }
    }

    /// Refusals of each tenant since the last call: their number and the last reason. The number of
    /// tenants is bounded; refusals of further ones are counted by class only.
    pub fn refusals_by_tenant(&self) -> Vec<(TenantId, u64, Reason)> {
        let tenants = self.refusals.take_by_tenant().into_iter();
        tenants.map(|(tenant, refused)| (tenant, refused.times, refused.last)).collect()
    }

    /// Loads a plugin from a component file and reports what else is known of the file. Blocks:
    /// compiling a large component takes seconds, and waits for other compilations.
    pub fn examine(&self, file: &Path) -> Examination {
        self.counted(examine::file(self, file))
    }

    /// The same for an open file. Its bytes are used only if `accept` returns no error; otherwise
    /// that error becomes the reason of the refusal.
    pub fn examine_opened(&self, file: File, accept: impl Fn(&[u8]) -> Result<(), String>) -> Examination {
        self.counted(examine::opened(self, file, accept))
    }

    /// Loads a plugin from the bytes of a component file. Blocks as long as
    /// [`examine`](Self::examine).
    pub fn load(&self, bytes: &[u8]) -> Result<Plugin, LoadError> {
        self.counted(examine::bytes(self, bytes)).loaded
    }

    /// The plugin whose file had this SHA-256 (hexadecimal), if its code is still cached. Takes as
    /// long as its `describe`.
    pub fn recall(&self, digest: &str) -> Option<Plugin> {
        load::recall(self, digest)
    }

    fn counted(&self, examined: Examination) -> Examination {
        if let Err(error) = &examined.loaded
            && !matches!(error, LoadError::Compile(CompileError::Unfinished | CompileError::Stopped))
        {
            self.refusals.add(error.class(), 1);
        }
        examined
    }
}
