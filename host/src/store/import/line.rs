//! One line of an import: an event as JSON, with all checks that need no database.

use sandmill_client::check;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::model::{nearest::nearest, time};

/// An event of an import, and the number of its line.
#[derive(Debug)]
pub(super) struct EventLine {
    /// Its number in the input, from 1.
    pub(super) number: u64,
    pub(super) tenant: String,
    pub(super) stream: String,
    pub(super) event_type: String,
    pub(super) id: Option<String>,
    /// Microseconds since 1970.
    pub(super) recorded_at: Option<i64>,
    /// The JSON text, unchanged.
    pub(super) data: Box<RawValue>,
    pub(super) metadata: Option<Box<RawValue>>,
}

/// The keys of a line: those that an import reads, and those that only a listing has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LineKeys {
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
    // A listing has these, and an import ignores them because the store assigns its own. So the
    // output of `sandmill events --json` can be imported into another store.
    #[serde(default, rename = "position")]
    _position: IgnoredAny,
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
}

/// The names of the keys, to suggest one for a misspelt key.
const KEYS: [&str; 9] = ["tenant", "stream", "type", "id", "recordedAt", "data", "metadata", "position", "version"];
/// A valid line, for messages.
const EXAMPLE: &str = r#"{"stream":"cart-1","type":"ItemAdded","data":{"sku":"x"}}"#;

impl EventLine {
    /// Parses a line without its line end. `max_event_bytes` is the store's limit for data and
    /// metadata together.
    pub(super) fn parse(number: u64, text: &[u8], max_event_bytes: u32) -> Result<Self, String> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let text = std::str::from_utf8(text).map_err(|error| not_utf8(text, error.valid_up_to()))?;
        if !text.trim_start().starts_with('{') {
            return Err(not_an_object(text.trim_start()));
        }
        let keys: LineKeys = serde_json::from_str(text).map_err(|error| in_words(&error, text))?;
        let tenant = keys.tenant.unwrap_or_else(|| sandmill_client::DEFAULT_TENANT.to_owned());
        check::tenant(&tenant)?;
        check::stream(&keys.stream)?;
        check::event_type(&keys.r#type)?;
        keys.id.as_deref().map_or(Ok(()), check::id)?;
        let recorded_at = keys.recorded_at.map(|text| time::parse(&text)).transpose()?;
        let metadata = keys.metadata.as_ref().map(|metadata| metadata.get());
        if metadata.is_some_and(|metadata| !metadata.starts_with('{')) {
            return Err("metadata must be a JSON object".into());
        }
        let bytes = keys.data.get().len() + metadata.map_or(0, str::len);
        if bytes > max_event_bytes as usize {
            return Err(format!(
                "the event has {bytes} bytes of data and metadata, more than this store's limit of {max_event_bytes}. Store large \
                 content elsewhere and import a reference to it, or raise the limit: sandmill migrate --max-event-bytes N"
            ));
        }
        for (part, json) in [("data", keys.data.get()), ("metadata", metadata.unwrap_or_default())] {
            check::readable_json(json).map_err(|problem| {
                format!("{part} {problem}; plugins could not read it. Flatten it, or write the number as a string.")
            })?;
        }
        Ok(EventLine {
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

    /// The text of its metadata in the store.
    pub(super) fn metadata(&self) -> &str {
        self.metadata.as_ref().map_or("{}", |metadata| metadata.get())
    }

    /// Its approximate size in memory, to bound the number of lines held at once.
    pub(super) fn weight(&self) -> usize {
        let strings =
            self.tenant.len() + self.stream.len() + self.event_type.len() + self.id.as_ref().map_or(0, String::len);
        let json = self.data.get().len() + self.metadata.as_ref().map_or(0, |metadata| metadata.get().len());
        size_of::<Self>() + strings + json
    }
}

/// The bytes with which some programs mark a UTF-8 text at its beginning.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The message about bytes that are not UTF-8, with a guess at their format.
fn not_utf8(text: &[u8], valid: usize) -> String {
    let other = match text {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Some("UTF-16; convert it first, for instance with `iconv -f UTF-16 -t UTF-8`")
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("compressed with zstd; decompress it first"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("compressed with xz; decompress it first"),
        [b'P', b'K', 3, 4, ..] => Some("a zip archive; unpack it first"),
        _ => None,
    };
    match other {
        Some(other) => format!("the input is {other}"),
        None => format!("byte {} is not UTF-8", valid + 1),
    }
}

/// The message about a line that does not begin with a brace.
fn not_an_object(text: &str) -> String {
    if text.contains('\0') {
        return "the line contains U+0000: the input may be UTF-16, or not be text; convert it to UTF-8".into();
    }
    let what = match text.as_bytes().first() {
        Some(b'[') => "a JSON array; write one object on each line, for instance with `jq -c '.[]'`",
        Some(b'"') => "a JSON string",
        Some(b'0'..=b'9' | b'-') => "a number",
        _ => "not a JSON object",
    };
    format!("the line is {what}; an event is an object such as {EXAMPLE}")
}

/// The parser's message without its line number, which counts within this one line.
fn in_words(error: &serde_json::Error, text: &str) -> String {
    let message = error.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    let column = error.column();
    if let Some(key) = what.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected ")) {
        let nearest = nearest(key.0, KEYS.iter().map(|key| (*key).to_string()));
        return format!("unknown key `{}`; did you mean `{nearest}`? (column {column})", key.0);
    }
    if what == "trailing characters" {
        return match text.as_bytes().get(column.saturating_sub(1)) {
            Some(b',') => format!(
                "a comma follows the event (column {column}); write one object on each line, with nothing between them"
            ),
            _ => format!("more text follows the event (column {column}); write one object on each line"),
        };
    }
    format!("{what} (column {column})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EventLine, String> {
        EventLine::parse(1, text.as_bytes(), 1_000_000)
    }

    #[test]
    fn data_keeps_its_text() {
        let line = parse(r#" {"stream":"s\u00fc","type":"T","data": {"b" :1.10,"a":[1e2, "\u00e9"]} } "#).unwrap();
        assert_eq!(line.data.get(), r#"{"b" :1.10,"a":[1e2, "\u00e9"]}"#);
        assert_eq!((line.tenant.as_str(), line.stream.as_str()), ("default", "sü"));
        assert!(line.id.is_none() && line.metadata.is_none() && line.recorded_at.is_none());
    }

    #[test]
    fn optional_keys_are_read_and_null_means_absent() {
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
    fn errors_are_reported_with_their_column() {
        for (text, message) in [
            (r#"{"stream":"s","type":"T""#, "EOF while parsing an object (column 24)"),
            (r#"{"stream":"s","type":"T"}"#, "missing field `data` (column 25)"),
            (r#"{"stream":"s","type":"T","data":{},"extra":1}"#, "unknown key `extra`; did you mean `"),
            (
                r#"{"stream":"s","type":"T","recorded_at":"x"}"#,
                "unknown key `recorded_at`; did you mean `recordedAt`? (column 38)",
            ),
            (r#"{"stream":"s","type":"T","data":{},"data":{}}"#, "duplicate field `data` (column 41)"),
            (r#"{"stream":"s","type":"T","data":{}} {}"#, "more text follows the event (column 37)"),
            (r#"{"stream":"s","type":"T","data":{}},"#, "a comma follows the event (column 36)"),
            (r#"["s","T",{}]"#, "the line is a JSON array; write one object on each line"),
            (r#"[{"stream":"s","type":"T","data":{}}]"#, "the line is a JSON array; write one object on each line"),
            (" \"text\"", "the line is a JSON string; an event is an object such as {"),
            ("17", "the line is a number; "),
            ("stream,type", "the line is not a JSON object; "),
            (r#"{"stream":null,"type":"T","data":1}"#, "invalid type: null, expected a string (column 14)"),
            ("{\0\"\0s\0", "key must be a string"),
            (r#"{"stream":"","type":"T","data":{}}"#, "a stream must not be empty"),
            (r#"{"tenant":"a b","stream":"s","type":"T","data":{}}"#, "\"a b\" cannot be a tenant"),
            (r#"{"stream":"s","type":"T","data":{},"metadata":[]}"#, "metadata must be a JSON object"),
            (r#"{"stream":"s","type":"T","data":{},"recordedAt":"now"}"#, "\"now\" is not a time"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        let error = |bytes: &[u8]| EventLine::parse(1, bytes, 1_000).unwrap_err();
        assert_eq!(error(b"{\"stream\":\"\xff\"}"), "byte 12 is not UTF-8");
        assert!(error(b"\xff\xfe{\0").starts_with("the input is UTF-16; convert it first"));
        assert!(error(b"(\xb5/\xfd\x04").starts_with("the input is compressed with zstd"));
    }

    #[test]
    fn a_byte_order_mark_and_the_keys_of_a_listing_are_ignored() {
        let listed = r#"{"position":7,"tenant":"a","stream":"s","version":2,"type":"T","id":"e","recordedAt":"2013-01-01T05:00:00.123456Z","data":1,"metadata":{}}"#;
        for text in [listed.to_owned(), format!("\u{feff}{listed}")] {
            let line = parse(&text).unwrap();
            assert_eq!((line.stream.as_str(), line.id.as_deref(), line.data.get()), ("s", Some("e"), "1"));
        }
    }

    #[test]
    fn the_bytes_levels_and_digits_of_an_event_are_bounded() {
        let line = |data: &str, metadata: &str| {
            let text = format!(r#"{{"stream":"s","type":"T","data":{data},"metadata":{metadata}}}"#);
            EventLine::parse(1, text.as_bytes(), 2_000).map(|line| line.data.get().len())
        };
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert_eq!(line(&text(1_998), "{}"), Ok(1_998));
        let error = line(&text(1_999), "{}").unwrap_err();
        assert!(
            error.starts_with("the event has 2001 bytes of data and metadata, more than this store's limit of 2000."),
            "{error}"
        );
        let error = line(&("[".repeat(513) + &"]".repeat(513)), "{}").unwrap_err();
        assert!(error.starts_with("data is nested deeper than 512 levels; plugins could not read it."), "{error}");
        let error = line("1", &format!("{{\"a\":{}}}", "1".repeat(1_001))).unwrap_err();
        assert!(error.starts_with("metadata has a number of more than 1,000 characters;"), "{error}");
    }
}
