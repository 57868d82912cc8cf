//! The command line: one file a command.

use std::process::ExitCode;

/// Parses the process's arguments, runs the command and says how it ended.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
