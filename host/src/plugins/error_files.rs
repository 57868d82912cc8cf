//! The files beside plugins that say why they do not run: `NAME.wasm.error`.
//!
//! They are written into the folder that the plugin was read from, by the same rules: a link that somebody put there is replaced or removed, never
//! followed. Where a folder cannot be written to, nothing is lost but the file: the log has the reason once, and `sandmill plugins` shows it.

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
    /// What was written beside which plugin, or could not be.
    written: BTreeMap<String, String>,
}

impl ErrorFiles {
    /// Those of a folder, in which an earlier host may have left some.
    pub(super) fn new(root: &Path) -> Self {
        ErrorFiles { root: root.into(), written: BTreeMap::new() }
    }

    /// Says beside a plugin why it does not run, unless that is what it says already.
    pub(super) fn write(&mut self, plugin: &str, why: &str) {
        let why = &*text::printable(why);
        if self.written.get(plugin).is_some_and(|written| written == why) {
            return;
        }
        let (tenant, name) = split(plugin);
        let written = self.folder(tenant).and_then(|folder| {
            let name = format!("{name}.wasm.error");
            // Whoever waits for a change of the file is not woken by the same again.
            let same = folder.text(OsStr::new(&name)).is_ok_and(|there| there.strip_suffix('\n') == Some(why));
            if same { Ok(()) } else { folder.replace(&name, format!("{why}\n").as_bytes()) }
        });
        match written {
            Ok(()) => {}
            // The next time may be better.
            Err(Refusal::Short(_)) => return,
            Err(why) => tracing::debug!(plugin, "its error file is not written: {why}"),
        }
        self.written.insert(plugin.into(), why.into());
    }

    /// Removes what is said beside a plugin; mostly there is nothing.
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
    fn links_in_the_place_of_an_error_file_are_replaced_and_not_followed() {
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
        // Nor is anything written where a tenant's folder is a link elsewhere.
        fs::create_dir(path("acme")).unwrap();
        symlink("acme", path("eve")).unwrap();
        errors.write("eve/a", "no component");
        assert_eq!(fs::read_dir(path("acme")).unwrap().count(), 0);
    }
}
