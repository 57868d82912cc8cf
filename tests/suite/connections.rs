// Connections to a server over a network: how they are encrypted, who gets in, and what is told
// where one cannot be opened.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use sandmill::db::{
    Db, Session, SimpleQueryMessage,
    embedded::{Embedded, Options},
    migrate,
};
use sandmill_client::connect::{Address, ConnectErrorKind};
use sandmill_tests::{
    Database,
    host::{eventually, plugins, root, sandmill, stderr, stdout},
};
use serde_json::{Value, json};

/// Who gets in over the network: with TLS alone, into one database with a certificate alone, and
/// one role with a password.
const HBA: &str = "local   all       all      trust
hostssl certified all      127.0.0.1/32 cert
hostssl all       keeper   127.0.0.1/32 scram-sha-256
hostssl all       sandmill 127.0.0.1/32 trust
";

/// A server that listens on a port of this machine.
struct Server {
    embedded: Embedded,
    port: u16,
    folder: tempfile::TempDir,
    admin: Session,
}

fn certificate(name: &str) -> PathBuf {
    root().join("tests/certificates").join(name)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Without TLS at first.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Its account is another one than this process's, where that is root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let hba = folder.path().join("pg_hba.conf");
        fs::write(&hba, HBA).unwrap();
        let port = free_port();
        let settings = [
            ("listen_addresses", "127.0.0.1".to_string()),
            ("port", port.to_string()),
            ("hba_file", hba.display().to_string()),
            ("password_encryption", "scram-sha-256".into()),
        ];
        let settings = settings.map(|(name, value)| (name.to_string(), value)).to_vec();
        let embedded = Embedded::start(Options { settings, ..Options::default() }).await.unwrap();
        let socket = format!("{} port={port}", embedded.address());
        let admin = Db::parse(&socket).unwrap().connect("test").await.unwrap();
        for sql in ["create database certified", "create role keeper login password 'its:secret'"] {
            admin.batch_execute(sql).await.unwrap();
        }
        Server { embedded, port, folder, admin }
    }

    /// Shows this certificate to whoever connects from now on.
    async fn show(&self, name: &str) {
        let owner = fs::metadata(self.embedded.log()).unwrap();
        let file = |suffix: &str| {
            let path = self.folder.path().join(format!("{name}.{suffix}"));
            fs::copy(certificate(&format!("{name}.{suffix}")), &path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
            path.display().to_string()
        };
        let authority = self.folder.path().join("authority.crt");
        fs::copy(certificate("authority.crt"), &authority).unwrap();
        let (crt, key) = (file("crt"), file("key"));
        for sql in [
            format!("alter system set ssl_cert_file = '{crt}'"),
            format!("alter system set ssl_key_file = '{key}'"),
            format!("alter system set ssl_ca_file = '{}'", authority.display()),
            "alter system set ssl = on".into(),
            "select pg_reload_conf()".into(),
        ] {
            self.admin.batch_execute(&sql).await.unwrap();
        }
        eventually("the server shows it", async || {
            let socket = format!("{} port={}", self.embedded.address(), self.port);
            let session = Db::parse(&socket).unwrap().connect("test").await.ok()?;
            let sql = "select current_setting('ssl') = 'on' and current_setting('ssl_cert_file') = $1";
            session.query_one(sql, &[&crt]).await.ok()?.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// Its address over the network, without anything of this machine's environment.
    fn address(&self, rest: &str) -> String {
        format!("host=localhost hostaddr=127.0.0.1 port={} user=sandmill dbname=postgres {rest}", self.port)
    }

    /// How a connection is encrypted, or what keeps it from being opened.
    async fn try_it(&self, rest: &str) -> Result<bool, ConnectErrorKind> {
        let address = Address::parse(&self.address(rest), &|_| None).unwrap();
        let (client, connection) = address.connect().await.map_err(|error| ConnectErrorKind::of(&error))?;
        tokio::spawn(connection);
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        Ok(client.query_one(sql, &[]).await.unwrap().get(0))
    }
}

fn trusting(name: &str, mode: &str) -> String {
    format!("sslmode={mode} sslrootcert={}", certificate(name).display())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_checks_as_much_as_it_says() {
    let server = Server::start().await;
    for mode in ["prefer", "disable"] {
        assert_eq!(
            server.try_it(&format!("sslmode={mode}")).await,
            Err(ConnectErrorKind::User),
            "without TLS nobody gets in"
        );
    }
    assert_eq!(server.try_it("sslmode=require").await, Err(ConnectErrorKind::NoTls));
    let ours = |mode| trusting("authority.crt", mode);

    server.show("server").await;
    assert_eq!(server.try_it("sslmode=disable").await, Err(ConnectErrorKind::User));
    for mode in ["prefer", "require"] {
        assert_eq!(server.try_it(&format!("sslmode={mode}")).await, Ok(true), "{mode}");
    }
    for mode in ["verify-ca", "verify-full"] {
        assert_eq!(server.try_it(&ours(mode)).await, Ok(true), "{mode}");
        assert_eq!(server.try_it(&trusting("alone.crt", mode)).await, Err(ConnectErrorKind::Untrusted), "{mode}");
    }
    let by_number = format!("{} host=127.0.0.1", ours("verify-full"));
    assert_eq!(server.try_it(&by_number).await, Ok(true), "its certificate has the address, too");
    assert_eq!(
        server.try_it(&trusting("alone.crt", "require")).await,
        Err(ConnectErrorKind::Untrusted),
        "as libpq has it"
    );

    server.show("other").await;
    assert_eq!(server.try_it(&ours("verify-ca")).await, Ok(true));
    assert_eq!(server.try_it(&ours("verify-full")).await, Err(ConnectErrorKind::OtherHost));
    server.show("expired").await;
    assert_eq!(server.try_it("sslmode=require").await, Ok(true));
    assert_eq!(server.try_it(&ours("verify-ca")).await, Err(ConnectErrorKind::Expired));
    // One that signs itself is trusted where it is named, and nowhere else.
    server.show("alone").await;
    assert_eq!(server.try_it(&trusting("alone.crt", "verify-full")).await, Ok(true));
    assert_eq!(server.try_it(&ours("verify-ca")).await, Err(ConnectErrorKind::Untrusted));
    // A certificate in the old form cannot be verified, and encrypts as well as others.
    server.show("v1").await;
    assert_eq!(server.try_it("sslmode=require").await, Ok(true));
    assert!(server.try_it(&ours("verify-ca")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_certificates_open_what_they_are_for() {
    let server = Server::start().await;
    server.show("server").await;
    let full = trusting("authority.crt", "verify-full");
    let own = format!("sslcert={} sslkey={}", certificate("client.crt").display(), certificate("client.key").display());
    let certified = async |with: &str| server.try_it(&format!("{full} dbname=certified {with}")).await;
    assert_eq!(certified(&own).await, Ok(true));
    assert!(certified("").await.is_err_and(|trouble| trouble != ConnectErrorKind::Unreachable));

    let keeper = async |with: &str| server.try_it(&format!("{full} user=keeper {with}")).await;
    assert_eq!(keeper("password=its:secret").await, Ok(true));
    assert_eq!(keeper("password=its:secret channel_binding=require").await, Ok(true));
    assert_eq!(keeper("password=wrong").await, Err(ConnectErrorKind::Password));
    let file = server.folder.path().join("pgpass");
    let with_file = format!("passfile={}", file.display());
    assert_eq!(keeper(&with_file).await, Err(ConnectErrorKind::NoPassword));
    fs::write(&file, "other:*:*:*:wrong\nlocalhost:*:*:keeper:its\\:secret\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(keeper(&with_file).await, Ok(true));

    for (rest, trouble) in [
        ("user=nobody_of_that_name", ConnectErrorKind::User),
        ("dbname=none_of_that_name", ConnectErrorKind::Database),
        ("port=1", ConnectErrorKind::Unreachable),
    ] {
        assert_eq!(server.try_it(&format!("{full} {rest}")).await, Err(trouble), "{rest}");
    }
    let unknown = Address::parse("host=unknown.invalid user=u dbname=d", &|_| None).unwrap();
    let error = unknown.connect().await.err().expect("there is no such host");
    assert_eq!(ConnectErrorKind::of(&error), ConnectErrorKind::Host, "{error:?}");
}

/// A certificate that is renewed is used by the next connection; while its file is not whole, the
/// one before is.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_read_again() {
    let server = Server::start().await;
    server.show("server").await;
    let file = server.folder.path().join("trusted.crt");
    fs::copy(certificate("alone.crt"), &file).unwrap();
    let address = server.address(&format!("sslmode=verify-full sslrootcert={}", file.display()));
    let address = Address::parse(&address, &|_| None).unwrap();
    let connect = async || address.connect().await.map(drop).map_err(|error| ConnectErrorKind::of(&error));
    assert_eq!(connect().await, Err(ConnectErrorKind::Untrusted));
    let rewrite = |bytes: &[u8]| {
        // So that the time of the change is another one, however coarse the clock is.
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        while fs::metadata(&file).unwrap().modified().unwrap() == before {
            fs::write(&file, bytes).unwrap();
        }
    };
    rewrite(&fs::read(certificate("authority.crt")).unwrap());
    assert_eq!(connect().await, Ok(()));
    rewrite(b"-----BEGIN CERTIFICATE-----\n");
    assert_eq!(connect().await, Ok(()));
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// A command with libpq's variables instead of an address.
fn with_variables(server: &Server, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = sandmill("");
    command.env_remove("DATABASE_URL").env("HOME", "/nonexistent").args(arguments);
    let port = server.port.to_string();
    let ours = [("PGHOST", "localhost"), ("PGPORT", &*port), ("PGUSER", "sandmill"), ("PGDATABASE", "postgres")];
    command.envs(ours.iter().chain(variables).copied());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_keeps_a_connection_from_being_opened() {
    let server = Server::start().await;
    let said = async |variables: &[(&str, &str)]| {
        let ended = output(with_variables(&server, &["status"], variables)).await;
        assert_eq!(ended.status.code(), Some(1));
        stderr(&ended)
    };
    let authority = certificate("authority.crt").display().to_string();
    let full = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &*authority)];
    assert!(said(&full).await.contains("TLS switched off"));
    server.show("other").await;
    let other = said(&full).await;
    assert!(other.contains("for another host name") && other.contains("verify-ca"), "{other}");
    server.show("expired").await;
    assert!(said(&full).await.contains("has expired"));
    server.show("alone").await;
    assert!(said(&full).await.contains("not trusted here"));
    server.show("server").await;
    let keeper = [full[0], full[1], ("PGUSER", "keeper")];
    assert!(said(&keeper).await.contains("PGPASSWORD, or in ~/.pgpass"));
    let wrong = said(&[full[0], full[1], ("PGUSER", "keeper"), ("PGPASSWORD", "wrong-secret")]).await;
    assert!(wrong.contains("The password is wrong") && !wrong.contains("wrong-secret"), "{wrong}");
    assert!(said(&[("PGSSLMODE", "disable")]).await.contains("sslmode=require"));
    let mut broken = sandmill("postgres://u:my@secret@h/d");
    broken.arg("status");
    let broken = output(broken).await;
    assert_eq!(broken.status.code(), Some(2));
    let broken = stderr(&broken);
    assert!(broken.contains("more than one `@`") && !broken.contains("secret"), "{broken}");
}

/// Everything that a host does goes over encrypted connections, and it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_works_over_encrypted_connections() {
    let server = Server::start().await;
    server.show("server").await;
    let address = server.address(&trusting("authority.crt", "verify-full"));
    let db = Db::parse(&address).unwrap();
    migrate::migrate(&mut db.connect("test").await.unwrap()).await.unwrap();
    let database = Database { db, address };
    database.append("acme", "s", &vec![json!({}); 20]).await;
    let folder = plugins(&["scripted"]);
    let mut command = sandmill(&database.address);
    command.env("SANDMILL_LOG", "info").args(["run", "--until-caught-up", "--plugins"]).arg(folder.path());
    let ended = output(command).await;
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("TLSv1.3"), "{}", stderr(&ended));
    let mut command = sandmill(&database.address);
    command.args(["status", "--json"]);
    let status: Value = serde_json::from_str(&stdout(&output(command).await)).unwrap();
    assert_eq!(status["connection"], json!({"encrypted": true, "protocol": "TLSv1.3"}));
    assert_eq!(status["processors"][0]["handled"], 20);
    // Cancelling takes a connection of its own.
    let session = database.db.connect("test").await.unwrap();
    let canceller = session.canceller();
    let (slept, ()) = tokio::join!(session.batch_execute("select pg_sleep(3600)"), async {
        eventually("it sleeps", async || {
            let sql = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
            (server.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        canceller.cancel().await;
    });
    assert!(slept.is_err());
}

/// pgbouncer before a server, gone with this.
struct Pooler {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts pgbouncer; none where this machine has none.
async fn pooler(server: &Server, mode: &str, in_turn: u8) -> Option<Pooler> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let program = places.map(|place| place.join("pgbouncer")).find(|program| program.is_file())?;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let owner = fs::metadata(server.embedded.log()).unwrap();
    let socket = server.embedded.log().parent().unwrap().display().to_string();
    let settings = format!(
        "[databases]\n* = host={socket} port={} user=sandmill\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = {mode}\nserver_round_robin = {in_turn}\n",
        server.port
    );
    let file = folder.path().join("pgbouncer.ini");
    fs::write(&file, settings).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    // It refuses to run as root, as the server does.
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let child = command.arg("-q").arg(&file).stderr(Stdio::null()).spawn().unwrap();
    let address = format!("host=127.0.0.1 port={port} user=sandmill dbname=postgres sslmode=disable");
    let pooler = Pooler { child, address, _folder: folder };
    eventually("the pooler answers", async || {
        let address = Address::parse(&pooler.address, &|_| None).unwrap();
        address.connect().await.ok().map(drop)
    })
    .await;
    Some(pooler)
}

/// What keeps locks and settings on its connections cannot work where they are lent to others.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_pooler_is_refused_and_a_session_pooler_is_not() {
    let server = Server::start().await;
    let folder = plugins(&["scripted"]);
    for in_turn in [0, 1] {
        let Some(transactions) = pooler(&server, "transaction", in_turn).await else {
            eprintln!("skipped: there is no pgbouncer on this machine");
            return;
        };
        assert_refused(&transactions, folder.path()).await;
    }
    let schemas = "select count(*) from pg_namespace where nspname like 'sandmill%'";
    assert_eq!(server.admin.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);

    let sessions = pooler(&server, "session", 0).await.expect("it was there a moment ago");
    for arguments in [&["migrate"][..], &["append", "--tenant", "acme", "--stream", "s", "--type", "T", "--data", "{}"]]
    {
        let mut command = sandmill(&sessions.address);
        command.args(arguments);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", stderr(&ended));
    }
    let mut command = sandmill(&sessions.address);
    command.args(["run", "--until-caught-up", "--plugins"]).arg(folder.path());
    let ended = output(command).await;
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    let sql = "select from sandmill.cursors where handled > 0";
    assert_eq!(server.admin.query(sql, &[]).await.unwrap().len(), 1);
}

/// Commands that keep something on their connections refuse a pooler, whose connections stay as
/// they were.
async fn assert_refused(pooler: &Pooler, folder: &Path) {
    for arguments in [&["migrate"][..], &["run", "--plugins", &folder.display().to_string()]] {
        let mut command = sandmill(&pooler.address);
        command.args(arguments);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        let said = stderr(&ended);
        assert!(said.contains("is a transaction pooler") && said.contains("\nName the server itself"), "{said}");
    }
    let address = Address::parse(&pooler.address, &|_| None).unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (client, connection) = address.connect().await.unwrap();
        tokio::spawn(connection);
        client.simple_query("begin").await.unwrap();
        let shown = client.simple_query("show search_path").await.unwrap();
        let path = shown.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(String::from),
            _ => None,
        });
        assert_eq!(path.as_deref(), Some("\"$user\", public"));
        clients.push(client);
    }
}

/// What a database has as its defaults is its operator's business, and changes nothing of what is
/// stored, handled or shown.
#[tokio::test(flavor = "multi_thread")]
async fn odd_defaults_of_a_database_change_nothing() {
    let database = sandmill_tests::empty_database().await;
    let defaults = [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        // Short for a migration, and long for what a session says first, also on a busy machine.
        "statement_timeout = '200ms'",
        "lock_timeout = '1ms'",
        "standard_conforming_strings = off",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Pacific/Chatham'",
        "bytea_output = 'escape'",
        "array_nulls = off",
        "transform_null_equals = on",
        "row_security = off",
        "quote_all_identifiers = on",
        "extra_float_digits = -15",
        "search_path = 'nowhere'",
        "client_encoding = 'LATIN1'",
    ];
    let session = database.db.connect("test").await.unwrap();
    let name: String = session.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    for default in defaults {
        session.batch_execute(&format!("alter database {name} set {default}")).await.unwrap();
    }
    drop(session);
    let folder = plugins(&["scripted"]);
    let folder = folder.path().display().to_string();
    let data = r#"{"text": "\u00e9 \\ ' €", "at": "2026-01-02T03:04:05.678Z", "number": 0.1}"#;
    let append = ["append", "--tenant", "acme", "--stream", "s", "--type", "T", "--data", data];
    for arguments in [
        &["migrate"][..],
        &append,
        &append,
        &["run", "--until-caught-up", "--plugins", &folder],
        &["migrate", "--ordering", "tenant", "--max-event-bytes", "65536"],
    ] {
        let mut command = sandmill(&database.address);
        command.args(arguments);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", stderr(&ended));
    }
    let told = async |arguments: &[&str]| {
        let mut command = sandmill(&database.address);
        command.args(arguments);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", stderr(&ended));
        stdout(&ended)
    };
    let status: Value = serde_json::from_str(&told(&["status", "--json"]).await).unwrap();
    assert_eq!((&status["processors"][0]["handled"], &status["processors"][0]["lagEvents"]), (&json!(2), &json!(0)));
    let events = told(&["events", "--json"]).await;
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!(first["data"], serde_json::from_str::<Value>(data).unwrap());
    assert!(told(&["documents", "scripted_log"]).await.contains("acme"));
    told(&["explain"]).await;
    told(&["plugins"]).await;
    told(&["processors", "list"]).await;
    told(&["tenants"]).await;
}

/// Applications append with their own settings.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_appends_whatever_its_session_is_set_to() {
    let database = sandmill_tests::database().await;
    let address = Address::parse(&database.address, &|_| None).unwrap();
    let (client, connection) = address.connect().await.unwrap();
    tokio::spawn(connection);
    let odd = "set standard_conforming_strings = off; set escape_string_warning = off; set datestyle = 'German'; \
               set search_path = 'nowhere'; set default_transaction_isolation = 'serializable'; \
               set array_nulls = off; set transform_null_equals = on; set timezone = 'Pacific/Chatham'";
    client.batch_execute(odd).await.unwrap();
    let event = sandmill_client::NewEvent::new("T", r#"{"text": "\u00e9 \\ '", "deep": [[[1e2, null]]]}"#);
    let items = sandmill_client::Append::to("acme", "s").event(event);
    sandmill_client::append(&client, &items).await.unwrap();
    let found = sandmill_client::read_stream(&client, "acme", "s", 1, 10).await.unwrap();
    assert_eq!(found.len(), 1);
    // What the store cannot take it still refuses.
    let bad = sandmill_client::NewEvent::new("T", format!("[{}]", "9".repeat(2_000)));
    let refused = sandmill_client::append(&client, &sandmill_client::Append::to("acme", "s").event(bad)).await;
    assert!(refused.is_err_and(|error| matches!(error, sandmill_client::AppendError::Invalid(_))));
}
