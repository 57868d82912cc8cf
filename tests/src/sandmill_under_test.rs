//! The binary `sandmill` with failpoints.

fn main() -> std::process::ExitCode {
    sandmill::cli::main()
}
