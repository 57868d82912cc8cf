//! `sandmill dead-letters retry` and `discard`: ask for dead letters to be handled again, or
//! deleted.

use std::{
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{
    database::{connect, with_remedy},
    operator,
    output::{self, count},
    processors::check_known,
};
use crate::{
    db::{Db, Error, Session},
    model::ids::ProcessorId,
    processor::{
        dead_letters::LetterFilter,
        requests::{self, LetterAction, LetterProgress, LetterSelection, RequestStatus},
    },
};

/// Time between two reads of the progress.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Time without any progress after which the command stops waiting. 60 s: a lane that is paused or
/// retries may take any time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which letters.
#[derive(Debug, clap::Args)]
pub(super) struct SelectionArgs {
    /// The processor's id, as `sandmill status` shows it; TENANT/ID for a tenant's own processor
    pub(super) processor: ProcessorId,
    /// Only the letter of the event at this position
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(super) position: Option<i64>,
    /// Only letters of this tenant
    #[arg(long, value_parser = super::append::tenant)]
    pub(super) tenant: Option<String>,
    /// Only letters of this class, such as trap or plugin:invalid-data
    #[arg(long)]
    pub(super) class: Option<String>,
    /// Only letters that were last set aside at this time or later: RFC 3339, or a duration before
    /// now, such as 90s, 30min, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = super::since::parse)]
    pub(super) since: Option<SystemTime>,
    /// All letters of the processor
    #[arg(long, conflicts_with_all = ["position", "tenant", "class", "since"])]
    pub(super) all: bool,
}

impl SelectionArgs {
    /// The selection. Fails if nothing selects letters: all of them require `--all`.
    pub(super) fn selection(&self, verb: &str) -> anyhow::Result<LetterSelection> {
        let SelectionArgs { processor, position, tenant, class, since, all } = self;
        let selects = position.is_some() || tenant.is_some() || class.is_some() || since.is_some() || *all;
        if !selects {
            return Err(super::UsageError(format!(
                "name a position, a filter or --all, for example `sandmill dead-letters {verb} {processor} --all`"
            ))
            .into());
        }
        let (tenant, class, since) = (tenant.clone(), class.clone(), *since);
        let filter = LetterFilter { processor: None, tenant, class, since };
        Ok(LetterSelection { position: *position, filter })
    }
}

/// How to wait and report.
#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// Do not wait for the host
    #[arg(long)]
    pub(super) detach: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Deletes dead letters, which then count as discarded
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill dead-letters discard route-performance 1545
  sandmill dead-letters discard route-performance --class plugin:odd-data --yes",
    after_help = "\
A running host deletes them, usually within a second; letters of a paused lane wait. Without one,
the command deletes them itself. The
events stay in the event store.

With --json it prints one object. \"by\" is \"host\" or \"command\":
  {\"processor\", \"requested\", \"discarded\", \"pending\", \"by\"}

Exit codes: 0 discarded, or requested with --detach; 1 failed, there are no such letters, or some
are still pending."
)]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Confirm that more than one letter is deleted
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RetriedJson<'a> {
    processor: &'a str,
    requested: usize,
    handled: u64,
    failed_again: u64,
    pending: u64,
    host_runs: bool,
}

#[derive(Serialize)]
struct DiscardedJson<'a> {
    processor: &'a str,
    requested: usize,
    discarded: u64,
    pending: u64,
    by: &'static str,
}

/// Asks for letters to be handled again, and waits for the host.
pub(super) async fn retry(selection: SelectionArgs, report: ReportArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let wanted = selection.selection("retry")?;
    let processor = &selection.processor;
    let mut session = connect(db, "dead-letters").await?;
    check_known(&session, processor).await?;
    let requested = requests::letters(&mut session, processor, &wanted, LetterAction::Retry, &operator::name()).await;
    let (positions, status) = requested.map_err(|error| with_remedy(&error))?;
    if positions.is_empty() {
        return none(processor, &selection);
    }
    let waits = status == RequestStatus::Requested && !report.detach;
    let progress = if waits {
        wait(&session, processor, &positions, "handled").await.map_err(|error| with_remedy(&error))?
    } else {
        LetterProgress { pending: positions.len() as u64, kept: 0 }
    };
    let LetterProgress { pending, kept: failed_again } = progress;
    let handled = positions.len() as u64 - pending - failed_again;
    if report.json {
        output::print_json(&RetriedJson {
            processor: processor.as_str(),
            requested: positions.len(),
            handled,
            failed_again,
            pending,
            host_runs: status == RequestStatus::Requested,
        })?;
    } else {
        output::print_plain(&match (status, report.detach) {
            (RequestStatus::Recorded | RequestStatus::Done, _) => format!(
                "recorded: {} of {processor} will be handled again when a host next runs it; no host runs it now\n",
                count(positions.len() as u64, "dead letter")
            ),
            (RequestStatus::Requested, true) => format!(
                "requested: the host handles {} of {processor} again\n",
                count(positions.len() as u64, "dead letter")
            ),
            (RequestStatus::Requested, false) => {
                let mut text = format!("{} handled again", count(handled, "dead letter"));
                if failed_again > 0 {
                    text += &format!("; {failed_again} failed again and stayed");
                }
                text + &still_pending(pending, processor) + "\n"
            }
        })?;
    }
    Ok(if waits && (pending > 0 || failed_again > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs `sandmill dead-letters discard`.
pub(super) async fn discard(args: DiscardArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let DiscardArgs { selection, report, yes } = args;
    let wanted = selection.selection("discard")?;
    if selection.position.is_none() && !yes {
        return Err(super::UsageError(
            "discarded letters cannot be handled again; to discard all that match, add --yes".into(),
        )
        .into());
    }
    let processor = &selection.processor;
    let mut session = connect(db, "dead-letters").await?;
    check_known(&session, processor).await?;
    let requested = requests::letters(&mut session, processor, &wanted, LetterAction::Discard, &operator::name()).await;
    let (positions, status) = requested.map_err(|error| with_remedy(&error))?;
    if positions.is_empty() {
        return none(processor, &selection);
    }
    let waits = status == RequestStatus::Requested && !report.detach;
    let pending = match (status, waits) {
        (RequestStatus::Done, _) => 0,
        (_, false) => positions.len() as u64,
        (_, true) => {
            let progress = wait(&session, processor, &positions, "discarded").await;
            progress.map_err(|error| with_remedy(&error))?.pending
        }
    };
    let discarded = positions.len() as u64 - pending;
    if report.json {
        let by = if status == RequestStatus::Done { "command" } else { "host" };
        let requested = positions.len();
        output::print_json(&DiscardedJson { processor: processor.as_str(), requested, discarded, pending, by })?;
    } else if status == RequestStatus::Requested && report.detach {
        let letters = count(positions.len() as u64, "dead letter");
        output::print_plain(&format!("requested: the host discards {letters} of {processor}\n"))?;
    } else {
        let letters = count(discarded, "dead letter");
        output::print_plain(&format!("discarded {letters} of {processor}{}\n", still_pending(pending, processor)))?;
    }
    Ok(if waits && pending > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn still_pending(pending: u64, processor: &ProcessorId) -> String {
    match pending {
        0 => String::new(),
        n => format!(
            "; still pending: {n}. Their lanes may be paused or retrying: `sandmill status` and `sandmill explain {processor}` show why"
        ),
    }
}

/// The answer if no letter was selected.
fn none(processor: &ProcessorId, selection: &SelectionArgs) -> anyhow::Result<ExitCode> {
    match selection.position {
        Some(position) => bail!(
            "{processor} has no dead letter at position {position}, or the host works on it already; `sandmill dead-letters list --processor {processor}` lists those that it has"
        ),
        None => bail!("{processor} has no such dead letters, or the host works on all of them already"),
    }
}

/// Waits until no request about the letters is pending, or nothing has moved for a while. Shows a
/// bar on a terminal.
async fn wait(
    session: &Session,
    processor: &ProcessorId,
    positions: &[i64],
    done: &'static str,
) -> Result<LetterProgress, Error> {
    let bar = bar(positions.len() as u64, done);
    let (mut last, mut waited) = (LetterProgress::default(), Duration::ZERO);
    loop {
        let progress = requests::letter_progress(session, processor, positions).await?;
        bar.set_position(positions.len() as u64 - progress.pending);
        waited = if progress == last { waited + POLL_INTERVAL } else { Duration::ZERO };
        if progress.pending == 0 || waited >= PATIENCE {
            bar.finish_and_clear();
            return Ok(progress);
        }
        last = progress;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A progress bar in letters; hidden if standard error is no terminal.
fn bar(letters: u64, done: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(letters), ProgressDrawTarget::hidden());
    }
    // The template is a constant. An invalid one falls back to the default style.
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} {msg}, {eta} left");
    let bar = ProgressBar::new(letters).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(done);
    bar
}
