//! The outline of a component file: its imports, exports and initial sizes, read before anything is
//! compiled.
//!
//! The names of a component's exports carry the version of the contract. The names of its imports
//! show what it wants from the host, and its modules declare the memories and tables that they
//! begin with. So a file of another kind, for another version, or with imports that the host lacks
//! is rejected at once, and the error names what is wrong. Reading an outline is separate from
//! checking it, so that a rejected file can still be described.

use wasmparser::{Encoding, Parser, Payload};

use super::{limits::Limits, wasi};

/// Prefix of the contract's names.
const PACKAGE: &str = "sandmill:processor/";
/// The version of the contract that this host runs.
const VERSION: &str = "0.1.0";
/// Interfaces that a plugin must export: one of each line.
const EXPORTS: [&[&str]; 2] = [&["description"], &["projector", "projector-packed", "reactor"]];
/// Interfaces that this host offers.
const OFFERED: [&str; 6] = ["types", "documents", "logging", "settings", "packed-types", "documents-packed"];

/// Why a file cannot be a plugin on this host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileRejection {
    /// It is not WebAssembly.
    #[error("not a WebAssembly component: {0}\nBuild one with `sandmill plugin build DIR`.")]
    NotWasm(String),
    /// It is a core module, WebAssembly of the older kind.
    #[error(
        "a core module, not a component\n\
         Build a component from a crate with `sandmill plugin build DIR`, or from this file with `wasm-tools \
         component new`."
    )]
    CoreModule,
    /// It is a damaged component.
    #[error(
        "a damaged component: {0}\n\
         It was cut short or altered after it was built; copy it again, or rebuild it with `sandmill plugin \
         build DIR`."
    )]
    Damaged(String),
    /// The file is too large.
    #[error(
        "{mib} MiB large, more than the {limit} MiB of limits.component-mib\n\
         Make the component smaller (a release build, stripped of debug information), or raise the setting."
    )]
    TooLarge {
        /// Its size.
        mib: u64,
        /// The setting.
        limit: usize,
    },
    /// Its initial memory exceeds an instance's limit.
    #[error(
        "begins with {mib} MiB of memory, more than the {limit} MiB of limits.memory-mib\n\
         Make its static data smaller, or raise the setting."
    )]
    Memory {
        /// Memory that its modules declare together.
        mib: u64,
        /// The setting.
        limit: usize,
    },
    /// Its initial table exceeds an instance's limit.
    #[error(
        "begins with a table of {elements} elements, more than the {limit} of limits.table-elements\n\
         Link fewer functions whose addresses are taken, or raise the setting."
    )]
    Table {
        /// The table that a module declares.
        elements: u64,
        /// The setting.
        limit: usize,
    },
    /// It is a component, but not a plugin.
    #[error(
        "does not export `{PACKAGE}{missing}@{VERSION}`{instead}\n\
         A plugin exports `description` and either `projector` or `reactor` of that package; in Rust, write \
         `sandmill_guest::export_projector!(MyProjector);` or `sandmill_guest::export_reactor!(MyReactor);`."
    )]
    NoExport {
        /// The missing interface.
        missing: &'static str,
        /// A clause on what it exports instead; may be empty.
        instead: String,
    },
    /// It is a projector and a reactor at once.
    #[error(
        "exports both `projector` and `reactor`\n\
         Export one of them. A reactor can change documents too."
    )]
    TwoKinds,
    /// It imports what this host does not offer.
    #[error(
        "imports {}, which this host does not offer\nA plugin may import `documents`, `logging` and `settings` of \
         `sandmill:processor@{VERSION}`, and `cli`, `clocks`, `filesystem`, `io`, `random` and \
         `sockets` of WASI 0.2 without unstable parts, which reach nothing outside the sandbox. Remove the other imports; \
         there is no HTTP.",
        crate::model::text::some_of(.0, ", ")
    )]
    Imports(Vec<String>),
}

/// The outline of a file, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The component's own imports, not those of the modules in it.
    pub imports: Vec<String>,
    /// The component's own exports.
    pub exports: Vec<String>,
    /// Initial memory of all its modules together, bytes.
    pub memory_bytes: u64,
    /// The longest initial table of a module, elements.
    pub table_elements: u64,
}

impl Outline {
    /// The contract that its exports name, such as `sandmill:processor@0.1.0`, in this host's
    /// version or another. None if it is not a plugin.
    pub fn contract(&self) -> Option<String> {
        let (interface, version) = self.exports.iter().find_map(|name| name.strip_prefix(PACKAGE)?.split_once('@'))?;
        EXPORTS.concat().contains(&interface).then(|| format!("{}@{version}", PACKAGE.trim_end_matches('/')))
    }

    /// Reads as much of the outline as these bytes allow, and returns why it could not read the
    /// rest.
    pub(super) fn of(bytes: &[u8]) -> (Outline, Result<(), FileRejection>) {
        let mut outline = Outline::default();
        let read = outline.read(bytes);
        (outline, read)
    }

    /// Checks that the outline is that of a plugin which this host can run within its limits.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), FileRejection> {
        let Outline { imports, exports, memory_bytes, table_elements } = self;
        for forms in EXPORTS {
            let missing = forms[0];
            if !forms.iter().any(|form| exports.contains(&format!("{PACKAGE}{form}@{VERSION}"))) {
                let instead = match exports.iter().find(|name| name.starts_with(&format!("{PACKAGE}{missing}"))) {
                    Some(other) => format!(" but `{other}`, a version that this host does not support"),
                    None => other_exports(exports),
                };
                return Err(FileRejection::NoExport { missing, instead });
            }
        }
        let exports_any =
            |forms: &[&str]| forms.iter().any(|form| exports.contains(&format!("{PACKAGE}{form}@{VERSION}")));
        if exports_any(&["reactor"]) && exports_any(&["projector", "projector-packed"]) {
            return Err(FileRejection::TwoKinds);
        }
        let offered =
            |name: &String| wasi::offers(name) || OFFERED.iter().any(|o| *name == format!("{PACKAGE}{o}@{VERSION}"));
        let refused: Vec<String> =
            imports.iter().filter(|name| !offered(name)).map(|name| format!("`{name}`")).collect();
        if !refused.is_empty() {
            return Err(FileRejection::Imports(refused));
        }
        if *memory_bytes > limits.memory_bytes() as u64 {
            return Err(FileRejection::Memory { mib: memory_bytes.div_ceil(1 << 20), limit: limits.memory_mib });
        }
        if *table_elements > limits.table_elements as u64 {
            return Err(FileRejection::Table { elements: *table_elements, limit: limits.table_elements });
        }
        Ok(())
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), FileRejection> {
        if bytes.is_empty() {
            return Err(FileRejection::NotWasm("the file is empty".into()));
        }
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            // Without a header it is no component; with one it is a damaged component.
            let broken = |error: wasmparser::BinaryReaderError| match depth {
                // The rest of the message lists bytes, one per line.
                0 => {
                    FileRejection::NotWasm(error.message().split(" - expected").next().unwrap_or_default().to_string())
                }
                _ => FileRejection::Damaged(format!("{} at byte {}", error.message(), error.offset())),
            };
            match payload.map_err(broken)? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && encoding == Encoding::Module {
                        return Err(FileRejection::CoreModule);
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

/// A clause that names some exports of a component that is not a plugin.
fn other_exports(exports: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut names: Vec<String> = exports.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if exports.len() > SHOWN {
        names.push(format!("{} more", exports.len() - SHOWN));
    }
    if names.is_empty() { String::new() } else { format!(", only {}", names.join(", ")) }
}

/// Rejects a file for its size alone.
pub(super) fn check_size(bytes: u64, limits: &Limits) -> Result<(), FileRejection> {
    if bytes > (limits.component_mib as u64) << 20 {
        return Err(FileRejection::TooLarge { mib: bytes.div_ceil(1 << 20), limit: limits.component_mib });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(bytes: &[u8], limits: &Limits) -> Result<(), FileRejection> {
        let (outline, read) = Outline::of(bytes);
        read.and_then(|()| outline.check(limits))
    }

    #[test]
    fn a_file_that_is_no_plugin_is_rejected_by_its_kind() {
        let limits = Limits { component_mib: 1, ..Limits::default() };
        let refused = |bytes: &[u8]| inspect(bytes, &limits).unwrap_err();
        assert_eq!(refused(b""), FileRejection::NotWasm("the file is empty".into()));
        assert!(matches!(refused(b"#!/bin/sh\necho"), FileRejection::NotWasm(_)));
        assert_eq!(refused(b"\0asm\x01\0\0\0"), FileRejection::CoreModule);
        assert_eq!(check_size((1 << 20) + 1, &limits), Err(FileRejection::TooLarge { mib: 2, limit: 1 }));
        assert_eq!(check_size(1 << 20, &limits), Ok(()));
        // An empty component.
        let error = refused(b"\0asm\x0d\0\x01\0").to_string();
        assert!(error.starts_with("does not export `sandmill:processor/description@0.1.0`\n"), "{error}");
        // A component whose first section declares more bytes than the file has.
        let error = refused(b"\0asm\x0d\0\x01\0\x0a\x7f").to_string();
        assert!(error.starts_with("a damaged component: ") && error.contains("cut short"), "{error}");
    }

    #[test]
    fn a_projector_in_either_form_or_a_reactor_suffices() {
        let checked = |projector: &str| {
            let exports = ["description", projector].map(|name| format!("{PACKAGE}{name}@{VERSION}"));
            Outline { exports: exports.into(), ..Outline::default() }.check(&Limits::default())
        };
        assert_eq!([checked("projector"), checked("projector-packed"), checked("reactor")], [Ok(()), Ok(()), Ok(())]);
        assert!(matches!(checked("projectors"), Err(FileRejection::NoExport { missing: "projector", .. })));
        let both = ["description", "projector-packed", "reactor"].map(|name| format!("{PACKAGE}{name}@{VERSION}"));
        let both = Outline { exports: both.into(), ..Outline::default() };
        assert_eq!(both.check(&Limits::default()), Err(FileRejection::TwoKinds));
    }

    #[test]
    fn the_contract_is_read_from_the_exports() {
        let of = |exports: &[&str]| {
            Outline { exports: exports.iter().map(|name| name.to_string()).collect(), ..Outline::default() }.contract()
        };
        assert_eq!(of(&["sandmill:processor/projector@0.9.0"]).as_deref(), Some("sandmill:processor@0.9.0"));
        assert_eq!(of(&["sandmill:processor/projector-packed@0.1.0"]).as_deref(), Some("sandmill:processor@0.1.0"));
        assert_eq!(of(&["wasi:cli/run@0.2.0", "sandmill:processor/types@0.1.0"]), None);
        assert_eq!(other_exports(&["a", "b", "c", "d", "e"].map(String::from)), ", only `a`, `b`, `c`, 2 more");
    }
}
