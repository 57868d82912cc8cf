//! The password file, `~/.pgpass`, in libpq's format: lines of `HOST:PORT:DATABASE:USER:PASSWORD`.
//!
//! `*` matches any value, and `\` escapes `:` and `\`. The first matching line counts. A file that
//! other users may read is rejected.

use std::{io, path::Path};

/// The target of a connection, in the terms of the file.
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Finds the password for a connection. `None` if the file has none or does not exist. Fails if
/// others may read the file, or if the address names it and it cannot be read.
pub(super) fn find(path: &Path, is_named: bool, target: &Target<'_>) -> Result<Option<String>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // Usually another user's home folder.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_named => return Ok(None),
        Err(error) => return Err(format!("the password file {} cannot be read: {error}", path.display())),
    };
    let found = password(&text, target);
    if found.is_some() {
        is_private(path)?;
    }
    Ok(found)
}

#[cfg(unix)]
fn is_private(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(format!("other users may read the password file {path}; run `chmod 600 {path}`"))
}

#[cfg(not(unix))]
fn is_private(_: &Path) -> Result<(), String> {
    Ok(())
}

/// The password of the first line that matches the target.
fn password(text: &str, target: &Target<'_>) -> Option<String> {
    let wanted = [target.host, target.port, target.database, target.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (mut fields, mut field, mut characters) = (Vec::new(), String::new(), line.chars());
        while let Some(character) = characters.next() {
            match character {
                '\\' => field.extend(characters.next()),
                ':' if fields.len() < wanted.len() => fields.push(std::mem::take(&mut field)),
                _ => field.push(character),
            }
        }
        let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        (fields.len() == wanted.len() && fits).then_some(field)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'static> = Target { host: "h", port: "5432", database: "d", user: "a:b" };

    #[test]
    fn the_first_matching_line_counts() {
        let text = "# h:5432:d:a\\:b:comment\nh:5433:d:a\\:b:port\nshort:line\nh:*:d:a\\:b:it\\:s:\\\\\n*:*:*:*:any\n";
        assert_eq!(password(text, &TARGET).as_deref(), Some("it:s:\\"));
        assert_eq!(password(text, &Target { user: "c", ..TARGET }).as_deref(), Some("any"));
        assert_eq!(password("h:5432:d:c:no", &TARGET), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_rejected_if_it_has_the_password() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("sandmill-pgpass-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("pgpass");
        assert_eq!(find(&path, true, &TARGET), Ok(None), "there is none");
        std::fs::write(&path, "*:*:*:*:secret").unwrap();
        let allow = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        allow(0o644);
        let error = find(&path, true, &TARGET).unwrap_err();
        assert!(error.contains("chmod 600") && !error.contains("secret"), "{error}");
        allow(0o600);
        assert_eq!(find(&path, true, &TARGET), Ok(Some("secret".into())));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
