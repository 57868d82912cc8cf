//! Changes of documents as text and as JSON, bounded.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    model::text,
    rehearsal::{Excerpt, ValueDifference, replay::DocumentChange},
};

/// Documents that are shown of one event.
const SHOWN: usize = 10;

/// A change of one document.
#[derive(Serialize)]
pub(super) struct ChangeJson<'a> {
    collection: &'a str,
    id: &'a str,
    change: &'static str,
    differences: Excerpt<DifferenceJson>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    whole: Option<WholeJson>,
}

/// The texts of a document, as a whole.
#[derive(Serialize)]
struct WholeJson {
    before: Option<Box<RawValue>>,
    after: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct DifferenceJson {
    path: String,
    before: Option<String>,
    after: Option<String>,
}

impl<'a> ChangeJson<'a> {
    /// A change, with the texts of the whole document if `whole` is set.
    pub(super) fn of(change: &'a DocumentChange, whole: bool) -> Self {
        let Excerpt { total, first } = change.differences();
        let difference =
            |ValueDifference { path, expected, found }| DifferenceJson { path, before: expected, after: found };
        // Documents are JSON: they were checked when they were written.
        let raw = |text: &Option<std::sync::Arc<str>>| RawValue::from_string(text.as_ref()?.to_string()).ok();
        ChangeJson {
            collection: change.collection.as_str(),
            id: &change.id,
            change: kind(change),
            differences: Excerpt { total, first: first.into_iter().map(difference).collect() },
            whole: whole.then(|| WholeJson { before: raw(&change.before), after: raw(&change.after) }),
        }
    }
}

/// What happens to a document.
fn kind(change: &DocumentChange) -> &'static str {
    match (&change.before, &change.after) {
        _ if !change.is_before_known => "written",
        (None, _) => "created",
        (Some(_), None) => "deleted",
        (Some(_), Some(_)) => "changed",
    }
}

/// The first changes with their first differences, one a line.
pub(super) fn changes_text(changes: &[DocumentChange], indent: &str) -> String {
    let mut lines = String::new();
    let mut line = |depth: usize, text: &str| {
        lines.push_str(indent);
        lines.push_str(&"  ".repeat(depth));
        lines.push_str(&text::one_line(text));
        lines.push('\n');
    };
    for change in changes.iter().take(SHOWN) {
        line(0, &format!("{} {} {}", kind(change), change.collection, change.id));
        let Excerpt { total, first } = change.differences();
        let shown = first.len();
        for ValueDifference { path, expected, found } in first {
            let text = match (expected, found) {
                (Some(before), Some(after)) => format!("{before} -> {after}"),
                (None, Some(after)) => format!("+ {after}"),
                (Some(before), None) => format!("- {before}"),
                (None, None) => continue,
            };
            line(1, &if path.is_empty() { text } else { format!("{path}: {text}") });
        }
        if total > shown {
            line(1, &format!("and {} more differences", total - shown));
        }
    }
    if changes.len() > SHOWN {
        line(0, &format!("and {} more documents", changes.len() - SHOWN));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::CollectionName;

    fn change(id: &str, before: Option<&str>, after: Option<&str>) -> DocumentChange {
        DocumentChange {
            collection: CollectionName::parse("carts").unwrap(),
            id: id.into(),
            before: before.map(Into::into),
            is_before_known: true,
            after: after.map(Into::into),
        }
    }

    #[test]
    fn changes_are_lines_with_the_differences_of_each_document() {
        let changes = [
            change("a", Some(r#"{"n":1,"x":[1],"gone":0}"#), Some(r#"{"n":2,"x":[1,"y"]}"#)),
            change("b\u{1b}", None, Some("{}")),
            change("c", Some("{}"), None),
            DocumentChange { is_before_known: false, ..change("d", None, Some("{}")) },
        ];
        assert_eq!(
            changes_text(&changes, "  "),
            "  changed carts a\n    /gone: - 0\n    /n: 1 -> 2\n    /x/1: + \"y\"\n  created carts b\u{fffd}\n    + {}\n  \
             deleted carts c\n    - {}\n  written carts d\n    + {}\n"
        );
        let many = vec![change("a", None, Some("{}")); 12];
        assert!(changes_text(&many, "").ends_with("and 2 more documents\n"));
    }

    #[test]
    fn json_has_the_whole_document_only_if_asked() {
        let change = change("a", None, Some(r#"{ "n" : 1.0 }"#));
        let json = |whole| serde_json::to_string(&ChangeJson::of(&change, whole)).unwrap();
        let short = r#"{"collection":"carts","id":"a","change":"created","differences":{"total":1,"first":[{"path":"","before":null,"after":"{ \"n\" : 1.0 }"}]}"#;
        assert_eq!(json(false), format!("{short}}}"));
        assert_eq!(json(true), format!(r#"{short},"before":null,"after":{{ "n" : 1.0 }}}}"#));
    }
}
