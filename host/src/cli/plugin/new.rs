//! `sandmill plugin new`: creates a plugin from a template and prints the next steps.

use std::{
    fmt::Write,
    path::{Component, PathBuf},
};

use serde_json::json;

use super::super::output;
use crate::{
    model::ids::FamilyId,
    toolchain::{self, Language, NewPlugin, NewRequest, Sdk},
};

/// Creates a plugin in Rust, JavaScript or Python, with a passing test and sample events
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill plugin new door-watch
  sandmill plugin new door-watch --lang python
  sandmill plugin new door-watch --dir plugins/door-watch",
    after_help = "\
With --json it prints one object; \"sdk\" is null unless the language is Rust:
  {\"dir\", \"files\": [name], \"sdk\"}"
)]
pub(super) struct NewArgs {
    /// The plugin's name: a lowercase letter, then lowercase letters, digits or hyphens
    name: FamilyId,
    /// The language: rust, js or python
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    lang: Language,
    /// The plugin's folder, which must be empty or missing [default: NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The guest SDK for Rust: the folder guest-sdk/rust of a checkout [default: that of the
    /// checkout that contains the plugin's folder, else of the checkout from which this program was
    /// built, else the Git repository]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: NewArgs) -> Result<(), anyhow::Error> {
    let NewArgs { name, lang: language, dir, sdk, json } = args;
    let created = toolchain::new(&NewRequest { name: name.clone(), language, dir, sdk })?;
    if json {
        let NewPlugin { dir, files, sdk, .. } = &created;
        output::print_json(&json!({ "dir": dir, "files": files, "sdk": sdk.as_ref().map(source) }))?;
    } else {
        output::print_plain(&next_steps(&name, &created))?;
    }
    Ok(())
}

/// The path or address of the guest SDK.
fn source(sdk: &Sdk) -> String {
    match sdk {
        Sdk::Path(path) => path.display().to_string(),
        Sdk::Repository => env!("CARGO_PKG_REPOSITORY").to_owned(),
    }
}

/// The created files, and the commands to run next.
fn next_steps(name: &FamilyId, created: &NewPlugin) -> String {
    let NewPlugin { dir, files, language, sdk } = created;
    let made = sdk.as_ref().map_or_else(|| language.to_string(), |sdk| format!("sandmill-guest from {}", source(sdk)));
    let mut text = format!("Created {} ({made}):\n", dir.display());
    for file in files {
        let _ = writeln!(text, "  {file}");
    }
    text += "\nNext:\n";
    if dir.components().any(|component| component != Component::CurDir) {
        let _ = writeln!(text, "  cd {}", dir.display());
    }
    let component = format!("target/plugins/{name}.wasm");
    let mut test = format!("sandmill plugin test {component} --events events.ndjson");
    let mut steps = Vec::new();
    match language {
        Language::Rust => steps.push(("cargo test", "test it without a host")),
        _ => test += " --expect expected.ndjson",
    }
    steps.extend([
        ("sandmill plugin build", "build a component"),
        (&test, "test the component in the sandbox"),
        ("sandmill dev --plugins target/plugins", "run it on a private PostgreSQL"),
    ]);
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
    fn created_files_and_next_steps_are_printed() {
        let created = |dir: &str, sdk| {
            let files = vec!["Cargo.toml", "src/lib.rs"];
            NewPlugin { dir: dir.into(), files, language: Language::Rust, sdk: Some(sdk) }
        };
        let name = FamilyId::parse("door-watch").unwrap();
        let text = next_steps(&name, &created("my/door-watch", Sdk::Path("../../guest-sdk/rust".into())));
        let expected = "Created my/door-watch (sandmill-guest from ../../guest-sdk/rust):\n  Cargo.toml\n  src/lib.rs\n\nNext:\n  cd my/door-watch\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(!next_steps(&name, &created(".", Sdk::Repository)).contains("cd ."));
        let script = NewPlugin { language: Language::Python, sdk: None, files: vec!["plugin.py"], dir: "a".into() };
        let text = next_steps(&name, &script);
        assert!(
            text.starts_with("Created a (Python):\n  plugin.py\n") && text.contains("--expect expected.ndjson"),
            "{text}"
        );
    }
}
