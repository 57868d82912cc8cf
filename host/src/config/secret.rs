//! Masking of the password in a database's address. It masks too much rather than too little: even
//! a malformed address must not reveal its password.

const MASK: &str = "***";

/// The address in either of libpq's forms, with `***` for each password.
pub(super) fn mask(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", mask_url(rest)),
        None => mask_words(address),
    }
}

fn mask_url(rest: &str) -> String {
    // A password may contain an unescaped @, so the last one counts.
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let user = user.map(|user| match user.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}@"),
        None => format!("{user}@"),
    });
    let (place, query) = place.split_once('?').map_or((place, None), |(place, query)| (place, Some(query)));
    let query = query.map(|query| {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}={MASK}"),
            _ => part.to_owned(),
        });
        format!("?{}", parts.collect::<Vec<_>>().join("&"))
    });
    user.unwrap_or_default() + place + &query.unwrap_or_default()
}

/// Masks `key=value` words. A value may be quoted, and spaces may surround the `=`.
fn mask_words(address: &str) -> String {
    let (mut masked, mut rest) = (String::new(), address);
    while let Some((before, value)) = rest.split_once('=') {
        let key = before.split_whitespace().next_back().unwrap_or_default();
        let spaces = value.len() - value.trim_start().len();
        let end = spaces + end_of_word(&value[spaces..]);
        masked.push_str(before);
        masked.push('=');
        masked.push_str(if is_secret(key) { MASK } else { &value[..end] });
        rest = &value[end..];
    }
    masked + rest
}

/// The end of a value: at a space, or after the closing quote of a quoted one. A backslash escapes
/// the next character.
fn end_of_word(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '\'' if quoted => return at + 1,
            c if !quoted && c.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_secret(key: &str) -> bool {
    key.to_ascii_lowercase().ends_with("password")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_in_every_form() {
        for (given, shown) in [
            ("", ""),
            ("postgresql://ada@h:5432/d", "postgresql://ada@h:5432/d"),
            ("postgresql://h/d?application_name=x", "postgresql://h/d?application_name=x"),
            ("postgresql://ada:s3cret@h/d", "postgresql://ada:***@h/d"),
            ("postgres://ada:s3:c@r/et@h/d?sslmode=disable", "postgres://ada:***@h/d?sslmode=disable"),
            ("postgresql://h/d?user=a&password=s3cret&x=y", "postgresql://h/d?user=a&password=***&x=y"),
            ("host=h user=a password=s3cret dbname=d", "host=h user=a password=*** dbname=d"),
            (r"password = 's3 \' cret' host=h", "password =*** host=h"),
            ("host=h password='s3cret", "host=h password=***"),
        ] {
            assert_eq!(mask(given), shown);
        }
    }
}
