// The documentation, kept true: pages are run as they are printed, and names in prose exist.
//
// The language of a tested block decides how it is run: SQL on a session, shell commands by a
// shell, JavaScript by node, Python by python3. It is run with the host's role, or with another one
// if its mark says `as ROLE`. Blocks as `postgres`, the superuser, run in psql. The output of SQL
// and of programs must be exactly the printed one: rows as psql shows them without rules, errors
// with detail and hint. Each line that a shell's block shows must be among the printed ones.
//
// Drivers are installed by `make drivers`. Without them their programs are skipped, and fail only
// if TEST_ALL asks for all.

// Names in prose: commands, options, settings, make targets, tests.
mod names;
// The systemd unit and the container image.
mod service;

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sandmill::db::{
    Db, SimpleQueryMessage,
    embedded::{Embedded, Options},
};
use sandmill_tests::{
    Database,
    examples::{Background, Block, Mark, Reader, blocks, matches, missing, output, printed},
    host::{code_cache, component, plugins, root, sandmill, stderr, stdout},
    until,
};
use serde_json::json;

/// The superuser of a page's server.
const SUPERUSER: &str = "postgres";
/// The port of the endpoint in the pages. A test uses a free port instead.
const PORT: &str = "9464";

/// A page in its reader's folder. It has its own server, because its examples create roles.
struct Page {
    name: &'static str,
    /// Dropped first, before its database.
    background: Option<Background>,
    reader: Reader,
    server: Embedded,
    /// The server that a restored database moves to.
    other: Option<Embedded>,
    port: String,
}

/// A way to run a block: the role, and the server.
struct Way<'a> {
    role: &'a str,
    server: &'a Embedded,
}

impl Page {
    /// A page on a server with a superuser and nothing else.
    async fn open(name: &'static str) -> Page {
        let server = server_of_a_superuser().await;
        let mut reader = Reader::new();
        let session = Db::parse(&address_of(&server, SUPERUSER, SUPERUSER)).unwrap().connect("test").await.unwrap();
        let sql = "select setting from pg_config where name = 'BINDIR'";
        reader.find_first(PathBuf::from(session.query_one(sql, &[]).await.unwrap().get::<_, String>(0)));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Page { name, background: None, reader, server, other: None, port: port.to_string() }
    }

    /// A page whose reader has a store already.
    async fn with_store(name: &'static str) -> Page {
        let page = Page::open(name).await;
        admin(&page.server, &["create role sandmill login", "create database shop owner sandmill"]).await;
        page.sandmill(&["migrate"]).await;
        page
    }

    /// The database that the page is about.
    fn database(&self) -> Database {
        let address = address_of(&self.server, "sandmill", "shop");
        Database { db: Db::parse(&address).unwrap(), address }
    }

    async fn sandmill(&self, arguments: &[&str]) {
        let mut command = sandmill(&self.database().address);
        command.args(arguments);
        let output = output(command).await;
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }

    /// Runs the plugins in a folder until they have handled every event.
    async fn catch_up(&self, plugins: &Path) {
        self.sandmill(&["run", "--until-caught-up", "--plugins", plugins.to_str().unwrap()]).await;
    }

    fn place(&self, block: &Block) -> String {
        format!("{}:{}", self.name, block.line)
    }

    /// Runs a tested block in the way of its mark, and compares its output with the printed one.
    async fn run(&mut self, block: &Block) {
        let Some(way) = block.way().map(str::to_owned) else { return };
        let text = block.text.replace(PORT, &self.port);
        if let ("toml", Some(file)) = (block.language.as_str(), way.strip_prefix("as ")) {
            return std::fs::write(self.reader.folder().join(file), text).unwrap();
        }
        match way.as_str() {
            "in the background" => {
                let shell = self.with_database(self.reader.shell(&text), &self.way(""));
                self.background = Some(self.reader.start(shell));
            }
            "until it shows" => {
                until(&format!("{} prints its output", self.place(block)), async || {
                    let output = output(self.with_database(self.reader.shell(&text), &self.way(""))).await;
                    output.status.success() && missing(block.shown.as_deref(), &printed(&output)).is_none()
                })
                .await;
            }
            how => self.run_once(block, &text, &self.way(how)).await,
        }
    }

    /// The way that a mark names.
    fn way<'a>(&'a self, mark: &'a str) -> Way<'a> {
        let (role, server) = match mark.strip_suffix("on the new server") {
            Some(role) => (role.trim_end(), self.other.as_ref().expect("the page has another server")),
            None => (mark, &self.server),
        };
        let role = match role.strip_prefix("as ") {
            Some(role) => role,
            None => {
                assert!(role.is_empty(), "{}: `{mark}` is an unknown mark", self.name);
                "sandmill"
            }
        };
        Way { role, server }
    }

    /// Runs a block with this role on this server, and asserts that its output is the printed one.
    async fn run_once(&self, block: &Block, text: &str, way: &Way<'_>) {
        let place = self.place(block);
        let printed = match block.language.as_str() {
            "sql" if way.role == SUPERUSER => {
                let file = self.reader.folder().join("page.sql");
                std::fs::write(&file, text).unwrap();
                let mut psql = self.with_database(self.reader.command("psql"), way);
                psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
                let output = output(psql).await;
                assert!(output.status.success(), "{place}: {}", stderr(&output));
                return;
            }
            "sql" => self.sql(block, way).await,
            "sh" => {
                let output = output(self.with_database(self.reader.shell(text), way)).await;
                assert!(output.status.success(), "{place}: {}", stderr(&output));
                assert_eq!(missing(block.shown.as_deref(), &printed(&output)), None, "{place}: {output:?}");
                return;
            }
            "js" => match drivers("node") {
                Some(drivers) => {
                    let modules = self.reader.folder().join("node_modules");
                    if !modules.exists() {
                        symlink(drivers.join("node_modules"), modules).unwrap();
                    }
                    self.program("node", "page.mjs", block, way).await
                }
                None => return,
            },
            "python" => match drivers("python") {
                Some(drivers) => {
                    self.program(drivers.join("python/bin/python3").to_str().unwrap(), "page.py", block, way).await
                }
                None => return,
            },
            other => panic!("{place}: blocks of {other} are not run"),
        };
        if let Some(shown) = &block.shown {
            assert_eq!(plain(&printed), plain(shown), "{place}");
        }
    }

    /// The output of a block of SQL, as psql prints it, up to its first error.
    async fn sql(&self, block: &Block, way: &Way<'_>) -> String {
        let place = self.place(block);
        let session = Db::parse(&address_of(way.server, way.role, "shop")).unwrap().connect("page").await.unwrap();
        let messages = match session.simple_query(&block.text).await {
            Ok(messages) => messages,
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{place}: {error}"));
                assert!(block.shown.is_some(), "{place}: {error:?}");
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

    /// Runs a program in the page's folder and returns its output.
    async fn program(&self, program: &str, file: &str, block: &Block, way: &Way<'_>) -> String {
        std::fs::write(self.reader.folder().join(file), &block.text).unwrap();
        let mut command = self.with_database(self.reader.command(program), way);
        command.arg(file);
        let output = output(command).await;
        assert!(output.status.success(), "{}: {}", self.place(block), stderr(&output));
        stdout(&output)
    }

    /// A command whose environment names the database. For `sandmill` that is always the host's
    /// role. psql and its like start in the superuser's database.
    fn with_database(&self, mut command: Command, way: &Way<'_>) -> Command {
        let host = host_of(way.server);
        let (role, database) = (way.role, if way.role == SUPERUSER { SUPERUSER } else { "shop" });
        let client = if role == SUPERUSER { "sandmill" } else { role };
        let url = format!("postgresql://{client}@localhost/shop?host={}&port=5432", host.replace('/', "%2F"));
        command.env("DATABASE_URL", url).env("PGHOST", host).env("PGPORT", "5432");
        command.env("PGUSER", role).env("PGDATABASE", database);
        // A busy machine may have no time for guests.
        command.env("SANDMILL_LIMITS_CPU_MS", "10000").env("SANDMILL_LIMITS_WALL_MS", "120000");
        command.env("SANDMILL_COMPILE_CACHE", code_cache());
        command
    }
}

/// A server whose superuser has the usual name.
async fn server_of_a_superuser() -> Embedded {
    let server = Embedded::start(Options::default()).await.unwrap();
    let session = Db::parse(&server.address()).unwrap().connect("test").await.unwrap();
    session.batch_execute(&format!("create role {SUPERUSER} superuser login")).await.unwrap();
    drop(session);
    // The role that made the server has the name that the pages give to the host's.
    admin(&server, &["alter role sandmill rename to maker"]).await;
    server
}

/// Runs statements as the superuser.
async fn admin(server: &Embedded, statements: &[&str]) {
    let session = Db::parse(&address_of(server, SUPERUSER, SUPERUSER)).unwrap().connect("test").await.unwrap();
    for sql in statements {
        session.batch_execute(sql).await.unwrap();
    }
}

fn address_of(server: &Embedded, role: &str, database: &str) -> String {
    server.address_of(database).replace("user=sandmill", &format!("user={role}"))
}

/// The directory of a server's socket.
fn host_of(server: &Embedded) -> String {
    let address = server.address();
    let (host, _) =
        address.strip_prefix("host=").and_then(|rest| rest.split_once(" port=")).expect("an address of ours");
    host.trim_matches('\'').into()
}

/// Where drivers are installed, if they are.
fn drivers(what: &str) -> Option<PathBuf> {
    let folder = root().join("target/drivers");
    if folder.join(format!("{what}.done")).is_file() {
        return Some(folder);
    }
    let all = std::env::var_os("TEST_ALL").is_some();
    assert!(!all, "the drivers for {what} are missing; `make drivers` installs them");
    println!("skipped for {what}, whose drivers are missing: `make drivers` installs them");
    None
}

/// A text without the blanks that align columns, and without line breaks at its end.
fn plain(text: &str) -> String {
    let cells = |line: &str| line.split('|').map(str::trim).collect::<Vec<_>>().join("|");
    text.trim_end().lines().map(cells).collect::<Vec<_>>().join("\n")
}

fn blocks_of(page: &str) -> Vec<Block> {
    blocks(&std::fs::read_to_string(root().join(page)).unwrap())
}

async fn run_page(page: &mut Page, languages: &[&str]) {
    let blocks = blocks_of(page.name);
    for language in languages {
        let is_tested = |block: &Block| block.way().is_some() && block.language == *language;
        assert!(blocks.iter().any(is_tested), "{} has no {language}", page.name);
    }
    for block in &blocks {
        page.run(block).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_appending_shows_what_happens() {
    let mut page = Page::with_store("docs/appending.md").await;
    run_page(&mut page, &["sql", "sh", "js", "python"]).await;
    // The programs' events are stored, and no refused one is among them.
    let session = page.database().db.connect("test").await.unwrap();
    let streams = "select string_agg(stream || ' ' || version, ', ' order by stream) from sandmill.streams";
    let streams: String = session.query_one(streams, &[]).await.unwrap().get(0);
    let all = drivers("node").is_some() && drivers("python").is_some();
    assert_eq!(streams, if all { "cart-1 2, cart-2 2, cart-3 2" } else { &streams });
    assert!(streams.starts_with("cart-1 2"), "{streams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_reading_shows_what_happens() {
    let mut page = Page::with_store("docs/reading.md").await;
    let added = |quantity: u32, price: u32| json!({"sku": "mug", "quantity": quantity, "price": price}).to_string();
    for (tenant, stream, event_type, data) in [
        ("acme", "cart-1", "ItemAdded", added(2, 499)),
        ("acme", "cart-2", "CartCheckedOut", "{}".into()),
        ("globex", "cart-1", "ItemAdded", added(1, 1250)),
    ] {
        let event = ["append", "--tenant", tenant, "--stream", stream, "--type", event_type, "--data", &data];
        page.sandmill(&event).await;
    }
    page.catch_up(plugins(&["cart-summary"]).path()).await;
    run_page(&mut page, &["sql", "sh", "js"]).await;
}

/// A host catches up before each block, so that the block sees what the one before it caused. After
/// the page, a host handles new events of the erased tenant and of another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_questions_shows_what_happens() {
    let mut page = Page::with_store("docs/questions.md").await;
    append_to_a_cart(&page, "acme").await;
    append_to_a_cart(&page, "globex").await;
    // The collection of the first plugin is the first one.
    page.catch_up(plugins(&["cart-summary"]).path()).await;
    let both = plugins(&["cart-summary", "plane-log"]);
    for block in blocks_of(page.name).iter().filter(|block| block.way().is_some()) {
        page.catch_up(both.path()).await;
        page.run(block).await;
    }
    append_to_a_cart(&page, "acme").await;
    append_to_a_cart(&page, "globex").await;
    page.catch_up(both.path()).await;
    let session = page.database().db.connect("test").await.unwrap();
    let read = async |sql: &str| session.query_one(sql, &[]).await.unwrap().get::<_, String>(0);
    let items = "select string_agg(_partition || ' ' || (data->>'items'), ', ' order by _partition) from app.carts";
    assert_eq!(read(items).await, "acme 1, globex 2");
    // The trigger has recorded the erased documents, and those that were written since.
    let changed = "select string_agg(distinct tenant, ', ' order by tenant) from app.changed_carts";
    assert_eq!(read(changed).await, "acme, globex");
}

/// The index that the page on questions recommends serves the view of all tenants. It does not
/// serve the view of one tenant.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_on_a_field_serves_only_the_view_of_all_tenants() {
    let page = Page::with_store("docs/questions.md").await;
    page.catch_up(plugins(&["cart-summary"]).path()).await;
    let session = page.database().db.connect("test").await.unwrap();
    let index = blocks_of(page.name).into_iter().find(|block| block.text.starts_with("create index")).unwrap();
    session.batch_execute(&index.text).await.unwrap();
    session
        .batch_execute(
            "insert into sandmill_documents.c1_1 (_partition, _id, data)
             select 'acme', n, jsonb_build_object('status', n % 1000) from generate_series(1, 20000) n;
             analyze sandmill_documents.c1_1;
             set sandmill.tenant = 'acme'",
        )
        .await
        .unwrap();
    let is_served = async |query: &str| {
        let plan = session.query(&format!("explain (costs off) select _id from {query}"), &[]).await.unwrap();
        plan.iter().any(|row| {
            let line: &str = row.get(0);
            line.trim_start().starts_with("Index Cond:") && line.contains("'status'")
        })
    };
    assert!(is_served("public.cart_summary where _partition = 'acme' and data->>'status' = '7'").await);
    assert!(!is_served("sandmill_tenant.cart_summary where data->>'status' = '7'").await);
}

/// The host keeps working after each step of the page, even without the right that the page revokes
/// from all other roles. So does a host on the new server.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_production_works_as_it_is_written() {
    let mut page = Page::open("docs/production.md").await;
    let other = server_of_a_superuser().await;
    let roles = ["create role sandmill login", "create role shop login", "create role reports login"];
    admin(&other, &roles).await;
    page.other = Some(other);
    let folder = page.reader.folder().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(component("cart-summary"), folder.join("cart-summary.wasm")).unwrap();
    let blocks = blocks_of(page.name);
    for block in &blocks {
        if block.way() == Some("in the background") {
            append_to_a_cart(&page, "acme").await;
        }
        page.run(block).await;
    }
    append_to_a_cart(&page, "acme").await;
    let count = "select coalesce(sum((data->>'items')::int), 0)::int from app.cart_summary";
    let session = page.database().db.connect("test").await.unwrap();
    let is_handled = async || session.query_one(count, &[]).await.unwrap().get::<_, i32>(0) == 2;
    until("the host handles one more event", is_handled).await;
    let restored = address_of(page.other.as_ref().unwrap(), "sandmill", "shop");
    let session = Db::parse(&restored).unwrap().connect("test").await.unwrap();
    assert_eq!(session.query_one(count, &[]).await.unwrap().get::<_, i32>(0), 1);
}

async fn append_to_a_cart(page: &Page, tenant: &str) {
    let data = json!({"sku": "mug", "quantity": 1, "price": 499}).to_string();
    page.sandmill(&["append", "--tenant", tenant, "--stream", "cart-1", "--type", "ItemAdded", "--data", &data]).await;
}

/// A block that is not run has a reason, and a shell can parse it.
#[test]
fn each_command_of_the_pages_is_run_or_says_why_not() {
    let mut offences = Vec::new();
    for file in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".md") {
            continue;
        }
        for Block { line, mark, language, text, .. } in blocks_of(&format!("docs/{name}")) {
            match mark {
                None if ["sh", "sql", "js", "python", "toml"].contains(&language.as_str()) => {
                    offences.push(format!("docs/{name}:{line}: mark the block as tested, or as not run with a reason"));
                }
                Some(Mark::NotRun(_)) if language == "sh" => {
                    let shell = Command::new("sh").args(["-n", "-c", &text]).stderr(Stdio::piped()).output().unwrap();
                    if !shell.status.success() {
                        offences.push(format!("docs/{name}:{line}: {}", stderr(&shell)));
                    }
                }
                _ => {}
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn a_block_has_the_mark_above_it_and_a_tested_one_the_output_below_it() {
    let page = "```sh\na\n```\n```text\nno output\n```\n<!-- tested: as shop -->\n```sql\nb\nc\n```\nwords\n\
                ```text\n1\n```\n```text\n2\n```\n1. a list\n   <!-- tested -->\n   ```sh\n   d\n     e\n   ```\n\
                <!-- not run: a reason -->\n```sh\nf\n```\n```text\nno output\n```\n";
    let block = |line, mark: Option<Mark>, language: &str, text: &str, shown: Option<&str>| Block {
        line,
        mark,
        language: language.into(),
        text: text.into(),
        shown: shown.map(String::from),
    };
    let tested = |way: &str| Some(Mark::Tested(way.into()));
    let expected = [
        block(2, None, "sh", "a\n", None),
        block(5, None, "text", "no output\n", None),
        block(9, tested("as shop"), "sql", "b\nc\n", Some("1\n")),
        block(17, None, "text", "2\n", None),
        block(22, tested(""), "sh", "d\n  e\n", None),
        block(27, Some(Mark::NotRun("a reason".into())), "sh", "f\n", None),
        block(30, None, "text", "no output\n", None),
    ];
    assert_eq!(blocks(page), expected);
}

#[test]
#[should_panic(expected = "the last mark has no block")]
fn a_mark_without_a_block_is_a_mistake() {
    blocks("<!-- tested -->\nwords\n");
}

#[test]
fn an_ellipsis_stands_for_any_text() {
    assert!(matches("1 event in … s", "1 event in 0.2 s"));
    assert!(matches("…end", "the end"));
    assert!(matches("a … b … c", "a 1 b 2 b 3 c"));
    assert!(!matches("a … b", "a 1 c"));
    assert!(!matches("exactly", "exactly this"));
    assert!(!matches("x…", "a x"));
}
