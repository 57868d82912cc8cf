//! A component's file from the disk to a plugin that runs, and all that is known of it on the way.
//!
//! The host loads its plugins through here, and so does `sandmill plugin check`: what that says of a file is what the host does with it. A file's
//! size is looked at before a byte of it is read, so one that is too large costs nothing. What was learnt before a file was refused
//! is kept beside the refusal.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    LoadError, Plugin, Sandbox,
    inspect::{self, Outline, Refused},
    plugin,
};

/// What is known of a file, however far it got.
pub struct Examined {
    /// Its size; none where it could not be read.
    pub bytes: Option<u64>,
    /// SHA-256 of it, lower-case hexadecimal; none where it was not read to its end.
    pub digest: Option<String>,
    /// What it says about itself; none where it was not read, or is no component.
    pub outline: Option<Outline>,
    /// The plugin that it is, or why this host does not run it.
    pub loaded: Result<Plugin, LoadError>,
}

impl Examined {
    fn refused(bytes: Option<u64>, why: LoadError) -> Self {
        Examined { bytes, digest: None, outline: None, loaded: Err(why) }
    }
}

/// Opens a file and examines it.
pub(super) fn file(sandbox: &Sandbox, path: &Path) -> Examined {
    match File::open(path) {
        Ok(file) => opened(sandbox, file, |_| Ok(())),
        Err(error) => Examined::refused(None, LoadError::Unreadable(error)),
    }
}

/// Reads a file, unless its size alone is reason enough not to, and goes on with its bytes if they are accepted.
pub(super) fn opened(sandbox: &Sandbox, file: File, accept: impl Fn(&[u8]) -> Result<(), String>) -> Examined {
    let found = match file.metadata() {
        Ok(found) if found.is_dir() => return Examined::refused(None, LoadError::Directory),
        Ok(found) => found.len(),
        Err(error) => return Examined::refused(None, LoadError::Unreadable(error)),
    };
    if let Err(refused) = inspect::check_size(found, &sandbox.limits) {
        return Examined::refused(Some(found), refused.into());
    }
    match read(file, (sandbox.limits.component_mib as u64) << 20) {
        Ok(content) => match accept(&content) {
            Ok(()) => bytes(sandbox, &content),
            Err(why) => Examined::refused(Some(found), LoadError::NotAccepted(why)),
        },
        Err(error) => Examined::refused(Some(found), LoadError::Unreadable(error)),
    }
}

/// The content, and at most one byte more than is allowed: a file may grow while it is read, and a pipe has no size.
fn read(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// Makes a plugin of a file's content.
pub(super) fn bytes(sandbox: &Sandbox, content: &[u8]) -> Examined {
    let size = content.len() as u64;
    if let Err(refused) = inspect::check_size(size, &sandbox.limits) {
        return Examined::refused(Some(size), refused.into());
    }
    let digest: [u8; 32] = Sha256::digest(content).into();
    let (outline, read) = Outline::of(content);
    let is_component = !matches!(read, Err(Refused::NotWasm(_) | Refused::CoreModule));
    let fits = read.and_then(|()| outline.check(&sandbox.limits));
    let loaded = match fits {
        Ok(()) => plugin::load(sandbox, content, &digest),
        Err(refused) => Err(refused.into()),
    };
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Examined { bytes: Some(size), digest: Some(digest), outline: is_component.then_some(outline), loaded }
}
