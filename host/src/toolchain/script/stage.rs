//! Laying a plugin's files out for a tool: a copy of what belongs to the plugin, and what is put beside it.

use std::{fs, io, path::Path};

/// Built or fetched for the build itself, and large: nothing that a plugin is made of.
const LEFT_OUT: [&str; 5] = ["target", "__pycache__", "componentize-qjs", "@andreiltd", "dist"];

/// Copies a folder's files, all but what is hidden, built or a link.
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

/// Writes a file, and makes the folders that lead to it.
pub(super) fn lay(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_is_made_of_is_copied() {
        let here = tempfile::tempdir().unwrap();
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        for file in ["plugin.js", "lib/sums.js", ".env", "target/x", "node_modules/componentize-qjs/cli.mjs", "a.wasm"]
        {
            lay(&from.join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc", from.join("etc")).unwrap();
        copy(&from, &to).unwrap();
        assert!(to.join("plugin.js").is_file() && to.join("lib/sums.js").is_file());
        for absent in [".env", "target", "node_modules/componentize-qjs", "a.wasm", "etc"] {
            assert!(!to.join(absent).exists(), "{absent}");
        }
    }
}
