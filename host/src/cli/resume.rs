//! `sandmill pause` and `sandmill resume`: a person decides what waits.

use std::process::ExitCode;

use super::database::{connect, explain};
use crate::{
    db::{Db, Session},
    model::ids::{ProcessorId, TenantId},
    processor::{exceptions, pauses, status},
};

/// Lets what waits try again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running host takes it up within a second; without one, the next to start does. Pauses are lifted as well.

Examples:
  sandmill resume route-performance --tenant UA
  sandmill resume route-performance"
)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    what: What,
}

/// Makes a processor, a tenant of it or a lane wait.
#[derive(Debug, clap::Args)]
#[command(after_help = "What is under way ends as it would; nothing is lost, and `sandmill resume` lets it catch up.

Examples:
  sandmill pause route-performance --tenant UA
  sandmill pause route-performance")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, clap::Args)]
struct What {
    /// The processor
    processor: String,
    /// Only lanes of this tenant
    #[arg(long)]
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

pub(super) async fn run(ResumeArgs { what }: ResumeArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "resume").await?;
    let processor = known(&session, &what).await?;
    let lifted = pauses::lift(&session, processor.as_str(), what.tenant(), what.key()).await;
    let lifted = lifted.map_err(|error| explain(&error))?;
    let resumed = exceptions::resume(&session, processor.as_str(), what.tenant(), what.key()).await;
    let resumed = resumed.map_err(|error| explain(&error))?;
    match (lifted, resumed) {
        (0, 0) => println!("no lane of {processor} was waiting"),
        (0, n) => println!("resumed {n} lane(s) of {processor}"),
        (pauses, n) => println!("lifted {pauses} pause(s) and resumed {n} lane(s) of {processor}"),
    }
    if what.tenant.is_some() {
        let left = pauses::read(&session, &processor).await.map_err(|error| explain(&error))?;
        if let Some(whole) = left.iter().find(|pause| pause.is_whole()) {
            println!(
                "the whole of {processor} is still paused ({}); `sandmill resume {processor}` lifts that",
                whole.reason.message
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pause(PauseArgs { what }: PauseArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "pause").await?;
    let processor = known(&session, &what).await?;
    let paused = pauses::pause(&session, processor.as_str(), what.tenant(), what.key()).await;
    let told = if paused.map_err(|error| explain(&error))? { "paused" } else { "was paused already:" };
    match (&what.tenant, &what.key) {
        (None, _) => println!("{told} all of {processor}"),
        (Some(tenant), None) => println!("{told} tenant {tenant} of {processor}"),
        (Some(tenant), Some(key)) => println!("{told} lane {key} of tenant {tenant} of {processor}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The processor, if there is one of that name, and the names are ones.
async fn known(session: &Session, what: &What) -> anyhow::Result<ProcessorId> {
    let processor = ProcessorId::parse(&what.processor)?;
    what.tenant().map(TenantId::parse).transpose()?;
    let status = status::read(session).await.map_err(|error| explain(&error))?;
    anyhow::ensure!(
        status.processors.iter().any(|p| p.id == processor.as_str()),
        "there is no processor `{processor}`; there are: {}",
        status.processors.iter().map(|p| p.id.as_str()).collect::<Vec<_>>().join(", ")
    );
    Ok(processor)
}
