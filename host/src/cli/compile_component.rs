//! `sandmill compile-component`: the compiler's process. Hosts start it; people have no use for it.

use std::process::ExitCode;

use super::output;
use crate::sandbox::compile::worker::{self, CompilerBounds};

/// Compiles the component on standard input, within these limits, to standard output.
#[derive(Debug, clap::Args)]
pub(super) struct CompileComponentArgs {
    /// Memory it may take, MiB
    #[arg(long, value_name = "N")]
    memory_mib: u64,
    /// CPU time it may take, seconds
    #[arg(long, value_name = "N")]
    seconds: u64,
}

pub(super) fn run(args: &CompileComponentArgs) -> ExitCode {
    match worker::run(CompilerBounds { memory_mib: args.memory_mib, seconds: args.seconds }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The host that started it makes a sentence of this.
            output::note(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}
