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
    output,
    table::{Column, Listing},
};
use crate::{
    db::Db,
    projections::list::{self, Collection, ListedDocument, Selection},
};

/// Lists the documents of a collection
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each line has tenant, id, version and data, preceded by the collection's view if there are several. A terminal shows it up to its edge; --wide and a pipe show all of it.
A shared collection comes before tenants' own collections of the same name.

Examples:
  sandmill documents route_performance --tenant UA --id EWR-IAH
  sandmill documents orders@acme
  sandmill documents route_performance --json > documents.ndjson"
)]
pub(super) struct DocumentsArgs {
    /// The collection's name, which selects the shared one and the tenants' own; or the view of one
    /// of them, as in orders@acme
    collection: String,
    /// Only this tenant's documents, in the shared collection and in its own
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// With this id only
    #[arg(long)]
    id: Option<String>,
    /// At most so many [default: all]
    #[arg(long)]
    limit: Option<u32>,
    /// Print one JSON object a line: {"view", "tenant", "id", "version", "data"}; view is the
    /// name of the collection's view, without its schema
    #[arg(long)]
    json: bool,
    /// Cut no line, also on a terminal
    #[arg(long)]
    wide: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    view: &'a str,
    tenant: &'a str,
    id: &'a str,
    version: i64,
    data: &'a RawValue,
}

/// Collections named in the message if none matches. Default 50: as many as a person reads.
const NAMED: usize = 50;

pub(super) async fn run(args: DocumentsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let DocumentsArgs { collection: name, tenant, id, limit, json, wide } = args;
    let session = connect(db, "documents").await?;
    let known = list::collections(&session).await.map_err(|error| explain(&error))?;
    let meant = list::named(&known, &name, tenant.as_deref());
    anyhow::ensure!(
        !meant.is_empty(),
        "there is no collection `{name}`{}; {}",
        of(tenant.as_deref()),
        there_are(&known)
    );
    let mut lines = BufWriter::new(stdout());
    let mut columns = vec![Column::Text("tenant"), Column::Text("id"), Column::Text("version"), Column::Text("data")];
    if meant.len() > 1 {
        columns.insert(0, Column::Text("view"));
    }
    let mut listing = Listing::new(columns, wide);
    let (mut found, mut complete) = (0, true);
    for collection in &meant {
        let left = limit.map(|limit| i64::from(limit) - found);
        if left.is_some_and(|left| left <= 0) {
            break;
        }
        let selection = Selection { tenant: tenant.clone(), id: id.clone(), limit: left, after: None };
        let documents = list::documents(&session, collection, selection);
        let mut documents = std::pin::pin!(documents);
        while let Some(document) = documents.try_next().await.map_err(|error| explain(&error))? {
            found += 1;
            let (view, ListedDocument { tenant, id, version, data }) = (&collection.view, document);
            let data = match data {
                Ok(data) => data,
                Err(why) => {
                    complete = false;
                    output::note(&format!(
                        "document {id:?} of tenant {tenant}, version {version}, is not shown: {why}"
                    ));
                    continue;
                }
            };
            if json {
                let data: &RawValue = serde_json::from_str(&data)?;
                let line = Line { view, tenant: &tenant, id: &id, version, data };
                lines.write_all(output::json_line(&line)?.as_bytes())?;
            } else {
                let mut row = vec![tenant, id, format!("v{version}"), data];
                if meant.len() > 1 {
                    row.insert(0, view.clone());
                }
                listing.row(row)?;
            }
        }
    }
    lines.flush()?;
    listing.flush()?;
    if found == 0 {
        output::note(&format!("no document of {name} matches"));
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn of(tenant: Option<&str>) -> String {
    tenant.map_or_else(String::new, |tenant| format!(" that tenant {tenant} has documents in"))
}

/// Which collections there are, by their views.
fn there_are(known: &[Collection]) -> String {
    if known.is_empty() {
        return "no processor has run on this database yet; start one with `sandmill run --plugins DIR`".into();
    }
    let named: Vec<&str> = known.iter().take(NAMED).map(|collection| collection.view.as_str()).collect();
    let more = match known.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more (`sandmill processors list`)"),
    };
    format!("there are: {}{more}", named.join(", "))
}
