//! House rules, checked by reading the repository's files: borders between the host's rooms, sizes
//! of files, headers, and leftovers. Each failure names the place, the rule and the remedy.

mod borders;
mod checker;
mod circles;
mod rust;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use rust::Kind;
use sandmill::db::migrate::MIGRATIONS;
use tree::{File, files};

/// Maximum number of lines of a Rust file.
const LONGEST: usize = 800;

/// Maximum width of a line with a comment, in characters.
const WIDEST: usize = 100;

/// Accepted circles of modules, each named by one of its modules, with the reason.
const CIRCLES: &[(&str, &str)] = &[];

/// Tests that may wait for time to pass rather than for an event, with the reason.
const SLEEPERS: &[(&str, &str)] = &[
    ("tests/src/host.rs", "the polls of `eventually`, which ends with the awaited event"),
    ("tests/src/writers.rs", "writers with long transactions, which reconnect to a server that is down"),
    ("tests/src/calls.rs", "a host call that takes longer than the limit on computing"),
    ("tests/suite/detach.rs", "a slow handler, and events that arrive at intervals"),
];

fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "{} found:\n{}\n", offences.len(), offences.join("\n"));
}

fn rust_files(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.is(".rs"))
}

#[test]
fn rooms_respect_their_borders() {
    let (files, mut used, mut offences) = (files(), BTreeSet::new(), Vec::new());
    for file in rust_files(&files) {
        let Some(path) = file.path.strip_prefix("host/src/") else { continue };
        for (line, offence) in borders::offences(path, &file.text, &mut used) {
            offences.push(format!("{}:{line}: {offence}.", file.path));
        }
    }
    let allowed = borders::ROOMS.iter().flat_map(|(room, allowed)| allowed.iter().map(move |rule| (*room, *rule)));
    offences
        .extend(allowed.filter(|(room, rule)| !used.contains(&((*room).into(), (*rule).into()))).map(|(room, rule)| {
        format!(
            "tests/suite/tidy/borders.rs: ROOMS lets `{room}` name `{rule}`, which it no longer does. Remove the line."
        )
    }));
    assert_none(offences);
}

#[test]
fn modules_have_no_circular_dependencies() {
    let files = files();
    let found = circles::circles(&circles::edges(rust_files(&files)));
    let names = |circle: &BTreeSet<Vec<String>>| circle.iter().map(|module| module.join("::")).collect::<Vec<_>>();
    let is_known = |names: &[String], known: &str| names.iter().any(|name| name == known);
    let mut offences: Vec<String> = found
        .iter()
        .map(names)
        .filter(|names| !CIRCLES.iter().any(|(known, _)| is_known(names, known)))
        .map(|names| {
            format!(
                "{} depend on each other. Move what both need to a third module, or let the caller pass it in.",
                names.join(", ")
            )
        })
        .collect();
    for (known, _) in CIRCLES.iter().filter(|(known, _)| !found.iter().any(|circle| is_known(&names(circle), known))) {
        offences.push(format!("tests/suite/tidy.rs: {known} is no longer in a circle. Remove it from CIRCLES."));
    }
    assert_none(offences);
}

#[test]
fn modules_that_claim_to_be_pure_are_checked() {
    let files = files();
    let mut offences = Vec::new();
    for file in rust_files(&files) {
        let Some(path) = file.path.strip_prefix("host/src/") else { continue };
        let module = borders::module_of(path)[1..].join("::");
        for (number, line) in file.lines().filter(|(_, line)| line.trim_start().starts_with("//") && says_pure(line)) {
            if !line.starts_with("//!") {
                offences.push(format!(
                    "{}:{number}: only a whole module may claim to be pure, in its header. Move the code, or remove the word.",
                    file.path
                ));
            } else if !borders::PURE.iter().any(|pure| module == *pure || module.starts_with(&format!("{pure}::"))) {
                offences.push(format!(
                    "{}:{number}: claims to be pure without a check. Add `{module}` to PURE in tests/suite/tidy/borders.rs.",
                    file.path
                ));
            }
        }
    }
    assert_none(offences);
}

/// Whether a line has the word "pure".
fn says_pure(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case("pure"))
}

#[test]
fn comments_are_at_most_100_columns_wide() {
    let mut offences = Vec::new();
    for file in rust_files(&files()) {
        // Code in documentation is as wide as other code.
        let mut is_code = false;
        for (number, line) in file.lines() {
            let is_comment = line.trim_start().starts_with("//");
            is_code ^= is_comment && line.trim_start_matches(['/', '!', ' ']).starts_with("```");
            if is_comment && !is_code && line.chars().count() > WIDEST && !line.contains("://") {
                offences.push(format!("{}:{number}: a comment wider than {WIDEST} columns. Wrap it.", file.path));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn the_code_map_lists_every_room() {
    let files = files();
    let find = |path: &str| files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is missing"));
    let map = &find("host/ARCHITECTURE.md").text;
    let library = &find("host/src/lib.rs").text;
    let declared: Vec<&str> = library.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let rooms: BTreeSet<&str> = borders::ROOMS.iter().map(|(room, _)| *room).collect();
    let mut offences = Vec::new();
    for room in &declared {
        if !library.contains(&format!("[`{room}`]: ")) {
            offences.push(format!("host/src/lib.rs: `{room}` is not on the code map in its header. Add it."));
        }
        if !map.contains(&format!("`{room}`")) {
            offences.push(format!(
                "host/ARCHITECTURE.md: `{room}` of host/src/lib.rs is not on the code map. Add a line for it."
            ));
        }
    }
    for room in rooms.difference(&declared.iter().copied().chain(["main", "lib"]).collect()) {
        offences.push(format!("tests/suite/tidy/borders.rs: there is no room `{room}`. Remove it from ROOMS."));
    }
    assert_none(offences);
}

#[test]
fn files_are_short_and_have_a_header() {
    let mut offences = Vec::new();
    for file in rust_files(&files()) {
        let (path, lines) = (&file.path, file.text.lines().count());
        if lines > LONGEST {
            offences.push(format!(
                "{path}:{LONGEST}: {lines} lines, and at most {LONGEST} are allowed. Move its second noun to a file."
            ));
        }
        if path.ends_with("/mod.rs") {
            offences.push(format!("{path}:1: a module is `foo.rs` beside `foo/`. Rename it."));
        }
        let opening = if file.within(&["tests/suite"]) { "//" } else { "//!" };
        if !file.text.starts_with(opening) {
            offences.push(format!(
                "{path}:1: no header with `{opening}`. State its purpose, what it guarantees, and what may surprise."
            ));
        }
    }
    assert_none(offences);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut offences = Vec::new();
    for file in &files() {
        let found = if file.is(".rs") { unfinished_code(&file.text) } else { unfinished_prose(file) };
        offences.extend(found.into_iter().map(|(line, what)| {
            format!(
                "{}:{line}: `{what}` is unfinished. Finish it, or state in a whole sentence what is absent and why.",
                file.path
            )
        }));
    }
    assert_none(offences);
}

/// Words that mark unfinished work.
const LATER: [&str; 3] = ["FIXME", "XXX", "TODO"];

fn later(text: &str) -> Option<&'static str> {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    LATER.into_iter().find(|later| words.contains(later))
}

/// The marks of unfinished work in a Rust source, with their lines.
fn unfinished_code(source: &str) -> Vec<(usize, String)> {
    let tokens = rust::tokens(source);
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let follows = |mark: char| tokens.get(i + 1).is_some_and(|next| next.is(mark));
        match &token.kind {
            Kind::Comment(text) => found.extend(later(text).map(|word| (token.line, word.to_owned()))),
            Kind::Word(word) if matches!(word.as_str(), "todo" | "unimplemented" | "dbg") && follows('!') => {
                found.push((token.line, format!("{word}!")));
            }
            Kind::Word(word) if word == "ignore" && i > 1 && tokens[i - 1].is('[') && tokens[i - 2].is('#') => {
                found.push((token.line, "#[ignore]".into()));
            }
            _ => {}
        }
    }
    found
}

fn unfinished_prose(file: &File) -> Vec<(usize, String)> {
    file.lines().filter_map(|(number, line)| Some((number, later(line)?.to_owned()))).collect()
}

#[test]
fn tests_wait_for_events_rather_than_for_time() {
    let (mut offences, mut asleep) = (Vec::new(), BTreeSet::new());
    for file in rust_files(&files()).filter(|file| file.within(&["tests/src", "tests/suite"])) {
        for line in sleeps(&file.text) {
            asleep.insert(file.path.clone());
            if !SLEEPERS.iter().any(|(path, _)| *path == file.path) {
                offences.push(format!(
                    "{}:{line}: a test that sleeps is slow or flaky. Wait with `eventually` or `until`; if time itself \
                     is tested, add the file to SLEEPERS in tests/suite/tidy.rs with the reason.",
                    file.path
                ));
            }
        }
    }
    for (path, _) in SLEEPERS.iter().filter(|(path, _)| !asleep.contains(*path)) {
        offences.push(format!("tests/suite/tidy.rs: {path} no longer sleeps. Remove it from SLEEPERS."));
    }
    assert_none(offences);
}

fn sleeps(source: &str) -> Vec<usize> {
    let named = rust::paths(&rust::tokens(source), &["crate".into()]);
    let is_sleep = |path: &[String]| matches!(path.join("::").as_str(), "tokio::time::sleep" | "std::thread::sleep");
    named.into_iter().filter(|named| is_sleep(&named.path)).map(|named| named.line).collect()
}

#[test]
fn every_migration_is_in_the_list() {
    let files = files();
    let here: Vec<&str> =
        files.iter().filter_map(|f| f.path.strip_prefix("migrations/")?.strip_suffix(".sql")).collect();
    let applied: Vec<&str> = MIGRATIONS.iter().map(|migration| migration.name).collect();
    assert_eq!(here, applied, "migrations/*.sql and MIGRATIONS in host/src/db/migrate.rs must be the same, in order");
    let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version()).collect();
    assert_eq!(versions, (1..=MIGRATIONS.len() as i32).collect::<Vec<_>>(), "migrations count from 1 without gaps");
}

#[test]
fn every_statement_has_one_user() {
    let files = files();
    let mut users: BTreeMap<String, Vec<String>> = files
        .iter()
        .filter(|file| file.is(".sql") && !file.within(&["migrations"]))
        .map(|file| (file.path.clone(), Vec::new()))
        .collect();
    for file in rust_files(&files) {
        for (line, included) in included(&file.text) {
            let path = beside(&file.path, &included);
            if let Some(users) = users.get_mut(&path) {
                users.push(format!("{}:{line}", file.path));
            }
        }
    }
    let offences = users.into_iter().filter(|(_, users)| users.len() != 1).map(|(path, users)| match users.len() {
        0 => format!("{path}:1: no source includes this statement. Remove it."),
        _ => {
            format!("{path}:1: included by {}. Give the statement one user that the others call.", users.join(" and "))
        }
    });
    assert_none(offences.collect());
}

/// Folders of the host whose SQL may name the event table, and the reason.
const EVENT_TABLE: &[(&str, &str)] = &[
    ("host/src/source", "the log as it is read"),
    ("host/src/store", "the event store for the command line"),
    ("host/src/db/grants", "rights on the table, whose rows it does not read"),
];

#[test]
fn only_source_and_store_read_the_event_table() {
    let (mut offences, mut used) = (Vec::new(), BTreeSet::new());
    for file in files().iter().filter(|file| file.within(&["host/src"])) {
        let lines: Vec<usize> = if file.is(".sql") {
            let statement = file.lines().filter(|(_, line)| !line.trim_start().starts_with("--"));
            statement.filter(|(_, line)| line.contains("sandmill.events")).map(|(number, _)| number).collect()
        } else if file.is(".rs") {
            let texts = rust::tokens(&file.text).into_iter();
            let names_it = |kind: &Kind| matches!(kind, Kind::Text(text) if text.contains("sandmill.events"));
            texts.filter(|token| names_it(&token.kind)).map(|token| token.line).collect()
        } else {
            continue;
        };
        match EVENT_TABLE.iter().find(|(folder, _)| file.path.starts_with(folder)) {
            Some((folder, _)) if !lines.is_empty() => drop(used.insert(*folder)),
            Some(_) => {}
            None => offences.extend(lines.into_iter().map(|line| {
                format!(
                    "{}:{line}: only `source` and `store` read `sandmill.events`. Call a function of `source`, for \
                     example of `source::native::lag`.",
                    file.path
                )
            })),
        }
    }
    for (folder, _) in EVENT_TABLE.iter().filter(|(folder, _)| !used.contains(folder)) {
        offences.push(format!("tests/suite/tidy.rs: {folder} no longer names the table. Remove it from EVENT_TABLE."));
    }
    assert_none(offences);
}

/// The files that a source includes as text, by relative path.
fn included(source: &str) -> Vec<(usize, String)> {
    let tokens = rust::tokens(source);
    let including = tokens.windows(4).filter(|w| w[0].word() == Some("include_str") && w[1].is('!') && w[2].is('('));
    including
        .filter_map(|window| match &window[3].kind {
            Kind::Text(path) => Some((window[0].line, path.clone())),
            _ => None,
        })
        .collect()
}

/// The path from the root for a path that is relative to a file.
fn beside(file: &str, path: &str) -> String {
    let mut segments: Vec<&str> = file.split('/').collect();
    segments.pop();
    for segment in path.split('/') {
        match segment {
            ".." => drop(segments.pop()),
            "." => {}
            name => segments.push(name),
        }
    }
    segments.join("/")
}

#[test]
fn links_have_a_target() {
    let root = sandmill_tests::host::root();
    let mut offences = Vec::new();
    for file in files().iter().filter(|file| file.is(".md")) {
        for (number, line) in file.lines() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
                if !link.is_empty() && !link.contains("://") && !root.join(beside(&file.path, link)).exists() {
                    offences
                        .push(format!("{}:{number}: the link {link} has no target. Correct or remove it.", file.path));
                }
            }
        }
    }
    assert_none(offences);
}

#[test]
fn no_file_depends_on_one_machine() {
    let mut offences = Vec::new();
    for file in &files() {
        for (number, line) in file.lines() {
            if let Some(path) = machine_path(line) {
                offences.push(format!(
                    "{}:{number}: `{path}` is a path of one machine. Make it relative to the repository.",
                    file.path
                ));
            }
            if let Some(registry) = registry_address(line) {
                offences.push(format!(
                    "{}:{number}: `{registry}` names a package registry. Leave the choice to the person who builds.",
                    file.path
                ));
            }
        }
    }
    assert_none(offences);
}

/// A path below a directory of one machine.
fn machine_path(line: &str) -> Option<String> {
    for directory in ["work", "root", "home"] {
        let path = format!("/{directory}");
        for (at, _) in line.match_indices(&path) {
            let before = line[..at].chars().next_back();
            let after = line[at + path.len()..].chars().next();
            let begins = before.is_none_or(|c| !c.is_alphanumeric() && !"._-~/{})$*>".contains(c));
            if begins && after.is_none_or(|c| !c.is_alphanumeric() && !"_-.".contains(c)) {
                return Some(path);
            }
        }
    }
    None
}

/// The text that cargo writes into lock files for the default registry.
const USUAL_REGISTRY: &str = concat!("registry", "+https://github.com/rust-lang/crates", ".io-index");

/// The address of a package registry, or a setting that replaces the default one.
fn registry_address(line: &str) -> Option<&str> {
    if line.contains(USUAL_REGISTRY) {
        return None;
    }
    let settings =
        [concat!("registry", "+"), concat!("sparse", "+"), concat!("replace", "-with"), concat!("[", "source.")];
    if let Some(setting) = settings.into_iter().find(|setting| line.contains(setting)) {
        return Some(setting);
    }
    let hosts = line.split("://").skip(1).map(|rest| rest.split(['/', ' ', '"', '`', ')']).next().unwrap_or(rest));
    let registries = [
        concat!("crates", ".io"),
        concat!("npm", "js"),
        concat!("py", "pi"),
        concat!("python", "hosted"),
        concat!("proxy.", "golang"),
    ];
    hosts.into_iter().find(|host| registries.iter().any(|registry| host.contains(registry)))
}
