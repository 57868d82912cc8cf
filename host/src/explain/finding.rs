//! The causes that follow from the facts, each with its remedy. Pure.

use serde::Serialize;

use super::{Facts, LaneGroup, RecordedPlugin, term_error};
use crate::{
    processor::status::{LaneBehind, ProcessorStatus, TermError},
    tenants::{rates::THROTTLED, status::TenantStatus},
};

/// The severity of a finding, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Does not proceed without manual action.
    Stuck,
    /// Proceeds, or will do so automatically.
    Behind,
    /// Nothing is behind because of it.
    Note,
}

/// A cause, with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity; `gravity` in JSON.
    #[serde(rename = "gravity")]
    pub severity: Severity,
    /// The affected processor; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// The affected tenant; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The number of lanes in the same state for the same class of reason; 0 if the finding is not
    /// about lanes.
    pub lanes: usize,
    /// The cause, in one sentence.
    pub what: String,
    /// What to do, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The processor or tenant to explain; the default is everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// Only findings about this processor.
    pub processor: Option<&'a str>,
    /// Only findings about this tenant.
    pub tenant: Option<&'a str>,
}

/// The findings within a scope, gravest first; empty if nothing is behind.
pub fn findings(facts: &Facts, scope: Scope<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let in_scope = |p: &&ProcessorStatus| scope.processor.is_none_or(|id| id == p.id);
    let processors: Vec<&ProcessorStatus> = facts.status.processors.iter().filter(in_scope).collect();
    if !facts.host && processors.iter().any(|p| is_behind(p)) {
        found.push(Finding {
            remedy: Some("start one: sandmill run --plugins DIR".into()),
            ..finding(Severity::Stuck, "no host is running on this database, so no events are handled")
        });
    }
    for p in processors {
        found.extend(
            of_processor(facts, p).into_iter().map(|finding| Finding { processor: Some(p.id.clone()), ..finding }),
        );
        found.extend(replaced(facts, p, scope));
        let lanes = if scope.tenant.is_some() { &facts.lanes_of_tenant } else { &facts.lanes };
        let lanes = lanes.iter().filter(|group| group.processor == p.id);
        found.extend(lanes.map(|LaneGroup { first, lanes, .. }| of_lanes(facts, p, first, *lanes)));
    }
    if let Some(tenant) = scope.tenant.and_then(|tenant| facts.tenants.get(tenant)) {
        found.extend(cpu_share(tenant));
    }
    for open in &facts.open {
        let (pid, application, age) = (open.pid, &open.application, seconds(open.age));
        found.push(finding(
            Severity::Note,
            format!("session {pid} ({application}) has had a transaction open for {age}: events that it appended are handled once it commits; no other events wait for it"),
        ));
    }
    found.sort_by_key(|finding| finding.severity);
    found
}

fn finding(severity: Severity, what: impl Into<String>) -> Finding {
    Finding { severity, processor: None, tenant: None, lanes: 0, what: what.into(), remedy: None }
}

/// The findings about a processor as a whole.
fn of_processor(facts: &Facts, p: &ProcessorStatus) -> Vec<Finding> {
    let mut found = Vec::new();
    let events = p.unread_events;
    if let Some(paused) = &p.paused {
        found.push(Finding {
            remedy: Some(format!("sandmill resume {}", p.id)),
            ..finding(Severity::Stuck, format!("it is paused {paused}, with {events} events pending"))
        });
    }
    let runs = facts.host && is_run(facts, p);
    if let Some(error) = p.term_error.as_ref().filter(|_| runs) {
        found.push(failing(p, error));
    } else if p.paused.is_none() && facts.host && is_behind(p) && !runs {
        found.push(not_run(facts, p));
    } else if p.paused.is_none() && runs && events > 0 {
        let what = match (events as f64 / p.rate, p.rate > 0.0) {
            (left, true) => format!(
                "it is {events} events behind (the oldest is {} old) and handles {:.0}/s: about {} left",
                seconds(p.lag_seconds),
                p.rate,
                seconds(left)
            ),
            _ => format!("it is {events} events behind (the oldest is {} old)", seconds(p.lag_seconds)),
        };
        found.push(finding(Severity::Behind, what));
    }
    // The error of a processor that no host runs is never cleared, so it may be outdated.
    if let Some(error) = p.term_error.as_ref().filter(|_| !runs) {
        found.push(Finding {
            remedy: Some(term_error::remedy(&p.id, error)),
            ..finding(Severity::Note, format!("its last term ended at {} with an error: {}", error.at, error.error))
        });
    }
    if let Some(held) = p.held.as_ref().filter(|_| p.paused.is_none() && runs) {
        found.push(finding(Severity::Behind, format!("it reads no events: {held}")));
    }
    for blocker in facts.blockers.iter().filter(|blocker| blocker.processor.as_ref() == Some(&p.id)) {
        let other = &blocker.transaction;
        found.push(Finding {
            remedy: Some(format!("end that transaction: select pg_terminate_backend({})", other.pid)),
            ..finding(
                Severity::Behind,
                format!(
                    "its session `{}` has waited {} for a lock held by session {} ({}), whose transaction is {} old",
                    blocker.session,
                    seconds(blocker.waited),
                    other.pid,
                    other.application,
                    seconds(other.age)
                ),
            )
        });
    }
    found
}

/// Notes on tenants' own processors that replace this one.
fn replaced(facts: &Facts, p: &ProcessorStatus, scope: Scope<'_>) -> Vec<Finding> {
    let own = facts.plugins.iter().filter_map(|file| Some((file, file.processor.split_once('/')?)));
    let own = own.filter(|(_, (tenant, id))| *id == p.id && scope.tenant.is_none_or(|asked| asked == *tenant));
    let note = |(file, (tenant, id)): (&RecordedPlugin, (&str, &str))| Finding {
        processor: Some(p.id.clone()),
        tenant: Some(tenant.into()),
        ..finding(Severity::Note, format!("{} handles the events of tenant {tenant} instead of {id}", file.processor))
    };
    own.filter(|_| facts.host && is_run(facts, p)).map(note).collect()
}

/// The error that keeps ending the terms of a running processor.
fn failing(p: &ProcessorStatus, error: &TermError) -> Finding {
    let TermError { error: text, since, at, times } = error;
    let terms = if *times == 1 { "its last term".into() } else { format!("its last {times} terms") };
    Finding {
        remedy: Some(term_error::remedy(&p.id, error)),
        ..finding(Severity::Stuck, format!("{terms} ended with an error, since {since}, the latest at {at}: {text}"))
    }
}

/// Whether a processor has unhandled events.
fn is_behind(p: &ProcessorStatus) -> bool {
    p.lag_events > 0 || p.lanes_counted.all > 0
}

/// The name, without extension, of the file that last provided this processor.
fn plugin_of(p: &ProcessorStatus) -> &str {
    p.plugin.split(' ').next().unwrap_or_default()
}

/// Whether a host runs a processor, according to sessions, recent errors or the host's records.
/// Native handlers are part of a program and are not recorded; they count as running.
fn is_run(facts: &Facts, p: &ProcessorStatus) -> bool {
    plugin_of(p) == "native" || facts.running.contains(&p.id) || facts.plugins.iter().any(|file| file.processor == p.id)
}

/// The reason why a host does not run a processor, from its record of the file that last provided
/// it.
fn not_run(facts: &Facts, p: &ProcessorStatus) -> Finding {
    let plugin = plugin_of(p);
    let (severity, what, remedy) = match facts.plugins.iter().find(|file| file.plugin == plugin) {
        Some(file) if !file.rejected.is_empty() => (
            Severity::Stuck,
            format!("the host rejected its plugin {plugin}: {}", file.rejected),
            format!("fix {plugin}.wasm and put it into the plugins folder; `sandmill plugins` shows its state"),
        ),
        Some(file) if !file.processor.is_empty() => (
            Severity::Stuck,
            format!("{plugin}.wasm now provides another processor, {}", file.processor),
            format!("put the plugin that provides {} into the plugins folder under another file name", p.id),
        ),
        Some(_) => (
            Severity::Behind,
            format!("the host has found {plugin}.wasm but has not started it yet"),
            "wait until it is compiled and checked; `sandmill plugins` shows its state".into(),
        ),
        None => match shared(facts, p) {
            Some((tenant, shared)) => (
                Severity::Note,
                format!("its file {plugin}.wasm is gone, and {shared} handles the events of tenant {tenant} again"),
                format!(
                    "if that is intended: sandmill processors remove {}; otherwise put {plugin}.wasm back into the plugins folder",
                    p.id
                ),
            ),
            None => (
                Severity::Stuck,
                format!(
                    "a host is running, but none of its plugins provides this processor, which last ran from {plugin}.wasm"
                ),
                format!(
                    "put {plugin}.wasm back into the plugins folder; `sandmill plugins` lists the files that the host has found"
                ),
            ),
        },
    };
    Finding { remedy: Some(remedy), ..finding(severity, what) }
}

/// The tenant that owns a processor, and the running shared processor that it replaced.
fn shared<'a>(facts: &Facts, p: &'a ProcessorStatus) -> Option<(&'a str, &'a str)> {
    let (tenant, id) = p.id.split_once('/')?;
    facts.status.processors.iter().any(|other| other.id == id && is_run(facts, other)).then_some((tenant, id))
}

/// The finding about a group of lanes; `first` has waited longest.
fn of_lanes(facts: &Facts, p: &ProcessorStatus, first: &LaneBehind, lanes: usize) -> Finding {
    let name = if first.key == first.tenant { first.tenant.clone() } else { format!("{}/{}", first.tenant, first.key) };
    let subject = match lanes {
        1 => format!("lane {name}"),
        n => format!("lane {name} (and {} more like it)", n - 1),
    };
    let event = first.event_position.map_or_else(String::new, |position| format!(" at position {position}"));
    let (since, reason) = (&first.since, &first.reason);
    let resume = Some(format!("sandmill resume {} --tenant {}", p.id, first.tenant));
    let (severity, what, remedy) = match first.state.as_str() {
        "blocked" => (
            Severity::Stuck,
            format!("{subject} has been blocked{event} since {since}: {reason}"),
            resume.map(|resume| format!("fix the plugin, or let it skip the event, then: {resume}")),
        ),
        "paused" if class(first) == "paused" && !reason.contains("by the settings") => {
            (Severity::Stuck, format!("{subject} is {reason}").replacen("paused: ", "paused ", 1), resume)
        }
        "paused" => (
            Severity::Stuck,
            format!("{subject} is {}, since {since}", reason.replacen("paused: ", "paused ", 1)),
            Some("change the settings, then restart the host".into()),
        ),
        "retrying" if class(first) == THROTTLED => (
            Severity::Behind,
            format!(
                "{subject} {}; it resumes automatically",
                reason.split_once(": ").map_or(reason.as_str(), |(_, text)| text)
            ),
            Some(format!("to allow it more, raise its limits in the settings: tenants.{}", first.tenant)),
        ),
        "retrying" => (
            Severity::Behind,
            format!("{subject} is retried automatically{event} (next attempt: {}): {reason}", first.attempts + 1),
            None,
        ),
        _ => {
            let tenant = facts.tenants.get(&first.tenant);
            (Severity::Behind, format!("{subject} has been catching up since {since}{}", pace(tenant)), None)
        }
    };
    Finding { severity, processor: Some(p.id.clone()), tenant: Some(first.tenant.clone()), lanes, what, remedy }
}

/// A tenant's pace, and the time that it still needs.
fn pace(tenant: Option<&TenantStatus>) -> String {
    let Some(tenant) = tenant else { return String::new() };
    let share = if tenant.waited_now > tenant.cpu_now { " (its share while other tenants are busy)" } else { "" };
    let left = if tenant.rate > 0.0 && tenant.lag_events > 0 {
        format!(", about {} left", seconds(tenant.lag_events as f64 / tenant.rate))
    } else {
        String::new()
    };
    format!(": {} events pending, {:.0}/s on {:.2} cores{share}{left}", tenant.lag_events, tenant.rate, tenant.cpu_now)
}

/// The finding that a tenant gets less CPU time than it could use, if so.
fn cpu_share(tenant: &TenantStatus) -> Option<Finding> {
    (tenant.waited_now > 0.1 && tenant.waited_now > tenant.cpu_now).then(|| Finding {
        tenant: Some(tenant.tenant.clone()),
        remedy: Some(format!("to give it a larger share, raise tenants.{}.weight in the settings", tenant.tenant)),
        ..finding(
            Severity::Behind,
            format!(
                "its share of CPU time is used up: its calls run on {:.2} cores and wait {:.1} s per second for CPU time",
                tenant.cpu_now, tenant.waited_now
            ),
        )
    })
}

/// The class of a lane's reason.
fn class(lane: &LaneBehind) -> &str {
    lane.reason.split_once(": ").map_or("", |(class, _)| class)
}

/// A duration in its largest suitable unit.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 7200.0 => format!("{:.0} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.0} min", s / 60.0),
        s if s >= 10.0 => format!("{s:.0} s"),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        explain::{Blocker, OpenTransaction},
        processor::status::{LaneCounts, Measures, Status},
    };

    fn lane(tenant: &str, state: &str, reason: &str) -> LaneBehind {
        LaneBehind {
            tenant: tenant.into(),
            key: tenant.into(),
            state: state.into(),
            reason: reason.into(),
            attempts: 2,
            event_position: Some(17),
            since: "2026-01-02T03:04:05Z".into(),
        }
    }

    fn facts(unread_events: i64, lanes: &[(usize, LaneBehind)]) -> Facts {
        let all = lanes.iter().map(|(lanes, _)| *lanes as i64).sum();
        let processor = ProcessorStatus {
            id: "carts".into(),
            plugin: "cart-summary 1.0.0 0123".into(),
            lag_events: unread_events + all,
            lag_events_at_least: all > 0,
            lag_seconds: 3.0,
            unread_events,
            rate: 100.0,
            handled: 5,
            paused: None,
            measures: Measures::default(),
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
            lanes_counted: LaneCounts { all, blocked: all, ..LaneCounts::default() },
            lanes_behind: Vec::new(),
        };
        let group = |(lanes, first): &(usize, LaneBehind)| LaneGroup {
            processor: "carts".into(),
            lanes: *lanes,
            first: first.clone(),
        };
        Facts {
            status: Status { processors: vec![processor], ..Status::default() },
            host: true,
            lanes: lanes.iter().map(group).collect(),
            plugins: vec![file("cart-summary", "carts", "")],
            ..Facts::default()
        }
    }

    fn file(plugin: &str, processor: &str, rejected: &str) -> RecordedPlugin {
        RecordedPlugin { plugin: plugin.into(), processor: processor.into(), rejected: rejected.into() }
    }

    fn causes(facts: &Facts) -> Vec<String> {
        findings(facts, Scope::default()).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn nothing_behind_gives_no_findings() {
        assert_eq!(causes(&facts(0, &[])), Vec::<String>::new());
        let nobody = Facts { host: false, plugins: Vec::new(), ..facts(0, &[]) };
        assert_eq!(causes(&nobody), Vec::<String>::new());
    }

    #[test]
    fn causes_are_listed_gravest_first() {
        let throttled = "throttled: has used up its cpu-percent = 5 (tenants.greedy or tenant-limits)";
        let lanes = [
            (1, lane("busy", "catching-up", "")),
            (1, lane("greedy", "retrying", throttled)),
            (2, lane("broken", "blocked", "trap: unreachable")),
            (1, lane("held", "paused", "paused: by ada since 2026")),
        ];
        let mut facts = facts(500, &lanes);
        facts.lanes_of_tenant = facts.lanes[..1].to_vec();
        let transaction = OpenTransaction { pid: 7, application: "psql, user ada".into(), age: 300.0 };
        facts.open.push(transaction.clone());
        facts.blockers.push(Blocker {
            session: "commit carts".into(),
            processor: Some("carts".into()),
            waited: 1.5,
            transaction,
        });
        facts.tenants.insert(
            "busy".into(),
            TenantStatus {
                tenant: "busy".into(),
                lag_events: 900,
                rate: 30.0,
                cpu_now: 0.5,
                waited_now: 2.0,
                ..TenantStatus::default()
            },
        );
        assert_eq!(
            causes(&facts),
            [
                "lane broken (and 1 more like it) has been blocked at position 17 since 2026-01-02T03:04:05Z: trap: unreachable",
                "lane held is paused by ada since 2026",
                "it is 500 events behind (the oldest is 3.0 s old) and handles 100/s: about 5.0 s left",
                "its session `commit carts` has waited 1.5 s for a lock held by session 7 (psql, user ada), whose transaction is 5 min old",
                "lane busy has been catching up since 2026-01-02T03:04:05Z: 900 events pending, 30/s on 0.50 cores (its share while \
                 other tenants are busy), about 30 s left",
                "lane greedy has used up its cpu-percent = 5 (tenants.greedy or tenant-limits); it resumes automatically",
                "session 7 (psql, user ada) has had a transaction open for 5 min: events that it appended are handled once it commits; no other events wait for it",
            ]
        );
        let scope = Scope { tenant: Some("busy"), ..Scope::default() };
        let of_busy = findings(&facts, scope);
        assert!(
            of_busy.iter().all(|finding| finding.tenant.as_deref().is_none_or(|tenant| tenant == "busy")),
            "{of_busy:?}"
        );
        assert!(
            of_busy.iter().any(|finding| finding.what.starts_with("its share of CPU time is used up")),
            "{of_busy:?}"
        );
    }

    #[test]
    fn a_missing_host_or_plugin_is_a_cause() {
        let nobody = Facts { host: false, plugins: Vec::new(), ..facts(5, &[]) };
        assert_eq!(causes(&nobody), ["no host is running on this database, so no events are handled"]);
        let gone = Facts { plugins: vec![file("other", "others", "")], ..facts(5, &[]) };
        let found = findings(&gone, Scope::default());
        assert_eq!(
            found[0].what,
            "a host is running, but none of its plugins provides this processor, which last ran from cart-summary.wasm"
        );
        assert!(found[0].remedy.as_deref().unwrap().starts_with("put cart-summary.wasm back"), "{found:?}");
        let mut paused = facts(5, &[]);
        paused.status.processors[0].paused = Some("by ada since 2026".into());
        assert_eq!(causes(&paused), ["it is paused by ada since 2026, with 5 events pending"]);
    }

    #[test]
    fn the_record_of_a_file_explains_why_its_processor_does_not_run() {
        let with = |file: RecordedPlugin| Facts { plugins: vec![file], ..facts(5, &[]) };
        assert_eq!(
            causes(&with(file("cart-summary", "", "imports wasi:sockets"))),
            ["the host rejected its plugin cart-summary: imports wasi:sockets"]
        );
        assert_eq!(
            causes(&with(file("cart-summary", "baskets", ""))),
            ["cart-summary.wasm now provides another processor, baskets"]
        );
        assert_eq!(
            causes(&with(file("cart-summary", "", ""))),
            ["the host has found cart-summary.wasm but has not started it yet"]
        );
        assert_eq!(causes(&with(file("renamed", "carts", "")))[0].split(" (").next(), Some("it is 5 events behind"));
    }

    #[test]
    fn a_tenants_own_processor_that_replaces_a_shared_one_is_a_note() {
        let mut facts = facts(0, &[]);
        facts.plugins.push(file("acme/x", "acme/carts", ""));
        facts.plugins.push(file("acme/y", "acme/orders", ""));
        assert_eq!(causes(&facts), ["acme/carts handles the events of tenant acme instead of carts"]);
        let scope = |tenant| Scope { tenant: Some(tenant), ..Scope::default() };
        assert_eq!(findings(&facts, scope("acme"))[0].severity, Severity::Note);
        assert_eq!(findings(&facts, scope("globex")), []);
    }

    fn with_term_error(mut facts: Facts) -> Facts {
        facts.status.processors[0].term_error = Some(TermError {
            error: "permission denied for table carts_1 (SQLSTATE 42501)".into(),
            since: "2026-01-02T03:04:05Z".into(),
            at: "2026-01-02T03:05:05Z".into(),
            times: 7,
        });
        facts
    }

    #[test]
    fn a_term_error_is_a_cause_if_the_processor_runs_even_without_a_recorded_plugin() {
        let running = ["carts".to_string()].into();
        let facts = with_term_error(Facts { running, plugins: Vec::new(), ..facts(5, &[]) });
        let found = findings(&facts, Scope::default());
        let what = "its last 7 terms ended with an error, since 2026-01-02T03:04:05Z, the latest at 2026-01-02T03:05:05Z: permission denied for table carts_1 (SQLSTATE 42501)";
        assert_eq!(found.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>(), [what]);
        assert!(found[0].remedy.as_deref().unwrap().starts_with("grant the host's role"), "{found:?}");
    }

    #[test]
    fn a_missing_file_of_a_tenants_processor_is_a_note_while_the_shared_one_runs() {
        let own = facts(5, &[]).status.processors.remove(0);
        let mut facts = facts(0, &[]);
        let (id, plugin) = ("acme/carts".into(), "acme/x 1.0.0 0123".into());
        facts.status.processors.push(ProcessorStatus { id, plugin, ..own });
        let found = findings(&facts, Scope::default());
        assert_eq!(found.len(), 1, "{found:?}");
        let what = "its file acme/x.wasm is gone, and carts handles the events of tenant acme again";
        assert_eq!((found[0].severity, found[0].what.as_str()), (Severity::Note, what));
        assert!(found[0].remedy.as_deref().unwrap().contains("sandmill processors remove acme/carts"), "{found:?}");
    }

    #[test]
    fn the_term_error_of_a_processor_that_no_host_runs_is_a_note() {
        let what = "its last term ended at 2026-01-02T03:05:05Z with an error: permission denied for table carts_1 (SQLSTATE 42501)";
        let gone = |events| with_term_error(Facts { plugins: Vec::new(), ..facts(events, &[]) });
        let file =
            "a host is running, but none of its plugins provides this processor, which last ran from cart-summary.wasm";
        assert_eq!(causes(&gone(5)), [file, what]);
        assert_eq!(causes(&gone(0)), [what]);
        // The records of a killed host remain.
        let nobody = with_term_error(Facts { host: false, ..facts(5, &[]) });
        assert_eq!(causes(&nobody), ["no host is running on this database, so no events are handled", what]);
        assert_eq!(findings(&nobody, Scope::default())[1].severity, Severity::Note);
    }
}
