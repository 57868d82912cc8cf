//! `sandmill plugin check`: what a component is, and whether this host runs it.
//!
//! It loads the component exactly as `run` does, under the same settings, and prints what was learnt on the way, also of a file that is
//! refused. What only a database knows is not checked: another processor with the same id or collection, and a read model that other code
//! has built.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    super::{output, signals::Signals, table},
    size, verdict,
};
use crate::{
    app,
    config::Config,
    model::{
        spec::{Descriptor, Start},
        text,
    },
    sandbox::examine::Examination,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Settings and limits in NAME.toml beside the component count, as they do for a host.

Exit codes: 0 this host would run it, 1 it would not, 2 wrong arguments or settings.
What only a database knows is seen when the host starts: another plugin with this id or collection, or a read model that other code has built.

Examples:
  sandmill plugin check plugins/door-watch.wasm
  sandmill plugin check --set limits.memory-mib=16 --json plugins/door-watch.wasm")]
pub(super) struct CheckArgs {
    /// The component
    file: PathBuf,
    /// Print one JSON object: {"file", "runs", "refused", "bytes", "digest", "contract", "imports": […], "plugin": {"id", "version", "eventTypes",
    /// "collections", "partitionBy", "start", "readModelVersion", "maxBatchSize"}}; null for what is not known
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: CheckArgs, config: Config, signals: &Signals) -> anyhow::Result<ExitCode> {
    let examined = app::check(&config, &args.file, signals.first()).await?;
    let Some(examined) = examined else { return Ok(signals.exit_code()) };
    let found = Found::of(&args.file, &examined);
    if args.json {
        output::print_json(&found)?;
    } else {
        output::print_plain(&found.for_people())?;
    }
    Ok(verdict(found.runs))
}

/// What is known of a file, as machines read it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found<'a> {
    file: String,
    /// Whether this host would run it.
    runs: bool,
    /// Why not, and how to mend it.
    refused: Option<String>,
    bytes: Option<u64>,
    digest: Option<&'a str>,
    contract: Option<String>,
    imports: Option<&'a [String]>,
    /// What it says of itself, where that is good.
    plugin: Option<Plugin<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin<'a> {
    id: &'a str,
    version: &'a str,
    /// None takes every type.
    event_types: Option<&'a [String]>,
    collections: Vec<&'a str>,
    partition_by: String,
    start: &'static str,
    #[serde(skip)]
    start_for_people: &'static str,
    read_model_version: u32,
    /// None leaves the choice to the host.
    max_batch_size: Option<u32>,
}

impl<'a> Found<'a> {
    fn of(file: &Path, examined: &'a Examination) -> Self {
        let Examination { bytes, digest, outline, loaded } = examined;
        Found {
            file: file.display().to_string(),
            runs: loaded.is_ok(),
            refused: loaded.as_ref().err().map(ToString::to_string),
            bytes: *bytes,
            digest: digest.as_deref(),
            contract: outline.as_ref().and_then(|outline| outline.contract()),
            imports: outline.as_ref().map(|outline| &outline.imports[..]),
            plugin: loaded.as_ref().ok().map(|plugin| Plugin::of(plugin.descriptor())),
        }
    }

    fn for_people(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: Option<String>| {
            rows.extend(value.map(|value| vec![format!("  {name}"), value]));
        };
        let list = |names: &[String]| if names.is_empty() { "none".into() } else { text::some_of(names, " ") };
        if let Some(plugin) = &self.plugin {
            row("id", Some(plugin.id.into()));
            row("version", (!plugin.version.is_empty()).then(|| plugin.version.into()));
            row("event types", Some(plugin.event_types.map_or_else(|| "all".into(), list)));
            row("collections", Some(list(&plugin.collections.iter().map(|name| name.to_string()).collect::<Vec<_>>())));
            row("partitioned by", Some(plugin.partition_by.clone()));
            row("starts", Some(plugin.start_for_people.into()));
            row("read model", Some(format!("version {}", plugin.read_model_version)));
            let batch = plugin
                .max_batch_size
                .map_or("as many events as the host likes".into(), |most| format!("at most {most} events"));
            row("batch", Some(batch));
        }
        row("contract", self.contract.clone());
        row("imports", self.imports.map(list));
        row("size", self.bytes.map(size));
        row("digest", self.digest.map(|digest| format!("sha256:{digest}")));
        let verdict = match &self.refused {
            None => "This host would run it.".to_string(),
            Some(why) => format!("This host would not run it: {why}"),
        };
        format!("{}\n{}{verdict}\n", self.file, table(&rows))
    }
}

impl<'a> Plugin<'a> {
    fn of(descriptor: &'a Descriptor) -> Self {
        let (start, start_for_people) = match descriptor.start {
            Start::Beginning => ("beginning", "at the beginning of the log"),
            Start::Now => ("now", "with what follows its first start"),
        };
        Plugin {
            id: descriptor.id.as_str(),
            version: &descriptor.version,
            event_types: descriptor.event_types.as_deref(),
            collections: descriptor.collections.iter().map(|name| name.as_str()).collect(),
            partition_by: descriptor.partition_by.to_string(),
            start,
            start_for_people,
            read_model_version: descriptor.read_model_version,
            max_batch_size: descriptor.max_batch_size,
        }
    }
}
