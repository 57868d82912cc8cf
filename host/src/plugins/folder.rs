//! The plugins folder: its plugins, and entries that look like misplaced or misnamed plugins.
//!
//! `NAME.wasm` is a plugin for all tenants, `TENANT/NAME.wasm` one for that tenant alone. Beside
//! it, `NAME.toml` is its manifest and `NAME.wasm.sig` its signature; the host writes
//! `NAME.wasm.error`. Names that begin with a dot are ignored: editors and copying tools keep
//! unfinished files there.
//!
//! **Links.** The plugins folder itself may be a link or a mount. Below it:
//!
//! - Links in a tenant's folder may lead to files in the same folder.
//! - Links beside the shared plugins may lead to files there and below folders whose names begin
//!   with a dot, so never into a tenant's folder.
//! - A tenant's folder may be a link through such dot folders to a folder of the same name.
//!
//! Kubernetes lays out volumes like this (`a.wasm -> ..data/a.wasm`, `acme -> ..data/acme`). Each
//! step is checked on open descriptors ([`beneath`]), so replacing a link between the check and the
//! read gains nothing. *A hard link cannot be distinguished from the file itself.* Tenants must not
//! be able to make hard links to each other's files: give each a volume, or set
//! `fs.protected_hardlinks`.
//!
//! **Faults.** An unusable entry is reported with its path ([`Problem`]) and does not affect
//! others. If a tenant's folder cannot be read, its plugins stay as they are ([`Listing::unread`]).
//! If the host is short of file descriptors, the scan fails and all plugins stay as they are.

pub(super) mod beneath;
mod entry;
mod settling;

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt::Write,
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use beneath::{Folder, Refusal};
use entry::FolderEntry;
use rustix::fs::{FileType, Stat};
pub use settling::Settling;

use crate::model::{ids::TenantId, text};

/// Maximum number of entries of a tenant's folder: reading a folder must not delay the other
/// tenants.
const MOST_ENTRIES: usize = 10_000;
/// Maximum number of plugins of one tenant; only the first ones by name run. Each costs database
/// sessions and memory, no matter what its code does.
const MOST_PLUGINS: usize = 100;
/// Maximum number of problems listed of one folder, so that no tenant can flood the log.
const MOST_PROBLEMS: usize = 20;
/// Maximum number of entries examined in a folder that is not read, in search of misplaced
/// components.
const GLANCE: usize = 256;

/// A file `NAME.wasm` with its companions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// The plugin's name: `NAME` or `TENANT/NAME`.
    pub name: String,
    /// The owning tenant; none if the plugin is shared.
    pub tenant: Option<TenantId>,
    /// The plugins folder.
    root: PathBuf,
    /// Its path, for messages only: files are opened step by step.
    pub path: PathBuf,
    /// The stamp of the component, or the reason why it cannot be a plugin.
    pub stamp: Result<Stamp, String>,
    /// The stamp of its manifest, if it has one.
    pub manifest: Option<Stamp>,
    /// The stamp of its signature, if it has one.
    pub signature: Option<Stamp>,
}

#[cfg(test)]
impl PluginFile {
    /// A file that is in no folder.
    pub(super) fn example(name: &str, bytes: u64) -> Self {
        let stamp = Stamp { bytes: bytes.into(), modified: (0, 0), changed: (0, 0), inode: 1 };
        PluginFile {
            name: name.into(),
            tenant: None,
            root: PathBuf::new(),
            path: PathBuf::new(),
            stamp: Ok(stamp),
            manifest: None,
            signature: None,
        }
    }
}

/// A file's size, times and inode. Changed content has another stamp, unless it is written in place
/// within the resolution of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: i128,
    modified: (i128, i128),
    changed: (i128, i128),
    inode: u64,
}

impl PluginFile {
    /// A plugin whose files are gone.
    pub(super) fn gone(name: &str, tenant: Option<&TenantId>) -> Self {
        PluginFile {
            name: name.into(),
            tenant: tenant.cloned(),
            root: PathBuf::new(),
            path: PathBuf::new(),
            stamp: Err("its file is gone".into()),
            manifest: None,
            signature: None,
        }
    }

    /// The size of the component; 0 if unknown.
    pub fn bytes(&self) -> u64 {
        self.stamp.as_ref().map_or(0, |stamp| u64::try_from(stamp.bytes).unwrap_or_default())
    }
}

impl Stamp {
    fn of(found: &Stat) -> Self {
        // The types of the kernel's numbers differ between systems.
        Stamp {
            bytes: found.st_size.into(),
            modified: (found.st_mtime.into(), found.st_mtime_nsec.into()),
            changed: (found.st_ctime.into(), found.st_ctime_nsec.into()),
            inode: found.st_ino,
        }
    }
}

/// A problem of an entry that is not checked as a plugin: it is misnamed or misplaced, or a folder
/// that cannot be read, or a tenant's folder with too many plugins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Its path in the plugins folder in printable characters; `.` is the folder itself.
    pub path: String,
    /// The problem.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl Problem {
    /// A folder that cannot be read because of the file system or the host.
    pub(super) fn unreadable(path: &str, error: &dyn std::fmt::Display) -> Problem {
        Problem {
            path: path.into(),
            problem: format!("this folder cannot be read; its plugins keep running: {error}"),
            remedy: "allow the host's user to read and search it (chmod u+rx); if the host has too many open files, raise `ulimit -n`".into(),
        }
    }
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Listing {
    /// The plugins, by name.
    pub files: Vec<PluginFile>,
    /// Tenants whose folders cannot be read, so that their plugins are unknown.
    pub unread: BTreeSet<TenantId>,
    /// The problems of entries that are not checked as plugins.
    pub problems: Vec<Problem>,
    /// Names of plugins of which only the error file is left.
    pub left_over: BTreeSet<String>,
    /// The folders that were read, with device and inode.
    pub folders: Vec<(PathBuf, (u64, u64))>,
}

/// A reader of one folder: the shared one or a tenant's.
struct FolderReader<'a> {
    root: &'a Path,
    folder: &'a Folder,
    tenant: Option<&'a TenantId>,
}

/// Lists the plugins in a folder and in the tenants' folders below it. Fails if the folder itself
/// cannot be read, or if the host is short of file descriptors or memory.
pub fn scan(root: &Path) -> io::Result<Listing> {
    let folder = Folder::open(root)?;
    let mut listing = Listing::default();
    let shared = FolderReader { root, folder: &folder, tenant: None };
    let folders = shared.list(&mut listing, usize::MAX).map_err(into_io)?;
    listing.folders.push((root.into(), folder.identity()?));
    let (mut problems, mut others) = (Vec::new(), Vec::new());
    for (name, kind) in folders {
        match name.to_str().and_then(|name| TenantId::parse(name).ok()) {
            Some(tenant) => {
                if let Err(refusal) = scan_tenant(root, &folder, &tenant, kind, &mut listing) {
                    match refusal {
                        Refusal::Gone => continue,
                        Refusal::Short(error) => return Err(error),
                        Refusal::Unreadable(error) => problems.push(Problem::unreadable(tenant.as_str(), &error)),
                        Refusal::Refused(reason) => problems.push(Problem {
                            path: tenant.to_string(),
                            problem: format!("not read as a tenant's folder: {reason}"),
                            remedy: "replace it by a folder with the tenant's files, or remove it".into(),
                        }),
                    }
                    listing.unread.insert(tenant);
                }
            }
            None => others.push((name, kind)),
        }
    }
    let misnamed = shared.components_in(others, |path| Problem {
        path,
        problem: "this folder is not read, because no tenant can have its name".into(),
        remedy: "rename it to the tenant's name: 1 to 64 ASCII letters, digits, dots, underscores or hyphens, beginning with a letter or digit".into(),
    });
    problems.extend(misnamed.map_err(into_io)?);
    shared.report(&mut listing, problems);
    listing.files.sort_by(|a, b| a.name.cmp(&b.name));
    listing.problems.sort();
    Ok(listing)
}

fn scan_tenant(
    root: &Path,
    within: &Folder,
    tenant: &TenantId,
    kind: FileType,
    listing: &mut Listing,
) -> Result<(), Refusal> {
    let name = OsStr::new(tenant.as_str());
    if kind == FileType::Symlink && within.kind(name)? != FileType::Directory {
        // A link to a file is not a tenant's folder.
        return Ok(());
    }
    let folder = within.tenant(name)?;
    let own = FolderReader { root, folder: &folder, tenant: Some(tenant) };
    let mut found = Listing::default();
    let deeper = own.list(&mut found, MOST_ENTRIES)?;
    let nested = own.components_in(deeper, |path| Problem {
        path,
        problem: "folders in a tenant's folder are not read".into(),
        remedy: format!("move its files into {tenant}/"),
    })?;
    own.report(&mut found, nested);
    listing.folders.push((root.join(name), folder.identity()?));
    listing.files.extend(found.files);
    listing.problems.extend(found.problems);
    listing.left_over.extend(found.left_over);
    Ok(())
}

/// A refusal of the plugins folder itself.
fn into_io(refusal: Refusal) -> io::Error {
    match refusal {
        Refusal::Gone => io::ErrorKind::NotFound.into(),
        Refusal::Short(error) | Refusal::Unreadable(error) => error,
        Refusal::Refused(reason) => io::Error::other(reason),
    }
}

impl FolderReader<'_> {
    /// Adds the folder's entries to a listing. Returns its subfolders, and links that may be some.
    fn list(&self, listing: &mut Listing, max_entries: usize) -> Result<Vec<(OsString, FileType)>, Refusal> {
        let mut entries = self.folder.entries(max_entries)?;
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut plugins = 0;
        let names: BTreeSet<&OsStr> = entries.iter().map(|(name, _)| name.as_os_str()).collect();
        let (mut folders, mut problems) = (Vec::new(), Vec::new());
        for (name, kind) in &entries {
            let is_folder = *kind == FileType::Directory;
            let problem = match FolderEntry::of(name, is_folder, |name| names.contains(OsStr::new(name))) {
                FolderEntry::Hidden | FolderEntry::Companion => continue,
                FolderEntry::Component(stem) => {
                    plugins += 1;
                    if self.tenant.is_some() && plugins > MOST_PLUGINS {
                        continue;
                    }
                    listing.files.extend(self.plugin(stem, &names)?);
                    continue;
                }
                FolderEntry::Other => {
                    if is_folder || *kind == FileType::Symlink {
                        folders.push((name.clone(), *kind));
                    }
                    continue;
                }
                FolderEntry::LeftOver(stem) => {
                    listing.left_over.insert(self.named(stem));
                    continue;
                }
                FolderEntry::Misnamed { problem, remedy } => Problem { path: self.path_of(name), problem, remedy },
            };
            problems.push(problem);
        }
        if let Some(tenant) = self.tenant.filter(|_| plugins > MOST_PLUGINS) {
            problems.push(Problem {
                path: tenant.to_string(),
                problem: format!("it has {plugins} plugins, and only the first {MOST_PLUGINS} by name run"),
                remedy: "remove some".into(),
            });
        }
        self.report(listing, problems);
        Ok(folders)
    }

    /// A plugin; none if it was removed since it was listed.
    fn plugin(&self, stem: &str, names: &BTreeSet<&OsStr>) -> Result<Option<PluginFile>, Refusal> {
        let file = format!("{stem}.wasm");
        let Some(mut stamp) = self.stamp(&file)? else { return Ok(None) };
        let mut beside = |name: String, what: &str| -> Result<Option<Stamp>, Refusal> {
            if !names.contains(OsStr::new(&name)) {
                return Ok(None);
            }
            Ok(match self.stamp(&name)? {
                Some(Ok(stamp)) => Some(stamp),
                Some(Err(reason)) => {
                    stamp = Err(format!("its {what} {name}: {reason}"));
                    None
                }
                None => None,
            })
        };
        let manifest = beside(format!("{stem}.toml"), "manifest")?;
        let signature = beside(format!("{stem}.wasm.sig"), "signature")?;
        let mut path = self.root.to_path_buf();
        path.extend(self.tenant.map(TenantId::as_str));
        path.push(file);
        let (name, tenant) = (self.named(stem), self.tenant.cloned());
        Ok(Some(PluginFile { name, tenant, root: self.root.into(), stamp, manifest, signature, path }))
    }

    /// A file's stamp, or the reason why it cannot be used; none if it was removed. Fails if the
    /// host is short of file descriptors or memory.
    fn stamp(&self, name: &str) -> Result<Option<Result<Stamp, String>>, Refusal> {
        match self.folder.stat(OsStr::new(name)) {
            Ok(found) => Ok(Some(Ok(Stamp::of(&found)))),
            Err(Refusal::Gone) => Ok(None),
            Err(short @ Refusal::Short(_)) => Err(short),
            Err(refusal) => Ok(Some(Err(refusal.to_string()))),
        }
    }

    /// The problems of those folders that have components in them.
    fn components_in(
        &self,
        folders: Vec<(OsString, FileType)>,
        problem: impl Fn(String) -> Problem,
    ) -> Result<Vec<Problem>, Refusal> {
        let mut found = Vec::new();
        let real = folders.iter().filter(|(_, kind)| *kind == FileType::Directory);
        for (name, _) in real.take(MOST_PROBLEMS) {
            match self.folder.any_below(name, GLANCE, |name| name.as_bytes().ends_with(b".wasm")) {
                Ok(true) => found.push(problem(self.path_of(name))),
                // A folder that cannot be examined is not reported: the host would not read it
                // anyway.
                Ok(false) | Err(Refusal::Gone | Refusal::Unreadable(_) | Refusal::Refused(_)) => {}
                Err(short @ Refusal::Short(_)) => return Err(short),
            }
        }
        Ok(found)
    }

    /// Adds the folder's first problems to a listing, and the number of the remaining ones.
    fn report(&self, listing: &mut Listing, mut problems: Vec<Problem>) {
        problems.sort();
        let more = problems.len().saturating_sub(MOST_PROBLEMS);
        problems.truncate(MOST_PROBLEMS);
        listing.problems.extend(problems);
        if more > 0 {
            listing.problems.push(Problem {
                path: self.tenant.map_or(".".into(), TenantId::to_string),
                problem: format!("{more} more entries of this folder do not run"),
                remedy: "fix or remove the listed ones to see the others".into(),
            });
        }
    }

    fn named(&self, stem: &str) -> String {
        self.tenant.map_or_else(|| stem.to_string(), |tenant| format!("{tenant}/{stem}"))
    }

    fn path_of(&self, name: &OsStr) -> String {
        self.named(&shown(name))
    }
}

impl PluginFile {
    /// Opens the folder that contains it.
    fn folder(&self) -> Result<Folder, Refusal> {
        let root = Folder::open(&self.root)?;
        match &self.tenant {
            Some(tenant) => root.tenant(OsStr::new(tenant.as_str())),
            None => Ok(root),
        }
    }

    fn beside(&self, ending: &str) -> OsString {
        let name = self.name.rsplit('/').next().unwrap_or(&self.name);
        format!("{name}{ending}").into()
    }

    /// Opens its component.
    pub(super) fn component(&self) -> Result<File, Refusal> {
        self.folder()?.file(&self.beside(".wasm"))
    }

    /// Reads its manifest.
    pub(super) fn manifest_text(&self) -> Result<String, Refusal> {
        self.folder()?.text(&self.beside(".toml"))
    }

    /// Reads its signature.
    pub(super) fn signature_text(&self) -> Result<String, Refusal> {
        self.folder()?.text(&self.beside(".wasm.sig"))
    }
}

/// A name with escapes for invalid UTF-8 and for unsafe characters (see [`text::is_unsafe`]).
pub(super) fn shown(name: &OsStr) -> String {
    let mut shown = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if text::is_unsafe(character) {
                shown.extend(character.escape_unicode());
            } else {
                shown.push(character);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests;
