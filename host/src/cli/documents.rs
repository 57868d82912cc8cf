//! `sandmill documents`: what a processor has made of its events.

use std::{
    io::{BufWriter, Write, stdout},
    process::ExitCode,
};

use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    database::{connect, explain},
    table::{Column, Listing},
};
use crate::{
    db::Db,
    model::ids::CollectionName,
    projections::list::{self, Listed, Selection},
};

/// Lists the documents of a collection
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A line is: tenant, id, version, data. On a terminal it is cut at the edge; --wide shows all of it, and so does a pipe.

Examples:
  sandmill documents route_performance --tenant UA --id EWR-IAH
  sandmill documents route_performance --json > documents.ndjson"
)]
pub(super) struct DocumentsArgs {
    /// The collection; plugins name those that they write
    collection: CollectionName,
    /// Of this tenant only
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// With this id only
    #[arg(long)]
    id: Option<String>,
    /// At most so many [default: all]
    #[arg(long)]
    limit: Option<u32>,
    /// Print one JSON object a line: {"tenant", "id", "version", "data"}
    #[arg(long)]
    json: bool,
    /// Cut no line, also on a terminal
    #[arg(long)]
    wide: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    tenant: &'a str,
    id: &'a str,
    version: i64,
    data: &'a RawValue,
}

pub(super) async fn run(args: DocumentsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let collection = args.collection;
    let session = connect(db, "documents").await?;
    let known = list::collections(&session).await.map_err(|error| explain(&error))?;
    anyhow::ensure!(
        known.iter().any(|name| name == collection.as_str()),
        "there is no collection `{collection}`; {}",
        if known.is_empty() {
            "no processor has run on this database yet; start one with `sandmill run --plugins DIR`".into()
        } else {
            format!("there are: {}", known.join(", "))
        }
    );
    let selection = Selection { tenant: args.tenant, id: args.id, limit: args.limit.map(i64::from), after: None };
    let documents = list::documents(&session, &collection, selection);
    let mut documents = std::pin::pin!(documents);
    let mut lines = BufWriter::new(stdout());
    let columns = [Column::Text("tenant"), Column::Text("id"), Column::Text("version"), Column::Text("data")];
    let mut listing = Listing::new(columns, args.wide);
    let (mut found, mut complete) = (false, true);
    while let Some(document) = documents.try_next().await.map_err(|error| explain(&error))? {
        found = true;
        let Listed { tenant, id, version, data } = document;
        let data = match data {
            Ok(data) => data,
            Err(why) => {
                complete = false;
                eprintln!("document {id:?} of tenant {tenant}, version {version}, is not shown: {why}");
                continue;
            }
        };
        if args.json {
            let data: &RawValue = serde_json::from_str(&data)?;
            let line = Line { tenant: &tenant, id: &id, version, data };
            serde_json::to_writer(&mut lines, &line).map_err(std::io::Error::from)?;
            writeln!(lines)?;
        } else {
            listing.row(vec![tenant, id, format!("v{version}"), data])?;
        }
    }
    lines.flush()?;
    listing.flush()?;
    if !found {
        eprintln!("no document of {collection} fits");
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
