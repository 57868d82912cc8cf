//! Masking of the password in a database's address, for output.
//!
//! Only known parts of a well-formed address are shown. A value whose key is not known to be
//! harmless is masked, and a malformed address is masked as a whole, because any part of it may be
//! the password.

const MASK: &str = "***";

/// Parameters whose values are shown.
const SHOWN: [&str; 15] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "passfile",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// The address in either of libpq's forms, with `***` for what may be a password.
pub(super) fn mask(address: &str) -> String {
    let url =
        ["postgresql://", "postgres://"].into_iter().find_map(|scheme| Some((scheme, address.strip_prefix(scheme)?)));
    match url {
        Some((scheme, rest)) => format!("{scheme}{}", mask_url(rest).unwrap_or_else(|| MASK.into())),
        None => mask_words(address).unwrap_or_else(|| MASK.into()),
    }
}

/// The masked rest of a URL; none if it is malformed.
fn mask_url(rest: &str) -> Option<String> {
    let (before, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    // A password may contain an unescaped @, so the last one counts.
    let (user, place) = before.rsplit_once('@').map_or((None, before), |(user, place)| (Some(user), place));
    let user = user.map(|user| match user.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}@"),
        None => format!("{user}@"),
    });
    let hosts = place.split('/').next().unwrap_or_default();
    // Without a user, a name and a password look like a host and a port.
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = |host: &str| match host.rsplit_once(':') {
        Some((_, port)) => is_port(port) || host.ends_with(']'),
        None => true,
    };
    if !hosts.split(',').all(has_port) {
        return None;
    }
    let query = match query {
        None => String::new(),
        // What follows may be the rest of a password with a question mark.
        Some(query) if query.contains('@') => return None,
        Some(query) => {
            let parts: Option<Vec<String>> = query
                .split('&')
                .map(|part| part.split_once('=').map(|(key, value)| format!("{key}={}", shown(key, value))))
                .collect();
            format!("?{}", parts?.join("&"))
        }
    };
    Some(user.unwrap_or_default() + place + &query)
}

/// Masked `key=value` words; none if they are malformed. A value may be quoted, and spaces may
/// surround the `=`.
fn mask_words(address: &str) -> Option<String> {
    let (mut masked, mut rest) = (Vec::new(), address.trim());
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        let (key, value) = (key.trim_end(), value.trim_start());
        if key.contains(char::is_whitespace) {
            return None;
        }
        let (value, after) = value.split_at(end_of_word(value)?);
        masked.push(format!("{key}={}", shown(key, value)));
        rest = after.trim_start();
    }
    Some(masked.join(" "))
}

/// The end of a value: at a space, or after the closing quote of a quoted one. A backslash escapes
/// the next character. None if a quote is not closed.
fn end_of_word(text: &str) -> Option<usize> {
    let quoted = text.starts_with('\'');
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '\'' if quoted => return Some(at + 1),
            c if !quoted && c.is_whitespace() => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

/// The value of a parameter, masked unless it is known to be harmless.
fn shown<'v>(key: &str, value: &'v str) -> &'v str {
    let is_harmless = SHOWN.contains(&key) && !value.to_ascii_lowercase().contains("pass");
    if is_harmless || key == "passfile" { value } else { MASK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_in_every_form() {
        for (given, shown) in [
            ("", ""),
            ("postgresql://ada@h:5432/d", "postgresql://ada@h:5432/d"),
            ("postgresql://[::1]:5432,h/d", "postgresql://[::1]:5432,h/d"),
            ("postgresql://h/d?application_name=x", "postgresql://h/d?application_name=x"),
            ("postgresql://ada:s3cret@h/d", "postgresql://ada:***@h/d"),
            ("postgres://ada:s3:c@r/et@h/d?sslmode=disable", "postgres://ada:***@h/d?sslmode=disable"),
            ("postgresql://h/d?user=a&password=s3cret&port=1", "postgresql://h/d?user=a&password=***&port=1"),
            ("postgresql://h/d?pass%77ord=s3cret", "postgresql://h/d?pass%77ord=***"),
            ("host=h user=a password=s3cret dbname=d", "host=h user=a password=*** dbname=d"),
            (r"password = 's3 \' cret' host=h", "password=*** host=h"),
            ("host=h password=a://b", "host=h password=***"),
        ] {
            assert_eq!(mask(given), shown);
        }
    }

    #[test]
    fn a_malformed_address_is_masked_as_a_whole() {
        for given in [
            "ada:s3cret@h/d",
            "postgresql:/ada:s3cret@h/d",
            "host=h password='s3cret",
            "host=h password=s3 cret",
            "s3cret host=h",
        ] {
            assert_eq!(mask(given), MASK, "{given}");
        }
        for given in ["postgresql://ada:s3cret", "postgresql://h/d?password=s3@cret", "postgres://ada:s3?cret@h/d"] {
            assert!(mask(given).ends_with("://***"), "{given}");
        }
        assert_eq!(mask("postgresql://h/d?user=a;password=s3"), "postgresql://h/d?user=***");
    }
}
