//! What handling the events of a test leaves behind: documents and failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

use super::diff;

/// The result of handling the events.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// By collection and id.
    pub(super) documents: BTreeMap<String, BTreeMap<String, Value>>,
    pub(super) skipped: Vec<Failed>,
    pub(super) halted: Option<Failed>,
}

/// An event that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// The index among the given events.
    pub(super) place: usize,
    pub(super) event_type: String,
    pub(super) code: String,
    pub(super) message: String,
}

impl Failed {
    fn place_and_code(&self) -> (usize, &str) {
        (self.place, &self.code)
    }
}

impl Outcome {
    #[track_caller]
    pub(super) fn assert_documents<I: Into<String>, J: ToString>(
        &self,
        collection: &str,
        documents: impl IntoIterator<Item = (I, J)>,
    ) {
        let mut expected = BTreeMap::new();
        for (id, data) in documents {
            let id = id.into();
            let value = parse(&format!("the document {id}"), &data.to_string());
            expected.insert(id, value);
        }
        let none = BTreeMap::new();
        let found = self.documents.get(collection).unwrap_or(&none);
        let differences = diff::documents(&expected, found);
        assert!(
            differences.is_empty(),
            "the documents of {collection} are not the expected ones:\n{differences}{self}"
        );
    }

    #[track_caller]
    pub(super) fn assert_skipped<'a>(&self, skipped: impl IntoIterator<Item = (usize, &'a str)>) {
        let expected: Vec<(usize, &str)> = skipped.into_iter().collect();
        let found: Vec<(usize, &str)> = self.skipped.iter().map(Failed::place_and_code).collect();
        assert_eq!(expected, found, "the skipped events are not the expected ones (left).\n{self}");
    }

    #[track_caller]
    pub(super) fn assert_halted(&self, place: usize, code: &str) {
        let found = self.halted.as_ref().map(Failed::place_and_code);
        assert_eq!(Some((place, code)), found, "the lane did not stop as expected (left).\n{self}");
    }

    /// The differences to another outcome, one line each. Empty if there are none.
    pub(super) fn differences(&self, other: &Outcome) -> String {
        let mut differences = String::new();
        let none = BTreeMap::new();
        let of = |outcome: &Outcome, collection: &String| {
            diff::documents(
                self.documents.get(collection).unwrap_or(&none),
                outcome.documents.get(collection).unwrap_or(&none),
            )
        };
        let collections: BTreeSet<&String> = self.documents.keys().chain(other.documents.keys()).collect();
        for collection in collections {
            differences += &of(other, collection);
        }
        let failed = |outcome: &Outcome| {
            let skipped: Vec<_> = outcome.skipped.iter().map(|failed| (failed.place, failed.code.clone())).collect();
            (skipped, outcome.halted.as_ref().map(|failed| (failed.place, failed.code.clone())))
        };
        if failed(self) != failed(other) {
            differences += &format!("  expected\n{self}  found\n{other}");
        }
        differences
    }
}

/// The events that failed, one line each.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs = self.skipped.iter().map(|failed| ("skipped", failed));
        for (verb, Failed { place, event_type, code, message }) in
            verbs.chain(self.halted.iter().map(|h| ("stopped before", h)))
        {
            writeln!(f, "  {verb} event {place}, {event_type}: {code}: {message}")?;
        }
        Ok(())
    }
}

/// Parses JSON. `what` names it in the failure.
#[track_caller]
#[allow(clippy::panic, reason = "this is how a test fails")]
pub(super) fn parse(what: &str, text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => panic!("{what} is not JSON: {error}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_collections_differences_are_reported_once() {
        let outcome = |number: u64| Outcome {
            documents: ["a", "b"]
                .map(|name| (name.into(), BTreeMap::from([("x".into(), json!({"n": number}))])))
                .into(),
            ..Outcome::default()
        };
        let differences = outcome(1).differences(&outcome(2));
        assert_eq!(differences, "  x /n: expected 1, found 2\n".repeat(2));
    }
}
