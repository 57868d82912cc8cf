//! Generates the bindings of every world that the guest SDK uses, each into a file of the build's
//! own folder. `src/lib.rs` lists where they are committed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wit_bindgen_core::{Files, WorldGenerator as _, wit_parser::Resolve};
use wit_bindgen_rust::{Opts, Ownership, WithOption};

/// The folder of the contract.
const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");

/// The bindings of one world.
struct Bindings {
    world: &'static str,
    /// The module of the SDK that includes them.
    module: &'static str,
    /// The macro that exports the world's functions from a plugin's crate.
    export_macro: &'static str,
    /// Interfaces whose bindings are those of the first world.
    shared: &'static [&'static str],
}

const BINDINGS: &[Bindings] = &[
    Bindings {
        world: "projector-plugin-packed",
        module: "::sandmill_guest::bindings",
        export_macro: "export_projector_plugin",
        shared: &[],
    },
    Bindings {
        world: "projector-plugin",
        module: "::sandmill_guest::bindings::plain",
        export_macro: "export_plain_projector_plugin",
        shared: &["types", "logging", "settings"],
    },
    Bindings {
        world: "reactor-plugin",
        module: "::sandmill_guest::bindings::reactor",
        export_macro: "export_reactor_plugin",
        shared: &["types", "logging", "settings"],
    },
];

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
    fn generate(&self) -> Result<String> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(Path::new(CONTRACT))?;
        let world = resolve.select_world(&[package], Some(self.world))?;
        let shared = |interface: &&str| {
            let module = format!("crate::bindings::sandmill::processor::{interface}");
            (format!("sandmill:processor/{interface}@0.1.0"), WithOption::Path(module))
        };
        let options = Opts {
            format: true,
            // The SDK has the plain form's records even if no function of the world uses them.
            generate_unused_types: true,
            with: self.shared.iter().map(shared).collect(),
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
        // The macros of a crate share one namespace, so those of each world get their own names.
        let exported = format!("__{}_sandmill_processor_", self.export_macro);
        Ok(std::str::from_utf8(code)?.replace("__export_sandmill_processor_", &exported))
    }
}
