//! Tests of the checks themselves, on small sources with offences and with harmless lookalikes.

use std::collections::BTreeSet;

use super::{
    beside, borders, circles, included, machine_path, registry_address, rust, sleeps, tree::File, unfinished_code,
};

fn offences(path: &str, source: &str) -> Vec<(usize, String)> {
    borders::offences(path, source, &mut BTreeSet::new())
}

/// The paths of a source, as text; imports begin with `use`.
fn paths(source: &str, module: &str) -> Vec<String> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    let paths = rust::paths(&rust::tokens(source), &module);
    let text = |named: &rust::Named| {
        let (import, glob) = (if named.import { "use " } else { "" }, if named.glob { "::*" } else { "" });
        format!("{import}{}{glob}", named.path.join("::"))
    };
    paths.iter().map(text).collect()
}

#[track_caller]
fn assert_rejected(path: &str, source: &str, words: &str) {
    let found = offences(path, source);
    assert!(found.iter().any(|(_, offence)| offence.contains(words)), "{source}: {found:?}");
}

#[track_caller]
fn assert_fine(path: &str, source: &str) {
    assert_eq!(offences(path, source), [], "{source}");
}

#[test]
fn import_trees_are_flattened() {
    let source = "use crate::{a::{self, b::{C, D as E}}, f::*};\npub use self::g::H;\nuse super::super::k;";
    let expected = [
        "use crate::a",
        "use crate::a::b::C",
        "use crate::a::b::D",
        "use crate::f::*",
        "use crate::m::n::g::H",
        "use crate::k",
    ];
    assert_eq!(paths(source, "crate::m::n"), expected);
}

#[test]
fn imported_names_are_resolved_where_they_are_used() {
    let source = "use crate::{processor, db as base};\nfn f() -> processor::Config { base::types::open::<u8>() }";
    let expected = ["use crate::processor", "use crate::db", "crate::processor::Config", "crate::db::types::open"];
    assert_eq!(paths(source, "crate::config"), expected);
}

#[test]
fn super_is_resolved_in_modules_within_a_file() {
    let source = "mod tests { use super::x; mod deep { use super::super::y; } }\nuse super::z;";
    assert_eq!(paths(source, "crate::a::b"), ["use crate::a::b::x", "use crate::a::b::y", "use crate::a::z"]);
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = r####"
        // crate::db::A
        /* crate::db::B /* nested */ crate::db::C */
        const A: &str = "crate::db::D \" crate::db::E";
        const B: &str = r#"crate::db::F " crate::db::G"#;
        const C: (char, char, &[u8]) = ('"', '\'', br"crate::db::H");
        fn f<'a>(x: &'a crate::db::Found) { x.y::<u8>(); 1.0f64::max; }
    "####;
    assert_eq!(paths(source, "crate::a"), ["crate::db::Found"]);
}

#[test]
fn lines_are_counted_through_literals() {
    assert_eq!(offences("model/event.rs", "//! \n\nconst A: &str = \"\n\n\";\nuse crate::db::Db;")[0].0, 6);
}

#[test]
fn a_room_may_name_only_the_rooms_in_its_line() {
    assert_rejected("model/event.rs", "use crate::db::Db;", "`model` may not name `crate::db::Db`");
    assert_rejected("sandbox/engine.rs", "fn f() { crate::processor::policy::now() }", "`sandbox` may not name");
    assert_rejected("sandbox/engine.rs", "use super::super::processor::policy;", "`sandbox` may not name");
    assert_rejected(
        "processor/lane.rs",
        "use crate::{model::ids, sandbox::{Plugin, Limits}};",
        "crate::sandbox::Plugin",
    );
    assert_rejected("attic/chest.rs", "use crate::model::ids;", "`attic` is not known");
    assert_fine("processor/lane.rs", "use crate::{model::ids::LaneKey, processor::policy, supervisor::Stop};");
    assert_fine("main.rs", "fn main() { sandmill::cli::main() }");
    assert_rejected("main.rs", "fn main() { sandmill::app::run() }", "`main` may not name `crate::app::run`");
}

#[test]
fn a_room_may_be_imported_for_one_allowed_item() {
    let config = "use crate::scheduler;\npub struct Config { pub scheduler: scheduler::Config }";
    assert_fine("config.rs", config);
    assert_rejected("config.rs", "use crate::scheduler;\nfn f() { scheduler::start() }", "crate::scheduler::start");
    assert_rejected("config.rs", "use crate::scheduler::*;", "`config` may not name `crate::scheduler`");
}

#[test]
fn dependencies_stay_in_their_rooms() {
    assert_rejected("processor/lane.rs", "use wasmtime::Store;", "the crate `wasmtime`");
    assert_rejected("store/list.rs", "fn f(e: tokio_postgres::Error) {}", "the crate `tokio_postgres`");
    assert_rejected("cli/run.rs", "use ::wit_component::ComponentEncoder as E;", "the crate `wit_component`");
    assert_rejected("cli/run.rs", "use axum::Router;", "the crate `axum`");
    assert_fine("sandbox/engine.rs", "use wasmtime::{Engine, component::Linker};");
}

#[test]
fn tasks_and_exits_have_owners() {
    assert_rejected("consumer/wake.rs", "fn f() { tokio::spawn(g()); }", "may not use `tokio::spawn`");
    assert_rejected(
        "consumer/wake.rs",
        "use tokio::task;\nfn f() { task::spawn(g()); }",
        "may not use `tokio::task::spawn`",
    );
    assert_rejected("cli/run.rs", "use std::process;\nfn f() { process::exit(1) }", "may not use `std::process::exit`");
    assert_fine("db.rs", "fn f() { tokio::spawn(g()); }");
    assert_fine("consumer/wake.rs", "#[cfg(test)]\nmod tests { fn f() { tokio::spawn(g()); } }");
    assert_rejected("consumer/wake.rs", "#[cfg(test)]\nmod tests {}\nfn f() { tokio::spawn(g()); }", "tokio::spawn");
}

#[test]
fn a_pure_module_reads_no_clock() {
    assert_rejected("model/event.rs", "use std::time::Instant;\nfn f() { Instant::now(); }", "`model` is pure");
    assert_fine("model/event.rs", "use std::time::Instant;\nfn f(now: Instant) {}");
    assert_rejected("consumer/router.rs", "use std::time;\nfn f() { time::SystemTime::now(); }", "`consumer::router`");
    assert_rejected("processor/policy.rs", "async fn f() { tokio::task::yield_now().await }", "`processor::policy`");
    assert_fine("consumer/wake.rs", "use std::time::Instant;\nfn f() { Instant::now(); }");
    assert_fine("model/event.rs", "use std::time::Duration;");
}

#[test]
fn unfinished_work_is_found_in_code_and_comments() {
    let source =
        "fn f() { todo!() }\n// FIXME later\nfn g() { dbg!(1); }\n#[ignore = \"slow\"]\nfn h() { unimplemented!() }";
    let found: Vec<usize> = unfinished_code(source).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, [1, 2, 3, 4, 5]);
    assert_eq!(unfinished_code("const T: &str = \"FIXME todo!()\"; // fixme is a word\nfn todo() {}"), []);
}

#[test]
fn sleeps_are_found_under_any_name() {
    let source = "use tokio::time::sleep as rest;\nasync fn f() { tokio::time::sleep(d).await }\nuse std::thread;\nfn g() { thread::sleep(d) }";
    assert_eq!(sleeps(source), [1, 2, 4]);
    assert!(sleeps("async fn f() { tokio::time::timeout(d, g()).await }").is_empty());
}

#[test]
fn included_files_are_found_with_their_paths() {
    assert_eq!(
        included("const A: &str = include_str!(\"a/b.sql\"); // include_str!(\"c.sql\")"),
        [(1, "a/b.sql".into())]
    );
    assert_eq!(beside("host/src/store/list.rs", "../page.sql"), "host/src/page.sql");
}

#[test]
fn paths_of_one_machine_are_distinguished_from_similar_texts() {
    let home = concat!("/ho", "me");
    assert_eq!(machine_path(&format!("cd {home}/ada")), Some(home.into()));
    assert_eq!(machine_path(&format!("\"{home}\"")), Some(home.into()));
    for fine in [format!("/opt{home}brew"), format!("example.org{home}"), format!("$dir{home}"), format!("{home}brew")]
    {
        assert_eq!(machine_path(&fine), None, "{fine}");
    }
}

#[test]
fn addresses_of_registries_are_distinguished_from_names() {
    assert!(registry_address(concat!("get https:/", "/static.crates", ".io/x")).is_some());
    assert!(registry_address(concat!("index = \"spar", "se+https://mirror/\"")).is_some());
    assert_eq!(registry_address("a dependency from a registry, https://github.com/a/b"), None);
    assert_eq!(registry_address(super::USUAL_REGISTRY), None);
}

/// The circles among modules that are given by path and source.
fn circles_of(sources: &[(&str, &str)]) -> Vec<String> {
    let file = |(path, text): &(&str, &str)| File { path: format!("host/src/{path}"), text: (*text).into() };
    let files: Vec<File> = sources.iter().map(file).collect();
    let found = circles::circles(&circles::edges(files.iter()));
    found.iter().map(|circle| circle.iter().map(|m| m.join("::")).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn siblings_that_name_each_other_are_a_circle() {
    let circle = [("a.rs", ""), ("a/b.rs", "use super::c::C;"), ("a/c.rs", ""), ("a/c/d.rs", "use crate::a::b::B;")];
    assert_eq!(circles_of(&circle), ["a::b a::c"]);
    let longer = [
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::a::A;"),
        ("d.rs", "use crate::a::A;"),
    ];
    assert_eq!(circles_of(&longer), ["a b c"]);
}

#[test]
fn a_module_and_its_children_are_not_a_circle() {
    let family = [("a.rs", "use b::B;"), ("a/b.rs", "use super::A; use super::c::C;"), ("a/c.rs", "use crate::a::A;")];
    assert_eq!(circles_of(&family), Vec::<String>::new());
    let only_tests = [("a.rs", "use crate::b::B;"), ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; }")];
    assert_eq!(circles_of(&only_tests), Vec::<String>::new());
}
