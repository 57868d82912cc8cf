//! Checks of all `.sql` files: each can be prepared on a migrated database, and its header names
//! its binds.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use sandmill_tests::{database, host::root};

/// Files that cannot be prepared, with the reason.
const SCRIPTS: [(&str, &str); 1] =
    [("host/src/db/migrate/history.sql", "a script of several statements, which creates the schema")];

/// All `.sql` files below a folder.
fn below(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            into.push(path);
        }
    }
}

/// The path of every file within the repository, and its text.
fn files() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for folder in ["host/src", "client/src"] {
        below(&root().join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 20, "only {} files were found", paths.len());
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The numbers after `$` in a text.
fn binds(text: &str) -> BTreeSet<u32> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    text.split('$').skip(1).filter_map(|rest| digits(rest).parse().ok()).collect()
}

#[tokio::test]
async fn every_file_can_be_prepared_on_a_migrated_database() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let sql = "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
               values ('p', 'p', '', '', '', 'tenant', 1);
               select sandmill.ensure_collection('', 'things', 'p', false, 0)";
    session.batch_execute(sql).await.unwrap();
    let files = files();
    for (name, _) in SCRIPTS {
        assert!(files.iter().any(|(file, _)| file == name), "{name} is listed as an exception, but does not exist");
    }
    for (name, text) in files {
        if SCRIPTS.iter().any(|(script, _)| *script == name) {
            continue;
        }
        let text = text.replace("{table}", "sandmill_documents.c1_1").replace("{view}", "public.things");
        if let Err(error) = session.prepare(&text).await {
            panic!("{name}: {}", sandmill::db::describe(&error));
        }
    }
}

#[test]
fn every_file_has_a_header_that_names_its_binds() {
    for (name, text) in files() {
        let is_comment = |line: &&str| line.starts_with("--");
        let opening: Vec<&str> = text.lines().take_while(is_comment).collect();
        let statement: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        assert!(!opening.is_empty(), "{name} has no header comment");
        assert_eq!(
            binds(&opening.join("\n")),
            binds(&statement.join("\n")),
            "{name}: the header must name exactly the binds of the statement"
        );
        for placeholder in ["{table}", "{view}"] {
            let explained = opening.iter().any(|line| line.contains(placeholder));
            assert_eq!(explained, statement.iter().any(|line| line.contains(placeholder)), "{name}: {placeholder}");
        }
    }
}
