//! Whether a line repeats an event whose id it has, or is another event.
//!
//! JSON is compared by its tokens: white space, the form of escapes and the form of numbers do not matter, the order of keys does.
//! A line without a time repeats an event of any time. A listing may have cut a time to milliseconds, so such a time is compared by those.

use std::{borrow::Cow, iter};

use super::line::Line;

/// What an event is, beside its id.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    /// Microseconds from 1970; none where the line leaves it to the store.
    pub(super) recorded_at: Option<i64>,
    /// Data and metadata, where they are to be compared as well.
    pub(super) json: Option<(&'a str, &'a str)>,
}

impl<'a> Content<'a> {
    /// What a line says.
    pub(super) fn of(line: &'a Line) -> Self {
        Content {
            stream: &line.stream,
            event_type: &line.event_type,
            recorded_at: line.recorded_at,
            json: Some((line.data.get(), line.metadata())),
        }
    }

    /// How `line` differs from this event with the same id; nothing when it repeats it.
    pub(super) fn difference(&self, line: &Line) -> Option<String> {
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
                    differences.push(format!("its {what} is not the same"));
                }
            }
        }
        (!differences.is_empty()).then(|| message(line, &differences.join(", ")))
    }
}

/// What people are told of a line that has the id of another event.
pub(super) fn message(line: &Line, difference: &str) -> String {
    let id = line.id.as_deref().unwrap_or_default();
    format!(
        "tenant {} has another event with the id {id:?}: {difference}. Give this line an id of its own, or leave the line out",
        line.tenant
    )
}

/// Whether two times in microseconds are one, or one of them was cut to milliseconds.
fn same_time(one: i64, other: i64) -> bool {
    let is_cut = one % 1_000 == 0 || other % 1_000 == 0;
    one == other || is_cut && one.div_euclid(1_000) == other.div_euclid(1_000)
}

/// Whether two JSON texts have the same tokens.
fn same_json(one: &str, other: &str) -> bool {
    one == other || tokens(one).eq(tokens(other))
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    /// A bracket, brace, colon or comma.
    Mark(u8),
    Text(Cow<'a, str>),
    Number(Number<'a>),
    /// true, false or null.
    Word(&'a str),
}

/// A number as digits without zeros at either end, and the power of ten of the last one. -0 is not 0.
#[derive(Debug, PartialEq)]
enum Number<'a> {
    Value {
        negative: bool,
        digits: String,
        exponent: i64,
    },
    /// One whose exponent is beyond all measure, as it is written.
    Huge(&'a str),
}

fn tokens(json: &str) -> impl Iterator<Item = Token<'_>> {
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
            b'"' => Token::Text(serde_json::from_str(token).map_or(Cow::Borrowed(token), Cow::Owned)),
            b'-' | b'0'..=b'9' => Token::Number(number(token)),
            b'a'..=b'z' => Token::Word(token),
            mark => Token::Mark(mark),
        })
    })
}

/// The length of the string that a text begins with, with its quotes.
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

fn number(text: &str) -> Number<'_> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let Ok(exponent) = exponent.parse::<i32>() else { return Number::Huge(text) };
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let zeros = (all.len() - digits.len()) as i64;
    let digits = digits.trim_start_matches('0').to_owned();
    let exponent = if digits.is_empty() { 0 } else { i64::from(exponent) - fraction.len() as i64 + zeros };
    Number::Value { negative, digits, exponent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_in_another_form() {
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
    fn json_differs_in_content() {
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
            Line::parse(1, text.as_bytes(), 1_000).unwrap()
        };
        let there = Content { stream: "s", event_type: "T", recorded_at: Some(1_234_567), json: Some(("1.0", "{}")) };
        for same in
            ["", r#","recordedAt":"1970-01-01T00:00:01.234Z""#, r#","recordedAt":"1970-01-01T00:00:01.234567Z""#]
        {
            assert_eq!(there.difference(&line(same)), None, "{same}");
        }
        let other = there.difference(&line(r#","recordedAt":"1970-01-01T00:00:01.234568Z""#)).unwrap();
        assert!(other.contains("it was recorded at another time"), "{other}");
        let there = Content { stream: "t", event_type: "U", json: Some(("2", "{\"a\":1}")), ..there };
        assert_eq!(
            there.difference(&line("")).unwrap(),
            "tenant default has another event with the id \"e\": its stream is \"t\", here \"s\", its type is \"U\", here \"T\", \
             its data is not the same, its metadata is not the same. Give this line an id of its own, or leave the line out"
        );
    }
}
