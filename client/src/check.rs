//! Rules for names and JSON, with messages for people. The database enforces the same rules; a
//! check here saves a round trip and a failed transaction.

/// Maximum length of a stream's name, in bytes. It is part of an index, and an index entry must
/// stay far below a page.
pub const LONGEST_STREAM: usize = 512;
/// Maximum length of an event's type, in bytes.
pub const LONGEST_TYPE: usize = 200;
/// Maximum length of an event's id, in bytes.
pub const LONGEST_ID: usize = 200;
/// Maximum length of a tenant's name, in characters. The name becomes a folder's name and a label
/// of metrics.
pub const LONGEST_TENANT: usize = 64;

/// Checks a tenant's name.
///
/// # Errors
///
/// The broken rule, for people.
pub fn tenant(name: &str) -> Result<(), String> {
    let mut characters = name.chars();
    let first_is_valid = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest_is_valid = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if first_is_valid && rest_is_valid && name.len() <= LONGEST_TENANT {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be a tenant: use 1 to {LONGEST_TENANT} ASCII letters, digits, dots, underscores and hyphens, \
         beginning with a letter or digit"
    ))
}

/// Checks a stream's name.
///
/// # Errors
///
/// The broken rule, for people.
pub fn stream(name: &str) -> Result<(), String> {
    text("a stream", name, LONGEST_STREAM)
}

/// Checks an event's type.
///
/// # Errors
///
/// The broken rule, for people.
pub fn event_type(name: &str) -> Result<(), String> {
    text("an event's type", name, LONGEST_TYPE)
}

/// Checks an event's id.
///
/// # Errors
///
/// The broken rule, for people.
pub fn id(id: &str) -> Result<(), String> {
    text("an event's id", id, LONGEST_ID)
}

/// Maximum nesting of JSON, in levels. CPython's parser fails near 1,000 levels, QuickJS's near
/// 3,000.
pub const DEEPEST_JSON: usize = 512;
/// Maximum length of a number in JSON, in characters. CPython rejects integers of more than 4,300
/// digits.
pub const LONGEST_NUMBER: usize = 1_000;

/// Checks that plugins in every language can read JSON. It is scanned once and not validated
/// otherwise.
///
/// # Errors
///
/// The broken bound, in words that fit after "its data".
pub fn readable_json(json: &str) -> Result<(), &'static str> {
    let (mut depth, mut number, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        number = if matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') { number + 1 } else { 0 };
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST_JSON {
            return Err("is nested deeper than 512 levels");
        }
        if number > LONGEST_NUMBER {
            return Err("has a number of more than 1,000 characters");
        }
    }
    Ok(())
}

/// Checks the length of a name, and that it has no U+0000.
fn text(what: &str, text: &str, longest: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} must not be empty; use 1 to {longest} bytes"));
    }
    if text.len() > longest {
        return Err(format!("{what} must not have more than {longest} bytes; this one has {}", text.len()));
    }
    if text.contains('\0') {
        return Err(format!("{what} must not contain U+0000; this one is {text:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_have_ascii_names_of_64_characters_at_most() {
        for good in ["default", "UA", "9E", "a", "acme.eu-west_1", &"x".repeat(64)] {
            assert_eq!(tenant(good), Ok(()));
        }
        for bad in ["", ".hidden", "-a", "_a", "a b", "a/b", "ä", "a\n", "a\0", &"x".repeat(65)] {
            assert!(tenant(bad).unwrap_err().starts_with(&format!("{bad:?} cannot be a tenant")));
        }
    }

    #[test]
    fn json_beyond_the_bounds_of_nesting_and_numbers_is_rejected() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let mixed = |levels: usize| format!("{}1{}", r#"[{"a":"]]}\"}","b":"#.repeat(levels), "}]".repeat(levels));
        for good in
            [nested(512), mixed(256), "1".repeat(1_000), format!("\"{}\"", "[1".repeat(2_000)), "[1e400]".into()]
        {
            assert_eq!(readable_json(&good), Ok(()));
        }
        for deep in [nested(513), mixed(257), format!("[1,{}]", nested(512)), "{\"a\":".repeat(600)] {
            assert_eq!(readable_json(&deep), Err("is nested deeper than 512 levels"));
        }
        for long in
            ["1".repeat(1_001), format!("[1,-1.{}e5]", "0".repeat(996)), format!("{{\"a\":{}}}", "9".repeat(4_301))]
        {
            assert_eq!(readable_json(&long), Err("has a number of more than 1,000 characters"));
        }
        assert_eq!(readable_json(&format!("[{}]", "-1.5e+9,".repeat(5_000))), Ok(()));
    }

    #[test]
    fn other_names_are_any_text_within_their_bounds() {
        assert_eq!(stream("Ware/ü 1"), Ok(()));
        assert_eq!(stream(&"ü".repeat(256)), Ok(()));
        assert_eq!(
            stream(&"ü".repeat(257)).unwrap_err(),
            "a stream must not have more than 512 bytes; this one has 514"
        );
        assert_eq!(event_type("").unwrap_err(), "an event's type must not be empty; use 1 to 200 bytes");
        assert_eq!(id("a\0").unwrap_err(), "an event's id must not contain U+0000; this one is \"a\\0\"");
    }
}
