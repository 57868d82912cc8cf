//! Error files: `NAME.wasm.error` beside a plugin holds the reason why it does not run.
//!
//! An error file is written into the folder that the plugin was read from. A link in its place is
//! replaced or removed, never followed. If the folder is not writable, there is no error file; the
//! log has the reason once, and `sandmill plugins` shows it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::folder::beneath::{Folder, Refusal};
use crate::model::text;

/// The error files of a plugins folder.
#[derive(Debug)]
pub(super) struct ErrorFiles {
    root: PathBuf,
    /// The last text for each plugin, even if its file could not be written.
    written: BTreeMap<String, String>,
}

impl ErrorFiles {
    /// The error files of a folder. It may contain files of an earlier host.
    pub(super) fn new(root: &Path) -> Self {
        ErrorFiles { root: root.into(), written: BTreeMap::new() }
    }

    /// Writes the reason why a plugin does not run, unless its file already has this text.
    pub(super) fn write(&mut self, plugin: &str, reason: &str) {
        let reason = &*text::printable(reason);
        if self.written.get(plugin).is_some_and(|written| written == reason) {
            return;
        }
        let (tenant, name) = split(plugin);
        let written = self.folder(tenant).and_then(|folder| {
            let name = format!("{name}.wasm.error");
            // An unchanged text must not wake programs that watch the file.
            let same = folder.text(OsStr::new(&name)).is_ok_and(|text| text.strip_suffix('\n') == Some(reason));
            if same { Ok(()) } else { folder.replace(&name, format!("{reason}\n").as_bytes()) }
        });
        match written {
            Ok(()) => {}
            // The host is short of file descriptors or memory: the next call tries again.
            Err(Refusal::Short(_)) => return,
            Err(error) => tracing::debug!(plugin, "cannot write its error file: {error}"),
        }
        self.written.insert(plugin.into(), reason.into());
    }

    /// Removes a plugin's error file, if there is one.
    pub(super) fn remove(&mut self, plugin: &str) {
        self.written.remove(plugin);
        let (tenant, name) = split(plugin);
        if let Ok(folder) = self.folder(tenant) {
            folder.remove(&format!("{name}.wasm.error"));
        }
    }

    fn folder(&self, tenant: Option<&str>) -> Result<Folder, Refusal> {
        let root = Folder::open(&self.root)?;
        match tenant {
            Some(tenant) => root.tenant(OsStr::new(tenant)),
            None => Ok(root),
        }
    }
}

fn split(plugin: &str) -> (Option<&str>, &str) {
    plugin.split_once('/').map_or((None, plugin), |(tenant, name)| (Some(tenant), name))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_in_the_place_of_an_error_file_is_replaced_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("mallory")).unwrap();
        fs::write(path("theirs"), "precious").unwrap();
        let links = ["mallory/a.wasm.error", "mallory/.a.wasm.error.unfinished", "mallory/b.wasm.error"];
        for link in links {
            symlink("../theirs", path(link)).unwrap();
        }
        let mut errors = ErrorFiles::new(root.path());
        errors.write("mallory/a", "no component");
        errors.remove("mallory/b");
        assert_eq!(fs::read_to_string(path("theirs")).unwrap(), "precious");
        assert!(fs::symlink_metadata(path("mallory/a.wasm.error")).unwrap().is_file());
        assert_eq!(fs::read_to_string(path("mallory/a.wasm.error")).unwrap(), "no component\n");
        assert!(fs::symlink_metadata(path("mallory/b.wasm.error")).is_err());
        // A pipe is neither read nor written to.
        assert!(std::process::Command::new("mkfifo").arg(path("mallory/c.wasm.error")).status().unwrap().success());
        errors.write("mallory/c", "no component");
        assert_eq!(fs::read_to_string(path("mallory/c.wasm.error")).unwrap(), "no component\n");
        // Nothing is written where a tenant's folder is a link elsewhere.
        fs::create_dir(path("acme")).unwrap();
        symlink("acme", path("eve")).unwrap();
        errors.write("eve/a", "no component");
        assert_eq!(fs::read_dir(path("acme")).unwrap().count(), 0);
    }
}
