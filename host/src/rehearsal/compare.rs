//! Comparison of documents by their values, not their spelling. Pure.
//!
//! Numbers are equal by value, to the last digit, in any notation. The order of keys and whitespace
//! do not matter. If two documents differ, a JSON pointer (RFC 6901) names the first difference in
//! the order of their keys.

use std::{collections::BTreeMap, ops::ControlFlow};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{DocumentName, NamedDocuments};

/// Items of each kind that are listed.
pub(super) const LISTED: usize = 10;
/// Length of a value that is shown, characters.
const SHOWN: usize = 200;

/// The first items of a list, and the number of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excerpt<T> {
    /// Number of items.
    pub total: usize,
    /// The first items.
    pub first: Vec<T>,
}

impl<T> Default for Excerpt<T> {
    fn default() -> Self {
        Excerpt { total: 0, first: Vec::new() }
    }
}

impl<T> Extend<T> for Excerpt<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        for item in items {
            self.total += 1;
            if self.first.len() < LISTED {
                self.first.push(item);
            }
        }
    }
}

impl<T> FromIterator<T> for Excerpt<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut excerpt = Excerpt::default();
        excerpt.extend(items);
        excerpt
    }
}

/// The differences between expected documents and those found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Expected and not found.
    pub missing: Excerpt<DocumentName>,
    /// Found and not expected.
    pub unexpected: Excerpt<DocumentName>,
    /// Found, but with different data.
    pub differing: Excerpt<DifferingDocument>,
}

impl Comparison {
    /// Whether there is no difference.
    pub fn is_same(&self) -> bool {
        self.missing.total + self.unexpected.total + self.differing.total == 0
    }
}

/// A document whose data is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferingDocument {
    /// Its name.
    #[serde(flatten)]
    pub name: DocumentName,
    /// The first difference.
    #[serde(flatten)]
    pub difference: ValueDifference,
}

/// The first difference between two documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueDifference {
    /// A JSON pointer; empty for the whole document.
    pub path: String,
    /// The expected value, as JSON; none if no value is expected.
    pub expected: Option<String>,
    /// The value found; none if there is none.
    pub found: Option<String>,
}

/// Compares all documents.
pub(super) fn documents(expected: &NamedDocuments, found: &NamedDocuments) -> Comparison {
    let without = |some: &NamedDocuments, others: &NamedDocuments| -> Excerpt<DocumentName> {
        some.keys().filter(|name| !others.contains_key(*name)).cloned().collect()
    };
    let both = expected.iter().filter_map(|(name, expected)| Some((name, expected, found.get(name)?)));
    let differing = both.filter_map(|(name, expected, found)| {
        let difference = first_difference(expected, found)?;
        Some(DifferingDocument { name: name.clone(), difference })
    });
    Comparison {
        differing: differing.collect(),
        missing: without(expected, found),
        unexpected: without(found, expected),
    }
}

/// The first difference between two JSON texts; none if their values are equal.
fn first_difference(expected: &str, found: &str) -> Option<ValueDifference> {
    if expected == found {
        return None;
    }
    let mut first = None;
    let _ = visit(expected, found, &mut String::new(), &mut |difference| {
        first = Some(difference);
        ControlFlow::Break(())
    });
    first
}

/// All differences between two JSON texts. A text that is missing differs as a whole.
pub(super) fn differences(expected: Option<&str>, found: Option<&str>) -> Excerpt<ValueDifference> {
    let mut differences = Excerpt::default();
    match (expected, found) {
        (Some(expected), Some(found)) => {
            let _ = visit(expected, found, &mut String::new(), &mut |difference| {
                differences.extend([difference]);
                ControlFlow::Continue(())
            });
        }
        (None, None) => {}
        (expected, found) => differences.extend([difference_at("", expected, found)]),
    }
    differences
}

/// Passes each difference between two JSON texts at this path to `each`, until that breaks.
fn visit(
    expected: &str,
    found: &str,
    path: &mut String,
    each: &mut impl FnMut(ValueDifference) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // The recursion is as deep as the shallower document, and the depth of documents is limited.
    match (JsonNode::of(expected), JsonNode::of(found)) {
        (Some(JsonNode::Object(expected)), Some(JsonNode::Object(found))) => {
            let keys: BTreeMap<&String, ()> = expected.keys().chain(found.keys()).map(|key| (key, ())).collect();
            keys.keys().try_for_each(|key| {
                let step = key.replace('~', "~0").replace('/', "~1");
                step_into(path, &step, expected.get(*key).copied(), found.get(*key).copied(), each)
            })
        }
        (Some(JsonNode::Array(expected)), Some(JsonNode::Array(found))) => (0..expected.len().max(found.len()))
            .try_for_each(|at| {
                step_into(path, &at.to_string(), expected.get(at).copied(), found.get(at).copied(), each)
            }),
        (Some(JsonNode::String(expected)), Some(JsonNode::String(found))) if expected == found => {
            ControlFlow::Continue(())
        }
        (Some(JsonNode::Number(expected)), Some(JsonNode::Number(found))) if expected == found => {
            ControlFlow::Continue(())
        }
        (Some(JsonNode::Word(expected)), Some(JsonNode::Word(found))) if expected == found => ControlFlow::Continue(()),
        _ => each(difference_at(path, Some(expected), Some(found))),
    }
}

fn step_into(
    path: &mut String,
    step: &str,
    expected: Option<&RawValue>,
    found: Option<&RawValue>,
    each: &mut impl FnMut(ValueDifference) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    let flow = match (expected, found) {
        (Some(expected), Some(found)) => visit(expected.get(), found.get(), path, each),
        (expected, found) => each(difference_at(path, expected.map(RawValue::get), found.map(RawValue::get))),
    };
    path.truncate(length);
    flow
}

fn difference_at(path: &str, expected: Option<&str>, found: Option<&str>) -> ValueDifference {
    let show = |text: &str| match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    };
    ValueDifference { path: path.into(), expected: expected.map(show), found: found.map(show) }
}

/// A JSON text parsed by one level.
enum JsonNode<'a> {
    Object(BTreeMap<String, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    String(String),
    Number(DecimalNumber),
    /// `true`, `false` or `null`.
    Word(&'a str),
}

/// A decimal number in normal form: 0.`digits` times ten to the `exponent`, with no zero at either
/// end of the digits.
#[derive(PartialEq)]
struct DecimalNumber {
    negative: bool,
    digits: String,
    exponent: i128,
}

impl<'a> JsonNode<'a> {
    fn of(text: &'a str) -> Option<JsonNode<'a>> {
        let text = text.trim_ascii();
        match text.as_bytes().first()? {
            b'{' => serde_json::from_str(text).ok().map(JsonNode::Object),
            b'[' => serde_json::from_str(text).ok().map(JsonNode::Array),
            b'"' => serde_json::from_str(text).ok().map(JsonNode::String),
            b't' | b'f' | b'n' => Some(JsonNode::Word(text)),
            _ => DecimalNumber::of(text).map(JsonNode::Number),
        }
    }
}

impl DecimalNumber {
    fn of(text: &str) -> Option<DecimalNumber> {
        let (negative, amount) = text.strip_prefix('-').map_or((false, text), |amount| (true, amount));
        let (mantissa, exponent) = amount.split_once(['e', 'E']).unwrap_or((amount, "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent: i64 = exponent.parse().ok()?;
        let digits = [integer, fraction].concat();
        let leading = digits.len() - digits.trim_start_matches('0').len();
        let digits = digits.trim_matches('0').to_string();
        if digits.is_empty() {
            return Some(DecimalNumber { negative: false, digits, exponent: 0 });
        }
        Some(DecimalNumber {
            negative,
            digits,
            exponent: i128::from(exponent) + integer.len() as i128 - leading as i128,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(expected: &str, found: &str) -> Option<(String, Option<String>, Option<String>)> {
        first_difference(expected, found).map(|ValueDifference { path, expected, found }| (path, expected, found))
    }

    #[test]
    fn spelling_and_order_do_not_matter() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\": [ true,null ],\n\"a\":1.0 }"),
            (r#"{"n":100}"#, r#"{"n":1e2}"#),
            (r#"{"n":0.00120}"#, r#"{"n":12E-4}"#),
            (r#"{"n":-0.0}"#, r#"{"n":0}"#),
            (r#"{"s":"\u00fc\n"}"#, "{\"s\":\"ü\\n\"}"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        ] {
            assert_eq!(differs(one, other), None, "{one} and {other}");
        }
    }

    #[test]
    fn the_first_difference_is_given_with_its_pointer() {
        let some = |text: &str| Some(text.to_string());
        for (one, other, path, expected, found) in [
            (r#"{"a":{"b":[1,2,3]}}"#, r#"{"a":{"b":[1,5]}}"#, "/a/b/1", some("2"), some("5")),
            (r#"{"a":[1,2]}"#, r#"{"a":[1]}"#, "/a/1", some("2"), None),
            (r#"{"b":1}"#, r#"{"a":0,"b":2}"#, "/a", None, some("0")),
            (r#"{"a/b":{"~":1}}"#, r#"{"a/b":{"~":"1"}}"#, "/a~1b/~0", some("1"), some("\"1\"")),
            ("[]", "{}", "", some("[]"), some("{}")),
            (r#"{"x":null}"#, r#"{"x":false}"#, "/x", some("null"), some("false")),
        ] {
            assert_eq!(differs(one, other), Some((path.to_string(), expected, found)), "{one} and {other}");
        }
    }

    #[test]
    fn all_differences_of_a_document_are_counted() {
        let list = |excerpt: Excerpt<ValueDifference>| {
            let line = |d: ValueDifference| format!("{} {:?} {:?}", d.path, d.expected, d.found);
            (excerpt.total, excerpt.first.into_iter().map(line).collect::<Vec<_>>().join("; "))
        };
        let (total, listed) = list(differences(Some(r#"{"a":1,"b":[1,2],"c":3}"#), Some(r#"{"a":2,"b":[1],"c":3.0}"#)));
        assert_eq!((total, &*listed), (2, r#"/a Some("1") Some("2"); /b/1 Some("2") None"#));
        assert_eq!(list(differences(None, Some("{}"))), (1, r#" None Some("{}")"#.into()));
        assert_eq!(list(differences(Some("{}"), None)), (1, r#" Some("{}") None"#.into()));
        assert_eq!(differences(None, None).total, 0);
        let many: String = (0..50).map(|n| format!("\"k{n:02}\":{n},")).collect();
        let many = differences(Some(&format!("{{{many}\"z\":0}}")), Some("{}"));
        assert_eq!((many.total, many.first.len()), (51, LISTED));
    }

    #[test]
    fn numbers_are_compared_to_the_last_digit() {
        let (one, other) = (r#"{"n":18446744073709551617}"#, r#"{"n":18446744073709551618}"#);
        assert!(differs(one, other).is_some());
        assert!(differs(r#"{"n":0.1}"#, r#"{"n":0.10000000000000001}"#).is_some());
        assert!(differs(r#"{"n":1}"#, r#"{"n":-1}"#).is_some());
        assert!(differs(r#"{"n":1}"#, r#"{"n":10}"#).is_some());
    }

    #[test]
    fn all_differences_are_counted_and_the_first_are_listed() {
        let documents = |ids: std::ops::Range<u32>, data: &str| -> NamedDocuments {
            let name =
                |id: u32| DocumentName { collection: "c".into(), tenant: "t".into(), id: format!("{id:03}").into() };
            ids.map(|id| (name(id), data.into())).collect()
        };
        let found = super::documents(&documents(0..50, r#"{"a":1}"#), &documents(20..90, r#"{"a":2}"#));
        assert_eq!((found.missing.total, found.unexpected.total, found.differing.total), (20, 40, 30));
        assert_eq!((found.missing.first.len(), &*found.missing.first[9].id), (10, "009"));
        assert_eq!((&*found.differing.first[0].name.id, &*found.differing.first[0].difference.path), ("020", "/a"));
        assert!(!found.is_same());
        assert!(super::documents(&documents(0..9, "{}"), &documents(0..9, "{ }")).is_same());
    }

    #[test]
    fn long_values_are_shortened() {
        let long = format!("{{\"a\":\"{}\"}}", "ü".repeat(900));
        let difference = first_difference(&long, r#"{"a":""}"#).unwrap();
        assert_eq!(difference.expected.map(|text| text.chars().count()), Some(SHOWN + 1));
    }
}
