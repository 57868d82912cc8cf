//! The watched plugins folder: its settled files, and the reports of its problems.
//!
//! A scan follows each hint of the file system, and a timer in case a hint was lost. If the folder
//! does not exist, it counts as empty, because it may be created later. If it cannot be read, all
//! files stay as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    folder::{self, Listing, PluginFile, Settling},
    hints::Hints,
    reports::ProblemReports,
};
use crate::{
    db::{Error, Session},
    model::ids::TenantId,
};

/// Interval between scans while every folder is watched, in case a hint was lost.
const WATCHED_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between scans while a folder is not watched. A scan takes microseconds per file.
const UNWATCHED_INTERVAL: Duration = Duration::from_millis(100);

/// The watched plugins folder.
pub(super) struct WatchedFolder {
    path: PathBuf,
    /// The configured interval, milliseconds; 0 leaves it to the hints.
    poll_ms: u64,
    hints: Hints,
    settling: Settling,
    reports: ProblemReports,
    /// Tenants whose folders the last scan could not read.
    unreadable: BTreeSet<TenantId>,
    scanned_at: Instant,
}

impl WatchedFolder {
    /// A folder that was not scanned yet.
    pub(super) fn new(path: &Path, poll_ms: u64) -> Self {
        WatchedFolder {
            path: path.into(),
            poll_ms,
            hints: Hints::new(poll_ms == 0),
            settling: Settling::default(),
            reports: ProblemReports::default(),
            unreadable: BTreeSet::new(),
            scanned_at: Instant::now(),
        }
    }

    /// Scans for the first time, which must succeed. Returns the plugins of which only an error
    /// file is left.
    pub(super) fn open(&mut self) -> io::Result<BTreeSet<String>> {
        let Listing { files, unread, problems, left_over, folders } = folder::scan(&self.path)?;
        self.settling.init(files);
        self.hints.follow(folders);
        self.reports.update(&self.path, problems);
        self.unreadable = unread;
        Ok(left_over)
    }

    /// Scans again. Returns the plugins whose file was added, changed or removed.
    pub(super) fn scan(&mut self) -> Vec<String> {
        self.scanned_at = Instant::now();
        // Before the scan: it then sees every file that these renames have replaced.
        let renamed = self.hints.renamed();
        let Listing { files, unread, problems, folders, .. } = match folder::scan(&self.path) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Listing::default(),
            Err(error) => {
                self.reports.scan_failed(&self.path, &error);
                return Vec::new();
            }
        };
        self.hints.follow(folders);
        self.reports.update(&self.path, problems);
        self.unreadable = unread;
        let settled = self.settling.update(files, &self.unreadable, &renamed, Instant::now());
        // Renames during the scan are for the next one.
        self.hints.forget_renames(|path| renamed.contains(path) && !self.settling.is_moving(path));
        settled
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The settled files, by plugin.
    pub(super) fn files(&self) -> &BTreeMap<String, PluginFile> {
        self.settling.known()
    }

    /// A plugin's settled file.
    pub(super) fn file(&self, plugin: &str) -> Option<&PluginFile> {
        self.files().get(plugin)
    }

    /// Whether a plugin has a settled file.
    pub(super) fn has(&self, plugin: &str) -> bool {
        self.files().contains_key(plugin)
    }

    /// Whether no change is settling.
    pub(super) fn is_settled(&self) -> bool {
        self.settling.next_due().is_none()
    }

    /// Tenants whose folders the last scan could not read.
    pub(super) fn unreadable(&self) -> &BTreeSet<TenantId> {
        &self.unreadable
    }

    /// The time until the next scan is due.
    pub(super) fn until_scan(&self, now: Instant) -> Duration {
        let interval = match (self.poll_ms, self.hints.are_complete()) {
            (0, true) => WATCHED_INTERVAL,
            (0, false) => UNWATCHED_INTERVAL,
            (poll_ms, _) => Duration::from_millis(poll_ms),
        };
        let scan = (self.scanned_at + interval).saturating_duration_since(now);
        let settled = self.settling.next_due().map(|due| due.saturating_duration_since(now));
        settled.map_or(scan, |settled| settled.min(scan))
    }

    /// Waits for the next hint. Cancel safe.
    pub(super) async fn hint(&self) {
        self.hints.next().await;
    }

    /// Stores the current problems, unless the database has them.
    pub(super) async fn store_problems(&mut self, session: &Session) -> Result<(), Error> {
        self.reports.store(session).await
    }
}
