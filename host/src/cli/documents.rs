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
    projections::list::{self, Collection, Listed, Selection},
};

/// Lists the documents of a collection
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A line is: tenant, id, version, data; before them the collection's view, where there are several. On a terminal it is cut at the edge; --wide shows all of it,
and so does a pipe. A collection that is everybody's comes before the tenants' own ones of the same name.

Examples:
  sandmill documents route_performance --tenant UA --id EWR-IAH
  sandmill documents orders@acme
  sandmill documents route_performance --json > documents.ndjson"
)]
pub(super) struct DocumentsArgs {
    /// The collection, everybody's and the tenants' own ones of this name; or one of them by its
    /// view, as in orders@acme
    collection: String,
    /// Of this tenant only, in everybody's collection and its own
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// With this id only
    #[arg(long)]
    id: Option<String>,
    /// At most so many [default: all]
    #[arg(long)]
    limit: Option<u32>,
    /// Print one JSON object a line: {"view", "tenant", "id", "version", "data"}; the view is the
    /// collection's, in `public`
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

/// Collections that are named where none is found.
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
            let (view, Listed { tenant, id, version, data }) = (&collection.view, document);
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
        output::note(&format!("no document of {name} fits"));
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
