//! A parser of addresses in libpq's two forms.
//!
//! No error quotes a value: any part of a malformed address may belong to a password.

use std::collections::BTreeMap;

/// The parameters of an address: values by name.
pub(super) type Parameters = BTreeMap<String, String>;

/// Parses a URI, or a list of `NAME=VALUE`.
pub(super) fn parse(text: &str) -> Result<Parameters, String> {
    let text = text.trim();
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None if text.contains("://") => Err("it looks like a URI, but does not begin with postgresql://".into()),
        None => list(text),
    }
}

/// `[USER[:PASSWORD]@][HOST[:PORT][,…]][/DATABASE][?NAME=VALUE[&…]]`, with percent escapes.
fn uri(rest: &str) -> Result<Parameters, String> {
    let mut found = Parameters::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = match authority.split_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    if hosts.contains('@') || database.contains('@') {
        return Err(
            "there is more than one `@`, or one after a `/`; in a user or a password write `@` as %40 and `/` as %2F"
                .into(),
        );
    }
    if let Some(user) = user {
        let (user, password) = user.split_once(':').map_or((user, None), |(user, word)| (user, Some(word)));
        put(&mut found, "user", unescaped(user, "the user")?);
        put(&mut found, "password", unescaped(password.unwrap_or_default(), "the password")?);
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(unescaped(name, "the host")?);
        ports.push(port.to_string());
    }
    put(&mut found, "host", names.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        found.insert("port".into(), ports.join(","));
    }
    put(&mut found, "dbname", unescaped(database, "the database's name")?);
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter after `?` has no `=`")?;
        let name = unescaped(name, "a parameter's name")?;
        match (&*name, value) {
            ("ssl", "true") => found.insert("sslmode".into(), "require".into()),
            _ => found.insert(name, unescaped(value, "a parameter's value")?),
        };
    }
    Ok(found)
}

fn put(found: &mut Parameters, name: &str, value: String) {
    if !value.is_empty() {
        found.insert(name.into(), value);
    }
}

/// `NAME`, `NAME:PORT` or `[IPv6]:PORT`.
fn host_and_port(host: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, port) = rest.split_once(']').ok_or("a host begins with `[` but has no `]`")?;
        return match port.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if port.is_empty() => Ok((name, "")),
            None => Err("a host in brackets is followed by something other than `:PORT`".into()),
        };
    }
    match host.split_once(':') {
        None => Ok((host, "")),
        // A user and password without `@` look like this, too.
        Some((_, port)) if !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("the port is not a number; if it is a password, add `@` and the host after it".into())
        }
        Some(parts) => Ok(parts),
    }
}

/// Decodes percent escapes. `what` names the part in an error.
fn unescaped(text: &str, what: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => return Err(format!("{what} has a `%` without two hexadecimal digits after it; write it as %25")),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
}

/// `NAME = VALUE …`. A value may be in single quotes. `\` takes the next character literally.
fn list(text: &str) -> Result<Parameters, String> {
    let mut found = Parameters::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("a word has no `=` after it; write NAME=VALUE")?;
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("the text before a `=` is not a parameter's name".into());
        }
        let (value, after) = value(after.trim_start())?;
        found.insert(name.into(), value);
        rest = after.trim_start();
    }
    Ok(found)
}

/// Splits a value, quoted or not, from the rest of a list.
fn value(text: &str) -> Result<(String, &str), String> {
    let (text, quoted) = text.strip_prefix('\'').map_or((text, false), |text| (text, true));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            _ if !quoted && character.is_whitespace() => return Ok((value, text.get(at..).unwrap_or_default())),
            _ => value.push(character),
        }
    }
    if quoted { Err("a value begins with `'` but has no closing `'`".into()) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        parse(text).unwrap().into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn both_forms_are_parsed() {
        assert_eq!(shown(""), Vec::<String>::new());
        assert_eq!(shown("postgres://"), Vec::<String>::new());
        assert_eq!(
            shown("postgresql://u:p%40%2Fx@h:5433/d%20e?sslmode=require&options=-c%20a%3Db"),
            ["dbname=d e", "host=h", "options=-c a=b", "password=p@/x", "port=5433", "sslmode=require", "user=u"]
        );
        assert_eq!(shown("postgres://[::1]:7,h/d?ssl=true"), ["dbname=d", "host=::1,h", "port=7,", "sslmode=require"]);
        assert_eq!(shown("postgres:///d?host=/run/pg"), ["dbname=d", "host=/run/pg"]);
        assert_eq!(shown("postgres://u@%2Frun%2Fpg/d"), ["dbname=d", "host=/run/pg", "user=u"]);
        assert_eq!(shown(" host = h user='a b' password='it\\'s \\\\' "), ["host=h", "password=it's \\", "user=a b"]);
        assert_eq!(shown("password='' dbname=a\\ b"), ["dbname=a b", "password="]);
    }

    #[test]
    fn errors_of_a_malformed_address_quote_nothing_of_it() {
        let cases = [
            ("postgres://u:my@secret@h/d", "more than one `@`"),
            ("postgres://u:my/secret@h/d", "or one after a `/`"),
            ("postgres://u:secret", "not a number"),
            ("postgres://u:secr%zzet@h/d", "the password has a `%`"),
            ("postgres://u:secret%00@h/d", "the password has a `%`"),
            ("postgres://u:%ff@h/d", "the password is not UTF-8"),
            ("postgres://u@[::1/d", "no `]`"),
            ("postgres://u@h/d?secret", "no `=`"),
            ("mysql://u:secret@h/d", "not begin with postgresql://"),
            ("host=h secret", "no `=`"),
            ("my secret=h", "not a parameter's name"),
            ("password='secret", "no closing"),
        ];
        for (text, why) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
