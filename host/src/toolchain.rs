//! Making guests: from a name to a crate, and from the directory of a crate to a component that the host takes.
//!
//! [`new()`] begins a crate. [`build`] finds a way to compile for WebAssembly on this machine, runs cargo, turns the module that comes out into a
//! component, and puts it where it is wanted by a rename, so that a host that watches the folder never sees half a file. It blocks,
//! and may take a minute the first time. What cargo says goes to the terminal as cargo says it. One thing may surprise: where
//! rustup can, it adds the target that is missing to the toolchain, and says so.

mod cargo;
mod component;
mod new;
mod package;
mod way;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use new::{Begun, NewError, NewRequest, Sdk, new};
pub use way::{Target, Way};

use package::Package;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The directory of the plugin's crate.
    pub dir: PathBuf,
    /// Where the component goes: a file, or a directory for `NAME.wasm`. Without it `plugins/NAME.wasm` in cargo's target
    /// directory, which is no litter and which `sandmill run --plugins` can be pointed at.
    pub output: Option<PathBuf>,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The component's file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The package's name.
    pub package: String,
    /// How it was compiled.
    pub way: Way,
    /// How long all of it took.
    pub elapsed: Duration,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The directory holds no crate.
    #[error("{} has no Cargo.toml. Name the directory of a plugin's crate, or begin one with `sandmill plugin new NAME`.", .dir.display())]
    NoManifest {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds a workspace without a package of its own.
    #[error("{} is a workspace. Name one of its packages: {}.", .dir.display(), .members.join(", "))]
    SeveralPackages {
        /// The directory.
        dir: PathBuf,
        /// The directories of its packages.
        members: Vec<String>,
    },
    /// The package has no library that becomes a file of its own.
    #[error(
        "the package {package} does not become a WebAssembly file. Add to its Cargo.toml:\n\n    [lib]\n    crate-type = [\"cdylib\"]"
    )]
    NotACdylib {
        /// The package's name.
        package: String,
    },
    /// Cargo cannot read the manifest.
    #[error("cargo cannot read {}. Correct what it says:\n{message}", .manifest.display())]
    Manifest {
        /// The manifest.
        manifest: PathBuf,
        /// What cargo says.
        message: String,
    },
    /// There is no way to compile for WebAssembly here.
    #[error(
        "this machine cannot compile Rust for WebAssembly yet{}. With rustup:\n\n    rustup target add wasm32-unknown-unknown\n\n\
         or on Debian and Ubuntu, without rustup:\n\n    \
         apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld-19",
        .missing.as_deref().map(|missing| format!(" ({missing})")).unwrap_or_default()
    )]
    NoWay {
        /// What was looked for last and not found.
        missing: Option<String>,
    },
    /// The crate does not compile.
    #[error("cargo could not build {package}. Correct what it says above.")]
    Compile {
        /// The package's name.
        package: String,
    },
    /// Cargo was content and yet there is no file.
    #[error(
        "cargo built {package} but reported no .wasm file of it. See whether its library is switched off for {target}."
    )]
    NoArtifact {
        /// The package's name.
        package: String,
        /// The target it was built for.
        target: Target,
    },
    /// The file is WebAssembly and no plugin.
    #[error(
        "{package} exports no plugin. Implement a projector and name it in `sandmill_guest::export_projector!(MyProjector);`."
    )]
    NoPlugin {
        /// The package's name.
        package: String,
    },
    /// The module does not become a component.
    #[error(
        "{package} does not become a component: {message}\nA plugin imports only what the contract offers; look for a dependency that needs an operating system or JavaScript."
    )]
    Component {
        /// The package's name.
        package: String,
        /// Why.
        message: String,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}. See whether it is installed and on PATH.")]
    Run {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}. See whether the place exists, has room and is yours.", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Builds a plugin. `say` is told, a line at a time, what takes long or may surprise.
pub fn build(request: &BuildRequest, say: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
    let start = Instant::now();
    let manifest = request.dir.join("Cargo.toml");
    let manifest = manifest.canonicalize().map_err(|_| BuildError::NoManifest { dir: request.dir.clone() })?;
    let dir = manifest.parent().unwrap_or(&request.dir);

    // The package first: what is no plugin should not lead to a change of anybody's toolchain.
    let package = Package::of(&manifest)?;
    let way = Way::find(dir, say)?;
    say(&format!("Compiling with {way}"));
    let module = cargo::build(&package, dir, &way)?;
    let module = std::fs::read(&module).map_err(|source| BuildError::File { verb: "read", path: module, source })?;
    let component = component::from_module(module, &package.name)?;

    let path = destination(request.output.as_deref(), &package);
    component::place(&component, &path)?;
    Ok(Built { path, bytes: component.len() as u64, package: package.name, way, elapsed: start.elapsed() })
}

fn destination(output: Option<&Path>, package: &Package) -> PathBuf {
    let file = format!("{}.wasm", package.name);
    match output {
        None => package.target_directory.join("plugins").join(file),
        // A path that ends with a slash means a directory even before it exists.
        Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => path.join(file),
        Some(path) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_goes_where_it_is_wanted() {
        let package = Package {
            id: "path+file:///p#door-watch@1.0.0".into(),
            name: "door-watch".into(),
            target_directory: "/p/target".into(),
        };
        let here = tempfile::tempdir().unwrap();
        assert_eq!(destination(None, &package), Path::new("/p/target/plugins/door-watch.wasm"));
        assert_eq!(destination(Some(here.path()), &package), here.path().join("door-watch.wasm"));
        assert_eq!(destination(Some(Path::new("not/yet/")), &package), Path::new("not/yet/door-watch.wasm"));
        assert_eq!(destination(Some(Path::new("a.wasm")), &package), Path::new("a.wasm"));
    }

    #[test]
    fn a_directory_without_a_crate_is_refused_at_once() {
        let here = tempfile::tempdir().unwrap();
        let request = BuildRequest { dir: here.path().into(), output: None };
        let error = build(&request, &mut |_| {}).unwrap_err();
        assert!(matches!(error, BuildError::NoManifest { .. }), "{error}");
    }

    #[test]
    fn the_last_error_names_the_commands_to_run() {
        let message = BuildError::NoWay { missing: Some("no wasm-ld".into()) }.to_string();
        for part in ["(no wasm-ld)", "rustup target add wasm32-unknown-unknown", "apt-get install", "lld-19"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
