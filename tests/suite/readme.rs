//! The README's commands, run as they stand there.
//!
//! A block of commands that follows the comment `<!-- tested -->` is run by a shell, the blocks one after another in one folder, with
//! `sandmill` on the path and a database of the test's own. It must succeed. Where a block of output follows, each of its lines must be
//! among what was printed; `…` in it stands for anything.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use sandmill_tests::{
    empty_database,
    host::{root, sandmill, stderr, stdout},
};

const MARK: &str = "<!-- tested -->";

/// A block of commands and what it is said to print.
#[derive(Debug, Default, PartialEq)]
struct Example {
    /// Where its commands begin.
    line: usize,
    commands: String,
    shown: Vec<String>,
}

/// What a fenced block is to the test.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Commands,
    Output,
    Other,
}

/// The examples of a text in Markdown, in order.
fn examples(markdown: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut expected, mut inside) = (Block::Other, None);
    for (index, line) in markdown.lines().enumerate() {
        match (inside, examples.last_mut()) {
            (None, _) if line == MARK => expected = Block::Commands,
            (None, _) if line.starts_with("```") => {
                let block = match line {
                    "```sh" if expected == Block::Commands => {
                        examples.push(Example { line: index + 2, ..Example::default() });
                        Block::Commands
                    }
                    "```text" if expected == Block::Output => Block::Output,
                    _ => Block::Other,
                };
                // Output belongs to the commands right above it.
                expected = if block == Block::Commands { Block::Output } else { Block::Other };
                inside = Some(block);
            }
            (Some(_), _) if line == "```" => inside = None,
            (Some(Block::Commands), Some(example)) => example.commands += &format!("{line}\n"),
            (Some(Block::Output), Some(example)) => example.shown.push(line.trim_end().to_owned()),
            _ => {}
        }
    }
    examples
}

/// Whether a printed line is what a shown one stands for.
fn matches(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let Some(last) = shown.rsplit_once('…').map(|(_, last)| last) else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    printed.ends_with(last)
}

/// A folder with what the README's reader has: the repository, and `sandmill` on the path.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    symlink(root().join("example-plugins"), folder.path().join("example-plugins")).unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    symlink(sandmill("").get_program(), bin.join("sandmill")).unwrap();
    (folder, bin)
}

fn run(example: &Example, folder: &Path, bin: &Path, address: &str) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin.to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-euc", &example.commands]).current_dir(folder).env("PATH", path);
    shell.env("DATABASE_URL", address).env("SANDMILL_LOG", "warn").env_remove("SANDMILL_CONFIG");
    shell.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_works_as_it_is_written() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let examples = examples(&readme);
    assert!(examples.len() > 3, "README.md marks {} blocks with {MARK}", examples.len());
    let address = empty_database().await.address;
    let tour = move || {
        let (folder, bin) = folder();
        for example in examples {
            let output = run(&example, folder.path(), &bin, &address);
            let (line, commands, errors) = (example.line, &example.commands, stderr(&output));
            assert!(output.status.success(), "README.md:{line}: {}:\n{commands}\n{errors}", output.status);
            let printed = stdout(&output) + &errors;
            for shown in &example.shown {
                let found = printed.lines().any(|printed| matches(shown, printed.trim_end()));
                assert!(
                    found,
                    "README.md:{line}: what was printed is not what is shown:\n{shown}\n\nPrinted:\n{printed}"
                );
            }
        }
    };
    tokio::task::spawn_blocking(tour).await.unwrap();
}

#[test]
fn only_marked_blocks_are_run() {
    let markdown =
        ["```sh\nno\n```", "```text\nno\n```", MARK, "```sh\na\nb\n```\nprints", "```text\n1\n2\n```"].join("\n");
    let markdown = [&markdown, MARK, "```sh\nc\n```", "```sh\nno\n```", "```text\nno\n```"].join("\n");
    let example = |line, commands: &str, shown: &[&str]| Example {
        line,
        commands: commands.into(),
        shown: shown.iter().map(|s| s.to_string()).collect(),
    };
    assert_eq!(examples(&markdown), [example(9, "a\nb\n", &["1", "2"]), example(19, "c\n", &[])]);
}

#[test]
fn an_ellipsis_stands_for_anything() {
    assert!(matches("1 event in … s", "1 event in 0.2 s"));
    assert!(matches("…end", "the end"));
    assert!(matches("a … b … c", "a 1 b 2 b 3 c"));
    assert!(!matches("a … b", "a 1 c"));
    assert!(!matches("exactly", "exactly this"));
    assert!(!matches("x…", "a x"));
}
