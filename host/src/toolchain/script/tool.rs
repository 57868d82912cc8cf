//! The tool that builds a component from a script: the plugin's own, one on PATH, or one that is
//! installed once for all plugins of this user.
//!
//! The installation goes to the user's cache, or to the plugin's build folder if there is none. It
//! never goes to the system. It uses the network once, and needs the language's own installer. It
//! has a temporary name until it is complete, so an interrupted one is never used.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::super::{BuildError, Children, Language, cache, children};

/// The packages to install, in the versions that the examples are tested with.
const QJS: (&str, &str) = ("componentize-qjs", "0.4.5");
const PY: (&str, &str) = ("componentize-py", "0.25.1");

/// Runs an installed componentize-py with the Python of the machine, whose version may change after
/// the installation. The first argument is the folder of packages.
const RUN_PY: &str =
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import componentize_py; sys.exit(componentize_py.script())";

/// A program that builds components from scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::toolchain) struct Tool {
    /// Path of the tool's program or package.
    path: PathBuf,
    origin: ToolOrigin,
    language: Language,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToolOrigin {
    /// Among the plugin's own packages.
    Own,
    OnPath,
    /// Installed for this user.
    Installed,
}

impl Tool {
    /// Finds the tool for the plugin in `dir`, a canonical path, or installs it.
    pub(in crate::toolchain) fn find(
        language: Language,
        dir: &Path,
        children: &Children,
        report: &mut dyn FnMut(&str),
    ) -> Result<Tool, BuildError> {
        let (name, _) = package(language);
        let tool = |path, origin| Tool { path, origin, language };
        if let Some(program) = existing(dir.join(own(language)).join(name)) {
            return Ok(tool(program, ToolOrigin::Own));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // The tool runs in another folder, where a relative path would mean another place.
        let on_path =
            std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name));
        if let Some(program) = on_path.into_iter().find_map(existing) {
            return Ok(tool(program, ToolOrigin::OnPath));
        }
        let tools = cache::folder("tools").unwrap_or_else(|| dir.join("target/tools"));
        let installer = |staging: &Path| install(language, staging, children);
        let installed = installed(language, &tools, installer, children, report)
            .map_err(|reason| BuildError::NoTool { language, reason, remedy: remedy(language) })?;
        Ok(tool(installed, ToolOrigin::Installed))
    }

    /// The command that runs the tool in `dir`.
    pub(super) fn command(&self, dir: &Path) -> Command {
        if (self.origin, self.language) == (ToolOrigin::Installed, Language::Python) {
            let mut python = children::command("python3", dir);
            // Isolated from the user's packages and from modules in `dir`.
            python.args(["-I", "-c", RUN_PY]).arg(&self.path);
            return python;
        }
        children::command(&self.path.to_string_lossy(), dir)
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, version) = package(self.language);
        match self.origin {
            ToolOrigin::Own => write!(f, "the plugin's own {name}"),
            ToolOrigin::OnPath => write!(f, "{name} on PATH"),
            ToolOrigin::Installed => write!(f, "{name} {version}"),
        }
    }
}

fn package(language: Language) -> (&'static str, &'static str) {
    if language == Language::Python { PY } else { QJS }
}

/// Folder of programs of a plugin's own packages.
fn own(language: Language) -> &'static str {
    if language == Language::Python { ".venv/bin" } else { "node_modules/.bin" }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

/// The file or folder of an installation that runs the tool. None if it is incomplete.
fn entry(language: Language, installation: &Path) -> Option<PathBuf> {
    match language {
        Language::Python => {
            let packages = installation.join("packages");
            packages.join("componentize_py/__init__.py").is_file().then_some(packages)
        }
        _ => existing(installation.join("node_modules/.bin").join(QJS.0)),
    }
}

/// The commands that a person can run in the plugin's folder instead.
fn remedy(language: Language) -> String {
    let (name, version) = package(language);
    match language {
        Language::Python => format!("python3 -m venv .venv\n    .venv/bin/pip install {name}=={version}"),
        _ => format!(
            "npm install {name}@{version}\n\nor with Rust, for all plugins of this user:\n\n    cargo install --locked componentize-qjs-cli"
        ),
    }
}

/// The installed tool in the folder `tools`. The first build installs it there, and others wait.
fn installed(
    language: Language,
    tools: &Path,
    installer: impl Fn(&Path) -> Result<(), String>,
    children: &Children,
    report: &mut dyn FnMut(&str),
) -> Result<PathBuf, String> {
    let (name, version) = package(language);
    let installation = tools.join(format!("{name}-{version}"));
    if let Some(entry) = entry(language, &installation) {
        return Ok(entry);
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => format!("the disk of {} is full", tools.display()),
        _ => format!("cannot write to {}: {error}", tools.display()),
    };
    fs::create_dir_all(tools).map_err(failed)?;
    let lock = tools.join(format!(".{name}.lock"));
    let _lock = cache::Lock::take(&lock, &format!("Waiting for another installation of {name}"), children, report)
        .map_err(failed)?;
    if let Some(entry) = entry(language, &installation) {
        return Ok(entry);
    }
    report(&format!("{name} is not installed; installing {version} into {}", installation.display()));
    // The remains of an interrupted installation. Under the lock, no other build uses them.
    let staged = format!(".{name}-");
    for left in fs::read_dir(tools).map_err(failed)?.flatten() {
        let is_staged = left.path().is_dir() && left.file_name().to_string_lossy().starts_with(&staged);
        if is_staged || left.path() == installation {
            fs::remove_dir_all(left.path()).map_err(failed)?;
        }
    }
    let staging = tempfile::Builder::new().prefix(&staged).tempdir_in(tools).map_err(failed)?;
    installer(staging.path())?;
    if entry(language, staging.path()).is_none() {
        return Err(format!("the installer of {name} {version} did not install it"));
    }
    fs::rename(staging.path(), &installation).map_err(failed)?;
    entry(language, &installation).ok_or_else(|| format!("{} was removed meanwhile", installation.display()))
}

fn install(language: Language, into: &Path, children: &Children) -> Result<(), String> {
    let (name, version) = package(language);
    match language {
        Language::Python => {
            // The environment only provides pip. Its programs would name its temporary path.
            let environment = into.join("environment");
            ran(children, children::command("python3", into).args(["-m", "venv"]).arg(&environment))?;
            let mut pip = children::command(&environment.join("bin/python").to_string_lossy(), into);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]);
            ran(children, pip.args(["--target", "packages", &format!("{name}=={version}")]))?;
            fs::remove_dir_all(&environment).map_err(|e| format!("cannot remove {}: {e}", environment.display()))
        }
        _ => {
            ran(children, children::command("node", into).arg("--version"))?;
            let mut npm = children::command("npm", into);
            npm.args(["install", "--loglevel=error", "--no-audit", "--no-fund", "--no-save", "--fetch-retries=1"]);
            ran(children, npm.args(["--prefix", ".", &format!("{name}@{version}")]))
        }
    }
}

/// Runs an installer. If it fails, returns the probable cause and its last line.
fn ran(children: &Children, command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = children.output(command).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("cannot run {program}: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    // Python's venv prints its errors to standard output.
    let text = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text)).join("\n");
    Err(match cause(&text) {
        Some(cause) => cause.to_owned(),
        None => format!("{program} failed: {}", last_line(&text)),
    })
}

/// The cause of an installer's failure, if it is one of the common ones.
fn cause(text: &str) -> Option<&'static str> {
    const CAUSES: [(&[&str], &str); 3] = [
        (&["ENOSPC", "No space left on device"], "the disk is full"),
        (
            &["ensurepip is not available", "No module named venv", "No module named ensurepip"],
            "Python's module venv is missing; on Debian and Ubuntu: apt-get install python3-venv",
        ),
        (
            &[
                "ENOTFOUND",
                "EAI_AGAIN",
                "ECONNREFUSED",
                "ETIMEDOUT",
                "ENETUNREACH",
                "Failed to establish a new connection",
                "NewConnectionError",
                "Temporary failure in name resolution",
            ],
            "the package registry cannot be reached; it is needed once",
        ),
    ];
    CAUSES.iter().find(|(signs, _)| signs.iter().any(|sign| text.contains(sign))).map(|(_, cause)| *cause)
}

fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no error message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_own_tool_takes_precedence() {
        let here = tempfile::tempdir().unwrap();
        let bin = here.path().join("node_modules/.bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join(QJS.0), "").unwrap();
        let tool = Tool::find(Language::JavaScript, here.path(), &Children::default(), &mut |_| {}).unwrap();
        assert_eq!((tool.origin, tool.to_string()), (ToolOrigin::Own, "the plugin's own componentize-qjs".into()));
    }

    /// Installs an empty file in place of componentize-qjs.
    fn pretend(into: &Path) -> Result<(), String> {
        let bin = into.join("node_modules/.bin");
        fs::create_dir_all(&bin).and_then(|()| fs::write(bin.join(QJS.0), "")).map_err(|e| e.to_string())
    }

    fn js(tools: &Path, installer: impl Fn(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
        installed(Language::JavaScript, tools, installer, &Children::default(), &mut |_| {})
    }

    #[test]
    fn a_tool_is_installed_once() {
        let here = tempfile::tempdir().unwrap();
        let program = js(here.path(), pretend).unwrap();
        assert_eq!(program, here.path().join("componentize-qjs-0.4.5/node_modules/.bin/componentize-qjs"));
        assert_eq!(js(here.path(), |_| Err("offline".into())), Ok(program));
    }

    #[test]
    fn two_builds_at_once_install_a_tool_once() {
        let here = tempfile::tempdir().unwrap();
        let installations = std::sync::atomic::AtomicU32::new(0);
        let counted = |into: &Path| {
            installations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            pretend(into)
        };
        std::thread::scope(|scope| {
            for build in [(); 4].map(|()| scope.spawn(|| js(here.path(), counted))) {
                assert!(build.join().unwrap().is_ok());
            }
        });
        assert_eq!(installations.into_inner(), 1);
    }

    #[test]
    fn an_interrupted_installation_is_never_used() {
        let here = tempfile::tempdir().unwrap();
        // One that failed, one that was killed, and one that was emptied.
        assert_eq!(js(here.path(), |into| pretend(into).and(Err("no network".into()))), Err("no network".into()));
        pretend(&here.path().join(".componentize-qjs-killed")).unwrap();
        fs::create_dir(here.path().join("componentize-qjs-0.4.5")).unwrap();
        js(here.path(), pretend).unwrap();
        let mut left: Vec<_> = fs::read_dir(here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".componentize-qjs.lock", "componentize-qjs-0.4.5"]);
    }

    #[test]
    fn an_installer_that_installs_nothing_is_an_error() {
        let here = tempfile::tempdir().unwrap();
        let error = js(here.path(), |_| Ok(())).unwrap_err();
        assert_eq!(error, "the installer of componentize-qjs 0.4.5 did not install it");
    }

    #[test]
    fn the_error_of_a_failed_installer_is_its_cause_or_its_last_line() {
        let fails = |script: &str| ran(&Children::default(), Command::new("sh").args(["-c", script])).unwrap_err();
        assert_eq!(fails("echo one >&2; echo no luck >&2; echo >&2; exit 3"), "sh failed: no luck");
        assert_eq!(fails("echo 'npm error code ENOSPC' >&2; exit 1"), "the disk is full");
        assert!(fails("echo 'npm error code EAI_AGAIN' >&2; exit 1").starts_with("the package registry cannot"));
        assert!(fails("echo 'ensurepip is not available.'; exit 1").contains("apt-get install python3-venv"));
        let absent = ran(&Children::default(), &mut Command::new("/nowhere/npm"));
        assert_eq!(absent, Err("/nowhere/npm is not installed".into()));
    }
}
