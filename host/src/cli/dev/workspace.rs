//! The folder `.sandmill`: the state of `sandmill dev`, and where other commands find its database.
//!
//! While `dev` runs, `address` contains the database's address and `lock` is locked. An address
//! without a lock was left behind by a killed process. `data` is the private server's data. The
//! folder excludes itself from Git.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};

const FOLDER: &str = ".sandmill";
const ADDRESS: &str = "address";
const LOCK: &str = "lock";
/// Attempts to take the lock. 5: another command that checks the lock holds it for a moment.
const ATTEMPTS: u32 = 5;
const RETRY: Duration = Duration::from_millis(20);

/// The lock that makes this the only `dev` in a folder. Dropping it removes the address.
#[derive(Debug)]
pub(super) struct FolderLock {
    folder: PathBuf,
    _lock: File,
}

impl FolderLock {
    /// Creates `.sandmill` in a folder if it is missing, and locks it.
    pub(super) fn take(within: &Path) -> anyhow::Result<FolderLock> {
        let folder = within.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(folder.join(".gitignore"), "*\n").with_context(|| format!("write to {}", folder.display()))?;
        let path = folder.join(LOCK);
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.with_context(|| format!("open {}", path.display()))?;
        for attempt in 1.. {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => std::thread::sleep(RETRY),
                Err(TryLockError::WouldBlock) => {
                    bail!("`sandmill dev` is already running in this folder; commands started here use its database")
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
        }
        Ok(FolderLock { folder, _lock: lock })
    }

    /// The default folder of the private server's data.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Publishes the database's address to other commands.
    pub(super) fn publish(&self, address: &str) -> anyhow::Result<()> {
        let unfinished = self.folder.join(".address");
        let path = self.folder.join(ADDRESS);
        // Renamed when complete, so that no reader sees half of it.
        fs::write(&unfinished, format!("{address}\n"))
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // An address that stays is detected as stale.
        let _ = fs::remove_file(self.folder.join(ADDRESS));
    }
}

/// The database address of the `dev` that runs in this folder or above, if there is one. Ignores
/// files of other users: they are not trusted to choose the database.
pub(in super::super) fn find(from: &Path) -> anyhow::Result<Option<String>> {
    for folder in from.ancestors().map(|folder| folder.join(FOLDER)) {
        let path = folder.join(ADDRESS);
        let address = match fs::read_to_string(&path) {
            Ok(address) => address,
            Err(error) if is_absence(&error) => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        if fs::metadata(&path)?.uid() != rustix::process::geteuid().as_raw() {
            continue;
        }
        let is_running = match File::open(folder.join(LOCK)).map(|lock| lock.try_lock_shared()) {
            Ok(Err(TryLockError::WouldBlock)) => true,
            Ok(Ok(()) | Err(TryLockError::Error(_))) | Err(_) => false,
        };
        if is_running {
            return Ok(Some(address.trim().to_owned()));
        }
        bail!(
            "`sandmill dev` is not running in {}: {} was left by a `sandmill dev` that was killed\nStart it there again, or \
             choose a database with DATABASE_URL or --database-url.",
            folder.parent().unwrap_or(&folder).display(),
            path.display()
        );
    }
    Ok(None)
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_subfolders_while_dev_runs() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        assert_eq!(find(&below).unwrap(), None);
        let lock = FolderLock::take(root.path()).unwrap();
        assert_eq!(find(&below).unwrap(), None);
        lock.publish("host=x").unwrap();
        assert_eq!(find(&below).unwrap().as_deref(), Some("host=x"));
        assert!(FolderLock::take(root.path()).unwrap_err().to_string().contains("is already running in this folder"));
        assert_eq!(fs::read_to_string(root.path().join(".sandmill/.gitignore")).unwrap(), "*\n");
        drop(lock);
        assert_eq!(find(&below).unwrap(), None);

        fs::write(root.path().join(".sandmill/address"), "host=gone").unwrap();
        // A child process of another test shares this process's open files, and so the lock, until
        // it calls exec.
        let began = std::time::Instant::now();
        let stale = loop {
            match find(&below) {
                Err(stale) => break stale.to_string(),
                Ok(found) => assert!(began.elapsed().as_secs() < 300, "{found:?}"),
            }
            std::thread::yield_now();
        };
        assert!(stale.contains("`sandmill dev` is not running in") && stale.contains("choose a database"), "{stale}");
        FolderLock::take(root.path()).unwrap().publish("host=new").unwrap();
    }
}
