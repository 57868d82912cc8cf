//! `sandmill dev`: plugins at work while somebody writes them.
//!
//! Without a database named it starts a private PostgreSQL whose data stay in `.sandmill`, and other commands started in that folder find it. It
//! runs what is in the plugins folder as `run` does, makes that folder where there is none yet, and lets lanes try again that were blocked when it ended. On a
//! terminal it shows the live view, elsewhere the log.

pub(super) mod place;
mod sources;
mod suggestions;

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

/// Where plugins are if nobody says otherwise.
const PLUGINS: &str = "plugins";

/// Runs the plugins in a folder while you work on them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "While it runs, other commands started in this folder or below it use its database if they name none. The data of a private \
         database stay in .sandmill until you remove that folder.

For each plugin that starts, it prints a command that appends an event which the plugin handles: one of events.ndjson beside the plugin, \
if that has one.

A plugin that is built again resumes where it was, and lanes that it had blocked try again. Documents that it has made stay; to \
make all of them again, end this, remove .sandmill, and append or import the events again.

Examples:
  sandmill dev --plugins plugins
  sandmill dev --watch-src my-plugin"
)]
pub(super) struct DevArgs {
    /// The folder with the plugins [default: the setting `plugins`, or else plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// A plugin's folder to build into the plugins folder, at once and whenever something in it is saved
    #[arg(long, value_name = "DIR")]
    watch_src: Vec<PathBuf>,
    /// Where the private database keeps its data [default: .sandmill/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) async fn run(
    args: DevArgs,
    mut config: Config,
    named: &str,
    logs: &Logs,
    signals: &Signals,
) -> anyhow::Result<ExitCode> {
    ensure!(
        named.is_empty() || args.data.is_none(),
        "--data is for a private database, and another one is named by --database-url, DATABASE_URL or the settings; leave one of the two out"
    );
    if let Some(folder) = args.plugins {
        config.plugins = folder;
    } else if config.plugins.as_os_str().is_empty() {
        config.plugins = PLUGINS.into();
    }
    ensure!(
        !config.plugins.is_file(),
        "{} is a file; name the folder that it lies in with --plugins",
        config.plugins.display()
    );
    for folder in &args.watch_src {
        ensure!(folder.is_dir(), "{} is no folder; name a plugin's with --watch-src", folder.display());
    }
    let prepared = tokio::select! {
        prepared = prepare(args.data, named) => prepared?,
        () = signals.first() => return Ok(signals.exit_code()),
    };
    let (private, db) = prepared;
    introduce(&config.plugins, private.as_ref())?;

    std::fs::create_dir_all(&config.plugins)
        .with_context(|| format!("make the plugins folder {}", config.plugins.display()))?;
    if folder::scan(&config.plugins)?.files.is_empty() {
        output::tell(&nothing_there(&config.plugins))?;
    }
    if let Some(private) = &private {
        private.claim.publish(&private.server.address())?;
    }
    let builds = args.watch_src.iter().map(|folder| Box::pin(sources::build_on_save(folder, &config.plugins)));
    let mut builds: FuturesUnordered<_> = builds.collect();
    let host = app::run(&config, &db, Until::Stopped, signals.first(), signals.second());
    let mut work = Box::pin(async move {
        tokio::select! {
            ended = host => ended,
            // None of them ends; without any there is nothing to wait for.
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
                // A closed standard output does not end the work.
                suggestion = suggestions.next() => drop(output::tell(&suggestion)),
            }
        }
    };
    drop((work, suggestions));
    if let Some(Private { claim, server }) = private {
        // Nobody should find a server that is about to end.
        drop(claim);
        server.stop(Shutdown::Fast).await?;
    }
    ended.map(|_| ExitCode::SUCCESS)
}

/// Opens the database, or a private one if none is named, and migrates it.
async fn prepare(data: Option<PathBuf>, named: &str) -> anyhow::Result<(Option<Private>, Db)> {
    let private = if named.is_empty() { Some(Private::start(data).await?) } else { None };
    let db = match &private {
        Some(private) => Db::parse(&private.server.address())?,
        None => Db::parse(named)?,
    };
    let mut session = super::database::connect_directly(&db, "dev").await?;
    migrate::migrate(&mut session).await?;
    drop(session);
    if private.is_some() {
        // No other host uses this database, so all lanes in it are this host's.
        try_again(&db).await?;
    }
    Ok((private, db))
}

/// A server of our own, and the folder that says so.
struct Private {
    claim: place::Claim,
    server: Embedded,
}

impl Private {
    async fn start(data: Option<PathBuf>) -> anyhow::Result<Private> {
        let claim = place::Claim::take(Path::new(""))?;
        let data = data.unwrap_or_else(|| claim.data());
        let options = Options { data: Some(data.clone()), durable: true, ..Options::default() };
        let server = Embedded::start(options).await.with_context(|| {
            // Started by root, the server is another user, to whom a home folder is closed.
            let data = data.display();
            format!(
                "keep a private database in {data}; if its server may not enter there, name another folder with --data"
            )
        })?;
        output::tell(&format!(
            "A private PostgreSQL {} is running. Its data is kept in {}.",
            server.version(),
            data.display()
        ))?;
        Ok(Private { claim, server })
    }
}

/// Says what runs, and what to type in another terminal.
fn introduce(plugins: &Path, private: Option<&Private>) -> io::Result<()> {
    let program = program();
    output::tell(&format!(
        "Plugins are loaded from {}, and reloaded when something changes there.",
        plugins.display()
    ))?;
    match private {
        Some(private) => {
            output::tell("\nIn another terminal, in this folder or below it:")?;
            output::tell(&format!("  psql \"{}\"", private.server.address()))?;
        }
        None => output::tell("\nIn another terminal, with the same database address:")?,
    }
    output::tell(&format!(
        "  {program} documents COLLECTION\n  \
           {program} status\n"
    ))
}

/// What to do about a folder without plugins.
fn nothing_there(plugins: &Path) -> String {
    let (program, plugins) = (program(), plugins.display());
    format!(
        "There is no plugin in {plugins} yet; one that you put there is loaded at once:\n  \
           {program} plugin new my-plugin\n  \
           {program} plugin build my-plugin -o {plugins}/\n"
    )
}

/// Lets blocked lanes try again: a rebuilt plugin was probably fixed, and one that was not blocks
/// them again.
async fn try_again(db: &Db) -> anyhow::Result<()> {
    let session = super::database::connect(db, "dev").await?;
    for ProcessorStatus { id, lanes_counted, .. } in status::read(&session, 0).await?.processors {
        if lanes_counted.blocked > 0 {
            let lanes = lane_checkpoints::resume_blocked(&session, &id, |_| {}).await?;
            tracing::info!(processor = id, lanes, "lanes that were blocked before this start try again");
        }
    }
    Ok(())
}
