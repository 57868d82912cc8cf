//! The staging of a plugin's files for a tool: a copy of the plugin's sources, and added files.

use std::{fs, io, path::Path};

/// Folders of build outputs and of the tool itself, which are large and not part of a plugin.
const LEFT_OUT: [&str; 5] = ["target", "__pycache__", "componentize-qjs", "@andreiltd", "dist"];

/// Copies a folder's files, except hidden files, built files and links.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let text = name.to_string_lossy();
        if text.starts_with('.') || LEFT_OUT.contains(&&*text) || text.ends_with(".wasm") {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(&name))?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

/// Writes a file, and creates its parent folders.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plugins_own_sources_are_copied() {
        let here = tempfile::tempdir().unwrap();
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        for file in ["plugin.js", "lib/sums.js", ".env", "target/x", "node_modules/componentize-qjs/cli.mjs", "a.wasm"]
        {
            write(&from.join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc", from.join("etc")).unwrap();
        copy(&from, &to).unwrap();
        assert!(to.join("plugin.js").is_file() && to.join("lib/sums.js").is_file());
        for absent in [".env", "target", "node_modules/componentize-qjs", "a.wasm", "etc"] {
            assert!(!to.join(absent).exists(), "{absent}");
        }
    }
}
