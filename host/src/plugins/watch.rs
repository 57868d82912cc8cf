//! Whether the plugins folder has changed, found by looking at names, times and sizes now and then.
//!
//! A change counts when two looks in a row agree, so that a file is not taken while it is being written. A folder that is not there is an
//! empty one: somebody is about to make it.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::directory;

/// Between two looks. Default 300 ms: a change is taken within two of them.
const EVERY: Duration = Duration::from_millis(300);

/// What a look finds: each plugin's name, and when and how large it was written.
type Look = BTreeMap<String, (Option<SystemTime>, u64)>;

/// A folder that is looked at.
#[derive(Debug)]
pub struct Watch {
    folder: PathBuf,
    known: Look,
    last: Look,
}

/// How a folder differs from what was known.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Watch {
    /// Watches a folder, as it is now.
    pub fn new(folder: &Path) -> Self {
        let known = look(folder);
        Watch { folder: folder.into(), last: known.clone(), known }
    }

    /// Whether there was no plugin when it changed last.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Waits until the folder has changed and settled. Cancel safe.
    pub async fn changed(&mut self) -> Change {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Some(change) = self.after(look(&self.folder)) {
                return change;
            }
        }
    }

    fn after(&mut self, look: Look) -> Option<Change> {
        let has_settled = look == self.last;
        self.last = look;
        if !has_settled || self.last == self.known {
            return None;
        }
        let before = std::mem::replace(&mut self.known, self.last.clone());
        let names = |of: &Look, kept: &dyn Fn(&String) -> bool| of.keys().filter(|name| kept(name)).cloned().collect();
        Some(Change {
            added: names(&self.known, &|name| !before.contains_key(name)),
            changed: names(&self.known, &|name| before.get(name).is_some_and(|was| *was != self.known[name])),
            removed: names(&before, &|name| !self.known.contains_key(name)),
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("new", &self.added), ("changed", &self.changed), ("gone", &self.removed)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> = parts.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
        f.write_str(&parts.join("; "))
    }
}

fn look(folder: &Path) -> Look {
    let files = directory::scan(folder).unwrap_or_default();
    let stamp = |path: &Path| path.metadata().map_or((None, 0), |m| (m.modified().ok(), m.len()));
    files.into_iter().map(|file| (file.name, stamp(&file.path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(files: &[(&str, u64)]) -> Look {
        files.iter().map(|(name, bytes)| ((*name).to_owned(), (None, *bytes))).collect()
    }

    fn watch(known: &[(&str, u64)]) -> Watch {
        Watch { folder: PathBuf::new(), known: look(known), last: look(known) }
    }

    #[test]
    fn a_change_counts_once_and_when_it_has_settled() {
        let mut watch = watch(&[]);
        assert!(watch.is_empty());
        assert_eq!(watch.after(look(&[("a", 10)])), None);
        assert_eq!(watch.after(look(&[("a", 20)])), None);
        let change = watch.after(look(&[("a", 20)]));
        assert_eq!(change.map(|change| change.to_string()), Some("new: a".into()));
        assert_eq!(watch.after(look(&[("a", 20)])), None);
        assert!(!watch.is_empty());
    }

    #[test]
    fn what_came_went_or_changed_is_named() {
        let mut watch = watch(&[("a", 1), ("b", 1), ("c", 1)]);
        let now = [("b", 2), ("c", 1), ("d", 1)];
        assert_eq!(watch.after(look(&now)), None);
        let change = watch.after(look(&now)).unwrap();
        assert_eq!(change.to_string(), "new: d; changed: b; gone: a");
    }

    #[test]
    fn what_comes_and_goes_between_two_looks_is_no_change() {
        let mut watch = watch(&[("a", 1)]);
        assert_eq!(watch.after(look(&[])), None);
        assert_eq!(watch.after(look(&[("a", 1)])), None);
        assert_eq!(watch.after(look(&[("a", 1)])), None);
    }
}
