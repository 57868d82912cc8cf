//! `sandmill dev`: runs plugins during their development.
//!
//! Without a configured database it starts a private PostgreSQL with its data in `.sandmill`. Other
//! commands started in that folder find it. `dev` runs the plugins folder as `run` does, and
//! creates the folder if it is missing. On startup it retries lanes that were blocked when it last
//! ended. It shows the live view on a terminal, and the log otherwise.

mod sources;
mod suggestions;
pub(super) mod workspace;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use suggestions::Suggestions;

use super::{
    live::{Live, Title},
    output, program,
    signals::Signals,
};
use crate::{
    app::{self, Until},
    config::Config,
    db::{
        Db,
        embedded::{Embedded, Options, Shutdown},
        migrate,
    },
    plugins::folder,
    processor::{
        lane_checkpoints,
        status::{self, ProcessorStatus},
    },
    telemetry::Logs,
};

/// The default plugins folder.
const PLUGINS: &str = "plugins";

/// Runs plugins while you develop them, on a private database by default
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill dev --plugins plugins
  sandmill dev --watch-src my-plugin       build the plugin at each save
  sandmill dev --database-url postgresql://me@localhost/shop",
    after_help = "\
Database: without a configured one, `dev` starts a private PostgreSQL. Its data stays in
.sandmill until you remove that folder. While `dev` runs, other commands started in this folder
or below use its database by default.

Events: for each plugin that starts, `dev` prints a command that appends an event which the
plugin handles. The event is taken from events.ndjson in a --watch-src folder, the plugins
folder or this folder, if one of them has a suitable event.

Rebuilding: a rebuilt plugin resumes where it left off, and its blocked lanes are retried. Documents
stay. To build all documents again, stop `dev`, remove .sandmill, and append or import the
events again."
)]
pub(super) struct DevArgs {
    /// The folder with the plugins [default: the setting `plugins`, or else plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Build this plugin's folder into the plugins folder, now and whenever a file in it is saved;
    /// may be repeated
    #[arg(long, value_name = "DIR")]
    watch_src: Vec<PathBuf>,
    /// Keep the private database's data in this folder [default: .sandmill/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Runs the command.
pub(super) async fn run(
    args: DevArgs,
    mut config: Config,
    named: &str,
    logs: &Logs,
    signals: &Signals,
) -> anyhow::Result<ExitCode> {
    ensure!(
        named.is_empty() || args.data.is_none(),
        "--data is for a private database, but --database-url, DATABASE_URL or the settings name another one; remove one of the two"
    );
    if let Some(folder) = args.plugins {
        config.plugins = folder;
    } else if config.plugins.as_os_str().is_empty() {
        config.plugins = PLUGINS.into();
    }
    ensure!(
        !config.plugins.is_file(),
        "{} is a file; pass the folder that contains it with --plugins",
        config.plugins.display()
    );
    for folder in &args.watch_src {
        ensure!(folder.is_dir(), "{} is not a folder; pass a plugin's folder with --watch-src", folder.display());
    }
    let prepared = tokio::select! {
        prepared = prepare(args.data, named) => prepared?,
        () = signals.first() => return Ok(signals.exit_code()),
    };
    let (private, db) = prepared;
    introduce(&config.plugins, private.as_ref())?;

    std::fs::create_dir_all(&config.plugins)
        .with_context(|| format!("create the plugins folder {}", config.plugins.display()))?;
    if folder::scan(&config.plugins)?.files.is_empty() {
        output::print_line(&first_steps(&config.plugins))?;
    }
    if let Some(private) = &private {
        private.lock.publish(&private.server.address())?;
    }
    let builds = args.watch_src.iter().map(|folder| Box::pin(sources::build_on_save(folder, &config.plugins)));
    let mut builds: FuturesUnordered<_> = builds.collect();
    let host = app::run(&config, &db, Until::Stopped, signals.first(), signals.second());
    let mut work = Box::pin(async move {
        tokio::select! {
            ended = host => ended,
            // Builds never end. Without any, this branch is disabled.
            Some(never) = builds.next() => match never {},
        }
    });
    let folders = args.watch_src.iter().map(PathBuf::as_path).chain([config.plugins.as_path(), Path::new("")]);
    let mut suggestions = Suggestions::new(&db, folders);
    let ended = if Live::is_possible() {
        let mut live = Live::start(Title { command: "sandmill dev", lasting: None }, &db, logs).await?;
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                suggestion = suggestions.next() => live.print_above(&suggestion),
                failed = live.run() => match failed {
                    Ok(never) => match never {},
                    Err(error) => break Err(error.into()),
                }
            }
        };
        live.finish().await?;
        ended
    } else {
        loop {
            tokio::select! {
                ended = &mut work => break ended,
                // A closed standard output does not end the host.
                suggestion = suggestions.next() => drop(output::print_line(&suggestion)),
            }
        }
    };
    drop((work, suggestions));
    if let Some(PrivateDatabase { lock, server }) = private {
        // Other commands must not find a server that is about to end.
        drop(lock);
        server.stop(Shutdown::Fast).await?;
    }
    ended.map(|_| ExitCode::SUCCESS)
}

/// Opens the configured database or a private one, and migrates it.
async fn prepare(data: Option<PathBuf>, named: &str) -> anyhow::Result<(Option<PrivateDatabase>, Db)> {
    let private = if named.is_empty() { Some(PrivateDatabase::start(data).await?) } else { None };
    let db = match &private {
        Some(private) => Db::parse(&private.server.address())?,
        None => Db::parse(named)?,
    };
    let mut session = super::database::connect_directly(&db, "dev").await?;
    migrate::migrate(&mut session).await?;
    drop(session);
    if private.is_some() {
        // No other host uses a private database, so all its lanes are this host's.
        retry_blocked(&db).await?;
    }
    Ok((private, db))
}

/// A private server, and the lock of the folder in which other commands find it.
struct PrivateDatabase {
    lock: workspace::FolderLock,
    server: Embedded,
}

impl PrivateDatabase {
    /// Locks the folder, starts the server and publishes its address.
    async fn start(data: Option<PathBuf>) -> anyhow::Result<PrivateDatabase> {
        let lock = workspace::FolderLock::take(Path::new(""))?;
        let data = data.unwrap_or_else(|| lock.data());
        let options = Options { data: Some(data.clone()), durable: true, ..Options::default() };
        let server = Embedded::start(options).await.with_context(|| {
            // If root starts it, the server runs as another user, who cannot enter a home folder.
            let data = data.display();
            format!(
                "keep a private database in {data}; if its server cannot access that folder, pass another one with --data"
            )
        })?;
        output::print_line(&format!(
            "A private PostgreSQL {} is running, with its data in {}.",
            server.version(),
            data.display()
        ))?;
        Ok(PrivateDatabase { lock, server })
    }
}

/// Prints what runs, and commands to try in another terminal.
fn introduce(plugins: &Path, private: Option<&PrivateDatabase>) -> io::Result<()> {
    let program = program();
    output::print_line(&format!("Plugins are loaded from {}, and reloaded when they change.", plugins.display()))?;
    match private {
        Some(private) => {
            output::print_line("\nIn another terminal, in this folder or below:")?;
            output::print_line(&format!("  psql \"{}\"", private.server.address()))?;
        }
        None => output::print_line("\nIn another terminal, with the same database address:")?,
    }
    output::print_line(&format!(
        "  {program} documents COLLECTION\n  \
           {program} status\n"
    ))
}

/// The commands that put a first plugin into an empty folder.
fn first_steps(plugins: &Path) -> String {
    let (program, plugins) = (program(), plugins.display());
    format!(
        "There is no plugin in {plugins} yet. To create one, which is loaded at once:\n  \
           {program} plugin new my-plugin\n  \
           {program} plugin build my-plugin -o {plugins}/\n"
    )
}

/// Retries blocked lanes: a rebuilt plugin was probably fixed. If not, the lanes block again.
async fn retry_blocked(db: &Db) -> anyhow::Result<()> {
    let session = super::database::connect(db, "dev").await?;
    for ProcessorStatus { id, lanes_counted, .. } in status::read(&session, 0).await?.processors {
        if lanes_counted.blocked > 0 {
            let lanes = lane_checkpoints::resume_blocked(&session, &id, |_| {}).await?;
            tracing::info!(processor = id, lanes, "retrying lanes that were blocked before this start");
        }
    }
    Ok(())
}
