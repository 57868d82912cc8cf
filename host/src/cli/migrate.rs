//! `sandmill migrate`: makes the tables, chooses the order that the store keeps, and takes over a store from another cluster.

use std::{process::ExitCode, sync::OnceLock};

use serde_json::{Value, json};

use super::{
    database::{connect, explain},
    output::{self, count},
    signals::Signals,
};
use crate::{
    db::{Canceller, Db, migrate::migrate},
    store::{
        Ordering,
        anchor::{self, AnchorError},
        set_ordering,
    },
};

const EXAMPLES: &str = "\
Examples:
  sandmill migrate
  sandmill migrate --ordering tenant
  sandmill migrate --reanchor

It may be repeated at any time: what is there already stays.";

/// Makes or updates the tables in the database
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MigrateArgs {
    /// Also set which appends follow each other: those of a `stream` (the default of a new store), or all of a `tenant`, so that
    /// projections that fold several streams see one order, at one commit at a time for each tenant
    #[arg(long, value_name = "stream|tenant")]
    ordering: Option<Ordering>,
    /// Take over a store that was restored from a dump or moved to another cluster: give events and cursors numbers of this one. Rewrites all
    /// events in one transaction; no host may run, and applications should not append between the restore and this
    #[arg(long)]
    reanchor: bool,
    /// Print one JSON object: {"applied": [name], "reanchored": {"events", "places"}, "ordering": {"before", "now"}}; null for what was not asked
    /// for or needed
    #[arg(long)]
    json: bool,
}

/// Runs the command, unless a signal comes. What it waits for then is cancelled: everybody else
/// waits behind a migration that waits for a lock.
pub(super) async fn run(args: MigrateArgs, db: &Db, signals: &Signals) -> anyhow::Result<ExitCode> {
    let under_way = OnceLock::new();
    tokio::select! {
        done = work(args, db, &under_way) => done,
        () = signals.first() => {
            if let Some(canceller) = under_way.get() {
                canceller.cancel().await;
            }
            Ok(signals.exit_code())
        }
    }
}

async fn work(args: MigrateArgs, db: &Db, under_way: &OnceLock<Canceller>) -> anyhow::Result<ExitCode> {
    // People are told of each step when it is done, for a later one may fail or wait; machines of all at the end.
    let tell = |line: String| if args.json { Ok(()) } else { output::print(&(line + "\n")) };
    let (mut reanchored, mut ordered) = (Value::Null, Value::Null);
    let mut session = connect(db, "migrate").await?;
    under_way.get_or_init(|| session.canceller());
    let applied = migrate(&mut session).await?;
    for name in &applied.names {
        tell(format!("applied {name}"))?;
    }
    if applied.names.is_empty() {
        tell("the tables are up to date".into())?;
    }
    if args.reanchor {
        match anchor::check(&session).await {
            Ok(()) => tell("the store belongs to this cluster; there is nothing to re-anchor".into())?,
            Err(AnchorError::Database(error)) => return Err(explain(&error)),
            Err(_) => {
                let done = anchor::reanchor(&mut session).await?;
                let (events, places) = (done.events, done.places);
                reanchored = json!({ "events": events, "places": places });
                let events = count(events, "event");
                tell(format!("re-anchored {events} for {places} different places of processors and lanes"))?;
            }
        }
    }
    if let Some(ordering) = args.ordering {
        let before = set_ordering(&mut session, ordering).await.map_err(|error| {
            explain(&error)
                .context("change the ordering; it waits for every transaction that has appended and has not ended")
        })?;
        ordered = json!({ "before": before.to_string(), "now": ordering.to_string() });
        tell(match before == ordering {
            true => format!("the store is ordered by {ordering} already"),
            false => format!("the store is now ordered by {ordering}, before by {before}"),
        })?;
    }
    if args.json {
        output::print_json(&json!({ "applied": applied.names, "reanchored": reanchored, "ordering": ordered }))?;
    }
    Ok(ExitCode::SUCCESS)
}
