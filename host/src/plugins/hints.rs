//! The file system's word that something in some folders has changed: a hint to look, and no more.
//!
//! Hints get lost: on network file systems, when a folder is replaced, when too many come at once. So whoever waits for them looks now and then anyway, and looks
//! often where there are none. Nothing is believed of a hint but that it came.
//!
//! Exactly the folders that are read are watched, each by itself. What lies below them is not, links least of all: a tenant could make the host watch the
//! whole file system.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Hints about some folders.
pub(super) struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// Which folders are watched, by device and inode, as others may have their names by now.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether all that should be watched are.
    is_complete: bool,
    came: Arc<Notify>,
}

impl Hints {
    /// None yet, and never any without `wanted`.
    pub(super) fn new(wanted: bool) -> Self {
        let came = Arc::new(Notify::new());
        let tell = came.clone();
        // Reading is no change, and what reads the files most is this host.
        let heard = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event)) {
                tell.notify_one();
            }
        };
        let watcher = wanted.then(|| notify::recommended_watcher(heard)).and_then(|made| {
            made.inspect_err(|error| {
                tracing::warn!(
                    "the file system tells of no changes: {error}; the plugins folder is looked at often instead"
                )
            })
            .ok()
        });
        Hints { watcher, watched: BTreeMap::new(), is_complete: false, came }
    }

    /// Makes sure that exactly these folders are watched.
    pub(super) fn follow(&mut self, folders: Vec<(PathBuf, (u64, u64))>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeMap<PathBuf, (u64, u64)> = folders.into_iter().collect();
        self.watched.retain(|path, now| {
            let stays = wanted.get(path) == Some(now);
            if !stays {
                // It may be gone, and with it what watched it.
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

    /// Whether hints come from every folder.
    pub(super) fn are_complete(&self) -> bool {
        self.is_complete
    }

    /// Waits for the next one. Cancel safe.
    pub(super) async fn next(&self) {
        self.came.notified().await;
    }
}

/// Whether somebody has written a file and closed it.
fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}
