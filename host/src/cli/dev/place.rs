//! The folder `.sandmill`: what `sandmill dev` keeps where it was started, and how other commands find the one that runs.
//!
//! `address` says how to reach the database and is there while `dev` runs; `lock` is held meanwhile, so that an address which somebody killed
//! left behind is told from one that is good. `data` is the private server's. The folder ignores itself in a repository.

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
/// Another command may hold the lock for the moment in which it asks for it.
const ATTEMPTS: u32 = 5;
const RETRY: Duration = Duration::from_millis(20);

/// The right to be the only `dev` in a folder. Dropping it takes the address away.
#[derive(Debug)]
pub(super) struct Claim {
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// Makes `.sandmill` below a folder where there is none, and claims it.
    pub(super) fn take(within: &Path) -> anyhow::Result<Claim> {
        let folder = within.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::write(folder.join(".gitignore"), "*\n").with_context(|| format!("write to {}", folder.display()))?;
        let path = folder.join(LOCK);
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.with_context(|| format!("open {}", path.display()))?;
        for attempt in 1.. {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => std::thread::sleep(RETRY),
                Err(TryLockError::WouldBlock) => {
                    bail!(
                        "`sandmill dev` runs in this folder already; its database is found by all commands started here"
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
        }
        Ok(Claim { folder, _lock: lock })
    }

    /// Where the private server's data is kept.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Lets other commands find the database.
    pub(super) fn publish(&self, address: &str) -> anyhow::Result<()> {
        let unfinished = self.folder.join(".address");
        let path = self.folder.join(ADDRESS);
        // Whoever reads it reads all of it.
        fs::write(&unfinished, format!("{address}\n"))
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that stays is found to be stale.
        let _ = fs::remove_file(self.folder.join(ADDRESS));
    }
}

/// The address of the `dev` that runs in a folder or above it, if one does. What belongs to another user is not trusted to name a database.
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
        let is_held = match File::open(folder.join(LOCK)).map(|lock| lock.try_lock_shared()) {
            Ok(Err(TryLockError::WouldBlock)) => true,
            Ok(Ok(()) | Err(TryLockError::Error(_))) | Err(_) => false,
        };
        if is_held {
            return Ok(Some(address.trim().to_owned()));
        }
        bail!(
            "`sandmill dev` is not running in {}: {} is left from one that was killed\nStart it there again, or name a database with \
             DATABASE_URL or --database-url.",
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
    fn an_address_is_found_from_below_as_long_as_it_is_good() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        assert_eq!(find(&below).unwrap(), None);
        let claim = Claim::take(root.path()).unwrap();
        assert_eq!(find(&below).unwrap(), None);
        claim.publish("host=x").unwrap();
        assert_eq!(find(&below).unwrap().as_deref(), Some("host=x"));
        assert!(Claim::take(root.path()).unwrap_err().to_string().contains("runs in this folder already"));
        assert_eq!(fs::read_to_string(root.path().join(".sandmill/.gitignore")).unwrap(), "*\n");
        drop(claim);
        assert_eq!(find(&below).unwrap(), None);

        fs::write(root.path().join(".sandmill/address"), "host=gone").unwrap();
        // A process that another test begins holds what this one has open, its lock too, until it is what it was begun for.
        let began = std::time::Instant::now();
        let stale = loop {
            match find(&below) {
                Err(stale) => break stale.to_string(),
                Ok(found) => assert!(began.elapsed().as_secs() < 300, "{found:?}"),
            }
            std::thread::yield_now();
        };
        assert!(stale.contains("`sandmill dev` is not running in") && stale.contains("name a database"), "{stale}");
        Claim::take(root.path()).unwrap().publish("host=new").unwrap();
    }
}
