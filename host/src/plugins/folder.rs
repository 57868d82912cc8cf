//! The plugins folder: which files in it are meant to be plugins, and which of them have changed.
//!
//! `NAME.wasm` is one, for all tenants; `TENANT/NAME.wasm` is one for that tenant alone. `NAME.toml` beside it is its manifest, if it has one. Files whose names begin with a dot are left alone: editors and copying tools keep their
//! unfinished ones there. What looks like a plugin and cannot be one (a directory, a link that leads out of the folder) is reported, and never
//! keeps others from running. A folder that is not there is an empty one: somebody is about to make it.
//!
//! [`Settling`] is pure: a change counts when it has stayed as it is for a moment, so that a file is not taken while it is being written, and none waits for another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::model::ids::TenantId;

/// For how long a file must have been as it is. Default 40 ms: what writes it pauses for less, and nobody waits long for it.
const SETTLES: Duration = Duration::from_millis(40);

/// A file that is meant to be a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// Its name without `.wasm`: `NAME`, or `TENANT/NAME`.
    pub name: String,
    /// Whose it is; none means everybody's.
    pub tenant: Option<TenantId>,
    /// Where it is.
    pub path: PathBuf,
    /// What tells this content from another, or why it cannot be a plugin.
    pub stamp: Result<Stamp, String>,
    /// The same of its manifest, if it has one.
    pub manifest: Option<Stamp>,
    /// And of its signature.
    pub signature: Option<Stamp>,
}

/// What a file looks like from outside. Another content has another one, unless somebody writes it in place within the clock's resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl PluginFile {
    /// Its size in bytes, as far as it could be looked at.
    pub fn bytes(&self) -> u64 {
        self.stamp.as_ref().map_or(0, |stamp| stamp.bytes)
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Stamp {
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
        }
    }
}

/// Lists the plugins in a folder and in those of tenants below it, by name.
pub fn scan(folder: &Path) -> io::Result<Vec<PluginFile>> {
    let within = folder.canonicalize()?;
    let mut files = scan_one(folder, &within, None)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let tenant = path.file_name().and_then(|name| TenantId::parse(name.to_str()?).ok());
        let is_wasm = path.extension().is_some_and(|extension| extension == "wasm");
        let inside = || path.canonicalize().is_ok_and(|path| path.starts_with(&within));
        if let Some(tenant) = tenant.filter(|_| !is_wasm && path.is_dir() && inside()) {
            match scan_one(&path, &within, Some(&tenant)) {
                Ok(own) => files.extend(own),
                // Since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn scan_one(folder: &Path, within: &Path, tenant: Option<&TenantId>) -> io::Result<Vec<PluginFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let is_wasm = path.extension().is_some_and(|extension| extension == "wasm");
        if let Some(name) = name.filter(|name| is_wasm && !name.starts_with('.')) {
            // Gone since it was listed.
            let Some(mut stamp) = stamp(&path, within) else { continue };
            let mut beside = |ending: &str, what: &str| match self::stamp(&path.with_extension(ending), within)? {
                Ok(stamp) => Some(stamp),
                Err(why) => {
                    stamp = Err(format!("its {what}: {why}"));
                    None
                }
            };
            let (manifest, signature) = (beside("toml", "manifest"), beside("wasm.sig", "signature"));
            let name = tenant.map_or(name.to_string(), |tenant| format!("{tenant}/{name}"));
            files.push(PluginFile { name, tenant: tenant.cloned(), stamp, manifest, signature, path });
        }
    }
    Ok(files)
}

/// A file as it looks, or why it is none; nothing where it is gone.
fn stamp(path: &Path, folder: &Path) -> Option<Result<Stamp, String>> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let link = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if gone(&error) => return None,
        Err(error) => return Some(Err(format!("it cannot be looked at: {error}"))),
    };
    if link.is_symlink() {
        match path.canonicalize() {
            Ok(target) if target.starts_with(folder) => {}
            Ok(target) => {
                return Some(Err(format!(
                    "a link that leads out of the plugins folder, to {}; copy the file here instead",
                    target.display()
                )));
            }
            Err(error) => return Some(Err(format!("a link that leads nowhere: {error}"))),
        }
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Some(Err("a directory and not a component's file".into())),
        // Who opens one of the others may wait for ever.
        Ok(found) if !found.is_file() => Some(Err("no plain file".into())),
        Ok(found) => Some(Ok(Stamp::of(&found))),
        Err(error) if gone(&error) => None,
        Err(error) => Some(Err(format!("it cannot be looked at: {error}"))),
    }
}

/// Reads what stands beside a plugin: a few lines of text.
pub fn read_beside(path: &Path) -> io::Result<String> {
    /// Far more than anybody writes.
    const MOST: u64 = 1 << 20;
    let mut text = String::new();
    File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// What has changed in the folder, look by look.
#[derive(Debug, Default)]
pub struct Settling {
    known: BTreeMap<String, PluginFile>,
    /// What looks otherwise than known, and since when it has looked so; nothing for what is gone.
    moving: BTreeMap<String, (Option<PluginFile>, Instant)>,
}

impl Settling {
    /// Takes note of a look. Gives the names of files that came, went or changed, and are settled; what they are now is in [`known`](Self::known).
    pub fn look(&mut self, files: Vec<PluginFile>, now: Instant) -> Vec<String> {
        let found: BTreeMap<String, PluginFile> = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        let names: BTreeSet<String> = found.keys().chain(self.known.keys()).cloned().collect();
        let mut settled = Vec::new();
        for name in names {
            let file = found.get(&name);
            if file == self.known.get(&name) {
                self.moving.remove(&name);
                continue;
            }
            match self.moving.get(&name) {
                Some((seen, since)) if seen.as_ref() == file => {
                    if now.saturating_duration_since(*since) >= SETTLES {
                        self.moving.remove(&name);
                        match file {
                            Some(file) => self.known.insert(name.clone(), file.clone()),
                            None => self.known.remove(&name),
                        };
                        settled.push(name);
                    }
                }
                _ => _ = self.moving.insert(name, (file.cloned(), now)),
            }
        }
        self.moving.retain(|name, _| found.contains_key(name) || self.known.contains_key(name));
        settled
    }

    /// The same for a folder that nobody has looked at before: everything in it counts as it is.
    pub fn first(&mut self, files: Vec<PluginFile>) {
        self.known = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        self.moving.clear();
    }

    /// The files as they are known to be.
    pub fn known(&self) -> &BTreeMap<String, PluginFile> {
        &self.known
    }

    /// When it is worth another look because something may have settled; none if nothing moves.
    pub fn due(&self) -> Option<Instant> {
        self.moving.values().map(|(_, since)| *since + SETTLES).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(folder: &Path) -> Vec<String> {
        scan(folder).unwrap().into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn only_wasm_files_count_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for folder_of in ["acme", "no tenant", "acme/deeper"] {
            std::fs::create_dir(folder.path().join(folder_of)).unwrap();
        }
        let files = ["b.wasm", "a.wasm", ".hidden.wasm", "notes.txt", "c.wasm.error", "a.toml", "acme/a.wasm"];
        for name in files.into_iter().chain(["no tenant/a.wasm", "acme/deeper/a.wasm"]) {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names(folder.path()), ["a", "acme/a", "b"]);
        let files = scan(folder.path()).unwrap();
        assert_eq!(files.iter().map(|file| file.manifest.is_some()).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(files[1].tenant.as_ref().map(TenantId::as_str), Some("acme"));
        assert!(scan(&folder.path().join("nowhere")).is_err());
    }

    #[test]
    fn what_cannot_be_a_plugin_says_why() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("folder.wasm")).unwrap();
        std::fs::create_dir(path("data")).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(path("pipe.wasm")).status().unwrap();
        assert!(pipe.success());
        std::fs::write(path("told.wasm"), "x").unwrap();
        symlink("/dev/zero", path("told.toml")).unwrap();
        for file in [path("data/in"), elsewhere.path().join("out")] {
            std::fs::write(file, "x").unwrap();
        }
        symlink("data/in", path("inside.wasm")).unwrap();
        symlink(elsewhere.path().join("out"), path("outside.wasm")).unwrap();
        symlink("nowhere", path("broken.wasm")).unwrap();
        let files = scan(folder.path()).unwrap();
        let told: Vec<(&str, &str)> = files
            .iter()
            .map(|file| {
                (&*file.name, file.stamp.as_ref().map_or_else(|why| why.split([',', ':']).next().unwrap(), |_| "fine"))
            })
            .collect();
        assert_eq!(
            told,
            [
                ("broken", "a link that leads nowhere"),
                ("folder", "a directory and not a component's file"),
                ("inside", "fine"),
                ("outside", "a link that leads out of the plugins folder"),
                ("pipe", "no plain file"),
                ("told", "its manifest"),
            ]
        );
    }

    fn file(name: &str, bytes: u64) -> PluginFile {
        let stamp = Stamp { bytes, modified: (0, 0), changed: (0, 0), inode: 1 };
        PluginFile {
            name: name.into(),
            tenant: None,
            path: PathBuf::new(),
            stamp: Ok(stamp),
            manifest: None,
            signature: None,
        }
    }

    #[test]
    fn a_change_counts_once_and_when_it_has_settled() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut settling = Settling::default();
        settling.first(vec![file("kept", 1), file("gone", 1)]);
        let kept = || file("kept", 1);
        let nothing: [&str; 0] = [];
        assert_eq!(settling.look(vec![kept(), file("slow", 1), file("quick", 5)], at(0)), nothing);
        assert_eq!(settling.due(), Some(at(40)));
        // One is still being written: the others do not wait for it.
        assert_eq!(settling.look(vec![kept(), file("slow", 2), file("quick", 5)], at(30)), nothing);
        assert_eq!(settling.look(vec![kept(), file("slow", 2), file("quick", 5)], at(45)), ["gone", "quick"]);
        assert_eq!(settling.look(vec![kept(), file("slow", 2), file("quick", 5)], at(70)), ["slow"]);
        assert_eq!(settling.look(vec![kept(), file("slow", 2), file("quick", 5)], at(500)), nothing);
        assert_eq!((settling.due(), settling.known().len()), (None, 3));
        // What comes and goes, or goes and comes back, is no change.
        assert_eq!(settling.look(vec![kept(), file("slow", 2)], at(600)), nothing);
        assert_eq!(settling.look(vec![kept(), file("slow", 2), file("quick", 5), file("brief", 1)], at(610)), nothing);
        assert_eq!(settling.look(vec![kept(), file("slow", 2), file("quick", 5)], at(700)), nothing);
        assert_eq!(settling.due(), None);
    }
}
