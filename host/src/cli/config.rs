//! `sandmill config`: shows the settings that a host would run with, and their sources.

use std::process::ExitCode;

use serde_json::json;

use super::{
    Global, dev,
    output::{self, OutputStyle, Tone},
    table::{Cell, Column, Table},
};
use crate::{
    config::{Origin, Setting},
    db::Db,
};

/// Shows the settings and where each comes from
#[derive(Debug, clap::Args)]
#[command(before_help = "Example:\n  sandmill config print --changed")]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    Print(PrintArgs),
}

/// Prints every setting with its value, source and meaning
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill config print --changed
  sandmill config print --config production.toml
  sandmill config print --json | jq -r '.settings[] | select(.origin.kind == \"environment\") | .key'",
    after_help = "\
Sources, in increasing precedence: defaults, the file (--config, or sandmill.toml in this
folder), the environment, flags. For example, to set `limits.cpu-ms`:
  file         cpu-ms = 500 below [limits]
  environment  SANDMILL_LIMITS_CPU_MS=500
  flag         --set limits.cpu-ms=500

Invalid settings fail with the same message as in `sandmill run`, and exit code 2. Passwords
are shown as ***.

With --json it prints one object. \"kind\" is default, file, environment or flag:
  {\"settings\": [{\"key\", \"value\", \"default\", \"origin\": {\"kind\", \"name\"}, \"meaning\"}]}"
)]
struct PrintArgs {
    /// Only settings from a file, the environment or a flag
    #[arg(long)]
    changed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: ConfigArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Print(PrintArgs { changed, json }) = args.command;
    let mut resolved = global.resolve()?;
    if resolved.config.database_url.is_empty()
        && let Some(address) = dev::workspace::find(&std::env::current_dir()?)?
    {
        resolved = resolved.with_database_url(&address, Origin::File(".sandmill/address".into()));
    }
    if !resolved.config.database_url.is_empty() {
        Db::parse(&resolved.config.database_url)?;
    }
    let mut settings = resolved.settings();
    settings.retain(|setting| !changed || setting.origin != Origin::Default);
    if json {
        output::print_json(&json!({ "settings": settings }))?;
    } else {
        output::print(&show(&settings, OutputStyle::stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings as a table.
fn show(settings: &[Setting], style: OutputStyle) -> String {
    if settings.is_empty() {
        return "all settings have their defaults\n".into();
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
    table.show(style)
}
