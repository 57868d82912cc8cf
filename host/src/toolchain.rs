//! The build tools of plugins: from a name to a plugin's folder, and from the folder to a
//! component.
//!
//! [`new()`] creates a folder. [`build`] detects the plugin's language and finds the tools to
//! compile it on this machine. Cargo compiles a crate; a tool combines [a script](script) with its
//! language's runtime. The component is moved to its destination by a rename, so a host that
//! watches the folder never sees half a file. A build blocks, and may take a minute the first time.
//!
//! Side effects that may surprise the user are reported: a missing target is added to rustup's
//! toolchain. Compiled dependencies and a script's tool are kept in [the user's cache](cache) for
//! all plugins.

mod cache;
mod cargo;
mod children;
mod component;
mod language;
mod new;
mod package;
mod rust;
mod script;
mod shared_target;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use children::{Children, EndOnDrop};
pub use language::Language;
pub use new::{NewError, NewPlugin, NewRequest, Sdk, new};
pub use rust::{RustToolchain, Target};

use package::Package;
use script::Tool;
use shared_target::SharedTarget;

/// A request to build a plugin.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The directory of the plugin: of its crate, or with its `plugin.js` or `plugin.py`.
    pub dir: PathBuf,
    /// The destination: a file, or a directory for `NAME.wasm`. Default: `plugins/NAME.wasm` in
    /// cargo's target directory, or in `target` beside a script. Both are build directories that
    /// `sandmill run --plugins` can use.
    pub output: Option<PathBuf>,
}

/// The result of a build.
#[derive(Debug)]
pub struct Built {
    /// The component's file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The package's name.
    pub package: String,
    /// The tools that compiled it, for people.
    pub toolchain: String,
    /// The time of the whole build.
    pub elapsed: Duration,
}

/// The reason why nothing was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The directory contains no plugin.
    #[error(
        "{} has no Cargo.toml, plugin.js or plugin.py. Name the directory of a plugin, or create one with `sandmill plugin new NAME`.",
        .dir.display()
    )]
    NoManifest {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory contains a workspace without a package of its own.
    #[error("{} is a workspace. Name one of its packages: {}.", .dir.display(), .members.join(", "))]
    SeveralPackages {
        /// The directory.
        dir: PathBuf,
        /// The directories of its packages.
        members: Vec<String>,
    },
    /// The package has no library of the type `cdylib`.
    #[error(
        "the package {package} does not build a WebAssembly file. Add to its Cargo.toml:\n\n    [lib]\n    crate-type = [\"cdylib\"]"
    )]
    NotACdylib {
        /// The package's name.
        package: String,
    },
    /// Cargo cannot read the manifest.
    #[error("cargo cannot read {}. Fix the error that it reports:\n{message}", .manifest.display())]
    Manifest {
        /// The manifest.
        manifest: PathBuf,
        /// Cargo's error message.
        message: String,
    },
    /// No toolchain here compiles Rust for WebAssembly.
    #[error(
        "this machine cannot compile Rust for WebAssembly yet{}. With rustup:\n\n    rustup target add wasm32-unknown-unknown\n\n\
         or on Debian and Ubuntu, without rustup:\n\n    \
         apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld-19",
        .missing.as_deref().map(|missing| format!(" ({missing})")).unwrap_or_default()
    )]
    NoRustTarget {
        /// The missing part of the last toolchain that was tried.
        missing: Option<String>,
    },
    /// There is no tool for a script's language here, and none could be installed.
    #[error("this machine cannot build {language} plugins yet ({reason}). Run in the plugin's folder:\n\n    {remedy}")]
    NoTool {
        /// The language.
        language: Language,
        /// Why the installation failed.
        reason: String,
        /// The commands to run.
        remedy: String,
    },
    /// A script does not become a component.
    #[error("{package} cannot be made into a component. Fix the error in its code:\n{message}")]
    Script {
        /// The plugin's name.
        package: String,
        /// The tool's error message.
        message: String,
    },
    /// The crate does not compile.
    #[error("cargo could not build {package}. Fix the errors above.")]
    Compile {
        /// The package's name.
        package: String,
    },
    /// Cargo succeeded without producing a `.wasm` file.
    #[error("cargo built {package} but reported no .wasm file. Check that its library is enabled for {target}.")]
    NoArtifact {
        /// The package's name.
        package: String,
        /// The target it was built for.
        target: Target,
    },
    /// The file is WebAssembly, but not a plugin.
    #[error(
        "{package} exports no plugin. Implement a projector and name it in `sandmill_guest::export_projector!(MyProjector);`."
    )]
    NoPlugin {
        /// The package's name.
        package: String,
    },
    /// The module does not become a component.
    #[error(
        "{package} cannot be made into a component: {message}\nA plugin imports only what the contract offers; look for a dependency that needs an operating system or JavaScript."
    )]
    Component {
        /// The package's name.
        package: String,
        /// The error.
        message: String,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}. Check that it is installed and on PATH.")]
    Run {
        /// The program.
        program: String,
        /// The error.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}. Check that the folder exists, is yours, and has free space.", .path.display())]
    File {
        /// The operation.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// Builds a plugin. The programs that it runs are registered in `children`. Slow steps and side
/// effects are passed to `report`, one line each.
pub fn build(request: &BuildRequest, children: &Children, report: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
    let start = Instant::now();
    let nothing = || BuildError::NoManifest { dir: request.dir.clone() };
    let dir = request.dir.canonicalize().map_err(|_| nothing())?;
    let BuiltComponent { component, package, target, toolchain } = match Language::of(&dir).ok_or_else(nothing)? {
        Language::Rust => compile(&dir, children, report)?,
        script => combine(script, &dir, children, report)?,
    };
    let path = destination(request.output.as_deref(), &package, &target);
    component::write_atomically(&component, &path)?;
    Ok(Built { path, bytes: component.len() as u64, package, toolchain, elapsed: start.elapsed() })
}

/// A component in memory, before it is written to its file.
struct BuiltComponent {
    component: Vec<u8>,
    package: String,
    /// The plugin's build directory.
    target: PathBuf,
    toolchain: String,
}

/// Compiles the crate in a folder.
fn compile(dir: &Path, children: &Children, report: &mut dyn FnMut(&str)) -> Result<BuiltComponent, BuildError> {
    // The package is checked first, so that a crate that is not a plugin changes no toolchain.
    let package = Package::of(&dir.join(Language::Rust.entry()), children)?;
    let toolchain = RustToolchain::find(dir, children, report)?;
    let module = module(&package, dir, &toolchain, children, report)?;
    let component = component::from_module(module, &package.name)?;
    let target = package.target_directory;
    Ok(BuiltComponent { component, package: package.name, target, toolchain: toolchain.to_string() })
}

/// Compiles the package's module, in the shared target directory if possible.
fn module(
    package: &Package,
    dir: &Path,
    toolchain: &RustToolchain,
    children: &Children,
    report: &mut dyn FnMut(&str),
) -> Result<Vec<u8>, BuildError> {
    if let Some(shared) = SharedTarget::take(package, children, report) {
        report(&format!("Compiling with {toolchain}, in {}", shared.dir().display()));
        if let Some(module) = shared.build(package, dir, toolchain, children)? {
            return Ok(module);
        }
    }
    report(&format!("Compiling with {toolchain}, in {}", package.target_directory.display()));
    cargo::build(package, dir, toolchain, None, children)?.read()
}

/// Combines the script in a folder with its language's runtime.
fn combine(
    language: Language,
    dir: &Path,
    children: &Children,
    report: &mut dyn FnMut(&str),
) -> Result<BuiltComponent, BuildError> {
    let package = script::name(language, dir);
    let tool = Tool::find(language, dir, children, report)?;
    report(&format!("Combining {} with the {language} runtime, using {tool}", language.entry()));
    let component = component::from_module(script::build(language, &tool, dir, &package, children)?, &package)?;
    Ok(BuiltComponent { component, package, target: dir.join("target"), toolchain: tool.to_string() })
}

/// The file to write the component to.
fn destination(output: Option<&Path>, package: &str, target: &Path) -> PathBuf {
    let file = format!("{package}.wasm");
    match output {
        None => target.join("plugins").join(file),
        // A path that ends with a slash means a directory even before it exists.
        Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => path.join(file),
        Some(path) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_the_requested_file_or_directory() {
        let goes = |output| destination(output, "door-watch", Path::new("/p/target"));
        let here = tempfile::tempdir().unwrap();
        assert_eq!(goes(None), Path::new("/p/target/plugins/door-watch.wasm"));
        assert_eq!(goes(Some(here.path())), here.path().join("door-watch.wasm"));
        assert_eq!(goes(Some(Path::new("not/yet/"))), Path::new("not/yet/door-watch.wasm"));
        assert_eq!(goes(Some(Path::new("a.wasm"))), Path::new("a.wasm"));
    }

    #[test]
    fn a_directory_without_a_plugin_is_rejected_at_once() {
        let here = tempfile::tempdir().unwrap();
        let request = BuildRequest { dir: here.path().into(), output: None };
        let error = build(&request, &Children::default(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, BuildError::NoManifest { .. }), "{error}");
    }

    #[test]
    fn the_last_error_names_the_commands_to_run() {
        let script =
            BuildError::NoTool { language: Language::Python, reason: "offline".into(), remedy: "pip install x".into() };
        let script = script.to_string();
        assert!(script.ends_with("Python plugins yet (offline). Run in the plugin's folder:\n\n    pip install x"));
        let message = BuildError::NoRustTarget { missing: Some("no wasm-ld".into()) }.to_string();
        for part in ["(no wasm-ld)", "rustup target add wasm32-unknown-unknown", "apt-get install", "lld-19"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
