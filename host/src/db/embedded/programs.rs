//! A search for PostgreSQL's server programs on this machine.
//!
//! Distributions keep them off the `PATH`, in one directory for each major version, so the search
//! knows those directories. Nothing is downloaded or installed. If `SANDMILL_PG_BIN` is set, only
//! that directory is searched.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The environment variable that names the directory of the programs.
pub(super) const VARIABLE: &str = "SANDMILL_PG_BIN";
/// The oldest usable major version: the functions on `pg_snapshot` and `xid8` are complete since
/// then.
const OLDEST: u32 = 14;
/// Directories where packages install the programs; at most one `*` in each pattern.
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
    pub(super) version: ServerVersion,
    pub(super) directory: PathBuf,
}

/// A server's version: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerVersion(pub(super) u32, u32);

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The programs found, and a line on every place searched, for the error.
pub(super) struct ProgramSearch {
    usable: Vec<Programs>,
    searched: Vec<String>,
}

impl ProgramSearch {
    /// Searches the directory in the environment variable if it is set, or else all places.
    pub(super) fn run() -> Self {
        let mut search = ProgramSearch { usable: Vec::new(), searched: Vec::new() };
        if let Some(explicit) = env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
            search.examine(VARIABLE, Path::new(&explicit));
            return search;
        }
        match Command::new("pg_config").arg("--bindir").output() {
            Ok(output) => {
                let directory = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                search.examine("pg_config --bindir", Path::new(&directory));
            }
            Err(_) => search.searched.push("pg_config --bindir: no such program".into()),
        }
        let on_path = env::var_os("PATH")
            .and_then(|path| env::split_paths(&path).map(|d| d.join("postgres")).find(|p| p.is_file()))
            // The program may be a link; the directory of its target has the other programs too.
            .and_then(|program| program.canonicalize().ok());
        match on_path.as_deref().and_then(Path::parent) {
            Some(directory) => search.examine("PATH", directory),
            None => search.searched.push("PATH: no program named postgres".into()),
        }
        for pattern in USUAL_PLACES {
            let places = expand(pattern);
            if places.is_empty() {
                search.searched.push(format!("{pattern}: not found"));
            }
            for place in places {
                search.examine(pattern, &place);
            }
        }
        search
    }

    /// Checks a directory, and records what was found there.
    fn examine(&mut self, how: &str, directory: &Path) {
        let shown = format!("{how}: {}", directory.display());
        if self.usable.iter().any(|p| p.directory == directory) {
            return;
        }
        let missing = ["postgres", "initdb", "pg_ctl"].into_iter().find(|name| !directory.join(name).is_file());
        if let Some(missing) = missing {
            self.searched.push(format!("{shown} has no {missing}"));
            return;
        }
        let output = Command::new(directory.join("postgres")).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        match parse_version(&text) {
            Some(version) if version.0 < OLDEST => {
                self.searched.push(format!("{shown} is {version}, older than {OLDEST}"));
            }
            Some(version) => {
                self.searched.push(format!("{shown} is {version}"));
                self.usable.push(Programs { version, directory: directory.to_owned() });
            }
            None => self.searched.push(format!("{shown} does not print a version")),
        }
    }

    /// The newest programs; of one major version if data of that version exists.
    pub(super) fn newest(&self, major: Option<u32>) -> Option<&Programs> {
        self.usable.iter().filter(|p| major.is_none_or(|m| p.version.0 == m)).max()
    }

    /// The places that were searched, one per line.
    pub(super) fn places(&self) -> String {
        self.searched.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// The directories that match a pattern.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return Some(PathBuf::from(pattern)).filter(|p| p.is_dir()).into_iter().collect();
    };
    // "/usr/pgsql-*/bin" matches the entries of /usr that begin with "pgsql-" and contain "bin".
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

/// Parses `postgres (PostgreSQL) 15.18 (Debian …)`; a beta version is like `18beta1`.
fn parse_version(text: &str) -> Option<ServerVersion> {
    let number = text.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let mut parts = number.split('.');
    let major: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some(ServerVersion(major.parse().ok()?, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases_betas_and_distributions_are_parsed() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(ServerVersion(15, 18)));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some(ServerVersion(18, 0)));
        assert_eq!(parse_version("initdb (PostgreSQL) 15.18"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn the_newest_version_is_found_by_number_not_by_text() {
        let of_version =
            |major, minor| Programs { version: ServerVersion(major, minor), directory: format!("/pg/{major}").into() };
        let usable = vec![of_version(15, 9), of_version(9, 6), of_version(15, 18)];
        let search = ProgramSearch { usable, searched: Vec::new() };
        assert_eq!(search.newest(None), Some(&of_version(15, 18)));
        assert_eq!(search.newest(Some(9)), Some(&of_version(9, 6)));
        assert_eq!(search.newest(Some(16)), None);
    }

    #[test]
    fn a_star_matches_the_rest_of_one_name() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pgsql-14/bin", "pgsql-16/bin", "pgsql-17", "other/bin"] {
            std::fs::create_dir_all(parent.path().join(name)).unwrap();
        }
        let pattern = format!("{}/pgsql-*/bin", parent.path().display());
        assert_eq!(expand(&pattern), [parent.path().join("pgsql-14/bin"), parent.path().join("pgsql-16/bin")]);
        assert_eq!(expand("/no/such/place-*/bin"), Vec::<PathBuf>::new());
    }
}
