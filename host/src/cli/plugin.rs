//! `sandmill plugin`: commands for plugin authors. They need no database.
//!
//! `build` prints the result as one line on standard output and everything else on standard error.

mod check;
mod new;
mod sign;
mod test;

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{Global, on_runtime, output, signals::Signals};
use crate::toolchain::{self, BuildRequest, Built, Children};

/// Creates, builds, checks, tests and signs plugins
#[derive(Debug, clap::Args)]
#[command(before_help = "\
From nothing to a running plugin; only the last step uses a database, a private one:
  sandmill plugin new my-plugin
  sandmill plugin build my-plugin -o plugins/
  sandmill plugin check plugins/my-plugin.wasm
  sandmill plugin test plugins/my-plugin.wasm --events my-plugin/events.ndjson
  sandmill dev --plugins plugins")]
pub(super) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PluginCommand {
    New(new::NewArgs),
    Build(BuildArgs),
    Check(check::CheckArgs),
    Test(test::TestArgs),
    Sign(sign::SignArgs),
    Key(sign::KeyArgs),
}

/// Builds a plugin's folder into a component
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill plugin build my-plugin -o plugins/
  sandmill plugin build --json my-plugin | jq -r .file",
    after_help = "\
Rust: a folder with a Cargo.toml is built with cargo, whose output goes to standard error. A
missing WebAssembly target is installed with rustup, if possible. Crates are compiled in
~/.cache/sandmill/target, so that plugins share their dependencies. A crate is compiled in its
usual target directory instead if it belongs to a workspace, has a build script, or depends on
a local crate inside its folder, or if you choose a directory as for cargo (CARGO_TARGET_DIR).

JavaScript and Python: a folder with a plugin.js or plugin.py is bundled with the language's
runtime by componentize-qjs or componentize-py. The tool is taken from the plugin
(node_modules, .venv), from PATH, or installed once with npm or pip into ~/.cache/sandmill/tools.
The `sandmill` module that a plugin imports comes with this host.

The cache (below XDG_CACHE_HOME, if it is set) can be deleted at any time.

With --json it prints one object: {\"file\", \"package\", \"bytes\", \"seconds\", \"toolchain\"}"
)]
struct BuildArgs {
    /// The plugin's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Write the component to this file, or as NAME.wasm into this folder [default:
    /// plugins/NAME.wasm in the plugin's target folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: PluginArgs, global: &Global, signals: &Signals) -> anyhow::Result<ExitCode> {
    match args.command {
        PluginCommand::New(args) => new::run(args).map(|()| ExitCode::SUCCESS),
        PluginCommand::Build(BuildArgs { dir, output, json }) => {
            let children = Children::default();
            let build = {
                let (request, children) = (BuildRequest { dir, output }, children.clone());
                move || toolchain::build(&request, &children, &mut output::note)
            };
            let Some(built) = on_runtime(signals.unless_ended(|| children.end(), build))? else {
                return Ok(signals.exit_code());
            };
            let built = built?;
            if json {
                let Built { path, package, bytes, elapsed, toolchain } = &built;
                let seconds = elapsed.as_secs_f64();
                output::print_json(
                    &json!({ "file": path, "package": package, "bytes": bytes, "seconds": seconds, "toolchain": toolchain }),
                )?;
            } else {
                output::print_plain(&(summary(&built) + "\n"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Check(args) => on_runtime(check::run(args, global.settings()?, signals)),
        PluginCommand::Sign(args) => sign::sign(&args),
        PluginCommand::Key(args) => sign::key(&args),
        PluginCommand::Test(args) => on_runtime(test::run(args, global.settings()?, signals)),
    }
}

fn summary(built: &Built) -> String {
    let Built { path, bytes, toolchain, elapsed, .. } = built;
    format!("{}  {}  ({:.1} s, {toolchain})", path.display(), size(*bytes), elapsed.as_secs_f64())
}

/// The exit code of a check or test.
fn verdict(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A size in KiB, or from one MiB on in MiB.
fn size(bytes: u64) -> String {
    match bytes.div_ceil(1024) {
        kib @ 0..1024 => format!("{kib} KiB"),
        kib => format!("{:.1} MiB", kib as f64 / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_summary_of_a_build_has_file_size_and_time() {
        let built = Built {
            path: "plugins/door-watch.wasm".into(),
            bytes: 46_500,
            package: "door-watch".into(),
            toolchain: "the installed target wasm32-unknown-unknown".into(),
            elapsed: Duration::from_millis(1234),
        };
        assert_eq!(
            summary(&built),
            "plugins/door-watch.wasm  46 KiB  (1.2 s, the installed target wasm32-unknown-unknown)"
        );
    }

    #[test]
    fn sizes_are_in_kib_or_mib() {
        assert_eq!([size(1), size(1_047_552), size(18 << 20)], ["1 KiB", "1023 KiB", "18.0 MiB"]);
    }
}
