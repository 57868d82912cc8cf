//! `sandmill plugin new`: a crate to begin with, and what to type next.

use std::{
    fmt::Write,
    path::{Component, PathBuf},
};

use serde_json::json;

use super::super::output;
use crate::{
    model::ids::ProcessorId,
    toolchain::{self, Begun, NewRequest, Sdk},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sandmill plugin new door-watch
  sandmill plugin new door-watch --dir plugins/door-watch")]
pub(super) struct NewArgs {
    /// The plugin's name: a small letter, then small letters, digits or hyphens
    name: ProcessorId,
    /// Its folder, which must be empty or not there yet [default: NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The folder of the guest SDK, guest-sdk/rust of a checkout [default: the nearest there is]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// Print one JSON object: {"dir", "files": [name], "sdk"}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: NewArgs) -> Result<(), anyhow::Error> {
    let NewArgs { name, dir, sdk, json } = args;
    let begun = toolchain::new(&NewRequest { name: name.clone(), dir, sdk })?;
    if json {
        let Begun { dir, files, sdk } = &begun;
        output::print_json(&json!({ "dir": dir, "files": files, "sdk": source(sdk) }))?;
    } else {
        output::print(&told(&name, &begun))?;
    }
    Ok(())
}

/// Where the guest SDK comes from.
fn source(sdk: &Sdk) -> String {
    match sdk {
        Sdk::Path(path) => path.display().to_string(),
        Sdk::Repository => env!("CARGO_PKG_REPOSITORY").to_owned(),
    }
}

fn told(name: &ProcessorId, begun: &Begun) -> String {
    let Begun { dir, files, sdk } = begun;
    let sdk = source(sdk);
    let mut text = format!("Made {} (sandmill-guest from {sdk}):\n", dir.display());
    for file in files {
        let _ = writeln!(text, "  {file}");
    }
    text += "\nNext:\n";
    if dir.components().any(|component| component != Component::CurDir) {
        let _ = writeln!(text, "  cd {}", dir.display());
    }
    let component = format!("target/plugins/{name}.wasm");
    let steps = [
        ("cargo test", "runs it without a host"),
        ("sandmill plugin build", "makes a component of it"),
        (&format!("sandmill plugin test {component} --events events.ndjson"), "runs that in the sandbox"),
        ("sandmill dev --plugins target/plugins", "runs it on a private PostgreSQL"),
    ];
    let width = steps.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    for (command, what) in steps {
        let _ = writeln!(text, "  {command:<width$}   {what}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_and_what_comes_next_is_told() {
        let begun = |dir: &str, sdk| Begun { dir: dir.into(), files: vec!["Cargo.toml", "src/lib.rs"], sdk };
        let name = ProcessorId::parse("door-watch").unwrap();
        let text = told(&name, &begun("my/door-watch", Sdk::Path("../../guest-sdk/rust".into())));
        let expected = "Made my/door-watch (sandmill-guest from ../../guest-sdk/rust):\n  Cargo.toml\n  src/lib.rs\n\nNext:\n  cd my/door-watch\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(!told(&name, &begun(".", Sdk::Repository)).contains("cd ."));
    }
}
