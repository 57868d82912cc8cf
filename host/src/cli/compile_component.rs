//! `sandmill compile-component`: the entry point of the compiler process. Only `sandmill` itself
//! starts it.

use std::process::ExitCode;

use super::output;
use crate::sandbox::compile::worker::{self, CompilerBounds};

/// Compiles a component from standard input to standard output, within limits (internal: only
/// `sandmill` itself runs this)
#[derive(Debug, clap::Args)]
pub(super) struct CompileComponentArgs {
    /// Memory limit in MiB
    #[arg(long, value_name = "N")]
    memory_mib: u64,
    /// CPU-time limit in seconds
    #[arg(long, value_name = "N")]
    seconds: u64,
}

pub(super) fn run(args: &CompileComponentArgs) -> ExitCode {
    match worker::run(CompilerBounds { memory_mib: args.memory_mib, seconds: args.seconds }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The host includes this text in its own error message.
            output::note(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}
