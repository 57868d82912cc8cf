//! The sandbox: component bytes in, a [`Handler`](crate::model::handler::Handler) out. The only door to wasmtime.
//!
//! A [`Sandbox`] is one engine with one set of limits. [`Sandbox::load`] reads the names in a file, refuses by name what this host does
//! not offer, compiles it and asks it what it is; the [`Plugin`] that comes back handles batches, each call in a fresh instance that
//! sees one tenant and is dropped afterwards. A guest can compute and return data; it reaches nothing but the documents of its
//! lane's tenant, its log and its settings. What it may use up is in [`limits`]. There is no SQL here.

mod answer;
mod bindings;
mod engine;
mod host_calls;
mod inspect;
mod instance;
pub mod limits;
mod meter;
mod plugin;

use std::sync::Arc;

pub use inspect::{Refused, inspect};
pub use limits::Limits;
pub use plugin::Plugin;
use wasmtime::{Engine, component::Linker};

/// One engine, one linker, one set of limits. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    linker: Arc<Linker<instance::State>>,
    limits: Arc<Limits>,
}

/// Why a file cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its names already tell: no component, another contract, an import that is not offered.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The bytes do not compile.
    #[error(
        "the component does not compile: {0}\nBuild it again with `sandmill plugin build`, or with tools of this year."
    )]
    Compile(String),
    /// `describe` failed or answered against the contract.
    #[error("`describe` {0}")]
    Describe(String),
}

impl Sandbox {
    /// Starts an engine and the thread that advances its clock. Fails only where the machine cannot run wasmtime at all.
    pub fn new(limits: Limits) -> anyhow::Result<Self> {
        let engine = engine::start(&limits)?;
        let mut linker = Linker::new(&engine);
        bindings::add_to_linker(&mut linker)?;
        Ok(Sandbox { engine, linker: Arc::new(linker), limits: Arc::new(limits) })
    }

    /// Makes a plugin of a component file's bytes. Compiling takes seconds for large components: call it where blocking is allowed.
    pub fn load(&self, bytes: &[u8]) -> Result<Plugin, LoadError> {
        plugin::load(self, bytes)
    }
}
