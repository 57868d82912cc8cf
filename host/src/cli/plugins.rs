//! `sandmill plugins`: lists running plugins and rejected files with the reasons, shows a plugin's
//! history, and rolls a version back.

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    database::{connect, with_remedy},
    operator,
    output::{self, OutputStyle, Tone},
    status::age,
    table::{Cell, Column, Table},
};
use crate::{
    db::{
        Db, Error, Session, Transaction,
        audit::{self, AuditEntry},
    },
    model::{ids::ProcessorId, text, time},
    plugins::{
        folder::Problem,
        history::{self, DryRunReport, HistoryEntry, PluginStatus, VersionHold, components},
    },
};

const EXAMPLES: &str = "\
Examples:
  sandmill plugins
  sandmill plugins show cart-summary
  sandmill plugins history cart-summary
  sandmill plugins rollback cart-summary";

const DETAILS: &str = "\
Each NAME.wasm in the plugins folder runs as soon as it is checked. If a new file is rejected,
the former version keeps running; the reason is shown here and in NAME.wasm.error beside the
file. Problems of the folder's other entries are listed with a remedy.

FILE is the beginning of the file's SHA-256, which identifies a version.

With --json it prints one object. \"replaces\" is the shared processor that a tenant's own
processor replaces, or null:
  {\"plugins\": [{\"plugin\", \"processor\", \"digest\", \"version\", \"contract\", \"since\", \"calls\",
    \"replaces\", \"rejected\": {\"digest\", \"reason\", \"at\"}}],
   \"notRun\": [{\"path\", \"problem\", \"remedy\", \"since\"}]}";

/// Lists plugins and their versions, and rolls versions back
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct PluginsArgs {
    #[command(subcommand)]
    command: Option<PluginsCommand>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum PluginsCommand {
    History(HistoryArgs),
    Show(ShowArgs),
    Rollback(RollbackArgs),
    Retry(RetryArgs),
}

/// Shows the changes of a plugin, newest first
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example:\n  sandmill plugins history cart-summary --limit 5",
    after_help = "\
LAST is the position of the last event that the replaced version handled, FIRST that of the
first event that this version handled. GAP is the time from the swap to this version's first
call.

A dry run repeats recent events, most of which the plugin has handled before. If the plugin
skips repeated events, skips are expected there.

With --json it prints one object:
  {\"history\": [{\"id\", \"event\", \"at\", \"digest\", \"version\", \"processor\", \"reason\", \"replaced\",
    \"replacedLast\", \"first\", \"gapMs\", \"lanes\", \"longestMs\", \"dryRun\"}]}"
)]
struct HistoryArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
    /// Show at most this many changes
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Shows one plugin with its latest changes
#[derive(Debug, clap::Args)]
#[command(before_help = "Example:\n  sandmill plugins show cart-summary")]
struct ShowArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
}

/// Rolls back to the version that ran before the current one
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example:\n  sandmill plugins rollback cart-summary --reason 'wrong totals'",
    after_help = "\
The former version runs until the file in the plugins folder changes. `sandmill plugins retry`
undoes the rollback."
)]
struct RollbackArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
    /// The reason, for the plugin's history
    #[arg(long, default_value = "manual rollback")]
    reason: String,
}

/// Lets versions that were rolled back run again
#[derive(Debug, clap::Args)]
#[command(before_help = "Example:\n  sandmill plugins retry cart-summary")]
struct RetryArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PluginJson<'a> {
    plugin: &'a str,
    processor: &'a str,
    digest: &'a str,
    version: &'a str,
    contract: &'a str,
    since: String,
    calls: i64,
    replaces: Option<&'a str>,
    rejected: Option<RejectedJson<'a>>,
}

/// A problem of the plugins folder that is not the rejection of a plugin file.
#[derive(Serialize)]
struct NotRunJson<'a> {
    path: &'a str,
    problem: &'a str,
    remedy: &'a str,
    since: String,
}

#[derive(Serialize)]
struct RejectedJson<'a> {
    digest: &'a str,
    reason: &'a str,
    at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryJson<'a> {
    id: i64,
    event: &'a str,
    at: String,
    digest: &'a str,
    version: &'a str,
    processor: &'a str,
    reason: &'a str,
    replaced: &'a str,
    replaced_last: Option<i64>,
    first: Option<i64>,
    gap_ms: Option<f64>,
    lanes: Option<i64>,
    longest_ms: Option<f64>,
    dry_run: Option<&'a DryRunReport>,
}

/// Runs the command.
pub(super) async fn run(args: PluginsArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let mut session = connect(db, "plugins").await?;
    match args.command {
        None => {
            let plugins = history::list(&session).await.map_err(|error| with_remedy(&error))?;
            let problems = history::problems(&session).await.map_err(|error| with_remedy(&error))?;
            if args.json {
                let replaced = history::replacements(&plugins);
                let listed = plugins.iter().map(|listed| listed_json(listed, &replaced));
                let plugins: Vec<PluginJson<'_>> = listed.collect();
                let not_run: Vec<NotRunJson<'_>> = problems.iter().map(not_run_json).collect();
                output::print_json(&serde_json::json!({ "plugins": plugins, "notRun": not_run }))?;
            } else {
                let table = show(&plugins, OutputStyle::stdout(), SystemTime::now());
                let replaced = history::replacements(&plugins);
                output::print(&format!("{table}{}{}", show_replaced(&replaced), show_problems(&problems)))?;
            }
        }
        Some(PluginsCommand::History(args)) => {
            let past = past(&session, &args.plugin, args.limit.into()).await?;
            if args.json {
                let past: Vec<HistoryJson<'_>> = past.iter().map(past_json).collect();
                output::print_json(&serde_json::json!({ "history": past }))?;
            } else {
                output::print(&show_past(&past, OutputStyle::stdout()))?;
            }
        }
        Some(PluginsCommand::Show(args)) => {
            let listed = one(&session, &args.plugin).await?;
            let past = past(&session, &args.plugin, 5).await?;
            let style = OutputStyle::stdout();
            output::print(&format!("{}\n{}", show(&[listed], style, SystemTime::now()), show_past(&past, style)))?;
        }
        Some(PluginsCommand::Rollback(args)) => roll_back(&mut session, args).await?,
        Some(PluginsCommand::Retry(args)) => {
            let released = retry(&mut session, &args.plugin).await.map_err(|error| with_remedy(&error))?;
            if released == 0 {
                bail!("no version of {} is rolled back; there is nothing to retry", args.plugin);
            }
            output::print(&format!("{} of {} may run again\n", output::count(released, "version"), args.plugin))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds a plugin by name. Fails if it is unknown, and lists the known ones.
async fn one(session: &Session, plugin: &str) -> anyhow::Result<PluginStatus> {
    let plugins = history::list(session).await.map_err(|error| with_remedy(&error))?;
    let names: Vec<String> = plugins.iter().map(|listed| listed.plugin.clone()).collect();
    let found = plugins.into_iter().find(|listed| listed.plugin == plugin);
    found.with_context(|| format!("there is no plugin {plugin}; known plugins: {}", names.join(", ")))
}

/// Reads the latest changes of a plugin.
async fn past(session: &Session, plugin: &str, limit: i64) -> anyhow::Result<Vec<HistoryEntry>> {
    let past = history::entries(session, plugin, limit).await.map_err(|error| with_remedy(&error))?;
    if past.is_empty() {
        // Fails if the plugin is unknown, and lists the known ones.
        one(session, plugin).await?;
    }
    Ok(past)
}

/// Lets the versions of a plugin that were rolled back run again. Returns their number.
async fn retry(session: &mut Session, plugin: &str) -> Result<u64, Error> {
    let listed = history::list(session).await?;
    let processor = listed.iter().find(|listed| listed.plugin == plugin).and_then(processor_of);
    let transaction = session.client_mut().transaction().await?;
    let released = history::release_holds(&transaction, plugin).await?;
    if released > 0 {
        let details = json!({ "plugin": plugin, "versions": released });
        record(&transaction, "plugins retry", plugin, processor.as_ref(), details).await?;
    }
    transaction.commit().await?;
    Ok(released)
}

/// The processor that a plugin runs or ran as, if it is known.
fn processor_of(listed: &PluginStatus) -> Option<ProcessorId> {
    ProcessorId::parse(&listed.processor).ok()
}

/// Records a change to a plugin in the audit log.
async fn record(
    transaction: &Transaction<'_>,
    command: &str,
    plugin: &str,
    processor: Option<&ProcessorId>,
    details: Value,
) -> Result<(), Error> {
    let who = operator::name();
    // A plugin in the folder of a tenant is the tenant's, even if it never ran.
    let tenant = plugin.split_once('/').map(|(tenant, _)| tenant);
    audit::record(transaction, &AuditEntry { processor, tenant, details, ..AuditEntry::new(&who, command) }).await
}

/// Rolls back to the version before the running one, if there is one.
async fn roll_back(session: &mut Session, args: RollbackArgs) -> anyhow::Result<()> {
    let running = one(session, &args.plugin).await?;
    if !running.runs() {
        bail!("{} is not running, so it cannot be rolled back", args.plugin);
    }
    let past = history::entries(session, &args.plugin, 100).await.map_err(|error| with_remedy(&error))?;
    // A rejected file changed nothing.
    let last = past.iter().find(|past| past.event != "rejected");
    let swap = last.filter(|last| last.event == "swapped" && last.digest == running.digest);
    if swap.is_some_and(|swap| swap.replaced == swap.digest) {
        bail!("the last change of {} was to its manifest only; restore the former manifest instead", args.plugin);
    }
    let hold = VersionHold { plugin: args.plugin.clone(), digest: running.digest.clone(), reason: args.reason };
    let before = before(session, &hold, swap).await.map_err(|error| with_remedy(&error))?;
    let Some((before, is_stored)) = before else {
        bail!("no earlier version of {} is available; put the version to run into the plugins folder", args.plugin);
    };
    hold_back(session, &hold, &before, processor_of(&running).as_ref()).await.map_err(|error| with_remedy(&error))?;
    let after = if is_stored {
        "its bytes are in the database, so it also runs after a restart"
    } else {
        "its bytes are not in the database yet, so a restart needs its compiled code (compile.cache)"
    };
    output::print(&format!(
        "rolled back {0} from {1} to {2}; a running host switches now; if none runs, the next one switches when it starts\n\
         {2} runs until the file in the plugins folder changes; {after}. If it cannot run, {0}.wasm.error says why. \
         To run {1} again: sandmill plugins retry {0}\n",
        args.plugin,
        short(&running.digest),
        short(&before)
    ))?;
    Ok(())
}

/// Holds a version back in favour of an earlier one.
async fn hold_back(
    session: &mut Session,
    hold: &VersionHold,
    before: &str,
    processor: Option<&ProcessorId>,
) -> Result<(), Error> {
    let VersionHold { plugin, digest, reason } = hold;
    let transaction = session.client_mut().transaction().await?;
    if history::add_hold(&transaction, hold).await? {
        let details = json!({ "plugin": plugin, "from": digest, "to": before, "reason": reason });
        record(&transaction, "plugins rollback", plugin, processor, details).await?;
    }
    transaction.commit().await
}

/// The version to roll back to, and whether its bytes are stored; none if the host cannot run it. A
/// version that was swapped out since the processor started is still in the host's memory. Any
/// other version is looked up as the host does.
async fn before(
    session: &Session,
    rolled_back: &VersionHold,
    swap: Option<&HistoryEntry>,
) -> Result<Option<(String, bool)>, Error> {
    let VersionHold { plugin, digest, .. } = rolled_back;
    let before = match swap {
        Some(swap) => Some(swap.replaced.clone()),
        None => {
            let mut held = history::holds(session).await?;
            held.push(rolled_back.clone());
            history::latest_allowed(session, plugin, digest, &held).await?
        }
    };
    let Some(before) = before else { return Ok(None) };
    let is_stored = components::is_retained(session, plugin, &before).await?;
    Ok((is_stored || swap.is_some()).then_some((before, is_stored)))
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn when(at: SystemTime) -> String {
    time::format(at)
}

fn listed_json<'a>(listed: &'a PluginStatus, replaced: &[(&'a str, ProcessorId)]) -> PluginJson<'a> {
    let rejected = listed.rejected.as_ref();
    // If the plugin does not run, only its name is current.
    let of = |text| if listed.runs() { text } else { "" };
    PluginJson {
        plugin: &listed.plugin,
        processor: &listed.processor,
        digest: of(&listed.digest),
        version: of(&listed.version),
        contract: of(&listed.contract),
        since: when(listed.since),
        calls: listed.lanes,
        replaces: replaced.iter().find(|(_, own)| own.as_str() == listed.processor).map(|(shared, _)| *shared),
        rejected: rejected.map(|(digest, reason, at)| RejectedJson { digest, reason, at: when(*at) }),
    }
}

fn not_run_json((found, since): &(Problem, SystemTime)) -> NotRunJson<'_> {
    let Problem { path, problem, remedy } = found;
    NotRunJson { path, problem, remedy, since: when(*since) }
}

fn past_json(past: &HistoryEntry) -> HistoryJson<'_> {
    HistoryJson {
        id: past.id,
        event: &past.event,
        at: when(past.at),
        digest: &past.digest,
        version: &past.version,
        processor: &past.processor,
        reason: &past.reason,
        replaced: &past.replaced,
        replaced_last: past.replaced_last,
        first: past.first,
        gap_ms: past.gap_ms,
        lanes: past.lanes,
        longest_ms: past.longest_ms,
        dry_run: past.dry_run.as_ref(),
    }
}

/// The table of plugins, followed by the reasons of rejections.
fn show(plugins: &[PluginStatus], style: OutputStyle, now: SystemTime) -> String {
    if plugins.is_empty() {
        return "no plugin has run on this database yet\n".into();
    }
    use Column::{Number, Text};
    let columns = [
        Text("PLUGIN"),
        Text("PROCESSOR"),
        Text("VERSION"),
        Text("FILE"),
        Number("RUNS FOR"),
        Number("CALLS"),
        Text("NOTE"),
    ];
    let mut table = Table::new(Vec::from(columns));
    for listed in plugins {
        let runs = listed.runs();
        let since = now.duration_since(listed.since).unwrap_or_default().as_secs_f64();
        let tone = listed.rejected.as_ref().map(|_| if runs { Tone::Warning } else { Tone::Bad });
        let note = if listed.rejected.is_some() { "a newer file was rejected" } else { "" };
        table.row(vec![
            Cell::new(&listed.plugin),
            Cell::new(if runs { &listed.processor } else { "-" }),
            Cell::new(&listed.version),
            Cell::new(if runs { short(&listed.digest) } else { "-" }),
            Cell::new(if runs { age(since) } else { "-".into() }),
            Cell::new(listed.lanes),
            Cell::new(if runs { note } else { "rejected" }).tone(tone),
        ]);
    }
    let mut text = table.show(style);
    for listed in plugins {
        if let Some((digest, reason, _)) = &listed.rejected {
            // A plugin's message may span several lines.
            let reason = text::printable(reason).trim_end().replace('\n', "\n    ");
            text.push_str(&format!(
                "{}.wasm ({}): {reason}\n",
                listed.plugin,
                if digest.is_empty() { "unread" } else { short(digest) }
            ));
        }
    }
    text
}

/// Lists the shared processors that tenants' own processors replace, one per line.
fn show_replaced(replaced: &[(&str, ProcessorId)]) -> String {
    let line = |(shared, own): &(&str, ProcessorId)| {
        let tenant = own.owner().map(|owner| owner.as_str()).unwrap_or_default();
        format!("{own} handles the events of tenant {tenant} instead of {shared}\n")
    };
    replaced.iter().map(line).collect()
}

/// Lists the problems of the folder's other entries, which are not checked as plugins, one per
/// line.
fn show_problems(problems: &[(Problem, SystemTime)]) -> String {
    let line = |(found, _): &(Problem, SystemTime)| {
        let [path, problem, remedy] = [&found.path, &found.problem, &found.remedy].map(|shown| text::one_line(shown));
        format!("plugins folder: {path}: {problem}; {remedy}\n")
    };
    problems.iter().map(line).collect()
}

/// The reason for a change, the result of its dry run, and how long its lanes waited.
fn reason(past: &HistoryEntry) -> String {
    let reason = Some(past.reason.clone()).filter(|reason| !reason.is_empty());
    // The reason of a rejection includes the dry run.
    let dry_run = past.dry_run.as_ref().filter(|_| past.event != "rejected").map(DryRunReport::to_string);
    let lanes = past.lanes.zip(past.longest_ms).map(|(lanes, ms)| {
        let lanes = output::count(lanes as u64, "lane");
        format!("{lanes} switched, longest wait for a first result {ms:.1} ms")
    });
    [reason, dry_run, lanes].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The history of a plugin as a table.
fn show_past(past: &[HistoryEntry], style: OutputStyle) -> String {
    use Column::{Number, Text};
    let columns = [
        Text("AT"),
        Text("EVENT"),
        Text("FILE"),
        Text("INSTEAD OF"),
        Number("LAST"),
        Number("FIRST"),
        Number("GAP"),
        Text("REASON"),
    ];
    let mut table = Table::new(Vec::from(columns));
    let number = |number: Option<i64>| number.map_or(String::new(), |number| number.to_string());
    for past in past {
        let tone = matches!(past.event.as_str(), "rejected" | "rolled-back").then_some(Tone::Bad);
        table.row(vec![
            Cell::new(when(past.at)),
            Cell::new(&past.event).tone(tone),
            Cell::new(short(&past.digest)),
            Cell::new(short(&past.replaced)),
            Cell::new(number(past.replaced_last)),
            Cell::new(number(past.first)),
            Cell::new(past.gap_ms.map_or(String::new(), |gap| format!("{gap:.1} ms"))),
            Cell::new(reason(past)),
        ]);
    }
    table.show(style)
}
