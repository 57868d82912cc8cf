//! `sandmill pause` and `sandmill resume`: pause a processor, a tenant or a lane, and resume lanes
//! that are paused or blocked.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    database::{connect, with_remedy},
    operator,
    output::{self, count},
    processors::check_known,
};
use crate::{
    db::{
        Db, Error, Session, Transaction,
        audit::{self, AuditEntry},
    },
    model::{ids::ProcessorId, text},
    processor::{lane_checkpoints, pauses},
    store,
};

/// Resumes blocked or paused lanes
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill resume route-performance
  sandmill resume route-performance --tenant UA
  sandmill resume seats --tenant UA --key flight-1545",
    after_help = "\
A running host applies the command within a second; if none runs, the next host applies it when
it starts. Pauses in the same scope are lifted, and blocked lanes are retried.

With --json it prints one object. \"stillPaused\" says who paused the whole processor, or is null:
  {\"processor\", \"tenant\", \"key\", \"pausesLifted\", \"lanesResumed\", \"stillPaused\"}"
)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    scope: PauseScope,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Pauses a processor, a tenant or a lane
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill pause route-performance
  sandmill pause route-performance --tenant UA
  sandmill pause seats --tenant UA --key flight-1545",
    after_help = "\
Calls in progress finish. No event is lost: after `sandmill resume`, handling continues where
it stopped.

With --json it prints one object. \"changed\" is false if the scope was paused already:
  {\"processor\", \"tenant\", \"key\", \"changed\"}"
)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    scope: PauseScope,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PauseScope {
    /// The processor's id, as `sandmill status` shows it; TENANT/ID for a tenant's own processor
    processor: ProcessorId,
    /// Only this tenant's lanes
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only the lane with this partition key, if the processor is not partitioned by tenant
    #[arg(long, requires = "tenant")]
    key: Option<String>,
}

impl PauseScope {
    fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Lifts pauses and resumes lanes. Returns the numbers of both.
    async fn resume(&self, session: &mut Session) -> Result<(u64, u64), Error> {
        let processor = self.processor.as_str();
        let transaction = session.client_mut().transaction().await?;
        let lifted = pauses::lift(&transaction, processor, self.tenant(), self.key()).await?;
        let resumed = lane_checkpoints::resume(&transaction, processor, self.tenant(), self.key()).await?;
        if lifted + resumed > 0 {
            self.record(&transaction, "resume", json!({ "pausesLifted": lifted, "lanesResumed": resumed })).await?;
        }
        transaction.commit().await?;
        Ok((lifted, resumed))
    }

    /// Pauses the scope. Returns whether that was not paused before.
    async fn pause(&self, session: &mut Session) -> Result<bool, Error> {
        let transaction = session.client_mut().transaction().await?;
        let changed = pauses::pause(&transaction, self.processor.as_str(), self.tenant(), self.key()).await?;
        if changed {
            self.record(&transaction, "pause", json!({})).await?;
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn record(&self, transaction: &Transaction<'_>, command: &str, details: Value) -> Result<(), Error> {
        let (who, tenant, key) = (operator::name(), self.tenant(), self.key());
        let processor = Some(&self.processor);
        audit::record(transaction, &AuditEntry { processor, tenant, key, details, ..AuditEntry::new(&who, command) })
            .await
    }
}

/// Runs `sandmill resume`.
pub(super) async fn run(ResumeArgs { scope, json }: ResumeArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let mut session = connect(db, "resume").await?;
    check_known(&session, &scope.processor).await?;
    let processor = &scope.processor;
    let (lifted, resumed) = scope.resume(&mut session).await.map_err(|error| with_remedy(&error))?;
    let left = pauses::read(&session, processor).await.map_err(|error| with_remedy(&error))?;
    let still_paused = left.into_iter().find(|pause| pause.covers_processor()).map(|pause| pause.reason.message);
    if json {
        let PauseScope { processor, tenant, key } = &scope;
        output::print_json(&json!({
            "processor": processor.as_str(), "tenant": tenant, "key": key,
            "pausesLifted": lifted, "lanesResumed": resumed, "stillPaused": still_paused.as_deref(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lanes = count(resumed, "lane");
    output::print_plain(&match (lifted, resumed) {
        (0, 0) => format!("no lane of {processor} was blocked or paused\n"),
        (0, _) => format!("resumed {lanes} of {processor}\n"),
        (pauses, _) => format!("lifted {} and resumed {lanes} of {processor}\n", count(pauses, "pause")),
    })?;
    if let Some(paused) = still_paused {
        let remedy = format!("resume it with `sandmill resume {processor}`");
        output::print(&format!("{processor} itself is still paused ({}); {remedy}\n", text::one_line(&paused)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `sandmill pause`.
pub(super) async fn pause(PauseArgs { scope, json }: PauseArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let mut session = connect(db, "pause").await?;
    check_known(&session, &scope.processor).await?;
    let changed = scope.pause(&mut session).await.map_err(|error| with_remedy(&error))?;
    let PauseScope { processor, tenant, key } = &scope;
    if let Some(tenant) = tenant
        && !store::knows_tenant(&session, tenant).await.map_err(|error| with_remedy(&error))?
    {
        output::note(&format!("note: tenant {tenant} has no events yet; check the spelling"));
    }
    if json {
        output::print_json(
            &json!({ "processor": processor.as_str(), "tenant": tenant, "key": key, "changed": changed }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let prefix = if changed { "paused" } else { "already paused:" };
    output::print_plain(&match (tenant, key) {
        (None, _) => format!("{prefix} {processor}\n"),
        (Some(tenant), None) => format!("{prefix} tenant {tenant} of {processor}\n"),
        (Some(tenant), Some(key)) => format!("{prefix} lane {key} of tenant {tenant} of {processor}\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
