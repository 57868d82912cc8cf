//! The borders of the host as data: which room may name what of the others, where a dependency may be used, who may start
//! things. A line more in one of these tables is a change of architecture; `host/ARCHITECTURE.md` says what the rooms are for.

use std::collections::BTreeSet;

use super::rust::{self, Named};

/// A room and what it may name of `crate::…`: a room, or one thing in it.
pub(super) const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("admin", &["db", "model::ids", "processor::status", "sandbox", "telemetry", "tenants::status"]),
    ("lib", &[]),
    (
        "cli",
        &[
            // Where a host tells how it does, from before it works.
            "admin",
            "app",
            // What the host's end means to the shell.
            "cluster::host_lock::LockError",
            // Whether a host works here, for what is said of processors that nothing runs.
            "cluster::host_lock::is_held",
            "config",
            "db",
            "explain",
            "model",
            // `dev` says what to do about a folder without plugins.
            "plugins::folder",
            "plugins::history",
            // What a plugin's author signs it with.
            "plugins::signature",
            // What is shown or changed of a running host, through the database.
            "processor::lane_checkpoints",
            "processor::pauses",
            "processor::removal",
            "processor::roster",
            "processor::status",
            "projections::list",
            // What a plugin's author is shown of it.
            "rehearsal",
            "sandbox::examine",
            // The hidden command that is the compiler's own process.
            "sandbox::compile::worker",
            // Following events on a terminal is following the log.
            "source",
            "store",
            "telemetry",
            "tenants::status",
            "toolchain",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "cluster",
            "config",
            "consumer",
            "db",
            "model",
            "plugins",
            "processor",
            "rehearsal",
            "sandbox",
            "scheduler",
            "source",
            // A start is refused where the xids are another cluster's.
            "store::anchor",
            // A rehearsal's events come in the form of an import.
            "store::import",
            "supervisor",
            "telemetry::metrics",
            "tenants",
        ],
    ),
    (
        "config",
        &[
            "admin::Config",
            "model::nearest",
            "plugins::config",
            "processor::Config",
            // The least number of connections that a host needs.
            "processor::connections",
            "processor::pressure",
            "sandbox::Limits",
            "sandbox::compile",
            "scheduler::Config",
            "telemetry::Config",
            "tenants::Limits",
            "tenants::Settings",
        ],
    ),
    (
        "plugins",
        &[
            "db",
            "model",
            // What runs is processors, whose code is exchanged, and whose lanes try again.
            "processor",
            "rollout",
            "sandbox",
            "scheduler",
            "supervisor",
            // A tenant's own processor replaces the shared one of its family.
            "tenants::replacements",
        ],
    ),
    ("consumer", &["model", "source", "supervisor::Stop"]),
    (
        "processor",
        &[
            "cluster::fence",
            // A term begins only while this host may work on the database.
            "cluster::host_lock",
            // A processor reads the log for itself; it is the consumer's user, not its servant.
            "consumer",
            "db",
            "failpoint",
            "model",
            "projections::documents",
            "scheduler",
            // How far processors are behind is counted by the room that owns the event table.
            "source::native::lag",
            "supervisor::Stop",
            // Lost log lines are reported with what else is measured of the host.
            "telemetry::lines_lost",
            "telemetry::metrics",
            // Lanes are held to their tenant's rates, and what they use is counted.
            "tenants",
        ],
    ),
    // A candidate runs beside a processor's own version, over the same events and documents.
    ("rollout", &["consumer", "db", "model", "processor", "projections::documents", "scheduler"]),
    ("sandbox", &["model"]),
    // How far tenants are behind is counted by the room that owns the event table; what they use is
    // added to its table by a task of its own.
    ("tenants", &["db", "model", "source::native::lag", "supervisor::Stop"]),
    // All that may hold something back is told from the database by those whose it is.
    (
        "explain",
        &["cluster::host_lock", "db", "processor::roster", "processor::status", "tenants::rates", "tenants::status"],
    ),
    // Time is shared out among tenants.
    ("scheduler", &["model::ids"]),
    // A plugin's work without a database: the host's own routing, lanes and rules of documents, over a map.
    ("rehearsal", &["consumer::router", "model", "processor::lane", "projections::documents", "scheduler::Class"]),
    ("projections", &["db", "model"]),
    ("source", &["db", "model"]),
    // Re-anchoring holds the host lock in its own transaction.
    ("store", &["cluster::host_lock", "db", "model"]),
    ("cluster", &["db", "model"]),
    // A plugin is begun by the name that its processor will have.
    ("toolchain", &["model::ids"]),
    // A pool shares connections among processors and tenants.
    ("db", &["model"]),
    ("model", &[]),
    ("supervisor", &[]),
    // Words of plugins are made safe to show by the vocabulary.
    ("telemetry", &["model::nearest", "model::text"]),
    ("failpoint", &[]),
];

/// A dependency, the only rooms that may name it, and why.
pub(super) const CRATES: &[(&str, &[&str], &str)] = &[
    ("wasmtime", &["sandbox"], "only the sandbox knows how guests run"),
    ("wasmparser", &["sandbox", "toolchain"], "what is inside a component concerns who loads and who builds it"),
    ("wit_component", &["toolchain"], "components are made by the toolchain"),
    ("tokio_postgres", &["db"], "the client library has one door; `crate::db` re-exports what SQL's owners need"),
    ("axum", &[], "three pages need no framework"),
    ("hyper", &["admin"], "what is told over HTTP is told in one place"),
    ("hyper_util", &["admin"], "what is told over HTTP is told in one place"),
    ("prometheus_client", &["telemetry"], "there is one table of metrics"),
    ("clap", &["cli"], "arguments are the command line's"),
    ("clap_complete", &["cli"], "arguments are the command line's"),
    ("console", &["cli"], "what a terminal can show is the command line's"),
    ("indicatif", &["cli"], "progress bars are the command line's"),
    ("toml", &["config", "plugins"], "settings and manifests are parsed once, at the edge"),
    ("notify", &["plugins"], "only the plugins folder is watched"),
    ("ed25519_dalek", &["plugins"], "only plugins are signed"),
    ("tracing_subscriber", &["telemetry"], "where log lines go is decided in one place"),
];

/// A thing that only some rooms may use outside tests, and why.
pub(super) const DEEDS: &[(&str, &[&str], &str)] = &[
    (
        "tokio::spawn",
        &["supervisor", "db", "admin"],
        "every long-lived task has an owner, the supervisor; a connection has its session, and whoever watches is \
         answered from before the first task to after the last",
    ),
    ("tokio::task::spawn", &["supervisor", "db"], "every long-lived task has an owner, the supervisor"),
    ("tokio::task::spawn_local", &[], "every long-lived task has an owner, the supervisor"),
    ("tokio::task::JoinSet", &["supervisor"], "every long-lived task has an owner, the supervisor"),
    ("std::thread::spawn", &["scheduler"], "threads are the scheduler's and the engine's ticker"),
    (
        "std::thread::Builder",
        &["scheduler", "sandbox", "telemetry", "cli"],
        "threads are the scheduler's, the engine's ticker, the writers of output, and the one that a command runs on \
         beside its signals",
    ),
    (
        "std::process::exit",
        &["main"],
        "a process that exits in its middle drops nothing; return an error or an exit code",
    ),
    ("std::process::abort", &[], "a process that ends in its middle drops nothing; return an error or an exit code"),
];

/// Modules whose headers claim that they are pure: they decide in values, and name nothing that
/// waits, reads or tells the time. Instants are passed in.
pub(super) const PURE: &[&str] = &[
    "consumer::router",
    "explain::finding",
    "explain::term_error",
    "model",
    "plugins::folder::entry",
    "plugins::folder::settling",
    "plugins::plan",
    "plugins::reconciler::schedule",
    "plugins::retries",
    "plugins::startup",
    "processor::gather",
    "processor::in_flight",
    "processor::pressure",
    "processor::retry",
    "projections::documents::slow",
    "rehearsal::batching",
    "rehearsal::compare",
    "rollout::probation",
    "rollout::state",
    "scheduler::ring",
    "telemetry::filter",
    "telemetry::line",
    "tenants::rates",
];

/// What a pure module may not name.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_postgres",
    "wasmtime",
    "axum",
    "rustix",
    "crate::db",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
];

/// Where a file of the host stands: `["crate", "db", "embedded"]` for `db/embedded.rs`.
pub(super) fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let segments = path.split('/').filter(|&segment| !matches!(segment, "lib" | "main"));
    ["crate"].into_iter().chain(segments).map(str::to_owned).collect()
}

fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// Whether `path` is `rule` or lies below it.
fn below(path: &[String], rule: &str) -> bool {
    let mut segments = path.iter();
    rule.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
}

/// Whether something of what `rule` names lies below `path`.
fn above(path: &[String], rule: &str) -> bool {
    rule.split("::").zip(path).all(|(wanted, segment)| wanted == segment) && rule.split("::").count() > path.len()
}

/// What is against the borders in one file, given by its path below `host/src`. Lines of [`ROOMS`] that it needs are added to `used`.
pub(super) fn offences(path: &str, source: &str, used: &mut BTreeSet<(String, String)>) -> Vec<(usize, String)> {
    let (room, module) = (room_of(path), module_of(path));
    let mut named = rust::paths(&rust::tokens(source), &module);
    if room == "main" {
        named.iter_mut().filter(|n| n.path[0] == "sandmill").for_each(|n| n.path[0] = "crate".into());
    }
    let mut found = Vec::new();
    for named in named {
        let offence = border(room, &named, used)
            .or_else(|| dependency(room, &named))
            .or_else(|| deed(room, &named))
            .or_else(|| impurity(&module[1..], &named));
        found.extend(offence.map(|offence| (named.line, offence)));
    }
    found.dedup();
    found
}

fn border(room: &str, named: &Named, used: &mut BTreeSet<(String, String)>) -> Option<String> {
    let [first, path @ ..] = &named.path[..] else { return None };
    if first != "crate" || path.first().is_none_or(|target| target == room) {
        return None;
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return Some(format!(
            "the room `{room}` is not known. Give it a line in ROOMS, and one in host/ARCHITECTURE.md"
        ));
    };
    // A room may be imported by name for the sake of one thing in it; what is then taken from it is seen where it is used.
    let fits = |rule: &&&str| below(path, rule) || named.import && !named.glob && above(path, rule);
    if let Some(rule) = allowed.iter().find(fits) {
        used.insert((room.to_owned(), (*rule).to_owned()));
        return None;
    }
    Some(format!(
        "`{room}` may not name `{}`. Let the caller hand in what is needed, or move it to where both may see it; \
         otherwise add the line to ROOMS in tests/suite/tidy/borders.rs and say why in host/ARCHITECTURE.md",
        named.path.join("::")
    ))
}

fn dependency(room: &str, named: &Named) -> Option<String> {
    let (name, rooms, why) = CRATES.iter().find(|(name, _, _)| named.path[0] == *name)?;
    (!rooms.contains(&room)).then(|| {
        format!("`{room}` may not name the crate `{name}`: {why}. Move the code there, or hand its result in as a type of `model`")
    })
}

fn deed(room: &str, named: &Named) -> Option<String> {
    let (deed, _, why) =
        DEEDS.iter().find(|(deed, rooms, _)| below(&named.path, deed) && !named.test && !rooms.contains(&room))?;
    Some(format!("`{room}` may not use `{deed}`: {why}"))
}

fn impurity(module: &[String], named: &Named) -> Option<String> {
    let pure = PURE.iter().find(|pure| below(module, pure))?;
    let what = IMPURE.iter().find(|impure| below(&named.path, impure))?;
    (!named.test).then(|| {
        format!(
            "`{pure}` decides in values and may not name `{what}`. Let the caller read or wait, and pass the result in"
        )
    })
}
