//! Differences between documents, one line each: the document's id, a JSON pointer into it, and
//! both values.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

/// The differences between expected documents and found ones. Empty if there are none.
pub(super) fn documents(expected: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> String {
    let mut lines = String::new();
    for (id, expected) in expected {
        match found.get(id) {
            Some(found) => values(id, &mut String::new(), expected, found, &mut lines),
            None => line(&mut lines, format_args!("{id}: expected {expected}, found no document")),
        }
    }
    for (id, found) in found.iter().filter(|(id, _)| !expected.contains_key(*id)) {
        line(&mut lines, format_args!("{id}: expected no document, found {found}"));
    }
    lines
}

fn values(id: &str, pointer: &mut String, expected: &Value, found: &Value, lines: &mut String) {
    let here = pointer.len();
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, expected) in expected {
                let _ = write!(pointer, "/{key}");
                match found.get(key) {
                    Some(found) => values(id, pointer, expected, found, lines),
                    None => line(lines, format_args!("{id} {pointer}: expected {expected}, found nothing")),
                }
                pointer.truncate(here);
            }
            for (key, found) in found.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                line(lines, format_args!("{id} {pointer}/{key}: expected nothing, found {found}"));
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                let _ = write!(pointer, "/{index}");
                values(id, pointer, expected, found, lines);
                pointer.truncate(here);
            }
        }
        _ if expected == found => {}
        _ => line(lines, format_args!("{id} {pointer}: expected {expected}, found {found}")),
    }
}

fn line(lines: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(lines, "  {text}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_has_a_line_with_its_pointer() {
        let texts = |pairs: &[(&str, Value)]| pairs.iter().map(|(id, value)| (id.to_string(), value.clone())).collect();
        let expected = texts(&[
            ("a", json!({"n": 1, "in": {"x": [1, 2]}, "gone": true})),
            ("b", json!({"n": 1})),
            ("c", json!({"n": 1})),
        ]);
        let found = texts(&[
            ("a", json!({"n": 2, "in": {"x": [1, 3]}, "more": null})),
            ("c", json!({"n": 1})),
            ("d", json!({})),
        ]);
        let lines = documents(&expected, &found);
        let mut lines: Vec<&str> = lines.lines().collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "  a /gone: expected true, found nothing",
                "  a /in/x/1: expected 2, found 3",
                "  a /more: expected nothing, found null",
                "  a /n: expected 1, found 2",
                r#"  b: expected {"n":1}, found no document"#,
                "  d: expected no document, found {}",
            ]
        );
        assert_eq!(documents(&expected, &expected), "");
    }
}
