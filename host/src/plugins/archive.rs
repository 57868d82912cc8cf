//! The archive of plugin versions, which stores the bytes of every version that has begun to run.
//!
//! It works in the background on its own session; no start, swap or event waits for it. It reads a
//! version's file again and stores the bytes only if they are the ones that run. If the database
//! does not answer, it keeps its pending versions and tries again.
//!
//! A file that is replaced before it has been read again is not stored; this is logged. A rollback
//! to that version then needs its compiled code.

use std::{
    collections::BTreeMap,
    pin::Pin,
    time::{Duration, Instant},
};

use super::{
    folder::PluginFile,
    history::components::{self, RetainedVersion},
};
use crate::{
    db::{Db, Error, describe},
    sandbox::examine,
};

/// Pause after a database error. 5 s: nothing waits for the archive, and a recovering database has
/// more urgent work.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long the versions of a removed plugin are kept, days. 30: an operator notices within that
/// time that a volume is not mounted. Checked at each start and when plugins change.
const GONE_DAYS: i32 = 30;
/// Maximum bytes of versions kept of one tenant's removed plugins. 256 MiB: dozens of plugins of
/// 2 MiB each, and no tenant can fill the database by adding and removing files.
const GONE_TENANT_BYTES: i64 = 256 << 20;

/// Versions to store, with their files.
type PendingVersions = BTreeMap<RetainedVersion, PluginFile>;

/// The result of a round of work: versions that are still pending, and the error if there was one.
type RoundResult = (PendingVersions, Option<Error>);

/// The archive.
pub(super) struct Archive {
    db: Db,
    /// Number of versions kept of each plugin.
    versions: usize,
    /// Versions larger than this are not stored, bytes.
    max_bytes: u64,
    pending: PendingVersions,
    /// The round under way.
    work: Option<Pin<Box<dyn Future<Output = RoundResult> + Send>>>,
    failed_at: Option<Instant>,
    /// Whether unreferenced bytes may have to be removed although no version is pending.
    needs_sweep: bool,
}

impl Archive {
    /// An archive that keeps `versions` versions of each plugin, none larger than `max_bytes`.
    pub(super) fn new(db: Db, versions: usize, max_bytes: u64) -> Self {
        let pending = PendingVersions::new();
        Archive { db, versions, max_bytes, pending, work: None, failed_at: None, needs_sweep: true }
    }

    /// Adds a version that has begun to run. Call it only after the history has recorded the
    /// version. `file` has its bytes unless it was replaced since.
    pub(super) fn add(&mut self, version: RetainedVersion, file: PluginFile) {
        self.pending.insert(version, file);
    }

    /// Schedules a sweep, because a plugin was removed.
    pub(super) fn schedule_sweep(&mut self) {
        self.needs_sweep = true;
    }

    /// Whether nothing is pending, or the last round failed.
    pub(super) fn is_done(&self) -> bool {
        self.work.is_none() && (self.failed_at.is_some() || self.is_idle())
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.work.is_none() && !self.needs_sweep
    }

    /// Completes one round of work. Waits forever while there is nothing to do. Cancel safe.
    pub(super) async fn work(&mut self) {
        if self.work.is_none() {
            if self.is_idle() {
                return std::future::pending().await;
            }
            if let Some(failed_at) = self.failed_at {
                tokio::time::sleep_until((failed_at + RETRY_AFTER).into()).await;
            }
            let (db, pending) = (self.db.clone(), std::mem::take(&mut self.pending));
            self.needs_sweep = false;
            self.work = Some(Box::pin(store(db, pending, self.versions, self.max_bytes)));
        }
        let Some(work) = self.work.as_mut() else { return };
        let (pending, error) = work.await;
        self.work = None;
        for (version, file) in pending {
            self.pending.entry(version).or_insert(file);
        }
        if let Some(error) = &error {
            self.needs_sweep = true;
            if self.failed_at.is_none() {
                let (versions, error) = (self.pending.len(), describe(error));
                tracing::warn!(versions, "cannot store the bytes of running plugins; trying again: {error}");
            }
        }
        self.failed_at = error.map(|_| Instant::now());
    }
}

/// Records the versions that run, stores missing bytes and removes bytes that are no longer needed.
async fn store(db: Db, mut pending: PendingVersions, versions: usize, max_bytes: u64) -> RoundResult {
    let mut rejected = None;
    let stored = async {
        let mut session = db.connect("store components").await?;
        let ran: Vec<RetainedVersion> = pending.keys().cloned().collect();
        let missing = components::retain(&session, &ran).await?;
        let files: Vec<(RetainedVersion, PluginFile)> =
            missing.into_iter().filter_map(|version| pending.remove_entry(&version)).collect();
        pending.clear();
        pending.extend(files);
        for (version, file) in pending.clone() {
            if let Some(bytes) = read(&version, &file, max_bytes).await
                && let Err(error) = components::store(&mut session, &version, &bytes).await
            {
                if session.is_closed() {
                    return Err(error);
                }
                // The other versions are stored even if the database rejects this one.
                rejected = Some(error);
                continue;
            }
            pending.remove(&version);
        }
        components::prune(&session, versions).await?;
        components::expire(&session, GONE_DAYS, GONE_TENANT_BYTES).await?;
        let removed = components::sweep(&session).await?;
        if removed > 0 {
            tracing::debug!(removed, "removed the bytes of versions that no plugin needs");
        }
        Ok(())
    };
    let error = stored.await.err().or(rejected);
    (pending, error)
}

/// The bytes of a version, if its file still has them.
async fn read(version: &RetainedVersion, file: &PluginFile, max_bytes: u64) -> Option<Vec<u8>> {
    let (opened, digest) = (file.clone(), version.digest.clone());
    let read = move || {
        let content = examine::content(opened.component().ok()?, max_bytes).ok()?;
        (examine::digest(&content) == digest).then_some(content)
    };
    let bytes = tokio::task::spawn_blocking(read).await.ok().flatten();
    if bytes.is_none() {
        tracing::warn!(
            plugin = version.plugin,
            digest = version.digest.get(..12),
            "this version was not stored, because {} has changed; a rollback to it needs its compiled code (compile.cache)",
            file.path.display()
        );
    }
    bytes
}
