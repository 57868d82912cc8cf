//! `sandmill status`: how every processor stands, as the database tells.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    EXIT_NEEDS_A_PERSON,
    database::{connect, explain},
    output::{self, Screen, Tone},
    processors::{self as roster, State},
    table::{Cell, Column, Table},
};
use crate::{
    cluster::host_lock,
    db::{Db, Error, Session},
    model::{ids::ProcessorId, text},
    plugins::history,
    processor::status::{self, LaneBehind, LastDeadLetter, LastShed, ProcessorStatus, Status, TermError},
    store::time,
};

/// Shows how every processor stands
#[derive(Debug, clap::Args)]
#[command(
    after_help = "STATE is `paused`; or `failing` while its terms end with errors; or the worst state of its lanes (blocked, retrying, paused, catching-up); or `waiting` while it reads nothing because others are slow; \
         `behind` while events are waiting; `up to date`. A processor that nothing runs is `refused`, `absent` or `no host` (see `sandmill processors list --help`) instead of failing, waiting or behind. LAG counts unhandled events, AGE is how long ago the first of them was recorded, RATE is how many were handled per second lately. \
         `≥` marks a number that may be too low: of each lane behind, only the first event is counted. \
         Lines below name errors that end terms, and events that were set aside as dead letters. Plugin files that the host does not run are named with the reason, and shared processors that a tenant's own one replaces are named with it. A second table shows the first lanes of each processor that are behind, and why; --lanes shows more.

Exit codes: 0 shown; 1 failed, as when the database is away; with --check also 6 if something needs a person: no host runs, a processor is `failing`, `refused` \
         or `absent` (but for a tenant's own one whose events the shared one handles again), a lane is `blocked`, or a plugin file is refused. What a person paused, and what is behind or retries by itself, is well.

Examples:
  sandmill status
  sandmill status --watch
  sandmill status --check
  sandmill status --lanes 1000
  sandmill status --json | jq '.processors[] | {id, lagEvents}'"
)]
pub(super) struct StatusArgs {
    /// Print one JSON object: {"host", "refusedFiles": [{"plugin", "reason"}], "replaced":
    /// [{"processor", "tenant", "by"}], "connection": {"encrypted", "protocol"}, "processors": [{"id", "plugin", "lagEvents", "lagEventsAtLeast",
    /// "lagSeconds", "unreadEvents", "rate", "handled", "paused", "measures": {"readMs",
    /// "commitMs", "commits", "hostMib", "instances", "logLinesLost"}, "deadLetters",
    /// "deadLettersAtLeast", "lastDeadLetter": {"tenant", "position", "reason"}, "shed",
    /// "lastShed": {"tenant", "key", "events", "at"}, "held", "termError": {"error", "since", "at",
    /// "times"}, "lanesCounted": {"all", "blocked", "retrying", "paused", "catchingUp"},
    /// "lanesBehind": [{"tenant", "key", "state", "reason", "attempts", "eventPosition",
    /// "since"}]}]}; host is true while a host runs on this database, a refused file's plugin is
    /// its name without .wasm or the path of another entry of the plugins folder, unreadEvents
    /// counts events that the cursor has not passed, lanesBehind has the first --lanes of those
    /// that lanesCounted counts, and a number whose AtLeast is true may be too low
    #[arg(long)]
    json: bool,
    /// Show at most this many lanes of each processor, blocked ones first
    #[arg(long, value_name = "N", default_value_t = 20)]
    lanes: u32,
    /// Exit with code 6 if something needs a person, for monitoring; what is printed stays the same
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// Also show plugins, and what their host measures
    #[arg(long)]
    wide: bool,
    /// Again every second, until interrupted; with --json an object a line
    #[arg(long)]
    watch: bool,
}

/// Between two looks of --watch.
const WATCH: Duration = Duration::from_secs(1);
/// Refused files that are shown. Default 20: as many as a person reads.
const REFUSED: usize = 20;

/// All that is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    /// Whether a host works on this database.
    host: bool,
    refused_files: Vec<RefusedFile>,
    #[serde(flatten)]
    status: Status,
    /// Shared processors that a tenant's own one replaces.
    replaced: Vec<Replaced>,
    /// The processors that nothing runs, by id, with the reason.
    #[serde(skip)]
    idle: BTreeMap<String, State>,
}

/// A shared processor that a tenant's own one replaces.
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

/// An entry of the plugins folder that the host does not run.
#[derive(Serialize)]
struct RefusedFile {
    plugin: String,
    reason: String,
}

/// Runs the command.
pub(super) async fn run(args: StatusArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "status").await?;
    loop {
        let seen = Seen::read(&session, args.lanes.into()).await.map_err(|error| explain(&error))?;
        if args.json {
            output::print_json(&seen)?;
        } else {
            // Home, and everything below cleared: the table stands still while its numbers change.
            let home = if args.watch && stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
            output::print(&format!("{home}{}", show(&seen, args.wide, Screen::stdout(), SystemTime::now())))?;
        }
        if !args.watch {
            let alarm = args.check && seen.needs_a_person();
            return Ok(if alarm { ExitCode::from(EXIT_NEEDS_A_PERSON) } else { ExitCode::SUCCESS });
        }
        tokio::time::sleep(WATCH).await;
    }
}

impl Seen {
    /// Reads it, with at most so many lanes of each processor.
    async fn read(session: &Session, lanes: i64) -> Result<Seen, Error> {
        let status = status::read(session, lanes).await?;
        let host = host_lock::is_held(&**session).await?;
        let plugins = history::list(session).await?;
        let states = roster::states(session, &plugins, host).await?.into_iter();
        let idle = states.filter(|(_, state)| *state != State::Running).map(|(entry, state)| (entry.id, state));
        let refused = plugins.iter().filter_map(|listed| {
            let (_, reason, _) = listed.refused.as_ref()?;
            Some(RefusedFile { plugin: listed.plugin.clone(), reason: reason.clone() })
        });
        let problems = history::problems(session).await?.into_iter().map(|(found, _)| RefusedFile {
            plugin: found.path,
            reason: format!("{}; {}", found.problem, found.remedy),
        });
        let refused_files = refused.chain(problems).collect();
        let replaced = history::replacements(&plugins).into_iter().filter(|_| host).filter_map(Replaced::of);
        Ok(Seen { host, refused_files, replaced: replaced.collect(), idle: idle.collect(), status })
    }

    /// Whether something does not move, and will not by itself.
    fn needs_a_person(&self) -> bool {
        let is_ill = |p: &&ProcessorStatus| {
            p.lanes_counted.blocked > 0 || p.term_error.is_some() || self.idle.contains_key(&p.id)
        };
        let mut ill = self.status.processors.iter().filter(is_ill);
        !self.host || !self.refused_files.is_empty() || ill.any(|p| !self.is_superseded(p))
    }

    /// Whether the file of a tenant's own processor is gone while the shared one that it replaced runs,
    /// and so handles the tenant's events.
    fn is_superseded(&self, p: &ProcessorStatus) -> bool {
        let shared = p.id.split_once('/').map_or("", |(_, shared)| shared);
        let runs = |other: &ProcessorStatus| other.id == shared && !self.idle.contains_key(&other.id);
        self.idle.get(&p.id) == Some(&State::Absent) && self.status.processors.iter().any(runs)
    }
}

fn show(seen: &Seen, wide: bool, screen: Screen, now: SystemTime) -> String {
    let Seen { status, idle, .. } = seen;
    let mut text = if status.processors.is_empty() {
        "no processor has run on this database yet\n".into()
    } else {
        processors(status, idle, wide).show(screen)
    };
    if !seen.host {
        text.push_str("no host runs on this database; start one with `sandmill run --plugins DIR`\n");
    }
    text.push_str(&refused(&seen.refused_files));
    for Replaced { processor, tenant, by } in &seen.replaced {
        text.push_str(&format!("{by} handles the events of tenant {tenant} instead of {processor}\n"));
    }
    for p in &status.processors {
        if let Some(paused) = &p.paused {
            let paused = text::one_line(paused);
            text.push_str(&format!("{} is paused {paused}; `sandmill resume {}` lets it go on\n", p.id, p.id));
        }
    }
    text.extend(status.processors.iter().filter_map(|p| failing(p, idle.contains_key(&p.id))));
    text.extend(status.processors.iter().filter_map(held));
    text.extend(status.processors.iter().filter_map(set_aside));
    text.extend(status.processors.iter().filter_map(shed));
    text.extend(lost(status));
    let lanes = lanes(status, wide, now);
    if !lanes.is_empty() {
        text.push('\n');
        text.push_str(&lanes.show(screen));
    }
    text.extend(status.processors.iter().filter_map(more_lanes));
    text
}

/// Notes on the files that the host does not run, each with the first line of the reason.
fn refused(files: &[RefusedFile]) -> String {
    let line = |RefusedFile { plugin, reason }: &RefusedFile| {
        let [plugin, reason] = [plugin, reason.lines().next().unwrap_or_default()].map(text::one_line);
        format!("a file is refused: {plugin}: {reason}\n")
    };
    let mut text: String = files.iter().take(REFUSED).map(line).collect();
    if let Some(more) = files.len().checked_sub(REFUSED).filter(|more| *more > 0) {
        text.push_str(&format!("{} refused; `sandmill plugins` shows all\n", output::count(more as u64, "more file")));
    }
    text
}

/// A note on the lanes that the table leaves out.
fn more_lanes(p: &ProcessorStatus) -> Option<String> {
    let (all, shown) = (p.lanes_counted.all, p.lanes_behind.len());
    let more = u64::try_from(all).unwrap_or(0).checked_sub(shown as u64).filter(|more| *more > 0)?;
    let more = output::count(more, if shown == 0 { "lane" } else { "more lane" });
    Some(format!("{} has {more} behind; `sandmill status --lanes {all}` shows all of them\n", p.id))
}

/// A number, marked if it may be too low.
fn at_least(number: i64, more: bool) -> String {
    if more { format!("≥ {number}") } else { number.to_string() }
}

/// A note on the error that keeps ending a processor's terms, or that ended its last one before it
/// became `idle`.
fn failing(p: &ProcessorStatus, idle: bool) -> Option<String> {
    let TermError { error, since, at, times } = p.term_error.as_ref()?;
    let (id, terms) = (&p.id, output::count(u64::try_from(*times).unwrap_or(0), "term"));
    let error = text::one_line(error);
    if idle {
        return Some(format!("{id} does not run; its last term ended at {at} with an error: {error}\n"));
    }
    Some(format!("{id} fails, {terms} since {since}: {error}; `sandmill explain` says what to do\n"))
}

fn processors(status: &Status, idle: &BTreeMap<String, State>, wide: bool) -> Table {
    use Column::{Number, Text};
    let mut columns =
        vec![Text("PROCESSOR"), Text("STATE"), Number("LAG"), Number("AGE"), Number("RATE"), Number("HANDLED")];
    if wide {
        columns.extend([Number("READ"), Number("COMMIT"), Number("HOST"), Number("INSTANCES")]);
    }
    columns.push(Number("LANES BEHIND"));
    if wide {
        columns.push(Text("PLUGIN"));
    }
    let mut table = Table::new(columns);
    for p in &status.processors {
        let (state, tone) = state(p, idle.get(&p.id).copied());
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

/// What a processor set aside: its lanes went on, so that no other line tells of it.
fn set_aside(p: &ProcessorStatus) -> Option<String> {
    let LastDeadLetter { tenant, position, reason } = p.last_dead_letter.as_ref()?;
    let (id, events) = (&p.id, output::count(u64::try_from(p.dead_letters).unwrap_or(0), "event"));
    let events = if p.dead_letters_at_least { format!("more than {events}") } else { events };
    let reason = text::one_line(reason);
    Some(format!(
        "{id} set {events} aside (table sandmill.dead_letters); the last, at position {position} of tenant {tenant}: {reason}\n"
    ))
}

/// Why a processor reads nothing although there may be more.
fn held(p: &ProcessorStatus) -> Option<String> {
    let held = p.held.as_ref().filter(|_| p.paused.is_none())?;
    Some(format!("{} is {}\n", p.id, text::one_line(held)))
}

/// The events that a processor shed: no document and no dead letter shows them.
fn shed(p: &ProcessorStatus) -> Option<String> {
    let LastShed { tenant, events, at, .. } = p.last_shed.as_ref()?;
    let (id, all) = (&p.id, output::count(u64::try_from(p.shed).unwrap_or(0), "event"));
    Some(format!("{id} shed {all} to keep up (table sandmill.sheds); the last, {events} of tenant {tenant}, at {at}\n"))
}

/// A note on lost log lines. Each processor reports for the whole host.
fn lost(status: &Status) -> Option<String> {
    let lines = status.processors.iter().map(|p| p.measures.log_lines_lost).max().filter(|lines| *lines > 0)?;
    let lines = output::count(lines, "log line");
    Some(format!("the host has lost {lines}, because its standard error did not take them in time\n"))
}

/// The lanes behind; keys stand there only where lanes are finer than tenants.
fn lanes(status: &Status, wide: bool, now: SystemTime) -> Table {
    use Column::{Number, Text};
    let behind = || status.processors.iter().flat_map(|p| p.lanes_behind.iter().map(move |lane| (p, lane)));
    let keys = wide || behind().any(|(_, lane)| lane.key != lane.tenant);
    let mut columns = vec![Text("PROCESSOR"), Text("TENANT")];
    columns.extend(keys.then_some(Text("KEY")));
    columns.extend([Text("STATE"), Number("SINCE"), Number("EVENT")]);
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

/// The state of a processor, which is `idle` for a reason if nothing runs it.
fn state(p: &ProcessorStatus, idle: Option<State>) -> (&str, Tone) {
    if p.paused.is_some() {
        return ("paused", Tone::Warning);
    }
    match (p.term_error.is_some(), idle) {
        (true, None) => return ("failing", Tone::Bad),
        (true, Some(idle)) => return idle.words(),
        (false, _) => {}
    }
    match (p.lanes_counted.worst(), idle) {
        (Some(state), _) => (state, lane_tone(state).unwrap_or(Tone::Warning)),
        (None, Some(idle)) if p.held.is_some() || p.lag_events > 0 => idle.words(),
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

/// Seconds for people: in the largest unit of which there are two.
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

    fn blocked() -> Seen {
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
            shed: 0,
            last_shed: None,
            held: None,
            term_error: None,
            lanes_counted: status::LaneCounts { all: 1, blocked: 1, ..Default::default() },
            lanes_behind: vec![lane],
        };
        let status = Status { processors: vec![processor], ..Status::default() };
        Seen { host: true, refused_files: Vec::new(), replaced: Vec::new(), status, idle: BTreeMap::new() }
    }

    #[test]
    fn it_fits_a_terminal_of_80_columns() {
        let now = time::from_micros(time::parse("2026-01-02T05:10:00Z").unwrap());
        let text = show(&blocked(), false, Screen { width: Some(80), colours: false }, now);
        assert_eq!(
            text,
            "PROCESSOR   STATE        LAG   AGE    RATE  HANDLED  LANES BEHIND\n\
             door-watch  blocked  ≥ 12346  27 h  1234/s    20000             1\n\
             \n\
             PROCESSOR   TENANT  STATE    SINCE  EVENT  REASON\n\
             door-watch  acme    blocked    2 h     17  trap: wasm `unreachable` instruction\n\
             \u{20}                                          executed, at door_watch::apply\n\
             \u{20}                                          (src/lib.rs:41)\n"
        );
        let wide = show(&blocked(), true, Screen::PLAIN, now);
        assert!(wide.contains("INSTANCES") && wide.contains("0123456789ab") && wide.contains("KEY"), "{wide}");
    }

    #[test]
    fn what_was_set_aside_is_told() {
        let mut seen = blocked();
        let letter = LastDeadLetter {
            tenant: "acme".into(),
            position: 9,
            reason: "plugin:invalid-data: missing \u{1b}[31m".into(),
        };
        (seen.status.processors[0].dead_letters, seen.status.processors[0].last_dead_letter) = (2, Some(letter));
        let text = show(&seen, false, Screen::PLAIN, SystemTime::now());
        let wanted = "door-watch set 2 events aside (table sandmill.dead_letters); the last, at position 9 of tenant acme: plugin:invalid-data";
        assert!(text.contains(wanted) && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_is_left_out_is_counted_and_what_ends_terms_is_told() {
        let mut seen = blocked();
        let p = &mut seen.status.processors[0];
        p.lanes_counted = status::LaneCounts { all: 60_000, blocked: 59_999, retrying: 1, ..Default::default() };
        (p.dead_letters, p.dead_letters_at_least) = (10_000, true);
        p.last_dead_letter = Some(LastDeadLetter { tenant: "acme".into(), position: 9, reason: "plugin: odd".into() });
        p.term_error = Some(TermError {
            error: "permission denied for table x (SQLSTATE 42501)".into(),
            since: "2026-01-02T03:04:05Z".into(),
            at: "2026-01-02T03:05:05Z".into(),
            times: 7,
        });
        let text = show(&seen, false, Screen::PLAIN, SystemTime::now());
        for told in [
            "door-watch set more than 10000 events aside",
            "door-watch fails, 7 terms since 2026-01-02T03:04:05Z: permission denied for table x (SQLSTATE 42501); `sandmill explain`",
            "door-watch has 59999 more lanes behind; `sandmill status --lanes 60000` shows all of them\n",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains("  failing  ") && row.ends_with(" 60000"), "{text}");
    }

    #[test]
    fn a_processor_that_nothing_runs_is_not_failing() {
        let mut seen = blocked();
        let p = &mut seen.status.processors[0];
        (p.lanes_counted, p.lanes_behind) = (Default::default(), Vec::new());
        let shown = |seen: &mut Seen, state: Option<State>| {
            seen.idle = state.map(|state| ("door-watch".to_string(), state)).into_iter().collect();
            (show(seen, false, Screen::PLAIN, SystemTime::now()), seen.needs_a_person())
        };
        let (text, alarm) = shown(&mut seen, None);
        assert!(text.contains("  behind  ") && !alarm, "{text}");
        let (text, alarm) = shown(&mut seen, Some(State::Absent));
        assert!(text.contains("  absent  ") && alarm, "{text}");
        seen.status.processors[0].term_error = Some(TermError {
            error: "the database is away".into(),
            since: "2026-01-02T03:04:05Z".into(),
            at: "2026-01-02T03:05:05Z".into(),
            times: 7,
        });
        let (text, alarm) = shown(&mut seen, None);
        assert!(text.contains("  failing  ") && alarm, "{text}");
        let (text, _) = shown(&mut seen, Some(State::NoHost));
        let note = "door-watch does not run; its last term ended at 2026-01-02T03:05:05Z with an error: the database is away\n";
        assert!(text.contains("  no host  ") && text.contains(note) && !text.contains("fail"), "{text}");
    }

    #[test]
    fn what_was_skipped_and_what_holds_a_processor_is_told() {
        let mut seen = blocked();
        let p = &mut seen.status.processors[0];
        let last = LastShed { tenant: "acme".into(), key: "acme".into(), events: 7, at: "2026-01-02T03:04:05Z".into() };
        (p.shed, p.last_shed) = (12, Some(last));
        p.held = Some("waiting for slow (back-pressure lockstep) since 2026-01-02T03:04:05Z".into());
        p.lanes_behind.clear();
        p.lanes_counted = Default::default();
        let text = show(&seen, false, Screen::PLAIN, SystemTime::now());
        assert!(text.contains("door-watch is waiting for slow (back-pressure lockstep) since 2026"), "{text}");
        assert!(
            text.contains(
                "door-watch shed 12 events to keep up (table sandmill.sheds); the last, 7 of tenant acme, at 2026"
            ),
            "{text}"
        );
        assert!(text.lines().nth(1).unwrap().contains("  waiting  "), "{text}");
    }

    #[test]
    fn only_what_does_not_move_by_itself_needs_a_person() {
        let mut seen = blocked();
        assert!(seen.needs_a_person(), "a lane is blocked");
        let p = &mut seen.status.processors[0];
        p.lanes_counted =
            status::LaneCounts { all: 3, retrying: 1, paused: 1, catching_up: 1, ..status::LaneCounts::default() };
        (p.paused, p.held) = (Some("by ada since 2026".into()), Some("waiting for slow".into()));
        assert!(!seen.needs_a_person());
        seen.host = false;
        assert!(seen.needs_a_person());
        (seen.host, seen.refused_files) = (true, vec![RefusedFile { plugin: "x".into(), reason: "y".into() }]);
        assert!(seen.needs_a_person());
    }

    #[test]
    fn a_tenants_own_processor_whose_file_is_gone_needs_nobody_while_the_shared_one_runs() {
        let mut seen = blocked();
        let id = seen.status.processors[0].id.clone();
        seen.status.processors[0].lanes_counted = Default::default();
        let own = blocked().status.processors.remove(0);
        seen.status.processors.push(ProcessorStatus { id: format!("acme/{id}"), ..own });
        let absent = |id: &str| (id.to_string(), State::Absent);
        seen.idle = [absent(&format!("acme/{id}"))].into();
        assert!(!seen.needs_a_person());
        seen.idle.extend([absent(&id)]);
        assert!(seen.needs_a_person(), "nobody handles the events");
    }

    #[test]
    fn a_missing_host_and_refused_files_have_their_lines() {
        let file = |number| RefusedFile { plugin: format!("p{number}"), reason: "bad \u{1b}[31m:\n  more".into() };
        let refused_files = (0..REFUSED + 2).map(file).collect();
        let (replaced, status, idle) = (Vec::new(), Status::default(), BTreeMap::new());
        let seen = Seen { host: false, refused_files, replaced, status, idle };
        let text = show(&seen, false, Screen::PLAIN, SystemTime::now());
        let begin = "no processor has run on this database yet\n\
                     no host runs on this database; start one with `sandmill run --plugins DIR`\n\
                     a file is refused: p0: bad \u{fffd}[31m:\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(
            text.ends_with("p19: bad \u{fffd}[31m:\n2 more files refused; `sandmill plugins` shows all\n"),
            "{text}"
        );
    }

    #[test]
    fn ages_are_in_the_unit_that_says_most() {
        assert_eq!([0.4, 119.0, 120.0, 7_300.0, 864_000.0].map(age), ["0 s", "119 s", "2 min", "2 h", "10 d"]);
    }
}
