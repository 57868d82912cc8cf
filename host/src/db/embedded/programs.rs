//! Finds PostgreSQL's server programs on this machine.
//!
//! Distributions keep them off the `PATH`, one directory for each major version, so this looks where they put them. It only
//! looks: nothing is downloaded or installed. An explicit `SANDMILL_PG_BIN` is taken or refused, never passed over.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The variable that names the directory of the programs.
pub(super) const VARIABLE: &str = "SANDMILL_PG_BIN";
/// The oldest server Sandmill works with: what it needs from `pg_snapshot` and `xid8` is complete since then.
const OLDEST: u32 = 14;
/// Where packages put the programs; at most one `*` a pattern.
const USUAL_PLACES: [&str; 6] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// A directory with `postgres`, `initdb` and `pg_ctl` of one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Programs {
    pub(super) version: Version,
    pub(super) directory: PathBuf,
}

/// Major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Every place that was looked at and what was there, for the error that says so.
pub(super) struct Findings {
    usable: Vec<Programs>,
    looked_at: Vec<String>,
}

impl Findings {
    /// Looks at the explicit place if one is given, else at all places.
    pub(super) fn gather() -> Self {
        let mut findings = Findings { usable: Vec::new(), looked_at: Vec::new() };
        if let Some(explicit) = env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
            findings.look_at(VARIABLE, Path::new(&explicit));
            return findings;
        }
        match Command::new("pg_config").arg("--bindir").output() {
            Ok(output) => {
                let directory = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                findings.look_at("pg_config --bindir", Path::new(&directory));
            }
            Err(_) => findings.looked_at.push("pg_config --bindir: no such program".into()),
        }
        let on_path = env::var_os("PATH")
            .and_then(|path| env::split_paths(&path).map(|d| d.join("postgres")).find(|p| p.is_file()))
            // A link to the program leads to the directory that has the others as well.
            .and_then(|program| program.canonicalize().ok());
        match on_path.as_deref().and_then(Path::parent) {
            Some(directory) => findings.look_at("PATH", directory),
            None => findings.looked_at.push("PATH: no program named postgres".into()),
        }
        for pattern in USUAL_PLACES {
            let places = expand(pattern);
            if places.is_empty() {
                findings.looked_at.push(format!("{pattern}: nothing there"));
            }
            for place in places {
                findings.look_at(pattern, &place);
            }
        }
        findings
    }

    fn look_at(&mut self, how: &str, directory: &Path) {
        let shown = format!("{how}: {}", directory.display());
        if self.usable.iter().any(|p| p.directory == directory) {
            return;
        }
        let missing = ["postgres", "initdb", "pg_ctl"].into_iter().find(|name| !directory.join(name).is_file());
        if let Some(missing) = missing {
            self.looked_at.push(format!("{shown} has no {missing}"));
            return;
        }
        let output = Command::new(directory.join("postgres")).arg("--version").output();
        let said = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        match parse_version(&said) {
            Some(version) if version.0 < OLDEST => {
                self.looked_at.push(format!("{shown} is {version}, older than {OLDEST}"));
            }
            Some(version) => {
                self.looked_at.push(format!("{shown} is {version}"));
                self.usable.push(Programs { version, directory: directory.to_owned() });
            }
            None => self.looked_at.push(format!("{shown} does not tell its version")),
        }
    }

    /// The newest programs, or the newest of one major version where data of that version is there already.
    pub(super) fn newest(&self, major: Option<u32>) -> Option<&Programs> {
        self.usable.iter().filter(|p| major.is_none_or(|m| p.version.0 == m)).max()
    }

    /// What was looked at, one place a line.
    pub(super) fn looked_at(&self) -> String {
        self.looked_at.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// The directories that a pattern stands for.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return Some(PathBuf::from(pattern)).filter(|p| p.is_dir()).into_iter().collect();
    };
    // "/usr/pgsql-*/bin" is listed in /usr by names that begin with "pgsql-", and followed by "bin".
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(after.trim_start_matches('/')))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian …)`; versions in preparation say `18beta1`.
fn parse_version(said: &str) -> Option<Version> {
    let number = said.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let mut parts = number.split('.');
    let major: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some(Version(major.parse().ok()?, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(Version(15, 18)));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some(Version(18, 0)));
        assert_eq!(parse_version("initdb (PostgreSQL) 15.18"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn the_newest_wins_by_number_and_not_by_text() {
        let at = |major, minor| Programs { version: Version(major, minor), directory: format!("/pg/{major}").into() };
        let findings = Findings { usable: vec![at(15, 9), at(9, 6), at(15, 18)], looked_at: Vec::new() };
        assert_eq!(findings.newest(None), Some(&at(15, 18)));
        assert_eq!(findings.newest(Some(9)), Some(&at(9, 6)));
        assert_eq!(findings.newest(Some(16)), None);
    }

    #[test]
    fn a_star_stands_for_part_of_one_name() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pgsql-14/bin", "pgsql-16/bin", "pgsql-17", "other/bin"] {
            std::fs::create_dir_all(parent.path().join(name)).unwrap();
        }
        let pattern = format!("{}/pgsql-*/bin", parent.path().display());
        assert_eq!(expand(&pattern), [parent.path().join("pgsql-14/bin"), parent.path().join("pgsql-16/bin")]);
        assert_eq!(expand("/no/such/place-*/bin"), Vec::<PathBuf>::new());
    }
}
