//! The commands in README.md and docs/plugins.md, run in the order in which a reader would.
//!
//! All tested blocks of both pages run one after another in one folder, with `sandmill` on the
//! path: `sh` blocks by a shell, `sql` blocks on the private database. Each must succeed, and each
//! line of its output must be among the printed ones. A mark may request more (`MARKS`): the block
//! runs in the background of later ones, is repeated until it prints its output, or gets the
//! address of its own database.
//!
//! The README's plugin must be the one that `sandmill plugin new` creates, which the tour builds.

use std::process::Command;

use sandmill::db::{Db, SimpleQueryMessage};
use sandmill_tests::{
    empty_database,
    examples::{Background, Block, Reader, blocks, missing, output, printed},
    host::{eventually_or, root},
    until,
};

const MARKS: [(&str, Way); 4] = [
    ("", Way::Once),
    ("in the background", Way::Background),
    ("until it shows", Way::UntilShown),
    ("on a database", Way::OnDatabase),
];

/// How a block is run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Once,
    Background,
    UntilShown,
    OnDatabase,
}

/// The reader of both pages.
struct Tour {
    /// Dropped first, before its folder.
    background: Option<Background>,
    reader: Reader,
    /// The address of the database for blocks marked `on a database`.
    address: String,
}

impl Tour {
    async fn new() -> Self {
        Tour { background: None, reader: Reader::new(), address: empty_database().await.address }
    }

    fn shell(&self, commands: &str, way: Way) -> Command {
        let mut shell = self.reader.shell(commands);
        // Share compiled dependencies with the plugins that other tests build.
        shell.env("CARGO_TARGET_DIR", root().join("target/tmp/begun")).env("CARGO_NET_OFFLINE", "true");
        if way == Way::OnDatabase {
            shell.env("DATABASE_URL", &self.address);
        }
        shell
    }

    /// Runs a block and returns whether it succeeded, with all that it printed.
    async fn output(&self, block: &Block, way: Way) -> (bool, String) {
        match &*block.language {
            "sql" => self.rows(&block.text).await.map_or_else(|e| (false, e.to_string()), |rows| (true, rows)),
            _ => {
                let output = output(self.shell(&block.text, way)).await;
                (output.status.success(), printed(&output))
            }
        }
    }

    /// Runs SQL on the private database and returns its rows, one a line.
    async fn rows(&self, sql: &str) -> Result<String, sandmill::db::Error> {
        let address = std::fs::read_to_string(self.reader.folder().join(".sandmill/address")).unwrap();
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

    /// Runs a block in its way, and asserts that it prints what the page shows.
    async fn run(&mut self, page: &str, block: &Block, way: Way) {
        let Block { line, text, shown, .. } = block;
        match way {
            Way::Background => {
                self.background = Some(self.reader.start(self.shell(text, way)));
                let look = async || output(self.shell("sandmill status", Way::Once)).await.status.success();
                until("the command in the background is found", look).await;
            }
            Way::UntilShown => {
                let what = format!("{page}:{line} shows its output:\n{text}");
                eventually_or(&what, async || match self.output(block, way).await {
                    (true, printed) if missing(shown.as_deref(), &printed).is_none() => Ok(()),
                    (_, printed) => Err(printed),
                })
                .await;
            }
            Way::Once | Way::OnDatabase => {
                let (is_success, printed) = self.output(block, way).await;
                assert!(is_success, "{page}:{line} failed:\n{text}\n{printed}");
                let missing = missing(shown.as_deref(), &printed);
                assert_eq!(missing, None, "{page}:{line} prints output that differs from the page:\n{printed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_and_the_page_on_plugins_work_as_printed() {
    let mut tour = Tour::new().await;
    for page in ["README.md", "docs/plugins.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let tested: Vec<Block> = blocks(&text).into_iter().filter(|block| block.way().is_some()).collect();
        assert!(tested.len() > 3, "{page} marks {} blocks as tested", tested.len());
        for block in &tested {
            let Block { line, language, .. } = block;
            assert!(matches!(&**language, "sh" | "sql"), "{page}:{line}: only shells and SQL are run");
            let way = MARKS.iter().find(|(mark, _)| block.way() == Some(mark));
            let (_, way) = way.unwrap_or_else(|| panic!("{page}:{line}: an unknown mark"));
            tour.run(page, block, *way).await;
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
    let document = r#"{"balance": 380, "entries": 2}"#;
    assert_eq!(readme.matches(document).count(), 2, "README.md names {document} at the plugin and in the tour");
}
