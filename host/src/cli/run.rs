//! `sandmill run`: the host.

use std::{path::PathBuf, process::ExitCode};

use super::{
    EXIT_BLOCKED,
    database::{connect_directly, wait_for_server},
    output::{self, Tone, count},
    signals::Signals,
};
use crate::{
    admin::{HostMonitor, MonitoringServer},
    app::{self, Ended, OtherHost, Until},
    config::{Config, ConfigError},
    db::Db,
    model::text,
};

const EXAMPLES: &str = "\
Examples:
  sandmill run --plugins plugins
  sandmill run --plugins plugins --listen 127.0.0.1:9464
  sandmill run --plugins plugins --set limits.cpu-ms=500
  sandmill run --plugins plugins --standby
  sandmill run --plugins plugins --until-caught-up && sandmill documents route_performance";

const DETAILS: &str = "\
Plugins: NAME.wasm in the folder runs for all tenants, TENANT/NAME.wasm for that tenant only. A
new or changed file is checked, then loaded while the host runs. `sandmill plugins` shows the
result.

Stopping: SIGTERM or Ctrl-C finishes the work in progress. A second signal ends the host at
once.

Logs go to standard error; SANDMILL_LOG=warn logs less. If nothing reads them, lines are
dropped and counted. --set log.format=json (SANDMILL_LOG_FORMAT=json) writes one JSON object
per line:
  {\"timestamp\", \"level\", \"target\", \"message\", \"fields\"}

Only one host runs on a database. A second one waits 10 s, then exits with code 3. With
--standby it waits until the first one is gone, then takes over. A host that loses its database
to another host, for example after an outage, exits with code 3: let your service manager
restart it with --standby.

Under systemd (Type=notify), the host reports when it is ready, stands by and stops.

Exit codes:
  0  stopped by a signal, or caught up
  1  failed; or, with --until-caught-up, a plugin was rejected
  3  another host is running on this database
  4  a lane is blocked (--until-caught-up)
  130, 143  ended by Ctrl-C or SIGTERM: before the database answered (without --standby), before
            it caught up (--until-caught-up), or by a second signal";

/// Runs the plugins in a folder
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct RunArgs {
    /// The folder with the plugins [default: the setting `plugins`]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Serve /livez, /readyz and /metrics (for Prometheus) at this address [default: the setting
    /// `listen`; if that is empty, serve nothing]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Exit when all events that existed at the start are handled: code 0, or 4 if a lane is
    /// blocked
    #[arg(long)]
    until_caught_up: bool,
    /// Stand by while another host runs on the database, and take over when it is gone. Until then
    /// the database is not changed
    #[arg(long, conflicts_with = "until_caught_up")]
    standby: bool,
}

/// Runs the command.
pub(super) async fn run(args: RunArgs, mut config: Config, db: &Db, signals: &Signals) -> anyhow::Result<ExitCode> {
    if let Some(folder) = args.plugins {
        config.plugins = folder;
    }
    if let Some(address) = args.listen {
        config.listen = address;
    }
    if config.plugins.as_os_str().is_empty() {
        let remedy = "pass --plugins DIR, or set `plugins` in the settings or SANDMILL_PLUGINS";
        return Err(ConfigError::new("no plugins folder is configured", remedy).into());
    }
    let monitor = HostMonitor::new(db.clone(), &config.metrics);
    let server = match config.listen.as_str() {
        "" => None,
        address => Some(MonitoringServer::start(address, monitor.clone()).await?),
    };
    if let Some(server) = &server {
        tracing::info!(address = %server.address(), "serving /livez, /readyz and /metrics");
    }
    let reach = async {
        match args.until_caught_up {
            true => connect_directly(db, "start").await.map(drop),
            false => wait_for_server(db).await,
        }
    };
    tokio::select! {
        reached = reach => reached?,
        // A standby host that is stopped while it waits has done its job.
        () = signals.first() => return Ok(if args.standby { ExitCode::SUCCESS } else { signals.exit_code() }),
    }
    let drain = async {
        signals.first().await;
        monitor.stop();
        tracing::info!("finishing the work in progress; a second signal ends the host at once");
    };
    let (until, other_host) = match (args.until_caught_up, args.standby) {
        (true, _) => (Until::CaughtUp, OtherHost::GiveUp),
        (false, true) => (Until::Stopped, OtherHost::StandBy),
        (false, false) => (Until::Stopped, OtherHost::GiveUp),
    };
    let ended = app::run_watched(&config, db, until, other_host, drain, signals.second(), &monitor).await?;
    drop(server);
    Ok(match ended {
        Ended::Drained if args.until_caught_up => {
            output::note("ended by a signal before it caught up");
            signals.exit_code()
        }
        Ended::Drained | Ended::CaughtUp { rejected: 0 } => ExitCode::SUCCESS,
        Ended::CaughtUp { rejected } => {
            let (plugins, were) = (count(rejected as u64, "plugin"), if rejected == 1 { "was" } else { "were" });
            output::note(&format!("caught up, but {plugins} {were} rejected; the log above says why"));
            ExitCode::FAILURE
        }
        Ended::Blocked(lanes) => {
            for blocked in lanes.iter() {
                let lane = blocked.lane.as_ref().map_or_else(|| "all lanes".into(), |lane| lane.to_string());
                let blocked = format!("processor {}, {lane}: {}", blocked.processor, blocked.reason);
                output::message(Tone::Bad, "blocked:", &text::one_line(&blocked));
            }
            let more = lanes.len().saturating_sub(lanes.iter().len());
            if more > 0 {
                output::note(&format!("and {more} more; `sandmill status` counts them per processor"));
            }
            let (lanes, them) =
                (count(lanes.len() as u64, "blocked lane"), if lanes.len() == 1 { "it" } else { "them" });
            output::note(&format!("caught up except for {lanes}; retry {them} with `sandmill resume PROCESSOR`"));
            ExitCode::from(EXIT_BLOCKED)
        }
    })
}
