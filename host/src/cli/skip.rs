//! `sandmill skip`: sets aside the event that blocks a lane, so that the lane continues.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use super::{
    database::{connect, with_remedy},
    operator, output,
    processors::check_known,
};
use crate::{
    db::Db,
    model::{ids::ProcessorId, text},
    processor::requests::{self, RequestStatus},
};

/// Sets aside the event that blocks a lane
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill skip route-performance --tenant UA
  sandmill skip seats --tenant UA --key flight-1545",
    after_help = "\
The event becomes a dead letter with the reason why the lane stopped, and the lane continues
with the next event. Documents then lack the event's effects until it is handled again
(`sandmill dead-letters retry`). If the lane blocks at a later event, run the command
again.

A running host applies the command within a second; if none runs, it is recorded, and the next
host applies it when it starts: events before the skipped one may have to be handled first.

With --json it prints one object:
  {\"processor\", \"tenant\", \"hostRuns\", \"skipped\": [{\"key\", \"position\", \"class\", \"message\"}]}

Exit codes: 0 requested or recorded; 1 failed, or no lane of the tenant is blocked."
)]
pub(super) struct SkipArgs {
    /// The processor's id, as `sandmill status` shows it; TENANT/ID for a tenant's own processor
    processor: ProcessorId,
    /// The tenant of the blocked lane
    #[arg(long, value_parser = super::append::tenant)]
    tenant: String,
    /// The lane with this partition key, if the processor is not partitioned by tenant
    #[arg(long)]
    key: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(SkipArgs { processor, tenant, key, json }: SkipArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let mut session = connect(db, "skip").await?;
    check_known(&session, &processor).await?;
    let skipped = requests::skip(&mut session, &processor, &tenant, key.as_deref(), &operator::name()).await;
    let (skipped, status) = skipped.map_err(|error| with_remedy(&error))?;
    if skipped.is_empty() {
        bail!(
            "no lane of tenant {tenant} in {processor} is blocked before a known event; `sandmill explain {processor}` shows its state"
        );
    }
    let host_runs = status == RequestStatus::Requested;
    if json {
        let events: Vec<_> = skipped
            .iter()
            .map(|event| {
                json!({
                    "key": &*event.lane.key, "position": event.position, "class": event.reason.class,
                    "message": event.reason.message,
                })
            })
            .collect();
        output::print_json(&json!({
            "processor": processor.as_str(), "tenant": tenant, "hostRuns": host_runs, "skipped": events,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for event in &skipped {
        let (position, reason) = (event.position, text::one_line(&event.reason.to_string()).into_owned());
        let lane = &event.lane;
        output::print_plain(&match host_runs {
            true => {
                format!("requested: the lane of {lane} continues after the event at position {position} ({reason})\n")
            }
            false => format!(
                "recorded: the lane of {lane} will continue after the event at position {position} ({reason}) when a host next runs {processor}; no host runs it now\n"
            ),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
