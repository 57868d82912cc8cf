//! The tool that builds a component from a script: the plugin's own, one on PATH, or one that is
//! installed for this project alone.
//!
//! The installation goes to `target/toolchains` in the checkout around the plugin, or else in the
//! plugin's folder. It never goes to the system. It uses the network once, and needs the language's
//! own installer. An interrupted installation is repeated.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::super::{BuildError, Children, Language, children};

/// The packages to install, in the versions that the examples are tested with.
const QJS: (&str, &str) = ("componentize-qjs", "0.4.5");
const PY: (&str, &str) = ("componentize-py", "0.25.1");

/// A program that builds components from scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::toolchain) struct Tool {
    /// Path of the program.
    pub(super) program: PathBuf,
    origin: ToolOrigin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToolOrigin {
    /// Among the plugin's own packages.
    Own,
    OnPath,
    /// Installed for the project.
    Project,
}

impl Tool {
    /// Finds the tool for the plugin in `dir`, a canonical path, or installs it.
    pub(in crate::toolchain) fn find(
        language: Language,
        dir: &Path,
        children: &Children,
        report: &mut dyn FnMut(&str),
    ) -> Result<Tool, BuildError> {
        let (name, version) = package(language);
        let project = toolchains(dir).join(format!("{name}-{version}"));
        if let Some(program) = existing(dir.join(own(language)).join(name)) {
            return Ok(Tool { program, origin: ToolOrigin::Own });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // The tool runs in another folder, where a relative path would mean another place.
        let on_path =
            std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name));
        if let Some(program) = on_path.into_iter().find_map(existing) {
            return Ok(Tool { program, origin: ToolOrigin::OnPath });
        }
        let installed = project.join(bin(language)).join(name);
        if existing(installed.clone()).is_none() {
            report(&format!("{name} is not installed; installing {version} into {}", project.display()));
            install(language, &project, children).map_err(|reason| BuildError::NoTool {
                language,
                reason,
                remedy: remedy(language),
            })?;
        }
        match existing(installed.clone()) {
            Some(program) => Ok(Tool { program, origin: ToolOrigin::Project }),
            None => {
                let reason = format!("{} is missing after the installation", installed.display());
                Err(BuildError::NoTool { language, reason, remedy: remedy(language) })
            }
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        match self.origin {
            ToolOrigin::Own => write!(f, "the plugin's own {name}"),
            ToolOrigin::OnPath => write!(f, "{name} on PATH"),
            ToolOrigin::Project => write!(f, "the project's {name}"),
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

/// Folder of programs in a project's installation.
fn bin(language: Language) -> &'static str {
    if language == Language::Python { "bin" } else { "node_modules/.bin" }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

/// The project's folder for tools, shared by all plugins of a checkout.
fn toolchains(dir: &Path) -> PathBuf {
    let checkout = dir.ancestors().find(|ancestor| ancestor.join(".git").exists());
    checkout.unwrap_or(dir).join("target/toolchains")
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

fn install(language: Language, into: &Path, children: &Children) -> Result<(), String> {
    std::fs::create_dir_all(into).map_err(|e| format!("cannot create {}: {e}", into.display()))?;
    let (name, version) = package(language);
    match language {
        Language::Python => {
            ran(children, children::command("python3", into).args(["-m", "venv", "."]))?;
            let pip = into.join("bin/pip");
            let mut pip = children::command(&pip.to_string_lossy(), into);
            ran(
                children,
                pip.args(["install", "--quiet", "--disable-pip-version-check", &format!("{name}=={version}")]),
            )
        }
        _ => {
            let mut npm = children::command("npm", into);
            npm.args(["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix", "."]);
            ran(children, npm.arg(format!("{name}@{version}")))
        }
    }
}

/// Runs an installer. Returns its last line if it fails.
fn ran(children: &Children, command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = children.output(command).map_err(|e| format!("cannot run {program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no error message");
    Err(format!("{program} failed: {}", last.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_own_tool_takes_precedence() {
        let here = tempfile::tempdir().unwrap();
        let bin = here.path().join("node_modules/.bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join(QJS.0), "").unwrap();
        let tool = Tool::find(Language::JavaScript, here.path(), &Children::default(), &mut |_| {}).unwrap();
        assert_eq!((tool.origin, tool.to_string()), (ToolOrigin::Own, "the plugin's own componentize-qjs".into()));
    }

    #[test]
    fn all_plugins_of_a_checkout_share_their_tools() {
        let here = tempfile::tempdir().unwrap();
        let plugin = here.path().join("plugins/a");
        std::fs::create_dir_all(&plugin).unwrap();
        assert!(
            toolchains(&plugin).starts_with(&plugin) || toolchains(&plugin) != here.path().join("target/toolchains")
        );
        std::fs::create_dir(here.path().join(".git")).unwrap();
        assert_eq!(toolchains(&plugin), here.path().join("target/toolchains"));
    }

    #[test]
    fn the_error_of_a_failed_installer_is_its_last_line() {
        let children = Children::default();
        let failed =
            ran(&children, Command::new("sh").args(["-c", "echo one >&2; echo no network >&2; echo >&2; exit 3"]));
        assert_eq!(failed, Err("sh failed: no network".into()));
        assert!(
            ran(&children, &mut Command::new("/nowhere/npm")).unwrap_err().starts_with("cannot run /nowhere/npm: ")
        );
    }
}
