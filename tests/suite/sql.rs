//! Every statement that lies in a file of its own is one that the schema knows, and says what it does and what it binds.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use sandmill_tests::{database, host::root};

/// Files that cannot be prepared, and why.
const SCRIPTS: [(&str, &str); 1] =
    [("host/src/db/migrate/history.sql", "a script of several statements, which makes what the others need")];

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

/// Every file's path within the repository, and its text.
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

/// The numbers behind `$` in a text.
fn binds(text: &str) -> BTreeSet<u32> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    text.split('$').skip(1).filter_map(|rest| digits(rest).parse().ok()).collect()
}

#[tokio::test]
async fn every_file_prepares_on_a_migrated_database() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let sql = "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
               values ('p', 'p', '', '', '', 'tenant', 1);
               select sandmill.ensure_collection('', 'things', 'p', false, 0)";
    session.batch_execute(sql).await.unwrap();
    let files = files();
    for (name, _) in SCRIPTS {
        assert!(files.iter().any(|(file, _)| file == name), "{name} is an exception, and is not there");
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
fn every_file_says_what_it_does_and_what_it_binds() {
    for (name, text) in files() {
        let is_comment = |line: &&str| line.starts_with("--");
        let opening: Vec<&str> = text.lines().take_while(is_comment).collect();
        let statement: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        assert!(!opening.is_empty(), "{name} opens with no comment");
        assert_eq!(
            binds(&opening.join("\n")),
            binds(&statement.join("\n")),
            "{name} explains what it binds, and no more"
        );
        for placeholder in ["{table}", "{view}"] {
            let explained = opening.iter().any(|line| line.contains(placeholder));
            assert_eq!(explained, statement.iter().any(|line| line.contains(placeholder)), "{name}: {placeholder}");
        }
    }
}
