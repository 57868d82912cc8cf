//! What a file is, told from its outline alone, before anything of it is compiled.
//!
//! The version of the contract stands in the names of a component's exports, what it wants from the host in those of its imports, and what
//! it cannot do without in its modules' memories and tables. So a file of another kind, version or need is refused by name and at once.

use wasmparser::{Encoding, Parser, Payload};

use super::limits::Limits;

/// The contract's package, as its names begin.
const PACKAGE: &str = "sandmill:processor/";
/// The version of it that this host runs.
const VERSION: &str = "0.1.0";
/// What a projector must export.
const EXPORTS: [&str; 2] = ["description", "projector"];
/// What this host offers.
const OFFERED: [&str; 4] = ["types", "documents", "logging", "settings"];

/// Why a file cannot be a plugin here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// No WebAssembly at all.
    #[error("not a WebAssembly component: {0}\nMake one with `sandmill plugin build DIR`.")]
    NotWasm(String),
    /// WebAssembly of the older kind.
    #[error(
        "a core module, not a component\n`sandmill plugin build DIR` turns a crate into a component; `wasm-tools component new` turns this file into one."
    )]
    CoreModule,
    /// Larger than allowed.
    #[error("{mib} MiB large, more than the {limit} MiB of limits.component-mib")]
    TooLarge {
        /// Its size.
        mib: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It begins with more memory than an instance may have.
    #[error("begins with {mib} MiB of memory, more than the {limit} MiB of limits.memory-mib")]
    Memory {
        /// What its modules declare together.
        mib: u64,
        /// What is allowed.
        limit: usize,
    },
    /// It begins with a longer table than an instance may have.
    #[error("begins with a table of {elements} elements, more than the {limit} of limits.table-elements")]
    Table {
        /// What a module declares.
        elements: u64,
        /// What is allowed.
        limit: usize,
    },
    /// A component, but not a plugin.
    #[error(
        "does not export `{PACKAGE}{missing}@{VERSION}`{instead}\nA plugin exports `description` and `projector` of that package."
    )]
    NoExport {
        /// What is missing.
        missing: &'static str,
        /// What is there of the kind, if anything.
        instead: String,
    },
    /// It wants what this host does not offer.
    #[error("imports {}, which this host does not offer\nBuild it for wasm32-unknown-unknown (`sandmill plugin build` does), so that it needs no WASI.", .0.join(", "))]
    Imports(Vec<String>),
}

/// Accepts bytes that name themselves a plugin this host can run, within its limits.
pub fn inspect(bytes: &[u8], limits: &Limits) -> Result<(), Refused> {
    if bytes.len() > limits.component_mib << 20 {
        return Err(Refused::TooLarge { mib: bytes.len().div_ceil(1 << 20), limit: limits.component_mib });
    }
    if bytes.is_empty() {
        return Err(Refused::NotWasm("the file is empty".into()));
    }
    let Outline { imports, exports, memory_bytes, table_elements } = outline(bytes)?;
    for missing in EXPORTS {
        if !exports.contains(&format!("{PACKAGE}{missing}@{VERSION}")) {
            let instead = match exports.iter().find(|name| name.starts_with(&format!("{PACKAGE}{missing}"))) {
                Some(other) => format!(" but `{other}`, a version that this host does not speak"),
                None => String::new(),
            };
            return Err(Refused::NoExport { missing, instead });
        }
    }
    let offered = |name: &String| OFFERED.iter().any(|o| *name == format!("{PACKAGE}{o}@{VERSION}"));
    let refused: Vec<String> =
        imports.into_iter().filter(|name| !offered(name)).map(|name| format!("`{name}`")).collect();
    if !refused.is_empty() {
        return Err(Refused::Imports(refused));
    }
    if memory_bytes > limits.memory_bytes() as u64 {
        return Err(Refused::Memory { mib: memory_bytes.div_ceil(1 << 20), limit: limits.memory_mib });
    }
    if table_elements > limits.table_elements as u64 {
        return Err(Refused::Table { elements: table_elements, limit: limits.table_elements });
    }
    Ok(())
}

/// What a file says about itself.
#[derive(Default)]
struct Outline {
    /// The component's own, not those of the modules in it.
    imports: Vec<String>,
    exports: Vec<String>,
    /// What the modules in it begin with, all together.
    memory_bytes: u64,
    /// The longest table that one of them begins with.
    table_elements: u64,
}

fn outline(bytes: &[u8]) -> Result<Outline, Refused> {
    let not_wasm = |e: wasmparser::BinaryReaderError| Refused::NotWasm(e.message().to_string());
    let (mut outline, mut depth) = (Outline::default(), 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(not_wasm)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Module {
                    return Err(Refused::CoreModule);
                }
                depth += 1;
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    outline.imports.push(import.map_err(not_wasm)?.name.name.to_string());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    outline.exports.push(export.map_err(not_wasm)?.name.name.to_string());
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory.map_err(not_wasm)?;
                    let page = 1_u64.checked_shl(memory.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
                    outline.memory_bytes = outline.memory_bytes.saturating_add(memory.initial.saturating_mul(page));
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    outline.table_elements = outline.table_elements.max(table.map_err(not_wasm)?.ty.initial);
                }
            }
            _ => {}
        }
    }
    Ok(outline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plugin_is_told_apart() {
        let limits = Limits { component_mib: 1, ..Limits::default() };
        let refused = |bytes: &[u8]| inspect(bytes, &limits).unwrap_err();
        assert_eq!(refused(b""), Refused::NotWasm("the file is empty".into()));
        assert!(matches!(refused(b"#!/bin/sh\necho"), Refused::NotWasm(_)));
        assert_eq!(refused(b"\0asm\x01\0\0\0"), Refused::CoreModule);
        assert_eq!(refused(&vec![0; (1 << 20) + 1]), Refused::TooLarge { mib: 2, limit: 1 });
        // An empty component.
        let error = refused(b"\0asm\x0d\0\x01\0").to_string();
        assert!(error.starts_with("does not export `sandmill:processor/description@0.1.0`\n"), "{error}");
    }
}
