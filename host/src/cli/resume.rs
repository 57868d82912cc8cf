//! `sandmill pause` and `sandmill resume`: a person decides what waits.

use std::process::ExitCode;

use serde_json::json;

use super::{
    database::{connect, explain},
    output::{self, count},
};
use crate::{
    db::{Db, Session},
    model::{ids::ProcessorId, text},
    processor::{lane_checkpoints, pauses, status},
    store,
};

/// Lets blocked or paused lanes go on
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running host takes it up within a second; without one, the next to start does. Pauses are lifted as well.

Examples:
  sandmill resume route-performance
  sandmill resume route-performance --tenant UA
  sandmill resume seats --tenant UA --key flight-1545"
)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    what: What,
    /// Print one JSON object: {"processor", "tenant", "key", "pausesLifted", "lanesResumed", "stillPaused"}; the last says who paused the whole
    /// processor, or null
    #[arg(long)]
    json: bool,
}

/// Makes a processor, a tenant of it or a lane wait
#[derive(Debug, clap::Args)]
#[command(after_help = "What is under way ends as it would; nothing is lost, and `sandmill resume` lets it catch up.

Examples:
  sandmill pause route-performance
  sandmill pause route-performance --tenant UA
  sandmill pause seats --tenant UA --key flight-1545")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    what: What,
    /// Print one JSON object: {"processor", "tenant", "key", "changed"}; changed is false if it was paused already
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct What {
    /// The processor, as `sandmill status` names it; a tenant's own is TENANT/ID
    processor: ProcessorId,
    /// Only lanes of this tenant
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only the lane with this key, where lanes are finer than tenants
    #[arg(long, requires = "tenant")]
    key: Option<String>,
}

impl What {
    fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

/// Runs `sandmill resume`.
pub(super) async fn run(ResumeArgs { what, json }: ResumeArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "resume").await?;
    check_known(&session, &what.processor).await?;
    let processor = &what.processor;
    let lifted = pauses::lift(&session, processor.as_str(), what.tenant(), what.key()).await;
    let lifted = lifted.map_err(|error| explain(&error))?;
    let resumed = lane_checkpoints::resume(&session, processor.as_str(), what.tenant(), what.key()).await;
    let resumed = resumed.map_err(|error| explain(&error))?;
    let left = pauses::read(&session, processor).await.map_err(|error| explain(&error))?;
    let whole = left.into_iter().find(|pause| pause.covers_processor()).map(|pause| pause.reason.message);
    if json {
        let What { processor, tenant, key } = &what;
        output::print_json(&json!({
            "processor": processor.as_str(), "tenant": tenant, "key": key,
            "pausesLifted": lifted, "lanesResumed": resumed, "stillPaused": whole.as_deref(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lanes = count(resumed, "lane");
    output::print_plain(&match (lifted, resumed) {
        (0, 0) => format!("no lane of {processor} was waiting\n"),
        (0, _) => format!("resumed {lanes} of {processor}\n"),
        (pauses, _) => format!("lifted {} and resumed {lanes} of {processor}\n", count(pauses, "pause")),
    })?;
    if let Some(whole) = whole {
        let how = format!("`sandmill resume {processor}` lifts that");
        output::print(&format!("the whole of {processor} is still paused ({}); {how}\n", text::one_line(&whole)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `sandmill pause`.
pub(super) async fn pause(PauseArgs { what, json }: PauseArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "pause").await?;
    check_known(&session, &what.processor).await?;
    let changed = pauses::pause(&session, what.processor.as_str(), what.tenant(), what.key()).await;
    let changed = changed.map_err(|error| explain(&error))?;
    let What { processor, tenant, key } = &what;
    if let Some(tenant) = tenant
        && !store::knows_tenant(&session, tenant).await.map_err(|error| explain(&error))?
    {
        output::note(&format!("note: tenant {tenant} has no events yet; check the name"));
    }
    if json {
        output::print_json(
            &json!({ "processor": processor.as_str(), "tenant": tenant, "key": key, "changed": changed }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let told = if changed { "paused" } else { "was paused already:" };
    output::print_plain(&match (tenant, key) {
        (None, _) => format!("{told} all of {processor}\n"),
        (Some(tenant), None) => format!("{told} tenant {tenant} of {processor}\n"),
        (Some(tenant), Some(key)) => format!("{told} lane {key} of tenant {tenant} of {processor}\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a processor that there is not.
async fn check_known(session: &Session, processor: &ProcessorId) -> anyhow::Result<()> {
    let status = status::read(session, 0).await.map_err(|error| explain(&error))?;
    let known: Vec<&str> = status.processors.iter().map(|p| p.id.as_str()).collect();
    anyhow::ensure!(
        known.contains(&processor.as_str()),
        "there is no processor `{processor}`; {}",
        if known.is_empty() {
            "none has run on this database yet; start one with `sandmill run --plugins DIR`".into()
        } else {
            format!("there are: {}", known.join(", "))
        }
    );
    Ok(())
}
