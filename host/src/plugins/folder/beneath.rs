//! An open folder with name resolution that no link can escape from.
//!
//! Check and use are one step. Each part of a path is opened from the folder before it. Links are
//! followed here, never by the kernel, and content is read from the descriptor that was checked. So
//! replacing a file, link or folder between the check and the read gains nothing. Only regular
//! files are opened, without blocking: a pipe, device or socket cannot stall the host.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, renameat, statat, unlinkat},
    io::Errno,
};

/// Maximum number of links followed for one name, as in the kernel. Kubernetes needs two.
const MOST_LINKS: usize = 40;
/// Maximum number of path parts resolved for one name, including links within links. Kubernetes
/// needs four.
const MOST_STEPS: usize = 128;
/// Maximum depth of folders that a link may lead into. Each folder stays open until the name is
/// resolved.
const DEEPEST: usize = 8;

/// Why an entry cannot be used.
#[derive(Debug)]
pub(in crate::plugins) enum Refusal {
    /// It does not exist.
    Gone,
    /// The host is short of file descriptors or memory; the entry may be fine.
    Short(io::Error),
    /// The file system does not allow reading it now.
    Unreadable(io::Error),
    /// It is not acceptable: the reason and the remedy.
    Refused(String),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Refusal::Gone,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Refusal::Short(error.into()),
            _ => Refusal::Unreadable(error.into()),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            // An error about the content, such as invalid UTF-8.
            None => Refusal::Refused(format!("it cannot be read: {error}")),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Gone => f.write_str("it was removed"),
            Refusal::Short(error) => write!(f, "the host cannot open it now ({error}) and retries automatically"),
            Refusal::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Refusal::Refused(reason) => f.write_str(reason),
        }
    }
}

/// Where links in a folder may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// To entries of the folder and below its dot folders, so never into a tenant's folder.
    Shared,
    /// Anywhere below the folder.
    Own,
}

/// An open folder.
#[derive(Debug)]
pub(in crate::plugins) struct Folder {
    fd: OwnedFd,
    links: Links,
}

/// The entry that a name resolves to.
#[derive(Debug)]
struct ResolvedEntry {
    /// The open folder that contains it; none if no link led out of the starting folder.
    within: Option<OwnedFd>,
    /// Its name in that folder.
    name: OsString,
    stat: Stat,
}

impl ResolvedEntry {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl Folder {
    /// Opens the plugins folder. Links in its path are the operator's choice and are followed.
    pub(in crate::plugins) fn open(path: &Path) -> io::Result<Folder> {
        let fd = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Folder { fd, links: Links::Shared })
    }

    /// Opens a tenant's folder: a folder of that name, or a link through dot folders to one of the
    /// same name.
    pub(in crate::plugins) fn tenant(&self, tenant: &OsStr) -> Result<Folder, Refusal> {
        let target = self.resolve(tenant)?;
        if target.kind() != FileType::Directory {
            return Err(Refusal::Refused("it is not a folder".into()));
        }
        if target.name != tenant {
            return Err(Refusal::Refused(format!(
                "a link to a folder of another name; a tenant's folder is a folder, or a link to `.NAME/{}`",
                super::shown(tenant)
            )));
        }
        let fd = open_folder(self.within(&target), &target.name)?;
        Ok(Folder { fd, links: Links::Own })
    }

    /// The folder's device and inode.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&self.fd)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// The names and types of its entries, without following links. Refused if there are more than
    /// `max`.
    pub(super) fn entries(&self, max: usize) -> Result<Vec<(OsString, FileType)>, Refusal> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            if entries.len() == max {
                return Err(Refusal::Refused(format!("it has more than {max} entries; remove some")));
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                known => known,
            };
            entries.push((name, kind));
        }
        Ok(entries)
    }

    /// Whether a subfolder has an entry that `wanted` accepts. Examines its first `max` entries and
    /// follows no link.
    pub(super) fn any_below(
        &self,
        folder: &OsStr,
        max: usize,
        wanted: impl Fn(&OsStr) -> bool,
    ) -> Result<bool, Refusal> {
        let below = open_folder(self.fd.as_fd(), folder)?;
        for entry in Dir::new(below)?.take(max) {
            if wanted(OsStr::from_bytes(entry?.file_name().to_bytes())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The metadata of a regular file, after links.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Stat, Refusal> {
        let target = self.resolve(name)?;
        regular(target.kind())?;
        Ok(target.stat)
    }

    /// The type of an entry, after links.
    pub(super) fn kind(&self, name: &OsStr) -> Result<FileType, Refusal> {
        Ok(self.resolve(name)?.kind())
    }

    /// Opens a regular file for reading.
    pub(in crate::plugins) fn file(&self, name: &OsStr) -> Result<File, Refusal> {
        let target = self.resolve(name)?;
        regular(target.kind())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(self.within(&target), &target.name, flags, Mode::empty())?;
        // Another file may have taken the name since.
        regular(FileType::from_raw_mode(fstat(&file)?.st_mode))?;
        Ok(file.into())
    }

    /// Reads a small text file, at most 64 KiB.
    pub(in crate::plugins) fn text(&self, name: &OsStr) -> Result<String, Refusal> {
        /// Far more than a person writes, and cheap to parse.
        const MOST: u64 = 64 << 10;
        let mut text = String::new();
        self.file(name)?.take(MOST + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MOST {
            return Err(Refusal::Refused("it is larger than 64 KiB".into()));
        }
        Ok(text)
    }

    /// Replaces an entry by a file. A link is replaced, not followed. Readers see the whole file or
    /// none of it.
    pub(in crate::plugins) fn replace(&self, name: &str, content: &[u8]) -> Result<(), Refusal> {
        let unfinished = format!(".{name}.unfinished");
        self.remove(&unfinished);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.fd, &unfinished, flags, Mode::from_raw_mode(0o644))?);
        let written = file.write_all(content).map_err(Refusal::from);
        let placed = written.and_then(|()| Ok(renameat(&self.fd, &unfinished, &self.fd, name)?));
        if placed.is_err() {
            self.remove(&unfinished);
        }
        placed
    }

    /// Removes a file or a link, if there is one. The target of a link stays, and so does a folder.
    pub(in crate::plugins) fn remove(&self, name: &str) {
        let _ = unlinkat(&self.fd, name, AtFlags::empty());
    }

    /// The folder that contains a resolved entry.
    fn within<'a>(&'a self, target: &'a ResolvedEntry) -> BorrowedFd<'a> {
        target.within.as_ref().unwrap_or(&self.fd).as_fd()
    }

    /// Follows a name's links step by step.
    fn resolve(&self, name: &OsStr) -> Result<ResolvedEntry, Refusal> {
        // The open folders on the way, and the remaining parts in reverse order.
        let (mut way, mut ahead): (Vec<(OwnedFd, OsString)>, _) = (Vec::new(), vec![name.to_owned()]);
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = ahead.pop() {
            steps += 1;
            if steps > MOST_STEPS {
                return Err(Refusal::Refused(format!("a link through more than {MOST_STEPS} folders and links")));
            }
            if part == ".." {
                if way.pop().is_none() {
                    return Err(self.leads_out());
                }
                continue;
            }
            let here = way.last().map_or(self.fd.as_fd(), |(fd, _)| fd.as_fd());
            let is_linked = links > 0;
            let refusal = |error| match error {
                Errno::NOENT if is_linked => Refusal::Refused("a broken link; remove it".into()),
                error => error.into(),
            };
            let stat = statat(here, &part, AtFlags::SYMLINK_NOFOLLOW).map_err(refusal)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Refusal::Refused("a circular link; remove it".into()));
                    }
                    let to = readlinkat(here, &part, Vec::new())?.into_bytes();
                    if to.starts_with(b"/") {
                        return Err(self.leads_out());
                    }
                    let parts = to.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
                    ahead.extend(parts.rev().map(|part| OsStr::from_bytes(part).to_owned()));
                }
                FileType::Directory if !ahead.is_empty() => {
                    if way.is_empty() && self.links == Links::Shared && !part.as_bytes().starts_with(b".") {
                        return Err(Refusal::Refused(format!(
                            "a link into the folder `{}`; links may only lead to files beside them and into folders whose names begin with a dot. Put the file itself here",
                            super::shown(&part)
                        )));
                    }
                    if way.len() == DEEPEST {
                        return Err(Refusal::Refused(format!("a link through more than {DEEPEST} folders")));
                    }
                    let folder = open_folder(here, &part).map_err(refusal)?;
                    way.push((folder, part));
                }
                _ if !ahead.is_empty() => {
                    return Err(Refusal::Refused("a link through something that is not a folder".into()));
                }
                _ => {
                    return Ok(ResolvedEntry { within: way.pop().map(|(fd, _)| fd), name: part, stat });
                }
            }
        }
        Err(Refusal::Refused("a link to a folder that contains it; remove it".into()))
    }

    fn leads_out(&self) -> Refusal {
        let of = match self.links {
            Links::Shared => "the plugins folder",
            Links::Own => "its tenant's folder",
        };
        Refusal::Refused(format!(
            "a link that leads out of {of}; put the file itself here, or a relative link to a file in the folder"
        ))
    }
}

fn open_folder(within: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(within, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Refuses everything but regular files.
fn regular(kind: FileType) -> Result<(), Refusal> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Refusal::Refused("a directory and not a file; remove or rename it".into())),
        // Opening anything else could block forever.
        _ => Err(Refusal::Refused("a pipe, socket or device and not a regular file; remove it".into())),
    }
}
