//! Documents compared by what they say and not by how they are written: pure.
//!
//! Numbers are equal by value, to the last digit, however they are spelt; the order of keys and the space between them say nothing. Where two
//! documents differ, the first place in the order of their keys is named as a JSON pointer (RFC 6901).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Documents, Name};

/// How many of each kind are listed.
pub(super) const LISTED: usize = 10;
/// How much of a value is shown, characters.
const SHOWN: usize = 200;

/// The first of many, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// How many.
    pub total: usize,
    /// The first of them.
    pub first: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { total: 0, first: Vec::new() }
    }
}

impl<T> Extend<T> for Listed<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        for item in items {
            self.total += 1;
            if self.first.len() < LISTED {
                self.first.push(item);
            }
        }
    }
}

impl<T> FromIterator<T> for Listed<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut listed = Listed::default();
        listed.extend(items);
        listed
    }
}

/// How documents differ from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Expected and not there.
    pub missing: Listed<Name>,
    /// There and not expected.
    pub unexpected: Listed<Name>,
    /// There, but otherwise.
    pub differing: Listed<Differing>,
}

impl Comparison {
    /// Whether there is no difference.
    pub fn is_same(&self) -> bool {
        self.missing.total + self.unexpected.total + self.differing.total == 0
    }
}

/// A document that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Differing {
    /// Which.
    #[serde(flatten)]
    pub name: Name,
    /// Where first.
    #[serde(flatten)]
    pub place: Place,
}

/// The first place where two documents differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// A JSON pointer; empty for the whole document.
    pub path: String,
    /// What is expected there, as JSON; none where nothing is.
    pub expected: Option<String>,
    /// What is there.
    pub found: Option<String>,
}

/// Compares all documents.
pub(super) fn documents(expected: &Documents, found: &Documents) -> Comparison {
    let without = |some: &Documents, others: &Documents| -> Listed<Name> {
        some.keys().filter(|name| !others.contains_key(*name)).cloned().collect()
    };
    let both = expected.iter().filter_map(|(name, expected)| Some((name, expected, found.get(name)?)));
    let differing = both.filter_map(|(name, expected, found)| {
        let place = first_difference(expected, found)?;
        Some(Differing { name: name.clone(), place })
    });
    Comparison {
        differing: differing.collect(),
        missing: without(expected, found),
        unexpected: without(found, expected),
    }
}

/// Where two JSON texts first differ; none where they say the same.
fn first_difference(expected: &str, found: &str) -> Option<Place> {
    if expected == found { None } else { difference(expected, found, &mut String::new()) }
}

fn difference(expected: &str, found: &str, path: &mut String) -> Option<Place> {
    // Its depth is that of the shallower text, and a document is not deep.
    match (Node::of(expected), Node::of(found)) {
        (Some(Node::Object(expected)), Some(Node::Object(found))) => {
            let keys: BTreeMap<&String, ()> = expected.keys().chain(found.keys()).map(|key| (key, ())).collect();
            keys.keys().find_map(|key| {
                let step = key.replace('~', "~0").replace('/', "~1");
                step_into(path, &step, expected.get(*key).copied(), found.get(*key).copied())
            })
        }
        (Some(Node::Array(expected)), Some(Node::Array(found))) => (0..expected.len().max(found.len()))
            .find_map(|at| step_into(path, &at.to_string(), expected.get(at).copied(), found.get(at).copied())),
        (Some(Node::String(expected)), Some(Node::String(found))) if expected == found => None,
        (Some(Node::Number(expected)), Some(Node::Number(found))) if expected == found => None,
        (Some(Node::Word(expected)), Some(Node::Word(found))) if expected == found => None,
        _ => Some(place(path, Some(expected), Some(found))),
    }
}

fn step_into(path: &mut String, step: &str, expected: Option<&RawValue>, found: Option<&RawValue>) -> Option<Place> {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    let found = match (expected, found) {
        (Some(expected), Some(found)) => difference(expected.get(), found.get(), path),
        (expected, found) => Some(place(path, expected.map(RawValue::get), found.map(RawValue::get))),
    };
    path.truncate(length);
    found
}

fn place(path: &str, expected: Option<&str>, found: Option<&str>) -> Place {
    let show = |text: &str| match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    };
    Place { path: path.into(), expected: expected.map(show), found: found.map(show) }
}

/// A JSON text taken apart by one level.
enum Node<'a> {
    Object(BTreeMap<String, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    String(String),
    Number(Number),
    /// `true`, `false` or `null`.
    Word(&'a str),
}

/// A decimal number in the one form that each value has: 0.`digits` times ten to the `exponent`, with no zero at either end of the digits.
#[derive(PartialEq)]
struct Number {
    negative: bool,
    digits: String,
    exponent: i128,
}

impl<'a> Node<'a> {
    fn of(text: &'a str) -> Option<Node<'a>> {
        let text = text.trim_ascii();
        match text.as_bytes().first()? {
            b'{' => serde_json::from_str(text).ok().map(Node::Object),
            b'[' => serde_json::from_str(text).ok().map(Node::Array),
            b'"' => serde_json::from_str(text).ok().map(Node::String),
            b't' | b'f' | b'n' => Some(Node::Word(text)),
            _ => Number::of(text).map(Node::Number),
        }
    }
}

impl Number {
    fn of(text: &str) -> Option<Number> {
        let (negative, amount) = text.strip_prefix('-').map_or((false, text), |amount| (true, amount));
        let (mantissa, exponent) = amount.split_once(['e', 'E']).unwrap_or((amount, "0"));
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent: i64 = exponent.parse().ok()?;
        let digits = [whole, part].concat();
        let leading = digits.len() - digits.trim_start_matches('0').len();
        let digits = digits.trim_matches('0').to_string();
        if digits.is_empty() {
            return Some(Number { negative: false, digits, exponent: 0 });
        }
        Some(Number { negative, digits, exponent: i128::from(exponent) + whole.len() as i128 - leading as i128 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(expected: &str, found: &str) -> Option<(String, Option<String>, Option<String>)> {
        first_difference(expected, found).map(|Place { path, expected, found }| (path, expected, found))
    }

    #[test]
    fn spelling_says_nothing() {
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
    fn the_first_place_is_named() {
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
    fn numbers_are_compared_to_the_last_digit() {
        let (one, other) = (r#"{"n":18446744073709551617}"#, r#"{"n":18446744073709551618}"#);
        assert!(differs(one, other).is_some());
        assert!(differs(r#"{"n":0.1}"#, r#"{"n":0.10000000000000001}"#).is_some());
        assert!(differs(r#"{"n":1}"#, r#"{"n":-1}"#).is_some());
        assert!(differs(r#"{"n":1}"#, r#"{"n":10}"#).is_some());
    }

    #[test]
    fn all_are_counted_and_some_are_listed() {
        let documents = |ids: std::ops::Range<u32>, data: &str| -> Documents {
            let name = |id: u32| Name { collection: "c".into(), tenant: "t".into(), id: format!("{id:03}").into() };
            ids.map(|id| (name(id), data.into())).collect()
        };
        let found = super::documents(&documents(0..50, r#"{"a":1}"#), &documents(20..90, r#"{"a":2}"#));
        assert_eq!((found.missing.total, found.unexpected.total, found.differing.total), (20, 40, 30));
        assert_eq!((found.missing.first.len(), &*found.missing.first[9].id), (10, "009"));
        assert_eq!((&*found.differing.first[0].name.id, &*found.differing.first[0].place.path), ("020", "/a"));
        assert!(!found.is_same());
        assert!(super::documents(&documents(0..9, "{}"), &documents(0..9, "{ }")).is_same());
    }

    #[test]
    fn long_values_are_cut() {
        let long = format!("{{\"a\":\"{}\"}}", "ü".repeat(900));
        let place = first_difference(&long, r#"{"a":""}"#).unwrap();
        assert_eq!(place.expected.map(|text| text.chars().count()), Some(SHOWN + 1));
    }
}
