//! Changes in the plugins folder from one scan to the next. Pure.
//!
//! A change counts once the file has not changed again for 40 ms, so that no file is loaded while
//! it is being written. Each file settles independently. A file that could not be read counts as
//! unchanged.
//!
//! A component that was renamed over a known one is complete, so it settles in 5 ms. That does not
//! apply to plugins with a manifest or a signature, because those are replaced one after another.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::PluginFile;
use crate::model::ids::TenantId;

/// How long a file must be unchanged. 40 ms: longer than a writer's pauses, and too short to
/// notice.
const SETTLES: Duration = Duration::from_millis(40);
/// The same for a component that was renamed into place. Default 5 ms: if another file takes its
/// name at once and is still being written, the notification of that arrives sooner.
const RENAMED_SETTLES: Duration = Duration::from_millis(5);

/// The known files, and changes that have not settled.
#[derive(Debug, Default)]
pub struct Settling {
    known: BTreeMap<String, PluginFile>,
    /// Files that differ from `known`.
    moving: BTreeMap<String, Moving>,
}

/// A change that has not settled.
#[derive(Debug)]
struct Moving {
    /// The new state; none if removed.
    file: Option<PluginFile>,
    /// Since when the file has this state.
    since: Instant,
    /// How long it must keep it.
    settles: Duration,
}

impl Settling {
    /// Takes the files of a scan; files of `unread` tenants stay as they are. `renamed` are the
    /// paths that files were renamed to, without any other change of them before the scan. Returns
    /// the names of files whose addition, change or removal has settled; [`known`](Self::known) has
    /// their state.
    pub fn update(
        &mut self,
        files: Vec<PluginFile>,
        unread: &BTreeSet<TenantId>,
        renamed: &BTreeSet<PathBuf>,
        now: Instant,
    ) -> Vec<String> {
        let found: BTreeMap<String, PluginFile> = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        let names: BTreeSet<String> = found.keys().chain(self.known.keys()).cloned().collect();
        let mut settled = Vec::new();
        for name in names {
            let (file, known) = (found.get(&name), self.known.get(&name));
            let is_unread = known.and_then(|known| known.tenant.as_ref()).is_some_and(|tenant| unread.contains(tenant));
            if file == known || file.is_none() && is_unread {
                self.moving.remove(&name);
                continue;
            }
            let settles = match (file, known) {
                (Some(file), Some(known)) if is_complete(file, known, renamed) => RENAMED_SETTLES,
                _ => SETTLES,
            };
            match self.moving.get_mut(&name) {
                Some(moving) if moving.file.as_ref() == file => {
                    moving.settles = settles;
                    if now.saturating_duration_since(moving.since) >= settles {
                        self.moving.remove(&name);
                        match file {
                            Some(file) => self.known.insert(name.clone(), file.clone()),
                            None => self.known.remove(&name),
                        };
                        settled.push(name);
                    }
                }
                _ => _ = self.moving.insert(name, Moving { file: file.cloned(), since: now, settles }),
            }
        }
        self.moving.retain(|name, _| found.contains_key(name) || self.known.contains_key(name));
        settled
    }

    /// Takes the files of the first scan, which count as settled.
    pub fn init(&mut self, files: Vec<PluginFile>) {
        self.known = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        self.moving.clear();
    }

    /// The settled state of the files, by name.
    pub fn known(&self) -> &BTreeMap<String, PluginFile> {
        &self.known
    }

    /// When the next change may settle; none if there is none.
    pub fn next_due(&self) -> Option<Instant> {
        self.moving.values().map(|moving| moving.since + moving.settles).min()
    }

    /// Whether a change at this path has not settled.
    pub fn is_moving(&self, path: &Path) -> bool {
        self.moving.values().any(|moving| moving.file.as_ref().is_some_and(|file| file.path == path))
    }
}

/// Whether a component was renamed over a known one, and nothing else belongs to the plugin.
fn is_complete(file: &PluginFile, known: &PluginFile, renamed: &BTreeSet<PathBuf>) -> bool {
    let alone = |file: &PluginFile| file.manifest.is_none() && file.signature.is_none();
    alone(file) && alone(known) && file.stamp.is_ok() && renamed.contains(&file.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> PluginFile {
        PluginFile::example(name, bytes)
    }

    #[test]
    fn a_change_counts_once_when_it_has_settled() {
        let began = Instant::now();
        let mut settling = Settling::default();
        settling.init(vec![file("kept", 1), file("gone", 1)]);
        let mut scan = |files: Vec<PluginFile>, ms: u64| {
            let settled = settling.update(files, &BTreeSet::new(), &BTreeSet::new(), began + Duration::from_millis(ms));
            (settled, settling.next_due().map(|due| (due - began).as_millis()), settling.known().len())
        };
        let kept = || file("kept", 1);
        let settled = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let slow_and_quick = |bytes| vec![kept(), file("slow", bytes), file("quick", 5)];
        assert_eq!(scan(slow_and_quick(1), 0), (vec![], Some(40), 2));
        // A file that is still being written delays no other.
        assert_eq!(scan(slow_and_quick(2), 30).0, settled(&[]));
        assert_eq!(scan(slow_and_quick(2), 45).0, settled(&["gone", "quick"]));
        assert_eq!(scan(slow_and_quick(2), 70).0, settled(&["slow"]));
        assert_eq!(scan(slow_and_quick(2), 500), (vec![], None, 3));
        // A file that appears only briefly, or disappears only briefly, is not a change.
        assert_eq!(scan(vec![kept(), file("slow", 2)], 600).0, settled(&[]));
        assert_eq!(scan(vec![kept(), file("slow", 2), file("quick", 5), file("brief", 1)], 610).0, settled(&[]));
        assert_eq!(scan(slow_and_quick(2), 700), (vec![], None, 3));
    }

    #[test]
    fn the_files_of_an_unreadable_folder_do_not_count_as_removed() {
        let began = Instant::now();
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let of = |name: &str| PluginFile { tenant: Some(tenant(name)), ..file(&format!("{name}/a"), 1) };
        let mut settling = Settling::default();
        settling.init(vec![of("acme"), of("globex")]);
        let mut scan = |files: Vec<PluginFile>, unread: &[&str], ms: u64| {
            let unread = unread.iter().map(|name| tenant(name)).collect();
            settling.update(files, &unread, &BTreeSet::new(), began + Duration::from_millis(ms))
        };
        let nothing: [&str; 0] = [];
        for ms in [0, 100, 200] {
            assert_eq!(scan(vec![of("globex")], &["acme"], ms), nothing);
        }
        // Once the folder can be read again, the file's removal shows and settles.
        assert_eq!(scan(vec![of("globex")], &[], 300), nothing);
        assert_eq!(scan(vec![of("globex")], &["acme"], 320), nothing);
        assert_eq!(scan(vec![of("globex")], &[], 350), nothing, "readable for less than 40 ms");
        assert_eq!(scan(vec![of("globex")], &[], 390), ["acme/a"]);
    }

    #[test]
    fn a_component_renamed_over_another_settles_sooner_unless_it_has_companions() {
        let began = Instant::now();
        let at = |name: &str, bytes| PluginFile { path: format!("{name}.wasm").into(), ..file(name, bytes) };
        let with_manifest = |bytes| {
            let manifest = at("manifest", 1).stamp.ok();
            PluginFile { manifest, ..at("companion", bytes) }
        };
        let names = ["renamed", "written", "companion", "new"];
        let all: BTreeSet<PathBuf> = names.map(|name| format!("{name}.wasm").into()).into();
        let but_written = || all.iter().filter(|path| !path.starts_with("written.wasm")).cloned().collect();
        let mut settling = Settling::default();
        settling.init(vec![at("renamed", 1), at("written", 1), with_manifest(1)]);
        let mut scan = |bytes, renamed: &BTreeSet<PathBuf>, ms: u64| {
            let files = vec![at("renamed", bytes), at("written", bytes), with_manifest(bytes), at("new", bytes)];
            let settled = settling.update(files, &BTreeSet::new(), renamed, began + Duration::from_millis(ms));
            (settled, settling.next_due().map(|due| (due - began).as_millis()))
        };
        let settled = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(scan(2, &but_written(), 0), (settled(&[]), Some(5)));
        assert_eq!(scan(2, &but_written(), 5), (settled(&["renamed"]), Some(40)));
        assert_eq!(scan(2, &but_written(), 40).0, settled(&["companion", "new", "written"]));
        // The rename may be noticed after the change. A write after the rename counts as one.
        assert_eq!(scan(3, &BTreeSet::new(), 100), (settled(&[]), Some(140)));
        assert_eq!(scan(3, &but_written(), 106).0, settled(&["new", "renamed"]));
        assert_eq!(scan(4, &but_written(), 200), (settled(&[]), Some(205)));
        assert_eq!(scan(4, &BTreeSet::new(), 205), (settled(&[]), Some(240)));
    }
}
