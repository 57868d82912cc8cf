//! The README's commands, run as they stand there.
//!
//! A block of commands that follows the comment `<!-- tested -->` is run by a shell, the blocks one after another in one folder, with
//! `sandmill` on the path. It must succeed. Where a block of output follows, each of its lines must be among what was printed; `…` in it
//! stands for anything. The comment may say more: `<!-- tested: in the background -->` goes on beside the blocks after it, which begin once
//! other commands find it; `<!-- tested: until it shows -->` is repeated until it prints what is shown; `<!-- tested: on a database -->` has the
//! address of a database of the test's own.

use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use sandmill_tests::{
    empty_database,
    host::{root, sandmill, stderr, stdout},
    until,
};

const MARKS: [(&str, Way); 4] = [
    ("<!-- tested -->", Way::Once),
    ("<!-- tested: in the background -->", Way::Background),
    ("<!-- tested: until it shows -->", Way::UntilShown),
    ("<!-- tested: on a database -->", Way::OnDatabase),
];

/// How a block is run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Way {
    #[default]
    Once,
    Background,
    UntilShown,
    OnDatabase,
}

/// A block of commands and what it is said to print.
#[derive(Debug, Default, PartialEq)]
struct Example {
    /// Where its commands begin.
    line: usize,
    way: Way,
    commands: String,
    shown: Vec<String>,
}

/// What a fenced block is to the test.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Commands(Way),
    Output,
    Other,
}

/// The examples of a text in Markdown, in order.
fn examples(markdown: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut expected, mut inside) = (Block::Other, None);
    for (index, line) in markdown.lines().enumerate() {
        match (inside, examples.last_mut()) {
            (None, _) if line.starts_with("<!-- tested") => {
                let (_, way) = MARKS.iter().find(|(mark, _)| *mark == line).expect("a mark of ours");
                expected = Block::Commands(*way);
            }
            (None, _) if line.starts_with("```") => {
                let block = match line {
                    "```sh" if matches!(expected, Block::Commands(_)) => {
                        let Block::Commands(way) = expected else { unreachable!() };
                        examples.push(Example { line: index + 2, way, ..Example::default() });
                        expected
                    }
                    "```text" if expected == Block::Output => Block::Output,
                    _ => Block::Other,
                };
                // Output belongs to the commands right above it.
                expected = if matches!(block, Block::Commands(_)) { Block::Output } else { Block::Other };
                inside = Some(block);
            }
            (Some(_), _) if line == "```" => inside = None,
            (Some(Block::Commands(_)), Some(example)) => example.commands += &format!("{line}\n"),
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

/// A folder of the reader's, with `sandmill` on the path.
struct Place {
    folder: tempfile::TempDir,
    bin: PathBuf,
    /// Of the database that is not found but named.
    address: String,
    background: Option<Background>,
}

/// What goes on beside the other blocks, as long as the test lasts.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // The shell, and what it started.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Started by root, a private server is another user, who has to pass through.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        symlink(sandmill("").get_program(), bin.join("sandmill")).unwrap();
        Place { folder, bin, address: empty_database().await.address, background: None }
    }

    fn shell(&self, example: &Example) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([self.bin.clone()].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-euc", &example.commands]).current_dir(self.folder.path()).env("PATH", path);
        // Plugins that are built here share what they depend on with those of other tests.
        shell.env("CARGO_TARGET_DIR", root().join("target/tmp/begun")).env("CARGO_NET_OFFLINE", "true");
        shell.env("SANDMILL_LOG", "warn").env_remove("SANDMILL_CONFIG").env_remove("DATABASE_URL");
        if example.way == Way::OnDatabase {
            shell.env("DATABASE_URL", &self.address);
        }
        shell.stdin(Stdio::null());
        shell
    }

    async fn output(&self, example: &Example) -> Output {
        let mut shell = self.shell(example);
        tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap()
    }

    async fn run(&mut self, example: &Example) {
        let (line, commands) = (example.line, &example.commands);
        match example.way {
            Way::Background => {
                use std::os::unix::process::CommandExt;
                let file = |name: &str| std::fs::File::create(self.folder.path().join(name)).unwrap();
                let mut shell = self.shell(example);
                shell.process_group(0).stdout(file("out")).stderr(file("log"));
                self.background = Some(Background(shell.spawn().unwrap()));
                let look = Example { commands: "sandmill status".into(), ..Example::default() };
                until("what runs in the background is found", async || self.output(&look).await.status.success()).await;
            }
            Way::UntilShown => {
                until(&format!("README.md:{line} shows what it should:\n{commands}"), async || {
                    let output = self.output(example).await;
                    output.status.success() && not_shown(example, &output).is_none()
                })
                .await;
            }
            Way::Once | Way::OnDatabase => {
                let output = self.output(example).await;
                let errors = stderr(&output);
                assert!(output.status.success(), "README.md:{line}: {}:\n{commands}\n{errors}", output.status);
                let missing = not_shown(example, &output);
                assert_eq!(missing, None, "README.md:{line}: what was printed is not what is shown:\n{output:?}");
            }
        }
    }
}

/// The first line that an example shows and that was not printed.
fn not_shown<'e>(example: &'e Example, output: &Output) -> Option<&'e str> {
    let printed = stdout(output) + &stderr(output);
    let found = |shown: &&String| printed.lines().any(|printed| matches(shown, printed.trim_end()));
    example.shown.iter().find(|shown| !found(shown)).map(String::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_works_as_it_is_written() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let examples = examples(&readme);
    assert!(examples.len() > 3, "README.md marks {} blocks as tested", examples.len());
    let mut place = Place::new().await;
    for example in &examples {
        place.run(example).await;
    }
}

#[test]
fn only_marked_blocks_are_run() {
    let markdown =
        ["```sh\nno\n```", "```text\nno\n```", MARKS[0].0, "```sh\na\nb\n```\nprints", "```text\n1\n2\n```"].join("\n");
    let markdown = [&markdown, MARKS[3].0, "```sh\nc\n```", "```sh\nno\n```", "```text\nno\n```"].join("\n");
    let example = |line, way, commands: &str, shown: &[&str]| Example {
        line,
        way,
        commands: commands.into(),
        shown: shown.iter().map(|s| s.to_string()).collect(),
    };
    assert_eq!(
        examples(&markdown),
        [example(9, Way::Once, "a\nb\n", &["1", "2"]), example(19, Way::OnDatabase, "c\n", &[])]
    );
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
