//! `sandmill plugin`: what a plugin's author does. `new` begins a plugin; `build` makes a component of one: its last line, on stdout, says
//! what came out, everything before it goes to stderr. `check` and `test` take a component as the host takes it, and need no database.

mod check;
mod new;
mod sign;
mod test;

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{Global, on_runtime, output, signals::Signals};
use crate::toolchain::{self, BuildRequest, Built, Children};

/// Makes, checks and tests plugins.
#[derive(Debug, clap::Args)]
#[command(after_help = "None of these commands needs a database. From nothing to a running plugin:
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
    /// Begins a plugin, in Rust, JavaScript or Python: with a test that passes and events to try it on
    New(new::NewArgs),
    /// Builds a plugin's folder into a component
    Build(BuildArgs),
    /// Says what a component is, and whether this host runs it
    Check(check::CheckArgs),
    /// Runs a component on events from a file, and compares what it makes of them
    Test(test::TestArgs),
    /// Signs a component, for hosts that run signed ones alone
    Sign(sign::SignArgs),
    /// Makes a key to sign with, and prints the public one that hosts are told
    Key(sign::KeyArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A folder with a Cargo.toml is a crate. What cargo says goes to standard error. Where rustup can, it adds the WebAssembly target that is missing,
and says so.

A folder with a plugin.js or a plugin.py is put together with the language's runtime by componentize-qjs or componentize-py: the plugin's own (node_modules, .venv), one
on PATH, or one that npm or pip installs into target/toolchains of the checkout around the plugin. `import 'sandmill'` finds the host's own guest SDK.

Examples:
  sandmill plugin build my-plugin -o plugins/
  sandmill plugin build --json my-plugin | jq -r .file"
)]
struct BuildArgs {
    /// The plugin's directory
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where the component goes: a file, or a directory for NAME.wasm [default: plugins/NAME.wasm in its target directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object: {"file", "package", "bytes", "seconds", "way"}
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
                let Built { path, package, bytes, elapsed, way } = &built;
                let seconds = elapsed.as_secs_f64();
                output::print_json(
                    &json!({ "file": path, "package": package, "bytes": bytes, "seconds": seconds, "way": way }),
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
    let Built { path, bytes, way, elapsed, .. } = built;
    format!("{}  {}  ({:.1} s, {way})", path.display(), size(*bytes), elapsed.as_secs_f64())
}

/// The last word: whether it is as it should be.
fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Bytes for people: KiB below one MiB, MiB from there.
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
    fn the_last_line_says_what_came_out() {
        let built = Built {
            path: "plugins/door-watch.wasm".into(),
            bytes: 46_500,
            package: "door-watch".into(),
            way: "the installed target wasm32-unknown-unknown".into(),
            elapsed: Duration::from_millis(1234),
        };
        assert_eq!(
            summary(&built),
            "plugins/door-watch.wasm  46 KiB  (1.2 s, the installed target wasm32-unknown-unknown)"
        );
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([size(1), size(1_047_552), size(18 << 20)], ["1 KiB", "1023 KiB", "18.0 MiB"]);
    }
}
