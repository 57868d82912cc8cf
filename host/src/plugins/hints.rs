//! Change notifications of the file system for the plugins folders, which are only hints to scan.
//!
//! Hints get lost: on network file systems, when a folder is replaced, when too many arrive at
//! once. So the caller also scans on a timer, more often where a folder is not watched. A hint
//! carries no information except that it arrived.
//!
//! Exactly the folders that are read are watched, without their subfolders and without following
//! links. Otherwise a tenant could make the host watch the whole file system.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// A watcher of some folders.
pub(super) struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// The watched folders with device and inode: another folder may have taken the name.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether every folder that should be watched is.
    is_complete: bool,
    changed: Arc<Notify>,
}

impl Hints {
    /// A watcher of no folder yet. With `enabled` false it never watches any.
    pub(super) fn new(enabled: bool) -> Self {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        // Reading is not a change, and this host itself reads the files often.
        let on_event = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event)) {
                notify.notify_one();
            }
        };
        let watcher = enabled.then(|| notify::recommended_watcher(on_event)).and_then(|watcher| {
            watcher
                .inspect_err(|error| {
                    tracing::warn!(
                        "cannot watch the file system: {error}; the plugins folder is scanned more often instead"
                    )
                })
                .ok()
        });
        Hints { watcher, watched: BTreeMap::new(), is_complete: false, changed }
    }

    /// Watches exactly these folders.
    pub(super) fn follow(&mut self, folders: Vec<(PathBuf, (u64, u64))>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeMap<PathBuf, (u64, u64)> = folders.into_iter().collect();
        self.watched.retain(|path, identity| {
            let stays = wanted.get(path) == Some(identity);
            if !stays {
                // Fails if the folder is gone, and its watch with it.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        for (path, identity) in &wanted {
            if !self.watched.contains_key(path) && watcher.watch(path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(path.clone(), *identity);
            }
        }
        self.is_complete = !wanted.is_empty() && self.watched.len() == wanted.len();
    }

    /// Whether every folder is watched.
    pub(super) fn are_complete(&self) -> bool {
        self.is_complete
    }

    /// Waits for the next hint. Cancel safe.
    pub(super) async fn next(&self) {
        self.changed.notified().await;
    }
}

/// Whether a file was closed after writing.
fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}
