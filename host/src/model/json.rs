//! The check of a JSON text that a guest returns as a document.
//!
//! A guest's documents are checked before they are committed, because one that the database rejects
//! would fail the transaction of a whole page. The check accepts exactly the JSON texts (RFC 8259)
//! that:
//!
//! - are an object and nest no deeper than a given depth, at most [`MAX_DEPTH`];
//! - do not use the host's own keys at the top level;
//! - hold nothing that PostgreSQL's `jsonb` rejects: no U+0000, no unpaired surrogate, no number
//!   outside `numeric`.
//!
//! It reads the text once and keeps one flag per level.
//!
//! It also computes the length of the text that PostgreSQL returns for the document. `jsonb` keeps
//! values, not texts: `1e8000` takes a few bytes there and is returned as 8,001 digits. So the
//! length of the written text does not bound the length of the text read back.

/// The deepest nesting of arrays and objects. 128 is serde_json's own limit, so any reader of
/// documents can parse them all.
pub const MAX_DEPTH: usize = 128;

/// Bound on the digits before the point, on the digits after it, and on the magnitude of the
/// exponent. `numeric` holds 131,072 digits before the point and 16,383 after it; the sum of two of
/// these stays within both.
const MAX_DIGITS: usize = 8_000;

/// Top-level keys of a document that are reserved for the host.
const RESERVED: [&str; 2] = ["_id", "_version"];

/// Why a text cannot be a document. Positions are bytes from 0.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// The text is not JSON.
    #[error("not JSON at byte {at}: expected {expected}")]
    Syntax {
        /// Where the text is wrong.
        at: usize,
        /// What is expected there.
        expected: &'static str,
    },
    /// The text is an array, string, number, boolean or null.
    #[error("not a JSON object")]
    NotAnObject,
    /// Arrays and objects are nested too deeply.
    #[error("nested deeper than {most} levels at byte {at}")]
    TooDeep {
        /// The maximum number of levels.
        most: usize,
        /// Where the first excess level begins.
        at: usize,
    },
    /// A string holds U+0000 or half of a surrogate pair.
    #[error("a string holds {what} at byte {at}, which a document cannot")]
    Unstorable {
        /// The offending character.
        what: &'static str,
        /// Where it begins.
        at: usize,
    },
    /// A number's size or precision exceeds the bounds.
    #[error("a number with more than {MAX_DIGITS} digits or a larger exponent at byte {at}")]
    Number {
        /// Where it begins.
        at: usize,
    },
    /// The document uses a top-level key that the host adds itself.
    #[error("the key `{0}` belongs to the host; leave it out")]
    ReservedKey(&'static str),
}

/// Checks that a text can be stored as a document and nests no deeper than `depth` levels, of which
/// the document itself is the first. Returns the length in bytes of the document as PostgreSQL
/// prints it, or a little more if a key is repeated.
pub fn check_document(text: &str, depth: usize) -> Result<usize, Invalid> {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0, depth: depth.min(MAX_DEPTH), printed: 0 };
    scan.space();
    if scan.peek() != Some(b'{') {
        // Syntax errors come first: an empty text is not JSON, rather than "not an object".
        scan.value()?;
        return Err(scan.end().err().unwrap_or(Invalid::NotAnObject));
    }
    scan.value()?;
    scan.end()?;
    Ok(scan.printed)
}

/// Checks that a text is JSON that PostgreSQL's `jsonb` accepts and nests no deeper than `depth`
/// levels: the content of an event.
pub fn check_value(text: &str, depth: usize) -> Result<(), Invalid> {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0, depth: depth.min(MAX_DEPTH), printed: 0 };
    scan.value()?;
    scan.end()
}

/// The same for a JSON object: the metadata of an event.
pub fn check_object(text: &str, depth: usize) -> Result<(), Invalid> {
    check_value(text, depth)?;
    if text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') { Ok(()) } else { Err(Invalid::NotAnObject) }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Length of the text read so far, as `jsonb` prints it: `{"a": [1, 2]}`.
    printed: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, Invalid> {
        Err(Invalid::Syntax { at: self.at, expected })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Invalid> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.expected("the end of the text") }
    }

    /// Reads one value with everything inside it. A stack of one flag per level, set for an object,
    /// replaces recursion.
    fn value(&mut self) -> Result<(), Invalid> {
        let mut levels: Vec<bool> = Vec::new();
        loop {
            self.space();
            let opened = match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if levels.len() == self.depth {
                        return Err(Invalid::TooDeep { most: self.depth, at: self.at });
                    }
                    self.at += 1;
                    self.printed += 2;
                    self.space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek() == Some(close) {
                        self.at += 1;
                        false
                    } else {
                        levels.push(open == b'{');
                        if open == b'{' {
                            self.key(levels.len())?;
                        }
                        true
                    }
                }
                Some(b'"') => {
                    self.string()?;
                    false
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                    false
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return self.expected("a value"),
            };
            if opened {
                continue;
            }
            // A value ended: close levels until one continues.
            loop {
                let Some(&object) = levels.last() else { return Ok(()) };
                self.space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.printed += 2;
                        if object {
                            self.space();
                            self.key(levels.len())?;
                        }
                        break;
                    }
                    Some(b'}') if object => self.at += 1,
                    Some(b']') if !object => self.at += 1,
                    _ if object => return self.expected("`,` or `}`"),
                    _ => return self.expected("`,` or `]`"),
                }
                levels.pop();
            }
        }
    }

    fn word(&mut self, word: &'static str) -> Result<bool, Invalid> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            self.printed += word.len();
            Ok(false)
        } else {
            self.expected("a value")
        }
    }

    /// Reads the key of a member and its colon. Rejects the host's own keys at the top level.
    fn key(&mut self, level: usize) -> Result<(), Invalid> {
        if self.peek() != Some(b'"') {
            return self.expected("a key");
        }
        let from = self.at;
        self.string()?;
        if level == 1 {
            let quoted = &self.text[from..self.at];
            let reserved = if quoted.contains('\\') {
                let key: Result<String, _> = serde_json::from_str(quoted);
                key.ok().and_then(|key| RESERVED.into_iter().find(|r| *r == key))
            } else {
                RESERVED.into_iter().find(|r| quoted.len() == r.len() + 2 && quoted[1..].starts_with(r))
            };
            if let Some(key) = reserved {
                return Err(Invalid::ReservedKey(key));
            }
        }
        self.space();
        if self.peek() != Some(b':') {
            return self.expected("`:`");
        }
        self.at += 1;
        self.printed += 2;
        Ok(())
    }

    /// Reads a string, from its opening quote to its closing quote.
    fn string(&mut self) -> Result<(), Invalid> {
        self.at += 1;
        self.printed += 2;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0) => return Err(Invalid::Unstorable { what: "U+0000", at: self.at }),
                Some(0..0x20) => return self.expected("no control character in a string"),
                Some(_) => {
                    self.at += 1;
                    self.printed += 1;
                }
                None => return self.expected("`\"`"),
            }
        }
    }

    /// Reads an escape sequence, beginning at its backslash; two of them for a surrogate pair.
    fn escape(&mut self) -> Result<(), Invalid> {
        let from = self.at;
        self.at += 1;
        match self.peek() {
            Some(escaped @ (b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => {
                self.at += 1;
                self.printed += if escaped == b'/' { 1 } else { 2 };
                Ok(())
            }
            Some(b'u') => match self.unit()? {
                0 => Err(Invalid::Unstorable { what: "U+0000", at: from }),
                0xdc00..=0xdfff => Err(Invalid::Unstorable { what: "an unpaired surrogate", at: from }),
                0xd800..=0xdbff => {
                    if self.bytes[self.at..].starts_with(b"\\u") {
                        self.at += 1;
                        if let 0xdc00..=0xdfff = self.unit()? {
                            self.printed += 4;
                            return Ok(());
                        }
                    }
                    Err(Invalid::Unstorable { what: "an unpaired surrogate", at: from })
                }
                unit => {
                    self.printed += printed_unit(unit);
                    Ok(())
                }
            },
            _ => self.expected("an escape"),
        }
    }

    /// Reads `uXXXX`, beginning at the `u`.
    fn unit(&mut self) -> Result<u32, Invalid> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            match self.peek().and_then(|c| char::from(c).to_digit(16)) {
                Some(digit) => unit = unit * 16 + digit,
                None => return self.expected("four hexadecimal digits"),
            }
            self.at += 1;
        }
        Ok(unit)
    }

    /// Reads a number, and checks that it is within the bounds of `numeric`.
    fn number(&mut self) -> Result<(), Invalid> {
        let from = self.at;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
        }
        let first = self.at;
        let whole = if self.peek() == Some(b'0') {
            self.at += 1;
            1
        } else {
            self.digits()?
        };
        let mut fraction = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = self.digits()?;
        }
        let digits = &self.bytes[first..self.at];
        let (mut exponent, mut shrinks) = (0, false);
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(sign @ (b'+' | b'-')) = self.peek() {
                shrinks = sign == b'-';
                self.at += 1;
            }
            let digits = self.at;
            self.digits()?;
            exponent = self.text[digits..self.at].parse().unwrap_or(usize::MAX);
        }
        if whole.max(fraction).max(exponent) > MAX_DIGITS {
            return Err(Invalid::Number { at: from });
        }
        let exponent = if shrinks { -(exponent as isize) } else { exponent as isize };
        self.printed += printed_number(negative, digits, whole, fraction, exponent);
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, Invalid> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == from { self.expected("a digit") } else { Ok(self.at - from) }
    }
}

/// Bytes of a character below U+10000 in a printed string.
fn printed_unit(unit: u32) -> usize {
    match unit {
        0x22 | 0x5c | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
        unit if unit < 0x20 => 6,
        unit if unit < 0x80 => 1,
        unit if unit < 0x800 => 2,
        _ => 3,
    }
}

/// Bytes of a number as `numeric` prints it: all digits, with trailing zeros after the point kept,
/// no exponent, and no sign at zero. `digits` are `whole` digits, an optional point, and `fraction`
/// digits.
fn printed_number(negative: bool, digits: &[u8], whole: usize, fraction: usize, exponent: isize) -> usize {
    let behind = (fraction as isize - exponent).max(0) as usize;
    let zeros = digits.iter().filter(|digit| **digit != b'.').take_while(|digit| **digit == b'0').count();
    let is_zero = zeros == whole + fraction;
    let before = if is_zero { 1 } else { (whole as isize + exponent - zeros as isize).max(1) as usize };
    usize::from(negative && !is_zero) + before + if behind > 0 { behind + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_computed_length_is_that_of_postgresqls_text() {
        for (text, printed) in [
            ("{}", "{}"),
            (r#"{"a":[],"b":{"c":[1,true,null]}}"#, r#"{"a": [], "b": {"c": [1, true, null]}}"#),
            (
                r#" { "a" : "\/\u0041\u00e4\u20ac\ud83d\ude00\u0022\u0001\u000a" } "#,
                "{\"a\": \"/Aä€😀\\\"\\u0001\\n\"}",
            ),
            (
                r#"{"a":[-0,-0.0,1.50,15e-1,1.5e1,-1e3,0.001e2,0e5,0.00e1,1E+2]}"#,
                r#"{"a": [0, 0.0, 1.50, 1.5, 15, -1000, 0.1, 0, 0.0, 100]}"#,
            ),
        ] {
            assert_eq!(check_document(text, MAX_DEPTH), Ok(printed.len()), "{text}");
        }
        assert_eq!(check_document(r#"{"a":1e8000}"#, MAX_DEPTH), Ok(7 + 8_001));
        assert_eq!(check_document(r#"{"a":-1e-8000}"#, MAX_DEPTH), Ok(7 + 3 + 8_000));
    }

    #[test]
    fn valid_documents_are_accepted() {
        for text in [
            "{}",
            " { } ",
            r#"{"a":1,"b":[1,2.5e-3,-0,[],{}],"c":{"_id":1},"d":null,"e":true,"f":false}"#,
            r#"{"a":"\ud83d\ude00 \" \\ \/ \b\f\n\r\t é"}"#,
            r#"{"a":1,"a":2}"#,
        ] {
            assert!(check_document(text, MAX_DEPTH).is_ok(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
        assert_eq!(check_document(&deep, MAX_DEPTH), Ok(deep.len() + 1));
        assert_eq!(check_document(r#"{"a":1}"#, 1), Ok(8));
    }

    #[test]
    fn each_rejection_names_its_reason() {
        let rejected = |text: &str| check_document(text, MAX_DEPTH).unwrap_err().to_string();
        assert_eq!(rejected(""), "not JSON at byte 0: expected a value");
        assert_eq!(rejected("[1]"), "not a JSON object");
        assert_eq!(rejected("[1"), "not JSON at byte 2: expected `,` or `]`");
        assert_eq!(rejected("{} x"), "not JSON at byte 3: expected the end of the text");
        assert_eq!(rejected(r#"{"a" 1}"#), "not JSON at byte 5: expected `:`");
        assert_eq!(rejected(r#"{"_id":1}"#), "the key `_id` belongs to the host; leave it out");
        assert_eq!(rejected(r#"{"a":1,"\u005fversion":1}"#), "the key `_version` belongs to the host; leave it out");
        assert_eq!(rejected(r#"{"a":"\u0000"}"#), "a string holds U+0000 at byte 6, which a document cannot");
        assert_eq!(rejected("{\"a\":\"\0\"}"), "a string holds U+0000 at byte 6, which a document cannot");
        for lone in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc00"}"#, r#"{"a":"\ud800\u0041"}"#, r#"{"\ud800x":1}"#] {
            assert!(rejected(lone).contains("an unpaired surrogate"), "{lone}");
        }
        for number in ["1e400000", "1e-9999", &"9".repeat(8_001), &format!("0.{}", "1".repeat(8_001))] {
            assert!(rejected(&format!("{{\"a\":{number}}}")).contains("a number with more than"), "{number}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert_eq!(rejected(&deep), "nested deeper than 128 levels at byte 132");
        assert_eq!(check_document(&deep, usize::MAX), check_document(&deep, MAX_DEPTH));
        assert_eq!(check_document(r#"{"a":{}}"#, 1), Err(Invalid::TooDeep { most: 1, at: 5 }));
    }

    /// On every short text over an alphabet that reaches all branches, the check and serde_json
    /// agree about what is JSON.
    #[test]
    fn agrees_with_serde_json_on_syntax() {
        let alphabet = [b'{', b'}', b'[', b']', b'"', b':', b',', b'1', b'-', b'.', b'e', b' ', b'\\', b'n'];
        let mut text = Vec::new();
        fn grow(text: &mut Vec<u8>, alphabet: &[u8], left: usize) {
            let word = std::str::from_utf8(text).unwrap();
            let ours = check_document(word, MAX_DEPTH);
            let theirs = serde_json::from_str::<serde_json::Value>(word);
            match &theirs {
                Ok(value) => assert_eq!(ours.is_ok(), value.is_object(), "{word}"),
                Err(_) => assert!(matches!(ours, Err(Invalid::Syntax { .. })), "{word}: {ours:?}"),
            }
            if left > 0 {
                for c in alphabet {
                    text.push(*c);
                    grow(text, alphabet, left - 1);
                    text.pop();
                }
            }
        }
        grow(&mut text, &alphabet, 5);
    }
}
