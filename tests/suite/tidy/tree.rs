//! The repository's text files.

use std::{fs, path::Path};

/// A text file, its path relative to the repository's root.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// Its lines, numbered from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    pub(super) fn is(&self, ending: &str) -> bool {
        self.path.ends_with(ending)
    }

    /// Whether it lies in one of these directories.
    pub(super) fn within(&self, directories: &[&str]) -> bool {
        directories.iter().any(|directory| Path::new(&self.path).starts_with(directory))
    }
}

/// All text files in the order of their paths, except those of git, cargo's build directory and
/// `sandmill dev`.
pub(super) fn files() -> Vec<File> {
    let root = sandmill_tests::host::root();
    let mut files = Vec::new();
    walk(&root, &root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "the repository is at {}, but it has {} files only", root.display(), files.len());
    files
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        // `.git` may also be a file, in a linked work tree.
        if name == ".git" || name == "target" || name == ".sandmill" {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files);
        } else if let Some(text) = fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            let path = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.push(File { path, text });
        }
    }
}
