//! The kinds of entries in the plugins folder, recognized by their names. Pure.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use crate::model::text;

/// The kind of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FolderEntry<'a> {
    /// An ignored entry.
    Hidden,
    /// A component, by its name without the extension.
    Component(&'a str),
    /// The manifest, signature or error file of an existing component.
    Companion,
    /// The error file of a missing component, by the component's name without the extension.
    LeftOver(&'a str),
    /// An entry that was probably meant to be one of the above.
    Misnamed {
        /// The problem.
        problem: String,
        /// The remedy.
        remedy: String,
    },
    /// A folder or an unrelated file.
    Other,
}

/// The extensions of files beside a component, and what they are.
const COMPANIONS: [(&str, &str); 3] =
    [(".toml", "a manifest"), (".wasm.sig", "a signature"), (".wasm.error", "an error file")];

impl FolderEntry<'_> {
    /// The kind of an entry. `exists` returns whether the folder has an entry of a name.
    pub(super) fn of(name: &OsStr, is_folder: bool, exists: impl Fn(&str) -> bool) -> FolderEntry<'_> {
        let bytes = name.as_bytes();
        if bytes.starts_with(b".") {
            return FolderEntry::Hidden;
        }
        let readable = name.to_str().filter(|name| !name.contains(text::is_unsafe));
        let Some(name) = readable else {
            let lower = bytes.to_ascii_lowercase();
            let is_component = lower.ends_with(b".wasm");
            return if is_component {
                misnamed("its name is not printable UTF-8", "rename it")
            } else {
                FolderEntry::Other
            };
        };
        if let Some(stem) = name.strip_suffix(".wasm") {
            return FolderEntry::Component(stem);
        }
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(".wasm") {
            let right = format!("{}.wasm", &name[..name.len() - ".wasm".len()]);
            return misnamed("its extension is not in lower case", format!("rename it to {right}"));
        }
        for (ending, what) in COMPANIONS {
            if !lower.ends_with(ending) {
                continue;
            }
            let (stem, written) = name.split_at(name.len() - ending.len());
            let component = format!("{stem}.wasm");
            return match (exists(&component), ending) {
                (true, _) if written != ending => misnamed(
                    "its extension is not in lower case, so it is not read",
                    format!("rename it to {stem}{ending}"),
                ),
                (_, ".wasm.error") if is_folder => misnamed(
                    format!("a folder where the host writes why {component} does not run"),
                    "remove or rename it",
                ),
                (true, _) => FolderEntry::Companion,
                (false, ".wasm.error") => FolderEntry::LeftOver(stem),
                (false, _) => misnamed(
                    format!("{what} without its component, {component}"),
                    "put the component beside it, or remove it",
                ),
            };
        }
        FolderEntry::Other
    }
}

fn misnamed(problem: impl Into<String>, remedy: impl Into<String>) -> FolderEntry<'static> {
    FolderEntry::Misnamed { problem: problem.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &[u8], others: &[&str]) -> String {
        match FolderEntry::of(OsStr::from_bytes(name), name.ends_with(b"/"), |other| others.contains(&other)) {
            FolderEntry::Misnamed { problem, remedy } => format!("{problem}; {remedy}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn each_kind_of_name_is_recognized_and_a_misnamed_one_has_a_remedy() {
        assert_eq!(of(b".a.wasm", &[]), "Hidden");
        assert_eq!(of(b"a.wasm", &[]), "Component(\"a\")");
        assert_eq!(of(b"a.toml", &["a.wasm"]), "Companion");
        assert_eq!(of(b"a.wasm.sig", &["a.wasm"]), "Companion");
        assert_eq!(of(b"a.wasm.error", &["a.wasm"]), "Companion");
        assert_eq!(of(b"a.wasm.error", &[]), "LeftOver(\"a\")");
        assert_eq!(of(b"acme", &[]), "Other");
        assert_eq!(of(b"notes.txt", &[]), "Other");
        assert_eq!(of(b"X.WASM", &[]), "its extension is not in lower case; rename it to X.wasm");
        assert_eq!(
            of(b"a.Toml", &["a.wasm"]),
            "its extension is not in lower case, so it is not read; rename it to a.toml"
        );
        assert_eq!(
            of(b"a.toml", &[]),
            "a manifest without its component, a.wasm; put the component beside it, or remove it"
        );
        assert_eq!(
            of(b"a.wasm.sig", &[]),
            "a signature without its component, a.wasm; put the component beside it, or remove it"
        );
        for name in [&b"r\xe9d.wasm"[..], b"a\nb.wasm", "a\u{202e}b.wasm".as_bytes()] {
            assert_eq!(of(name, &[]), "its name is not printable UTF-8; rename it");
        }
        assert_eq!(of(b"r\xe9d", &[]), "Other");
    }
}
