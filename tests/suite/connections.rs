// Connections to a server over a network: encryption, authentication, errors, transaction poolers,
// and unusual defaults of a database.

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

/// The server's rules of authentication: connections over the network only with TLS, to one
/// database only with a certificate, and for one role only with a password.
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
    /// Starts the server without TLS.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // If this process is root, the server runs as another user.
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

    /// Makes the server present this certificate from now on.
    async fn present(&self, name: &str) {
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
        eventually("the server presents it", async || {
            let socket = format!("{} port={}", self.embedded.address(), self.port);
            let session = Db::parse(&socket).unwrap().connect("test").await.ok()?;
            let sql = "select current_setting('ssl') = 'on' and current_setting('ssl_cert_file') = $1";
            session.query_one(sql, &[&crt]).await.ok()?.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// Its address over the network, without this machine's environment.
    fn address(&self, rest: &str) -> String {
        format!("host=localhost hostaddr=127.0.0.1 port={} user=sandmill dbname=postgres {rest}", self.port)
    }

    /// Opens a connection. Returns whether it is encrypted, or the kind of the error.
    async fn connect(&self, rest: &str) -> Result<bool, ConnectErrorKind> {
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
async fn each_sslmode_verifies_what_it_promises() {
    let server = Server::start().await;
    for mode in ["prefer", "disable"] {
        assert_eq!(
            server.connect(&format!("sslmode={mode}")).await,
            Err(ConnectErrorKind::User),
            "the server accepts no connection without TLS"
        );
    }
    assert_eq!(server.connect("sslmode=require").await, Err(ConnectErrorKind::NoTls));
    let ours = |mode| trusting("authority.crt", mode);

    server.present("server").await;
    assert_eq!(server.connect("sslmode=disable").await, Err(ConnectErrorKind::User));
    for mode in ["prefer", "require"] {
        assert_eq!(server.connect(&format!("sslmode={mode}")).await, Ok(true), "{mode}");
    }
    for mode in ["verify-ca", "verify-full"] {
        assert_eq!(server.connect(&ours(mode)).await, Ok(true), "{mode}");
        assert_eq!(server.connect(&trusting("alone.crt", mode)).await, Err(ConnectErrorKind::Untrusted), "{mode}");
    }
    let by_number = format!("{} host=127.0.0.1", ours("verify-full"));
    assert_eq!(server.connect(&by_number).await, Ok(true), "its certificate has the address too");
    assert_eq!(
        server.connect(&trusting("alone.crt", "require")).await,
        Err(ConnectErrorKind::Untrusted),
        "require verifies if a root certificate is given, as in libpq"
    );

    server.present("other").await;
    assert_eq!(server.connect(&ours("verify-ca")).await, Ok(true));
    assert_eq!(server.connect(&ours("verify-full")).await, Err(ConnectErrorKind::OtherHost));
    server.present("expired").await;
    assert_eq!(server.connect("sslmode=require").await, Ok(true));
    assert_eq!(server.connect(&ours("verify-ca")).await, Err(ConnectErrorKind::Expired));
    // A self-signed certificate is trusted only if it is named.
    server.present("alone").await;
    assert_eq!(server.connect(&trusting("alone.crt", "verify-full")).await, Ok(true));
    assert_eq!(server.connect(&ours("verify-ca")).await, Err(ConnectErrorKind::Untrusted));
    // A certificate of version 1 cannot be verified, but it can encrypt.
    server.present("v1").await;
    assert_eq!(server.connect("sslmode=require").await, Ok(true));
    assert!(server.connect(&ours("verify-ca")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_client_certificates_authenticate() {
    let server = Server::start().await;
    server.present("server").await;
    let full = trusting("authority.crt", "verify-full");
    let own = format!("sslcert={} sslkey={}", certificate("client.crt").display(), certificate("client.key").display());
    let certified = async |with: &str| server.connect(&format!("{full} dbname=certified {with}")).await;
    assert_eq!(certified(&own).await, Ok(true));
    assert!(certified("").await.is_err_and(|kind| kind != ConnectErrorKind::Unreachable));

    let keeper = async |with: &str| server.connect(&format!("{full} user=keeper {with}")).await;
    assert_eq!(keeper("password=its:secret").await, Ok(true));
    assert_eq!(keeper("password=its:secret channel_binding=require").await, Ok(true));
    assert_eq!(keeper("password=wrong").await, Err(ConnectErrorKind::Password));
    let file = server.folder.path().join("pgpass");
    let with_file = format!("passfile={}", file.display());
    assert_eq!(keeper(&with_file).await, Err(ConnectErrorKind::NoPassword));
    fs::write(&file, "other:*:*:*:wrong\nlocalhost:*:*:keeper:its\\:secret\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(keeper(&with_file).await, Ok(true));

    for (rest, kind) in [
        ("user=nobody_of_that_name", ConnectErrorKind::User),
        ("dbname=none_of_that_name", ConnectErrorKind::Database),
        ("port=1", ConnectErrorKind::Unreachable),
    ] {
        assert_eq!(server.connect(&format!("{full} {rest}")).await, Err(kind), "{rest}");
    }
    let unknown = Address::parse("host=unknown.invalid user=u dbname=d", &|_| None).unwrap();
    let error = unknown.connect().await.err().expect("there is no such host");
    assert_eq!(ConnectErrorKind::of(&error), ConnectErrorKind::Host, "{error:?}");
}

/// The next connection uses a renewed certificate. While its file is incomplete, the former one is
/// used.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_read_again() {
    let server = Server::start().await;
    server.present("server").await;
    let file = server.folder.path().join("trusted.crt");
    fs::copy(certificate("alone.crt"), &file).unwrap();
    let address = server.address(&format!("sslmode=verify-full sslrootcert={}", file.display()));
    let address = Address::parse(&address, &|_| None).unwrap();
    let connect = async || address.connect().await.map(drop).map_err(|error| ConnectErrorKind::of(&error));
    assert_eq!(connect().await, Err(ConnectErrorKind::Untrusted));
    let rewrite = |bytes: &[u8]| {
        // The time of the change must differ, even with a coarse clock.
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
async fn commands_report_why_a_connection_failed_with_the_remedy() {
    let server = Server::start().await;
    let errors = async |variables: &[(&str, &str)]| {
        let ended = output(with_variables(&server, &["status"], variables)).await;
        assert_eq!(ended.status.code(), Some(1));
        stderr(&ended)
    };
    let authority = certificate("authority.crt").display().to_string();
    let full = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &*authority)];
    assert!(errors(&full).await.contains("does not offer TLS"));
    server.present("other").await;
    let other = errors(&full).await;
    assert!(other.contains("for another host name") && other.contains("verify-ca"), "{other}");
    server.present("expired").await;
    assert!(errors(&full).await.contains("has expired"));
    server.present("alone").await;
    assert!(errors(&full).await.contains("not trusted here"));
    server.present("server").await;
    let keeper = [full[0], full[1], ("PGUSER", "keeper")];
    assert!(errors(&keeper).await.contains("PGPASSWORD or in ~/.pgpass"));
    let wrong = errors(&[full[0], full[1], ("PGUSER", "keeper"), ("PGPASSWORD", "wrong-secret")]).await;
    assert!(wrong.contains("The password is wrong") && !wrong.contains("wrong-secret"), "{wrong}");
    assert!(errors(&[("PGSSLMODE", "disable")]).await.contains("sslmode=require"));
    let mut broken = sandmill("postgres://u:my@secret@h/d");
    broken.arg("status");
    let broken = output(broken).await;
    assert_eq!(broken.status.code(), Some(2));
    let broken = stderr(&broken);
    assert!(broken.contains("more than one `@`") && !broken.contains("secret"), "{broken}");
}

/// All connections of a host are encrypted, and the log and the status show it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_works_over_encrypted_connections() {
    let server = Server::start().await;
    server.present("server").await;
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
    // A cancellation uses another connection.
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

/// A pgbouncer in front of a server. Dropping it ends the process.
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

/// Starts pgbouncer; none if it is not installed.
async fn pooler(server: &Server, mode: &str, round_robin: u8) -> Option<Pooler> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let program = places.map(|place| place.join("pgbouncer")).find(|program| program.is_file())?;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let owner = fs::metadata(server.embedded.log()).unwrap();
    let socket = server.embedded.log().parent().unwrap().display().to_string();
    let settings = format!(
        "[databases]\n* = host={socket} port={} user=sandmill\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = {mode}\nserver_round_robin = {round_robin}\n",
        server.port
    );
    let file = folder.path().join("pgbouncer.ini");
    fs::write(&file, settings).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    // Like the server, it refuses to run as root.
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

/// A host keeps locks and settings on its connections, which a transaction pooler lends to other
/// clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_pooler_is_rejected_and_a_session_pooler_is_accepted() {
    let server = Server::start().await;
    let folder = plugins(&["scripted"]);
    for round_robin in [0, 1] {
        let Some(transactions) = pooler(&server, "transaction", round_robin).await else {
            eprintln!("SKIPPED: a_transaction_pooler_is_rejected_and_a_session_pooler_is_accepted: no pgbouncer");
            return;
        };
        assert_rejected(&transactions, folder.path()).await;
    }
    let schemas = "select count(*) from pg_namespace where nspname like 'sandmill%'";
    assert_eq!(server.admin.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);

    let sessions = pooler(&server, "session", 0).await.expect("pgbouncer is installed");
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

/// Asserts that commands that keep state on their connections reject a pooler and leave its
/// connections unchanged.
async fn assert_rejected(pooler: &Pooler, folder: &Path) {
    for arguments in [&["migrate"][..], &["run", "--plugins", &folder.display().to_string()]] {
        let mut command = sandmill(&pooler.address);
        command.args(arguments);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        let errors = stderr(&ended);
        let remedy = "\nConnect to the server itself";
        assert!(errors.contains("is a transaction pooler") && errors.contains(remedy), "{errors}");
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

/// The defaults of a database do not affect what is stored, handled or shown.
#[tokio::test(flavor = "multi_thread")]
async fn unusual_defaults_of_a_database_change_nothing() {
    let database = sandmill_tests::empty_database().await;
    let defaults = [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        // Too short for a migration, but long enough for the first statement of a session, even on
        // a busy machine.
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
    let printed = async |arguments: &[&str]| {
        let mut command = sandmill(&database.address);
        command.args(arguments);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", stderr(&ended));
        stdout(&ended)
    };
    let status: Value = serde_json::from_str(&printed(&["status", "--json"]).await).unwrap();
    assert_eq!((&status["processors"][0]["handled"], &status["processors"][0]["lagEvents"]), (&json!(2), &json!(0)));
    let events = printed(&["events", "--json"]).await;
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!(first["data"], serde_json::from_str::<Value>(data).unwrap());
    assert!(printed(&["documents", "scripted_log"]).await.contains("acme"));
    printed(&["explain"]).await;
    printed(&["plugins"]).await;
    printed(&["processors", "list"]).await;
    printed(&["tenants"]).await;
}

/// Applications have their own session settings.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_append_with_any_session_settings() {
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
    // Invalid events are still rejected.
    let bad = sandmill_client::NewEvent::new("T", format!("[{}]", "9".repeat(2_000)));
    let refused = sandmill_client::append(&client, &sandmill_client::Append::to("acme", "s").event(bad)).await;
    assert!(refused.is_err_and(|error| matches!(error, sandmill_client::AppendError::Invalid(_))));
}
