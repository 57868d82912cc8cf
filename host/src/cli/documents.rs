//! `sandmill documents`: lists the documents in a collection.

use std::{
    io::{BufWriter, Write, stdout},
    process::ExitCode,
};

use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    database::{connect, with_remedy},
    output,
    table::{Column, StreamingTable},
};
use crate::{
    db::Db,
    projections::list::{self, Collection, ListedDocument, Selection},
};

const EXAMPLES: &str = "\
Examples:
  sandmill documents route_performance
  sandmill documents route_performance --tenant UA --id EWR-IAH
  sandmill documents orders@acme
  sandmill documents route_performance --json > documents.ndjson";

const DETAILS: &str = "\
Each line shows tenant, id, version and data. If the name matches several views, each line begins
with the view's name. On a terminal, lines are cut at the edge unless --wide is given. The shared
collection comes before the tenants' own collections of the same name.

With --json, each line is an object; view is the view's name without its schema:
  {\"view\", \"tenant\", \"id\", \"version\", \"data\"}

Exit codes: 0 all matching documents were printed; 1 failed, or a document could not be printed.";

/// Lists the documents in a collection
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct DocumentsArgs {
    /// A collection (the shared one and all tenants' own ones of that name), or a single view, such
    /// as orders@acme
    collection: String,
    /// Only documents of this tenant, from the shared collection and its own
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only documents with this id
    #[arg(long)]
    id: Option<String>,
    /// Print at most this many documents [default: all]
    #[arg(long)]
    limit: Option<u32>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Do not cut lines at the terminal's edge
    #[arg(long)]
    wide: bool,
}

#[derive(Serialize)]
struct DocumentJson<'a> {
    view: &'a str,
    tenant: &'a str,
    id: &'a str,
    version: i64,
    data: &'a RawValue,
}

/// Maximum number of collections that an error message lists. 50: more would not be read.
const NAMED: usize = 50;

/// Runs the command.
pub(super) async fn run(args: DocumentsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let DocumentsArgs { collection: name, tenant, id, limit, json, wide } = args;
    let session = connect(db, "documents").await?;
    let known = list::collections(&session).await.map_err(|error| with_remedy(&error))?;
    let matching = list::named(&known, &name, tenant.as_deref());
    anyhow::ensure!(
        !matching.is_empty(),
        "there is no collection `{name}`{}; {}",
        with_documents_of(tenant.as_deref()),
        existing(&known)
    );
    let mut lines = BufWriter::new(stdout());
    let mut columns = vec![Column::Text("tenant"), Column::Text("id"), Column::Text("version"), Column::Text("data")];
    if matching.len() > 1 {
        columns.insert(0, Column::Text("view"));
    }
    let mut table = StreamingTable::new(columns, wide);
    let (mut found, mut complete) = (0, true);
    for collection in &matching {
        let left = limit.map(|limit| i64::from(limit) - found);
        if left.is_some_and(|left| left <= 0) {
            break;
        }
        let selection = Selection { tenant: tenant.clone(), id: id.clone(), limit: left, after: None };
        let documents = list::documents(&session, collection, selection);
        let mut documents = std::pin::pin!(documents);
        while let Some(document) = documents.try_next().await.map_err(|error| with_remedy(&error))? {
            found += 1;
            let (view, ListedDocument { tenant, id, version, data }) = (&collection.view, document);
            let data = match data {
                Ok(data) => data,
                Err(reason) => {
                    complete = false;
                    output::note(&format!(
                        "document {id:?} of tenant {tenant}, version {version}, is not shown: {reason}"
                    ));
                    continue;
                }
            };
            if json {
                let data: &RawValue = serde_json::from_str(&data)?;
                let line = DocumentJson { view, tenant: &tenant, id: &id, version, data };
                lines.write_all(output::json_line(&line)?.as_bytes())?;
            } else {
                let mut row = vec![tenant, id, format!("v{version}"), data];
                if matching.len() > 1 {
                    row.insert(0, view.clone());
                }
                table.row(row)?;
            }
        }
    }
    lines.flush()?;
    table.flush()?;
    if found == 0 {
        output::note(&format!("no matching documents in {name}"));
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn with_documents_of(tenant: Option<&str>) -> String {
    tenant.map_or_else(String::new, |tenant| format!(" with documents of tenant {tenant}"))
}

/// The existing collections, by their views.
fn existing(known: &[Collection]) -> String {
    if known.is_empty() {
        return "no processor has run on this database yet; start one with `sandmill run --plugins DIR`".into();
    }
    let named: Vec<&str> = known.iter().take(NAMED).map(|collection| collection.view.as_str()).collect();
    let more = match known.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more (`sandmill processors list`)"),
    };
    format!("existing collections: {}{more}", named.join(", "))
}
