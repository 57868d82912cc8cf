//! Comparison of a line with the event that has its id: a repetition, or a different event.
//!
//! JSON is compared by its tokens. White space and the form of escapes and numbers do not matter;
//! the order of keys does. A line without a time equals an event with any time. A listing may have
//! truncated a time to milliseconds, so a time in whole milliseconds is compared in milliseconds.

use std::{borrow::Cow, iter};

use super::line::EventLine;

/// The content of an event, without its id.
#[derive(Debug)]
pub(super) struct EventContent<'a> {
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    /// Microseconds since 1970; none if the line has no time.
    pub(super) recorded_at: Option<i64>,
    /// Data and metadata; none if they are known to be equal.
    pub(super) json: Option<(&'a str, &'a str)>,
}

impl<'a> EventContent<'a> {
    /// The content of a line.
    pub(super) fn of(line: &'a EventLine) -> Self {
        EventContent {
            stream: &line.stream,
            event_type: &line.event_type,
            recorded_at: line.recorded_at,
            json: Some((line.data.get(), line.metadata())),
        }
    }

    /// A message about the differences of `line` from this event with the same id; none if it
    /// repeats the event.
    pub(super) fn difference(&self, line: &EventLine) -> Option<String> {
        let mut differences = Vec::new();
        for (what, there, here) in
            [("stream", self.stream, line.stream.as_str()), ("type", self.event_type, line.event_type.as_str())]
        {
            if there != here {
                differences.push(format!("its {what} is {there:?}, here {here:?}"));
            }
        }
        if let Some(here) = line.recorded_at
            && self.recorded_at.is_none_or(|there| !same_time(there, here))
        {
            differences.push("it was recorded at another time".into());
        }
        if let Some((data, metadata)) = self.json {
            for (what, there, here) in [("data", data, line.data.get()), ("metadata", metadata, line.metadata())] {
                if !same_json(there, here) {
                    differences.push(format!("its {what} differs"));
                }
            }
        }
        (!differences.is_empty()).then(|| message(line, &differences.join(", ")))
    }
}

/// The message about a line with the id of a different event.
pub(super) fn message(line: &EventLine, difference: &str) -> String {
    let id = line.id.as_deref().unwrap_or_default();
    format!(
        "tenant {} has another event with the id {id:?}: {difference}. Give this line a unique id, or remove the line",
        line.tenant
    )
}

/// Whether two times in microseconds are equal, or equal in milliseconds if one of them was cut.
fn same_time(one: i64, other: i64) -> bool {
    let is_cut = one % 1_000 == 0 || other % 1_000 == 0;
    one == other || is_cut && one.div_euclid(1_000) == other.div_euclid(1_000)
}

/// Whether two JSON values have the same tokens.
fn same_json(one: &str, other: &str) -> bool {
    one == other || tokens(one).eq(tokens(other))
}

#[derive(Debug, PartialEq)]
enum JsonToken<'a> {
    /// A bracket, brace, colon or comma.
    Mark(u8),
    Text(Cow<'a, str>),
    Number(JsonNumber<'a>),
    /// true, false or null.
    Word(&'a str),
}

/// A number as digits without leading and trailing zeros, and the power of ten of the last digit.
/// -0 differs from 0.
#[derive(Debug, PartialEq)]
enum JsonNumber<'a> {
    Value {
        negative: bool,
        digits: String,
        exponent: i64,
    },
    /// A number whose exponent is out of range, as it is written.
    Huge(&'a str),
}

fn tokens(json: &str) -> impl Iterator<Item = JsonToken<'_>> {
    let mut rest = json;
    iter::from_fn(move || {
        rest = rest.trim_start();
        let first = *rest.as_bytes().first()?;
        let length = match first {
            b'"' => text_length(rest),
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.')).unwrap_or(rest.len())
            }
            _ => rest.chars().next().map_or(0, char::len_utf8),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        Some(match first {
            b'"' => JsonToken::Text(serde_json::from_str(token).map_or(Cow::Borrowed(token), Cow::Owned)),
            b'-' | b'0'..=b'9' => JsonToken::Number(number(token)),
            b'a'..=b'z' => JsonToken::Word(token),
            mark => JsonToken::Mark(mark),
        })
    })
}

/// The length of the string at the beginning of a text, including its quotes.
fn text_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

fn number(text: &str) -> JsonNumber<'_> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let Ok(exponent) = exponent.parse::<i32>() else { return JsonNumber::Huge(text) };
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let zeros = (all.len() - digits.len()) as i64;
    let digits = digits.trim_start_matches('0').to_owned();
    let exponent = if digits.is_empty() { 0 } else { i64::from(exponent) - fraction.len() as i64 + zeros };
    JsonNumber::Value { negative, digits, exponent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_another_form_is_equal() {
        for (one, other) in [
            (r#"{"a":[1,2]}"#, "{ \"a\" :\n[1 , 2]}"),
            (r#""\u00e9\n\/""#, "\"é\\u000a/\""),
            ("[1.10,100,0.001,-5e-1]", "[1.1,1e2,1E-3,-0.50]"),
            ("[0,0.0,0e9]", "[0.00,0,0]"),
            ("1e99999999999", "1e99999999999"),
        ] {
            assert!(same_json(one, other), "{one} {other}");
        }
    }

    #[test]
    fn json_with_other_content_differs() {
        for (one, other) in [
            ("1", "2"),
            ("-0", "0"),
            ("12345678901234567890123", "12345678901234567890124"),
            ("[1,2]", "[12]"),
            (r#"["a","b"]"#, r#"["a,b"]"#),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
            ("[]", "[[]]"),
            ("true", "\"true\""),
            ("null", "false"),
            ("1e400", "1e401"),
            ("[1]", "[1"),
        ] {
            assert!(!same_json(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_repeated_line_may_leave_its_time_out_or_have_it_in_milliseconds() {
        let line = |time: &str| {
            let text = format!(r#"{{"stream":"s","type":"T","id":"e","data":1{time}}}"#);
            EventLine::parse(1, text.as_bytes(), 1_000).unwrap()
        };
        let event =
            EventContent { stream: "s", event_type: "T", recorded_at: Some(1_234_567), json: Some(("1.0", "{}")) };
        for same in
            ["", r#","recordedAt":"1970-01-01T00:00:01.234Z""#, r#","recordedAt":"1970-01-01T00:00:01.234567Z""#]
        {
            assert_eq!(event.difference(&line(same)), None, "{same}");
        }
        let other = event.difference(&line(r#","recordedAt":"1970-01-01T00:00:01.234568Z""#)).unwrap();
        assert!(other.contains("it was recorded at another time"), "{other}");
        let event = EventContent { stream: "t", event_type: "U", json: Some(("2", "{\"a\":1}")), ..event };
        assert_eq!(
            event.difference(&line("")).unwrap(),
            "tenant default has another event with the id \"e\": its stream is \"t\", here \"s\", its type is \"U\", here \"T\", \
             its data differs, its metadata differs. Give this line a unique id, or remove the line"
        );
    }
}
