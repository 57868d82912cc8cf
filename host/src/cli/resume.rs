//! `sandmill resume`: a person lets lanes try again.

use std::process::ExitCode;

use super::database::{connect, explain};
use crate::{
    db::Db,
    model::ids::{ProcessorId, TenantId},
    processor::{exceptions, status},
};

/// Lets blocked lanes try again.
#[derive(Debug, clap::Args)]
#[command(after_help = "A running host takes them up within a second; without one, the next to start does.

Example:
  sandmill resume route-performance --tenant UA")]
pub(super) struct ResumeArgs {
    /// The processor
    processor: String,
    /// Only the lanes of this tenant
    #[arg(long)]
    tenant: Option<String>,
}

pub(super) async fn run(args: ResumeArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let processor = ProcessorId::parse(&args.processor)?;
    let tenant = args.tenant.as_deref().map(TenantId::parse).transpose()?;
    let session = connect(db, "resume").await?;
    let status = status::read(&session).await.map_err(|error| explain(&error))?;
    anyhow::ensure!(
        status.processors.iter().any(|p| p.id == processor.as_str()),
        "there is no processor `{processor}`; there are: {}",
        status.processors.iter().map(|p| p.id.as_str()).collect::<Vec<_>>().join(", ")
    );
    let resumed = exceptions::resume(&session, processor.as_str(), tenant.as_ref().map(TenantId::as_str)).await;
    match resumed.map_err(|error| explain(&error))? {
        0 => println!("no lane of {processor} was waiting"),
        n => println!("resumed {n} lane(s) of {processor}"),
    }
    Ok(ExitCode::SUCCESS)
}
