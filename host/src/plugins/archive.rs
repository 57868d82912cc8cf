//! The archive: stores the bytes of versions that have begun to run, beside everything else.
//!
//! No start, swap or event waits for it. It reads a version's file again when it is its turn, on a
//! session of its own, and stores the bytes only if they are the ones that run. While the database
//! is away it keeps what is pending and tries again. What may surprise: a file that is replaced
//! before its turn is lost to it, which the log says; such a version can be gone back to only while
//! its compiled code is kept.

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

/// Before it tries again what the database kept it from. Default 5 s: nothing waits for it, and a
/// database that recovers has more urgent work.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// For how long a plugin is kept whose file is gone, with the bytes of its versions, days. Default
/// 30: a volume that is not mounted by mistake is missed sooner. It is checked at each start, and
/// whenever plugins change.
const GONE_DAYS: i32 = 30;
/// Bytes of the versions that are kept so of one tenant's own plugins. Default 256 MiB: some dozens
/// of plugins of 2 MiB, and no tenant fills the database by putting files there and removing them.
const GONE_TENANT_BYTES: i64 = 256 << 20;

/// Versions that are pending, with where their files are.
type Pending = BTreeMap<RetainedVersion, PluginFile>;

/// What a turn of work leaves: versions that are still pending, and why.
type Left = (Pending, Option<Error>);

/// Stores the bytes of versions that have begun to run.
pub(super) struct Archive {
    db: Db,
    /// Versions of a plugin that are retained.
    versions: usize,
    most_bytes: u64,
    pending: Pending,
    work: Option<Pin<Box<dyn Future<Output = Left> + Send>>>,
    failed_at: Option<Instant>,
    /// Versions that were given up may leave bytes behind that nobody refers to.
    to_sweep: bool,
}

impl Archive {
    /// An archive that retains so many versions of each plugin, none larger than so many bytes.
    pub(super) fn new(db: Db, versions: usize, most_bytes: u64) -> Self {
        Archive { db, versions, most_bytes, pending: Pending::new(), work: None, failed_at: None, to_sweep: true }
    }

    /// A version has begun to run, and the database knows that it does. `file` is where its bytes
    /// are, unless something else is there by now.
    pub(super) fn add(&mut self, version: RetainedVersion, file: PluginFile) {
        self.pending.insert(version, file);
    }

    /// A plugin is gone, and after a while what it could go back to will be.
    pub(super) fn forget(&mut self) {
        self.to_sweep = true;
    }

    /// Whether all that could be stored is: nothing is pending, or the last turn failed.
    pub(super) fn is_done(&self) -> bool {
        self.work.is_none() && (self.failed_at.is_some() || self.is_idle())
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.work.is_none() && !self.to_sweep
    }

    /// Works on what is pending; returns after a turn, and never while there is nothing to do.
    /// Cancel safe.
    pub(super) async fn work(&mut self) {
        if self.work.is_none() {
            if self.is_idle() {
                return std::future::pending().await;
            }
            if let Some(failed_at) = self.failed_at {
                tokio::time::sleep_until((failed_at + TRY_AGAIN).into()).await;
            }
            let (db, pending) = (self.db.clone(), std::mem::take(&mut self.pending));
            self.to_sweep = false;
            self.work = Some(Box::pin(store(db, pending, self.versions, self.most_bytes)));
        }
        let Some(work) = self.work.as_mut() else { return };
        let (left, error) = work.await;
        self.work = None;
        for (version, file) in left {
            self.pending.entry(version).or_insert(file);
        }
        if let Some(error) = &error {
            self.to_sweep = true;
            if self.failed_at.is_none() {
                let (versions, why) = (self.pending.len(), describe(error));
                tracing::warn!(versions, "could not store the bytes of running plugins; trying again: {why}");
            }
        }
        self.failed_at = error.map(|_| Instant::now());
    }
}

/// Records what runs, stores the bytes that are missing, and removes those that are not needed any
/// more.
async fn store(db: Db, mut pending: Pending, versions: usize, most_bytes: u64) -> Left {
    let mut refused = None;
    let stored = async {
        let mut session = db.connect("store components").await?;
        let ran: Vec<RetainedVersion> = pending.keys().cloned().collect();
        let missing = components::retain(&session, &ran).await?;
        let files: Vec<(RetainedVersion, PluginFile)> =
            missing.into_iter().filter_map(|version| pending.remove_entry(&version)).collect();
        pending.clear();
        pending.extend(files);
        for (version, file) in pending.clone() {
            if let Some(bytes) = read(&version, &file, most_bytes).await
                && let Err(error) = components::store(&mut session, &version, &bytes).await
            {
                if session.is_closed() {
                    return Err(error);
                }
                // One that the database does not take is no reason to leave the others out.
                refused = Some(error);
                continue;
            }
            pending.remove(&version);
        }
        components::prune(&session, versions).await?;
        components::expire(&session, GONE_DAYS, GONE_TENANT_BYTES).await?;
        let removed = components::sweep(&session).await?;
        if removed > 0 {
            tracing::debug!(removed, "removed the bytes of versions that no plugin can go back to");
        }
        Ok(())
    };
    let error = stored.await.err().or(refused);
    (pending, error)
}

/// The bytes of a version, if its file still has them.
async fn read(version: &RetainedVersion, file: &PluginFile, most_bytes: u64) -> Option<Vec<u8>> {
    let (opened, digest) = (file.clone(), version.digest.clone());
    let read = move || {
        let content = examine::content(opened.component().ok()?, most_bytes).ok()?;
        (examine::digest(&content) == digest).then_some(content)
    };
    let bytes = tokio::task::spawn_blocking(read).await.ok().flatten();
    if bytes.is_none() {
        tracing::warn!(
            plugin = version.plugin,
            digest = version.digest.get(..12),
            "the bytes of this version were not stored: {} has changed or is gone; going back to it needs its compiled code (compile.cache)",
            file.path.display()
        );
    }
    bytes
}
