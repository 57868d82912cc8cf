//! The binary `sandmill`, a wrapper around the library's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandmill::cli::main()
}
