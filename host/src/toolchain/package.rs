//! The package in a directory, as cargo reports it. It is read before anything is compiled, so that
//! a package that is not a plugin is rejected quickly and by name. Dependencies are ignored, so no
//! network is needed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{BuildError, Children, children};

/// The package to build.
#[derive(Debug, PartialEq)]
pub(super) struct Package {
    /// Cargo's id of the package, which is unique where a name might not be.
    pub(super) id: String,
    pub(super) name: String,
    /// The name of its library, as it begins the names of built files.
    pub(super) library: String,
    /// Cargo's target directory, which the workspace determines.
    pub(super) target_directory: PathBuf,
    /// Whether its library is all that is compiled in its folder, by default into the folder's
    /// `target`. Only then can it use the target directory that plugins share.
    pub(super) is_alone: bool,
    /// Whether its release profile optimizes for speed and not for size, as far as the workspace's
    /// manifest shows.
    pub(super) is_for_speed: bool,
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
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).map_err(|error| unreadable(error.to_string()))?;
        // Cargo has just read it.
        let workspace = fs::read_to_string(metadata.workspace_root.join("Cargo.toml")).unwrap_or_default();
        Ok(Package { is_for_speed: is_for_speed(&workspace), ..Self::among(metadata, manifest)? })
    }

    /// Finds the package of a manifest in cargo's metadata.
    fn among(metadata: Metadata, manifest: &Path) -> Result<Self, BuildError> {
        let Metadata { packages, workspace_root, target_directory, build_directory } = metadata;
        // Cargo prints the path as it found it, which need not be canonical.
        let same = |path: &Path| path == manifest || path.canonicalize().is_ok_and(|path| path == manifest);
        let Some(package) = packages.iter().find(|package| same(&package.manifest_path)) else {
            let dir = manifest.parent().unwrap_or(manifest).to_owned();
            let members = packages.iter().filter_map(|package| package.manifest_path.parent());
            let members = members.map(|member| member.display().to_string()).collect();
            return Err(BuildError::SeveralPackages { dir, members });
        };
        let name = package.name.clone();
        let Some(library) = package.targets.iter().find(|target| target.is_cdylib()) else {
            return Err(BuildError::NotACdylib { package: name });
        };
        let is_below =
            |dependency: &Dependency| dependency.path.as_deref().is_some_and(|path| path.starts_with(&workspace_root));
        let is_alone = packages.len() == 1
            && package.manifest_path.parent() == Some(&workspace_root)
            && !package.targets.iter().any(BuildTarget::is_build_script)
            && !package.dependencies.iter().any(is_below)
            && target_directory == workspace_root.join("target")
            && build_directory.is_none_or(|directory| directory == target_directory);
        let library = library.name.replace('-', "_");
        Ok(Package { id: package.id.clone(), name, library, target_directory, is_alone, is_for_speed: true })
    }
}

fn is_for_speed(workspace_manifest: &str) -> bool {
    let manifest: toml::Table = workspace_manifest.parse().unwrap_or_default();
    let release = manifest.get("profile").and_then(|profiles| profiles.get("release"));
    let level = release.and_then(|profile| profile.get("opt-level"));
    level.is_none_or(|level| level.as_integer() == Some(3))
}

/// The fields read from `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
    /// The directory of intermediate files, where cargo distinguishes it.
    build_directory: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<BuildTarget>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    /// The folder of a dependency that is given by its path.
    path: Option<PathBuf>,
}

/// A library, program or test of a package.
#[derive(Deserialize)]
pub(super) struct BuildTarget {
    #[serde(default)]
    name: String,
    kind: Vec<String>,
}

impl BuildTarget {
    pub(super) fn is_cdylib(&self) -> bool {
        self.kind.iter().any(|kind| kind == "cdylib")
    }

    fn is_build_script(&self) -> bool {
        self.kind.iter().any(|kind| kind == "custom-build")
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
            r#"{{"packages":[{},{}],"workspace_root":"/w","target_directory":"/w/target","version":1}}"#,
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
            library: "x".into(),
            target_directory: "/w/target".into(),
            is_alone: false,
            is_for_speed: true,
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

    /// Whether a package is alone, in the folder `/p` and with these additions to the metadata.
    fn is_alone(target: &str, targets: &str, dependencies: &str) -> bool {
        let metadata = format!(
            r#"{{"packages":[{{"id":"p#1","name":"door-watch","manifest_path":"/p/Cargo.toml",
                  "targets":[{{"kind":["cdylib"],"name":"door-watch"}}{targets}],"dependencies":[{dependencies}]}}],
                 "workspace_root":"/p","target_directory":"{target}"}}"#
        );
        let package = Package::among(serde_json::from_str(&metadata).unwrap(), Path::new("/p/Cargo.toml")).unwrap();
        assert_eq!(package.library, "door_watch");
        package.is_alone
    }

    #[test]
    fn only_a_single_library_in_cargos_own_directory_can_share_it() {
        let elsewhere = r#"{"name":"serde"},{"name":"sandmill-guest","path":"/sdk"}"#;
        assert!(is_alone("/p/target", "", elsewhere));
        assert!(!is_alone("/elsewhere", "", elsewhere), "a chosen directory");
        assert!(!is_alone("/p/target", r#",{"kind":["custom-build"],"name":"build-script-build"}"#, elsewhere));
        assert!(!is_alone("/p/target", "", r#"{"name":"inner","path":"/p/inner"}"#));
    }

    #[test]
    fn a_package_is_for_speed_unless_its_profile_has_another_level() {
        assert!(is_for_speed("[package]\nname = \"door-watch\""));
        assert!(is_for_speed("[profile.release]\nopt-level = 3"));
        for level in ["2", "\"s\"", "\"z\""] {
            assert!(!is_for_speed(&format!("[profile.release]\nopt-level = {level}")), "{level}");
        }
    }
}
