//! `sandmill processors`: lists and removes processors.

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;
use serde_json::json;

use super::{
    database::{connect, with_remedy},
    operator,
    output::{self, OutputStyle, Tone, count},
    table::{Cell, Column, Table},
};
use crate::{
    cluster::host_lock,
    db::{Db, Error, Session, audit::AuditEntry},
    model::{ids::ProcessorId, nearest::nearest},
    plugins::history::{self, PluginStatus},
    processor::{
        removal::{self, ProcessorRemains, RemainingCollection},
        roster::{self, RosterEntry},
    },
    projections::list::{self, Collection},
};

/// Lists processors with their collections, and removes processors
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  sandmill processors list
  sandmill processors remove acme/cart-summary --keep-documents
  sandmill processors remove cart-summary --drop-documents --yes")]
pub(super) struct ProcessorsArgs {
    #[command(subcommand)]
    command: ProcessorsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ProcessorsCommand {
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Lists processors with their collections
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example:\n  sandmill processors list",
    after_help = "\
STATE is one of:
  running   a host runs the processor
  rejected  the host rejected the plugin's file; `sandmill plugins` shows the reason
  absent    a host is running, but none of its running plugins provides this processor
  no host   no host is running on this database

DOCUMENTS is PostgreSQL's estimate. Collections kept from removed processors are listed last.

With --json it prints one object. \"tenant\" is null for a shared processor, \"documents\" if there
is no estimate:
  {\"processors\": [{\"id\", \"kind\", \"tenant\", \"plugin\", \"state\",
    \"collections\": [{\"name\", \"view\", \"documents\"}]}],
   \"kept\": [{\"name\", \"view\", \"documents\", \"keptFrom\"}]}"
)]
struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Removes a processor that no host runs
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill processors remove acme/cart-summary --keep-documents
  sandmill processors remove acme/cart-summary --drop-documents --yes",
    after_help = "\
Removes the processor's progress, lane checkpoints, pauses, dead letters, parked
streams and records of shed events; the stored versions of its plugin if the plugin's file is gone; and with
--drop-documents its documents.

First take the plugin's file out of the plugins folder, or stop the host: the command fails
while a host runs the processor.

If the file returns after --drop-documents, the processor starts as a new one: from the first
event, or from now if its descriptor says so. After --keep-documents the file is rejected,
because events would be applied to the kept documents again. To allow that, set
on-change = \"continue\" in the manifest.

Kept documents stay in their views; no plugin updates them. To drop them later, run the same
command with --drop-documents.

With --json it prints one object. The outer \"documents\" is \"kept\" or \"dropped\"; that of a
collection is the number of its documents, null if its table is missing:
  {\"processor\", \"deadLetters\", \"parkedStreams\", \"lanes\", \"pauses\", \"sheds\", \"documents\",
   \"collections\": [{\"view\", \"documents\"}]}"
)]
struct RemoveArgs {
    /// The processor's id, as `sandmill processors list` shows it; TENANT/ID for a tenant's own
    /// processor
    processor: ProcessorId,
    #[command(flatten)]
    documents: KeepOrDrop,
    /// Confirm that dead letters or documents may be lost
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The choice of what happens to the documents.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct KeepOrDrop {
    /// Keep the documents in their views
    #[arg(long)]
    keep_documents: bool,
    /// Drop the documents with their tables and views
    #[arg(long)]
    drop_documents: bool,
}

/// Runs the command.
pub(super) async fn run(args: ProcessorsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    match args.command {
        ProcessorsCommand::List(args) => list_all(args, db).await,
        ProcessorsCommand::Remove(args) => remove(args, db).await,
    }
}

#[derive(Serialize)]
struct ListJson<'a> {
    processors: Vec<ProcessorJson<'a>>,
    kept: Vec<CollectionJson<'a>>,
}

#[derive(Serialize)]
struct ProcessorJson<'a> {
    id: &'a str,
    kind: &'a str,
    tenant: Option<&'a str>,
    plugin: &'a str,
    state: RunState,
    collections: Vec<CollectionJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CollectionJson<'a> {
    name: &'a str,
    view: &'a str,
    documents: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_from: Option<&'a str>,
}

impl<'a> CollectionJson<'a> {
    fn of(collection: &'a Collection) -> Self {
        let Collection { name, view, documents, kept_from, .. } = collection;
        CollectionJson { name, view, documents: *documents, kept_from: kept_from.as_deref() }
    }
}

/// Whether a host runs a processor; if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RunState {
    Running,
    Rejected,
    Absent,
    NoHost,
}

impl RunState {
    /// Derives the state from the processor's session and recent term errors, then from what the
    /// host last recorded about the plugin files (`sandmill.plugins`). `host`: whether one is
    /// running.
    fn of(entry: &RosterEntry, plugins: &[PluginStatus], host: bool) -> RunState {
        let plugin = plugins.iter().find(|listed| listed.plugin == entry.plugin);
        match plugin {
            _ if entry.runs => RunState::Running,
            _ if !host => RunState::NoHost,
            // A processor has no session between two terms. A recent term error also shows that it
            // runs, even if the host could not record its plugins.
            _ if entry.failed_recently => RunState::Running,
            // Native handlers are part of a program; they have no plugin file.
            _ if entry.plugin == "native" => RunState::Running,
            Some(plugin) if plugin.processor == entry.id => RunState::Running,
            Some(plugin) if plugin.rejected.is_some() => RunState::Rejected,
            _ => RunState::Absent,
        }
    }

    pub(super) fn words(self) -> (&'static str, Tone) {
        match self {
            RunState::Running => ("running", Tone::Good),
            RunState::Rejected => ("rejected", Tone::Bad),
            RunState::Absent => ("absent", Tone::Warning),
            RunState::NoHost => ("no host", Tone::Warning),
        }
    }
}

/// Reads all processors, each with its state.
pub(super) async fn states(
    session: &Session,
    plugins: &[PluginStatus],
    host: bool,
) -> Result<Vec<(RosterEntry, RunState)>, Error> {
    let state = |entry: RosterEntry| {
        let state = RunState::of(&entry, plugins, host);
        (entry, state)
    };
    Ok(roster::read(session).await?.into_iter().map(state).collect())
}

/// Fails if no processor has this id, and names the nearest one.
pub(super) async fn check_known(session: &Session, processor: &ProcessorId) -> anyhow::Result<()> {
    let roster = roster::read(session).await.map_err(|error| with_remedy(&error))?;
    if roster.iter().any(|entry| entry.id == processor.as_str()) {
        return Ok(());
    }
    if roster.is_empty() {
        bail!(
            "there is no processor `{processor}`; none has run on this database yet; start one with `sandmill run --plugins DIR`"
        );
    }
    let near = nearest(processor.as_str(), roster.into_iter().map(|entry| entry.id));
    bail!("there is no processor `{processor}`; the nearest is `{near}`; `sandmill processors list` lists all")
}

async fn list_all(args: ListArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "processors").await?;
    let read = async {
        let (plugins, host) = (history::list(&session).await?, host_lock::is_held(&*session).await?);
        Ok((states(&session, &plugins, host).await?, list::collections(&session).await?))
    };
    let (entries, collections) = read.await.map_err(|error| with_remedy(&error))?;
    let listed: Vec<(&RosterEntry, RunState, Vec<&Collection>)> = entries
        .iter()
        .map(|(entry, state)| {
            let own = collections.iter().filter(|of| of.processor.as_ref() == Some(&entry.id)).collect();
            (entry, *state, own)
        })
        .collect();
    let kept: Vec<&Collection> = collections.iter().filter(|of| of.kept_from.is_some()).collect();
    if args.json {
        let processors = listed.iter().map(|(entry, state, own)| ProcessorJson {
            id: &entry.id,
            kind: &entry.kind,
            tenant: entry.tenant.as_deref(),
            plugin: &entry.plugin,
            state: *state,
            collections: own.iter().map(|of| CollectionJson::of(of)).collect(),
        });
        let kept = kept.iter().map(|of| CollectionJson::of(of)).collect();
        output::print_json(&ListJson { processors: processors.collect(), kept })?;
    } else {
        output::print(&show(&listed, &kept, OutputStyle::stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The processors, and the kept collections of removed ones, as tables.
fn show(listed: &[(&RosterEntry, RunState, Vec<&Collection>)], kept: &[&Collection], style: OutputStyle) -> String {
    use Column::{Number, Text};
    if listed.is_empty() && kept.is_empty() {
        return "no processor has run on this database yet; start a host with `sandmill run --plugins DIR`\n".into();
    }
    let estimate = |of: &Collection| of.documents.map_or_else(|| "?".into(), |documents| format!("~{documents}"));
    let mut table = Table::new([
        Text("PROCESSOR"),
        Text("KIND"),
        Text("TENANT"),
        Text("STATE"),
        Text("PLUGIN"),
        Number("DOCUMENTS"),
        Text("VIEW"),
    ]);
    for (entry, state, own) in listed {
        let (state, tone) = state.words();
        let cells = |documents: String, view: &str| {
            vec![
                Cell::new(&entry.id),
                Cell::new(&entry.kind),
                Cell::new(entry.tenant.as_deref().unwrap_or("-")),
                Cell::new(state).tone(Some(tone)),
                Cell::new(&entry.plugin),
                Cell::new(documents),
                Cell::new(view),
            ]
        };
        if own.is_empty() {
            table.row(cells("-".into(), "-"));
        }
        own.iter().for_each(|of| table.row(cells(estimate(of), &of.view)));
    }
    let mut text = if listed.is_empty() { String::new() } else { table.show(style) };
    if !kept.is_empty() {
        let mut table = Table::new([Text("KEPT FROM"), Number("DOCUMENTS"), Text("VIEW")]);
        for of in kept {
            let from = of.kept_from.as_deref().unwrap_or_default();
            table.row([Cell::new(from), Cell::new(estimate(of)), Cell::new(&of.view)]);
        }
        text.push_str(if listed.is_empty() { "" } else { "\n" });
        text.push_str(&table.show(style));
    }
    text
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RemovedJson<'a> {
    processor: &'a str,
    dead_letters: i64,
    parked_streams: i64,
    lanes: i64,
    pauses: i64,
    sheds: i64,
    documents: &'static str,
    collections: Vec<RemovedCollectionJson<'a>>,
}

#[derive(Serialize)]
struct RemovedCollectionJson<'a> {
    view: &'a str,
    documents: Option<i64>,
}

async fn remove(args: RemoveArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let RemoveArgs { processor: id, documents, yes, json } = args;
    let drops = documents.drop_documents;
    let mut session = connect(db, "processors").await?;
    let remains = removal::find(&session, &id).await.map_err(|error| with_remedy(&error))?;
    let Some(remains) = remains else {
        let known: Vec<String> = roster::read(&session)
            .await
            .map_err(|error| with_remedy(&error))?
            .into_iter()
            .map(|entry| entry.id)
            .collect();
        bail!(
            "there is no processor `{id}`, and no documents were kept from one; {}",
            if known.is_empty() {
                "this database has no processors".into()
            } else {
                format!("known processors: {}", known.join(", "))
            }
        );
    };
    if !remains.known && !drops {
        bail!("{id} is already removed and its documents are kept; to drop them, pass --drop-documents");
    }
    let lost = lost(&remains, drops);
    if !lost.is_empty() && !yes {
        bail!("removing {id} loses {}; to confirm, add --yes", lost.join(" and "));
    }
    let details = json!({
        "documents": if drops { "dropped" } else { "kept" }, "deadLetters": remains.dead_letters,
        "parkedStreams": remains.parked_streams,
        "lanes": remains.lanes, "pauses": remains.pauses, "sheds": remains.sheds,
    });
    let who = operator::name();
    let entry = AuditEntry { processor: Some(&id), details, ..AuditEntry::new(&who, "processors remove") };
    removal::release(&mut session, &id, &entry).await?;
    if drops {
        removal::drop_kept(&mut session, &id).await.map_err(|error| {
            anyhow::anyhow!(
                "{}\nThe processor is removed, but some of its documents are not dropped yet; run the same command again.",
                with_remedy(&error)
            )
        })?;
    }
    if json {
        let collections = remains.collections.iter();
        output::print_json(&RemovedJson {
            processor: id.as_str(),
            dead_letters: remains.dead_letters,
            parked_streams: remains.parked_streams,
            lanes: remains.lanes,
            pauses: remains.pauses,
            sheds: remains.sheds,
            documents: if drops { "dropped" } else { "kept" },
            collections: collections
                .map(|of| RemovedCollectionJson { view: &of.view, documents: of.documents })
                .collect(),
        })?;
    } else {
        output::print_plain(&summary(&id, &remains, drops))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The losses that need `--yes`: dead letters, and documents if they are dropped.
fn lost(remains: &ProcessorRemains, drops: bool) -> Vec<String> {
    let documents: i64 = if drops { remains.collections.iter().filter_map(|of| of.documents).sum() } else { 0 };
    let lost =
        [(remains.dead_letters, "dead letter"), (remains.parked_streams, "parked stream"), (documents, "document")];
    lost.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| counted(number, what)).collect()
}

fn counted(number: i64, what: &str) -> String {
    count(u64::try_from(number).unwrap_or_default(), what)
}

/// What was removed, kept and dropped, one line each.
fn summary(id: &ProcessorId, remains: &ProcessorRemains, drops: bool) -> String {
    let mut text = String::new();
    if remains.known {
        let ProcessorRemains { dead_letters, parked_streams, lanes, pauses, sheds, .. } = remains;
        let rows = [
            (*dead_letters, "dead letter"),
            (*parked_streams, "parked stream"),
            (*lanes, "lane checkpoint"),
            (*pauses, "pause"),
        ];
        let mut rows: Vec<String> =
            rows.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| counted(number, what)).collect();
        if *sheds > 0 {
            rows.push(format!("{} of shed events", counted(*sheds, "record")));
        }
        let with = if rows.is_empty() { String::new() } else { format!(", {}", rows.join(", ")) };
        text.push_str(&format!("removed {id}: its progress{with}\n"));
    }
    for of in &remains.collections {
        let RemainingCollection { relation, documents, .. } = of;
        let documents = documents.map(|documents| counted(documents, "document"));
        text.push_str(&match (documents, drops) {
            (Some(documents), true) => format!("dropped {documents} with the view {relation}\n"),
            (Some(documents), false) => {
                format!("kept {documents} in the view {relation}; no plugin updates them\n")
            }
            (None, true) => format!("dropped the collection of {relation}, whose table was missing\n"),
            (None, false) => {
                format!(
                    "kept the collection of {relation}, whose table is missing; to drop it, pass --drop-documents\n"
                )
            }
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_removals_are_counted() {
        let id = ProcessorId::parse("acme/carts").unwrap();
        let (view, relation) = ("carts@acme".to_string(), r#"app."carts@acme""#.to_string());
        let collection = RemainingCollection { view, relation, documents: Some(12) };
        let remains = ProcessorRemains {
            known: true,
            dead_letters: 3,
            parked_streams: 0,
            lanes: 1,
            collections: vec![collection],
            ..ProcessorRemains::default()
        };
        assert_eq!(lost(&remains, false), ["3 dead letters"]);
        assert_eq!(lost(&remains, true), ["3 dead letters", "12 documents"]);
        assert_eq!(lost(&ProcessorRemains::default(), true), Vec::<String>::new());
        assert_eq!(
            summary(&id, &remains, false),
            "removed acme/carts: its progress, 3 dead letters, 1 lane checkpoint\n\
             kept 12 documents in the view app.\"carts@acme\"; no plugin updates them\n"
        );
        let missing = RemainingCollection { view: "gone".into(), relation: "public.gone".into(), documents: None };
        let missing = ProcessorRemains { collections: vec![missing], ..ProcessorRemains::default() };
        assert_eq!(lost(&missing, true), Vec::<String>::new());
        assert_eq!(summary(&id, &missing, true), "dropped the collection of public.gone, whose table was missing\n");
        assert!(summary(&id, &missing, false).starts_with("kept the collection of public.gone, whose table is"));
        let kept = ProcessorRemains { known: false, dead_letters: 0, lanes: 0, ..remains };
        assert_eq!(summary(&id, &kept, true), "dropped 12 documents with the view app.\"carts@acme\"\n");
    }

    #[test]
    fn the_state_of_a_processor_follows_from_the_recorded_files() {
        let entry = |runs| RosterEntry {
            id: "acme/carts".into(),
            kind: "projector".into(),
            tenant: Some("acme".into()),
            plugin: "acme/orders".into(),
            runs,
            failed_recently: false,
        };
        let listed = |processor: &str, rejected: bool| PluginStatus {
            plugin: "acme/orders".into(),
            processor: processor.into(),
            digest: String::new(),
            version: String::new(),
            contract: String::new(),
            signed_by: String::new(),
            since: std::time::SystemTime::UNIX_EPOCH,
            lanes: 0,
            rejected: rejected.then(|| (String::new(), "broken".into(), std::time::SystemTime::UNIX_EPOCH)),
            is_removed: false,
        };
        assert_eq!(RunState::of(&entry(true), &[], true), RunState::Running);
        assert_eq!(RunState::of(&entry(false), &[listed("acme/carts", true)], true), RunState::Running);
        assert_eq!(RunState::of(&entry(false), &[listed("", true)], true), RunState::Rejected);
        assert_eq!(RunState::of(&entry(false), &[listed("acme/other", false)], true), RunState::Absent);
        assert_eq!(RunState::of(&entry(false), &[listed("acme/carts", true)], false), RunState::NoHost);
        let failing = RosterEntry { failed_recently: true, ..entry(false) };
        assert_eq!(RunState::of(&failing, &[], true), RunState::Running);
        assert_eq!(RunState::of(&failing, &[], false), RunState::NoHost);
        let collection = Collection {
            tenant: Some("acme".into()),
            name: "carts".into(),
            view: "carts@acme".into(),
            relation: r#"public."carts@acme""#.into(),
            processor: None,
            kept_from: Some("acme/old".into()),
            documents: Some(7),
        };
        assert_eq!(
            show(&[(&entry(true), RunState::Running, Vec::new())], &[&collection], OutputStyle::PLAIN),
            "PROCESSOR   KIND       TENANT  STATE    PLUGIN       DOCUMENTS  VIEW\n\
             acme/carts  projector  acme    running  acme/orders          -  -\n\
             \n\
             KEPT FROM  DOCUMENTS  VIEW\n\
             acme/old          ~7  carts@acme\n"
        );
    }
}
