//! The sandbox: component bytes in, a [`Handler`](crate::model::handler::Handler) out. The only door to wasmtime.
//!
//! A [`Sandbox`] is one engine with one set of limits. [`Sandbox::load`] reads the names in a file, refuses by name what this host does
//! not offer, compiles it and asks it what it is; the [`Plugin`] that comes back handles batches, each call in an instance that sees
//! one tenant only, kept warm for that tenant's next call while all goes well. A guest can compute and return data; it reaches nothing but the
//! documents of its lane's tenant, its log and its settings. What it may use up is in [`limits`], what all of them hold and were refused in
//! [`Usage`]. There is no SQL here.

mod answer;
mod bindings;
pub mod compile;
mod engine;
pub mod examine;
mod failure;
mod host_calls;
mod inspect;
mod instance;
pub mod limits;
mod log;
mod mappings;
mod memory;
mod meter;
mod plugin;
mod tenants;
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
use examine::Examined;
pub use inspect::{Outline, Refused};
use instance::Guest;
pub use limits::{Limits, OfTenant};
pub use plugin::Plugin;
use tenants::Tenants;
use tokio::sync::Semaphore;
use usage::Refusals;
pub use usage::Usage;
use warm::Warm;
use wasmtime::{Engine, component::Linker};

use crate::model::{handler::Reason, ids::TenantId, settings::PluginSettings};

/// One engine, one linker, one set of limits, and the stores of all its plugins. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    linker: Arc<Linker<instance::State>>,
    limits: Arc<Limits>,
    /// What the plugins that it loads can ask for.
    settings: PluginSettings,
    /// The tenant whose own the plugins are that it loads; none where they are everybody's.
    owner: Option<TenantId>,
    warm: Arc<Warm<Guest>>,
    compiler: Arc<Compiler>,
    /// What compiling one of its plugins may take.
    effort: Effort,
    /// Linear memory of all live stores, bytes.
    memory: Arc<AtomicUsize>,
    refusals: Arc<Refusals>,
    tenants: Arc<Tenants>,
    /// One permit for each instance that can be lent.
    calls: Arc<Semaphore>,
    /// How many plugins were loaded, which is the number of the next one.
    loaded: Arc<AtomicU64>,
    describing: Arc<Mutex<()>>,
}

/// Why a file cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("it cannot be read: {0}\nName a component's file; `sandmill plugin build DIR` makes one of a crate.")]
    Unreadable(io::Error),
    /// It is no file.
    #[error(
        "a directory and not a component's file\nName a file in it, or make one with `sandmill plugin build DIR` if it is a crate."
    )]
    Directory,
    /// Its names already tell: no component, another contract, an import that is not offered.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Whoever was asked does not accept it.
    #[error("{0}")]
    NotAccepted(String),
    /// The bytes do not compile, or not within limits.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// `describe` failed.
    #[error(
        "`describe` failed: {0}\nIt only says what the plugin is: let it answer with constants, within a tenth of limits.cpu-ms."
    )]
    Describe(String),
    /// `describe` was not called, as every instance was in a call: that says nothing of the file.
    #[error("`describe` was not called: {0}")]
    NoInstance(String),
    /// `describe` answered against the contract.
    #[error("`describe` {0}\nCorrect what it answers, and build the plugin again.")]
    Descriptor(String),
}

impl LoadError {
    fn class(&self) -> &'static str {
        match self {
            LoadError::Compile(error) => error.class(),
            LoadError::Refused(Refused::TooLarge { .. }) => "component-limit",
            LoadError::Refused(Refused::Memory { .. }) => "memory-limit",
            LoadError::Refused(Refused::Table { .. }) => "table-limit",
            LoadError::NotAccepted(_) => "not-accepted",
            LoadError::NoInstance(_) => "instance-shortage",
            LoadError::Refused(_) | LoadError::Describe(_) | LoadError::Descriptor(_) => "refused-file",
            LoadError::Unreadable(_) | LoadError::Directory => "unreadable-file",
        }
    }
}

impl Sandbox {
    /// Starts an engine and the thread that advances its clock. Fails only where the machine cannot run wasmtime at all.
    pub fn new(limits: Limits, compile: compile::Config) -> anyhow::Result<Self> {
        Self::with_tenants(limits, compile, |_| OfTenant::default())
    }

    /// The same where tenants may have what `of_tenant` says.
    pub fn with_tenants(
        limits: Limits,
        compile: compile::Config,
        of_tenant: impl Fn(&TenantId) -> OfTenant + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let (engine, instances) = engine::start(&limits)?;
        let (mut linker, limits) = (Linker::new(&engine), Arc::new(limits));
        bindings::add_to_linker(&mut linker)?;
        Ok(Sandbox {
            compiler: Arc::new(Compiler::new(&engine, compile)),
            effort: Effort::default(),
            engine,
            linker: Arc::new(linker),
            warm: Warm::new(instances, limits.warm_instances),
            calls: Arc::new(Semaphore::new(instances as usize)),
            tenants: Arc::new(Tenants::new(Arc::new(of_tenant))),
            limits,
            settings: PluginSettings::default(),
            owner: None,
            memory: Arc::default(),
            refusals: Arc::default(),
            loaded: Arc::default(),
            describing: Arc::default(),
        })
    }

    /// The same sandbox for a plugin that has limits and settings of its own, and is perhaps one
    /// tenant's. Of memory and tables there is as much for an instance as was set aside at start:
    /// it may have less, and never more.
    pub fn for_plugin(&self, limits: Limits, settings: PluginSettings, owner: Option<&TenantId>) -> Self {
        Sandbox { limits: Arc::new(limits), settings, owner: owner.cloned(), ..self.clone() }
    }

    /// The same sandbox where compiling may take so much.
    pub fn with_effort(&self, effort: Effort) -> Self {
        Sandbox { effort, ..self.clone() }
    }

    /// Kills the compilers that run, and lets no further one begin: the host ends.
    pub fn stop_compiling(&self) {
        self.compiler.stop();
    }

    /// Waits until no component is being compiled, and no code is being written down.
    pub async fn compiled(&self) {
        self.compiler.idle().await;
    }

    /// What its plugins may use up.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is held now, and what was refused so far.
    pub fn usage(&self) -> Usage {
        let (live, idle) = self.warm.count();
        let most_live = self.warm.most_live();
        let (memory_bytes, refusals) = (self.memory.load(Relaxed), self.refusals.counts());
        Usage { live, most_live, idle, memory_bytes, refusals, compiled: self.compiler.compiled() }
    }

    /// What each tenant was refused since this was asked last, and why the last time. Only so many tenants are told apart between two times.
    pub fn refusals_by_tenant(&self) -> Vec<(TenantId, u64, Reason)> {
        let tenants = self.refusals.take_by_tenant().into_iter();
        tenants.map(|(tenant, refused)| (tenant, refused.times, refused.last)).collect()
    }

    /// Makes a plugin of a component's file, and says what else is known of it. Compiling takes seconds for large components, and waits for other
    /// components': call it where blocking is allowed.
    pub fn examine(&self, file: &Path) -> Examined {
        self.counted(examine::file(self, file))
    }

    /// The same of a file that is open, whose bytes are used only if `accept` takes them; otherwise its error is why the file is refused.
    pub fn examine_opened(&self, file: File, accept: impl Fn(&[u8]) -> Result<(), String>) -> Examined {
        self.counted(examine::opened(self, file, accept))
    }

    /// Makes a plugin of a component file's bytes, and takes as long.
    pub fn load(&self, bytes: &[u8]) -> Result<Plugin, LoadError> {
        self.counted(examine::bytes(self, bytes)).loaded
    }

    /// The plugin whose file had this SHA-256, in hexadecimal, if its code is still kept from an earlier time. Takes as long as asking it what it is.
    pub fn recall(&self, digest: &str) -> Option<Plugin> {
        plugin::recall(self, digest)
    }

    fn counted(&self, examined: Examined) -> Examined {
        if let Err(error) = &examined.loaded
            && !matches!(error, LoadError::Compile(CompileError::Unfinished | CompileError::Stopped))
        {
            self.refusals.add(error.class(), 1);
        }
        examined
    }
}
