// The examples of the pages on appending and reading, run as they are printed.
//
// A block that follows the comment `<!-- tested -->` is run by a shell as the host's role, one
// after `<!-- tested: as ROLE -->` as that role: SQL on a session of its own, JavaScript by node,
// Python by python3. Where a block of output follows, its lines must be what was printed: rows as
// psql shows them without rules, errors with detail and hint, a program's standard output. Drivers
// are installed by `make drivers`; without them programs are skipped, and fail only if TEST_ALL
// asks for all.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use sandmill::db::{
    Db, SimpleQueryMessage,
    embedded::{Embedded, Options},
};
use sandmill_tests::{
    Database,
    host::{plugins, root, sandmill, stderr, stdout},
};
use serde_json::json;

/// A block of a page that is run.
#[derive(Debug, PartialEq)]
struct Example {
    /// Where it begins.
    line: usize,
    /// The role that runs it; none for the host's role.
    role: Option<String>,
    language: String,
    text: String,
    /// Its output, if the page shows it.
    shown: Option<String>,
}

/// The marked blocks of a page, in order.
fn examples(markdown: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut mark: Option<Option<String>> = None;
    let mut lines = markdown.lines().enumerate();
    let mut is_output_expected = false;
    while let Some((index, line)) = lines.next() {
        if let Some(words) = line.strip_prefix("<!-- tested").and_then(|rest| rest.strip_suffix(" -->")) {
            mark = Some(words.strip_prefix(": as ").map(String::from));
        } else if let Some(language) = line.strip_prefix("```") {
            let text: String = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| *line != "```")
                .map(|l| format!("{l}\n"))
                .collect();
            match (mark.take(), examples.last_mut()) {
                (Some(role), _) => {
                    examples.push(Example { line: index + 1, role, language: language.into(), text, shown: None });
                    is_output_expected = true;
                    continue;
                }
                (None, Some(example)) if is_output_expected && language == "text" => example.shown = Some(text),
                _ => {}
            }
            is_output_expected = false;
        }
    }
    assert!(mark.is_none(), "a mark is followed by no block");
    examples
}

/// A page, with a server of its own, since its examples make roles.
struct Page {
    name: &'static str,
    server: Embedded,
    database: Database,
    folder: tempfile::TempDir,
}

impl Page {
    async fn open(name: &'static str) -> Page {
        let server = Embedded::start(Options::default()).await.unwrap();
        server.create_database("shop", None).await.unwrap();
        let address = server.address_of("shop");
        let database = Database { db: Db::parse(&address).unwrap(), address };
        let page = Page { name, server, database, folder: tempfile::tempdir().unwrap() };
        page.sandmill(&["migrate"]).await;
        page
    }

    async fn sandmill(&self, arguments: &[&str]) {
        let mut command = sandmill(&self.database.address);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }

    /// Where the server's sockets are.
    fn host(&self) -> String {
        let address = self.server.address_of("shop");
        let (host, _) =
            address.strip_prefix("host=").and_then(|rest| rest.split_once(" port=")).expect("an address of ours");
        host.trim_matches('\'').into()
    }

    async fn run(&self, example: &Example) {
        let printed = match example.language.as_str() {
            "sql" => self.sql(example).await,
            "sh" => self.program(Command::new("sh"), "page.sh", example).await,
            "js" => match drivers("node") {
                Some(drivers) => {
                    let modules = self.folder.path().join("node_modules");
                    if !modules.exists() {
                        symlink(drivers.join("node_modules"), modules).unwrap();
                    }
                    self.program(Command::new("node"), "page.mjs", example).await
                }
                None => return,
            },
            "python" => match drivers("python") {
                Some(drivers) => {
                    self.program(Command::new(drivers.join("python/bin/python3")), "page.py", example).await
                }
                None => return,
            },
            other => panic!("{}:{}: {other} is no language that is run", self.name, example.line),
        };
        if let Some(shown) = &example.shown {
            assert_eq!(plain(&printed), plain(shown), "{}:{}", self.name, example.line);
        }
    }

    /// What a block of SQL shows, as psql prints it, up to its first error.
    async fn sql(&self, example: &Example) -> String {
        let role = example.role.as_deref().filter(|role| *role != "admin").unwrap_or("sandmill");
        let address = self.database.address.replace("user=sandmill", &format!("user={role}"));
        let session = Db::parse(&address).unwrap().connect("page").await.unwrap();
        let messages = match session.simple_query(&example.text).await {
            Ok(messages) => messages,
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{}:{}: {error}", self.name, example.line));
                assert!(example.shown.is_some(), "{}:{}: {error:?}", self.name, example.line);
                let more = [("DETAIL:  ", error.detail()), ("HINT:  ", error.hint())];
                let more = more.iter().filter_map(|(what, text)| text.map(|text| format!("{what}{text}\n")));
                return format!("ERROR:  {}\n{}", error.message(), more.collect::<String>());
            }
        };
        let mut printed = String::new();
        for message in &messages {
            let cells: Vec<&str> = match message {
                SimpleQueryMessage::RowDescription(columns) => columns.iter().map(|column| column.name()).collect(),
                SimpleQueryMessage::Row(row) => (0..row.len()).map(|column| row.get(column).unwrap_or("")).collect(),
                _ => continue,
            };
            printed += &format!("{}\n", cells.join("|"));
        }
        printed
    }

    /// Runs a program in the page's folder and returns its output. The environment names the
    /// database.
    async fn program(&self, mut command: Command, file: &str, example: &Example) -> String {
        std::fs::write(self.folder.path().join(file), &example.text).unwrap();
        let (host, role) = (self.host(), example.role.as_deref().unwrap_or("sandmill"));
        let url = format!("postgresql://{role}@localhost/shop?host={}&port=5432", host.replace('/', "%2F"));
        let program = sandmill("");
        let beside = Path::new(program.get_program()).parent().unwrap();
        // The program that is tested has a name of its own.
        let bin = self.folder.path().join("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            symlink(beside.join(program.get_program()), bin.join("sandmill")).unwrap();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).unwrap();
        command.arg(file).current_dir(self.folder.path()).env("PATH", path).env("SANDMILL_LOG", "warn");
        command.env("DATABASE_URL", url).env("PGHOST", host).env("PGPORT", "5432");
        command.env("PGUSER", role).env("PGDATABASE", "shop");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}:{}: {}", self.name, example.line, stderr(&output));
        stdout(&output)
    }
}

/// Where drivers are installed, if they are.
fn drivers(what: &str) -> Option<PathBuf> {
    let folder = root().join("target/drivers");
    if folder.join(format!("{what}.done")).is_file() {
        return Some(folder);
    }
    let all = std::env::var_os("TEST_ALL").is_some();
    assert!(!all, "the drivers for {what} are not there; `make drivers` installs them");
    println!("skipped for {what}, whose drivers are not there: `make drivers` installs them");
    None
}

/// A text without the blanks that align columns, and without its page's line breaks at the end.
fn plain(text: &str) -> String {
    let cells = |line: &str| line.split('|').map(str::trim).collect::<Vec<_>>().join("|");
    text.trim_end().lines().map(cells).collect::<Vec<_>>().join("\n")
}

async fn run_page(page: &Page) {
    let text = std::fs::read_to_string(root().join(page.name)).unwrap();
    let examples = examples(&text);
    for language in ["sql", "sh", "js"] {
        assert!(examples.iter().any(|example| example.language == language), "{} has no {language}", page.name);
    }
    for example in &examples {
        page.run(example).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_appending_shows_what_happens() {
    let page = Page::open("docs/appending.md").await;
    run_page(&page).await;
    // What was appended is what the programs say, and no refused event is among it.
    let session = page.database.db.connect("test").await.unwrap();
    let streams = "select string_agg(stream || ' ' || version, ', ' order by stream) from sandmill.streams";
    let streams: String = session.query_one(streams, &[]).await.unwrap().get(0);
    let all = drivers("node").is_some() && drivers("python").is_some();
    assert_eq!(streams, if all { "cart-1 2, cart-2 2, cart-3 2" } else { &streams });
    assert!(streams.starts_with("cart-1 2"), "{streams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_reading_shows_what_happens() {
    let page = Page::open("docs/reading.md").await;
    let added = |quantity: u32, price: u32| json!({"sku": "mug", "quantity": quantity, "price": price}).to_string();
    for (tenant, stream, event_type, data) in [
        ("acme", "cart-1", "ItemAdded", added(2, 499)),
        ("acme", "cart-2", "CartCheckedOut", "{}".into()),
        ("globex", "cart-1", "ItemAdded", added(1, 1250)),
    ] {
        let event = ["append", "--tenant", tenant, "--stream", stream, "--type", event_type, "--data", &data];
        page.sandmill(&event).await;
    }
    let folder = plugins(&["cart-summary"]);
    page.sandmill(&["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()]).await;
    run_page(&page).await;
}

#[test]
fn only_marked_blocks_are_run_and_only_the_output_below_them_is_compared() {
    let page = "```sql\nno\n```\n<!-- tested: as shop -->\n```sql\na\n```\n```text\n1\n```\n```text\n2\n```\n\
                <!-- tested -->\n```sh\nb\n```\nwords\n```js\nno\n```\n```text\n3\n```\n";
    let example = |line, role: Option<&str>, language: &str, text: &str, shown: Option<&str>| Example {
        line,
        role: role.map(String::from),
        language: language.into(),
        text: text.into(),
        shown: shown.map(String::from),
    };
    let expected = [example(5, Some("shop"), "sql", "a\n", Some("1\n")), example(15, None, "sh", "b\n", None)];
    assert_eq!(examples(page), expected);
}
