//! The Rust toolchain for WebAssembly on this machine. Candidates are tried in this order: an
//! installed target, a target that rustup adds, a Linux distribution's Rust. The last one builds
//! the standard library from its sources.
//!
//! The search runs a few short processes. Only adding a target uses the network, once; without a
//! network it fails quickly and silently.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{BuildError, Children, children::command};

/// The oldest distribution's Rust that can build the standard library and the SDK: the first with
/// edition 2024.
const OLDEST_SYSTEM_RUST: (u32, u32) = (1, 85);

/// A compilation target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `wasm32-unknown-unknown`, whose modules import nothing and are turned into components here.
    Unknown,
    /// `wasm32-wasip2`, which produces components that import WASI.
    Wasip2,
}

/// A Rust toolchain that compiles for WebAssembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RustToolchain {
    /// The target is installed.
    Installed(Target),
    /// Rustup has just added the target.
    Added,
    /// The Rust of a Linux distribution in `/usr/bin`, with the sources of the standard library.
    System {
        /// An LLVM linker for WebAssembly.
        linker: PathBuf,
    },
}

impl RustToolchain {
    /// Finds a toolchain for the crate in `dir`. A `rust-toolchain.toml` there is respected.
    pub(super) fn find(
        dir: &Path,
        children: &Children,
        report: &mut dyn FnMut(&str),
    ) -> Result<RustToolchain, BuildError> {
        if let Some(target) = installed(dir, children) {
            return Ok(RustToolchain::Installed(target));
        }
        if add_target(dir, children, report) {
            return Ok(RustToolchain::Added);
        }
        SystemRust::find(children).toolchain().map_err(|missing| BuildError::NoRustTarget { missing: Some(missing) })
    }

    /// The target to compile for.
    pub fn target(&self) -> Target {
        match self {
            RustToolchain::Installed(target) => *target,
            RustToolchain::Added | RustToolchain::System { .. } => Target::Unknown,
        }
    }

    /// The command that runs cargo in `dir`.
    pub(super) fn cargo(&self, dir: &Path) -> Command {
        let RustToolchain::System { linker } = self else { return command("cargo", dir) };
        let mut cargo = command("/usr/bin/cargo", dir);
        // Rustup's shims come first on most paths and must be avoided. So must the libraries and
        // the choice of toolchain that an outer cargo passes on.
        cargo.env("PATH", "/usr/bin:/bin").env("RUSTC", "/usr/bin/rustc");
        cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("LD_LIBRARY_PATH");
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        // Building the standard library is reserved for nightly compilers. Here the sources are
        // those of this very compiler, so it is safe.
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo
    }

    /// Arguments of `cargo build` besides the target.
    pub(super) fn build_args(&self) -> &'static [&'static str] {
        match self {
            RustToolchain::Installed(_) | RustToolchain::Added => &[],
            RustToolchain::System { .. } => &["-Zbuild-std=std,panic_abort"],
        }
    }
}

impl fmt::Display for RustToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RustToolchain::Installed(target) => write!(f, "the installed target {target}"),
            RustToolchain::Added => write!(f, "the target {} that rustup has added", Target::Unknown),
            RustToolchain::System { .. } => {
                write!(f, "the system's Rust in /usr/bin and its standard library's sources")
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Unknown => "wasm32-unknown-unknown",
            Target::Wasip2 => "wasm32-wasip2",
        })
    }
}

/// The output of a program, if it succeeded.
fn output(children: &Children, command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = children.output(command).ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// The target that is installed for the crate in `dir`, if any.
fn installed(dir: &Path, children: &Children) -> Option<Target> {
    [Target::Unknown, Target::Wasip2].into_iter().find(|target| {
        let mut rustc = command("rustc", dir);
        rustc.args(["--print", "target-libdir", "--target", &target.to_string()]);
        output(children, &mut rustc).is_some_and(|libraries| Path::new(&libraries).is_dir())
    })
}

/// Adds the target with rustup, if there is a rustup and a network.
fn add_target(dir: &Path, children: &Children, report: &mut dyn FnMut(&str)) -> bool {
    if output(children, command("rustup", dir).args(["show", "active-toolchain"])).is_none() {
        return false;
    }
    report(&format!("Rust has no WebAssembly target yet; adding {} with rustup", Target::Unknown));
    let mut rustup = command("rustup", dir);
    rustup.args(["target", "add", &Target::Unknown.to_string()]).env("RUSTUP_MAX_RETRIES", "0");
    // The compiler on PATH need not be rustup's, so the installed target is looked up again.
    output(children, &mut rustup).is_some() && installed(dir, children) == Some(Target::Unknown)
}

/// The installed parts of a distribution's Rust.
#[derive(Debug)]
struct SystemRust {
    version: Option<(u32, u32)>,
    cargo: bool,
    sources: bool,
    linker: Option<PathBuf>,
}

impl SystemRust {
    fn find(children: &Children) -> Self {
        let bin = Path::new("/usr/bin");
        let rustc =
            |args: &[&str]| output(children, command("/usr/bin/rustc", bin).env_remove("LD_LIBRARY_PATH").args(args));
        let names = std::fs::read_dir(bin).into_iter().flatten().flatten();
        let linker = newest_linker(names.filter_map(|entry| entry.file_name().into_string().ok()));
        SystemRust {
            version: rustc(&["--version"]).and_then(|text| version(&text)),
            cargo: bin.join("cargo").exists(),
            sources: rustc(&["--print", "sysroot"])
                .is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/Cargo.lock").exists()),
            linker: linker.map(|name| bin.join(name)),
        }
    }

    /// The toolchain, or the missing part.
    fn toolchain(self) -> Result<RustToolchain, String> {
        let (major, minor) = OLDEST_SYSTEM_RUST;
        match self {
            SystemRust { version: None, .. } => Err("there is no /usr/bin/rustc".into()),
            SystemRust { version: Some(version), .. } if version < OLDEST_SYSTEM_RUST => {
                Err(format!("/usr/bin/rustc is {}.{}, older than {major}.{minor}", version.0, version.1))
            }
            SystemRust { cargo: false, .. } => Err("there is no /usr/bin/cargo".into()),
            SystemRust { sources: false, .. } => Err("/usr/bin/rustc has no sources of the standard library".into()),
            SystemRust { linker: None, .. } => Err("there is no /usr/bin/wasm-ld".into()),
            SystemRust { linker: Some(linker), .. } => Ok(RustToolchain::System { linker }),
        }
    }
}

/// Parses the version of rustc: `rustc 1.96.0 (…)` is 1.96.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("rustc ")?.split(['.', '-', ' ']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The newest linker among these file names: `wasm-ld-19` before `wasm-ld-9` before `wasm-ld`.
fn newest_linker(names: impl Iterator<Item = String>) -> Option<String> {
    let rated = names.filter_map(|name| {
        let release = match name.strip_prefix("wasm-ld")? {
            "" => 0,
            suffix => suffix.strip_prefix('-')?.parse::<u32>().ok()?,
        };
        Some((release, name))
    });
    rated.max().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> SystemRust {
        SystemRust { version: Some((1, 96)), cargo: true, sources: true, linker: Some("/usr/bin/wasm-ld-19".into()) }
    }

    #[test]
    fn a_systems_rust_needs_all_its_parts() {
        assert_eq!(complete().toolchain(), Ok(RustToolchain::System { linker: "/usr/bin/wasm-ld-19".into() }));
        let missing = |system: SystemRust| system.toolchain().unwrap_err();
        let old = SystemRust { version: Some((1, 63)), ..complete() };
        assert_eq!(missing(SystemRust { version: None, ..complete() }), "there is no /usr/bin/rustc");
        assert_eq!(missing(old), "/usr/bin/rustc is 1.63, older than 1.85");
        assert_eq!(missing(SystemRust { cargo: false, ..complete() }), "there is no /usr/bin/cargo");
        assert!(missing(SystemRust { sources: false, ..complete() }).contains("sources"));
        assert!(missing(SystemRust { linker: None, ..complete() }).contains("wasm-ld"));
    }

    #[test]
    fn versions_are_read_as_rustc_prints_them() {
        assert_eq!(version("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"), Some((1, 96)));
        assert_eq!(version("rustc 1.97.0-nightly (abc 2026-05-25)"), Some((1, 97)));
        assert_eq!(version("cargo 1.96.0"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn the_newest_linker_wins() {
        let newest = |names: &[&str]| newest_linker(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(newest(&["wasm-ld-9", "wasm-ld", "wasm-ld-19", "ld"]).as_deref(), Some("wasm-ld-19"));
        assert_eq!(newest(&["wasm-ld", "wasm-ldx", "wasm-ld-old"]).as_deref(), Some("wasm-ld"));
        assert_eq!(newest(&["ld", "lld-19"]), None);
    }

    #[test]
    fn the_systems_cargo_avoids_rustup() {
        let toolchain = RustToolchain::System { linker: "/usr/bin/wasm-ld-19".into() };
        let cargo = toolchain.cargo(Path::new("/"));
        let set = |name: &str| cargo.get_envs().find(|(key, _)| *key == name).map(|(_, value)| value);
        assert_eq!(cargo.get_program(), "/usr/bin/cargo");
        assert_eq!(set("RUSTC"), Some(Some("/usr/bin/rustc".as_ref())));
        assert_eq!(set("PATH"), Some(Some("/usr/bin:/bin".as_ref())));
        assert_eq!(set("RUSTUP_TOOLCHAIN"), Some(None), "removed");
        assert_eq!(set("CARGO"), Some(None), "this test runs under an outer cargo");
    }
}
