//! `sandmill status`: how every processor stands, as the database tells.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use super::{
    database::{connect, explain},
    table,
};
use crate::{
    db::Db,
    processor::status::{self, Status},
};

/// Shows how every processor stands.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// One JSON object: {"processors":[{"id","plugin","lagEvents","lagSeconds","rate","handled","lanesBehind":[…]}]}
    #[arg(long)]
    json: bool,
    /// Again every second, until interrupted; with --json an object a line
    #[arg(long)]
    watch: bool,
}

/// Between two looks of --watch.
const WATCH: Duration = Duration::from_secs(1);

pub(super) async fn run(args: StatusArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "status").await?;
    loop {
        let status = status::read(&session).await.map_err(|error| explain(&error))?;
        let mut out = std::io::stdout().lock();
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&status)?)?;
        } else {
            if args.watch && out.is_terminal() {
                // Home, and everything below cleared: the table stands still while its numbers change.
                write!(out, "\x1b[H\x1b[J")?;
            }
            write!(out, "{}", show(&status))?;
        }
        out.flush()?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        drop(out);
        tokio::time::sleep(WATCH).await;
    }
}

fn show(status: &Status) -> String {
    if status.processors.is_empty() {
        return "no processor has run on this database yet; start one with `sandmill run --plugins DIR`\n".into();
    }
    let mut rows = vec![
        ["PROCESSOR", "PLUGIN", "LAG", "AGE", "RATE", "HANDLED", "READ", "COMMIT", "HOST", "INSTANCES", "LANES BEHIND"]
            .map(String::from)
            .to_vec(),
    ];
    for p in &status.processors {
        rows.push(vec![
            p.id.clone(),
            p.plugin.clone(),
            p.lag_events.to_string(),
            format!("{:.0} s", p.lag_seconds),
            format!("{:.0}/s", p.rate),
            p.handled.to_string(),
            format!("{:.1} ms", p.measures.read_ms),
            format!("{:.1} ms", p.measures.commit_ms),
            format!("{:.0} MiB", p.measures.host_mib),
            p.measures.instances.to_string(),
            p.lanes_behind.len().to_string(),
        ]);
    }
    let mut text = table(&rows);
    for p in &status.processors {
        if let Some(paused) = &p.paused {
            text.push_str(&format!("{} is paused {paused}; `sandmill resume {}` lets it go on\n", p.id, p.id));
        }
    }
    let behind = status.processors.iter().flat_map(|p| p.lanes_behind.iter().map(move |lane| (p, lane)));
    let mut rows = vec![["PROCESSOR", "TENANT", "KEY", "STATE", "SINCE", "EVENT", "REASON"].map(String::from).to_vec()];
    for (p, lane) in behind {
        rows.push(vec![
            p.id.clone(),
            lane.tenant.clone(),
            lane.key.clone(),
            lane.state.clone(),
            lane.since.clone(),
            lane.event_position.map_or_else(String::new, |position| position.to_string()),
            lane.reason.clone(),
        ]);
    }
    if rows.len() > 1 {
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text
}
