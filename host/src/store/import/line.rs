//! One line of an import: an event as JSON, checked as far as that can be done without the database.

use sandmill_client::check;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::store::time;

/// An event that wants to be stored, and where it stood.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number in the input, from 1.
    pub(super) number: u64,
    pub(super) tenant: String,
    pub(super) stream: String,
    pub(super) event_type: String,
    pub(super) id: Option<String>,
    /// Microseconds from 1970.
    pub(super) recorded_at: Option<i64>,
    /// The text as it was written.
    pub(super) data: Box<RawValue>,
    pub(super) metadata: Option<Box<RawValue>>,
}

/// The keys, as users write them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Keys {
    #[serde(default)]
    tenant: Option<String>,
    stream: String,
    r#type: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    recorded_at: Option<String>,
    data: Box<RawValue>,
    #[serde(default)]
    metadata: Option<Box<RawValue>>,
}

impl Line {
    pub(super) fn parse(number: u64, text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|e| format!("byte {} is not UTF-8", e.valid_up_to() + 1))?;
        let keys: Keys = serde_json::from_str(text).map_err(|error| in_words(&error))?;
        let tenant = keys.tenant.unwrap_or_else(|| sandmill_client::DEFAULT_TENANT.to_owned());
        check::tenant(&tenant)?;
        check::stream(&keys.stream)?;
        check::event_type(&keys.r#type)?;
        keys.id.as_deref().map_or(Ok(()), check::id)?;
        let recorded_at = keys.recorded_at.map(|text| time::parse(&text)).transpose()?;
        if keys.metadata.as_ref().is_some_and(|metadata| !metadata.get().starts_with('{')) {
            return Err("metadata must be a JSON object".into());
        }
        Ok(Line {
            number,
            tenant,
            stream: keys.stream,
            event_type: keys.r#type,
            id: keys.id,
            recorded_at,
            data: keys.data,
            metadata: keys.metadata,
        })
    }

    /// What it weighs in memory, near enough to bound how many are held at once.
    pub(super) fn weight(&self) -> usize {
        let texts =
            self.tenant.len() + self.stream.len() + self.event_type.len() + self.id.as_ref().map_or(0, String::len);
        let json = self.data.get().len() + self.metadata.as_ref().map_or(0, |metadata| metadata.get().len());
        size_of::<Self>() + texts + json
    }
}

/// The parser's words, which count lines within the one that it saw.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} (column {})", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Line, String> {
        Line::parse(1, text.as_bytes())
    }

    #[test]
    fn data_stays_as_it_was_written() {
        let line = parse(r#" {"stream":"s\u00fc","type":"T","data": {"b" :1.10,"a":[1e2, "\u00e9"]} } "#).unwrap();
        assert_eq!(line.data.get(), r#"{"b" :1.10,"a":[1e2, "\u00e9"]}"#);
        assert_eq!((line.tenant.as_str(), line.stream.as_str()), ("default", "sü"));
        assert!(line.id.is_none() && line.metadata.is_none() && line.recorded_at.is_none());
    }

    #[test]
    fn optional_keys_are_taken_and_null_is_absent() {
        let line = parse(
            r#"{"tenant":"UA","stream":"s","type":"T","id":"e1","recordedAt":"1970-01-01T00:00:01Z","metadata":{},"data":null}"#,
        )
        .unwrap();
        assert_eq!((line.tenant.as_str(), line.id.as_deref(), line.recorded_at), ("UA", Some("e1"), Some(1_000_000)));
        assert_eq!((line.data.get(), line.metadata.unwrap().get()), ("null", "{}"));
        let line = parse(r#"{"tenant":null,"stream":"s","type":"T","id":null,"metadata":null,"data":1}"#).unwrap();
        assert!(line.tenant == "default" && line.id.is_none() && line.metadata.is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column() {
        for (text, message) in [
            (r#"{"stream":"s","type":"T""#, "EOF while parsing an object (column 24)"),
            (r#"{"stream":"s","type":"T"}"#, "missing field `data` (column 25)"),
            (r#"{"stream":"s","type":"T","data":{},"extra":1}"#, "unknown field `extra`, expected one of"),
            (r#"{"stream":"s","type":"T","data":{},"data":{}}"#, "duplicate field `data` (column 41)"),
            (r#"{"stream":"s","type":"T","data":{}} {}"#, "trailing characters (column 37)"),
            (r#"{"stream":"","type":"T","data":{}}"#, "a stream must not be empty"),
            (r#"{"tenant":"a b","stream":"s","type":"T","data":{}}"#, "\"a b\" cannot be a tenant"),
            (r#"{"stream":"s","type":"T","data":{},"metadata":[]}"#, "metadata must be a JSON object"),
            (r#"{"stream":"s","type":"T","data":{},"recordedAt":"now"}"#, "\"now\" is not a time"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        assert_eq!(Line::parse(1, b"{\"stream\":\"\xff\"}").unwrap_err(), "byte 12 is not UTF-8");
    }
}
