//! The rejected files: reported in the log, in the history and in error files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    check::CheckedFile,
    error_files::ErrorFiles,
    history::{self, HistoryNote, PluginEvent},
    journal::log_failure,
};
use crate::{
    db::{Error, Session},
    model::text,
};

/// Maximum bytes of a reason. 16 KiB: a plugin's own message may be long, and nobody reads more
/// than that.
const REASON_BYTES: usize = 16 << 10;

/// The rejected files.
pub(super) struct Rejections {
    errors: ErrorFiles,
    /// The reported reason of each rejected file.
    reasons: BTreeMap<String, String>,
    /// Plugins whose file was removed, to report.
    removed: BTreeSet<String>,
}

impl Rejections {
    /// No rejections, with the error files of a folder.
    pub(super) fn new(folder: &Path) -> Self {
        Rejections { errors: ErrorFiles::new(folder), reasons: BTreeMap::new(), removed: BTreeSet::new() }
    }

    /// Adds plugins whose file was removed.
    pub(super) fn add_removed(&mut self, plugins: impl IntoIterator<Item = String>) {
        self.removed.extend(plugins);
    }

    /// The number of rejected files.
    pub(super) fn len(&self) -> usize {
        self.reasons.len()
    }

    /// The rejected files.
    pub(super) fn plugins(&self) -> impl Iterator<Item = &String> {
        self.reasons.keys()
    }

    /// The reported reason why a file is rejected.
    pub(super) fn reason(&self, plugin: &str) -> Option<&String> {
        self.reasons.get(plugin)
    }

    /// Writes an error file for a file that waits for memory.
    pub(super) fn report_shortage(&mut self, plugin: &str, reason: &str) {
        self.errors.write(plugin, &format!("waiting, and compiled again automatically: {reason}"));
    }

    /// Removes the error file of a plugin.
    pub(super) fn remove_error(&mut self, plugin: &str) {
        self.errors.remove(plugin);
    }

    /// Reports all rejected files, then removed files, and clears the reports of files that are no
    /// longer rejected. `results` are the results of the checks; `runs` returns whether a plugin
    /// runs. Returns whether a removal was recorded.
    ///
    /// Removals are recorded before rejections are cleared: the rejection of a removed file stays
    /// known, so that the file is recognized when it returns.
    pub(super) async fn report(
        &mut self,
        session: &Session,
        folder: &Path,
        rejected: BTreeMap<String, String>,
        results: &BTreeMap<String, CheckedFile>,
        runs: impl Fn(&str) -> bool,
    ) -> bool {
        for (plugin, reason) in &rejected {
            let shown = &*text::cut(reason, REASON_BYTES);
            log_failure(record(session, plugin, shown, results.get(plugin)).await);
            if self.reasons.get(plugin) != Some(reason) {
                let file = folder.join(format!("{plugin}.wasm"));
                // The remedy is on a separate line, but a log entry has only one line.
                tracing::error!(plugin = %file.display(), "rejected: {}", shown.replace('\n', ". "));
            }
            self.errors.write(plugin, shown);
        }
        let mut any_removed = false;
        for plugin in std::mem::take(&mut self.removed) {
            self.errors.remove(&plugin);
            if !runs(&plugin) {
                log_failure(history::record_removal(session, &plugin).await);
                any_removed = true;
            }
        }
        let before = std::mem::replace(&mut self.reasons, rejected);
        let cleared: Vec<String> = before.into_keys().filter(|plugin| !self.reasons.contains_key(plugin)).collect();
        for plugin in cleared {
            self.errors.remove(&plugin);
            log_failure(history::clear_rejection(session, &plugin).await);
        }
        any_removed
    }
}

/// Writes a rejection to the history, if it is new.
async fn record(session: &Session, plugin: &str, reason: &str, checked: Option<&CheckedFile>) -> Result<(), Error> {
    let digest = checked.map_or("", |checked| &checked.digest);
    if history::record_rejection(session, plugin, digest, reason).await? {
        let note = HistoryNote {
            plugin,
            processor: "",
            digest,
            version: "",
            event: PluginEvent::Rejected,
            reason,
            replaced: None,
            dry_run: checked.and_then(|checked| checked.dry_run.as_ref()),
        };
        history::record(session, &note).await?;
    }
    Ok(())
}
