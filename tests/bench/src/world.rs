//! The environment of all benchmarks: the private server, the plugins, the binaries, and the
//! databases.

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

/// The server's settings: enough memory for all benchmarks, and a write-ahead log that forces no
/// checkpoint during a run.
const SETTINGS: [(&str, &str); 5] = [
    ("max_connections", "1000"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("shared_preload_libraries", "pg_stat_statements"),
];

/// File name of the server's socket.
pub const SOCKET: &str = ".s.PGSQL.5432";

/// The environment of all measurements.
pub struct World {
    server: Option<Embedded>,
    plugins: PathBuf,
    /// More folders with the example plugins, to compare with.
    pub against_plugins: Vec<PathBuf>,
    /// Binaries of the host: the one to measure, and one to compare it with.
    pub binaries: Vec<PathBuf>,
    /// Rounds, in each of which every candidate takes a turn.
    pub rounds: usize,
    /// Flights to import instead of those of the repository.
    pub flights: Option<PathBuf>,
    scratch: tempfile::TempDir,
}

impl World {
    /// Starts the server, if it is needed, and finds the plugins and binaries.
    pub async fn new(arguments: &Arguments, needs_server: bool) -> anyhow::Result<World> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("sandmill"));
        let binary = arguments.sandmill.clone().map_or_else(beside, Ok)?;
        let binaries: Vec<PathBuf> = std::iter::once(binary).chain(arguments.against.clone()).collect();
        for binary in &binaries {
            anyhow::ensure!(binary.is_file(), "there is no {}; `make bench` builds it", binary.display());
        }
        let settings = SETTINGS.map(|(name, value)| (name.to_string(), value.to_string())).into();
        let mut server = None;
        if needs_server {
            eprintln!("starting a private PostgreSQL server");
            server = Some(Embedded::start(Options { durable: true, settings, ..Options::default() }).await?);
        }
        Ok(World {
            server,
            plugins: arguments.plugins.clone(),
            against_plugins: arguments.against_plugins.clone(),
            binaries,
            rounds: arguments.rounds.max(1),
            flights: arguments.flights.clone(),
            scratch: tempfile::tempdir()?,
        })
    }

    /// The server's version. `None` if nothing needs the server.
    pub fn postgres(&self) -> Option<&str> {
        self.server.as_ref().map(Embedded::version)
    }

    fn server(&self) -> anyhow::Result<&Embedded> {
        self.server.as_ref().context("the private server was not started")
    }

    /// Creates a migrated database.
    pub async fn database(&self, name: &str) -> anyhow::Result<Database> {
        self.server()?.create_database(name, None).await?;
        let address = self.server()?.address_of(name);
        let db = Db::parse(&address)?;
        let mut session = db.connect("bench").await?;
        migrate::migrate(&mut session).await?;
        session.batch_execute("create extension pg_stat_statements with schema public").await?;
        Ok(Database { db, address, session })
    }

    /// Drops a database, and ends all sessions on it.
    pub async fn discard(&self, name: &str) -> anyhow::Result<()> {
        let session = Db::parse(&self.server()?.address())?.connect("bench").await?;
        session.batch_execute(&format!("drop database {name} with (force)")).await.context("drop a database")
    }

    /// The server's socket.
    pub fn socket(&self) -> anyhow::Result<PathBuf> {
        let config: tokio_postgres::Config = self.server()?.address().parse()?;
        match config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Unix(folder)) => Ok(folder.join(SOCKET)),
            other => anyhow::bail!("the private server listens on no socket: {other:?}"),
        }
    }

    /// A temporary folder for the duration of the benchmarks.
    pub fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.scratch.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A plugin's file.
    pub fn plugin(&self, name: &str) -> anyhow::Result<PathBuf> {
        plugin_in(&self.plugins, name)
    }

    /// A folder with nothing but this plugin.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let file = self.plugin(name)?;
        let folder = self.scratch(name)?;
        std::fs::copy(&file, folder.join(format!("{name}.wasm")))?;
        Ok(folder)
    }

    /// For each binary a folder with nothing but this plugin. The binary of `--against` runs the
    /// build in the first folder of `--against-plugins`, if there is one.
    pub fn folders(&self, name: &str) -> anyhow::Result<Vec<PathBuf>> {
        let builds = std::iter::once(&self.plugins).chain(&self.against_plugins);
        let builds: Vec<&PathBuf> = builds.take(self.binaries.len()).collect();
        let folder = |number: usize| {
            let build = builds.get(number).unwrap_or(&builds[0]);
            let folder = self.scratch(&format!("{name}-{number}"))?;
            std::fs::copy(plugin_in(build, name)?, folder.join(format!("{name}.wasm")))?;
            Ok(folder)
        };
        (0..self.binaries.len()).map(folder).collect()
    }

    /// The cache of compiled code.
    pub fn code_cache(&self) -> PathBuf {
        self.scratch.path().join("compiled")
    }

    /// Default settings for a host in this process. Another binary compiles for it.
    pub fn config(&self, plugins: &Path) -> anyhow::Result<Config> {
        let flags = vec![
            format!("plugins={}", plugins.display()),
            format!("compile.worker={}", self.binaries[0].display()),
            format!("compile.cache={}", self.code_cache().display()),
        ];
        Ok(Config::load(&Sources { file: None, environment: Vec::new(), flags })?)
    }
}

fn plugin_in(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let file = folder.join(name).with_extension("wasm");
    anyhow::ensure!(file.is_file(), "there is no {}; `make plugins` builds it", file.display());
    Ok(file)
}

/// A database of a benchmark.
pub struct Database {
    /// Its parsed address, for this process.
    pub db: Db,
    /// Its address as text, for other processes.
    pub address: String,
    /// A session for work that is not measured.
    pub session: Session,
}

impl Database {
    /// The number of events.
    pub async fn events(&self) -> anyhow::Result<f64> {
        Ok(self.session.query_one("select count(*) from sandmill.events", &[]).await?.get::<_, i64>(0) as f64)
    }

    /// Undoes all work of processors, and makes the server write all dirty pages.
    pub async fn reset(&self) -> anyhow::Result<()> {
        let collections = self
            .session
            .query("select format('sandmill_documents.c%s_%s', number, generation) from sandmill.collections", &[])
            .await?;
        for row in collections {
            self.session.batch_execute(&format!("truncate {}", row.get::<_, &str>(0))).await?;
        }
        self.session.batch_execute("delete from sandmill.generations").await?;
        self.session.batch_execute("checkpoint").await.context("checkpoint")?;
        self.session.batch_execute("select public.pg_stat_statements_reset()").await?;
        Ok(())
    }

    /// A hash over the contents of a collection.
    pub async fn fingerprint(&self, collection: &str) -> anyhow::Result<String> {
        let sql = format!(
            "select count(*) || ' documents, ' || coalesce(sum(hashtextextended(_partition || ' ' || _id || ' ' || (data - '_version')::text, 0)::numeric), 0)
             from {}",
            view(collection)
        );
        Ok(self.session.query_one(&sql, &[]).await?.get(0))
    }

    /// The number of statements since the reset, and the number of pages read from a backlog.
    /// Excluded are statements that begin and end transactions or configure a session, and polls of
    /// the snapshot, whose number depends on time.
    pub async fn statements(&self) -> anyhow::Result<(f64, f64)> {
        let sql = "select coalesce(sum(calls), 0)::float8,
                     coalesce(sum(calls) filter (where query like '%Reads a page of a large difference along%'), 0)::float8
                   from public.pg_stat_statements s join pg_database d on d.oid = s.dbid
                   where d.datname = current_database() and query <> 'select pg_current_snapshot()::text' and query !~* '^(begin|commit|rollback|set|checkpoint|truncate|start)'";
        let row = self.session.query_one(sql, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }
}

/// The view of a shared collection.
pub fn view(collection: &str) -> String {
    format!("public.{collection}")
}

/// The longest wait for anything, long enough for slow machines.
const PATIENCE: Duration = Duration::from_secs(300);

/// Polls until a condition holds. Fails after a long wait.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds().await? {
        anyhow::ensure!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
