//! Components made by hand from WebAssembly text, which no compiler of guests would produce.
//!
//! The text has the fields of a core module. The rest makes it a plugin that handles every event
//! and answers without effects.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::host::root;

/// A plugin whose core module has additional fields, and one memory if they define none. `project`
/// runs the function `$body` if it is defined, with the length of the tenant's name if it has a
/// parameter. `describe` runs the function `$describe` if it is defined.
pub fn plugin(fields: &str) -> Vec<u8> {
    named("handmade", fields)
}

/// The same with an id instead of `handmade`. The answer of `describe` is at 1024: this id, no
/// version, every event type, no collections, lanes by tenant, from the beginning. The answer of
/// `project` is at 4096. Fields that call `$get-many` get it from the host, in the plugin's form.
pub fn named(id: &str, fields: &str) -> Vec<u8> {
    made(Form::Plain, id, fields)
}

/// The same in the packed form of the contract.
pub fn packed(id: &str, fields: &str) -> Vec<u8> {
    made(Form::Packed, id, fields)
}

/// The same in both forms. Only the plain one runs `$body`.
pub fn both(fields: &str) -> Vec<u8> {
    made(Form::Both, "handmade", fields)
}

/// The forms of the contract that a plugin exports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Packed,
    Both,
}

impl Form {
    fn world(self) -> &'static str {
        match self {
            Form::Plain => "sandmill:processor/projector-plugin@0.1.0",
            Form::Packed => "sandmill:processor/projector-plugin-packed@0.1.0",
            Form::Both => "test:forms/both",
        }
    }

    /// The exports of `project`, with a body.
    fn project(self, body: &str) -> String {
        let export = |interface: &str, parameters: usize, body: &str| {
            format!(
                r##"(func (export "sandmill:processor/{interface}@0.1.0#project")
                    (param{}) (result i32) {body} i32.const 4096)"##,
                " i32".repeat(parameters)
            )
        };
        match self {
            Form::Plain => export("projector", 8, body),
            Form::Packed => export("projector-packed", 10, body),
            Form::Both => export("projector", 8, body) + &export("projector-packed", 10, ""),
        }
    }
}

fn made(form: Form, id: &str, fields: &str) -> Vec<u8> {
    let descriptor = format!(r"\00\08\00\00\{:02x}\00\00\00", id.len());
    let body = match fields {
        _ if fields.contains("(func $body (param") => "local.get 1 call $body",
        _ if fields.contains("(func $body") => "call $body",
        _ => "",
    };
    let imports = match form {
        _ if !fields.contains("call $get-many") => "",
        Form::Plain => {
            r#"(import "sandmill:processor/documents@0.1.0" "get-many"
                (func $get-many (param i32 i32 i32 i32 i32)))"#
        }
        Form::Packed | Form::Both => {
            r#"(import "sandmill:processor/documents-packed@0.1.0" "get-many"
                (func $get-many (param i32 i32 i32 i32 i32 i32 i32)))"#
        }
    };
    let describe = if fields.contains("(func $describe") { "call $describe" } else { "" };
    let project = form.project(body);
    let memory = if fields.contains("(memory (") { "" } else { "(memory (export \"memory\") 1)" };
    let module = format!(
        r#"(module
            {imports}
            {memory}
            (data (i32.const 2048) "{id}")
            (data (i32.const 1024) "{descriptor}")
            (func (export "sandmill:processor/description@0.1.0\#describe") (result i32)
                {describe} i32.const 1024)
            {project}
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 8192)
            {fields}
        )"#
    )
    .replace(r"\#", "#");
    component(&wat::parse_str(&module).expect("a module's text"), form)
}

/// A plugin with an id whose descriptor lists collections, and which answers without effects.
pub fn listing(id: &str, collections: &[impl AsRef<str>]) -> Vec<u8> {
    const AT: usize = 65_536;
    let names = AT + 8 * collections.len();
    let (mut list, mut text) = (Vec::new(), String::new());
    for name in collections.iter().map(AsRef::as_ref) {
        list.extend([names + text.len(), name.len()].map(|word| u32::try_from(word).expect("a place in memory")));
        text.push_str(name);
    }
    let list: String = list.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect();
    let pages = 2 + (names + text.len()) / AT;
    // The pointer and length of the descriptor's list.
    let describe = format!(
        "(i32.store (i32.const 1052) (i32.const {AT})) (i32.store (i32.const 1056) (i32.const {}))",
        collections.len()
    );
    named(
        id,
        &format!(
            r#"(memory (export "memory") {pages}) (data (i32.const {AT}) "{list}") (data (i32.const {names}) "{text}")
               (func $describe {describe})"#
        ),
    )
}

fn component(module: &[u8], form: Form) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (contract, _) = resolve.push_dir(wit()).expect("read the contract");
    let both = "package test:forms;
        world both {
            include sandmill:processor/projector-plugin@0.1.0;
            include sandmill:processor/projector-plugin-packed@0.1.0;
        }";
    let forms = resolve.push_str("forms.wit", both).expect("read a world");
    let world = resolve.select_world(&[contract, forms], Some(form.world())).expect("the form's world");
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("name the world");
    ComponentEncoder::default().module(&module).expect("read the module").encode().expect("make a component")
}

/// A plugin with additional core instances, at most 40, the first of them with a memory, as the
/// runtimes of other languages have.
pub fn with_instances(instances: u8, with_memory: u8) -> Vec<u8> {
    grown(plugin(""), instances, with_memory)
}

/// Another component with additional core instances.
pub fn grown(mut component: Vec<u8>, instances: u8, with_memory: u8) -> Vec<u8> {
    let first = core_modules(&component);
    let mut append = |id: u8, content: &[u8]| {
        component.extend([id, u8::try_from(content.len()).expect("a length of one byte")]);
        component.extend(content);
    };
    // Two sections with a module each, then one with the instances: zero, the module's index, no
    // arguments.
    append(1, &wat::parse_str("(module (memory 1))").expect("a module's text"));
    append(1, &wat::parse_str("(module)").expect("a module's text"));
    let instances = (0..instances).flat_map(|n| [0, if n < with_memory { first } else { first + 1 }, 0]);
    let content: Vec<u8> = instances.collect();
    append(2, &[&[(content.len() / 3) as u8], &content[..]].concat());
    component
}

/// The number of core modules directly in a component: its sections of id 1. A section is an id, a
/// length in LEB128, and its bytes.
fn core_modules(component: &[u8]) -> u8 {
    let (mut modules, mut rest) = (0, &component[8..]);
    while let [id, tail @ ..] = rest {
        let digits = tail.iter().position(|byte| byte & 0x80 == 0).expect("the end of a length") + 1;
        let length = tail[..digits].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        modules += u8::from(*id == 1);
        rest = &tail[digits + length..];
    }
    modules
}

/// A plugin that imports all of WASI in a version, and traps at every call.
pub fn importing_wasi(version: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (contract, _) = resolve.push_dir(wit()).expect("read the contract");
    let wasi = std::fs::read_to_string(root().join("tests/guests/wasi.wit")).expect("read WASI");
    let all =
        "world everything { include sandmill:processor/projector-plugin@0.1.0; include wasi:cli/imports@0.2.12; }";
    let world =
        format!("{wasi}\n").replacen("world hostile", &format!("{all}\nworld hostile"), 1).replace("0.2.12", version);
    let package = resolve.push_str("wasi.wit", &world).expect("read a world");
    let world = resolve.select_world(&[contract, package], Some("test:wasi/everything")).expect("the world");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("name the world");
    ComponentEncoder::default().module(&module).expect("read the module").encode().expect("make a component")
}

fn wit() -> impl AsRef<Path> {
    root().join("wit")
}
