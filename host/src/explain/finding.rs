//! What follows from the facts: who is held by what, and what to do. Pure.

use serde::Serialize;

use super::{Facts, LanesAlike, PluginFile, term_error};
use crate::{
    processor::status::{LaneBehind, ProcessorStatus, TermError},
    tenants::{rates::THROTTLED, status::TenantStatus},
};

/// How much it matters, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gravity {
    /// It does not move, and will not by itself.
    Stuck,
    /// It moves, or will by itself.
    Behind,
    /// Nothing is behind because of it.
    Note,
}

/// What holds something back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub gravity: Gravity,
    /// The processor that is concerned; none for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// The tenant that is concerned; none for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Lanes that are in the same state for the same kind of reason, this one among them; 0 where it is no matter of lanes.
    pub lanes: usize,
    /// What is the matter, in one sentence.
    pub what: String,
    /// What to do, if there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// Only what concerns this processor.
    pub processor: Option<&'a str>,
    /// Only what concerns this tenant.
    pub tenant: Option<&'a str>,
}

/// What holds back what was asked for, the gravest first; empty if nothing does.
pub fn findings(facts: &Facts, about: About<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let asked = |p: &&ProcessorStatus| about.processor.is_none_or(|id| id == p.id);
    let processors: Vec<&ProcessorStatus> = facts.status.processors.iter().filter(asked).collect();
    if !facts.host && processors.iter().any(|p| waits(p)) {
        found.push(Finding {
            remedy: Some("start one: sandmill run --plugins DIR".into()),
            ..finding(Gravity::Stuck, "no host runs on this database, so nothing moves")
        });
    }
    for p in processors {
        found.extend(
            of_processor(facts, p).into_iter().map(|finding| Finding { processor: Some(p.id.clone()), ..finding }),
        );
        found.extend(replaced(facts, p, about));
        let lanes = if about.tenant.is_some() { &facts.lanes_of_tenant } else { &facts.lanes };
        let lanes = lanes.iter().filter(|alike| alike.processor == p.id);
        found.extend(lanes.map(|LanesAlike { first, lanes, .. }| of_lanes(facts, p, first, *lanes)));
    }
    if let Some(tenant) = about.tenant.and_then(|tenant| facts.tenants.get(tenant)) {
        found.extend(of_share(tenant));
    }
    for open in &facts.open {
        let (pid, application, age) = (open.pid, &open.application, seconds(open.age));
        found.push(finding(
            Gravity::Note,
            format!("session {pid} ({application}) has had a transaction open for {age}: what it appended is handled once it commits. It holds nobody else back"),
        ));
    }
    found.sort_by_key(|finding| finding.gravity);
    found
}

fn finding(gravity: Gravity, what: impl Into<String>) -> Finding {
    Finding { gravity, processor: None, tenant: None, lanes: 0, what: what.into(), remedy: None }
}

/// What holds a whole processor.
fn of_processor(facts: &Facts, p: &ProcessorStatus) -> Vec<Finding> {
    let mut found = Vec::new();
    let events = p.unread_events;
    if let Some(paused) = &p.paused {
        found.push(Finding {
            remedy: Some(format!("sandmill resume {}", p.id)),
            ..finding(Gravity::Stuck, format!("it is paused {paused}, with {events} events waiting"))
        });
    }
    let runs = facts.host && is_run(facts, p);
    if let Some(error) = p.term_error.as_ref().filter(|_| runs) {
        found.push(failing(p, error));
    } else if p.paused.is_none() && facts.host && waits(p) && !runs {
        found.push(not_run(facts, p));
    } else if p.paused.is_none() && runs && events > 0 {
        let what = match (events as f64 / p.rate, p.rate > 0.0) {
            (left, true) => format!(
                "it is {events} events behind, the first of them {} old, and handles {:.0}/s: some {} to go",
                seconds(p.lag_seconds),
                p.rate,
                seconds(left)
            ),
            _ => format!("it is {events} events behind, the first of them {} old", seconds(p.lag_seconds)),
        };
        found.push(finding(Gravity::Behind, what));
    }
    // Nobody clears the error of a processor that nothing runs, so it explains nothing by itself.
    if let Some(error) = p.term_error.as_ref().filter(|_| !runs) {
        found.push(Finding {
            remedy: Some(term_error::remedy(&p.id, error)),
            ..finding(Gravity::Note, format!("its last term ended at {} with an error: {}", error.at, error.error))
        });
    }
    if let Some(held) = p.held.as_ref().filter(|_| p.paused.is_none() && runs) {
        found.push(finding(Gravity::Behind, format!("it reads nothing, {held}")));
    }
    for blocker in facts.blockers.iter().filter(|blocker| blocker.processor.as_ref() == Some(&p.id)) {
        let other = &blocker.transaction;
        found.push(Finding {
            remedy: Some(format!("end that transaction: select pg_terminate_backend({})", other.pid)),
            ..finding(
                Gravity::Behind,
                format!(
                    "its session `{}` has waited {} for a lock of session {} ({}), whose transaction is {} old",
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

/// Notes on the tenants whose own processors replace this one.
fn replaced(facts: &Facts, p: &ProcessorStatus, about: About<'_>) -> Vec<Finding> {
    let own = facts.plugins.iter().filter_map(|file| Some((file, file.processor.split_once('/')?)));
    let own = own.filter(|(_, (tenant, id))| *id == p.id && about.tenant.is_none_or(|asked| asked == *tenant));
    let note = |(file, (tenant, id)): (&PluginFile, (&str, &str))| Finding {
        processor: Some(p.id.clone()),
        tenant: Some(tenant.into()),
        ..finding(Gravity::Note, format!("{} handles the events of tenant {tenant} instead of {id}", file.processor))
    };
    own.filter(|_| facts.host && is_run(facts, p)).map(note).collect()
}

/// The error that keeps ending the terms of a processor that runs.
fn failing(p: &ProcessorStatus, error: &TermError) -> Finding {
    let TermError { error: words, since, at, times } = error;
    let terms = if *times == 1 { "its last term ended".into() } else { format!("{times} terms in a row ended") };
    Finding {
        remedy: Some(term_error::remedy(&p.id, error)),
        ..finding(Gravity::Stuck, format!("{terms}, since {since}, the last at {at}: {words}"))
    }
}

/// Whether a processor has unhandled events.
fn waits(p: &ProcessorStatus) -> bool {
    p.lag_events > 0 || p.lanes_counted.all > 0
}

/// The name, without its extension, of the file that this processor last ran from.
fn plugin_of(p: &ProcessorStatus) -> &str {
    p.plugin.split(' ').next().unwrap_or_default()
}

/// Whether a host runs a processor: sessions or errors show it, or the host has recorded it.
/// Handlers in a program's own code are not recorded: they are where their program is.
fn is_run(facts: &Facts, p: &ProcessorStatus) -> bool {
    plugin_of(p) == "native" || facts.running.contains(&p.id) || facts.plugins.iter().any(|file| file.processor == p.id)
}

/// Why a host does not run a processor, from what it has recorded of the file that the processor
/// last ran from.
fn not_run(facts: &Facts, p: &ProcessorStatus) -> Finding {
    let plugin = plugin_of(p);
    let (gravity, what, remedy) = match facts.plugins.iter().find(|file| file.plugin == plugin) {
        Some(file) if !file.refused.is_empty() => (
            Gravity::Stuck,
            format!("the host does not run its plugin {plugin}: {}", file.refused),
            format!("fix {plugin}.wasm and put it into the plugins folder; `sandmill plugins` shows its state"),
        ),
        Some(file) if !file.processor.is_empty() => (
            Gravity::Stuck,
            format!("the host runs {plugin}.wasm as another processor, {}", file.processor),
            "put the plugin that is this processor into the plugins folder, under another name".into(),
        ),
        Some(_) => (
            Gravity::Behind,
            format!("the host has {plugin}.wasm, but has not begun to run it"),
            "wait until it is compiled and checked; `sandmill plugins` shows its state".into(),
        ),
        None => match shared(facts, p) {
            Some((tenant, shared)) => (
                Gravity::Note,
                format!("its file {plugin}.wasm is gone, and {shared} handles the events of tenant {tenant} again"),
                format!(
                    "if that is for good: sandmill processors remove {}; otherwise put {plugin}.wasm back into the plugins folder",
                    p.id
                ),
            ),
            None => (
                Gravity::Stuck,
                format!(
                    "the host has recorded no file {plugin}.wasm in its plugins folder, which was this processor last"
                ),
                format!("put {plugin}.wasm back into the plugins folder; `sandmill plugins` lists what the host has"),
            ),
        },
    };
    Finding { remedy: Some(remedy), ..finding(gravity, what) }
}

/// The tenant of its own processor, and the shared processor that this one replaced for it and that
/// runs.
fn shared<'a>(facts: &Facts, p: &'a ProcessorStatus) -> Option<(&'a str, &'a str)> {
    let (tenant, id) = p.id.split_once('/')?;
    facts.status.processors.iter().any(|other| other.id == id && is_run(facts, other)).then_some((tenant, id))
}

/// Why lanes of a processor that are alike are behind; `first` has been so for the longest.
fn of_lanes(facts: &Facts, p: &ProcessorStatus, first: &LaneBehind, lanes: usize) -> Finding {
    let whose =
        if first.key == first.tenant { first.tenant.clone() } else { format!("{}/{}", first.tenant, first.key) };
    let others = match lanes {
        1 => format!("lane {whose}"),
        n => format!("lane {whose}, and {} more like it,", n - 1),
    };
    let event =
        first.event_position.map_or_else(String::new, |position| format!(" at the event at position {position}"));
    let (since, reason) = (&first.since, &first.reason);
    let resume = Some(format!("sandmill resume {} --tenant {}", p.id, first.tenant));
    let (gravity, what, remedy) = match first.state.as_str() {
        "blocked" => (
            Gravity::Stuck,
            format!("{others} is blocked since {since}{event}: {reason}"),
            resume.map(|resume| format!("mend the plugin or the event, then: {resume}")),
        ),
        "paused" if class(first) == "paused" && !reason.contains("by the settings") => {
            (Gravity::Stuck, format!("{others} is {reason}").replacen("paused: ", "paused ", 1), resume)
        }
        "paused" => (
            Gravity::Stuck,
            format!("{others} waits since {since}: {reason}"),
            Some("change the settings, and restart the host".into()),
        ),
        "retrying" if class(first) == THROTTLED => (
            Gravity::Behind,
            format!(
                "{others} {}, and goes on by itself",
                reason.split_once(": ").map_or(reason.as_str(), |(_, words)| words)
            ),
            Some(format!("give it more in the settings: tenants.{}", first.tenant)),
        ),
        "retrying" => (
            Gravity::Behind,
            format!("{others} tries again by itself (attempt {}){event}: {reason}", first.attempts + 1),
            None,
        ),
        _ => {
            let tenant = facts.tenants.get(&first.tenant);
            (Gravity::Behind, format!("{others} is catching up since {since}{}", pace(tenant)), None)
        }
    };
    Finding { gravity, processor: Some(p.id.clone()), tenant: Some(first.tenant.clone()), lanes, what, remedy }
}

/// How a tenant gets on.
fn pace(tenant: Option<&TenantStatus>) -> String {
    let Some(tenant) = tenant else { return String::new() };
    let share = if tenant.waited_now > tenant.cpu_now { ", which is its share while others want theirs" } else { "" };
    let left = if tenant.rate > 0.0 && tenant.lag_events > 0 {
        format!(": some {} to go", seconds(tenant.lag_events as f64 / tenant.rate))
    } else {
        String::new()
    };
    format!(
        " with {} events before it: {:.0}/s on {:.2} of a core{share}{left}",
        tenant.lag_events, tenant.rate, tenant.cpu_now
    )
}

/// Whether a tenant that was asked for gets less time than it wants.
fn of_share(tenant: &TenantStatus) -> Option<Finding> {
    (tenant.waited_now > 0.1 && tenant.waited_now > tenant.cpu_now).then(|| Finding {
        tenant: Some(tenant.tenant.clone()),
        remedy: Some(format!("if it should have more than others: tenants.{}.weight in the settings", tenant.tenant)),
        ..finding(
            Gravity::Behind,
            format!(
                "its share of CPU time is used up: it computes on {:.2} cores, and its guests wait {:.1} s in each second for their turn",
                tenant.cpu_now, tenant.waited_now
            ),
        )
    })
}

/// The kind of a lane's reason.
fn class(lane: &LaneBehind) -> &str {
    lane.reason.split_once(": ").map_or("", |(class, _)| class)
}

/// A time for people.
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
            shed: 0,
            last_shed: None,
            held: None,
            term_error: None,
            lanes_counted: LaneCounts { all, blocked: all, ..LaneCounts::default() },
            lanes_behind: Vec::new(),
        };
        let alike = |(lanes, first): &(usize, LaneBehind)| LanesAlike {
            processor: "carts".into(),
            lanes: *lanes,
            first: first.clone(),
        };
        Facts {
            status: Status { processors: vec![processor], ..Status::default() },
            host: true,
            lanes: lanes.iter().map(alike).collect(),
            plugins: vec![file("cart-summary", "carts", "")],
            ..Facts::default()
        }
    }

    fn file(plugin: &str, processor: &str, refused: &str) -> PluginFile {
        PluginFile { plugin: plugin.into(), processor: processor.into(), refused: refused.into() }
    }

    fn told(facts: &Facts) -> Vec<String> {
        findings(facts, About::default()).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn nothing_behind_is_nothing_to_explain() {
        assert_eq!(told(&facts(0, &[])), Vec::<String>::new());
        let nobody = Facts { host: false, plugins: Vec::new(), ..facts(0, &[]) };
        assert_eq!(told(&nobody), Vec::<String>::new());
    }

    #[test]
    fn who_holds_it_is_named_the_gravest_first() {
        let lanes = [
            (1, lane("a", "catching-up", "")),
            (1, lane("b", "retrying", "throttled: has used up its cpu-percent = 5 (tenants.b or tenant-limits)")),
            (2, lane("c", "blocked", "trap: unreachable")),
            (1, lane("e", "paused", "paused: by ada since 2026")),
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
            "a".into(),
            TenantStatus {
                tenant: "a".into(),
                lag_events: 900,
                rate: 30.0,
                cpu_now: 0.5,
                waited_now: 2.0,
                ..TenantStatus::default()
            },
        );
        assert_eq!(
            told(&facts),
            [
                "lane c, and 1 more like it, is blocked since 2026-01-02T03:04:05Z at the event at position 17: trap: unreachable",
                "lane e is paused by ada since 2026",
                "it is 500 events behind, the first of them 3.0 s old, and handles 100/s: some 5.0 s to go",
                "its session `commit carts` has waited 1.5 s for a lock of session 7 (psql, user ada), whose transaction is 5 min old",
                "lane a is catching up since 2026-01-02T03:04:05Z with 900 events before it: 30/s on 0.50 of a core, which is its share while others want \
                 theirs: some 30 s to go",
                "lane b has used up its cpu-percent = 5 (tenants.b or tenant-limits), and goes on by itself",
                "session 7 (psql, user ada) has had a transaction open for 5 min: what it appended is handled once it commits. It holds nobody else back",
            ]
        );
        let about = About { tenant: Some("a"), ..About::default() };
        let of_a = findings(&facts, about);
        assert!(of_a.iter().all(|finding| finding.tenant.as_deref().is_none_or(|tenant| tenant == "a")), "{of_a:?}");
        assert!(of_a.iter().any(|finding| finding.what.starts_with("its share of CPU time is used up")), "{of_a:?}");
    }

    #[test]
    fn without_a_host_or_a_plugin_nothing_moves() {
        let nobody = Facts { host: false, plugins: Vec::new(), ..facts(5, &[]) };
        assert_eq!(told(&nobody), ["no host runs on this database, so nothing moves"]);
        let gone = Facts { plugins: vec![file("other", "others", "")], ..facts(5, &[]) };
        let found = findings(&gone, About::default());
        assert_eq!(
            found[0].what,
            "the host has recorded no file cart-summary.wasm in its plugins folder, which was this processor last"
        );
        assert!(found[0].remedy.as_deref().unwrap().starts_with("put cart-summary.wasm back"), "{found:?}");
        let mut paused = facts(5, &[]);
        paused.status.processors[0].paused = Some("by ada since 2026".into());
        assert_eq!(told(&paused), ["it is paused by ada since 2026, with 5 events waiting"]);
    }

    #[test]
    fn what_the_host_has_recorded_of_a_file_is_why_it_does_not_run() {
        let with = |file: PluginFile| Facts { plugins: vec![file], ..facts(5, &[]) };
        assert_eq!(
            told(&with(file("cart-summary", "", "imports wasi:sockets"))),
            ["the host does not run its plugin cart-summary: imports wasi:sockets"]
        );
        assert_eq!(
            told(&with(file("cart-summary", "baskets", ""))),
            ["the host runs cart-summary.wasm as another processor, baskets"]
        );
        assert_eq!(
            told(&with(file("cart-summary", "", ""))),
            ["the host has cart-summary.wasm, but has not begun to run it"]
        );
        assert_eq!(told(&with(file("renamed", "carts", "")))[0].split(',').next(), Some("it is 5 events behind"));
    }

    #[test]
    fn a_processor_that_a_tenants_own_one_replaces_is_noted() {
        let mut facts = facts(0, &[]);
        facts.plugins.push(file("acme/x", "acme/carts", ""));
        facts.plugins.push(file("acme/y", "acme/orders", ""));
        assert_eq!(told(&facts), ["acme/carts handles the events of tenant acme instead of carts"]);
        let about = |tenant| About { tenant: Some(tenant), ..About::default() };
        assert_eq!(findings(&facts, about("acme"))[0].gravity, Gravity::Note);
        assert_eq!(findings(&facts, about("globex")), []);
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
    fn an_error_is_blamed_if_the_processor_runs_even_without_a_record_of_its_plugin() {
        let running = ["carts".to_string()].into();
        let facts = with_term_error(Facts { running, plugins: Vec::new(), ..facts(5, &[]) });
        let found = findings(&facts, About::default());
        let what = "7 terms in a row ended, since 2026-01-02T03:04:05Z, the last at 2026-01-02T03:05:05Z: permission denied for table carts_1 (SQLSTATE 42501)";
        assert_eq!(found.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>(), [what]);
        assert!(found[0].remedy.as_deref().unwrap().starts_with("grant the host's role"), "{found:?}");
    }

    #[test]
    fn a_tenants_own_file_that_is_gone_is_a_note_while_the_shared_processor_runs() {
        let own = facts(5, &[]).status.processors.remove(0);
        let mut facts = facts(0, &[]);
        let (id, plugin) = ("acme/carts".into(), "acme/x 1.0.0 0123".into());
        facts.status.processors.push(ProcessorStatus { id, plugin, ..own });
        let found = findings(&facts, About::default());
        assert_eq!(found.len(), 1, "{found:?}");
        let words = "its file acme/x.wasm is gone, and carts handles the events of tenant acme again";
        assert_eq!((found[0].gravity, found[0].what.as_str()), (Gravity::Note, words));
        assert!(found[0].remedy.as_deref().unwrap().contains("sandmill processors remove acme/carts"), "{found:?}");
    }

    #[test]
    fn the_error_of_a_processor_that_nothing_runs_is_a_note() {
        let what = "its last term ended at 2026-01-02T03:05:05Z with an error: permission denied for table carts_1 (SQLSTATE 42501)";
        let gone = |events| with_term_error(Facts { plugins: Vec::new(), ..facts(events, &[]) });
        let file =
            "the host has recorded no file cart-summary.wasm in its plugins folder, which was this processor last";
        assert_eq!(told(&gone(5)), [file, what]);
        assert_eq!(told(&gone(0)), [what]);
        // A killed host leaves its records.
        let nobody = with_term_error(Facts { host: false, ..facts(5, &[]) });
        assert_eq!(told(&nobody), ["no host runs on this database, so nothing moves", what]);
        assert_eq!(findings(&nobody, About::default())[1].gravity, Gravity::Note);
    }
}
