//! The run of `cargo rustc`, and the search for the file that it produced. Cargo itself writes
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

/// Flags of the compiler for the plugin's own crate, after those of its author. With `lto = "fat"`
/// all code is generated there.
///
/// They inline more than LLVM does by itself, because parsing JSON consists of small generic
/// functions. Of `cart-summary`, a call with 1000 events takes 8 % less CPU time, the component is
/// half as large again, and the host compiles it in 0.23 s of CPU time instead of 0.21. A threshold
/// of 2000 gains another 2 %, but triples the size and the time to compile.
const INLINE_MORE: [&str; 2] = ["-C", "llvm-args=-inline-threshold=1000"];

/// A built library.
#[derive(Debug, PartialEq)]
pub(super) struct BuiltModule {
    file: PathBuf,
    /// Whether cargo found it current, and did not build it.
    pub(super) is_fresh: bool,
}

impl BuiltModule {
    pub(super) fn read(self) -> Result<Vec<u8>, BuildError> {
        std::fs::read(&self.file).map_err(|source| BuildError::File { verb: "read", path: self.file, source })
    }
}

/// Builds the package, in cargo's own target directory or in another one.
pub(super) fn build(
    package: &Package,
    dir: &Path,
    toolchain: &RustToolchain,
    target_directory: Option<&Path>,
    children: &Children,
) -> Result<BuiltModule, BuildError> {
    let mut cargo = toolchain.cargo(dir);
    cargo.args(["rustc", "--release", "--lib", "--message-format=json-render-diagnostics"]);
    cargo.args(["--package", &package.id, "--target", &toolchain.target().to_string()]).args(toolchain.build_args());
    if let Some(directory) = target_directory {
        cargo.arg("--target-dir").arg(directory);
    }
    if package.is_for_speed {
        cargo.arg("--").args(INLINE_MORE);
    }
    cargo.stderr(Stdio::inherit());
    let output = children.output(&mut cargo).map_err(|source| BuildError::Run { program: "cargo".into(), source })?;
    if !output.status.success() {
        return Err(BuildError::Compile { package: package.name.clone() });
    }
    artifact(&String::from_utf8_lossy(&output.stdout), &package.id)
        .ok_or_else(|| BuildError::NoArtifact { package: package.name.clone(), target: toolchain.target() })
}

/// The `.wasm` file of a package, found in cargo's messages: one JSON object per line.
fn artifact(messages: &str, package: &str) -> Option<BuiltModule> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    artifacts
        .filter(|artifact| artifact.reason == "compiler-artifact" && artifact.package_id == package)
        .filter(|artifact| artifact.target.is_cdylib())
        .find_map(|Artifact { filenames, fresh, .. }| {
            let file =
                filenames.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "wasm"))?;
            Some(BuiltModule { file, is_fresh: fresh })
        })
}

/// The fields read from a message about a built file. Other messages lack them and are ignored.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    package_id: String,
    target: BuildTarget,
    filenames: Vec<PathBuf>,
    fresh: bool,
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
        let found = BuiltModule { file: "/t/p.wasm".into(), is_fresh: true };
        assert_eq!(artifact(messages, "p#1"), Some(found));
        assert_eq!(artifact(messages, "q#1"), None);
    }
}
