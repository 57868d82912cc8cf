//! The target directory that the plugins of a user share, so that the SDK and the other
//! dependencies are compiled once and not once per plugin.
//!
//! Cargo does not expect unrelated packages in one target directory. It names the library of every
//! package that is called `a`, or has a library of this name, `a.wasm`. And it compares times of
//! files: another folder's library counts as current if it is newer than this folder's sources. So
//! the file in which the last build's folder is recorded decides. If that was another folder, its
//! library is removed, which makes cargo build it again. [`Package::is_alone`] excludes packages
//! with other parts that could be confused.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{BuildError, Children, RustToolchain, cache, cargo, package::Package};

/// The shared target directory, reserved for one build.
pub(super) struct SharedTarget {
    dir: PathBuf,
    _lock: cache::Lock,
}

impl SharedTarget {
    /// Waits for the directory. None if the package must not use it, or if there is none here.
    pub(super) fn take(package: &Package, children: &Children, report: &mut dyn FnMut(&str)) -> Option<Self> {
        if !package.is_alone || chosen_by_variable() {
            return None;
        }
        Self::lock(cache::folder("target")?, children, report).ok()
    }

    fn lock(dir: PathBuf, children: &Children, report: &mut dyn FnMut(&str)) -> io::Result<Self> {
        let lock =
            cache::Lock::take(&dir.join(".builds.lock"), "Waiting for another build of a plugin", children, report)?;
        Ok(SharedTarget { dir, _lock: lock })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Builds the package in `dir`, and returns its module. None if cargo took over a library whose
    /// origin is unknown, which must not be used.
    pub(super) fn build(
        &self,
        package: &Package,
        dir: &Path,
        toolchain: &RustToolchain,
        children: &Children,
    ) -> Result<Option<Vec<u8>>, BuildError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::File { verb: "write", path, source }
        };
        let record = self.dir.join(format!(".{}.folder", package.library));
        let owner = identity(dir).map_err(|source| BuildError::File { verb: "read", path: dir.to_owned(), source })?;
        let is_own = fs::read(&record).is_ok_and(|last| last == owner);
        if !is_own {
            // In this order, so that an interrupted build leaves no library with a wrong record.
            let release = self.dir.join(toolchain.target().to_string()).join("release");
            let file = format!("{}.wasm", package.library);
            for path in [record.clone(), release.join(&file), release.join("deps").join(&file)] {
                remove(&path).map_err(failed(&path))?;
            }
        }
        let built = cargo::build(package, dir, toolchain, Some(&self.dir), children)?;
        if !is_own && built.is_fresh {
            return Ok(None);
        }
        let module = built.read()?;
        if !is_own {
            fs::write(&record, owner).map_err(failed(&record))?;
        }
        Ok(Some(module))
    }
}

/// Whether the user has chosen a target directory for all builds. A choice in cargo's configuration
/// shows in the package's own target directory.
fn chosen_by_variable() -> bool {
    ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"].iter().any(|name| std::env::var_os(name).is_some())
}

/// The identity of a folder: its canonical path, and what distinguishes it from a folder that was
/// at this path before.
fn identity(dir: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(dir)?;
    let mut identity = dir.as_os_str().as_encoded_bytes().to_vec();
    let born = found.created().ok();
    identity.extend(format!("\n{} {} {born:?}\n", found.dev(), found.ino()).bytes());
    Ok(identity)
}

/// Removes a file that may be missing.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_replaces_another_is_not_mistaken_for_it() {
        let here = tempfile::tempdir().unwrap();
        let (dir, kept) = (here.path().join("a"), here.path().join("kept"));
        fs::create_dir(&dir).unwrap();
        let before = identity(&dir).unwrap();
        fs::write(dir.join("Cargo.toml"), "").unwrap();
        assert_eq!(identity(&dir).unwrap(), before, "editing it changes nothing");
        // The first one is kept, so that its number is not used again.
        fs::rename(&dir, &kept).unwrap();
        fs::create_dir(&dir).unwrap();
        assert_ne!(identity(&dir).unwrap(), before);
        assert_ne!(identity(&kept).unwrap(), before);
    }
}
