//! Documents as lines of JSON: what a test expects, and what a plugin made.
//!
//! A line is `{"collection":"…","tenant":"…","id":"…","data":{…}}`. They are written in the order of collection, tenant and id, each on one line
//! whatever spacing the plugin wrote, so that two files can be compared by eye. Read, they may stand in any order, and each document once.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Names one document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name {
    /// Where.
    #[serde(serialize_with = "as_text")]
    pub collection: Arc<str>,
    /// Whose.
    #[serde(serialize_with = "as_text")]
    pub tenant: Arc<str>,
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub id: Arc<str>,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Documents by name, as JSON texts.
pub type Documents = BTreeMap<Name, Arc<str>>;

/// Why there are no expected documents.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// A line that is no document.
    #[error(
        "line {line}: {message}\nA line is {{\"collection\":\"…\",\"tenant\":\"…\",\"id\":\"…\",\"data\":{{…}}}}, as `sandmill plugin test --write` writes it."
    )]
    BadLine {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The input failed.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    collection: String,
    tenant: String,
    id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Reads documents; blank lines are none.
pub fn read(mut input: impl BufRead) -> Result<Documents, LinesError> {
    let (mut documents, mut lines) = (Documents::new(), HashMap::new());
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let bad = |message: String| LinesError::BadLine { line, message };
        let Line { collection, tenant, id, data } = serde_json::from_slice(text).map_err(|error| {
            let (text, column) = (error.to_string(), error.column());
            bad(text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| format!("{what} (column {column})")))
        })?;
        let name = Name { collection: collection.into(), tenant: tenant.into(), id: id.into() };
        if let Some(before) = lines.insert(name.clone(), line) {
            return Err(bad(format!("names the same document as line {before}")));
        }
        documents.insert(name, data.get().into());
    }
    Ok(documents)
}

/// Writes documents.
pub fn write(documents: &Documents, mut output: impl Write) -> io::Result<()> {
    for (Name { collection, tenant, id }, data) in documents {
        let text = |text: &str| serde_json::Value::from(text);
        let (collection, tenant, id) = (text(collection), text(tenant), text(id));
        writeln!(output, r#"{{"collection":{collection},"tenant":{tenant},"id":{id},"data":{}}}"#, on_one_line(data))?;
    }
    output.flush()
}

/// A JSON text without the space between its parts.
fn on_one_line(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |c: &char| {
        if inside {
            (inside, escaped) = (escaped || *c != '"', !escaped && *c == '\\');
            return true;
        }
        inside = *c == '"';
        !matches!(c, ' ' | '\t' | '\r' | '\n')
    };
    text.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = r#"{"collection":"b","tenant":"t","id":"\"1","data":{ "x" : 1.0, "y":"a \" b\\" }}

            {"collection":"a","tenant":"t","id":"2","data":{}}"#;
        let documents = read(text.as_bytes()).unwrap();
        let mut written = Vec::new();
        write(&documents, &mut written).unwrap();
        let expected = r#"{"collection":"a","tenant":"t","id":"2","data":{}}
{"collection":"b","tenant":"t","id":"\"1","data":{"x":1.0,"y":"a \" b\\"}}
"#;
        assert_eq!(String::from_utf8(written.clone()).unwrap(), expected);
        assert_eq!(read(&written[..]).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_document_is_named_by_its_line() {
        let refused = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        let good = r#"{"collection":"c","tenant":"t","id":"1","data":{}}"#;
        assert!(refused(&format!("{good}\n{good}")).starts_with("line 2: names the same document as line 1\n"));
        let missing = refused(&format!("{good}\n\n{{\"collection\":\"c\"}}"));
        assert!(
            missing.starts_with("line 3: missing field `tenant` (column 18)\nA line is {\"collection\""),
            "{missing}"
        );
        assert!(refused("nonsense").starts_with("line 1: expected ident (column 2)"), "{}", refused("nonsense"));
    }
}
