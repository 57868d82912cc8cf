//! What an entry of the plugins folder is by its name: pure.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use crate::model::text;

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// Left alone.
    Hidden,
    /// A plugin's component, by its name without the ending.
    Component(&'a str),
    /// A manifest, signature or error file of a component that is there.
    Companion,
    /// The error file of a plugin that is not there.
    LeftOver(&'a str),
    /// Something that somebody may have meant to be one of these.
    Wrong {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A folder, or nothing of ours.
    Other,
}

/// The endings of what lies beside a component, with what it is.
const COMPANIONS: [(&str, &str); 3] =
    [(".toml", "a manifest"), (".wasm.sig", "a signature"), (".wasm.error", "an error file")];

impl Entry<'_> {
    /// What an entry is, and whether there is another one of a name.
    pub(super) fn of(name: &OsStr, is_folder: bool, is_there: impl Fn(&str) -> bool) -> Entry<'_> {
        let bytes = name.as_bytes();
        if bytes.starts_with(b".") {
            return Entry::Hidden;
        }
        let readable = name.to_str().filter(|name| !name.contains(text::is_unsafe));
        let Some(name) = readable else {
            let lower = bytes.to_ascii_lowercase();
            let means_plugin = lower.ends_with(b".wasm");
            return if means_plugin { wrong("its name is not printable UTF-8", "rename it") } else { Entry::Other };
        };
        if let Some(stem) = name.strip_suffix(".wasm") {
            return Entry::Component(stem);
        }
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(".wasm") {
            let right = format!("{}.wasm", &name[..name.len() - ".wasm".len()]);
            return wrong("its extension is not in lower case", format!("rename it to {right}"));
        }
        for (ending, what) in COMPANIONS {
            if !lower.ends_with(ending) {
                continue;
            }
            let (stem, written) = name.split_at(name.len() - ending.len());
            let component = format!("{stem}.wasm");
            return match (is_there(&component), ending) {
                (true, _) if written != ending => wrong(
                    "its extension is not in lower case, so it is not read",
                    format!("rename it to {stem}{ending}"),
                ),
                (_, ".wasm.error") if is_folder => {
                    wrong(format!("a folder where the host writes why {component} does not run"), "remove or rename it")
                }
                (true, _) => Entry::Companion,
                (false, ".wasm.error") => Entry::LeftOver(stem),
                (false, _) => wrong(
                    format!("{what} without its component, {component}"),
                    "put the component beside it, or remove it",
                ),
            };
        }
        Entry::Other
    }
}

fn wrong(problem: impl Into<String>, remedy: impl Into<String>) -> Entry<'static> {
    Entry::Wrong { problem: problem.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &[u8], others: &[&str]) -> String {
        match Entry::of(OsStr::from_bytes(name), name.ends_with(b"/"), |other| others.contains(&other)) {
            Entry::Wrong { problem, remedy } => format!("{problem}; {remedy}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn names_that_were_meant_otherwise_say_what_to_do() {
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
