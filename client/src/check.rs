//! The rules for names, with messages for people. The database holds the same rules; these say sooner and better what is wrong.

/// The most bytes a stream's name may have. It is part of an index, and an index entry must stay far below a page.
pub const LONGEST_STREAM: usize = 512;
/// The most bytes an event's type may have.
pub const LONGEST_TYPE: usize = 200;
/// The most bytes an event's id may have.
pub const LONGEST_ID: usize = 200;
/// The most characters a tenant's name may have: it becomes a directory's name and a label of metrics.
pub const LONGEST_TENANT: usize = 64;

/// Whether this can name a tenant, or why it cannot.
pub fn tenant(name: &str) -> Result<(), String> {
    let mut characters = name.chars();
    let begins_well = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let goes_on_well = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if begins_well && goes_on_well && name.len() <= LONGEST_TENANT {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be a tenant: a tenant is 1 to {LONGEST_TENANT} ASCII letters, digits, dots, underscores and dashes, \
         and begins with a letter or digit"
    ))
}

/// Whether this can name a stream, or why it cannot.
pub fn stream(name: &str) -> Result<(), String> {
    text("a stream", name, LONGEST_STREAM)
}

/// Whether this can be an event's type, or why it cannot.
pub fn event_type(name: &str) -> Result<(), String> {
    text("an event's type", name, LONGEST_TYPE)
}

/// Whether this can be an event's id, or why it cannot.
pub fn id(id: &str) -> Result<(), String> {
    text("an event's id", id, LONGEST_ID)
}

fn text(what: &str, text: &str, longest: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} must not be empty"));
    }
    if text.len() > longest {
        return Err(format!("{what} may have {longest} bytes at most; this one has {}", text.len()));
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
    fn tenants_are_plain_names() {
        for good in ["default", "UA", "9E", "a", "acme.eu-west_1", &"x".repeat(64)] {
            assert_eq!(tenant(good), Ok(()));
        }
        for bad in ["", ".hidden", "-a", "_a", "a b", "a/b", "ä", "a\n", "a\0", &"x".repeat(65)] {
            assert!(tenant(bad).unwrap_err().starts_with(&format!("{bad:?} cannot be a tenant")));
        }
    }

    #[test]
    fn other_names_are_any_text_within_bounds() {
        assert_eq!(stream("Ware/ü 1"), Ok(()));
        assert_eq!(stream(&"ü".repeat(256)), Ok(()));
        assert_eq!(stream(&"ü".repeat(257)).unwrap_err(), "a stream may have 512 bytes at most; this one has 514");
        assert_eq!(event_type("").unwrap_err(), "an event's type must not be empty");
        assert_eq!(id("a\0").unwrap_err(), "an event's id must not contain U+0000; this one is \"a\\0\"");
    }
}
