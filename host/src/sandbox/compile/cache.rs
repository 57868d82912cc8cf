//! The cache of compiled code, kept from one start to the next.
//!
//! A file is named after the digests of its component and of the engine. It begins with a seal made
//! with the host's [`SealKey`] over these and the code. A file that was truncated, altered, renamed
//! or written by somebody else fails the check. It is removed without being loaded, and the
//! component is compiled again. Files appear complete, by renaming. The folder is bounded; the
//! least recently used files are removed first. Losing a file only costs time, so errors are logged
//! and not returned.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hmac::Mac;

use super::{MachineCode, PART, hexadecimal, key::SealKey};

const SUFFIX: &str = ".cwasm";
/// Age from which an unfinished file must belong to a host that is gone.
const ABANDONED: Duration = Duration::from_secs(3_600);
/// Bytes of a seal.
const SEAL: usize = 32;
/// Prefix of the sealed bytes; another layout of them takes another prefix.
const LAYOUT: &[u8] = b"sandmill compiled component 1";

/// A folder of compiled code for one engine.
pub(super) struct CodeCache {
    folder: PathBuf,
    key: SealKey,
    engine: [u8; 32],
    max_bytes: u64,
}

impl CodeCache {
    /// Opens the folder, and creates it if it is missing. Refuses one that other users may write
    /// to.
    pub(super) fn open(folder: &Path, max_bytes: u64, engine: [u8; 32]) -> Result<CodeCache, String> {
        let failed = |e: io::Error| {
            format!(
                "{}: {e}; set compile.cache to a folder that this host may write, or leave it empty",
                folder.display()
            )
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let found = fs::metadata(folder).map_err(failed)?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(failed(io::Error::other("another user owns it or can write to it")));
        }
        Ok(CodeCache { folder: folder.into(), key: SealKey::open(folder)?, engine, max_bytes })
    }

    /// The code of a component, if it is cached with this host's seal.
    pub(super) fn get(&self, component: &[u8; 32]) -> Option<MachineCode> {
        let path = self.path(component);
        let bytes = match self.read(&path) {
            Ok(bytes) => bytes,
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %path.display(), "cannot read cached code: {e}");
                }
                return None;
            }
        };
        let sealed = bytes.split_at_checked(SEAL).filter(|(seal, code)| {
            let expected = self.key.seal(&[LAYOUT, component, &self.engine, code]);
            expected.verify_slice(seal).is_ok()
        });
        if sealed.is_none() {
            tracing::warn!(
                file = %path.display(),
                "cached code is not as this host wrote it (truncated, altered or foreign); removed it, \
                 compiling again"
            );
            let _ = fs::remove_file(&path);
            return None;
        }
        // The file's time is that of its last use. If it cannot be set, the file may be removed too
        // early.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(MachineCode { bytes, from: SEAL })
    }

    /// Stores code for the next start.
    pub(super) fn put(&self, component: &[u8; 32], code: &MachineCode) {
        if let Err(e) = self.write(component, &code.bytes[code.from..]).and_then(|()| self.trim()) {
            tracing::warn!(folder = %self.folder.display(), "cannot cache compiled code: {e}");
        }
    }

    fn path(&self, component: &[u8; 32]) -> PathBuf {
        self.folder.join(format!("{}-{}{SUFFIX}", hexadecimal(component), hexadecimal(&self.engine[..8])))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = fs::symlink_metadata(path)?;
        if !found.is_file() || found.len() > self.max_bytes {
            // Not a file of this cache. Empty bytes have no seal, so it is removed.
            return Ok(Vec::new());
        }
        fs::read(path)
    }

    fn write(&self, component: &[u8; 32], code: &[u8]) -> io::Result<()> {
        let seal = self.key.seal(&[LAYOUT, component, &self.engine, code]).finalize().into_bytes();
        let mut file = tempfile::NamedTempFile::with_prefix_in(PART, &self.folder)?;
        file.write_all(&seal)?;
        file.write_all(code)?;
        // Not flushed to the disk: the seal reveals what a power failure loses.
        file.persist(self.path(component)).map_err(|refused| refused.error)?;
        Ok(())
    }

    /// Removes the least recently used code until the rest is within the bound, and abandoned
    /// files.
    fn trim(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            // Another host may have removed it.
            let Ok(found) = entry.metadata() else { continue };
            let used = found.modified()?;
            let name = name.to_string_lossy();
            if name.ends_with(SUFFIX) {
                files.push((used, found.len(), path));
            } else if name.starts_with(PART) && now.duration_since(used).is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(path);
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.max_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            total -= bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn code(text: &str) -> MachineCode {
        MachineCode { bytes: text.into(), from: 0 }
    }

    fn text(code: Option<MachineCode>) -> Option<String> {
        code.map(|code| String::from_utf8(code.bytes[code.from..].to_vec()).unwrap())
    }

    #[test]
    fn code_is_read_back_only_for_its_component_and_engine() {
        let folder = tempfile::tempdir().unwrap();
        let open = |engine: u8| CodeCache::open(folder.path(), 1 << 20, [engine; 32]).unwrap();
        let cache = open(1);
        assert_eq!(text(cache.get(&[7; 32])), None);
        cache.put(&[7; 32], &code("seven"));
        assert_eq!(text(open(1).get(&[7; 32])).as_deref(), Some("seven"));
        assert_eq!(text(open(2).get(&[7; 32])), None, "another engine");
        assert_eq!(text(cache.get(&[8; 32])), None, "another component");
    }

    #[test]
    fn a_file_without_the_seal_for_its_name_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(folder.path(), 1 << 20, [1; 32]).unwrap();
        let (good, path) = ([7; 32], cache.path(&[7; 32]));
        cache.put(&good, &code("seven"));
        let sealed = fs::read(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let foreign = CodeCache::open(elsewhere.path(), 1 << 20, [1; 32]).unwrap();
        foreign.put(&good, &code("seven"));
        cache.put(&[8; 32], &code("eight"));
        let mut damaged: Vec<Vec<u8>> = (0..sealed.len()).map(|length| sealed[..length].to_vec()).collect();
        damaged.extend((0..sealed.len() * 8).map(|bit| {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        }));
        damaged.push([&sealed[..], b"x"].concat());
        damaged.push(fs::read(foreign.path(&good)).unwrap());
        damaged.push(fs::read(cache.path(&[8; 32])).unwrap());
        for bytes in damaged {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(text(cache.get(&good)), None, "{bytes:?}");
            assert!(!path.exists(), "{bytes:?}");
        }
        fs::write(&path, &sealed).unwrap();
        assert_eq!(text(cache.get(&good)).as_deref(), Some("seven"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(cache.path(&[8; 32]), &path).unwrap();
        assert_eq!(text(cache.get(&good)), None, "a link is not a file of the cache");
    }

    #[test]
    fn the_least_recently_used_code_is_removed_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(folder.path(), 300, [1; 32]).unwrap();
        let hundred = |number: u8| cache.put(&[number; 32], &code(&"x".repeat(100 - SEAL)));
        let age = |number: u8, seconds: u64| {
            let time = SystemTime::now() - Duration::from_secs(seconds);
            fs::File::open(cache.path(&[number; 32])).unwrap().set_modified(time).unwrap();
        };
        for number in 1..=3 {
            hundred(number);
            age(number, 100 - u64::from(number));
        }
        let part = folder.path().join(format!("{PART}abandoned"));
        fs::write(&part, "x").unwrap();
        fs::File::open(&part).unwrap().set_modified(SystemTime::now() - ABANDONED * 2).unwrap();
        assert!(cache.get(&[1; 32]).is_some(), "used again");
        hundred(4);
        let there: Vec<u8> = (1..=4).filter(|number| cache.path(&[*number; 32]).exists()).collect();
        assert_eq!(there, [1, 3, 4]);
        assert!(!part.exists());
    }

    #[test]
    fn a_folder_that_other_users_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let refused = CodeCache::open(folder.path(), 1, [1; 32]).err().unwrap();
        assert!(refused.contains("another user owns it or can write to it; set compile.cache"), "{refused}");
        let made = folder.path().join("a/b");
        CodeCache::open(&made, 1, [1; 32]).unwrap();
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
        assert!(CodeCache::open(Path::new("/proc/nowhere"), 1, [1; 32]).is_err());
    }
}
