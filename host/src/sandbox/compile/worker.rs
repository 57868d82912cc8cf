//! The compiler's process: a component comes in on standard input, machine code goes out on standard output.
//!
//! Before it reads anything it binds itself: memory, CPU time, priority, no files to write, no dump of its memory, and an end together with
//! the host that started it. Whatever a component makes the compiler do then, it costs that and no more. What ends it is told on standard error and by the exit
//! code; the host on the other side makes a sentence of it.

use std::io::{Read, Write};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};

use crate::sandbox::engine;

/// What one compiler may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// CPU time, seconds.
    pub seconds: u64,
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Because of the component.
    #[error("{0}")]
    Component(String),
    /// Because of anything else.
    #[error("{0:#}")]
    Surroundings(#[from] anyhow::Error),
}

impl WorkerError {
    /// How the process ends, for the host to tell them apart.
    pub fn exit_code(&self) -> u8 {
        match self {
            WorkerError::Component(_) => BAD_COMPONENT,
            WorkerError::Surroundings(_) => BAD_COMPONENT + 1,
        }
    }
}

/// The exit code for a component that does not compile.
pub(super) const BAD_COMPONENT: u8 = 1;

/// Compiles one component.
pub fn run(bounds: Bounds) -> Result<(), WorkerError> {
    restrain(bounds).context("take on the compiler's limits")?;
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).context("read the component")?;
    let engine = engine::for_compiling()?;
    let code = engine.precompile_component(&component).map_err(|e| WorkerError::Component(format!("{e:#}")))?;
    let mut output = std::io::stdout().lock();
    output.write_all(&code).and_then(|()| output.flush()).context("hand over the code")?;
    Ok(())
}

fn restrain(bounds: Bounds) -> std::io::Result<()> {
    // Where the machine itself runs out of memory, this process is the one to miss least.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // As much as is allowed to everybody; threads inherit it.
    nice(19)?;
    // Data and not address space: it counts what can be written to and leaves out the program itself.
    limit(Resource::Data, bounds.memory_mib << 20, 0)?;
    // The first one ends the process with a signal of its own name, the second one in any case.
    limit(Resource::Cpu, bounds.seconds, 1)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    Ok(())
}

/// Sets a limit, or keeps the one there is if that is lower.
fn limit(resource: Resource, most: u64, slack: u64) -> std::io::Result<()> {
    let given = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(most.min(given)), maximum: Some((most + slack).min(given)) };
    Ok(setrlimit(resource, limit)?)
}
