//! What all parts share: the private server, the plugins, the binary, and how databases are made ready for one run after another.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use sandmill::{
    config::{Config, Sources},
    db::{
        Db, Session,
        embedded::{Embedded, Options},
        migrate,
    },
};

use crate::Arguments;

/// As a server for this is set: enough memory for everything here, and a log that does not force checkpoints into a run.
const SETTINGS: [(&str, &str); 5] = [
    ("max_connections", "1000"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("shared_preload_libraries", "pg_stat_statements"),
];

/// What a server's socket is called in its folder.
pub const SOCKET: &str = ".s.PGSQL.5432";

/// The surroundings of all measurements.
pub struct World {
    server: Embedded,
    plugins: PathBuf,
    /// Binaries of the host: the one to measure, and one to compare it with.
    pub binaries: Vec<PathBuf>,
    /// How often everything takes its turn.
    pub rounds: usize,
    /// Flights to import, if not those of the repository.
    pub flights: Option<PathBuf>,
    scratch: tempfile::TempDir,
}

impl World {
    /// Starts the server and finds everything else.
    pub async fn new(arguments: &Arguments) -> anyhow::Result<World> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("sandmill"));
        let binary = arguments.sandmill.clone().map_or_else(beside, Ok)?;
        let binaries: Vec<PathBuf> = std::iter::once(binary).chain(arguments.against.clone()).collect();
        for binary in &binaries {
            anyhow::ensure!(binary.is_file(), "there is no {}; `make bench` builds it", binary.display());
        }
        let settings = SETTINGS.map(|(name, value)| (name.to_string(), value.to_string())).into();
        eprintln!("starting a private PostgreSQL server");
        let server = Embedded::start(Options { durable: true, settings, ..Options::default() }).await?;
        Ok(World {
            server,
            plugins: arguments.plugins.clone(),
            binaries,
            rounds: arguments.rounds.max(1),
            flights: arguments.flights.clone(),
            scratch: tempfile::tempdir()?,
        })
    }

    /// The server's version.
    pub fn postgres(&self) -> &str {
        self.server.version()
    }

    /// Makes a migrated database.
    pub async fn database(&self, name: &str) -> anyhow::Result<Database> {
        self.server.create_database(name, None).await?;
        let address = self.server.address_of(name);
        let db = Db::parse(&address)?;
        let mut session = db.connect("bench").await?;
        migrate::migrate(&mut session).await?;
        session.batch_execute("create extension pg_stat_statements with schema public").await?;
        Ok(Database { db, address, session })
    }

    /// Takes a database away, whoever is connected to it.
    pub async fn discard(&self, name: &str) -> anyhow::Result<()> {
        let session = Db::parse(&self.server.address())?.connect("bench").await?;
        session.batch_execute(&format!("drop database {name} with (force)")).await.context("drop a database")
    }

    /// The server's socket.
    pub fn socket(&self) -> anyhow::Result<PathBuf> {
        let config: tokio_postgres::Config = self.server.address().parse()?;
        match config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Unix(folder)) => Ok(folder.join(SOCKET)),
            other => anyhow::bail!("the private server listens on no socket: {other:?}"),
        }
    }

    /// A folder that is gone with the measurements.
    pub fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.scratch.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A plugin's file.
    pub fn plugin(&self, name: &str) -> anyhow::Result<PathBuf> {
        let file = self.plugins.join(name).with_extension("wasm");
        anyhow::ensure!(file.is_file(), "there is no {}; `make plugins` builds it", file.display());
        Ok(file)
    }

    /// A folder with nothing but this plugin.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let file = self.plugin(name)?;
        let folder = self.scratch(name)?;
        std::fs::copy(&file, folder.join(format!("{name}.wasm")))?;
        Ok(folder)
    }

    /// Where compiled code is kept.
    pub fn code_cache(&self) -> PathBuf {
        self.scratch.path().join("compiled")
    }

    /// Settings as they are unless changed, for a host in this process: another one compiles for it.
    pub fn config(&self, plugins: &Path) -> anyhow::Result<Config> {
        let flags = vec![
            format!("plugins={}", plugins.display()),
            format!("compile.worker={}", self.binaries[0].display()),
            format!("compile.cache={}", self.code_cache().display()),
        ];
        Ok(Config::load(&Sources { file: None, environment: Vec::new(), flags })?)
    }
}

/// One database.
pub struct Database {
    /// Where it is, for code of ours.
    pub db: Db,
    /// Where it is, for other processes.
    pub address: String,
    /// A session on it, for what is not measured.
    pub session: Session,
}

impl Database {
    /// How many events there are.
    pub async fn events(&self) -> anyhow::Result<f64> {
        Ok(self.session.query_one("select count(*) from sandmill.events", &[]).await?.get::<_, i64>(0) as f64)
    }

    /// Takes back everything that processors did, and lets the server write what it has put off.
    pub async fn reset(&self) -> anyhow::Result<()> {
        let collections = self
            .session
            .query("select format('sandmill_documents.c%s_%s', number, generation) from sandmill.collections", &[])
            .await?;
        for row in collections {
            self.session.batch_execute(&format!("truncate {}", row.get::<_, &str>(0))).await?;
        }
        self.session.batch_execute("delete from sandmill.cursors").await?;
        self.session.batch_execute("checkpoint").await.context("checkpoint")?;
        self.session.batch_execute("select public.pg_stat_statements_reset()").await?;
        Ok(())
    }

    /// What a collection holds, as one number that differs when anything does.
    pub async fn fingerprint(&self, collection: &str) -> anyhow::Result<String> {
        let sql = format!(
            "select count(*) || ' documents, ' || coalesce(sum(hashtextextended(_partition || ' ' || _id || ' ' || (data - '_version')::text, 0)::numeric), 0)
             from {}",
            view(collection)
        );
        Ok(self.session.query_one(&sql, &[]).await?.get(0))
    }

    /// How many statements were run since the reset, and how many pages of a backlog were read. Not counted are those that begin and end
    /// transactions or set a session up, and looks at the snapshot, which go by the clock.
    pub async fn statements(&self) -> anyhow::Result<(f64, f64)> {
        let sql = "select coalesce(sum(calls), 0)::float8,
                     coalesce(sum(calls) filter (where query like '%Reads a page of a large difference along%'), 0)::float8
                   from public.pg_stat_statements s join pg_database d on d.oid = s.dbid
                   where d.datname = current_database() and query <> 'select pg_current_snapshot()::text' and query !~* '^(begin|commit|rollback|set|checkpoint|truncate|start)'";
        let row = self.session.query_one(sql, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }
}

/// The view of one of everybody's collections, which reads its table and costs nothing.
pub fn view(collection: &str) -> String {
    format!("public.{collection}")
}

/// How long anything is waited for. Sooner or later all of it has happened, on machines however slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until something holds, and fails if it does not for long.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds().await? {
        anyhow::ensure!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
