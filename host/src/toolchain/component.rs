//! The conversion of a core module to a component, with a check that it is a plugin. The module
//! carries its interface types in a custom section, which the guest SDK's bindings put there. A
//! target that produces components needs no conversion.

use std::{
    fs::Permissions,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::BuildError;

/// Prefix of the names of a plugin's exports.
const CONTRACT: &str = "sandmill:processor/";

/// Converts a module to a component, and keeps a component unchanged. The result must be a plugin.
pub(super) fn from_module(module: Vec<u8>, package: &str) -> Result<Vec<u8>, BuildError> {
    let component = if Parser::is_component(&module) {
        module
    } else {
        let encoder = ComponentEncoder::default().validate(true).module(&module);
        encoder
            .and_then(|mut encoder| encoder.encode())
            .map_err(|error| BuildError::Component { package: package.to_owned(), message: format!("{error:#}") })?
    };
    match exports(&component) {
        Ok(exports) if exports.iter().any(|name| name.starts_with(CONTRACT)) => Ok(component),
        Ok(_) => Err(BuildError::NoPlugin { package: package.to_owned() }),
        Err(error) => Err(BuildError::Component { package: package.to_owned(), message: error.to_string() }),
    }
}

/// Writes a file atomically: first under a temporary name that no host reads as a plugin.
pub(super) fn write_atomically(bytes: &[u8], path: &Path) -> Result<(), BuildError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        // The umask decides the final permissions, as for every other build output.
        let mut temporary = tempfile::Builder::new();
        temporary.prefix(".plugin-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
        let mut file = temporary.tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| BuildError::File { verb: "write", path: path.to_owned(), source })
}

/// The names that a component exports.
fn exports(component: &[u8]) -> Result<Vec<String>, wasmparser::BinaryReaderError> {
    let mut exports = Vec::new();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            // Exports of nested modules and components are internal.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(exports)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_file_without_a_plugins_exports_is_rejected() {
        for file in [EMPTY_MODULE, EMPTY_COMPONENT] {
            let error = from_module(file.to_vec(), "door-watch").unwrap_err();
            assert!(matches!(error, BuildError::NoPlugin { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_webassembly_is_rejected() {
        let error = from_module(b"#!/bin/sh".to_vec(), "door-watch").unwrap_err();
        assert!(matches!(error, BuildError::Component { .. }), "{error}");
    }

    #[test]
    fn a_file_is_replaced_and_no_temporary_file_remains() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("plugins/door-watch.wasm");
        write_atomically(b"one", &path).unwrap();
        write_atomically(b"two", &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(here.path().join("plugins")).unwrap().count(), 1);
    }
}
