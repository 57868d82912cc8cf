//! `sandmill plugin test`: runs a component on events from a file and compares the resulting
//! documents, or replays a failure capsule.

mod capsule;

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    super::{
        UsageError,
        output::{self, count},
        signals::Signals,
        table,
    },
    size, verdict,
};
use crate::{
    app::{self, TestRequest, TestResult, capsule::ReplayRequest},
    config::Config,
    rehearsal::{Comparison, Excerpt, PassReport, StoppedLane, TestReport},
};

/// Tests a component on events from a file, and compares the documents it produces
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill plugin test plugins/door-watch.wasm --events events.ndjson
  sandmill plugin test plugins/door-watch.wasm --events events.ndjson --write expected.ndjson
  sandmill plugin test plugins/door-watch.wasm --events events.ndjson --expect expected.ndjson
  sandmill plugin test plugins/door-watch.wasm --capsule failure.json",
    after_help = "\
The component runs in the host's own sandbox with the same limits (--set), the settings and
limits of NAME.toml beside it, and documents in memory. No database is needed. As in a host,
[tenants.TENANT.settings] apply, and events of tenants that only-tenants leaves out are not
handled.

Passes: all events are handled four times:
  - in batches of the size with which a host begins
  - one by one (the first 50,000 events)
  - in random small batches, the same in each test
  - one by one, each in a fresh instance (the first 5,000 events)
Documents, skipped events and stops must be the same each time. The plugin's logs are shown
each time.

Events: lines as for `sandmill import`. Without an id, a line gets one from its line number;
without recordedAt, its line number in milliseconds after 1970. A line with a repeated id is
left out, as by an import.

Failures: if the plugin stops a lane or fails, the lane stays there, its later events are not
handled, and the test fails. A retry is repeated at once, three attempts in all, and then stops
the lane. A skipped event is not a failure; use --expect to check the resulting documents.

Expected documents: lines like
  {\"collection\":\"doors\",\"tenant\":\"acme\",\"id\":\"front\",\"data\":{\"people\":7}}
List all documents, in any order. Data is compared as JSON, and numbers by value.

Failure capsules: `sandmill dead-letters export` and `sandmill explain --capsule` write them. With
--capsule, the component handles the event of a capsule over its documents, with its limits and
settings. A newer build may be used, to see whether it handles the event. Documents that the
capsule does not contain are not found, and are named. With --json it prints one object;
\"outcome\" is \"reproduced\" (a failure of the same class), \"other-failure\", \"handled\" or \"ignored\":
  {\"outcome\", \"expected\": {\"class\", \"message\"}, \"found\", \"id\", \"version\", \"digest\",
   \"capsuleDigest\", \"changes\": [{\"collection\", \"id\", \"change\", \"differences\", \"before\", \"after\"}],
   \"notes\": [...]}

With --json and --events it prints one object; \"skipped\" and \"stopped\" are {\"total\", \"first\": [...]}:
  {\"good\", \"id\", \"version\", \"repeated\", \"largestInstanceBytes\", \"events\", \"unsubscribed\",
   \"handled\", \"waiting\", \"absentTypes\", \"skipped\", \"stopped\", \"documents\": {collection: count},
   \"passes\": [...], \"expectation\"}

Exit codes: 0 passed, or the plugin handled the event of the capsule; 1 failed; 2 invalid arguments or settings."
)]
pub(super) struct TestArgs {
    /// The component
    file: PathBuf,
    /// The events: JSON lines, optionally compressed with gzip; `-` for standard input
    #[arg(long, value_name = "FILE", required_unless_present = "capsule")]
    events: Option<PathBuf>,
    /// The documents expected in the end: JSON lines
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write the documents of the first pass to this file, in the format of --expect
    #[arg(short = 'o', long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Replay the failure in this capsule instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["events", "expect", "write"])]
    capsule: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: TestArgs, config: Config, signals: &Signals) -> anyhow::Result<ExitCode> {
    let TestArgs { file, events, expect, write, capsule, json } = args;
    let events = match (capsule, events) {
        (Some(capsule), _) => return capsule::run(&config, ReplayRequest { file, capsule }, json, signals).await,
        (None, Some(events)) => events,
        (None, None) => {
            return Err(UsageError("name the events with --events, or a capsule with --capsule".into()).into());
        }
    };
    let request = TestRequest { file, events, expect, write };
    let Some(result) = app::test(&config, &request, signals.first()).await? else { return Ok(signals.exit_code()) };
    if json {
        output::print_json(&TestResultJson::of(&result))?;
    } else {
        output::print_plain(&report_text(&request, &result, config.limits.memory_mib))?;
    }
    Ok(verdict(result.report.is_good()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TestResultJson<'a> {
    good: bool,
    id: &'a str,
    version: &'a str,
    repeated: u64,
    largest_instance_bytes: usize,
    #[serde(flatten)]
    report: &'a TestReport,
}

impl<'a> TestResultJson<'a> {
    fn of(result: &'a TestResult) -> Self {
        TestResultJson {
            good: result.report.is_good(),
            id: result.spec.id.as_str(),
            version: &result.spec.descriptor.version,
            repeated: result.repeated,
            largest_instance_bytes: result.largest_instance_bytes,
            report: &result.report,
        }
    }
}

/// The result of a test as text.
fn report_text(request: &TestRequest, result: &TestResult, memory_mib: usize) -> String {
    let TestResult { spec, report, repeated, largest_instance_bytes } = result;
    let mut text = String::new();
    let mut print = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    print(format!("{} {} on {}", spec.id, spec.descriptor.version, request.events.display()));

    let mut counts = format!("  {}, {} handled", count(report.events as u64, "event"), report.handled);
    for (number, what) in [
        (report.skipped.total as u64, "of them skipped"),
        (report.unsubscribed as u64, "of other types or tenants"),
        (report.waiting, "not handled because their lane stopped"),
        (*repeated, "left out because of a repeated id"),
    ] {
        if number > 0 {
            counts.push_str(&format!(", {number} {what}"));
        }
    }
    print(counts);
    let documents: Vec<String> = report.documents.iter().map(|(name, count)| format!("{count} in {name}")).collect();
    print(format!("  documents: {}", if documents.is_empty() { "none".into() } else { documents.join(", ") }));
    print(format!("  largest instance: {} of at most {memory_mib} MiB", size(*largest_instance_bytes as u64)));
    let rows: Vec<Vec<String>> = report.passes.iter().map(row).collect();
    print(table(&rows).trim_end().into());

    let skipped = report.skipped.first.iter().map(|skipped| {
        format!("line {}, tenant {}: {}: {}", skipped.line, skipped.tenant, skipped.class, skipped.message)
    });
    list(&mut print, "skipped", report.skipped.total, skipped);
    list(&mut print, "stopped", report.stopped.total, report.stopped.first.iter().map(stop));
    if !report.absent_types.is_empty() {
        print(format!("\nnote: no event has the type {}", report.absent_types.join(" or ")));
    }
    if let Some(first) = report.passes.first() {
        for pass in report.passes.iter().filter(|pass| !pass.is_same()) {
            print(format!(
                "\nthe result depends on batching: {} gave a different result from {}",
                pass.batching, first.batching
            ));
            compared(&mut print, &pass.documents, ["first", "here"]);
            let fates = pass
                .fates
                .first
                .iter()
                .map(|fate| format!("line {}: first it {}, here it {}", fate.line, fate.first, fate.here));
            list(&mut print, "events with another result", pass.fates.total, fates);
        }
    }
    if let (Some(expectation), Some(path)) = (&report.expectation, &request.expect) {
        if expectation.is_same() {
            print(format!("\nall documents match {}", path.display()));
        } else {
            print(format!("\nthe documents do not match {}", path.display()));
            compared(&mut print, expectation, ["expected", "found"]);
        }
    }
    if let Some(path) = &request.write {
        print(format!("\nthe documents were written to {}", path.display()));
    }
    print(format!("\n{}", conclusion(report)));
    text
}

/// The row of a pass in the table of passes.
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

/// A stopped lane as a line of text.
fn stop(stop: &StoppedLane) -> String {
    let StoppedLane { line, tenant, lane, event_type, class, message, attempts, .. } = stop;
    let lane = if lane == tenant { String::new() } else { format!(", lane {lane}") };
    let attempts = attempts.map(|attempts| format!(" (after {attempts} attempts)")).unwrap_or_default();
    format!("line {line}, tenant {tenant}{lane}, type {event_type}: {class}: {message}{attempts}")
}

/// The differences between documents, the first few of each kind.
fn compared(print: &mut impl FnMut(String), comparison: &Comparison, [one, other]: [&str; 2]) {
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
    list(print, "differing", differing.total, places);
    for (what, Excerpt { total, first }) in [("missing", missing), ("unexpected", unexpected)] {
        list(print, what, *total, first.iter().map(name));
    }
}

/// Prints a counted list of lines under a heading, if it is not empty.
fn list(print: &mut impl FnMut(String), what: &str, total: usize, lines: impl ExactSizeIterator<Item = String>) {
    if total == 0 {
        return;
    }
    let shown = lines.len();
    print(format!("\n{what}: {total}{}", if shown < total { format!(", the first {shown}:") } else { ":".into() }));
    // A plugin's message may span several lines.
    lines.for_each(|line| print(format!("  {}", line.replace('\n', "\n    "))));
}

/// The last line of a report: passed, or what to correct.
fn conclusion(report: &TestReport) -> String {
    let mut problems = Vec::new();
    if report.handled == 0 && report.stopped.total == 0 {
        problems.push("no event was handled; check that the file has events of the types that the plugin handles");
    }
    if report.stopped.total > 0 {
        problems.push("lanes stopped; make the plugin handle those events, or skip those that it cannot handle");
    }
    if !report.is_same_every_time() {
        problems.push(
            "the result depends on batching; make it depend only on events and documents, never on a batch's length or on an \
             instance's memory",
        );
    }
    if report.expectation.as_ref().is_some_and(|expectation| !expectation.is_same()) {
        problems.push("the documents are not as expected");
    }
    if problems.is_empty() {
        "ok: the result does not depend on how events are batched".into()
    } else {
        format!("failed: {}", problems.join(". "))
    }
}
