// Names in prose exist: commands and their options, settings, make targets and tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use sandmill_tests::host::{root, sandmill, stdout};

/// The pages, from the root of the repository.
fn pages() -> Vec<(String, String)> {
    let fixed =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "host/ARCHITECTURE.md", "wit/README.md"];
    let mut names: Vec<String> = fixed.map(String::from).into();
    for folder in ["docs", ".github/ISSUE_TEMPLATE"] {
        let files = std::fs::read_dir(root().join(folder)).unwrap();
        let files = files.map(|file| format!("{folder}/{}", file.unwrap().file_name().into_string().unwrap()));
        names.extend(files.filter(|name| name.ends_with(".md") || name.ends_with(".yml")));
    }
    let text = |name: &String| std::fs::read_to_string(root().join(name)).unwrap();
    names.iter().map(|name| (name.clone(), text(name))).collect()
}

/// The code spans of a page with the lines of their paragraphs, fenced blocks left out. A span may
/// go over a line's end.
fn spans(text: &str) -> Vec<(usize, String)> {
    let mut paragraphs: Vec<(usize, String)> = vec![(1, String::new())];
    let mut is_fenced = false;
    for (index, line) in text.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        match paragraphs.last_mut() {
            Some((_, paragraph)) if !is_fenced && !is_fence && !line.trim().is_empty() && !line.starts_with('|') => {
                *paragraph += line.trim();
                paragraph.push(' ');
            }
            _ if is_fenced || is_fence => paragraphs.push((index + 2, String::new())),
            _ => {
                paragraphs.push((index + 1, line.to_string()));
                paragraphs.push((index + 2, String::new()));
            }
        }
    }
    let of = |(line, paragraph): &(usize, String)| {
        let spans = paragraph.split('`').skip(1).step_by(2);
        spans.map(|span| (*line, span.to_string())).collect::<Vec<_>>()
    };
    paragraphs.iter().flat_map(of).collect()
}

/// The spans of all pages that fail a check, with the reason.
fn offences(check: impl Fn(&str) -> Result<(), String>) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, text) in pages() {
        for (line, span) in spans(&text) {
            if let Err(why) = check(&span) {
                offences.push(format!("{name}:{line}: `{span}`: {why}"));
            }
        }
    }
    offences
}

/// The help of a command; none if it does not exist.
fn help(command: &[String]) -> Option<String> {
    let output = sandmill("").args(command).arg("--help").output().unwrap();
    output.status.success().then(|| stdout(&output))
}

/// Whether a command's help lists another one below it.
fn has_command(help: &str, name: &str) -> bool {
    help.lines().any(|line| line.strip_prefix("  ").is_some_and(|line| line.split(' ').next() == Some(name)))
}

#[test]
fn each_command_in_prose_exists_with_its_options() {
    let mut known: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let first = help(&[]).unwrap();
    let mut offences = Vec::new();
    let mut found = 0;
    for (name, text) in &pages() {
        for (line, span) in spans(text) {
            let Some(words) = span.strip_prefix("sandmill ") else { continue };
            let is_placeholder = |word: &str| word.chars().all(|c| c.is_uppercase()) || word.starts_with('…');
            let words: Vec<&str> = words.split_whitespace().take_while(|word| *word != "|").collect();
            if words.first().is_none_or(|word| is_placeholder(word)) {
                continue;
            }
            found += 1;
            let mut command: Vec<String> = Vec::new();
            let mut page = first.clone();
            for word in words.iter().take_while(|word| !word.starts_with('-')) {
                if !has_command(&page, word) {
                    break;
                }
                command.push(word.to_string());
                page = known.entry(command.clone()).or_insert_with(|| help(&command).unwrap_or_default()).clone();
            }
            if command.is_empty() && words[0] != "compile-component" && !words[0].starts_with("--") {
                offences.push(format!("{name}:{line}: `{span}`: there is no such command"));
            }
            let options = words.iter().filter(|word| word.starts_with("--"));
            let options = options.map(|word| word.split('=').next().unwrap_or(word));
            for option in options.filter(|option| !page.contains(*option)) {
                offences.push(format!("{name}:{line}: `{span}`: there is no option {option}"));
            }
        }
    }
    assert!(found > 50, "only {found} commands were found");
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn each_setting_in_prose_exists() {
    let output = sandmill("").args(["config", "print", "--json"]).output().unwrap();
    let printed: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let keys = printed["settings"].as_array().unwrap().iter().map(|setting| setting["key"].as_str().unwrap());
    let keys: BTreeSet<&str> = keys.collect();
    let groups: BTreeSet<&str> = keys.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    let offences = offences(|span| {
        let key = span.split(' ').next().unwrap_or(span);
        let is_name = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !text.is_empty();
        match key.split_once('.') {
            // The contract is a file.
            Some(("processor", "wit")) => Ok(()),
            Some((group, name)) if groups.contains(group) && is_name(name) && !keys.contains(key) => {
                Err("there is no such setting".into())
            }
            _ => Ok(()),
        }
    });
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

fn has_make_target(name: &str) -> bool {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    makefile.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

#[test]
fn each_make_target_in_prose_exists() {
    let offences = offences(|span| match span.strip_prefix("make ").and_then(|rest| rest.split(' ').next()) {
        Some(target) if !target.ends_with('…') && !has_make_target(target) => Err("there is no such target".into()),
        _ => Ok(()),
    });
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// Whether a path below a folder of sources names a module, or an item in one.
fn is_in(folder: &str, path: &str) -> bool {
    let segments: Vec<&str> = path.split("::").collect();
    let file = |segments: &[&str]| -> Option<PathBuf> {
        let path = root().join(folder).join(segments.join("/"));
        Some(path.with_extension("rs")).filter(|path| path.is_file())
    };
    if file(&segments).is_some() {
        return true;
    }
    let Some((last, module)) = segments.split_last() else { return false };
    let Some(text) = file(module).and_then(|file| std::fs::read_to_string(file).ok()) else { return false };
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    let kinds = ["fn", "mod", "struct", "enum", "trait", "const", "static", "type"];
    words.windows(2).any(|pair| kinds.contains(&pair[0]) && pair[1] == *last)
}

#[test]
fn each_invariant_names_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("host/ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("\n## Invariants\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() > 15, "only {} rows were found", rows.len());
    let mut offences = Vec::new();
    for row in rows {
        let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let mut parts = tests.split('`');
        let mut before = parts.next().unwrap_or_default();
        let mut found = 0;
        while let (Some(name), Some(after)) = (parts.next(), parts.next()) {
            let exists = match name.strip_prefix("make ") {
                Some(target) => has_make_target(target),
                None if before.trim_end().ends_with("unit") => is_in("host/src", name),
                None => is_in("tests/suite", name),
            };
            if !exists {
                offences.push(format!("`{name}` in: {row}"));
            }
            (before, found) = (after, found + 1);
        }
        if found == 0 {
            offences.push(format!("no test in: {row}"));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn each_module_that_the_architecture_names_exists() {
    let text = std::fs::read_to_string(root().join("host/ARCHITECTURE.md")).unwrap();
    let (before, rest) = text.split_once("\n## Invariants\n").unwrap();
    let after = rest.split_once("\n## ").unwrap().1;
    let rooms: BTreeSet<String> = std::fs::read_dir(root().join("host/src"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut offences = Vec::new();
    for (_, span) in spans(before).into_iter().chain(spans(after)) {
        let span = span.trim_end_matches("::");
        if span.split_once("::").is_some_and(|(room, _)| rooms.contains(room)) && !is_in("host/src", span) {
            offences.push(span.to_owned());
        }
    }
    // The tables of a room's modules.
    for room in ["processor", "plugins"] {
        let (_, table) = before.split_once(&format!("\n| `{room}::` |")).unwrap();
        for row in table.split("\n\n").next().unwrap().lines().skip(2) {
            let names = row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2);
            offences.extend(names.map(|name| format!("{room}::{name}")).filter(|path| !is_in("host/src", path)));
        }
    }
    assert!(offences.is_empty(), "host/ARCHITECTURE.md names: {}", offences.join(", "));
}
