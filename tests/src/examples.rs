//! Examples in Markdown pages, and the folder in which a test runs them.
//!
//! A comment above a fenced block is its mark: `<!-- tested -->`, `<!-- tested: HOW -->` or
//! `<!-- not run: REASON -->`. Where a `text` block follows a tested one, it is the output of that
//! block. Each page defines what HOW means. Fences may be indented, as in a list.

use std::{
    ffi::OsStr,
    fs::Permissions,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::host::{sandmill, stderr, stdout};

/// What a page says about running a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It is run in this way; empty for the usual one.
    Tested(String),
    /// It is not run, for this reason.
    NotRun(String),
}

/// A fenced block of a page. The output of a tested block does not count as a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its text's beginning.
    pub line: usize,
    /// Its mark, if it has one.
    pub mark: Option<Mark>,
    /// The word behind its fence.
    pub language: String,
    /// Its text, without the fence's indentation.
    pub text: String,
    /// Its output, if the page shows it.
    pub shown: Option<String>,
}

impl Block {
    /// How it is tested; none if it is not.
    pub fn way(&self) -> Option<&str> {
        match &self.mark {
            Some(Mark::Tested(way)) => Some(way),
            _ => None,
        }
    }
}

/// The blocks of a page, in order. Panics at a mark that is unknown or has no block.
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut mark: Option<Mark> = None;
    let mut is_output_expected = false;
    let mut lines = markdown.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let indentation = line.len() - line.trim_start().len();
        let line = &line[indentation..];
        if let Some(found) = mark_of(line) {
            assert!(mark.is_none(), "line {}: the mark above this one has no block", index + 1);
            mark = Some(found);
        } else if let Some(language) = line.strip_prefix("```") {
            let text: String = lines
                .by_ref()
                .map(|(_, line)| line.get(indentation..).unwrap_or_default())
                .take_while(|line| *line != "```")
                .map(|line| format!("{line}\n"))
                .collect();
            let is_output = language == "text" && mark.is_none() && is_output_expected;
            is_output_expected = matches!(mark, Some(Mark::Tested(_)));
            match blocks.last_mut() {
                Some(block) if is_output => block.shown = Some(text),
                _ => {
                    let language = language.into();
                    blocks.push(Block { line: index + 2, mark: mark.take(), language, text, shown: None });
                }
            }
        }
    }
    assert!(mark.is_none(), "the last mark has no block");
    blocks
}

fn mark_of(line: &str) -> Option<Mark> {
    let words = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    if words == "tested" {
        return Some(Mark::Tested(String::new()));
    }
    let tested = words.strip_prefix("tested: ").map(|way| Mark::Tested(way.into()));
    tested.or_else(|| words.strip_prefix("not run: ").map(|reason| Mark::NotRun(reason.into())))
}

/// Whether a printed line is the one that a page shows, in which `…` stands for any text.
pub fn matches(shown: &str, printed: &str) -> bool {
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

/// All that a command printed, on either output.
pub fn printed(output: &Output) -> String {
    stdout(output) + &stderr(output)
}

/// The first line that a page shows and that was not printed.
pub fn missing<'s>(shown: Option<&'s str>, printed: &str) -> Option<&'s str> {
    let is_printed = |shown: &str| printed.lines().any(|printed| matches(shown.trim_end(), printed.trim_end()));
    shown.into_iter().flat_map(str::lines).find(|shown| !is_printed(shown))
}

/// The folder of a page's reader, with `sandmill` on the path.
pub struct Reader {
    folder: tempfile::TempDir,
    /// Directories before those of the process's own path.
    first: Vec<PathBuf>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// An empty folder.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        // If this process is root's, a private server has another user, who must enter the folder.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("open a folder to others");
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).expect("make a folder");
        // The program under test has another name.
        symlink(sandmill("").get_program(), bin.join("sandmill")).expect("link to a program");
        Reader { folder, first: vec![bin] }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Finds programs in this directory before those of the machine.
    pub fn find_first(&mut self, programs: PathBuf) {
        self.first.push(programs);
    }

    /// A command in the folder. It knows no database yet.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = self.first.iter().cloned().chain(std::env::split_paths(&path));
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env("PATH", std::env::join_paths(path).expect("join a path"));
        command.env("SANDMILL_LOG", "warn").env_remove("SANDMILL_CONFIG").env_remove("DATABASE_URL");
        command.stdin(Stdio::null());
        command
    }

    /// A shell in the folder that runs these commands, and ends at the first that fails.
    pub fn shell(&self, commands: &str) -> Command {
        let mut shell = self.command("sh");
        shell.args(["-euc", commands]);
        shell
    }

    /// Starts a command that runs beside those that follow. Its output goes to the files `out` and
    /// `log`.
    pub fn start(&self, mut command: Command) -> Background {
        let file = |name: &str| std::fs::File::create(self.folder.path().join(name)).expect("make a file");
        command.process_group(0).stdout(file("out")).stderr(file("log"));
        Background(command.spawn().expect("start a command"))
    }
}

/// A command that runs beside others, until this is dropped.
pub struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // The shell, and its children.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

/// Waits for a command without blocking the runtime.
pub async fn output(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("wait for a command").expect("run a command")
}
