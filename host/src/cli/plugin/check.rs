//! `sandmill plugin check`: describes a component and checks whether this host would run it.
//!
//! It loads the component exactly as `run` does, with the same settings. It also prints what is
//! known of a rejected file. Checks that need a database are left out: a processor with the same id
//! or collection, and a read model that other code has built.

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

/// Checks whether this host would run a component, and describes it
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill plugin check plugins/door-watch.wasm
  sandmill plugin check --set limits.memory-mib=16 --json plugins/door-watch.wasm",
    after_help = "\
Settings and limits from NAME.toml beside the component apply, as in a host.

Conflicts that only a database shows are found when a host loads the file: another plugin with
the same id or collection, or a read model that other code has built.

With --json it prints one object; a value is null if it is not known:
  {\"file\", \"runs\", \"rejected\", \"bytes\", \"digest\", \"contract\", \"imports\": [name],
   \"plugin\": {\"id\", \"kind\", \"version\", \"eventTypes\", \"collections\", \"partitionBy\", \"start\",
     \"readModelVersion\", \"maxBatchSize\"}}

Exit codes: 0 this host would run it; 1 it would not; 2 invalid arguments or settings."
)]
pub(super) struct CheckArgs {
    /// The component
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: CheckArgs, config: Config, signals: &Signals) -> anyhow::Result<ExitCode> {
    let examined = app::check(&config, &args.file, signals.first()).await?;
    let Some(examined) = examined else { return Ok(signals.exit_code()) };
    let report = CheckReport::of(&args.file, &examined);
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print_plain(&report.text())?;
    }
    Ok(verdict(report.runs))
}

/// The result of the check, as serialized with `--json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckReport<'a> {
    file: String,
    /// Whether this host would run it.
    runs: bool,
    /// The reason if it would not, with the remedy.
    rejected: Option<String>,
    bytes: Option<u64>,
    digest: Option<&'a str>,
    contract: Option<String>,
    imports: Option<&'a [String]>,
    /// The descriptor, if it is valid.
    plugin: Option<PluginSummary<'a>>,
}

/// The descriptor of a plugin, for the report.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PluginSummary<'a> {
    id: &'a str,
    kind: &'static str,
    version: &'a str,
    /// None means every type.
    event_types: Option<&'a [String]>,
    collections: Vec<&'a str>,
    partition_by: String,
    start: &'static str,
    #[serde(skip)]
    start_text: &'static str,
    read_model_version: u32,
    /// None means that the host chooses.
    max_batch_size: Option<u32>,
}

impl<'a> CheckReport<'a> {
    fn of(file: &Path, examined: &'a Examination) -> Self {
        let Examination { bytes, digest, outline, loaded } = examined;
        CheckReport {
            file: file.display().to_string(),
            runs: loaded.is_ok(),
            rejected: loaded.as_ref().err().map(ToString::to_string),
            bytes: *bytes,
            digest: digest.as_deref(),
            contract: outline.as_ref().and_then(|outline| outline.contract()),
            imports: outline.as_ref().map(|outline| &outline.imports[..]),
            plugin: loaded.as_ref().ok().map(|plugin| PluginSummary::of(plugin.descriptor())),
        }
    }

    /// The report as text.
    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: Option<String>| {
            rows.extend(value.map(|value| vec![format!("  {name}"), value]));
        };
        let list = |names: &[String]| if names.is_empty() { "none".into() } else { text::some_of(names, " ") };
        if let Some(plugin) = &self.plugin {
            row("id", Some(plugin.id.into()));
            row("kind", Some(plugin.kind.into()));
            row("version", (!plugin.version.is_empty()).then(|| plugin.version.into()));
            row("event types", Some(plugin.event_types.map_or_else(|| "all".into(), list)));
            row("collections", Some(list(&plugin.collections.iter().map(|name| name.to_string()).collect::<Vec<_>>())));
            row("partitioned by", Some(plugin.partition_by.clone()));
            row("starts", Some(plugin.start_text.into()));
            row("read model", Some(format!("version {}", plugin.read_model_version)));
            let batch =
                plugin.max_batch_size.map_or("size chosen by the host".into(), |most| format!("at most {most} events"));
            row("batch", Some(batch));
        }
        row("contract", self.contract.clone());
        row("imports", self.imports.map(list));
        row("size", self.bytes.map(size));
        row("digest", self.digest.map(|digest| format!("sha256:{digest}")));
        let verdict = match &self.rejected {
            None => "This host would run it.".to_string(),
            Some(reason) => format!("This host would not run it: {reason}"),
        };
        format!("{}\n{}{verdict}\n", self.file, table(&rows))
    }
}

impl<'a> PluginSummary<'a> {
    fn of(descriptor: &'a Descriptor) -> Self {
        let (start, start_text) = match descriptor.start {
            Start::Beginning => ("beginning", "at the beginning of the log"),
            Start::Now => ("now", "with events appended after its first start"),
        };
        PluginSummary {
            id: descriptor.id.as_str(),
            kind: descriptor.kind.name(),
            version: &descriptor.version,
            event_types: descriptor.event_types.as_deref(),
            collections: descriptor.collections.iter().map(|name| name.as_str()).collect(),
            partition_by: descriptor.partition_by.to_string(),
            start,
            start_text,
            read_model_version: descriptor.read_model_version,
            max_batch_size: descriptor.max_batch_size,
        }
    }
}
