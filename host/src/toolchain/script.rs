//! The build of plugins in JavaScript and Python, whose script and language runtime become one
//! component.
//!
//! The plugin's folder is copied to a temporary one, without hidden and built files. The guest SDK
//! of this host is added, unless the plugin brings its own. So nothing is written into the folder,
//! and nothing else from the machine gets into the component. The component is built from a wrapper
//! module, which exports the plugin's functions and logs uncaught exceptions. The build stubs the
//! runtime's imports of an operating system (`--stub-wasi`), so a component imports nothing but the
//! contract, like one built from Rust.

mod stage;
mod tool;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BuildError, Children, Language};

pub(super) use tool::Tool;

/// The contract, from which the tool generates the plugin's bindings.
const CONTRACT: &str = include_str!("../../../wit/processor.wit");
/// The contract's world of plugins.
const WORLD: &str = "projector-plugin";

/// The guest SDK: the path at which a plugin imports it, and its text.
fn sdk(language: Language) -> (&'static str, &'static str) {
    match language {
        Language::Python => ("sandmill.py", include_str!("../../../guest-sdk/python/sandmill.py")),
        _ => ("node_modules/sandmill/index.js", include_str!("../../../guest-sdk/js/sandmill.js")),
    }
}

/// The wrapper module that a component is built from: its file name and its text.
fn exports(language: Language) -> (&'static str, &'static str) {
    match language {
        Language::Python => ("sandmill_exports.py", include_str!("script/exports.py")),
        _ => ("sandmill_exports.js", include_str!("script/exports.js")),
    }
}

/// The plugin's name: that of its package.json, or else that of its folder.
pub(super) fn name(language: Language, dir: &Path) -> String {
    let named = (language == Language::JavaScript).then(|| std::fs::read(dir.join("package.json")).ok()).flatten();
    let named = named.and_then(|text| serde_json::from_slice(&text).ok()).map(|PackageJson { name }| name);
    // The name becomes a file name, so it must not be a path.
    let named = named.filter(|name| !name.is_empty() && !name.contains(['/', '\\']));
    let folder = || dir.file_name().map(|name| name.to_string_lossy().into_owned());
    named.or_else(folder).unwrap_or_else(|| "plugin".into())
}

/// The fields read from a package.json.
#[derive(Deserialize)]
struct PackageJson {
    name: String,
}

/// Builds a component of the plugin in `dir`.
pub(super) fn build(
    language: Language,
    tool: &Tool,
    dir: &Path,
    package: &str,
    children: &Children,
) -> Result<Vec<u8>, BuildError> {
    let file = |verb, path: PathBuf| move |source| BuildError::File { verb, path, source };
    let stage = tempfile::tempdir().map_err(file("make", std::env::temp_dir()))?;
    let (contract, plugin) = (stage.path().join("wit"), stage.path().join("plugin"));
    stage::copy(dir, &plugin).map_err(file("copy", dir.to_owned()))?;
    let ((sdk, text), (exports, exporting)) = (sdk(language), exports(language));
    stage::write(&contract.join("processor.wit"), CONTRACT).map_err(file("write", contract.clone()))?;
    if !plugin.join(sdk).exists() {
        stage::write(&plugin.join(sdk), text).map_err(file("write", plugin.join(sdk)))?;
    }
    stage::write(&plugin.join(exports), exporting).map_err(file("write", plugin.join(exports)))?;

    let component = stage.path().join("plugin.wasm");
    let mut command = tool.command(&plugin);
    // Errors in a plugin are explained by the tool's message, not by its own stack.
    command.env("RUST_BACKTRACE", "0");
    match language {
        Language::Python => {
            command.arg("--wit-path").arg(&contract).args(["--world", WORLD, "componentize", "--stub-wasi"]);
            command.arg("--output").arg(&component).args(["--python-path", ".", "sandmill_exports"]);
            // Packages come from the plugin's own environment or from an empty one, never from the
            // machine's Python.
            let own = dir.join(".venv");
            let none = stage.path().join("environment/lib/python3/site-packages");
            std::fs::create_dir_all(&none).map_err(file("make", none.clone()))?;
            command.env("VIRTUAL_ENV", if own.is_dir() { own } else { stage.path().join("environment") });
        }
        _ => {
            command.arg("--wit").arg(&contract).args(["--world", WORLD, "--sync", "--stub-wasi", "--module-root", "."]);
            command.args(["--js", exports, "--output"]).arg(&component);
        }
    }
    let ran = children.output(&mut command);
    let program = command.get_program().to_string_lossy().into_owned();
    let ran = ran.map_err(|source| BuildError::Run { program, source })?;
    if !ran.status.success() {
        let message = message_of(&String::from_utf8_lossy(&ran.stderr));
        return Err(BuildError::Script { package: package.to_owned(), message });
    }
    std::fs::read(&component).map_err(file("read", component.clone()))
}

/// A tool's message about the plugin, without the tool's own stacks. componentize-py prints it as
/// the text of an error in its own Python.
fn message_of(stderr: &str) -> String {
    let message = stderr.split("Stack backtrace:").next().unwrap_or(stderr);
    message.split_once("AssertionError:").map_or(message, |(_, inner)| inner).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_by_its_package_or_its_folder() {
        let here = tempfile::tempdir().unwrap();
        let dir = here.path().join("door-watch");
        std::fs::create_dir(&dir).unwrap();
        for language in [Language::JavaScript, Language::Python] {
            assert_eq!(name(language, &dir), "door-watch");
        }
        std::fs::write(dir.join("package.json"), r#"{"name": "doors", "private": true}"#).unwrap();
        assert_eq!(name(Language::JavaScript, &dir), "doors");
        assert_eq!(name(Language::Python, &dir), "door-watch");
        std::fs::write(dir.join("package.json"), r#"{"name": "@shop/doors"}"#).unwrap();
        assert_eq!(name(Language::JavaScript, &dir), "door-watch", "a name with a slash cannot be a file name");
    }

    #[test]
    fn a_tools_own_stack_is_left_out() {
        let stderr = "Traceback:\n  sys.exit(script())\nAssertionError:   SyntaxError: invalid syntax\n\nStack backtrace:\n 0: x";
        assert_eq!(message_of(stderr), "SyntaxError: invalid syntax");
        assert_eq!(message_of("Error: unexpected token\n"), "Error: unexpected token");
    }
}
