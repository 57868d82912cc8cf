//! `sandmill run`: the host itself.

use std::{path::PathBuf, process::ExitCode};

use super::{
    EXIT_BLOCKED,
    database::{connect_directly, wait_for_server},
    output::{self, Tone, count},
    signals::Signals,
};
use crate::{
    admin::{Listener, Watched},
    app::{self, Ended, OtherHost, Until},
    config::{Config, ConfigError},
    db::Db,
    model::text,
};

/// Runs the plugins in a folder
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The folder's NAME.wasm files run for all tenants. SIGTERM or ctrl-c finishes what is under way; a second one ends it at once.
What it logs goes to standard error, and lines that nothing takes are lost and counted; SANDMILL_LOG=warn logs less, and --set log.format=json (SANDMILL_LOG_FORMAT=json) writes one JSON object a line: {\"timestamp\", \"level\", \"target\", \"message\", \"fields\"}. `sandmill status` shows how it goes, from anywhere.

Under a service manager (NOTIFY_SOCKET, systemd's Type=notify) it reports when it works or stands by, and when it stops.

One host at a time works on a database. A second one waits 10 s and exits with code 3; with --standby it waits until the first is gone, then takes over. A host whose \
         place another one has taken, as after an outage of the database, exits with code 3: have it restarted with --standby.

Exit codes: 0 told to stop, or caught up; 1 failed, or a plugin was refused; 3 another host works on this database; 4 a lane is blocked \
         (--until-caught-up); 130 or 143 ended by ctrl-c or SIGTERM before it was caught up (--until-caught-up), or at once by a second one.

Examples:
  sandmill run --plugins plugins
  sandmill run --plugins plugins --set limits.cpu-ms=500
  sandmill run --plugins plugins --standby
  sandmill run --plugins plugins --until-caught-up && sandmill documents route_performance --limit 5"
)]
pub(super) struct RunArgs {
    /// The folder with the plugins [default: the setting `plugins`]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Serve /livez, /readyz and, for Prometheus, /metrics at this address [default: the setting
    /// `listen`, which is empty]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// End when everything that was there at the start is handled: 0 if so, 4 if a lane is blocked
    #[arg(long)]
    until_caught_up: bool,
    /// Stand by while another host works on the database, and take over when it is gone. Until then
    /// nothing is changed there
    #[arg(long, conflicts_with = "until_caught_up")]
    standby: bool,
}

pub(super) async fn run(args: RunArgs, mut config: Config, db: &Db, signals: &Signals) -> anyhow::Result<ExitCode> {
    if let Some(folder) = args.plugins {
        config.plugins = folder;
    }
    if let Some(address) = args.listen {
        config.listen = address;
    }
    if config.plugins.as_os_str().is_empty() {
        let remedy = "give --plugins DIR, or set `plugins` in the settings or SANDMILL_PLUGINS";
        return Err(ConfigError::new("no plugins folder named", remedy).into());
    }
    let watched = Watched::new(db.clone(), &config.metrics);
    let listener = match config.listen.as_str() {
        "" => None,
        address => Some(Listener::start(address, watched.clone()).await?),
    };
    if let Some(listener) = &listener {
        tracing::info!(address = %listener.address(), "serving /livez, /readyz and /metrics");
    }
    // A database that is out of reach is told in the words of all commands.
    let reach = async {
        match args.until_caught_up {
            true => connect_directly(db, "start").await.map(drop),
            false => wait_for_server(db).await,
        }
    };
    tokio::select! {
        reached = reach => reached?,
        // To wait is what it was started for.
        () = signals.first() => return Ok(if args.standby { ExitCode::SUCCESS } else { signals.exit_code() }),
    }
    let drain = async {
        signals.first().await;
        watched.stop();
        tracing::info!("finishing what is under way; a second signal ends it at once");
    };
    let (until, other_host) = match (args.until_caught_up, args.standby) {
        (true, _) => (Until::CaughtUp, OtherHost::GiveUp),
        (false, true) => (Until::Stopped, OtherHost::StandBy),
        (false, false) => (Until::Stopped, OtherHost::GiveUp),
    };
    let ended = app::run_watched(&config, db, until, other_host, drain, signals.second(), &watched).await?;
    drop(listener);
    Ok(match ended {
        Ended::Drained if args.until_caught_up => {
            output::note("ended by a signal before everything was handled");
            signals.exit_code()
        }
        Ended::Drained | Ended::CaughtUp { refused: 0 } => ExitCode::SUCCESS,
        Ended::CaughtUp { refused } => {
            output::note(&format!("caught up, but {refused} of the plugins were refused; see above"));
            ExitCode::FAILURE
        }
        Ended::Blocked(lanes) => {
            for blocked in lanes.iter() {
                let lane = blocked.lane.as_ref().map_or_else(|| "all of it".into(), |lane| lane.to_string());
                let what = format!("processor {}, {lane}: {}", blocked.processor, blocked.reason);
                output::say(Tone::Bad, "blocked:", &text::one_line(&what));
            }
            let more = lanes.len().saturating_sub(lanes.iter().len());
            if more > 0 {
                output::note(&format!("and {more} more; `sandmill status` counts them by processor"));
            }
            let (lanes, them) =
                (count(lanes.len() as u64, "blocked lane"), if lanes.len() == 1 { "it" } else { "them" });
            output::note(&format!("caught up except for {lanes}; `sandmill resume PROCESSOR` lets {them} try again"));
            ExitCode::from(EXIT_BLOCKED)
        }
    })
}
