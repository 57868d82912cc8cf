//! The language of a plugin, detected from the files in its folder. A folder with a crate is Rust,
//! no matter what else it contains. Scripts are recognized by their entry file, so a package.json
//! or a pyproject.toml is optional.

use std::{fmt, path::Path, str::FromStr};

/// A language of plugins that can be built here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// A crate, compiled for WebAssembly.
    Rust,
    /// `plugin.js`, combined with QuickJS.
    JavaScript,
    /// `plugin.py`, combined with CPython.
    Python,
}

impl Language {
    const ALL: [Language; 3] = [Language::Rust, Language::JavaScript, Language::Python];

    /// The language of the plugin in a folder.
    pub(super) fn of(dir: &Path) -> Option<Language> {
        Language::ALL.into_iter().find(|language| dir.join(language.entry()).is_file())
    }

    /// The file that marks a plugin's folder.
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
    fn the_language_is_detected_from_the_entry_file() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(Language::of(here.path()), None);
        for (file, language) in
            [("plugin.py", Language::Python), ("plugin.js", Language::JavaScript), ("Cargo.toml", Language::Rust)]
        {
            std::fs::write(here.path().join(file), "").unwrap();
            assert_eq!(Language::of(here.path()), Some(language), "{file} takes precedence");
        }
    }
}
