//! Functions that make text from plugins, tenants and applications safe to display.
//!
//! Three kinds of characters are unsafe. Control characters (C0, DEL and C1) can control a
//! terminal. U+2028 and U+2029 end a line for some readers. Bidirectional controls show words in a
//! different order. [`printable`] and [`one_line`] replace them for a terminal, a table or an error
//! file. [`quoted`] escapes them for a field of a log line. [`json`] and [`json_string`] escape
//! them for machines, without losing any. All are applied where text leaves the host; stored text
//! stays unchanged.

use std::{borrow::Cow, fmt::Write};

/// Maximum number of items of a list that are displayed. 50: more than a hand-written descriptor
/// has.
const LISTED: usize = 50;

/// Whether a character could control a terminal or make a line read differently.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // The marks and controls of bidirectional text, and deprecated controls of shaping.
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Separators of lines and paragraphs.
            | '\u{2028}' | '\u{2029}'
            // Annotations: text that is present but not displayed.
            | '\u{fff9}'..='\u{fffb}'
        )
}

/// Whether a text is ASCII without control characters, as most texts are. This check is fast.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text with U+FFFD for each unsafe character. Line breaks stay, and tabs become spaces.
pub fn printable(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(|c| is_unsafe(c) && c != '\n') {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| match c {
        '\n' => c,
        '\t' => ' ',
        c if is_unsafe(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    Cow::Owned(shown.collect())
}

/// The text on one line, made printable: line breaks become spaces as well.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match printable(text) {
        shown if shown.contains('\n') => Cow::Owned(shown.replace('\n', " ")),
        shown => shown,
    }
}

/// The text in double quotes, with `"`, `\` and unsafe characters escaped, so that its end cannot
/// be forged. It is cut after about `most` bytes, with a note of how many are left out.
pub fn quoted(text: &str, most: usize) -> String {
    quoted_with(text, most, |quoted, c| _ = write!(quoted, "\\u{{{:x}}}", u32::from(c)))
}

/// The text as a JSON string with unsafe characters escaped. It is cut like [`quoted`] text.
pub fn json_string(text: &str, most: usize) -> String {
    // All unsafe characters have at most four hexadecimal digits.
    quoted_with(text, most, |quoted, c| _ = write!(quoted, "\\u{:04x}", u32::from(c)))
}

/// The text in double quotes, cut after about `most` bytes. `escape` writes each unsafe character.
fn quoted_with(text: &str, most: usize, escape: impl Fn(&mut String, char)) -> String {
    let mut quoted = String::with_capacity(text.len().min(most) + 2);
    quoted.push('"');
    for (at, c) in text.char_indices() {
        if quoted.len() > most {
            let _ = write!(quoted, "… ({} bytes more)", text.len() - at);
            break;
        }
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_unsafe(c) => escape(&mut quoted, c),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// JSON text with unsafe characters escaped and no line break. Its value stays the same: in valid
/// JSON they appear only in strings, and line breaks and tabs only between values.
pub fn json(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.push(' '),
            c if is_unsafe(c) => _ = write!(escaped, "\\u{:04x}", u32::from(c)),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// The beginning of a text, at most `most` bytes, with a note of how many are left out.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(most);
    Cow::Owned(format!("{}… ({} bytes more)", &text[..end], text.len() - end))
}

/// The beginning of a text, at most `bytes` bytes including the ellipsis that ends it: for columns
/// and other places with an exact bound.
pub fn within(text: &str, bytes: usize) -> Cow<'_, str> {
    const ELLIPSIS: char = '…';
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(bytes.saturating_sub(ELLIPSIS.len_utf8()));
    Cow::Owned(format!("{}{ELLIPSIS}", &text[..end]))
}

/// The last whole lines of a text, at most `bytes` bytes including a first line `…` for those that
/// are left out. Of a last line that is too long, its end.
pub fn end_within(text: &str, bytes: usize) -> Cow<'_, str> {
    const LEFT_OUT: &str = "…\n";
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let from = text.len() - bytes.saturating_sub(LEFT_OUT.len());
    let rest = &text[text.ceil_char_boundary(from)..];
    // The first line of the rest may have lost its beginning.
    let whole = rest.split_once('\n').map(|(_, whole)| whole).filter(|whole| !whole.is_empty());
    Cow::Owned(format!("{LEFT_OUT}{}", whole.unwrap_or(rest)))
}

/// The first items of a list, with a note of how many are left out.
pub fn some_of<T: AsRef<str>>(items: &[T], separator: &str) -> String {
    let shown: Vec<&str> = items.iter().take(LISTED).map(AsRef::as_ref).collect();
    match items.len().saturating_sub(LISTED) {
        0 => shown.join(separator),
        more => format!("{} and {more} more", shown.join(separator)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_replaced_for_people() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\nc\u{fffd}");
        assert_eq!(
            printable("\0\u{202e}gnp\u{2066}\u{2028}\u{200f}\t."),
            "\u{fffd}\u{fffd}gnp\u{fffd}\u{fffd}\u{fffd} ."
        );
        // Other scripts, and the joiner inside emoji, are kept.
        for kept in ["Grüße, 世界", "سلام", "a\u{200d}b", "two\nlines"] {
            assert!(matches!(printable(kept), Cow::Borrowed(same) if same == kept), "{kept}");
        }
        assert_eq!(one_line("a\nb\u{2029}c"), "a b\u{fffd}c");
    }

    #[test]
    fn quoted_text_cannot_forge_its_end() {
        assert_eq!(quoted("x\" tenant=\"quiet", 100), r#""x\" tenant=\"quiet""#);
        assert_eq!(quoted("a\\\n\t\u{1b}\u{85}\u{202e}é", 100), r#""a\\\n\t\u{1b}\u{85}\u{202e}é""#);
    }

    #[test]
    fn escaped_json_keeps_its_value_and_has_no_unsafe_character() {
        let value = serde_json::json!({"a\u{9b}": ["\u{202e}", "\x1b\u{2028}\u{7f}\n", "é"]});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = json(&text);
        assert!(!escaped.contains(is_unsafe), "{escaped:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        assert_eq!(json(r#"{"a":"b"}"#), r#"{"a":"b"}"#);
        let words = "a\u{9b}\"\\\u{202e}\x1b\0\u{2028}\u{fffb}\r\n\té𝄞";
        let string = json_string(words, 100);
        assert!(!string.contains(is_unsafe), "{string:?}");
        assert_eq!(serde_json::from_str::<String>(&string).unwrap(), words);
        assert_eq!(json_string("\u{9b}\u{9b}\u{9b}", 7), "\"\\u009b\\u009b… (2 bytes more)\"");
    }

    #[test]
    fn a_text_that_is_cut_names_how_much_is_left_out() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(quoted("\"\"\"\"", 4), r#""\"\"… (2 bytes more)""#);
        assert_eq!(cut("aé", 2), "a… (2 bytes more)");
        assert_eq!(within("short", 5), "short");
        assert_eq!(within("longer", 5), "lo…");
        assert_eq!(end_within("a\nb", 3), "a\nb");
        assert_eq!(end_within("one\ntwo\nthree\n", 13), "…\nthree\n");
        assert_eq!(end_within("a line that is too long", 10), "…\no long");
        assert_eq!(some_of(&["a", "b"], ", "), "a, b");
        let many: Vec<String> = (0..LISTED + 7).map(|number| number.to_string()).collect();
        assert!(some_of(&many, " ").ends_with(" 48 49 and 7 more"), "{}", some_of(&many, " "));
    }
}
