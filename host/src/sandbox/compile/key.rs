//! The host's secret key for its own compiled code: 32 random bytes in a file beside the code,
//! which only the host's user may read.
//!
//! The key allows making code that this host executes outside the sandbox. So a key file that other
//! users may read, or that belongs to another user, is refused with a remedy; it is never silently
//! replaced.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{Mode, OFlags};
use sha2::Sha256;

/// Name of the key's file.
const NAME: &str = "key";
const LENGTH: usize = 32;

/// A key, in the form that makes seals. Its bytes are not kept anywhere else.
pub(super) struct SealKey(Hmac<Sha256>);

impl SealKey {
    /// Reads the key of a folder, and creates one if there is none.
    pub(super) fn open(folder: &Path) -> Result<SealKey, String> {
        let path = folder.join(NAME);
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        match read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => make(folder).map_err(failed)?,
            Err(e) => return Err(failed(e)),
            Ok(key) => return Ok(key),
        }
        // Of several hosts that start together, the first one's key serves all.
        read(&path).map_err(failed)
    }

    /// A seal over a sequence of parts. The caller makes sure that no other split into parts has
    /// the same bytes.
    pub(super) fn seal(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

fn read(path: &Path) -> io::Result<SealKey> {
    // The checks are on the open file, so it cannot be replaced afterwards.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    let refuse = |problem: &str| {
        let remedy = "remove it, and if others may know it also the code beside it; the next start makes a new one";
        Err(io::Error::other(format!("{problem}; {remedy}")))
    };
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("is not a regular file of this host's user");
    }
    if found.mode() & 0o077 != 0 {
        return refuse("other users can read or write it");
    }
    let mut bytes = Vec::new();
    (&file).take(LENGTH as u64 + 1).read_to_end(&mut bytes)?;
    match Hmac::new_from_slice(&bytes) {
        Ok(mac) if bytes.len() == LENGTH => Ok(SealKey(mac)),
        _ => refuse("is not a key of this host"),
    }
}

/// Makes a new key, unless another host has made one meanwhile.
fn make(folder: &Path) -> io::Result<()> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(format!("no random bytes: {e}")))?;
    // Only the owner can read a temporary file, and its permissions stay when it is renamed.
    let mut file = tempfile::NamedTempFile::with_prefix_in(super::PART, folder)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(folder.join(NAME)) {
        Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => Err(refused.error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let seal = || SealKey::open(folder.path()).unwrap().seal(&[b"text"]).finalize().into_bytes();
        let first = seal();
        assert_eq!(seal(), first);
        let path = folder.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        make(folder.path()).unwrap();
        assert_eq!(seal(), first, "the first key stays");

        let refused = || SealKey::open(folder.path()).err().unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(refused().contains("other users can read or write it"), "{}", refused());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(refused().contains("is not a key of this host; remove it"), "{}", refused());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused();
    }
}
