//! The file system's word that something in a folder has changed: a hint to look, and no more.
//!
//! Hints get lost: on network file systems, when a folder is replaced, when too many come at once. So whoever waits for them looks now and then anyway, and looks
//! often where there are none. Nothing is believed of a hint but that it came.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Hints about one folder.
pub(super) struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// Which folder it is that is watched, as another one may have its name by now.
    watched: Option<(u64, u64)>,
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
        Hints { watcher, watched: None, came }
    }

    /// Makes sure that it is this folder which is watched; whether it is.
    pub(super) fn follow(&mut self, folder: &Path) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let now = std::fs::metadata(folder).ok().map(|found| (found.dev(), found.ino()));
        if now != self.watched {
            // The former one may be gone, and with it what watched it.
            let _ = watcher.unwatch(folder);
            self.watched = now.filter(|_| watcher.watch(folder, RecursiveMode::Recursive).is_ok());
        }
        self.watched.is_some()
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
