//! Generates the bindings of every world that the guest SDK uses, each into a file of the build's
//! own folder. `src/lib.rs` lists where they are committed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wit_bindgen_core::{Files, WorldGenerator as _, wit_parser::Resolve};
use wit_bindgen_rust::{Opts, Ownership};

/// The folder of the contract.
const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");

/// The bindings of one world.
struct Bindings {
    world: &'static str,
    /// The module of the SDK that includes them.
    module: &'static str,
    /// The macro that exports the world's functions from a plugin's crate.
    export_macro: &'static str,
}

const BINDINGS: &[Bindings] = &[Bindings {
    world: "projector-plugin",
    module: "::sandmill_guest::bindings",
    export_macro: "export_projector_plugin",
}];

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={CONTRACT}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for bindings in BINDINGS {
        let code = bindings.generate().with_context(|| format!("generate the world {}", bindings.world))?;
        std::fs::write(out.join(format!("{}.rs", bindings.world)), code)?;
    }
    Ok(())
}

impl Bindings {
    fn generate(&self) -> Result<Vec<u8>> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(Path::new(CONTRACT))?;
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
        Ok(code.to_vec())
    }
}
