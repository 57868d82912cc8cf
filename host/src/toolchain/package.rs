//! The package in a directory, as cargo reports it. It is read before anything is compiled, so that
//! a package that is not a plugin is rejected quickly and by name. Dependencies are ignored, so no
//! network is needed.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BuildError, Children, children};

/// The package to build.
#[derive(Debug, PartialEq)]
pub(super) struct Package {
    /// Cargo's id of the package, which is unique where a name might not be.
    pub(super) id: String,
    pub(super) name: String,
    /// Cargo's target directory, which the workspace determines.
    pub(super) target_directory: PathBuf,
}

impl Package {
    /// Reads the package of a manifest, given by its canonical path.
    pub(super) fn of(manifest: &Path, children: &Children) -> Result<Self, BuildError> {
        let mut cargo = children::command("cargo", manifest.parent().unwrap_or(manifest));
        cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
        let output =
            children.output(&mut cargo).map_err(|source| BuildError::Run { program: "cargo".into(), source })?;
        let unreadable = |message: String| BuildError::Manifest { manifest: manifest.to_owned(), message };
        if !output.status.success() {
            return Err(unreadable(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let metadata = serde_json::from_slice(&output.stdout).map_err(|error| unreadable(error.to_string()))?;
        Self::among(metadata, manifest)
    }

    /// Finds the package of a manifest in cargo's metadata.
    fn among(metadata: Metadata, manifest: &Path) -> Result<Self, BuildError> {
        let Metadata { packages, target_directory } = metadata;
        // Cargo prints the path as it found it, which need not be canonical.
        let same = |path: &Path| path == manifest || path.canonicalize().is_ok_and(|path| path == manifest);
        let Some(package) = packages.iter().find(|package| same(&package.manifest_path)) else {
            let dir = manifest.parent().unwrap_or(manifest).to_owned();
            let members = packages.iter().filter_map(|package| package.manifest_path.parent());
            let members = members.map(|member| member.display().to_string()).collect();
            return Err(BuildError::SeveralPackages { dir, members });
        };
        let name = package.name.clone();
        if !package.targets.iter().any(BuildTarget::is_cdylib) {
            return Err(BuildError::NotACdylib { package: name });
        }
        Ok(Package { id: package.id.clone(), name, target_directory })
    }
}

/// The fields read from `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<BuildTarget>,
}

/// A library, program or test of a package.
#[derive(Deserialize)]
pub(super) struct BuildTarget {
    kind: Vec<String>,
}

impl BuildTarget {
    pub(super) fn is_cdylib(&self) -> bool {
        self.kind.iter().any(|kind| kind == "cdylib")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace with a plugin and a plain library.
    fn among(manifest: &str) -> Result<Package, BuildError> {
        let package = |name: &str, kind: &str| {
            format!(
                r#"{{"id":"path+file:///w/{name}#1.0.0","name":"{name}","manifest_path":"/w/{name}/Cargo.toml","edition":"2024",
                     "targets":[{{"kind":["{kind}"],"name":"x"}},{{"kind":["test"],"name":"y"}}]}}"#
            )
        };
        let metadata = format!(
            r#"{{"packages":[{},{}],"target_directory":"/w/target","version":1}}"#,
            package("door-watch", "cdylib"),
            package("common", "lib")
        );
        Package::among(serde_json::from_str(&metadata).unwrap(), Path::new(manifest))
    }

    #[test]
    fn the_package_is_the_one_of_the_manifest() {
        let expected = Package {
            id: "path+file:///w/door-watch#1.0.0".into(),
            name: "door-watch".into(),
            target_directory: "/w/target".into(),
        };
        assert_eq!(among("/w/door-watch/Cargo.toml").unwrap(), expected);
    }

    #[test]
    fn a_library_without_a_file_is_rejected_with_the_lines_to_add() {
        let message = among("/w/common/Cargo.toml").unwrap_err().to_string();
        assert!(message.contains("common") && message.contains("crate-type = [\"cdylib\"]"), "{message}");
    }

    #[test]
    fn a_workspace_is_rejected_with_the_packages_in_it() {
        let message = among("/w/Cargo.toml").unwrap_err().to_string();
        assert!(message.contains("/w/door-watch, /w/common"), "{message}");
    }
}
