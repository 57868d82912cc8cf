//! `sandmill config`: which settings a host would run with, and why it has them.

use std::process::ExitCode;

use serde_json::json;

use super::{
    Global, dev,
    output::{self, Screen, Tone},
    table::{Cell, Column, Table},
};
use crate::{
    config::{Origin, Setting},
    db::Db,
};

/// Shows settings and where they come from
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Prints every setting, its value, where it came from, and what it is
    Print(PrintArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sources, later ones win: defaults, the file (--config, or sandmill.toml in this folder), the environment, flags. The setting \
         `limits.cpu-ms` is `cpu-ms` below [limits] in the file, SANDMILL_LIMITS_CPU_MS in the environment, and --set limits.cpu-ms=500.

Settings that `sandmill run` would refuse are refused here with the same words and exit code 2. Passwords are shown as ***.

Examples:
  sandmill config print --changed
  sandmill config print --config production.toml
  sandmill config print --json | jq -r '.settings[] | select(.origin.kind == \"environment\") | .key'"
)]
struct PrintArgs {
    /// Only what is not a default
    #[arg(long)]
    changed: bool,
    /// Print one JSON object: {"settings": [{"key", "value", "default", "origin": {"kind", "name"}, "meaning"}]}; kind is default, file,
    /// environment or flag
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: ConfigArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Print(PrintArgs { changed, json }) = args.command;
    let mut resolved = global.resolve()?;
    if resolved.config.database_url.is_empty()
        && let Some(found) = dev::place::find(&std::env::current_dir()?)?
    {
        resolved = resolved.with_database(&found, Origin::File(".sandmill/address".into()));
    }
    if !resolved.config.database_url.is_empty() {
        Db::parse(&resolved.config.database_url)?;
    }
    let mut settings = resolved.settings();
    settings.retain(|setting| !changed || setting.origin != Origin::Default);
    if json {
        output::print_json(&json!({ "settings": settings }))?;
    } else {
        output::print(&show(&settings, Screen::stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(settings: &[Setting], screen: Screen) -> String {
    if settings.is_empty() {
        return "every setting has its default\n".into();
    }
    let columns = [Column::Text("SETTING"), Column::Text("VALUE"), Column::Text("FROM"), Column::Text("MEANING")];
    let mut table = Table::new(columns);
    for Setting { key, value, origin, meaning, .. } in settings {
        let is_default = *origin == Origin::Default;
        let value = match value.as_str() {
            Some("") => "-".into(),
            Some(text) => text.into(),
            None => value.to_string(),
        };
        table.row([
            Cell::new(key),
            Cell::new(value),
            Cell::new(origin).tone(is_default.then_some(Tone::Quiet)),
            Cell::new(meaning).tone(Some(Tone::Quiet)),
        ]);
    }
    table.show(screen)
}
