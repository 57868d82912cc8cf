//! The home of a private server: its programs, its account and its directories, ready for a start.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    EmbeddedError, Options,
    programs::{ProgramSearch, Programs},
};

/// Maximum length of the path of a run directory's parent, in bytes. 60: some systems limit a
/// socket's path to 103 bytes, and the names of the directory and the socket need 40 of them.
const LONGEST_PARENT: usize = 60;

/// The account that the server runs as if its owner is root.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerAccount {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl ServerAccount {
    fn find() -> Result<Self, EmbeddedError> {
        let id = |flag: &str, name: &str| -> Option<u32> {
            let output = Command::new("id").args([flag, name]).output().ok().filter(|o| o.status.success())?;
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        };
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Some(ServerAccount { uid: id("-u", name)?, gid: id("-g", name)? }))
            .ok_or(EmbeddedError::NoAccount)
    }
}

/// The programs, account and directories of one server.
pub(super) struct ServerHome {
    pub(super) programs: Programs,
    /// None if the server runs as its owner.
    pub(super) account: Option<ServerAccount>,
    /// The directory of the socket and the log.
    pub(super) run: tempfile::TempDir,
    pub(super) data: PathBuf,
    /// Whether the data directory is still empty.
    pub(super) create: bool,
}

impl ServerHome {
    /// Finds the programs and the account, and makes the directories that are missing.
    pub(super) fn prepare(options: &Options) -> Result<Self, EmbeddedError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EmbeddedError::Directory { path, source }
        };
        let kept = options.data.as_deref().map(|path| std::path::absolute(path).map_err(failed(path))).transpose()?;
        let existing = kept.as_deref().and_then(version_of_data);
        let search = ProgramSearch::run();
        let programs = match (search.newest(existing), &kept, existing) {
            (Some(programs), _, _) => programs.clone(),
            (None, Some(data), Some(major)) => {
                return Err(EmbeddedError::OtherVersion { data: data.clone(), major, searched: search.places() });
            }
            (None, _, _) => return Err(EmbeddedError::NoPrograms { searched: search.places() }),
        };
        let account = match (rustix::process::geteuid().is_root(), &kept, existing) {
            (false, _, _) => None,
            // PostgreSQL runs only as the owner of its data directory.
            (true, Some(data), Some(_)) => {
                let metadata = fs::metadata(data).map_err(failed(data))?;
                Some(ServerAccount { uid: metadata.uid(), gid: metadata.gid() }).filter(|account| account.uid != 0)
            }
            (true, _, _) => Some(ServerAccount::find()?),
        };
        let parent = run_parent(account.is_some());
        let run = tempfile::Builder::new()
            .prefix("sandmill-pg-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(failed(&parent))?;
        let data = kept.unwrap_or_else(|| run.path().join("data"));
        if existing.is_none() {
            // Missing parents get the usual permissions, because the server's user must pass
            // through them.
            data.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed(&data))?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(failed(&data))?;
        }
        if let Some(ServerAccount { uid, gid }) = account {
            chown(run.path(), Some(uid), Some(gid)).map_err(failed(run.path()))?;
            if existing.is_none() {
                chown(&data, Some(uid), Some(gid)).map_err(failed(&data))?;
            }
        }
        Ok(ServerHome { programs, account, run, data, create: existing.is_none() })
    }
}

/// The major version that wrote a data directory.
fn version_of_data(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// The parent of the run directory: the temporary directory, or else `/tmp`. It is `/tmp` if the
/// temporary directory's name is too long for a socket. It is also `/tmp` if the server runs as
/// another user, who may have no access to the temporary directory.
fn run_parent(other_user: bool) -> PathBuf {
    let usual = std::env::temp_dir();
    if other_user || usual.as_os_str().len() > LONGEST_PARENT { PathBuf::from("/tmp") } else { usual }
}
