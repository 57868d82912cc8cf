//! The command line: arguments → settings → one command → exit code. One file a command.
//!
//! What a command finds out goes to standard output, everything said about the work to standard error. With `--json` a single result is one
//! JSON object, and a list one object a line.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments or settings, 3 another host works on this database, 4 a lane is blocked
//! (`run --until-caught-up`), 5 a version conflict (`append`), 6 something needs a person
//! (`status --check`, `explain --check`), 130 and 143 ended by SIGINT or SIGTERM (`signals`).

mod append;
mod compile_component;
mod completions;
mod config;
mod database;
mod demo;
mod dev;
mod documents;
mod events;
mod explain;
mod help;
mod import;
mod live;
mod migrate;
mod output;
mod plugin;
mod plugins;
mod processors;
mod resume;
mod run;
mod signals;
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

const EXIT_SETTINGS: u8 = 2;
const EXIT_ANOTHER_HOST: u8 = 3;
const EXIT_BLOCKED: u8 = 4;
const EXIT_NEEDS_A_PERSON: u8 = 6;

/// Runs sandboxed WebAssembly event processors over a PostgreSQL event store.
#[derive(Debug, Parser)]
#[command(name = "sandmill", version, max_term_width = 100)]
#[command(after_help = "Start with:
  sandmill plugin new my-plugin                 begins a plugin
  sandmill plugin build my-plugin -o plugins/   makes a component of it
  sandmill dev --plugins plugins                runs it on a private PostgreSQL
or, on a database of yours, named by DATABASE_URL:
  sandmill migrate                              makes the tables
  sandmill run --plugins plugins                runs the plugins
  sandmill status                               shows how they stand
  sandmill tenants                              shows what each tenant uses
  sandmill explain                              says what holds back whatever is behind

`sandmill COMMAND --help` shows examples of a command.

Exit codes:
  0  done
  1  failed; standard error says why and what to do
  2  wrong arguments or settings
  3  another host works on this database (run; with --standby it waits)
  4  a lane is blocked (run --until-caught-up)
  5  a stream is not at the expected version (append)
  6  something needs a person (status --check, explain --check)
  130, 143  ended by Ctrl-C or SIGTERM before it was done; told to stop, run, dev and demo finish what is under way, and a second signal ends them at once

Environment:
  DATABASE_URL     the database
  PG...            what its address leaves out, as for psql: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE, PGDATABASE, PGSSLMODE, PGSSLROOTCERT
  SANDMILL_CONFIG  the settings file
  SANDMILL_...     any setting: SANDMILL_LIMITS_CPU_MS is limits.cpu-ms (`sandmill config print`)
  SANDMILL_LOG     what is logged: off, error, warn, info (default), debug, trace, or PART=LEVEL as in warn,sandmill::guest=debug
                   (how: the setting log.format, text or json)
  NO_COLOR         no colours, as when the output is no terminal")]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings")]
struct Global {
    /// Settings file [default: sandmill.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "SANDMILL_CONFIG")]
    config: Option<PathBuf>,
    /// The database: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=... dbname=...
    /// sslmode=... [default: DATABASE_URL; what is left out comes from PGHOST and so on]
    #[arg(long, global = true, value_name = "ADDRESS")]
    database_url: Option<String>,
    /// A setting, for instance limits.cpu-ms=500; may be given several times
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the plugins in a folder
    Run(run::RunArgs),
    /// Shows how every processor stands
    Status(status::StatusArgs),
    /// Says why a tenant, a processor or anything at all is behind
    Explain(explain::ExplainArgs),
    /// Shows what each tenant uses, and how far it is behind
    Tenants(tenants::TenantsArgs),
    Plugins(plugins::PluginsArgs),
    Processors(processors::ProcessorsArgs),
    /// Lists the documents of a collection
    Documents(documents::DocumentsArgs),
    /// Makes a processor, a tenant of it or a lane wait
    Pause(resume::PauseArgs),
    /// Lets blocked or paused lanes go on
    Resume(resume::ResumeArgs),
    /// Appends an event to a stream
    Append(append::AppendArgs),
    /// Imports events from a file
    Import(import::ImportArgs),
    /// Lists events, or follows them
    Events(events::EventsArgs),
    /// Makes or updates the tables
    Migrate(migrate::MigrateArgs),
    /// Makes, checks and tests plugins
    Plugin(plugin::PluginArgs),
    /// Runs the plugins in a folder while you work on them, on a private database if none is named
    Dev(dev::DevArgs),
    /// Shows a shop's events become documents, live, on a private database
    Demo(demo::DemoArgs),
    /// Shows settings and where they come from
    Config(config::ConfigArgs),
    /// Prints a script that completes commands in a shell
    Completions(completions::CompletionsArgs),
    /// Compiles a component for the host that started this
    #[command(hide = true)]
    CompileComponent(compile_component::CompileComponentArgs),
}

/// Parses the process's arguments, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let matches = help::grouped(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::CompileComponent(args) = &arguments.command {
        // The host that started it ends it.
        return compile_component::run(args);
    }
    let ends_in_order = matches!(arguments.command, Command::Run(_) | Command::Dev(_) | Command::Demo(_));
    signals::attend(ends_in_order, |signals| perform(arguments, &signals))
}

/// Runs the command and says how it ended.
fn perform(arguments: Arguments, signals: &Signals) -> ExitCode {
    let result = telemetry::start().and_then(|logs| dispatch(arguments, &logs, signals));
    let result = result.and_then(|code| Ok(output::finish().map(|()| code)?));
    let code = result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            // The reader of our output has seen enough.
            return ExitCode::SUCCESS;
        }
        if error.is::<Aborted>() {
            output::note("stopped at once; events whose results were not stored are handled again at the next start");
            return signals.exit_code();
        }
        output::say(Tone::Bad, "error:", &in_words(&error));
        exit_code(&error)
    });
    telemetry::flush();
    code
}

/// The error and its causes, each said once: some errors say already what caused them.
fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let database = cause.downcast_ref::<db::Error>();
        let said = database.map_or_else(|| cause.to_string(), db::describe);
        if !text.contains(&said) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&said);
        }
        // Its own causes are in its description.
        if database.is_some() {
            break;
        }
    }
    text
}

/// Arguments that the parser lets pass and that are wrong all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let held = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(LockError::Held { .. } | LockError::Taken { .. })));
    if held {
        ExitCode::from(EXIT_ANOTHER_HOST)
    } else if error.is::<ConfigError>()
        || error.is::<InvalidAddress>()
        || error.is::<InvalidFilter>()
        || error.is::<Misuse>()
    {
        ExitCode::from(EXIT_SETTINGS)
    } else {
        ExitCode::FAILURE
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(arguments: Arguments, logs: &Logs, signals: &Signals) -> anyhow::Result<ExitCode> {
    let Arguments { global, command } = arguments;
    // Neither of these needs a database, and what each needs of settings and a runtime it asks for itself.
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
                Command::Explain(args) => explain::run(args, &db).await,
                Command::Tenants(args) => tenants::run(args, &db).await,
                Command::Plugins(args) => plugins::run(args, &db).await,
                Command::Processors(args) => processors::run(args, &db).await,
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
            // The database rolls back what was not committed.
            () = signals.first() => Ok(signals.exit_code()),
        }
    })
}

impl Global {
    /// The settings, from all of their sources.
    fn settings(&self) -> Result<Config, ConfigError> {
        Ok(self.resolve()?.config)
    }

    /// The settings, and where each comes from. Whatever is said from here on has the format that
    /// they name.
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
            Some(address) => resolved.with_database(address, Origin::Flag("--database-url".into())),
            None => resolved,
        })
    }
}

/// Runs a command's future. Does not wait for what it leaves running.
fn on_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// The database: named by an address or by libpq's variables, or else the private one of
/// `sandmill dev` in this folder or above it.
fn database(named: &str) -> anyhow::Result<Db> {
    let by_variables = ["PGHOST", "PGHOSTADDR", "PGDATABASE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !named.is_empty() || by_variables {
        return Ok(Db::parse(named)?);
    }
    let found = dev::place::find(&std::env::current_dir()?)?.ok_or_else(|| {
        let remedy = "set DATABASE_URL=postgresql://USER:PASSWORD@HOST:PORT/DATABASE, give --database-url, set PGHOST or PGDATABASE as for psql, or start `sandmill dev` in this folder";
        ConfigError::new("no database named", remedy)
    })?;
    Ok(Db::parse(&found)?)
}

/// This program as it was called, for commands to try next.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "sandmill".into(), |name| name.to_string_lossy().into_owned())
}
