//! The meaning of each setting in one line: the first sentence of its field's doc comment.
//!
//! Doc comments are the only place where the meaning is written, so they are read from the sources
//! that the program was built from. A new group of settings needs a line in [`SOURCES`]. A test
//! checks that every setting has a meaning.

use super::named;

/// A group of settings, the name of its struct, and the file that declares it.
const SOURCES: [(&str, &str, &str); 12] = [
    ("", "Config", include_str!("../config.rs")),
    ("log", "Config", include_str!("../telemetry.rs")),
    ("metrics", "Config", include_str!("../admin.rs")),
    ("processor", "Config", include_str!("../processor.rs")),
    ("processors", "ProcessorSettings", include_str!("../processor/settings.rs")),
    ("failures", "FailureRule", include_str!("../processor/policy/settings.rs")),
    ("scheduler", "Config", include_str!("../scheduler/config.rs")),
    ("limits", "Limits", include_str!("../sandbox/limits.rs")),
    ("tenant-limits", "Limits", include_str!("../tenants/settings.rs")),
    ("tenants", "Settings", include_str!("../tenants/settings.rs")),
    ("compile", "Config", include_str!("../sandbox/compile.rs")),
    ("rollout", "Config", include_str!("../plugins/config.rs")),
];

/// The meaning of a setting, without the full stop; empty if its field has no doc comment.
pub(super) fn meaning(key: &str) -> String {
    let of_named = named::parts(key).map(|[group, _, setting]| match setting.rsplit_once('.') {
        Some((_, of_failures)) => ("failures", of_failures),
        None => (group, setting),
    });
    let (group, name) = of_named.or(key.rsplit_once('.')).unwrap_or(("", key));
    let source = SOURCES.iter().find(|(known, ..)| *known == group);
    let comment = source.and_then(|(_, holder, text)| doc_comment(text, holder, &name.replace('-', "_")));
    comment.unwrap_or_default().split(". ").next().unwrap_or_default().trim_end_matches('.').into()
}

/// The doc comment of a struct's public field, on one line.
fn doc_comment(text: &str, holder: &str, field: &str) -> Option<String> {
    let (_, body) = text.split_once(&format!("pub struct {holder} {{"))?;
    let (before, _) = body.split_once("\n}")?.0.split_once(&format!("    pub {field}: "))?;
    let above = before.lines().rev().map(str::trim).skip_while(|line| line.starts_with("#["));
    let mut lines: Vec<&str> = above.map_while(|line| line.strip_prefix("/// ")).collect();
    lines.reverse();
    Some(lines.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn every_setting_has_a_meaning() {
        let without: Vec<String> = keys()
            .into_iter()
            .chain(named::keys("p"))
            .map(|(key, _)| key)
            .filter(|key| meaning(key).is_empty())
            .collect();
        assert!(without.is_empty(), "give their groups a line in SOURCES: {without:?}");
        assert_eq!(meaning("limits.memory-mib"), "Linear memory of one instance, MiB");
        assert_eq!(meaning("limits.nothing"), "");
    }
}
