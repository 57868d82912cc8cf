//! `sandmill plugins`: which plugins run, which files were refused and why, and what happened to each; and taking a version back.

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{
    database::{connect, explain},
    output::{self, Screen, Tone},
    status::age,
    table::{Cell, Column, Table},
};
use crate::{
    db::{Db, Session},
    model::{ids::ProcessorId, text},
    plugins::{
        folder::Problem,
        history::{self, DryRunReport, HistoryEntry, PluginStatus, VersionHold, components},
    },
    store::time,
};

/// Shows which plugins run and what became of their files
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A version is the first digits of its file's SHA-256. The file in the plugins folder runs as soon as it is checked; a file that is \
         refused leaves the former version running, and the reason is shown here and in NAME.wasm.error beside it. Other entries of the folder that look as if \
         they should run are listed with a remedy.

Examples:
  sandmill plugins
  sandmill plugins history cart-summary
  sandmill plugins rollback cart-summary"
)]
pub(super) struct PluginsArgs {
    #[command(subcommand)]
    command: Option<PluginsCommand>,
    /// Print one JSON object: {"plugins": [{"plugin", "processor", "digest", "version", "contract", "since", "calls", "replaces", "refused": {"digest", "why", "at"}}],
    /// "notRun": [{"path", "problem", "remedy", "since"}]}; replaces is the shared processor that a tenant's own one replaces, or null
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum PluginsCommand {
    /// Shows what happened to a plugin, the last first
    History(HistoryArgs),
    /// Shows one plugin with its last changes
    Show(ShowArgs),
    /// Takes the running version back: the one before it runs again, and stays until there is another file
    Rollback(RollbackArgs),
    /// Runs versions again that were taken back
    Retry(RetryArgs),
}

#[derive(Debug, clap::Args)]
struct HistoryArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
    /// At most so many changes
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Print one JSON object: {"history": [{"id", "event", "at", "digest", "version", "processor", "reason", "replaced", "replacedLast", "first", "gapMs", "lanes", "longestMs", "dryRun"}]}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
}

#[derive(Debug, clap::Args)]
struct RollbackArgs {
    /// The plugin: its file's name without .wasm
    plugin: String,
    /// Why, for whoever reads the history
    #[arg(long, default_value = "by a person")]
    reason: String,
}

#[derive(Debug, clap::Args)]
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
    refused: Option<RefusedJson<'a>>,
}

/// An entry of the plugins folder that is not a plugin, but looks as if it was meant to be one.
#[derive(Serialize)]
struct NotRunJson<'a> {
    path: &'a str,
    problem: &'a str,
    remedy: &'a str,
    since: String,
}

#[derive(Serialize)]
struct RefusedJson<'a> {
    digest: &'a str,
    why: &'a str,
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
    let session = connect(db, "plugins").await?;
    match args.command {
        None => {
            let plugins = history::list(&session).await.map_err(|error| explain(&error))?;
            let problems = history::problems(&session).await.map_err(|error| explain(&error))?;
            if args.json {
                let replaced = history::replacements(&plugins);
                let listed = plugins.iter().map(|listed| listed_json(listed, &replaced));
                let plugins: Vec<PluginJson<'_>> = listed.collect();
                let not_run: Vec<NotRunJson<'_>> = problems.iter().map(not_run_json).collect();
                output::print_json(&serde_json::json!({ "plugins": plugins, "notRun": not_run }))?;
            } else {
                let table = show(&plugins, Screen::stdout(), SystemTime::now());
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
                output::print(&show_past(&past, Screen::stdout()))?;
            }
        }
        Some(PluginsCommand::Show(args)) => {
            let listed = one(&session, &args.plugin).await?;
            let past = past(&session, &args.plugin, 5).await?;
            let screen = Screen::stdout();
            output::print(&format!("{}\n{}", show(&[listed], screen, SystemTime::now()), show_past(&past, screen)))?;
        }
        Some(PluginsCommand::Rollback(args)) => roll_back(&session, args).await?,
        Some(PluginsCommand::Retry(args)) => {
            let released = history::release_holds(&session, &args.plugin).await.map_err(|error| explain(&error))?;
            if released == 0 {
                bail!("no version of {} was taken back", args.plugin);
            }
            output::print(&format!("{} of {} may run again\n", output::count(released, "version"), args.plugin))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(session: &Session, plugin: &str) -> anyhow::Result<PluginStatus> {
    let plugins = history::list(session).await.map_err(|error| explain(&error))?;
    let names: Vec<String> = plugins.iter().map(|listed| listed.plugin.clone()).collect();
    let found = plugins.into_iter().find(|listed| listed.plugin == plugin);
    found.with_context(|| format!("there is no plugin {plugin}; there are: {}", names.join(", ")))
}

async fn past(session: &Session, plugin: &str, most: i64) -> anyhow::Result<Vec<HistoryEntry>> {
    let past = history::entries(session, plugin, most).await.map_err(|error| explain(&error))?;
    if past.is_empty() {
        // Says which there are.
        one(session, plugin).await?;
    }
    Ok(past)
}

/// Takes the running version back, if there is one that ran before it.
async fn roll_back(session: &Session, args: RollbackArgs) -> anyhow::Result<()> {
    let running = one(session, &args.plugin).await?;
    if !running.runs() {
        bail!("{} does not run; there is nothing to take back", args.plugin);
    }
    let past = history::entries(session, &args.plugin, 100).await.map_err(|error| explain(&error))?;
    // Files that were refused since have changed nothing.
    let last = past.iter().find(|past| past.event != "refused");
    let swap = last.filter(|last| last.event == "swapped" && last.digest == running.digest);
    if swap.is_some_and(|swap| swap.replaced == swap.digest) {
        bail!("only the manifest of {} has changed since the version before; change it back", args.plugin);
    }
    let hold = VersionHold { plugin: args.plugin.clone(), digest: running.digest.clone(), reason: args.reason };
    let before = before(session, &hold, swap).await.map_err(|error| explain(&error))?;
    let Some((before, is_stored)) = before else {
        bail!(
            "{} has run no other version that is still available; put the version to run into the plugins folder",
            args.plugin
        );
    };
    history::add_hold(session, &hold).await.map_err(|error| explain(&error))?;
    let after = if is_stored {
        "its bytes are in the database, so a restart runs it too"
    } else {
        "its bytes are not in the database yet, so a restart would need its compiled code (compile.cache)"
    };
    output::print(&format!(
        "{0}: {1} is taken back, and {2} runs again: in a host that runs now, or at the next start\nIt stays until there is another file in the plugins folder; {after}. If {2} cannot run, {0}.wasm.error says why. `sandmill plugins retry {0}` lets the other one run again.\n",
        args.plugin,
        short(&running.digest),
        short(&before)
    ))?;
    Ok(())
}

/// The version before the one that is taken back, and whether its bytes are stored; none if the
/// host could not go back to it. A version that was swapped out since the processor began is still
/// in the host's memory; any other one is found as a host finds it.
async fn before(
    session: &Session,
    taken_back: &VersionHold,
    swap: Option<&HistoryEntry>,
) -> Result<Option<(String, bool)>, crate::db::Error> {
    let VersionHold { plugin, digest, .. } = taken_back;
    let before = match swap {
        Some(swap) => Some(swap.replaced.clone()),
        None => {
            let mut held = history::holds(session).await?;
            held.push(taken_back.clone());
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
    let refused = listed.refused.as_ref();
    // Of what does not run only the file's name is news.
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
        refused: refused.map(|(digest, why, at)| RefusedJson { digest, why, at: when(*at) }),
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

fn show(plugins: &[PluginStatus], screen: Screen, now: SystemTime) -> String {
    if plugins.is_empty() {
        return "no host has run a plugin here yet\n".into();
    }
    use Column::{Number, Text};
    let columns = [
        Text("PLUGIN"),
        Text("PROCESSOR"),
        Text("VERSION"),
        Text("FILE"),
        Number("SINCE"),
        Number("CALLS"),
        Text("NOTE"),
    ];
    let mut table = Table::new(Vec::from(columns));
    for listed in plugins {
        let runs = listed.runs();
        let since = now.duration_since(listed.since).unwrap_or_default().as_secs_f64();
        let tone = listed.refused.as_ref().map(|_| if runs { Tone::Warning } else { Tone::Bad });
        let note = if listed.refused.is_some() { "another file is refused" } else { "" };
        table.row(vec![
            Cell::new(&listed.plugin),
            Cell::new(if runs { &listed.processor } else { "-" }),
            Cell::new(&listed.version),
            Cell::new(if runs { short(&listed.digest) } else { "-" }),
            Cell::new(if runs { age(since) } else { "-".into() }),
            Cell::new(listed.lanes),
            Cell::new(if runs { note } else { "refused" }).tone(tone),
        ]);
    }
    let mut text = table.show(screen);
    for listed in plugins {
        if let Some((digest, why, _)) = &listed.refused {
            // A plugin's words may span several lines.
            let why = text::printable(why).trim_end().replace('\n', "\n    ");
            text.push_str(&format!(
                "{}.wasm ({}): {why}\n",
                listed.plugin,
                if digest.is_empty() { "unread" } else { short(digest) }
            ));
        }
    }
    text
}

/// Lists the shared processors that tenants' own ones replace, one a line.
fn show_replaced(replaced: &[(&str, ProcessorId)]) -> String {
    let line = |(shared, own): &(&str, ProcessorId)| {
        let tenant = own.owner().map(|owner| owner.as_str()).unwrap_or_default();
        format!("{own} handles the events of tenant {tenant} instead of {shared}\n")
    };
    replaced.iter().map(line).collect()
}

/// Lists the entries of the plugins folder that are not run, one a line.
fn show_problems(problems: &[(Problem, SystemTime)]) -> String {
    let line = |(found, _): &(Problem, SystemTime)| {
        let [path, problem, remedy] = [&found.path, &found.problem, &found.remedy].map(|shown| text::one_line(shown));
        format!("not run: {path}: {problem}; {remedy}\n")
    };
    problems.iter().map(line).collect()
}

/// Why, what came of trying it before, and how its lanes came over.
fn why(past: &HistoryEntry) -> String {
    let reason = Some(past.reason.clone()).filter(|reason| !reason.is_empty());
    // Of what was refused it is the reason.
    let dry_run = past.dry_run.as_ref().filter(|_| past.event != "refused").map(DryRunReport::to_string);
    let came = past.lanes.zip(past.longest_ms).map(|(lanes, ms)| {
        let lanes = output::count(lanes as u64, "lane");
        format!("{lanes} came over, the longest wait for a first answer {ms:.1} ms")
    });
    [reason, dry_run, came].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn show_past(past: &[HistoryEntry], screen: Screen) -> String {
    use Column::{Number, Text};
    let columns = [
        Text("AT"),
        Text("EVENT"),
        Text("FILE"),
        Text("INSTEAD OF"),
        Number("LAST"),
        Number("FIRST"),
        Number("GAP"),
        Text("WHY"),
    ];
    let mut table = Table::new(Vec::from(columns));
    let number = |number: Option<i64>| number.map_or(String::new(), |number| number.to_string());
    for past in past {
        let tone = matches!(past.event.as_str(), "refused" | "rolled-back").then_some(Tone::Bad);
        table.row(vec![
            Cell::new(when(past.at)),
            Cell::new(&past.event).tone(tone),
            Cell::new(short(&past.digest)),
            Cell::new(short(&past.replaced)),
            Cell::new(number(past.replaced_last)),
            Cell::new(number(past.first)),
            Cell::new(past.gap_ms.map_or(String::new(), |gap| format!("{gap:.1} ms"))),
            Cell::new(why(past)),
        ]);
    }
    table.show(screen)
}
