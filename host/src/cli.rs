//! The command line: parses arguments and settings, runs one command, and maps its result to an
//! exit code. Each command has a file of its own.
//!
//! Results go to standard output; messages about the work go to standard error. With `--json`, a
//! command prints one JSON object, or one object per line for a list.
//!
//! `AFTER_HELP` documents the exit codes.

mod append;
mod audit;
mod capsule;
mod changes;
mod compile_component;
mod completions;
mod config;
mod database;
mod dead_letters;
mod demo;
mod dev;
mod documents;
mod events;
mod explain;
mod help;
mod import;
mod letter_requests;
mod live;
mod migrate;
mod operator;
mod output;
mod parked;
mod plugin;
mod plugins;
mod processors;
mod resume;
mod run;
mod signals;
mod since;
mod skip;
mod status;
mod table;
mod tenants;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{output::Tone, signals::Signals, table::table};
use crate::{
    app::Aborted,
    cluster::host_lock::LockError,
    config::{Config, ConfigError, Origin, Resolved, Sources},
    db::{self, Db, InvalidAddress},
    telemetry::{self, InvalidFilter, Logs},
};

const EXIT_INVALID_USAGE: u8 = 2;
const EXIT_ANOTHER_HOST: u8 = 3;
const EXIT_BLOCKED: u8 = 4;
const EXIT_NEEDS_ATTENTION: u8 = 6;

/// The examples at the top of `sandmill --help`.
const START: &str = "\
Write a plugin and run it on a private PostgreSQL:
  sandmill plugin new my-plugin                 create a plugin
  sandmill plugin build my-plugin -o plugins/   build plugins/my-plugin.wasm
  sandmill dev --plugins plugins                run it; reload it when it is rebuilt

Run plugins on your own database, named by DATABASE_URL:
  sandmill migrate                              create the tables
  sandmill run --plugins plugins                run the plugins
  sandmill status                               show each processor's state and lag
  sandmill explain                              show why something is behind";

const AFTER_HELP: &str = "\
`sandmill COMMAND --help` shows examples and details of a command.

Exit codes:
  0  done
  1  failed; standard error says why and what to do
  2  invalid arguments or settings
  3  another host is running on this database (run, dev, migrate --reanchor)
  4  a lane is blocked (run --until-caught-up)
  5  the stream is not at the expected version (append)
  6  something needs attention (status --check, explain --check)
  130, 143  ended by Ctrl-C or SIGTERM before it was done

On Ctrl-C or SIGTERM, run, dev and demo first finish the work in progress. A second signal ends
them at once.

Environment:
  DATABASE_URL     the address of the database
  PG...            connection options that the address omits, as for psql: PGHOST, PGPORT, PGUSER,
                   PGPASSWORD, PGPASSFILE, PGDATABASE, PGSSLMODE, PGSSLROOTCERT
  SANDMILL_CONFIG  the settings file
  SANDMILL_...     any setting: SANDMILL_LIMITS_CPU_MS sets limits.cpu-ms; `sandmill config print`
                   lists all settings
  SANDMILL_LOG     the log level: off, error, warn, info (default), debug or trace; PART=LEVEL for
                   one part, as in warn,sandmill::guest=debug
  SANDMILL_OPERATOR
                   who runs the command, for `sandmill audit` [default: the user and the host]
  NO_COLOR         disables colours; they are off anyway when the output is not a terminal";

/// Runs sandboxed WebAssembly event processors over a PostgreSQL event store.
#[derive(Debug, Parser)]
#[command(name = "sandmill", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command accepts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Read settings from this file [default: sandmill.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "SANDMILL_CONFIG")]
    config: Option<PathBuf>,
    /// Use this database: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=...
    /// dbname=... sslmode=... [default: DATABASE_URL; libpq's PGHOST etc. fill in what is omitted]
    #[arg(long, global = true, value_name = "ADDRESS")]
    database_url: Option<String>,
    /// Override a setting, for example limits.cpu-ms=500; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Status(status::StatusArgs),
    Explain(explain::ExplainArgs),
    Tenants(tenants::TenantsArgs),
    Plugins(plugins::PluginsArgs),
    Processors(processors::ProcessorsArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Audit(audit::AuditArgs),
    Parked(parked::ParkedArgs),
    Skip(skip::SkipArgs),
    Documents(documents::DocumentsArgs),
    Pause(resume::PauseArgs),
    Resume(resume::ResumeArgs),
    Append(append::AppendArgs),
    Import(import::ImportArgs),
    Events(events::EventsArgs),
    Migrate(migrate::MigrateArgs),
    Plugin(plugin::PluginArgs),
    Dev(dev::DevArgs),
    Demo(demo::DemoArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    CompileComponent(compile_component::CompileComponentArgs),
}

/// Parses the process's arguments, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    let matches = help::with_layout(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::CompileComponent(args) = &arguments.command {
        // No signal handling: the host that started this process ends it.
        return compile_component::run(args);
    }
    let is_graceful = matches!(arguments.command, Command::Run(_) | Command::Dev(_) | Command::Demo(_));
    signals::run_interruptible(is_graceful, |signals| perform(arguments, &signals))
}

/// Runs a command, reports its error, and returns its exit code.
fn perform(arguments: Arguments, signals: &Signals) -> ExitCode {
    let result = telemetry::start().and_then(|logs| dispatch(arguments, &logs, signals));
    let result = result.and_then(|code| Ok(output::finish().map(|()| code)?));
    let code = result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            // The reader, such as `head`, wants no more output.
            return ExitCode::SUCCESS;
        }
        if error.is::<Aborted>() {
            output::note("stopped at once; events whose results were not stored are handled again at the next start");
            return signals.exit_code();
        }
        output::message(Tone::Bad, "error:", &error_text(&error));
        exit_code(&error)
    });
    telemetry::flush();
    code
}

/// An error with its causes. Leaves out causes whose text an outer error already includes.
fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let database = cause.downcast_ref::<db::Error>();
        let part = database.map_or_else(|| cause.to_string(), db::describe);
        if !text.contains(&part) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&part);
        }
        // `db::describe` includes the causes of a database error.
        if database.is_some() {
            break;
        }
    }
    text
}

/// A usage error that the argument parser does not detect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// The exit code of a command that failed.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_another_host = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(LockError::Held { .. } | LockError::Taken { .. })));
    if is_another_host {
        ExitCode::from(EXIT_ANOTHER_HOST)
    } else if error.is::<ConfigError>()
        || error.is::<InvalidAddress>()
        || error.is::<InvalidFilter>()
        || error.is::<UsageError>()
    {
        ExitCode::from(EXIT_INVALID_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// Whether a command failed because the reader of its output is gone.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Runs the command with the settings, the runtime and the database that it needs.
fn dispatch(arguments: Arguments, logs: &Logs, signals: &Signals) -> anyhow::Result<ExitCode> {
    let Arguments { global, command } = arguments;
    // These commands use no database. Each reads settings and starts a runtime only as needed.
    match command {
        Command::Plugin(args) => return plugin::run(args, &global, signals),
        Command::Config(args) => return config::run(args, &global),
        Command::Completions(args) => return completions::run(&args),
        _ => {}
    }
    let config = global.settings()?;
    on_runtime(async {
        let named = config.database_url.clone();
        let command = match command {
            Command::Demo(args) => return demo::run(args, config, logs, signals).await,
            Command::Dev(args) => return dev::run(args, config, &named, logs, signals).await,
            command => command,
        };
        let db = database(&named)?;
        let command = match command {
            Command::Run(args) => return run::run(args, config, &db, signals).await,
            Command::Migrate(args) => return migrate::run(args, &db, signals).await,
            command => command,
        };
        let done = async {
            match command {
                Command::Status(args) => status::run(args, &db).await,
                Command::Explain(args) => explain::run(args, config, &db).await,
                Command::Tenants(args) => tenants::run(args, &db).await,
                Command::Plugins(args) => plugins::run(args, &db).await,
                Command::Processors(args) => processors::run(args, &db).await,
                Command::DeadLetters(args) => dead_letters::run(args, config, &db).await,
                Command::Audit(args) => audit::run(args, &db).await,
                Command::Parked(args) => parked::run(args, &db).await,
                Command::Skip(args) => skip::run(args, &db).await,
                Command::Documents(args) => documents::run(args, &db).await,
                Command::Pause(args) => resume::pause(args, &db).await,
                Command::Resume(args) => resume::run(args, &db).await,
                Command::Append(args) => append::run(args, &db).await,
                Command::Import(args) => import::run(args, &db).await,
                Command::Events(args) => events::run(args, &db).await,
                Command::Run(_)
                | Command::Migrate(_)
                | Command::Plugin(_)
                | Command::Dev(_)
                | Command::Demo(_)
                | Command::Config(_)
                | Command::Completions(_)
                | Command::CompileComponent(_) => Ok(ExitCode::SUCCESS),
            }
        };
        tokio::select! {
            done = done => done,
            // The database rolls back uncommitted work.
            () = signals.first() => Ok(signals.exit_code()),
        }
    })
}

impl Global {
    /// The settings, merged from all sources.
    fn settings(&self) -> Result<Config, ConfigError> {
        Ok(self.resolve()?.config)
    }

    /// The settings, each with its source. Also applies the log format that they name.
    fn resolve(&self) -> Result<Resolved, ConfigError> {
        let resolved = Config::resolve(&Sources {
            file: self.config.as_deref(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            flags: self.set.clone(),
        })?;
        telemetry::use_format(resolved.config.log.format);
        Ok(match &self.database_url {
            Some(address) => resolved.with_database_url(address, Origin::Flag("--database-url".into())),
            None => resolved,
        })
    }
}

/// Runs a command's future on a new runtime, without waiting for tasks that the command leaves
/// behind.
fn on_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// The database of a command: the configured address or libpq's variables. Without them, it is the
/// private database of a `sandmill dev` that runs in this folder or above it.
fn database(named: &str) -> anyhow::Result<Db> {
    let by_variables = ["PGHOST", "PGHOSTADDR", "PGDATABASE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !named.is_empty() || by_variables {
        return Ok(Db::parse(named)?);
    }
    let address = dev::workspace::find(&std::env::current_dir()?)?.ok_or_else(|| {
        let remedy = "set DATABASE_URL=postgresql://USER:PASSWORD@HOST:PORT/DATABASE, pass --database-url, set PGHOST or PGDATABASE as for psql, or start `sandmill dev` in this folder";
        ConfigError::new("no database is configured", remedy)
    })?;
    Ok(Db::parse(&address)?)
}

/// This program's name as it was called, for commands in messages.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "sandmill".into(), |name| name.to_string_lossy().into_owned())
}
