//! `sandmill migrate`: makes the tables, chooses the order that the store keeps, and takes over a store from another cluster.

use std::process::ExitCode;

use super::database::{connect, explain};
use crate::{
    db::{Db, migrate::migrate},
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
  sandmill migrate --reanchor";

/// Create or update the tables in the database
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
}

/// Runs the command.
pub(super) async fn run(args: MigrateArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let mut session = connect(db, "migrate").await?;
    let applied = migrate(&mut session).await?;
    for name in &applied.names {
        println!("applied {name}");
    }
    if applied.names.is_empty() {
        println!("the tables are up to date");
    }
    if args.reanchor {
        match anchor::check(&session).await {
            Ok(()) => println!("the store belongs to this cluster; there is nothing to re-anchor"),
            Err(AnchorError::Database(error)) => return Err(explain(&error)),
            Err(_) => {
                let done = anchor::reanchor(&mut session).await?;
                println!(
                    "re-anchored {} events for {} different places of processors and lanes",
                    done.events, done.places
                );
            }
        }
    }
    if let Some(ordering) = args.ordering {
        let before = set_ordering(&mut session, ordering).await.map_err(|error| {
            explain(&error)
                .context("change the ordering; it waits for every transaction that has appended and has not ended")
        })?;
        match before == ordering {
            true => println!("the store is ordered by {ordering} already"),
            false => println!("the store is now ordered by {ordering}, before by {before}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}
