//! The README's commands, run one after another in one folder, with `sandmill` on the path.
//!
//! Each tested block must succeed, and each line of its output must be among the printed ones. A
//! mark may say more (`MARKS`): a block runs in the background of those after it, is repeated until
//! it prints its output, or gets the address of a database of its own.

use std::process::{Command, Output};

use sandmill_tests::{
    empty_database,
    examples::{Background, Block, Reader, blocks, missing, output},
    host::{root, stderr},
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

/// The reader of the README.
struct Place {
    /// The first to be dropped, before its folder.
    background: Option<Background>,
    reader: Reader,
    /// Of the database for the blocks that get one.
    address: String,
}

impl Place {
    async fn new() -> Self {
        Place { background: None, reader: Reader::new(), address: empty_database().await.address }
    }

    fn shell(&self, commands: &str, way: Way) -> Command {
        let mut shell = self.reader.shell(commands);
        // Plugins that are built here share their dependencies with those of other tests.
        shell.env("CARGO_TARGET_DIR", root().join("target/tmp/begun")).env("CARGO_NET_OFFLINE", "true");
        if way == Way::OnDatabase {
            shell.env("DATABASE_URL", &self.address);
        }
        shell
    }

    async fn output(&self, commands: &str, way: Way) -> Output {
        output(self.shell(commands, way)).await
    }

    async fn run(&mut self, Block { line, text, shown, .. }: &Block, way: Way) {
        match way {
            Way::Background => {
                self.background = Some(self.reader.start(self.shell(text, way)));
                let is_found = async || self.output("sandmill status", Way::Once).await.status.success();
                until("the command in the background is found", is_found).await;
            }
            Way::UntilShown => {
                until(&format!("README.md:{line} prints its output:\n{text}"), async || {
                    let output = self.output(text, way).await;
                    output.status.success() && missing(shown.as_deref(), &output).is_none()
                })
                .await;
            }
            Way::Once | Way::OnDatabase => {
                let output = self.output(text, way).await;
                assert!(output.status.success(), "README.md:{line}: {}:\n{text}\n{}", output.status, stderr(&output));
                let missing = missing(shown.as_deref(), &output);
                assert_eq!(missing, None, "README.md:{line}: the output is another one:\n{output:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_works_as_it_is_written() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks: Vec<Block> = blocks(&readme).into_iter().filter(|block| block.way().is_some()).collect();
    assert!(blocks.len() > 3, "README.md marks {} blocks as tested", blocks.len());
    let mut place = Place::new().await;
    for block in &blocks {
        assert_eq!(block.language, "sh", "README.md:{}: only shells are run", block.line);
        let way = MARKS.iter().find(|(mark, _)| block.way() == Some(mark));
        let (_, way) = way.unwrap_or_else(|| panic!("README.md:{}: an unknown mark", block.line));
        place.run(block, *way).await;
    }
}
