//! Components made by hand from WebAssembly text: what no compiler of guests would make.
//!
//! The text is a core module's fields. Around them stands what makes them a plugin that handles every event and answers with nothing.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::host::root;

/// What `describe` answers: the id `handmade`, no version, every event type, no collections, lanes by tenant, from the beginning.
const DESCRIPTOR: &str = r"\00\08\00\00\08\00\00\00";

/// A plugin whose core module has these fields besides, with one memory if they define none. `project` runs the function `$body` if they define it, and `describe` the
/// function `$describe`.
pub fn plugin(fields: &str) -> Vec<u8> {
    let body = if fields.contains("(func $body") { "call $body" } else { "" };
    let describe = if fields.contains("(func $describe") { "call $describe" } else { "" };
    let memory = if fields.contains("(memory") { "" } else { "(memory (export \"memory\") 1)" };
    let module = format!(
        r#"(module
            {memory}
            (data (i32.const 2048) "handmade")
            (data (i32.const 1024) "{DESCRIPTOR}")
            (func (export "sandmill:processor/description@0.1.0\#describe") (result i32)
                {describe} i32.const 1024)
            (func (export "sandmill:processor/projector@0.1.0\#project")
                (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                {body} i32.const 4096)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 8192)
            {fields}
        )"#
    )
    .replace(r"\#", "#");
    component(&wat::parse_str(&module).expect("a module's text"))
}

fn component(module: &[u8]) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit()).expect("read the contract");
    let world = resolve.select_world(&[package], Some("projector-plugin")).expect("the contract's world");
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("name the world");
    ComponentEncoder::default().module(&module).expect("read the module").encode().expect("make a component")
}

fn wit() -> impl AsRef<Path> {
    root().join("wit")
}
