//! `sandmill dead-letters export`: writes a dead letter to a failure capsule.

use std::{path::PathBuf, process::ExitCode};

use super::{find_letter, version_of};
use crate::{
    cli::{
        capsule::{self, CapsuleArgs, FailureToExport},
        database::{connect, with_remedy},
    },
    config::Config,
    db::Db,
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
    },
};

/// Writes one dead letter to a failure capsule, to replay it without the database
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill dead-letters export route-performance 1545 --plugins plugins
  sandmill dead-letters export route-performance 1545 --out failure.json
  sandmill plugin test --capsule failure.json plugins/route-performance.wasm",
    after_help = "\
A capsule is one JSON file with the failure, the event, the documents that the plugin reads and
writes for it, and the plugin's limits and settings for the tenant. It contains nothing of other
tenants, and not the plugin's code. Anyone who gets it can read the tenant's data in it.

To learn which documents the event needs, the version that failed handles it once more in this
process, and its results are discarded. The version is looked for by its digest in the plugins
folder, then among the versions that the database keeps. The documents are those of now: if the
lane has continued since the failure, they may contain the effects of later events.

Use the settings of the host (--config), which bound the plugin.

With --json it prints one object: {\"file\", \"reproduced\", \"documents\", \"notes\": [...]}

Exit codes: 0 written, even if the plugin no longer fails; 1 failed; 2 invalid arguments or
settings."
)]
pub(super) struct ExportArgs {
    /// The processor's id, as `sandmill status` shows it; TENANT/ID for a tenant's own processor
    processor: ProcessorId,
    /// The event's position
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    position: i64,
    /// Write to this file; `-` for standard output [default: PROCESSOR-POSITION.capsule.json]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    capsule: CapsuleArgs,
}

/// Runs the command.
pub(super) async fn run(args: ExportArgs, config: Config, db: &Db) -> anyhow::Result<ExitCode> {
    let ExportArgs { processor, position, out, json, capsule } = args;
    let session = connect(db, "dead-letters").await?;
    let found = find_letter(&session, &processor, position).await?;
    let version = version_of(&session, &found).await.map_err(|error| with_remedy(&error))?;
    let letter = &found.letter;
    let file = out.unwrap_or_else(|| default_file(&processor, position));
    let failure = FailureToExport {
        lane: LaneKey { tenant: TenantId::parse(&letter.tenant)?, key: letter.key.as_str().into() },
        processor,
        position,
        event_id: Some(letter.event_id.clone()),
        attempt: u32::try_from(letter.attempts).unwrap_or(1),
        failure: Reason::new(&letter.class, &*letter.message),
        backtrace: found.backtrace.clone(),
        log: found.log_tail.clone(),
        plugin: found.plugin.clone(),
        digest: letter.digest.clone(),
        version: version.unwrap_or_default(),
        has_continued: true,
    };
    let exported = capsule.export(config, db, &session, failure).await?;
    capsule::write(&exported, &file, json)?;
    Ok(ExitCode::SUCCESS)
}

/// The file if none is named. The id of a tenant's own processor holds a `/`.
fn default_file(processor: &ProcessorId, position: i64) -> PathBuf {
    format!("{}-{position}.capsule.json", processor.as_str().replace('/', "-")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_of_a_tenants_own_processor_is_in_the_current_folder() {
        let file = default_file(&ProcessorId::parse("acme/orders").unwrap(), 7);
        assert_eq!(file.to_str(), Some("acme-orders-7.capsule.json"));
    }
}
