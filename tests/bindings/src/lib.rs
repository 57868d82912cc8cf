//! The guest SDK's bindings to the contract in `wit/`, as the generator writes them. They are
//! committed, so that an author's build compiles neither the generator nor the parsers below it.
//! `make bindings` writes them, and a test here compares them with the contract.

use std::path::{Path, PathBuf};

/// The bindings of one world.
#[derive(Debug)]
pub struct Bindings {
    /// The committed file, below the repository's root.
    pub file: &'static str,
    /// The code that the contract generates.
    pub code: &'static str,
}

/// The bindings of every world that the SDK uses.
pub const BINDINGS: &[Bindings] = &[
    Bindings {
        file: "guest-sdk/rust/src/bindings/projector_plugin.rs",
        code: include_str!(concat!(env!("OUT_DIR"), "/projector-plugin.rs")),
    },
    Bindings {
        file: "guest-sdk/rust/src/bindings/projector_plugin_packed.rs",
        code: include_str!(concat!(env!("OUT_DIR"), "/projector-plugin-packed.rs")),
    },
    Bindings {
        file: "guest-sdk/rust/src/bindings/reactor_plugin.rs",
        code: include_str!(concat!(env!("OUT_DIR"), "/reactor-plugin.rs")),
    },
];

impl Bindings {
    /// The path of the committed file.
    pub fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_bindings_are_those_of_the_contract() {
        for bindings in BINDINGS {
            let committed = std::fs::read_to_string(bindings.path()).unwrap_or_default();
            let is_current = committed == bindings.code;
            assert!(is_current, "{} is not what the contract generates; run `make bindings`", bindings.file);
        }
    }
}
