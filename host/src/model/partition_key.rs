//! The partition key of an event: the value that a JSON pointer selects in its data, as a string.
//!
//! The key depends on that value alone. The rest of the data is passed over without being
//! interpreted. So a huge number, deep nesting or a repeated name elsewhere cannot move an event to
//! another lane. Reading takes one pass over the text, and allocates nothing for a plain string or
//! number.
//!
//! Two values have the same key if and only if PostgreSQL's `jsonb` considers them equal, with
//! three exceptions:
//!   * a string has the same key as the number or word that is written like it: `"7"` and `7`;
//!   * null, the empty string and an absent value share the empty key;
//!   * objects and arrays nested deeper than [`LEVELS`], and numbers whose exponent has more than
//!     18 digits, are compared as they are written.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write},
};

use sha2::{Digest, Sha256};

/// The longest key that is kept whole, bytes: as long as a stream's name may be. A longer one is
/// cut to this length, followed by `…` and the SHA-256 of the whole key in hexadecimal. The result
/// fits every index and is longer than any whole key, so it equals none.
pub const KEY_BYTES: usize = 512;

/// Levels of an object or array that are compared by value: enough for any sensible key, and few
/// enough for recursion.
const LEVELS: usize = 64;

/// Zeros that are written out before or after the digits of a number. A number with more gets an
/// exponent: `1e1000000000` stays short.
const MAX_ZEROS: i64 = 64;

/// A parsed JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Box<[ReferenceToken]>);

/// One reference token of a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReferenceToken {
    /// The name of an object's member.
    name: Box<str>,
    /// The index of an array's element, if the token is one: digits without a leading zero.
    index: Option<usize>,
}

/// The error of data without a reliable key, because it is not valid JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub struct Unreadable {
    at: usize,
    expected: &'static str,
}

impl Pointer {
    /// Parses the pointer of a checked descriptor.
    pub fn parse(text: &str) -> Self {
        let step = |token: &str| {
            let digits = !token.is_empty() && token.bytes().all(|c| c.is_ascii_digit());
            let index = digits && (token == "0" || !token.starts_with('0'));
            ReferenceToken {
                name: token.replace("~1", "/").replace("~0", "~").into(),
                index: index.then(|| token.parse().ok()).flatten(),
            }
        };
        Pointer(text.split('/').skip(1).map(step).collect())
    }

    /// The key of an event with this data; empty if the pointer selects nothing.
    pub fn key<'d>(&self, data: &'d str) -> Result<Cow<'d, str>, Unreadable> {
        let mut walk = Walk { text: data, at: 0 };
        walk.space();
        for step in &self.0 {
            let found = match walk.peek() {
                Some(b'{') => walk.member(&step.name)?,
                Some(b'[') => walk.element(step.index)?,
                Some(b'"') => {
                    walk.string()?;
                    None
                }
                _ => {
                    walk.scalar()?;
                    None
                }
            };
            match found {
                Some(at) => walk.at = at,
                None => return Ok("".into()),
            }
        }
        let key = match walk.peek() {
            Some(b'"') => walk.string()?.text()?,
            Some(b'{' | b'[') => {
                let mut text = String::new();
                walk.canonical(&mut text, LEVELS)?;
                text.into()
            }
            _ => match walk.scalar()? {
                Cow::Borrowed("null") => "".into(),
                other => other,
            },
        };
        if key.contains('\0') {
            return walk.expected("a key without U+0000");
        }
        Ok(bounded(key))
    }
}

/// The key, shortened if it is too long for an index.
fn bounded(key: Cow<'_, str>) -> Cow<'_, str> {
    if key.len() <= KEY_BYTES {
        return key;
    }
    let mut short = key[..key.floor_char_boundary(KEY_BYTES)].to_owned();
    short.push('…');
    for byte in Sha256::digest(key.as_bytes()) {
        push(&mut short, format_args!("{byte:02x}"));
    }
    short.into()
}

fn push(text: &mut String, what: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(what);
}

/// A reader of a JSON text. Skipped values are checked only as far as needed to find their end.
struct Walk<'d> {
    text: &'d str,
    at: usize,
}

impl<'d> Walk<'d> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, Unreadable> {
        Err(Unreadable { at: self.at, expected })
    }

    /// Enters the object or array that begins here. Returns whether it holds anything.
    fn enter(&mut self, end: u8) -> bool {
        self.at += 1;
        self.space();
        let empty = self.peek() == Some(end);
        self.at += usize::from(empty);
        !empty
    }

    /// Passes the comma after a member or element, or the end of the list. Returns whether another
    /// one follows.
    fn next(&mut self, end: u8, expected: &'static str) -> Result<bool, Unreadable> {
        self.space();
        let found = self.peek();
        if found != Some(b',') && found != Some(end) {
            return self.expected(expected);
        }
        self.at += 1;
        self.space();
        Ok(found == Some(b','))
    }

    /// Reads the name of a member and its colon.
    fn name(&mut self) -> Result<Quoted<'d>, Unreadable> {
        if self.peek() != Some(b'"') {
            return self.expected("a name");
        }
        let name = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.expected("`:`");
        }
        self.at += 1;
        self.space();
        Ok(name)
    }

    /// Finds the beginning of the member with this name, in the object that begins here. If the
    /// name is repeated, the last member counts, as in `jsonb`.
    fn member(&mut self, wanted: &str) -> Result<Option<usize>, Unreadable> {
        let mut found = None;
        let mut more = self.enter(b'}');
        while more {
            if self.name()?.is(wanted) {
                found = Some(self.at);
            }
            self.skip_value()?;
            more = self.next(b'}', "`,` or `}`")?;
        }
        Ok(found)
    }

    /// Finds the beginning of the element with this index, in the array that begins here.
    fn element(&mut self, wanted: Option<usize>) -> Result<Option<usize>, Unreadable> {
        let (mut found, mut index) = (None, 0);
        let mut more = self.enter(b']');
        while more {
            if wanted == Some(index) {
                found = Some(self.at);
            }
            index += 1;
            self.skip_value()?;
            more = self.next(b']', "`,` or `]`")?;
        }
        Ok(found)
    }

    /// Skips a value, however deep.
    fn skip_value(&mut self) -> Result<(), Unreadable> {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'{' | b'[') => {
                    self.at += 1;
                    open += 1;
                }
                Some(b'}' | b']') if open > 0 => {
                    self.at += 1;
                    open -= 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if open > 0 => self.at += 1,
                Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') => self.word(),
                _ => return self.expected("a value"),
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Skips a number or a word.
    fn word(&mut self) {
        while let Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads a string, from its opening quote to its closing quote.
    fn string(&mut self) -> Result<Quoted<'d>, Unreadable> {
        let from = self.at;
        self.at += 1;
        loop {
            let Some(before) = self.text[self.at..].find('"') else {
                return Err(Unreadable { at: self.text.len(), expected: "`\"`" });
            };
            let passed = &self.text.as_bytes()[self.at..self.at + before];
            self.at += before + 1;
            // After an odd number of backslashes, a quote is a character of the string.
            if passed.iter().rev().take_while(|c| **c == b'\\').count() % 2 == 0 {
                return Ok(Quoted { quoted: &self.text[from..self.at], at: from });
            }
        }
    }

    /// Reads a number by its value, or a word.
    fn scalar(&mut self) -> Result<Cow<'d, str>, Unreadable> {
        let from = self.at;
        self.word();
        let spelled = &self.text[from..self.at];
        if let "true" | "false" | "null" = spelled {
            return Ok(spelled.into());
        }
        number(spelled).ok_or(Unreadable { at: from, expected: "a value" })
    }

    /// Writes a value in its canonical form, in which equal values are identical: no spaces,
    /// members sorted by name, numbers and strings by value.
    fn canonical(&mut self, out: &mut String, levels: usize) -> Result<(), Unreadable> {
        match self.peek() {
            Some(b'{' | b'[') if levels == 0 => self.spelled(out)?,
            Some(b'{') => {
                let mut members: BTreeMap<Cow<'d, str>, String> = BTreeMap::new();
                let mut more = self.enter(b'}');
                while more {
                    let name = self.name()?.text()?;
                    let mut value = String::new();
                    self.canonical(&mut value, levels - 1)?;
                    members.insert(name, value);
                    more = self.next(b'}', "`,` or `}`")?;
                }
                out.push('{');
                for (number, (name, value)) in members.iter().enumerate() {
                    let comma = if number == 0 { "" } else { "," };
                    push(out, format_args!("{comma}{}:{value}", serde_json::Value::from(&**name)));
                }
                out.push('}');
            }
            Some(b'[') => {
                out.push('[');
                let mut more = self.enter(b']');
                while more {
                    self.canonical(out, levels - 1)?;
                    more = self.next(b']', "`,` or `]`")?;
                    out.push_str(if more { "," } else { "" });
                }
                out.push(']');
            }
            Some(b'"') => push(out, format_args!("{}", serde_json::Value::from(&*self.string()?.text()?))),
            _ => out.push_str(&self.scalar()?),
        }
        Ok(())
    }

    /// Writes an object or array as it is written in the text, without the spaces between its
    /// parts.
    fn spelled(&mut self, out: &mut String) -> Result<(), Unreadable> {
        let mut end = Walk { ..*self };
        end.skip_value()?;
        while self.at < end.at {
            let from = self.at;
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                _ => self.at += 1,
            }
            out.push_str(self.text[from..self.at].trim_ascii());
        }
        Ok(())
    }
}

/// A string as it appears in the text, with its quotes.
struct Quoted<'d> {
    quoted: &'d str,
    at: usize,
}

impl<'d> Quoted<'d> {
    fn raw(&self) -> &'d str {
        &self.quoted[1..self.quoted.len() - 1]
    }

    fn text(&self) -> Result<Cow<'d, str>, Unreadable> {
        if !self.raw().contains('\\') {
            return Ok(self.raw().into());
        }
        let text: Result<String, _> = serde_json::from_str(self.quoted);
        let unreadable = Unreadable { at: self.at, expected: "a string without half a surrogate pair" };
        text.map(Cow::Owned).map_err(|_| unreadable)
    }

    fn is(&self, wanted: &str) -> bool {
        // An escape is longer than its character. A name that cannot be decoded matches no pointer.
        self.raw() == wanted || self.raw().len() > wanted.len() && self.text().is_ok_and(|name| name == wanted)
    }
}

/// A number's canonical text: `1`, `1.0` and `10e-1` are `1`; `-0` is `0`. None if the text is not
/// a number.
fn number(spelled: &str) -> Option<Cow<'_, str>> {
    let (sign, magnitude) = match spelled.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", spelled),
    };
    let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (magnitude, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let (below_one, power) = match exponent.and_then(|text| text.strip_prefix('-')) {
        Some(power) => (true, Some(power)),
        None => (false, exponent.map(|text| text.strip_prefix('+').unwrap_or(text))),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let padded = whole.len() > 1 && whole.starts_with('0');
    if !digits(whole) || padded || !fraction.is_none_or(digits) || !power.is_none_or(digits) {
        return None;
    }
    if fraction.is_none() && power.is_none() && whole != "0" && whole.len() <= MAX_ZEROS as usize {
        return Some(spelled.into());
    }
    let all = format!("{whole}{}", fraction.unwrap_or_default());
    let leading = all.len() - all.trim_start_matches('0').len();
    let significant = all.trim_matches('0');
    if significant.is_empty() {
        return Some("0".into());
    }
    let power: i64 = match power.unwrap_or_default().trim_start_matches('0') {
        "" => 0,
        digits if digits.len() > 18 => return Some(spelled.into()),
        digits => digits.parse().ok()?,
    };
    // The value is 0.SIGNIFICANT times ten to the power of `point`.
    let point = whole.len() as i64 - leading as i64 + if below_one { -power } else { power };
    let count = significant.len() as i64;
    let text = if point >= count && point - count <= MAX_ZEROS {
        format!("{sign}{significant}{}", "0".repeat((point - count) as usize))
    } else if point > 0 && point < count {
        let (whole, fraction) = significant.split_at(point as usize);
        format!("{sign}{whole}.{fraction}")
    } else if point <= 0 && -point <= MAX_ZEROS {
        format!("{sign}0.{}{significant}", "0".repeat(-point as usize))
    } else {
        let (first, rest) = significant.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{sign}{first}{dot}{rest}e{}", point - 1)
    };
    Some(text.into())
}

#[cfg(test)]
mod tests;
