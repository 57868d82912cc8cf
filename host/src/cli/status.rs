//! `sandmill status`: the state and lag of each processor, read from the database.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    EXIT_NEEDS_ATTENTION,
    database::{connect, with_remedy},
    output::{self, OutputStyle, Tone},
    processors::{self, RunState},
    table::{Cell, Column, Table},
};
use crate::{
    cluster::host_lock,
    db::{Db, Error, Session},
    model::{ids::ProcessorId, text, time},
    plugins::history,
    processor::status::{self, LaneBehind, LastDeadLetter, LastShed, ProcessorStatus, Status, TermError},
};

const EXAMPLES: &str = "\
Examples:
  sandmill status
  sandmill status --watch
  sandmill status --check                  exit code 6 if something needs attention
  sandmill status --lanes 1000
  sandmill status --json | jq '.processors[] | {id, lagEvents}'";

const DETAILS: &str = "\
Columns:
  STATE         see below
  LAG           events not handled yet; `≥`: there may be more, because a lane that is behind
                counts as one event, and unread events are counted up to a million
  AGE           time since the oldest of them was recorded
  RATE          events handled per second, recently
  HANDLED       events handled in total
  LANES BEHIND  lanes that are blocked, retrying, paused or catching up while others continue

--wide adds:
  READ, COMMIT  average time to read a page of the log, and to commit
  HOST MEM      memory of the whole host
  INSTANCES     live plugin instances of the whole host
  PLUGIN        the plugin's file and version, and the first digits of the file's SHA-256

States:
  up to date    nothing is pending
  behind        events are pending
  waiting       reads no events for now; a line below the table shows why
  catching-up, paused, retrying, blocked
                the worst state of its lanes; `paused` also means that the whole processor is
                paused
  failing       an error keeps ending its work; `sandmill explain` shows the remedy
  rejected, absent
                no plugin provides it; see `sandmill processors list --help`
  no host       no host is running, and events are pending or its last error is not resolved
If several apply, a state that needs attention is shown before the others.

Below the table: rejected plugin files, problems of the plugins folder, tenants' own processors
that replace shared ones, pauses, errors, dead letters and shed events. A second table shows the
first lanes behind; --lanes shows more. FOR is the time since a lane entered its state, POSITION
that of its next event.

--check: something needs attention if
  - no host is running
  - a processor is failing, rejected or absent (a tenant's own processor may be absent while the
    shared one runs)
  - a lane is blocked
  - a plugin file is rejected, or the plugins folder has a problem
Pauses, lag and automatic retries are normal. `sandmill explain --check` also counts pauses;
`status --check` does not.

Exit codes: 0 shown; 1 failed, for example because the database is unreachable; 6 something
needs attention (--check).

With --json it prints one object:
  {\"host\", \"rejectedFiles\": [{\"plugin\", \"reason\"}], \"replaced\": [{\"processor\", \"tenant\", \"by\"}],
   \"connection\": {\"encrypted\", \"protocol\"},
   \"processors\": [{\"id\", \"plugin\", \"lagEvents\", \"lagEventsAtLeast\", \"lagSeconds\", \"unreadEvents\",
     \"rate\", \"handled\", \"paused\",
     \"measures\": {\"readMs\", \"commitMs\", \"commits\", \"hostMib\", \"instances\", \"logLinesLost\"},
     \"deadLetters\", \"deadLettersAtLeast\", \"lastDeadLetter\": {\"tenant\", \"position\", \"reason\"},
     \"parkedStreams\", \"parkedEvents\", \"discarded\",
     \"shed\", \"lastShed\": {\"tenant\", \"key\", \"events\", \"at\"}, \"held\",
     \"termError\": {\"error\", \"since\", \"at\", \"times\"},
     \"lanesCounted\": {\"all\", \"blocked\", \"retrying\", \"paused\", \"catchingUp\"},
     \"lanesBehind\": [{\"tenant\", \"key\", \"state\", \"reason\", \"attempts\", \"eventPosition\",
       \"since\"}]}]}
  host              true while a host is running on this database
  rejectedFiles     \"plugin\" is the file's name without .wasm; for an entry that is not a
                    plugin, its path in the folder
  unreadEvents      events that the cursor has not passed
  paused            who paused the whole processor, and when; null if it is not paused
  held              why it reads no events for now, and since when; null while it reads
  termError         the error that keeps ending its work; null once its work succeeds again
  ...AtLeast        true if the number may be too low
  lanesBehind       the first --lanes lanes of those that lanesCounted counts";

/// Shows each processor's state and lag
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show at most this many lanes of each processor, blocked ones first
    #[arg(long, value_name = "N", default_value_t = 20)]
    lanes: u32,
    /// Exit with code 6 if something needs attention, for monitoring; the output stays the same
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// Also show each processor's plugin and the host's measurements
    #[arg(long)]
    wide: bool,
    /// Repeat every second until interrupted; with --json, one object per line
    #[arg(long)]
    watch: bool,
}

/// Time between two updates of --watch.
const WATCH: Duration = Duration::from_secs(1);
/// Maximum number of rejected files to show. 20: more would not be read.
const REJECTED: usize = 20;

/// Everything that is shown; serialized with `--json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusReport {
    /// Whether a host is running on this database.
    host: bool,
    rejected_files: Vec<RejectedFile>,
    #[serde(flatten)]
    status: Status,
    /// Shared processors that tenants' own processors replace.
    replaced: Vec<Replaced>,
    /// The processors that no host runs, by id, each with the reason.
    #[serde(skip)]
    not_running: BTreeMap<String, RunState>,
}

/// A shared processor that a tenant's own processor replaces for that tenant.
#[derive(Serialize)]
struct Replaced {
    processor: String,
    tenant: String,
    by: String,
}

impl Replaced {
    fn of((processor, own): (&str, ProcessorId)) -> Option<Self> {
        Some(Replaced { processor: processor.into(), tenant: own.owner()?.to_string(), by: own.to_string() })
    }
}

/// A rejected plugin file, or another problem of the plugins folder.
#[derive(Serialize)]
struct RejectedFile {
    plugin: String,
    reason: String,
    /// Whether it is a problem of the folder.
    #[serde(skip)]
    is_problem: bool,
}

/// Runs the command.
pub(super) async fn run(args: StatusArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "status").await?;
    loop {
        let report = StatusReport::read(&session, args.lanes.into()).await.map_err(|error| with_remedy(&error))?;
        if args.json {
            output::print_json(&report)?;
        } else {
            // Moves to the top and clears the rest, so that the table is redrawn in place.
            let home = if args.watch && stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
            output::print(&format!("{home}{}", show(&report, args.wide, OutputStyle::stdout(), SystemTime::now())))?;
        }
        if !args.watch {
            let needs_attention = args.check && report.needs_attention();
            return Ok(if needs_attention { ExitCode::from(EXIT_NEEDS_ATTENTION) } else { ExitCode::SUCCESS });
        }
        tokio::time::sleep(WATCH).await;
    }
}

impl StatusReport {
    /// Reads the report, with at most `lanes` lanes of each processor.
    async fn read(session: &Session, lanes: i64) -> Result<StatusReport, Error> {
        let status = status::read(session, lanes).await?;
        let host = host_lock::is_held(&**session).await?;
        let plugins = history::list(session).await?;
        let states = processors::states(session, &plugins, host).await?.into_iter();
        let not_running =
            states.filter(|(_, state)| *state != RunState::Running).map(|(entry, state)| (entry.id, state));
        let rejected = plugins.iter().filter_map(|listed| {
            let (_, reason, _) = listed.rejected.as_ref()?;
            Some(RejectedFile { plugin: listed.plugin.clone(), reason: reason.clone(), is_problem: false })
        });
        let problems = history::problems(session).await?.into_iter().map(|(found, _)| RejectedFile {
            plugin: found.path,
            reason: format!("{}; {}", found.problem, found.remedy),
            is_problem: true,
        });
        let rejected_files = rejected.chain(problems).collect();
        let replaced = history::replacements(&plugins).into_iter().filter(|_| host).filter_map(Replaced::of);
        Ok(StatusReport {
            host,
            rejected_files,
            replaced: replaced.collect(),
            not_running: not_running.collect(),
            status,
        })
    }

    /// Whether one of the conditions listed under `--check` holds.
    fn needs_attention(&self) -> bool {
        let is_stuck = |p: &&ProcessorStatus| {
            p.lanes_counted.blocked > 0 || p.term_error.is_some() || self.not_running.contains_key(&p.id)
        };
        let mut stuck = self.status.processors.iter().filter(is_stuck);
        !self.host || !self.rejected_files.is_empty() || stuck.any(|p| !self.shared_one_took_over(p))
    }

    /// Whether the file of a tenant's own processor is gone, and the shared processor that it
    /// replaced runs. The shared one then handles the tenant's events.
    fn shared_one_took_over(&self, p: &ProcessorStatus) -> bool {
        let shared = p.id.split_once('/').map_or("", |(_, shared)| shared);
        let runs = |other: &ProcessorStatus| other.id == shared && !self.not_running.contains_key(&other.id);
        self.not_running.get(&p.id) == Some(&RunState::Absent) && self.status.processors.iter().any(runs)
    }
}

/// The report as text: the tables, and lines about what needs explanation.
fn show(report: &StatusReport, wide: bool, style: OutputStyle, now: SystemTime) -> String {
    let StatusReport { status, not_running, .. } = report;
    let mut text = if status.processors.is_empty() {
        "no processor has run on this database yet\n".into()
    } else {
        processors(status, not_running, wide).show(style)
    };
    if !report.host {
        text.push_str("no host is running on this database; start one with `sandmill run --plugins DIR`\n");
    }
    text.push_str(&rejected(&report.rejected_files));
    for Replaced { processor, tenant, by } in &report.replaced {
        text.push_str(&format!("{by} handles the events of tenant {tenant} instead of {processor}\n"));
    }
    for p in &status.processors {
        if let Some(paused) = &p.paused {
            let paused = text::one_line(paused);
            text.push_str(&format!("{} is paused {paused}; resume it with `sandmill resume {}`\n", p.id, p.id));
        }
    }
    text.extend(status.processors.iter().filter_map(|p| failing(p, not_running.contains_key(&p.id))));
    text.extend(status.processors.iter().filter_map(waiting));
    text.extend(status.processors.iter().filter_map(dead_letters));
    text.extend(status.processors.iter().filter_map(parked));
    text.extend(status.processors.iter().filter_map(shed));
    text.extend(lost(status));
    let lanes = lanes(status, wide, now);
    if !lanes.is_empty() {
        text.push('\n');
        text.push_str(&lanes.show(style));
    }
    text.extend(status.processors.iter().filter_map(more_lanes));
    text
}

/// One line for each rejected file and each problem, with the first line of the reason.
fn rejected(files: &[RejectedFile]) -> String {
    let line = |RejectedFile { plugin, reason, is_problem }: &RejectedFile| {
        let what = if *is_problem { "plugins folder:" } else { "rejected plugin file" };
        let [plugin, reason] = [plugin, reason.lines().next().unwrap_or_default()].map(text::one_line);
        format!("{what} {plugin}: {reason}\n")
    };
    let mut text: String = files.iter().take(REJECTED).map(line).collect();
    if let Some(more) = files.len().checked_sub(REJECTED).filter(|more| *more > 0) {
        text.push_str(&format!("{}; `sandmill plugins` shows all\n", output::count(more as u64, "more rejected file")));
    }
    text
}

/// The number of lanes that the table leaves out.
fn more_lanes(p: &ProcessorStatus) -> Option<String> {
    let (all, shown) = (p.lanes_counted.all, p.lanes_behind.len());
    let more = u64::try_from(all).unwrap_or(0).checked_sub(shown as u64).filter(|more| *more > 0)?;
    let more = output::count(more, if shown == 0 { "lane" } else { "more lane" });
    Some(format!("{} has {more} behind; `sandmill status --lanes {all}` shows all\n", p.id))
}

/// A number, marked if it is a lower bound.
fn at_least(number: i64, more: bool) -> String {
    if more { format!("≥ {number}") } else { number.to_string() }
}

/// The error that keeps ending a processor's terms, or that ended its last term if it is
/// `not_running`.
fn failing(p: &ProcessorStatus, not_running: bool) -> Option<String> {
    let TermError { error, since, at, times } = p.term_error.as_ref()?;
    let (id, times) = (&p.id, output::count(u64::try_from(*times).unwrap_or(0), "time"));
    let error = text::one_line(error);
    if not_running {
        return Some(format!("{id} is not running; its last term ended at {at} with an error: {error}\n"));
    }
    Some(format!(
        "{id} is failing: its work ended {times} with an error since {since}: {error}; `sandmill explain {id}` shows the remedy\n"
    ))
}

/// The table of processors. `not_running` has those that no host runs.
fn processors(status: &Status, not_running: &BTreeMap<String, RunState>, wide: bool) -> Table {
    use Column::{Number, Text};
    let mut columns =
        vec![Text("PROCESSOR"), Text("STATE"), Number("LAG"), Number("AGE"), Number("RATE"), Number("HANDLED")];
    if wide {
        columns.extend([Number("READ"), Number("COMMIT"), Number("HOST MEM"), Number("INSTANCES")]);
    }
    columns.push(Number("LANES BEHIND"));
    if wide {
        columns.push(Text("PLUGIN"));
    }
    let mut table = Table::new(columns);
    for p in &status.processors {
        let (state, tone) = state(p, not_running.get(&p.id).copied());
        let mut cells = vec![
            Cell::new(&p.id),
            Cell::new(state).tone(Some(tone)),
            Cell::new(at_least(p.lag_events, p.lag_events_at_least)),
            Cell::new(age(p.lag_seconds)),
            Cell::new(format!("{:.0}/s", p.rate)),
            Cell::new(p.handled),
        ];
        if wide {
            cells.extend([
                Cell::new(format!("{:.1} ms", p.measures.read_ms)),
                Cell::new(format!("{:.1} ms", p.measures.commit_ms)),
                Cell::new(format!("{:.0} MiB", p.measures.host_mib)),
                Cell::new(p.measures.instances),
            ]);
        }
        cells.push(Cell::new(p.lanes_counted.all));
        if wide {
            cells.push(Cell::new(&p.plugin));
        }
        table.row(cells);
    }
    table
}

/// The dead letters of a processor.
fn dead_letters(p: &ProcessorStatus) -> Option<String> {
    let LastDeadLetter { tenant, position, reason } = p.last_dead_letter.as_ref()?;
    let (id, letters) = (&p.id, output::count(u64::try_from(p.dead_letters).unwrap_or(0), "dead letter"));
    let letters = if p.dead_letters_at_least { format!("more than {letters}") } else { letters };
    let reason = text::one_line(reason);
    Some(format!(
        "{id} has {letters} (`sandmill dead-letters list --processor {id}`); the latest, at position {position} (tenant {tenant}): {reason}\n"
    ))
}

/// The parked streams of a processor.
fn parked(p: &ProcessorStatus) -> Option<String> {
    let [streams, events] = [p.parked_streams, p.parked_events].map(|number| u64::try_from(number).unwrap_or(0));
    let (id, streams) = (&p.id, (streams > 0).then(|| output::count(streams, "parked stream"))?);
    let events = output::count(events, "waiting event");
    Some(format!("{id} has {streams} with {events} (`sandmill parked list --processor {id}`)\n"))
}

/// The reason why a processor reads no events at the moment.
fn waiting(p: &ProcessorStatus) -> Option<String> {
    let held = p.held.as_ref().filter(|_| p.paused.is_none())?;
    Some(format!("{} is {}\n", p.id, text::one_line(held)))
}

/// The events that a processor shed. Neither documents nor dead letters show them.
fn shed(p: &ProcessorStatus) -> Option<String> {
    let LastShed { tenant, events, at, .. } = p.last_shed.as_ref()?;
    let (id, all) = (&p.id, output::count(u64::try_from(p.shed).unwrap_or(0), "event"));
    Some(format!(
        "{id} has shed {all} to keep up (table sandmill.sheds); the latest, {events} of tenant {tenant}, at {at}\n"
    ))
}

/// The number of dropped log lines. Each processor reports it for the whole host.
fn lost(status: &Status) -> Option<String> {
    let lines = status.processors.iter().map(|p| p.measures.log_lines_lost).max().filter(|lines| *lines > 0)?;
    let lines = output::count(lines, "log line");
    Some(format!("the host has dropped {lines}, because its standard error was not read in time\n"))
}

/// The lanes behind. Has a column of keys only if lanes are finer than tenants.
fn lanes(status: &Status, wide: bool, now: SystemTime) -> Table {
    use Column::{Number, Text};
    let behind = || status.processors.iter().flat_map(|p| p.lanes_behind.iter().map(move |lane| (p, lane)));
    let keys = wide || behind().any(|(_, lane)| lane.key != lane.tenant);
    let mut columns = vec![Text("PROCESSOR"), Text("TENANT")];
    columns.extend(keys.then_some(Text("KEY")));
    columns.extend([Text("STATE"), Number("FOR"), Number("POSITION")]);
    columns.extend(wide.then_some(Number("ATTEMPTS")));
    columns.push(Text("REASON"));
    let mut table = Table::new(columns);
    for (p, lane) in behind() {
        let mut cells = vec![Cell::new(&p.id), Cell::new(&lane.tenant)];
        cells.extend(keys.then(|| Cell::new(&lane.key)));
        cells.push(Cell::new(&lane.state).tone(lane_tone(&lane.state)));
        cells.push(Cell::new(since(lane, now)));
        cells.push(Cell::new(lane.event_position.map_or_else(String::new, |position| position.to_string())));
        cells.extend(wide.then(|| Cell::new(lane.attempts)));
        cells.push(Cell::new(&lane.reason));
        table.row(cells);
    }
    table
}

/// The state of a processor; `not_running` is the reason if no host runs it. States that `--check`
/// counts come first, so that the table shows why it exits with code 6.
fn state(p: &ProcessorStatus, not_running: Option<RunState>) -> (&str, Tone) {
    match not_running {
        Some(reason @ (RunState::Rejected | RunState::Absent)) => return reason.words(),
        Some(reason) if p.term_error.is_some() => return reason.words(),
        None if p.term_error.is_some() => return ("failing", Tone::Bad),
        _ if p.lanes_counted.blocked > 0 => return ("blocked", Tone::Bad),
        _ if p.paused.is_some() => return ("paused", Tone::Warning),
        _ => {}
    }
    match (p.lanes_counted.worst(), not_running) {
        (Some(state), _) => (state, lane_tone(state).unwrap_or(Tone::Warning)),
        (None, Some(reason)) if p.held.is_some() || p.lag_events > 0 => reason.words(),
        (None, _) if p.held.is_some() => ("waiting", Tone::Warning),
        (None, _) if p.lag_events > 0 => ("behind", Tone::Warning),
        (None, _) => ("up to date", Tone::Good),
    }
}

fn lane_tone(state: &str) -> Option<Tone> {
    Some(if state == "blocked" { Tone::Bad } else { Tone::Warning })
}

fn since(lane: &LaneBehind, now: SystemTime) -> String {
    let Some(since) = time::parse(&lane.since).ok().map(time::from_micros) else { return lane.since.clone() };
    age(now.duration_since(since).unwrap_or_default().as_secs_f64())
}

/// A duration in the largest unit of which there are at least two.
pub(super) fn age(seconds: f64) -> String {
    let units = [("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)];
    match units.into_iter().find(|(_, unit)| seconds >= 2.0 * unit) {
        Some((name, unit)) => format!("{:.0} {name}", (seconds / unit).floor()),
        None => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked() -> StatusReport {
        let lane = LaneBehind {
            tenant: "acme".into(),
            key: "acme".into(),
            state: "blocked".into(),
            reason: "trap: wasm `unreachable` instruction executed, at door_watch::apply (src/lib.rs:41)".into(),
            attempts: 1,
            event_position: Some(17),
            since: "2026-01-02T03:04:05Z".into(),
        };
        let processor = ProcessorStatus {
            id: "door-watch".into(),
            plugin: "door-watch 0.1.0 0123456789ab".into(),
            lag_events: 12_346,
            lag_events_at_least: true,
            unread_events: 12_345,
            lag_seconds: 100_000.0,
            rate: 1234.5,
            handled: 20_000,
            paused: None,
            measures: status::Measures::default(),
            dead_letters: 0,
            dead_letters_at_least: false,
            last_dead_letter: None,
            parked_streams: 0,
            parked_events: 0,
            discarded: 0,
            shed: 0,
            last_shed: None,
            held: None,
            term_error: None,
            lanes_counted: status::LaneCounts { all: 1, blocked: 1, ..Default::default() },
            lanes_behind: vec![lane],
        };
        let status = Status { processors: vec![processor], ..Status::default() };
        StatusReport {
            host: true,
            rejected_files: Vec::new(),
            replaced: Vec::new(),
            status,
            not_running: BTreeMap::new(),
        }
    }

    #[test]
    fn it_fits_a_terminal_of_80_columns() {
        let now = time::from_micros(time::parse("2026-01-02T05:10:00Z").unwrap());
        let text = show(&blocked(), false, OutputStyle { width: Some(80), colours: false }, now);
        assert_eq!(
            text,
            "PROCESSOR   STATE        LAG   AGE    RATE  HANDLED  LANES BEHIND\n\
             door-watch  blocked  ≥ 12346  27 h  1234/s    20000             1\n\
             \n\
             PROCESSOR   TENANT  STATE    FOR  POSITION  REASON\n\
             door-watch  acme    blocked  2 h        17  trap: wasm `unreachable` instruction\n\
             \u{20}                                           executed, at door_watch::apply\n\
             \u{20}                                           (src/lib.rs:41)\n"
        );
        let wide = show(&blocked(), true, OutputStyle::PLAIN, now);
        assert!(wide.contains("INSTANCES") && wide.contains("0123456789ab") && wide.contains("KEY"), "{wide}");
    }

    #[test]
    fn dead_letters_are_reported_with_the_latest_reason() {
        let mut report = blocked();
        let letter = LastDeadLetter {
            tenant: "acme".into(),
            position: 9,
            reason: "plugin:invalid-data: missing \u{1b}[31m".into(),
        };
        (report.status.processors[0].dead_letters, report.status.processors[0].last_dead_letter) = (2, Some(letter));
        let text = show(&report, false, OutputStyle::PLAIN, SystemTime::now());
        let wanted = "door-watch has 2 dead letters (`sandmill dead-letters list --processor door-watch`); the latest, at position 9 (tenant acme): plugin:invalid-data";
        assert!(text.contains(wanted) && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn omitted_lanes_are_counted_and_term_errors_are_reported() {
        let mut report = blocked();
        let p = &mut report.status.processors[0];
        p.lanes_counted = status::LaneCounts { all: 60_000, blocked: 59_999, retrying: 1, ..Default::default() };
        (p.dead_letters, p.dead_letters_at_least) = (10_000, true);
        (p.parked_streams, p.parked_events) = (1, 17);
        p.last_dead_letter = Some(LastDeadLetter { tenant: "acme".into(), position: 9, reason: "plugin: odd".into() });
        p.term_error = Some(TermError {
            error: "permission denied for table x (SQLSTATE 42501)".into(),
            since: "2026-01-02T03:04:05Z".into(),
            at: "2026-01-02T03:05:05Z".into(),
            times: 7,
        });
        let text = show(&report, false, OutputStyle::PLAIN, SystemTime::now());
        for line in [
            "door-watch has more than 10000 dead letters",
            "door-watch has 1 parked stream with 17 waiting events (`sandmill parked list --processor door-watch`)",
            "door-watch is failing: its work ended 7 times with an error since 2026-01-02T03:04:05Z: permission denied for table x (SQLSTATE 42501); `sandmill explain door-watch`",
            "door-watch has 59999 more lanes behind; `sandmill status --lanes 60000` shows all\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains("  failing  ") && row.ends_with(" 60000"), "{text}");
    }

    #[test]
    fn a_processor_that_no_host_runs_is_not_failing() {
        let mut report = blocked();
        let p = &mut report.status.processors[0];
        (p.lanes_counted, p.lanes_behind) = (Default::default(), Vec::new());
        let shown = |report: &mut StatusReport, state: Option<RunState>| {
            report.not_running = state.map(|state| ("door-watch".to_string(), state)).into_iter().collect();
            (show(report, false, OutputStyle::PLAIN, SystemTime::now()), report.needs_attention())
        };
        let (text, needs_attention) = shown(&mut report, None);
        assert!(text.contains("  behind  ") && !needs_attention, "{text}");
        let (text, needs_attention) = shown(&mut report, Some(RunState::Absent));
        assert!(text.contains("  absent  ") && needs_attention, "{text}");
        report.status.processors[0].term_error = Some(TermError {
            error: "the database is away".into(),
            since: "2026-01-02T03:04:05Z".into(),
            at: "2026-01-02T03:05:05Z".into(),
            times: 7,
        });
        let (text, needs_attention) = shown(&mut report, None);
        assert!(text.contains("  failing  ") && needs_attention, "{text}");
        let (text, _) = shown(&mut report, Some(RunState::NoHost));
        let note = "door-watch is not running; its last term ended at 2026-01-02T03:05:05Z with an error: the database is away\n";
        assert!(text.contains("  no host  ") && text.contains(note) && !text.contains("fail"), "{text}");
    }

    #[test]
    fn a_state_that_needs_attention_is_shown_before_others() {
        let mut report = blocked();
        let shown = |report: &StatusReport| {
            let text = show(report, false, OutputStyle::PLAIN, SystemTime::now());
            (text.lines().nth(1).unwrap().to_string(), report.needs_attention())
        };
        report.status.processors[0].paused = Some("by ada since 2026".into());
        let (row, needs_attention) = shown(&report);
        assert!(row.contains("  blocked  ") && needs_attention, "{row}");
        let p = &mut report.status.processors[0];
        (p.lanes_counted, p.lanes_behind, p.lag_events) = (Default::default(), Vec::new(), 0);
        let (row, needs_attention) = shown(&report);
        assert!(row.contains("  paused  ") && !needs_attention, "{row}");
        for state in [RunState::Rejected, RunState::Absent] {
            report.not_running = [("door-watch".to_string(), state)].into();
            let (row, needs_attention) = shown(&report);
            assert!(row.contains(&format!("  {}  ", state.words().0)) && needs_attention, "{row}");
        }
    }

    #[test]
    fn shed_events_and_back_pressure_are_reported() {
        let mut report = blocked();
        let p = &mut report.status.processors[0];
        let last = LastShed { tenant: "acme".into(), key: "acme".into(), events: 7, at: "2026-01-02T03:04:05Z".into() };
        (p.shed, p.last_shed) = (12, Some(last));
        p.held = Some("waiting for slow (back-pressure lockstep) since 2026-01-02T03:04:05Z".into());
        p.lanes_behind.clear();
        p.lanes_counted = Default::default();
        let text = show(&report, false, OutputStyle::PLAIN, SystemTime::now());
        assert!(text.contains("door-watch is waiting for slow (back-pressure lockstep) since 2026"), "{text}");
        assert!(
            text.contains(
                "door-watch has shed 12 events to keep up (table sandmill.sheds); the latest, 7 of tenant acme, at 2026"
            ),
            "{text}"
        );
        assert!(text.lines().nth(1).unwrap().contains("  waiting  "), "{text}");
    }

    #[test]
    fn only_what_cannot_proceed_alone_needs_attention() {
        let mut report = blocked();
        assert!(report.needs_attention(), "a lane is blocked");
        let p = &mut report.status.processors[0];
        p.lanes_counted =
            status::LaneCounts { all: 3, retrying: 1, paused: 1, catching_up: 1, ..status::LaneCounts::default() };
        (p.paused, p.held) = (Some("by ada since 2026".into()), Some("waiting for slow".into()));
        assert!(!report.needs_attention());
        report.host = false;
        assert!(report.needs_attention());
        let rejected = RejectedFile { plugin: "x".into(), reason: "y".into(), is_problem: false };
        (report.host, report.rejected_files) = (true, vec![rejected]);
        assert!(report.needs_attention());
    }

    #[test]
    fn a_tenants_absent_processor_needs_no_attention_while_the_shared_one_runs() {
        let mut report = blocked();
        let id = report.status.processors[0].id.clone();
        report.status.processors[0].lanes_counted = Default::default();
        let own = blocked().status.processors.remove(0);
        report.status.processors.push(ProcessorStatus { id: format!("acme/{id}"), ..own });
        let absent = |id: &str| (id.to_string(), RunState::Absent);
        report.not_running = [absent(&format!("acme/{id}"))].into();
        assert!(!report.needs_attention());
        report.not_running.extend([absent(&id)]);
        assert!(report.needs_attention(), "no processor handles the events");
    }

    #[test]
    fn a_missing_host_and_rejected_files_are_reported() {
        let reason = "bad \u{1b}[31m:\n  more";
        let file = |number: usize| RejectedFile {
            plugin: format!("p{number}"),
            reason: reason.into(),
            is_problem: number == 1,
        };
        let rejected_files = (0..REJECTED + 2).map(file).collect();
        let (replaced, status, not_running) = (Vec::new(), Status::default(), BTreeMap::new());
        let report = StatusReport { host: false, rejected_files, replaced, status, not_running };
        let text = show(&report, false, OutputStyle::PLAIN, SystemTime::now());
        let begin = "no processor has run on this database yet\n\
                     no host is running on this database; start one with `sandmill run --plugins DIR`\n\
                     rejected plugin file p0: bad \u{fffd}[31m:\n\
                     plugins folder: p1: bad \u{fffd}[31m:\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(
            text.ends_with("p19: bad \u{fffd}[31m:\n2 more rejected files; `sandmill plugins` shows all\n"),
            "{text}"
        );
    }

    #[test]
    fn ages_use_the_largest_unit_of_which_there_are_two() {
        assert_eq!([0.4, 119.0, 120.0, 7_300.0, 864_000.0].map(age), ["0 s", "119 s", "2 min", "2 h", "10 d"]);
    }
}
