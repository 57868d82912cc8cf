//! The export of a failure capsule, for `sandmill dead-letters export` and `sandmill explain
//! --capsule`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use serde::Serialize;

use super::output::{self, count};
use crate::{
    app::capsule::{self, Export, ExportRequest},
    config::Config,
    db::{Db, Session},
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId},
        time,
    },
    rehearsal::replay::EventOutcome,
};

/// The options of an export.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Capsule options")]
pub(super) struct CapsuleArgs {
    /// Look for the plugin in this folder, and for its manifest [default: the setting `plugins`]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Run this file instead of looking for the version that failed
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Leave out the documents; the plugin is then not run
    #[arg(long)]
    without_documents: bool,
    /// Leave out the values of the plugin's settings
    #[arg(long)]
    without_settings: bool,
}

/// A failure to export.
pub(super) struct FailureToExport {
    /// The processor.
    pub(super) processor: ProcessorId,
    /// The lane.
    pub(super) lane: LaneKey,
    /// The position of the event that failed.
    pub(super) position: i64,
    /// The id of that event, if it is known.
    pub(super) event_id: Option<String>,
    /// The number of the failed attempt.
    pub(super) attempt: u32,
    /// The failure.
    pub(super) failure: Reason,
    /// The plugin's functions at the failure; may be empty.
    pub(super) backtrace: String,
    /// The last lines that the plugin logged during the attempt; may be empty.
    pub(super) log: String,
    /// The name of the plugin's file.
    pub(super) plugin: String,
    /// SHA-256 of the file that failed.
    pub(super) digest: String,
    /// The author's version of it; empty if unknown.
    pub(super) version: String,
    /// Whether the lane has continued since.
    pub(super) has_continued: bool,
}

impl CapsuleArgs {
    /// Whether any option was given.
    pub(super) fn are_given(&self) -> bool {
        self.plugins.is_some() || self.plugin.is_some() || self.without_documents || self.without_settings
    }

    /// Exports a failure.
    pub(super) async fn export(
        self,
        mut config: Config,
        db: &Db,
        session: &Session,
        failure: FailureToExport,
    ) -> anyhow::Result<Export> {
        if let Some(folder) = self.plugins {
            config.plugins = folder;
        }
        let request = ExportRequest {
            processor: failure.processor,
            lane: failure.lane,
            position: failure.position,
            event_id: failure.event_id,
            attempt: failure.attempt.max(1),
            failure: failure.failure,
            backtrace: failure.backtrace,
            log: failure.log,
            plugin: failure.plugin,
            digest: failure.digest,
            version: failure.version,
            file: self.plugin,
            with_documents: !self.without_documents,
            with_settings: !self.without_settings,
            has_continued: failure.has_continued,
            exported_at: time::format_exactly(SystemTime::now()),
        };
        capsule::export(&config, db, session, request).await
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportJson<'a> {
    file: &'a Path,
    reproduced: Option<bool>,
    documents: Option<usize>,
    notes: &'a [String],
}

/// Writes a capsule to a file, or to standard output if the file is `-`, and reports what it
/// contains. The report goes to standard error if the capsule goes to standard output.
pub(super) fn write(exported: &Export, file: &Path, json: bool) -> anyhow::Result<()> {
    let Export { capsule, outcome, notes } = exported;
    let to_stdout = file.as_os_str() == "-";
    if to_stdout {
        capsule.write(io::stdout().lock())?;
    } else {
        save(exported, file).with_context(|| format!("write the capsule to {}", file.display()))?;
    }
    let failure = &capsule.failure;
    let is_same = outcome.as_ref().map(|outcome| outcome.reason().is_some_and(|why| why.class == failure.class));
    if json && !to_stdout {
        let documents = capsule.documents.as_ref().map(Vec::len);
        output::print_json(&ExportJson { file, reproduced: is_same, documents, notes })?;
        return Ok(());
    }
    let mut text = format!(
        "{}: {} of tenant {}, attempt {}: {}\n",
        if to_stdout { "capsule".into() } else { file.display().to_string() },
        capsule.processor,
        capsule.tenant,
        capsule.attempt,
        failure.class
    );
    for event in &capsule.events {
        text.push_str(&format!("  event      {} at position {}, id {}\n", event.event_type, event.position, event.id));
    }
    text.push_str(&match &capsule.documents {
        Some(documents) => {
            let (existing, absent) = capsule::document_counts(documents);
            format!("  documents  {}, and {absent} that do not exist\n", count(existing as u64, "document"))
        }
        None => "  documents  left out\n".into(),
    });
    let class = |outcome: &EventOutcome| outcome.reason().map(|why| why.class.clone()).unwrap_or_default();
    match (outcome, is_same) {
        (Some(_), Some(true)) => text.push_str("  here       the plugin failed with the same class\n"),
        (Some(EventOutcome::Handled), _) => text.push_str("  here       the plugin handled the event\n"),
        (Some(EventOutcome::Ignored), _) => text.push_str("  here       the plugin does not handle such events\n"),
        (Some(other), _) => text.push_str(&format!("  here       the plugin failed as {}\n", class(other))),
        (None, _) => {}
    }
    for note in notes {
        text.push_str(&format!("note: {note}\n"));
    }
    if to_stdout {
        output::note(text.trim_end());
    } else {
        text.push_str(&format!("\nReplay it: sandmill plugin test --capsule {} PLUGIN.wasm\n", file.display()));
        output::print_plain(&text)?;
    }
    Ok(())
}

/// Writes a capsule under another name and renames it, so that the file is never half written. Only
/// its owner may read it.
fn save(exported: &Export, file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = tempfile::NamedTempFile::with_prefix_in(".capsule", folder)?;
    let mut output = io::BufWriter::new(unfinished);
    exported.capsule.write(&mut output)?;
    output.flush()?;
    output.into_inner()?.persist(file)?;
    Ok(())
}
