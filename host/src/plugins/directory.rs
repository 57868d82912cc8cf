//! The plugins folder: which files in it are meant to be plugins.
//!
//! `NAME.wasm` is one, in the order of names. Anything else is left alone; what looks like one and cannot be read is reported, and
//! never keeps the others from running.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A file that is meant to be a plugin.
#[derive(Debug)]
pub struct PluginFile {
    /// Its name without `.wasm`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Lists the plugins in a folder.
pub fn scan(folder: &Path) -> io::Result<Vec<PluginFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let is_wasm = path.extension().is_some_and(|extension| extension == "wasm");
        // Editors and copying tools put their unfinished files beside the real one, with a dot in front.
        if let Some(name) = name
            && is_wasm
            && !name.starts_with('.')
        {
            files.push(PluginFile { name: name.to_string(), path });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wasm_files_count_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.wasm", "a.wasm", ".hidden.wasm", "notes.txt", "c.wasm.error"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<String> = scan(folder.path()).unwrap().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(scan(&folder.path().join("nowhere")).is_err());
    }
}
