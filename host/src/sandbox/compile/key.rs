//! The host's key for its own compiled code: 32 random bytes beside it, for nobody else to read.
//!
//! Whoever knows the key can make code that this host executes outside the sandbox. So a key that others may read, or that belongs to somebody
//! else, is no key: it is refused with the way to mend it, and never quietly replaced.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{Mode, OFlags};
use sha2::Sha256;

/// Its file's name.
const NAME: &str = "key";
const LENGTH: usize = 32;

/// A key, in the form that makes seals. Its bytes go nowhere else.
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// The key in a folder, made now if there is none.
    pub(super) fn open(folder: &Path) -> Result<Key, String> {
        let path = folder.join(NAME);
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        match read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => make(folder).map_err(failed)?,
            Err(e) => return Err(failed(e)),
            Ok(key) => return Ok(key),
        }
        // Whichever of several hosts was the first, its key is everybody's.
        read(&path).map_err(failed)
    }

    /// A seal over parts of bytes that lie in one order only.
    pub(super) fn seal(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

fn read(path: &Path) -> io::Result<Key> {
    // What is checked is the open file, so nobody can put another one in its place afterwards.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    let refuse = |problem: &str| {
        let remedy =
            "remove it, and the code kept beside it if others may know it: a new one is made at the next start";
        Err(io::Error::other(format!("{problem}; {remedy}")))
    };
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("is no file of this host's user");
    }
    if found.mode() & 0o077 != 0 {
        return refuse("can be read or written by others than this host's user");
    }
    let mut bytes = Vec::new();
    (&file).take(LENGTH as u64 + 1).read_to_end(&mut bytes)?;
    match Hmac::new_from_slice(&bytes) {
        Ok(mac) if bytes.len() == LENGTH => Ok(Key(mac)),
        _ => refuse("is no key of ours"),
    }
}

/// Puts a new key in place, unless somebody else did meanwhile.
fn make(folder: &Path) -> io::Result<()> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(format!("no random bytes: {e}")))?;
    // Temporary files are for their owner only, and stay so under their new name.
    let mut file = tempfile::NamedTempFile::with_prefix_in(super::cache::PART, folder)?;
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
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let seal = || Key::open(folder.path()).unwrap().seal(&[b"text"]).finalize().into_bytes();
        let first = seal();
        assert_eq!(seal(), first);
        let path = folder.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        make(folder.path()).unwrap();
        assert_eq!(seal(), first, "the first one stays");

        let refused = || Key::open(folder.path()).err().unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(refused().contains("can be read or written by others"), "{}", refused());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(refused().contains("is no key of ours; remove it"), "{}", refused());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused();
    }
}
