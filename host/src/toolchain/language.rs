//! Which language a plugin is written in, told from the files in its folder. A crate is Rust whatever else lies beside it; the others are named by
//! the one file that they begin with, so that a package.json or a pyproject.toml may be there or not.

use std::{fmt, path::Path, str::FromStr};

/// A language that plugins are built of here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// A crate, compiled for WebAssembly.
    Rust,
    /// `plugin.js`, together with QuickJS.
    JavaScript,
    /// `plugin.py`, together with CPython.
    Python,
}

impl Language {
    const ALL: [Language; 3] = [Language::Rust, Language::JavaScript, Language::Python];

    /// The language of the plugin in a folder.
    pub(super) fn of(dir: &Path) -> Option<Language> {
        Language::ALL.into_iter().find(|language| dir.join(language.entry()).is_file())
    }

    /// The file that a plugin's folder has.
    pub(super) fn entry(self) -> &'static str {
        match self {
            Language::Rust => "Cargo.toml",
            Language::JavaScript => "plugin.js",
            Language::Python => "plugin.py",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::Rust => "Rust",
            Language::JavaScript => "JavaScript",
            Language::Python => "Python",
        })
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rust" => Ok(Language::Rust),
            "js" | "javascript" => Ok(Language::JavaScript),
            "python" | "py" => Ok(Language::Python),
            _ => Err("choose among rust, js and python".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_tells_its_language() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(Language::of(here.path()), None);
        for (file, language) in
            [("plugin.py", Language::Python), ("plugin.js", Language::JavaScript), ("Cargo.toml", Language::Rust)]
        {
            std::fs::write(here.path().join(file), "").unwrap();
            assert_eq!(Language::of(here.path()), Some(language), "{file} goes before the others");
        }
    }
}
