//! `sandmill dead-letters retry`: handles dead letters again, or shows what another version would
//! do with them.

use std::{path::PathBuf, process::ExitCode};

use super::{
    find_letter,
    what_if::{self, WhatIfArgs},
};
use crate::{
    cli::{
        database::connect,
        letter_requests::{self, ReportArgs, SelectionArgs},
        processors::check_known,
    },
    config::Config,
    db::Db,
    processor::dead_letters::LetterFilter,
};

/// Handles the events of dead letters again; with --with, only to see what would happen
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill dead-letters retry route-performance 1545
  sandmill dead-letters retry route-performance --class trap --since 2h
  sandmill dead-letters retry route-performance --all --detach
  sandmill dead-letters retry route-performance --all --with fixed.wasm",
    after_help = "\
The host that runs the processor handles each event with the plugin that runs now, and deletes the
letter if that succeeds. The command waits and shows the progress. Without a running host, the
request is recorded and carried out when a host next runs the processor.

Later events of the same streams have been handled already, so an event's effects are applied out
of order. If that must not happen, let failed events park their stream: `then = \"park-stream\"`.

With --json it prints one object:
  {\"processor\", \"requested\", \"handled\", \"failedAgain\", \"pending\", \"hostRuns\"}

With --with, the file handles the events in this process over the committed documents, and nothing
is written or requested. It needs no running host. It prints for each letter whether the file
handles the event, and which documents would change: at most ten, and at most ten differences of
each. Letters of one lane are handled in the log's order, each over the results of those before.
Settings and limits come from FILE.toml beside the file, or else from the manifest of the plugin in
the plugins folder, with the host's limits (--config).

With --with and --json, each line is an object. \"outcome\" is \"handled\", \"skipped\", \"retried\",
\"failed\", \"ignored\" (the file does not handle such events) or \"unreadable\" (the event). \"was\" is the
failure of the letter. Each difference has a JSON pointer and values, which may be shortened:
  {\"processor\", \"tenant\", \"key\", \"position\", \"eventId\", \"outcome\", \"class\", \"message\",
   \"was\": {\"class\", \"message\"},
   \"changes\": {\"total\", \"first\": [{\"collection\", \"id\", \"change\",
     \"differences\": {\"total\", \"first\": [{\"path\", \"before\", \"after\"}]}}]}}

Exit codes: 0 all were handled, or requested or recorded, or would be handled; 1 failed, there are
no such letters, or some failed again, would not be handled, or are still pending; 2 invalid
arguments or settings."
)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Only show what this component would do; nothing is written
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    with: Option<PathBuf>,
    /// With --with, handle at most this many, those with the highest positions; 0 for all [default:
    /// 100]
    #[arg(long, value_name = "N", requires = "with")]
    limit: Option<u32>,
    /// With --with, look for the manifest in this folder [default: the setting `plugins`]
    #[arg(long, value_name = "DIR", requires = "with")]
    plugins: Option<PathBuf>,
}

/// Letters that a component handles if no limit is given. 100: more than a person reads.
const LETTERS: u32 = 100;

/// Runs the command.
pub(super) async fn run(args: RetryArgs, config: Config, db: &Db) -> anyhow::Result<ExitCode> {
    let RetryArgs { selection, report, with, limit, plugins } = args;
    let Some(file) = with else { return letter_requests::retry(selection, report, db).await };
    let wanted = selection.selection("retry")?;
    let session = connect(db, "dead-letters").await?;
    let processor = selection.processor;
    let filter = LetterFilter { processor: Some(processor.to_string()), ..wanted.filter };
    let letters = match wanted.position {
        Some(position) => {
            let letter = find_letter(&session, &processor, position).await?.letter;
            Some(letter).filter(|letter| what_if::matches(&filter, letter)).into_iter().collect()
        }
        None => {
            check_known(&session, &processor).await?;
            what_if::select(&session, &filter, limit.unwrap_or(LETTERS)).await?
        }
    };
    if letters.is_empty() {
        anyhow::bail!("{}", super::none_found(&filter));
    }
    what_if::run(WhatIfArgs { processor, file, plugins, json: report.json }, letters, config, db, &session).await
}
