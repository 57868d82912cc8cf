//! File-system change notifications for the plugins folders, used only as hints to scan.
//!
//! Hints get lost: on network file systems, when a folder is replaced, when too many arrive at
//! once. So the caller also scans on a timer, more often where a folder is not watched. A hint
//! carries no information except that it arrived. This module also records components that were
//! renamed into place, because those are complete.
//!
//! Exactly the folders that are read are watched, without their subfolders and without following
//! links. Otherwise a tenant could make the host watch the whole file system.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::sync::Notify;

/// A watcher of some folders.
pub(super) struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// The watched folders with device and inode: another folder may have taken the name.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether every folder that should be watched is.
    is_complete: bool,
    changed: Arc<Notify>,
    renames: Arc<Mutex<Renames>>,
}

/// The components that were renamed into place and have not changed since.
#[derive(Default)]
struct Renames(BTreeSet<PathBuf>);

impl Renames {
    /// Takes a notification, unless it only reports a read.
    fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                let components = event.paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "wasm"));
                self.0.extend(components.cloned());
            }
            // It repeats the one above.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {}
            _ if event.need_rescan() => self.0.clear(),
            _ => self.0.retain(|path| !event.paths.contains(path)),
        }
    }
}

impl Hints {
    /// A watcher of no folder yet. With `enabled` false it never watches any.
    pub(super) fn new(enabled: bool) -> Self {
        let changed = Arc::new(Notify::new());
        let renames = Arc::new(Mutex::new(Renames::default()));
        let (notify, noted) = (changed.clone(), renames.clone());
        let on_event = move |event: notify::Result<Event>| {
            let mut renames = lock(&noted);
            match event {
                // Reading is not a change, and this host itself reads the files often.
                Ok(event) if event.kind.is_access() && !is_written(&event) => return,
                Ok(event) => renames.take(&event),
                // Some notifications may be lost.
                Err(_) => renames.0.clear(),
            }
            notify.notify_one();
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
        Hints { watcher, watched: BTreeMap::new(), is_complete: false, changed, renames }
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

    /// The paths of components that were renamed into place and have not changed since.
    pub(super) fn renamed(&self) -> BTreeSet<PathBuf> {
        lock(&self.renames).0.iter().filter_map(|path| self.as_given(path)).collect()
    }

    /// Drops the records of renames that are not needed any more.
    pub(super) fn forget_renames(&self, is_forgotten: impl Fn(&Path) -> bool) {
        lock(&self.renames).0.retain(|path| self.as_given(path).is_some_and(|path| !is_forgotten(&path)));
    }

    /// A path in a watched folder as its caller writes it. Notifications have absolute paths.
    fn as_given(&self, path: &Path) -> Option<PathBuf> {
        let (folder, name) = (path.parent()?, path.file_name()?);
        let is_same = |given: &&PathBuf| std::path::absolute(given).is_ok_and(|given| given == folder);
        Some(self.watched.keys().find(is_same)?.join(name))
    }

    /// Waits for the next hint. Cancel safe.
    pub(super) async fn next(&self) {
        self.changed.notified().await;
    }
}

fn lock(renames: &Mutex<Renames>) -> std::sync::MutexGuard<'_, Renames> {
    renames.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file was closed after writing.
fn is_written(event: &Event) -> bool {
    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, RemoveKind};

    use super::*;

    #[test]
    fn a_component_counts_as_renamed_until_anything_else_happens_to_its_name() {
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        let moved = |path: &str| Event::new(renamed(RenameMode::To)).add_path(path.into());
        let after = |events: &[Event]| {
            let mut renames = Renames::default();
            for event in events {
                renames.take(event);
            }
            renames.0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let both = Event::new(renamed(RenameMode::Both)).add_path("f/.new".into()).add_path("f/a.wasm".into());
        assert_eq!(after(&[moved("f/a.wasm"), both, moved("f/a.toml")]), ["f/a.wasm"]);
        let changes = [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Remove(RemoveKind::File),
            renamed(RenameMode::From),
        ];
        for change in changes {
            let changed = Event::new(change).add_path("f/a.wasm".into());
            assert_eq!(after(&[moved("f/a.wasm"), moved("f/b.wasm"), changed]), ["f/b.wasm"], "{change:?}");
        }
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(after(&[moved("f/a.wasm"), lost]), [""; 0]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_file_system_reports_a_rename_and_a_later_write() {
        use std::{fs, os::unix::fs::MetadataExt};
        let folder = tempfile::tempdir().unwrap();
        // Notifications have absolute paths, but the plugins folder may be given by a relative one.
        let up: PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
        let relative = up.join(folder.path().strip_prefix("/").unwrap());
        for (round, folder) in [folder.path(), &relative].into_iter().enumerate() {
            let path = |name: &str| folder.join(format!("{round}{name}.wasm"));
            let mut hints = Hints::new(true);
            let identity = fs::metadata(folder).unwrap();
            hints.follow(vec![(folder.into(), (identity.dev(), identity.ino()))]);
            assert!(hints.are_complete());
            let until = async |wanted: &[PathBuf]| {
                while hints.renamed().iter().ne(wanted) {
                    hints.next().await;
                }
            };
            // Copied, and renamed.
            for name in ["copied", "new"] {
                fs::write(path(name), "first").unwrap();
            }
            fs::rename(path("new"), path("renamed")).unwrap();
            until(&[path("renamed")]).await;
            fs::write(path("renamed"), "second").unwrap();
            until(&[]).await;
        }
    }
}
