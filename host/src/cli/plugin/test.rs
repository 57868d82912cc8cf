//! `sandmill plugin test`: a component on events from a file, and what it makes of them.

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    super::{
        output::{self, count},
        signals::Signals,
        table,
    },
    size, verdict,
};
use crate::{
    app::{self, TestRequest, TestResult},
    config::Config,
    rehearsal::{Comparison, Excerpt, PassReport, StoppedLane, TestReport},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The component runs in the host's own sandbox, under the same limits (--set) and with the settings and limits of NAME.toml beside it, with documents in memory. No database is needed. \
         Which tenants that file names does not matter here.

All events are handled four times: in batches as large as a host makes them at first, one by one (the first 50,000 events), in random small \
         batches (always the same), and one by one in a fresh instance each (the first 5,000 events). Documents, skipped events and stops must be the same every time. \
         What the plugin logs is shown each time.

Events are lines as `sandmill import` takes them. One without an id has one made from its line number, and one without recordedAt was recorded \
         so many milliseconds after 1970 as its line's number. An id that was there already is skipped, as an import does.

A lane that the plugin stops, or that fails, stays where it is: its further events are not handled, and the test has failed. A retry is tried again \
         at once, three times in all, and then stops the lane. An event that the plugin skips is no failure; write down what should be left with --expect.

Expected documents are lines like {\"collection\":\"doors\",\"tenant\":\"acme\",\"id\":\"front\",\"data\":{\"people\":7}}, all that there should be, in any order. \
         Data is compared as JSON and numbers by value.

Exit codes: 0 all is as it should be, 1 it is not, 2 wrong arguments or settings.

Examples:
  sandmill plugin test plugins/door-watch.wasm --events events.ndjson --write expected.ndjson
  sandmill plugin test plugins/door-watch.wasm --events events.ndjson --expect expected.ndjson"
)]
pub(super) struct TestArgs {
    /// The component
    file: PathBuf,
    /// The events: NDJSON, plain or compressed with gzip; `-` for standard input
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// The documents that there should be in the end: NDJSON
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write the documents of the first run there, in the form that --expect takes
    #[arg(short = 'o', long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Print one JSON object: {"good", "id", "version", "repeated", "largestInstanceBytes", "events", "otherTypes", "handled", "waiting",
    /// "absentTypes", "skipped", "stopped", "documents": {collection: count}, "passes": […], "expectation"}; skipped and stopped are
    /// {"total", "first": […]}
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: TestArgs, config: Config, signals: &Signals) -> anyhow::Result<ExitCode> {
    let TestArgs { file, events, expect, write, json } = args;
    let request = TestRequest { file, events, expect, write };
    let Some(result) = app::test(&config, &request, signals.first()).await? else { return Ok(signals.exit_code()) };
    if json {
        output::print_json(&ForMachines::of(&result))?;
    } else {
        output::print_plain(&for_people(&request, &result, config.limits.memory_mib))?;
    }
    Ok(verdict(result.report.is_good()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForMachines<'a> {
    good: bool,
    id: &'a str,
    version: &'a str,
    repeated: u64,
    largest_instance_bytes: usize,
    #[serde(flatten)]
    report: &'a TestReport,
}

impl<'a> ForMachines<'a> {
    fn of(result: &'a TestResult) -> Self {
        ForMachines {
            good: result.report.is_good(),
            id: result.spec.id.as_str(),
            version: &result.spec.version,
            repeated: result.repeated,
            largest_instance_bytes: result.largest_instance_bytes,
            report: &result.report,
        }
    }
}

fn for_people(request: &TestRequest, result: &TestResult, memory_mib: usize) -> String {
    let TestResult { spec, report, repeated, largest_instance_bytes } = result;
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    say(format!("{} {} on {}", spec.id, spec.version, request.events.display()));

    let mut counts = format!("  {}, {} handled", count(report.events as u64, "event"), report.handled);
    for (number, what) in [
        (report.skipped.total as u64, "of them skipped"),
        (report.other_types as u64, "of types it does not take"),
        (report.waiting, "behind a stop"),
        (*repeated, "left out as their id was there already"),
    ] {
        if number > 0 {
            counts.push_str(&format!(", {number} {what}"));
        }
    }
    say(counts);
    let documents: Vec<String> = report.documents.iter().map(|(name, count)| format!("{count} in {name}")).collect();
    say(format!("  documents: {}", if documents.is_empty() { "none".into() } else { documents.join(", ") }));
    say(format!("  largest instance: {} of the {memory_mib} MiB it may have", size(*largest_instance_bytes as u64)));
    let rows: Vec<Vec<String>> = report.passes.iter().map(row).collect();
    say(table(&rows).trim_end().into());

    let skipped = report.skipped.first.iter().map(|skipped| {
        format!("line {}, tenant {}: {}: {}", skipped.line, skipped.tenant, skipped.class, skipped.message)
    });
    list(&mut say, "skipped", report.skipped.total, skipped);
    list(&mut say, "stopped", report.stopped.total, report.stopped.first.iter().map(stop));
    if !report.absent_types.is_empty() {
        say(format!("\nnote: no event has the type {}", report.absent_types.join(" or ")));
    }
    if let Some(first) = report.passes.first() {
        for pass in report.passes.iter().filter(|pass| !pass.is_same()) {
            say(format!(
                "\nit depends on where a batch ends: {} lead to another outcome than {}",
                pass.batching, first.batching
            ));
            compared(&mut say, &pass.documents, ["first", "here"]);
            let fates = pass
                .fates
                .first
                .iter()
                .map(|fate| format!("line {}: first it {}, here it {}", fate.line, fate.first, fate.here));
            list(&mut say, "events that went otherwise", pass.fates.total, fates);
        }
    }
    if let (Some(expectation), Some(path)) = (&report.expectation, &request.expect) {
        if expectation.is_same() {
            say(format!("\nall documents are as {} expects them", path.display()));
        } else {
            say(format!("\nthe documents are not as {} expects them", path.display()));
            compared(&mut say, expectation, ["expected", "found"]);
        }
    }
    if let Some(path) = &request.write {
        say(format!("\nthe documents are in {}", path.display()));
    }
    say(format!("\n{}", last_word(report)));
    text
}

fn row(pass: &PassReport) -> Vec<String> {
    let PassReport { batching, batches, seconds, events_per_second, .. } = pass;
    vec![
        format!("  {batching}"),
        count(*batches, "call"),
        format!("{seconds:.2} s"),
        format!("{events_per_second:.0} events/s"),
        if pass.is_same() { String::new() } else { "differs".into() },
    ]
}

fn stop(stop: &StoppedLane) -> String {
    let StoppedLane { line, tenant, lane, event_type, class, message, attempts, .. } = stop;
    let lane = if lane == tenant { String::new() } else { format!(", lane {lane}") };
    let tries = attempts.map(|tries| format!(" (tried {tries} times)")).unwrap_or_default();
    format!("line {line}, tenant {tenant}{lane}, type {event_type}: {class}: {message}{tries}")
}

/// What differs between documents: of each kind the first few.
fn compared(say: &mut impl FnMut(String), comparison: &Comparison, [one, other]: [&str; 2]) {
    let Comparison { missing, unexpected, differing } = comparison;
    let name =
        |name: &crate::rehearsal::DocumentName| format!("{} tenant {} id {}", name.collection, name.tenant, name.id);
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
    let places = differing.first.iter().map(|document| {
        let difference = &document.difference;
        let at = if difference.path.is_empty() { String::new() } else { format!(" at {}", difference.path) };
        format!(
            "{}{at}: {one} {}, {other} {}",
            name(&document.name),
            shown(&difference.expected),
            shown(&difference.found)
        )
    });
    list(say, "differing", differing.total, places);
    for (what, Excerpt { total, first }) in [("missing", missing), ("unexpected", unexpected)] {
        list(say, what, *total, first.iter().map(name));
    }
}

fn list(say: &mut impl FnMut(String), what: &str, total: usize, lines: impl ExactSizeIterator<Item = String>) {
    if total == 0 {
        return;
    }
    let shown = lines.len();
    say(format!("\n{what}: {total}{}", if shown < total { format!(", the first {shown}:") } else { ":".into() }));
    // Guests' words may have lines of their own.
    lines.for_each(|line| say(format!("  {}", line.replace('\n', "\n    "))));
}

fn last_word(report: &TestReport) -> String {
    let mut problems = Vec::new();
    if report.handled == 0 && report.stopped.total == 0 {
        problems.push("no event was handled; see whether the file holds events of the types that the plugin takes");
    }
    if report.stopped.total > 0 {
        problems.push("lanes stopped; make the plugin handle those events, or skip what it cannot handle");
    }
    if !report.is_same_every_time() {
        problems.push(
            "the outcome depends on batches; let it follow from events and documents alone, never from a batch's length or from what an \
             instance remembers",
        );
    }
    if report.expectation.as_ref().is_some_and(|expectation| !expectation.is_same()) {
        problems.push("documents are not as expected");
    }
    if problems.is_empty() {
        "ok: the outcome is the same however events are batched".into()
    } else {
        format!("failed: {}", problems.join(". "))
    }
}
