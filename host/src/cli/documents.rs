//! `sandmill documents`: what a processor has made of its events.

use std::{io::Write, process::ExitCode};

use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;

use super::database::{connect, explain};
use crate::{
    db::Db,
    model::ids::CollectionName,
    projections::list::{self, Selection},
};

/// Lists the documents of a collection.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sandmill documents route_performance --tenant UA --id EWR-IAH
  sandmill documents route_performance --json > documents.ndjson")]
pub(super) struct DocumentsArgs {
    /// The collection
    collection: String,
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<String>,
    /// With this id only
    #[arg(long)]
    id: Option<String>,
    /// At most so many [default: all]
    #[arg(long)]
    limit: Option<u32>,
    /// One JSON object a line: {"tenant","id","version","data"}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    tenant: &'a str,
    id: &'a str,
    version: i64,
    data: &'a RawValue,
}

pub(super) async fn run(args: DocumentsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let collection = CollectionName::parse(&args.collection)?;
    let session = connect(db, "documents").await?;
    let known = list::collections(&session).await.map_err(|error| explain(&error))?;
    anyhow::ensure!(
        known.iter().any(|name| name == collection.as_str()),
        "there is no collection `{collection}`; {}",
        if known.is_empty() { "no processor has run yet".into() } else { format!("there are: {}", known.join(", ")) }
    );
    let selection = Selection { tenant: args.tenant, id: args.id, limit: args.limit.map(i64::from) };
    let documents = list::documents(&session, &collection, &selection).await.map_err(|error| explain(&error))?;
    let mut documents = std::pin::pin!(documents);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some(document) = documents.try_next().await.map_err(|error| explain(&error))? {
        let data: &RawValue = serde_json::from_str(&document.data)?;
        if args.json {
            let line = Line { tenant: &document.tenant, id: &document.id, version: document.version, data };
            serde_json::to_writer(&mut out, &line).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}  {}  v{}  {data}", document.tenant, document.id, document.version)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
