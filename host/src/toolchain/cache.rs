//! The part of the user's cache that all plugins share: a target directory and installed tools.
//!
//! All of it can be deleted at any time; the next build then takes longer. Builds that run at once
//! take turns by locks on files, which end with their process.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::Children;
use crate::model::user_cache::user_cache;

/// Time between two attempts to take a lock that another process holds.
const LOOK: Duration = Duration::from_millis(50);

/// A folder in the user's cache, created if it is missing. None if the user has no cache, or one
/// that is read-only or open to other users.
pub(super) fn folder(name: &str) -> Option<PathBuf> {
    folder_in(&user_cache()?, name)
}

fn folder_in(cache: &Path, name: &str) -> Option<PathBuf> {
    let folder = cache.join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    let is_private = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        (found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0).then_some(())
    };
    is_private(cache).and_then(|()| is_private(&folder))?;
    // Found out now, as an error in the middle of a build would be another tool's.
    tempfile::tempfile_in(&folder).ok()?;
    Some(folder)
}

/// An exclusive lock, held until it is dropped.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock on a file, which is created if it is missing. If that takes time,
    /// `waiting` is reported once.
    pub(super) fn take(
        path: &Path,
        waiting: &str,
        children: &Children,
        report: &mut dyn FnMut(&str),
    ) -> io::Result<Lock> {
        let file = File::options().create(true).append(true).open(path)?;
        let mut is_reported = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if children.is_ended() => {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "the build was ended"));
                }
                Err(TryLockError::WouldBlock) => {
                    if !is_reported {
                        report(waiting);
                        is_reported = true;
                    }
                    thread::sleep(LOOK);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_cache_that_others_can_write_to_is_not_used() {
        let here = tempfile::tempdir().unwrap();
        let cache = here.path().join("new/sandmill");
        assert_eq!(folder_in(&cache, "tools"), Some(cache.join("tools")));
        assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(folder_in(&cache, "tools"), None);
    }

    #[test]
    fn a_cache_that_cannot_be_made_is_not_used() {
        let here = tempfile::tempdir().unwrap();
        fs::write(here.path().join("file"), "").unwrap();
        assert_eq!(folder_in(&here.path().join("file/sandmill"), "tools"), None);
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("lock");
        let held = Lock::take(&path, "waiting", &Children::default(), &mut |_| {}).unwrap();

        // Without patience, a second one reports that it waits, and returns.
        let (ended, mut reported) = (Children::default(), Vec::new());
        let lock = {
            let end = ended.clone();
            Lock::take(&path, "waiting", &ended, &mut |line| {
                reported.push(line.to_owned());
                end.end();
            })
        };
        assert_eq!(lock.err().map(|error| error.kind()), Some(io::ErrorKind::Interrupted));
        assert_eq!(reported, ["waiting"]);

        // With patience, it gets the lock when that is free.
        let mut held = Some(held);
        Lock::take(&path, "waiting", &Children::default(), &mut |_| held = None).unwrap();
    }
}
