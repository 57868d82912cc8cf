//! `sandmill run`: the host itself.

use std::{path::PathBuf, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    EXIT_BLOCKED,
    database::connect,
    output::{self, Tone, count},
};
use crate::{
    app::{self, Ended, Until},
    config::{Config, ConfigError},
    db::Db,
    model::text,
};

/// Runs the plugins in a folder
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The folder's NAME.wasm files run for all tenants. SIGTERM or ctrl-c finishes what is under way; a second one ends it at once.
What it logs goes to standard error, and lines that nothing takes are lost and counted; SANDMILL_LOG=warn logs less. `sandmill status` shows how it goes, from anywhere.

Exit codes: 0 told to stop, or caught up; 1 failed, or a plugin was refused; 3 another host works on this database; 4 a lane is blocked \
         (--until-caught-up).

Examples:
  sandmill run --plugins plugins
  sandmill run --plugins plugins --set limits.cpu-ms=500
  sandmill run --plugins plugins --until-caught-up && sandmill documents route_performance --limit 5"
)]
pub(super) struct RunArgs {
    /// The folder with the plugins [default: the setting `plugins`]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// End when everything that was there at the start is handled: 0 if so, 4 if a lane is blocked
    #[arg(long)]
    until_caught_up: bool,
}

pub(super) async fn run(args: RunArgs, mut config: Config, db: &Db) -> anyhow::Result<ExitCode> {
    if let Some(folder) = args.plugins {
        config.plugins = folder;
    }
    if config.plugins.as_os_str().is_empty() {
        let remedy = "give --plugins DIR, or set `plugins` in the settings or SANDMILL_PLUGINS";
        return Err(ConfigError::new("no plugins folder named", remedy).into());
    }
    // A database that is out of reach is told in the words of all commands.
    drop(connect(db, "start").await?);
    let until = if args.until_caught_up { Until::CaughtUp } else { Until::Told };
    let (drain, abort) = signals()?;
    let ended = app::run(&config, db, until, drain, abort).await?;
    Ok(match ended {
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
            output::note(&format!("caught up but for {lanes}; `sandmill resume PROCESSOR` lets {them} try again"));
            ExitCode::from(EXIT_BLOCKED)
        }
    })
}

/// The first signal to end, and the second.
pub(super) fn signals() -> anyhow::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (told, mut times) = tokio::sync::watch::channel(0u32);
    let listen = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.send_modify(|times| *times += 1);
        }
    };
    let mut first = times.clone();
    let drain = async move {
        let _ = first.wait_for(|times| *times >= 1).await;
        tracing::info!("finishing what is under way; a second signal ends it at once");
    };
    // The listener lives as long as somebody waits for the end that is always waited for.
    let abort = async move {
        tokio::select! {
            () = listen => {}
            _ = times.wait_for(|times| *times >= 2) => {}
        }
    };
    Ok((drain, abort))
}
