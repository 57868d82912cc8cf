//! The plugins folder: which files in it are plugins, and what else is in it that somebody may have meant to be one.
//!
//! `NAME.wasm` is a plugin for all tenants; `TENANT/NAME.wasm` is one for that tenant alone. `NAME.toml` beside it is its manifest, `NAME.wasm.sig` its
//! signature, and the host writes `NAME.wasm.error`. Names that begin with a dot are left alone: editors and copying tools keep unfinished files there.
//! A folder that is not there is an empty one: somebody is about to make it.
//!
//! **Links.** The plugins folder itself may be a link or a mount. Below it, everything that is read or written for a tenant lies in that tenant's folder:
//! links there may lead to any file of the same folder, and nowhere else. Links among the files for all tenants may lead to files beside them and below
//! folders whose names begin with a dot, so never into a tenant's folder. A tenant's folder may itself be a link through such folders to one of the
//! same name. That is how Kubernetes lays out a volume (`a.wasm -> ..data/a.wasm`, `acme -> ..data/acme`). Each step is checked on open descriptors
//! ([`beneath`]), so exchanging a link between the check and the read gains nothing. *A hard link is the file itself*: no path tells that another tenant's
//! folder holds it too. Let tenants write only to file systems on which they can make no hard link to each other's files (one volume each, or `fs.protected_hardlinks`).
//!
//! **Faults.** An entry that cannot be used is reported with its own path ([`Problem`]) and keeps no other from running. A folder that cannot be read is not an
//! empty one: its plugins stay what they were ([`Listing::unread`]). A host that is short of file descriptors fails the whole scan, and everything stays.

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
use entry::Entry;
use rustix::fs::{FileType, Stat};
pub use settling::Settling;

use crate::model::{ids::TenantId, text};

/// The most entries that a tenant's folder may have, so that reading one does not keep the others waiting.
const MOST_ENTRIES: usize = 10_000;
/// The most plugins of a tenant's own, in the order of their names. Each costs sessions of the database and memory for its
/// manifest, whatever its code does.
const MOST_PLUGINS: usize = 100;
/// The most problems told of one folder, so that no tenant can flood the log with them.
const MOST_PROBLEMS: usize = 20;
/// Entries that are looked at in a folder that is not read, for whether somebody has put components there.
const GLANCE: usize = 256;

/// A file that is meant to be a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// Its name without `.wasm`: `NAME`, or `TENANT/NAME`.
    pub name: String,
    /// Whose it is; none means everybody's.
    pub tenant: Option<TenantId>,
    /// The plugins folder.
    root: PathBuf,
    /// Where it is, for people; it is opened step by step.
    pub path: PathBuf,
    /// What tells this content from another, or why it cannot be a plugin.
    pub stamp: Result<Stamp, String>,
    /// The same of its manifest, if it has one.
    pub manifest: Option<Stamp>,
    /// And of its signature.
    pub signature: Option<Stamp>,
}

#[cfg(test)]
impl PluginFile {
    /// A file of so many bytes that is in no folder.
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

/// What a file looks like from outside. Another content has another one, unless somebody writes it in place within the clock's resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: i128,
    modified: (i128, i128),
    changed: (i128, i128),
    inode: u64,
}

impl PluginFile {
    /// Its size in bytes, as far as it could be looked at.
    pub fn bytes(&self) -> u64 {
        self.stamp.as_ref().map_or(0, |stamp| u64::try_from(stamp.bytes).unwrap_or_default())
    }
}

impl Stamp {
    fn of(found: &Stat) -> Self {
        // The kernel's numbers are of other types on other systems.
        Stamp {
            bytes: found.st_size.into(),
            modified: (found.st_mtime.into(), found.st_mtime_nsec.into()),
            changed: (found.st_ctime.into(), found.st_ctime_nsec.into()),
            inode: found.st_ino,
        }
    }
}

/// An entry of the folder that is not run, though it looks as if it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is in the plugins folder, in harmless characters; `.` is the folder itself.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// A folder that cannot be read for a reason of the file system or the host.
    pub(super) fn unreadable(path: &str, error: &dyn std::fmt::Display) -> Problem {
        Problem {
            path: path.into(),
            problem: format!("this folder cannot be read; what runs from it keeps running: {error}"),
            remedy: "let the host's user read and search it (chmod u+rx); if the host has too many open files, raise `ulimit -n`".into(),
        }
    }
}

/// What is in the folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// The plugins, by name.
    pub files: Vec<PluginFile>,
    /// Tenants whose folders cannot be read: nothing is known of what is in them now.
    pub unread: BTreeSet<TenantId>,
    /// What is not run, though it looks as if it should be.
    pub problems: Vec<Problem>,
    /// Names of plugins of which only the host's own error file is left.
    pub left_over: BTreeSet<String>,
    /// The folders that were read, with their identities.
    pub folders: Vec<(PathBuf, (u64, u64))>,
}

/// The folder that is read, and whose it is.
struct Reading<'a> {
    root: &'a Path,
    folder: &'a Folder,
    tenant: Option<&'a TenantId>,
}

/// Lists the plugins in a folder and in those of tenants below it. Fails where the folder itself cannot be read, and where the host is short of something.
pub fn scan(root: &Path) -> io::Result<Listing> {
    let folder = Folder::open(root)?;
    let mut listing = Listing::default();
    let shared = Reading { root, folder: &folder, tenant: None };
    let folders = shared.list(&mut listing, usize::MAX).map_err(into_io)?;
    listing.folders.push((root.into(), folder.identity()?));
    let (mut problems, mut others) = (Vec::new(), Vec::new());
    for (name, kind) in folders {
        match name.to_str().and_then(|name| TenantId::parse(name).ok()) {
            Some(tenant) => {
                if let Err(why) = scan_tenant(root, &folder, &tenant, kind, &mut listing) {
                    match why {
                        Refusal::Gone => continue,
                        Refusal::Short(error) => return Err(error),
                        Refusal::Unreadable(error) => problems.push(Problem::unreadable(tenant.as_str(), &error)),
                        Refusal::Refused(why) => problems.push(Problem {
                            path: tenant.to_string(),
                            problem: format!("not read as a tenant's folder: {why}"),
                            remedy: "make it a folder with the tenant's files, or remove it".into(),
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
        problem: "no tenant can have this name, so nothing in this folder is run".into(),
        remedy: "rename it to the tenant's name: a letter or digit, then up to 63 letters, digits, dots, underscores or hyphens".into(),
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
        // A link to a file, and no business of ours.
        return Ok(());
    }
    let folder = within.tenant(name)?;
    let own = Reading { root, folder: &folder, tenant: Some(tenant) };
    let mut found = Listing::default();
    let deeper = own.list(&mut found, MOST_ENTRIES)?;
    let nested = own.components_in(deeper, |path| Problem {
        path,
        problem: "folders in a tenant's folder are not read".into(),
        remedy: format!("move its files up into {tenant}/"),
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
        Refusal::Refused(why) => io::Error::other(why),
    }
}

impl Reading<'_> {
    /// Adds what is in the folder to a listing. Gives the folders in it, and links that may be some.
    fn list(&self, listing: &mut Listing, most: usize) -> Result<Vec<(OsString, FileType)>, Refusal> {
        let mut entries = self.folder.entries(most)?;
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut plugins = 0;
        let names: BTreeSet<&OsStr> = entries.iter().map(|(name, _)| name.as_os_str()).collect();
        let (mut folders, mut problems) = (Vec::new(), Vec::new());
        for (name, kind) in &entries {
            let is_folder = *kind == FileType::Directory;
            let problem = match Entry::of(name, is_folder, |name| names.contains(OsStr::new(name))) {
                Entry::Hidden | Entry::Companion => continue,
                Entry::Component(stem) => {
                    plugins += 1;
                    if self.tenant.is_some() && plugins > MOST_PLUGINS {
                        continue;
                    }
                    listing.files.extend(self.plugin(stem, &names)?);
                    continue;
                }
                Entry::Other => {
                    if is_folder || *kind == FileType::Symlink {
                        folders.push((name.clone(), *kind));
                    }
                    continue;
                }
                Entry::LeftOver(stem) => {
                    listing.left_over.insert(self.named(stem));
                    continue;
                }
                Entry::Wrong { problem, remedy } => Problem { path: self.path_of(name), problem, remedy },
            };
            problems.push(problem);
        }
        if let Some(tenant) = self.tenant.filter(|_| plugins > MOST_PLUGINS) {
            problems.push(Problem {
                path: tenant.to_string(),
                problem: format!("it has {plugins} plugins, and only the first {MOST_PLUGINS} by name are run"),
                remedy: "remove some".into(),
            });
        }
        self.report(listing, problems);
        Ok(folders)
    }

    /// A plugin; none where it is gone since it was listed.
    fn plugin(&self, stem: &str, names: &BTreeSet<&OsStr>) -> Result<Option<PluginFile>, Refusal> {
        let file = format!("{stem}.wasm");
        let Some(mut stamp) = self.stamp(&file)? else { return Ok(None) };
        let mut beside = |name: String, what: &str| -> Result<Option<Stamp>, Refusal> {
            if !names.contains(OsStr::new(&name)) {
                return Ok(None);
            }
            Ok(match self.stamp(&name)? {
                Some(Ok(stamp)) => Some(stamp),
                Some(Err(why)) => {
                    stamp = Err(format!("its {what} {name}: {why}"));
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

    /// A file as it looks, or why it cannot be used; nothing where it is gone. Fails where the host is short of something.
    fn stamp(&self, name: &str) -> Result<Option<Result<Stamp, String>>, Refusal> {
        match self.folder.look(OsStr::new(name)) {
            Ok(found) => Ok(Some(Ok(Stamp::of(&found)))),
            Err(Refusal::Gone) => Ok(None),
            Err(short @ Refusal::Short(_)) => Err(short),
            Err(why) => Ok(Some(Err(why.to_string()))),
        }
    }

    /// Those of some folders that have components in them, as problems.
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
                // It would not be read anyway.
                Ok(false) | Err(Refusal::Gone | Refusal::Unreadable(_) | Refusal::Refused(_)) => {}
                Err(short @ Refusal::Short(_)) => return Err(short),
            }
        }
        Ok(found)
    }

    /// Adds problems of this folder to a listing: the first ones, and how many more there are.
    fn report(&self, listing: &mut Listing, mut problems: Vec<Problem>) {
        problems.sort();
        let more = problems.len().saturating_sub(MOST_PROBLEMS);
        problems.truncate(MOST_PROBLEMS);
        listing.problems.extend(problems);
        if more > 0 {
            listing.problems.push(Problem {
                path: self.tenant.map_or(".".into(), TenantId::to_string),
                problem: format!("{more} more entries of this folder are not run"),
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
    /// Opens the folder that it lies in.
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

/// A name in characters that can neither steer a terminal nor be mistaken for others: what is not printable, or not UTF-8, is escaped.
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
