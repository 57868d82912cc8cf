//! What a file is, told from its outline alone, before anything of it is compiled.
//!
//! The version of the contract stands in the names of a component's exports, what it wants from the host in those of its imports, and what
//! it cannot do without in its modules' memories and tables. So a file of another kind, version or need is refused by name and at once.
//! What an outline says is kept apart from whether this host takes it, so that a refused file can still be described.

use wasmparser::{Encoding, Parser, Payload};

use super::{limits::Limits, wasi};

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
    /// A component that is not whole.
    #[error(
        "a damaged component: {0}\nIt was cut short or altered after it was made; copy it again, or make it again with `sandmill plugin build DIR`."
    )]
    Damaged(String),
    /// Larger than allowed.
    #[error(
        "{mib} MiB large, more than the {limit} MiB of limits.component-mib\nMake the component smaller (a release build, stripped of debug information), or raise the setting."
    )]
    TooLarge {
        /// Its size.
        mib: u64,
        /// What is allowed.
        limit: usize,
    },
    /// It begins with more memory than an instance may have.
    #[error(
        "begins with {mib} MiB of memory, more than the {limit} MiB of limits.memory-mib\nMake its static data smaller, or raise the setting."
    )]
    Memory {
        /// What its modules declare together.
        mib: u64,
        /// What is allowed.
        limit: usize,
    },
    /// It begins with a longer table than an instance may have.
    #[error(
        "begins with a table of {elements} elements, more than the {limit} of limits.table-elements\nLink fewer functions whose addresses are taken, or raise the setting."
    )]
    Table {
        /// What a module declares.
        elements: u64,
        /// What is allowed.
        limit: usize,
    },
    /// A component, but not a plugin.
    #[error(
        "does not export `{PACKAGE}{missing}@{VERSION}`{instead}\nA plugin exports `description` and `projector` of that package; in Rust \
         `sandmill_guest::export_projector!(MyProjector);` does."
    )]
    NoExport {
        /// What is missing.
        missing: &'static str,
        /// What is there of the kind, if anything.
        instead: String,
    },
    /// It wants what this host does not offer.
    #[error("imports {}, which this host does not offer\nA plugin may import `documents`, `logging` and `settings` of `sandmill:processor@{VERSION}`, and of WASI 0.2 `cli`, `clocks`, `filesystem`, `io`, `random` \
         and `sockets`, which reach nothing here. Leave out what needs more; there is no HTTP.", crate::model::text::some_of(.0, ", "))]
    Imports(Vec<String>),
}

/// What a file says about itself, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The component's own imports, not those of the modules in it.
    pub imports: Vec<String>,
    /// The component's own exports.
    pub exports: Vec<String>,
    /// What the modules in it begin with, all together.
    pub memory_bytes: u64,
    /// The longest table that one of them begins with.
    pub table_elements: u64,
}

impl Outline {
    /// The contract that it says it keeps: `sandmill:processor@0.1.0`, this host's version or not. None where it is no plugin at all.
    pub fn contract(&self) -> Option<String> {
        let (interface, version) = self.exports.iter().find_map(|name| name.strip_prefix(PACKAGE)?.split_once('@'))?;
        EXPORTS.contains(&interface).then(|| format!("{}@{version}", PACKAGE.trim_end_matches('/')))
    }

    /// Reads what can be read of these bytes, and says what kept it from reading the rest.
    pub(super) fn of(bytes: &[u8]) -> (Outline, Result<(), Refused>) {
        let mut outline = Outline::default();
        let read = outline.read(bytes);
        (outline, read)
    }

    /// Accepts the outline of a plugin that this host can run, within its limits.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Refused> {
        let Outline { imports, exports, memory_bytes, table_elements } = self;
        for missing in EXPORTS {
            if !exports.contains(&format!("{PACKAGE}{missing}@{VERSION}")) {
                let instead = match exports.iter().find(|name| name.starts_with(&format!("{PACKAGE}{missing}"))) {
                    Some(other) => format!(" but `{other}`, a version that this host does not speak"),
                    None => what_else(exports),
                };
                return Err(Refused::NoExport { missing, instead });
            }
        }
        let offered =
            |name: &String| wasi::offers(name) || OFFERED.iter().any(|o| *name == format!("{PACKAGE}{o}@{VERSION}"));
        let refused: Vec<String> =
            imports.iter().filter(|name| !offered(name)).map(|name| format!("`{name}`")).collect();
        if !refused.is_empty() {
            return Err(Refused::Imports(refused));
        }
        if *memory_bytes > limits.memory_bytes() as u64 {
            return Err(Refused::Memory { mib: memory_bytes.div_ceil(1 << 20), limit: limits.memory_mib });
        }
        if *table_elements > limits.table_elements as u64 {
            return Err(Refused::Table { elements: *table_elements, limit: limits.table_elements });
        }
        Ok(())
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.is_empty() {
            return Err(Refused::NotWasm("the file is empty".into()));
        }
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            // What has no header is something else; what has one was a component once.
            let broken = |error: wasmparser::BinaryReaderError| match depth {
                // What follows lists bytes, one a line.
                0 => Refused::NotWasm(error.message().split(" - expected").next().unwrap_or_default().to_string()),
                _ => Refused::Damaged(format!("{} at byte {}", error.message(), error.offset())),
            };
            match payload.map_err(broken)? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && encoding == Encoding::Module {
                        return Err(Refused::CoreModule);
                    }
                    depth += 1;
                }
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        self.imports.push(import.map_err(broken)?.name.name.to_string());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        self.exports.push(export.map_err(broken)?.name.name.to_string());
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        let memory = memory.map_err(broken)?;
                        let page = 1_u64.checked_shl(memory.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
                        self.memory_bytes = self.memory_bytes.saturating_add(memory.initial.saturating_mul(page));
                    }
                }
                Payload::TableSection(section) => {
                    for table in section {
                        self.table_elements = self.table_elements.max(table.map_err(broken)?.ty.initial);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Names what a component of another world exports; a few will do.
fn what_else(exports: &[String]) -> String {
    const ENOUGH: usize = 3;
    let mut names: Vec<String> = exports.iter().take(ENOUGH).map(|name| format!("`{name}`")).collect();
    if exports.len() > ENOUGH {
        names.push(format!("{} more", exports.len() - ENOUGH));
    }
    if names.is_empty() { String::new() } else { format!(", only {}", names.join(", ")) }
}

/// Refuses a file for its size alone.
pub(super) fn check_size(bytes: u64, limits: &Limits) -> Result<(), Refused> {
    if bytes > (limits.component_mib as u64) << 20 {
        return Err(Refused::TooLarge { mib: bytes.div_ceil(1 << 20), limit: limits.component_mib });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(bytes: &[u8], limits: &Limits) -> Result<(), Refused> {
        let (outline, read) = Outline::of(bytes);
        read.and_then(|()| outline.check(limits))
    }

    #[test]
    fn what_is_no_plugin_is_told_apart() {
        let limits = Limits { component_mib: 1, ..Limits::default() };
        let refused = |bytes: &[u8]| inspect(bytes, &limits).unwrap_err();
        assert_eq!(refused(b""), Refused::NotWasm("the file is empty".into()));
        assert!(matches!(refused(b"#!/bin/sh\necho"), Refused::NotWasm(_)));
        assert_eq!(refused(b"\0asm\x01\0\0\0"), Refused::CoreModule);
        assert_eq!(check_size((1 << 20) + 1, &limits), Err(Refused::TooLarge { mib: 2, limit: 1 }));
        assert_eq!(check_size(1 << 20, &limits), Ok(()));
        // An empty component.
        let error = refused(b"\0asm\x0d\0\x01\0").to_string();
        assert!(error.starts_with("does not export `sandmill:processor/description@0.1.0`\n"), "{error}");
        // One whose first section says that it is longer than the file.
        let error = refused(b"\0asm\x0d\0\x01\0\x0a\x7f").to_string();
        assert!(error.starts_with("a damaged component: ") && error.contains("cut short"), "{error}");
    }

    #[test]
    fn the_contract_is_told_from_the_exports() {
        let of = |exports: &[&str]| {
            Outline { exports: exports.iter().map(|name| name.to_string()).collect(), ..Outline::default() }.contract()
        };
        assert_eq!(of(&["sandmill:processor/projector@0.9.0"]).as_deref(), Some("sandmill:processor@0.9.0"));
        assert_eq!(of(&["wasi:cli/run@0.2.0", "sandmill:processor/types@0.1.0"]), None);
        assert_eq!(what_else(&["a", "b", "c", "d", "e"].map(String::from)), ", only `a`, `b`, `c`, 2 more");
    }
}
