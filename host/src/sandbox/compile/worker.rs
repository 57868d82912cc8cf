//! The compiler's process: it reads a component from standard input and writes machine code to
//! standard output.
//!
//! Before it reads anything, the process limits its own memory, CPU time and priority. It may write
//! no files, leaves no memory dump, and ends together with the host that started it. No matter what
//! a component makes the compiler do, the cost is bounded. The host derives its error message from
//! standard error and the exit code.

use std::io::{Read, Write};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};

use crate::sandbox::engine;

/// Bounds of one compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompilerBounds {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// CPU time, seconds.
    pub seconds: u64,
}

/// Why a compiler produced no code.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The component is the cause.
    #[error("{0}")]
    Component(String),
    /// Anything else is the cause.
    #[error("{0:#}")]
    Surroundings(#[from] anyhow::Error),
}

impl WorkerError {
    /// The exit code, by which the host distinguishes the two.
    pub fn exit_code(&self) -> u8 {
        match self {
            WorkerError::Component(_) => BAD_COMPONENT,
            WorkerError::Surroundings(_) => BAD_COMPONENT + 1,
        }
    }
}

/// The exit code for a component that does not compile.
pub(super) const BAD_COMPONENT: u8 = 1;

/// Compiles the component on standard input.
pub fn run(bounds: CompilerBounds) -> Result<(), WorkerError> {
    restrain(bounds).context("set the compiler's limits")?;
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).context("read the component")?;
    let engine = engine::for_compiling()?;
    let code = engine.precompile_component(&component).map_err(|e| WorkerError::Component(format!("{e:#}")))?;
    let mut output = std::io::stdout().lock();
    output.write_all(&code).and_then(|()| output.flush()).context("write the code")?;
    Ok(())
}

fn restrain(bounds: CompilerBounds) -> std::io::Result<()> {
    // If the machine runs out of memory, the kernel should kill this process first.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The lowest priority; any user may set it, and threads inherit it.
    nice(19)?;
    // Data, not address space: it counts writable memory and leaves out the program itself.
    limit(Resource::Data, bounds.memory_mib << 20, 0)?;
    // The soft limit ends the process with SIGXCPU, the hard limit in any case.
    limit(Resource::Cpu, bounds.seconds, 1)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    Ok(())
}

/// Sets a limit, or keeps the current one if that is lower.
fn limit(resource: Resource, max: u64, slack: u64) -> std::io::Result<()> {
    let given = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(max.min(given)), maximum: Some((max + slack).min(given)) };
    Ok(setrlimit(resource, limit)?)
}
