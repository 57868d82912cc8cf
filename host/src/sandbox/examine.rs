//! The examination of a component file: loads it as a plugin, and reports everything found out
//! about it.
//!
//! The host loads its plugins through here, and so does `sandmill plugin check`: its report shows
//! what the host does with the file. A file's size is checked before a byte of it is read, so a
//! file that is too large costs nothing. A refusal keeps everything that was found out before it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    LoadError, Plugin, Sandbox,
    inspect::{self, FileRejection, Outline},
    load,
};

/// The result of examining a file, complete or not.
pub struct Examination {
    /// Its size, bytes; none if it could not be read.
    pub bytes: Option<u64>,
    /// Its SHA-256, lower-case hexadecimal; none if it was not read to its end.
    pub digest: Option<String>,
    /// Its outline; none if it was not read, or is not a component.
    pub outline: Option<Outline>,
    /// The plugin, or why this host does not run it.
    pub loaded: Result<Plugin, LoadError>,
}

impl Examination {
    fn refused(bytes: Option<u64>, why: LoadError) -> Self {
        Examination { bytes, digest: None, outline: None, loaded: Err(why) }
    }
}

/// Opens a file and examines it.
pub(super) fn file(sandbox: &Sandbox, path: &Path) -> Examination {
    match File::open(path) {
        Ok(file) => opened(sandbox, file, |_| Ok(())),
        Err(error) => Examination::refused(None, LoadError::Unreadable(error)),
    }
}

/// Reads a file unless it is too large, and examines its bytes if `accept` returns no error.
pub(super) fn opened(sandbox: &Sandbox, file: File, accept: impl Fn(&[u8]) -> Result<(), String>) -> Examination {
    let found = match file.metadata() {
        Ok(found) if found.is_dir() => return Examination::refused(None, LoadError::Directory),
        Ok(found) => found.len(),
        Err(error) => return Examination::refused(None, LoadError::Unreadable(error)),
    };
    if let Err(refused) = inspect::check_size(found, &sandbox.limits) {
        return Examination::refused(Some(found), refused.into());
    }
    match content(file, sandbox.limits.component_bytes()) {
        Ok(content) => match accept(&content) {
            Ok(()) => bytes(sandbox, &content),
            Err(why) => Examination::refused(Some(found), LoadError::NotAccepted(why)),
        },
        Err(error) => Examination::refused(Some(found), LoadError::Unreadable(error)),
    }
}

/// A file's content, up to one byte over the maximum: a file may grow while it is read, and a pipe
/// has no size.
pub fn content(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(max + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// SHA-256 of a component's bytes, lower-case hexadecimal: its version.
pub fn digest(content: &[u8]) -> String {
    text(&Sha256::digest(content).into())
}

fn text(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Examines a file's content.
pub(super) fn bytes(sandbox: &Sandbox, content: &[u8]) -> Examination {
    let size = content.len() as u64;
    if let Err(refused) = inspect::check_size(size, &sandbox.limits) {
        return Examination::refused(Some(size), refused.into());
    }
    let digest: [u8; 32] = Sha256::digest(content).into();
    let (outline, read) = Outline::of(content);
    let is_component = !matches!(read, Err(FileRejection::NotWasm(_) | FileRejection::CoreModule));
    let fits = read.and_then(|()| outline.check(&sandbox.limits));
    let loaded = match fits {
        Ok(()) => load::load(sandbox, content, &digest),
        Err(refused) => Err(refused.into()),
    };
    Examination { bytes: Some(size), digest: Some(text(&digest)), outline: is_component.then_some(outline), loaded }
}
