//! The commands in README.md and docs/plugins.md, run in the order in which a reader would.
//!
//! A block of commands below the comment `<!-- tested -->` is run by a shell, or on the private
//! database if it is SQL. All blocks of both pages run one after another in one folder, with
//! `sandmill` on the path, and must succeed. If a block of output follows, each of its lines must be
//! among the printed ones; `…` stands for any text. The comment may say more:
//!
//! - `<!-- tested: in the background -->`: the block runs until the test ends. The next blocks begin
//!   once `sandmill status` finds its database.
//! - `<!-- tested: until it shows -->`: the block is repeated until it prints the output.
//! - `<!-- tested: on a database -->`: the block gets the address of an empty database.
//!
//! The README's plugin must be the one that `sandmill plugin new` creates, which the tour builds.

use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use sandmill::db::{Db, SimpleQueryMessage};
use sandmill_tests::{
    empty_database,
    host::{eventually_or, root, sandmill, stderr, stdout},
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

/// A block of commands and the output that the page shows for it.
#[derive(Debug, Default, PartialEq)]
struct Example {
    page: &'static str,
    /// The line where its commands begin.
    line: usize,
    way: Way,
    is_sql: bool,
    commands: String,
    shown: Vec<String>,
}

/// The kind of a fenced block.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Commands(Way),
    Output,
    Other,
}

/// The examples of a page in Markdown, in order.
fn examples(page: &'static str, markdown: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut expected, mut inside) = (Block::Other, None);
    for (index, line) in markdown.lines().enumerate() {
        match (inside, examples.last_mut()) {
            (None, _) if line.starts_with("<!-- tested") => {
                let (_, way) = MARKS.iter().find(|(mark, _)| *mark == line).expect("a known mark");
                expected = Block::Commands(*way);
            }
            (None, _) if line.starts_with("```") => {
                let block = match line {
                    "```sh" | "```sql" if matches!(expected, Block::Commands(_)) => {
                        let Block::Commands(way) = expected else { unreachable!() };
                        let is_sql = line == "```sql";
                        examples.push(Example { page, line: index + 2, way, is_sql, ..Example::default() });
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

/// Whether a printed line has the form of a shown one.
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

/// A reader's folder, with `sandmill` on the path.
struct Place {
    folder: tempfile::TempDir,
    bin: PathBuf,
    /// The address of the database for blocks marked `on a database`.
    address: String,
    background: Option<Background>,
}

/// The command in the background, which ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // The shell's whole group, so that the host and its server end too.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // When root runs the tests, the private server runs as another user, who needs access.
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
        // Share compiled dependencies with the plugins that other tests build.
        shell.env("CARGO_TARGET_DIR", root().join("target/tmp/begun")).env("CARGO_NET_OFFLINE", "true");
        shell.env("SANDMILL_LOG", "warn").env_remove("SANDMILL_CONFIG").env_remove("DATABASE_URL");
        if example.way == Way::OnDatabase {
            shell.env("DATABASE_URL", &self.address);
        }
        shell.stdin(Stdio::null());
        shell
    }

    /// Runs the commands and returns whether they succeeded, with all that they printed.
    async fn output(&self, example: &Example) -> (bool, String) {
        if example.is_sql {
            return self.rows(&example.commands).await.map_or_else(|e| (false, e.to_string()), |rows| (true, rows));
        }
        let mut shell = self.shell(example);
        let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
        (output.status.success(), stdout(&output) + &stderr(&output))
    }

    /// Runs SQL on the private database and returns its rows, one a line.
    async fn rows(&self, sql: &str) -> Result<String, sandmill::db::Error> {
        let address = std::fs::read_to_string(self.folder.path().join(".sandmill/address")).unwrap();
        let messages = Db::parse(address.trim()).unwrap().connect("page").await?.simple_query(sql).await?;
        let mut rows = String::new();
        for message in &messages {
            if let SimpleQueryMessage::Row(row) = message {
                let cells: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("")).collect();
                rows += &format!("{}\n", cells.join("|"));
            }
        }
        Ok(rows)
    }

    async fn run(&mut self, example: &Example) {
        let Example { page, line, commands, .. } = example;
        match example.way {
            Way::Background => {
                use std::os::unix::process::CommandExt;
                let file = |name: &str| std::fs::File::create(self.folder.path().join(name)).unwrap();
                let mut shell = self.shell(example);
                shell.process_group(0).stdout(file("out")).stderr(file("log"));
                self.background = Some(Background(shell.spawn().unwrap()));
                let look = Example { commands: "sandmill status".into(), ..Example::default() };
                until("the command in the background is found", async || self.output(&look).await.0).await;
            }
            Way::UntilShown => {
                let what = format!("{page}:{line} shows its output:\n{commands}");
                eventually_or(&what, async || match self.output(example).await {
                    (true, printed) if not_shown(example, &printed).is_none() => Ok(()),
                    (_, printed) => Err(printed),
                })
                .await;
            }
            Way::Once | Way::OnDatabase => {
                let (is_success, printed) = self.output(example).await;
                assert!(is_success, "{page}:{line} failed:\n{commands}\n{printed}");
                let missing = not_shown(example, &printed);
                assert_eq!(missing, None, "{page}:{line} prints other output than the page shows:\n{printed}");
            }
        }
    }
}

/// The first line that an example shows and that was not printed.
fn not_shown<'e>(example: &'e Example, printed: &str) -> Option<&'e str> {
    let found = |shown: &&String| printed.lines().any(|printed| matches(shown, printed.trim_end()));
    example.shown.iter().find(|shown| !found(shown)).map(String::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_and_the_page_on_plugins_work_as_printed() {
    let mut place = Place::new().await;
    for page in ["README.md", "docs/plugins.md"] {
        let examples = examples(page, &std::fs::read_to_string(root().join(page)).unwrap());
        assert!(examples.len() > 3, "{page} marks {} blocks as tested", examples.len());
        for example in &examples {
            place.run(example).await;
        }
    }
}

/// The code of a plugin without comments, tests, line breaks and spaces, so that two layouts of the
/// same code are equal.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.flat_map(|line| line.chars().filter(|c| !c.is_whitespace())).collect();
    code.replace(",}", "}")
}

#[test]
fn the_plugin_in_the_readme_is_the_one_that_plugin_new_creates() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, plugin) = readme.split_once("```rust\n").expect("the README shows a plugin");
    let (plugin, _) = plugin.split_once("```").unwrap();
    let template = std::fs::read_to_string(root().join("host/src/toolchain/new/lib.rs")).unwrap();
    let template = code(&template.replace("{{name}}", "accounts").replace("{{collection}}", "accounts"));
    // The template also writes out the default for a document's id.
    let (before, id) = template.split_once("fnid<").unwrap();
    let (_, after) = id.split_once("recorded.stream_id().into()}").unwrap();
    assert_eq!(code(plugin), format!("{before}{after}"), "README.md and host/src/toolchain/new/lib.rs differ");
    // The tour prints the document that the text above it promises.
    let document = r#"{"balance": 380, "bookings": 2}"#;
    assert_eq!(readme.matches(document).count(), 2, "README.md names {document} at the plugin and in the tour");
}

#[test]
fn only_marked_blocks_are_run() {
    let markdown =
        ["```sh\nno\n```", "```text\nno\n```", MARKS[0].0, "```sh\na\nb\n```\nprints", "```text\n1\n2\n```"].join("\n");
    let markdown = [&markdown, MARKS[3].0, "```sql\nc\n```", "```sh\nno\n```", "```text\nno\n```"].join("\n");
    let example = |line, way, is_sql, commands: &str, shown: &[&str]| Example {
        page: "PAGE",
        line,
        way,
        is_sql,
        commands: commands.into(),
        shown: shown.iter().map(|s| s.to_string()).collect(),
    };
    assert_eq!(
        examples("PAGE", &markdown),
        [example(9, Way::Once, false, "a\nb\n", &["1", "2"]), example(19, Way::OnDatabase, true, "c\n", &[])]
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
