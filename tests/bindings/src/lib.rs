//! The generator of the guest SDK's bindings: Rust code for the worlds of the contract in `wit/`.
//!
//! The code is committed, so that an author's build compiles neither the generator nor the parsers
//! below it. `make bindings` writes it; a test here compares it with the contract.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wit_bindgen_core::{Files, WorldGenerator as _, wit_parser::Resolve};
use wit_bindgen_rust::{Opts, Ownership};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The bindings of one world.
#[derive(Debug)]
pub struct Bindings {
    /// The world in `wit/`.
    pub world: &'static str,
    /// The committed file, below the repository's root.
    pub file: &'static str,
    /// The module of the SDK that includes the file.
    module: &'static str,
    /// The macro that exports the world's functions from a plugin's crate.
    export_macro: &'static str,
}

/// The bindings of every world that the SDK uses.
pub const BINDINGS: &[Bindings] = &[Bindings {
    world: "projector-plugin",
    file: "guest-sdk/rust/src/bindings/projector_plugin.rs",
    module: "::sandmill_guest::bindings",
    export_macro: "export_projector_plugin",
}];

impl Bindings {
    /// The path of the committed file.
    pub fn path(&self) -> PathBuf {
        Path::new(ROOT).join(self.file)
    }

    /// Generates the code from the contract.
    ///
    /// # Errors
    ///
    /// If the contract cannot be parsed or has no such world.
    pub fn generate(&self) -> Result<String> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(Path::new(ROOT).join("wit"))?;
        let world = resolve.select_world(&[package], Some(self.world))?;
        let options = Opts {
            format: true,
            ownership: Ownership::Borrowing { duplicate_if_necessary: true },
            runtime_path: Some("crate::abi".into()),
            pub_export_macro: true,
            export_macro_name: Some(self.export_macro.into()),
            default_bindings_module: Some(self.module.into()),
            ..Opts::default()
        };
        let mut files = Files::default();
        options.build().generate(&mut resolve, world, &mut files)?;
        let (_, code) = files.iter().next().context("the generator produced no file")?;
        Ok(std::str::from_utf8(code)?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_bindings_are_those_of_the_contract() {
        for bindings in BINDINGS {
            let committed = std::fs::read_to_string(bindings.path()).unwrap_or_default();
            let is_current = committed == bindings.generate().unwrap();
            assert!(is_current, "{} is not what the contract generates; run `make bindings`", bindings.file);
        }
    }
}
