//! Documents as lines of JSON: the expected documents of a test, and those that a plugin made.
//!
//! A line is `{"collection":"…","tenant":"…","id":"…","data":{…}}`. Written lines are sorted by
//! collection, tenant and id. Each document is on one line without the plugin's spacing, so that
//! two files can be compared by eye. Lines that are read may be in any order, and name each
//! document at most once.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The name of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DocumentName {
    /// Its collection.
    #[serde(serialize_with = "as_text")]
    pub collection: Arc<str>,
    /// Its tenant.
    #[serde(serialize_with = "as_text")]
    pub tenant: Arc<str>,
    /// Its id.
    #[serde(serialize_with = "as_text")]
    pub id: Arc<str>,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// The JSON texts of documents, by name.
pub type NamedDocuments = BTreeMap<DocumentName, Arc<str>>;

/// Why expected documents cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// A line is not a document.
    #[error(
        "line {line}: {message}\nA line is {{\"collection\":\"…\",\"tenant\":\"…\",\"id\":\"…\",\"data\":{{…}}}}, as `sandmill plugin test --write` writes it."
    )]
    BadLine {
        /// Its number, counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The input cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentLine<'a> {
    collection: String,
    tenant: String,
    id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Reads documents. Blank lines are ignored.
pub fn read(mut input: impl BufRead) -> Result<NamedDocuments, LinesError> {
    let (mut documents, mut lines) = (NamedDocuments::new(), HashMap::new());
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
        let DocumentLine { collection, tenant, id, data } = serde_json::from_slice(text).map_err(|error| {
            let (text, column) = (error.to_string(), error.column());
            bad(text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| format!("{what} (column {column})")))
        })?;
        let name = DocumentName { collection: collection.into(), tenant: tenant.into(), id: id.into() };
        if let Some(before) = lines.insert(name.clone(), line) {
            return Err(bad(format!("names the same document as line {before}")));
        }
        documents.insert(name, data.get().into());
    }
    Ok(documents)
}

/// Writes documents.
pub fn write(documents: &NamedDocuments, mut output: impl Write) -> io::Result<()> {
    for (DocumentName { collection, tenant, id }, data) in documents {
        let text = |text: &str| serde_json::Value::from(text);
        let (collection, tenant, id) = (text(collection), text(tenant), text(id));
        writeln!(output, r#"{{"collection":{collection},"tenant":{tenant},"id":{id},"data":{}}}"#, on_one_line(data))?;
    }
    output.flush()
}

/// A JSON text without the whitespace between its tokens.
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
    fn written_documents_can_be_read_again() {
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
    fn an_invalid_line_is_reported_by_its_number() {
        let rejected = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        let good = r#"{"collection":"c","tenant":"t","id":"1","data":{}}"#;
        assert!(rejected(&format!("{good}\n{good}")).starts_with("line 2: names the same document as line 1\n"));
        let missing = rejected(&format!("{good}\n\n{{\"collection\":\"c\"}}"));
        assert!(
            missing.starts_with("line 3: missing field `tenant` (column 18)\nA line is {\"collection\""),
            "{missing}"
        );
        assert!(rejected("nonsense").starts_with("line 1: expected ident (column 2)"), "{}", rejected("nonsense"));
    }
}
