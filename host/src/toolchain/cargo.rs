//! The run of `cargo build`, and the search for the file that it produced. Cargo itself writes
//! errors and progress to the terminal. Only its JSON messages about built files are read here.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::Deserialize;

use super::{
    BuildError, Children, RustToolchain,
    package::{BuildTarget, Package},
};

/// Builds the package and returns the path of its `.wasm` file.
pub(super) fn build(
    package: &Package,
    dir: &Path,
    toolchain: &RustToolchain,
    children: &Children,
) -> Result<PathBuf, BuildError> {
    let mut cargo = toolchain.cargo(dir);
    cargo.args(["build", "--release", "--lib", "--message-format=json-render-diagnostics"]);
    cargo.args(["--package", &package.id, "--target", &toolchain.target().to_string()]).args(toolchain.build_args());
    cargo.stderr(Stdio::inherit());
    let output = children.output(&mut cargo).map_err(|source| BuildError::Run { program: "cargo".into(), source })?;
    if !output.status.success() {
        return Err(BuildError::Compile { package: package.name.clone() });
    }
    artifact(&String::from_utf8_lossy(&output.stdout), &package.id)
        .ok_or_else(|| BuildError::NoArtifact { package: package.name.clone(), target: toolchain.target() })
}

/// The `.wasm` file of a package, found in cargo's messages: one JSON object per line.
fn artifact(messages: &str, package: &str) -> Option<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    artifacts
        .filter(|artifact| artifact.reason == "compiler-artifact" && artifact.package_id == package)
        .filter(|artifact| artifact.target.is_cdylib())
        .flat_map(|artifact| artifact.filenames)
        .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

/// The fields read from a message about a built file. Other messages lack them and are ignored.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    package_id: String,
    target: BuildTarget,
    filenames: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_own_file_is_found_among_the_messages() {
        let messages = r#"
warning: some build script prints what it likes
{"reason":"build-script-executed","package_id":"p#1","linked_libs":[]}
{"reason":"compiler-artifact","package_id":"dep#1","target":{"kind":["cdylib"]},"filenames":["/t/dep.wasm"]}
{"reason":"compiler-artifact","package_id":"p#1","target":{"kind":["custom-build"]},"filenames":["/t/build"]}
{"reason":"compiler-artifact","package_id":"p#1","target":{"kind":["cdylib","rlib"]},"filenames":["/t/libp.rlib","/t/p.wasm"],"fresh":true}
{"reason":"build-finished","success":true}"#;
        assert_eq!(artifact(messages, "p#1"), Some("/t/p.wasm".into()));
        assert_eq!(artifact(messages, "q#1"), None);
    }
}
