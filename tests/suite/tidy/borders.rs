//! The borders of the host as data: which rooms a room may name, where a dependency may be used,
//! and who may start tasks and threads. A new line in one of these tables is a change of
//! architecture. `host/ARCHITECTURE.md` describes the rooms.

use std::collections::BTreeSet;

use super::rust::{self, Named};

/// A room, and what it may name of `crate::…`: other rooms, or single items in them.
pub(super) const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("admin", &["db", "model::ids", "processor::status", "sandbox", "telemetry", "tenants::status"]),
    ("lib", &[]),
    (
        "cli",
        &[
            // The monitoring endpoint answers before the host works.
            "admin",
            "app",
            // The error decides the exit code.
            "cluster::host_lock::LockError",
            // Messages about processors that do not run depend on whether a host runs.
            "cluster::host_lock::is_held",
            "config",
            "db",
            "explain",
            "model",
            // `dev` and `demo` look for plugins in the folder; `plugins` prints its problems.
            "plugins::folder",
            "plugins::history",
            // `plugin sign` signs a plugin.
            "plugins::signature",
            // The state of a running host is displayed and changed through the database.
            "processor::dead_letters",
            // `explain --capsule` exports the failure of one of these.
            "processor::failed_lanes",
            "processor::lane_checkpoints",
            "processor::pauses",
            "processor::removal",
            "processor::requests",
            "processor::roster",
            "processor::status",
            "projections::list",
            // `plugin test` and `plugin check` print their results.
            "rehearsal",
            "sandbox::examine",
            // A hidden command is the compiler's own process.
            "sandbox::compile::worker",
            // `events --follow` follows the log.
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
            // A plugin outside a host runs over the committed documents.
            "projections",
            "rehearsal",
            "sandbox",
            "scheduler",
            "source",
            // A host does not start on a database whose xids are another cluster's.
            "store::anchor",
            // The events of a plugin test have the format of an import.
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
            // The settings check the minimum number of connections of a host.
            "processor::connections",
            // Settings of failures have keys for each class.
            "processor::policy::CODE",
            "processor::settings",
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
            // The reconciler starts processors, swaps their code, and resumes their lanes.
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
            // A processor reads the log itself, through the consumer.
            "consumer",
            "db",
            "failpoint",
            "model",
            "projections::documents",
            "scheduler",
            // A command discards the first waiting event of a stream while no host runs.
            "source::native::first_version",
            // The room that owns the event table counts the lag of processors.
            "source::native::lag",
            "supervisor::Stop",
            // Lost log lines are reported with the other measurements of the host.
            "telemetry::lines_lost",
            "telemetry::metrics",
            // Lanes respect their tenant's rates, and their usage is counted.
            "tenants",
        ],
    ),
    // A candidate runs beside a processor's own version, over the same events and documents.
    ("rollout", &["consumer", "db", "model", "processor", "projections::documents", "scheduler"]),
    ("sandbox", &["model"]),
    ("forwarders", &["model"]),
    // The room that owns the event table counts the lag of tenants. A task of this room adds their
    // usage to its table.
    ("tenants", &["db", "model", "source::native::lag", "supervisor::Stop"]),
    // The reasons for a delay are read from the database, through the rooms that own them.
    (
        "explain",
        &["cluster::host_lock", "db", "processor::roster", "processor::status", "tenants::rates", "tenants::status"],
    ),
    // The time of guest threads is shared among tenants.
    ("scheduler", &["model::ids"]),
    // A plugin test uses the host's routing, lanes and rules of documents, over a map in memory.
    (
        "rehearsal",
        &[
            "consumer::router",
            "model",
            "processor::lane",
            "processor::outcome",
            "projections::documents",
            "scheduler::Class",
        ],
    ),
    ("projections", &["db", "model"]),
    ("source", &["db", "model"]),
    // Re-anchoring holds the host lock in its own transaction.
    ("store", &["cluster::host_lock", "db", "model"]),
    ("cluster", &["db", "model"]),
    // A new plugin is named like its processor. Tools are kept in the user's cache.
    ("toolchain", &["model::ids", "model::user_cache"]),
    // A pool shares connections among processors and tenants.
    ("db", &["model"]),
    ("model", &[]),
    ("supervisor", &[]),
    // Text of plugins is made safe to display by the model.
    ("telemetry", &["model::nearest", "model::text"]),
    ("failpoint", &[]),
];

/// A dependency, the rooms that may name it, and the reason.
pub(super) const CRATES: &[(&str, &[&str], &str)] = &[
    ("wasmtime", &["sandbox"], "only the sandbox knows how guests run"),
    ("wasmparser", &["sandbox", "toolchain"], "only the rooms that load and build components look inside them"),
    ("wit_component", &["toolchain"], "only the toolchain builds components"),
    ("tokio_postgres", &["db"], "`crate::db` re-exports what the owners of SQL need"),
    ("axum", &[], "three pages need no framework"),
    ("hyper", &["admin", "forwarders"], "one room answers over HTTP, and one sends messages"),
    ("hyper_util", &["admin", "forwarders"], "one room answers over HTTP, and one sends messages"),
    ("tokio_rustls", &["forwarders"], "connections to the database have the TLS of `sandmill_client`"),
    ("prometheus_client", &["telemetry"], "there is one table of metrics"),
    ("clap", &["cli"], "only the command line parses arguments"),
    ("clap_complete", &["cli"], "only the command line parses arguments"),
    ("console", &["cli"], "only the command line knows the terminal"),
    ("indicatif", &["cli"], "only the command line draws progress bars"),
    ("toml", &["config", "plugins", "toolchain"], "settings and manifests are parsed once, at the edge"),
    ("notify", &["plugins"], "only the plugins folder is watched"),
    ("ed25519_dalek", &["plugins"], "only plugins are signed"),
    ("tracing_subscriber", &["telemetry"], "one room decides where log lines go"),
];

/// A function that only some rooms may use outside tests, and the reason.
pub(super) const DEEDS: &[(&str, &[&str], &str)] = &[
    (
        "tokio::spawn",
        &["supervisor", "db", "admin"],
        "the supervisor owns every long-lived task; a connection belongs to its session, and the monitoring endpoint \
         answers from before the first task to after the last",
    ),
    ("tokio::task::spawn", &["supervisor", "db"], "the supervisor owns every long-lived task"),
    ("tokio::task::spawn_local", &[], "the supervisor owns every long-lived task"),
    ("tokio::task::JoinSet", &["supervisor"], "the supervisor owns every long-lived task"),
    ("std::thread::spawn", &["scheduler"], "only the scheduler and the engine's ticker have threads"),
    (
        "std::thread::Builder",
        &["scheduler", "sandbox", "consumer", "telemetry", "cli"],
        "only the scheduler, the engine's ticker, the poller of the head, the writers of output, and a command beside its signals have threads",
    ),
    (
        "std::process::exit",
        &["main"],
        "an exit in the middle of a process runs no destructors; return an error or an exit code",
    ),
    (
        "std::process::abort",
        &[],
        "an abort in the middle of a process runs no destructors; return an error or an exit code",
    ),
];

/// Modules whose headers claim that they are pure: they compute values, and name nothing that
/// waits, performs I/O or reads a clock. Instants are passed in.
pub(super) const PURE: &[&str] = &[
    "cli::live::rates",
    "cli::live::render",
    "consumer::router",
    "explain::finding",
    "explain::term_error",
    "forwarders::egress",
    "forwarders::webhook::answer",
    "forwarders::webhook::cloudevent",
    "forwarders::webhook::masks",
    "forwarders::webhook::request",
    "forwarders::webhook::retry_after",
    "forwarders::webhook::secret",
    "model",
    "plugins::folder::entry",
    "plugins::folder::settling",
    "plugins::plan",
    "plugins::reconciler::schedule",
    "plugins::retries",
    "plugins::startup",
    "processor::appends",
    "processor::attempts",
    "processor::core",
    "processor::gather",
    "processor::in_flight",
    "processor::lane::bisection",
    "processor::policy",
    "processor::pressure",
    "processor::terms",
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

/// Paths that a pure module may not name.
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

/// The module of a file of the host: `["crate", "db", "embedded"]` for `db/embedded.rs`.
pub(super) fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let segments = path.split('/').filter(|&segment| !matches!(segment, "lib" | "main"));
    ["crate"].into_iter().chain(segments).map(str::to_owned).collect()
}

fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// Whether `path` is `rule` or is inside it.
fn below(path: &[String], rule: &str) -> bool {
    let mut segments = path.iter();
    rule.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
}

/// Whether `rule` names an item inside `path`.
fn above(path: &[String], rule: &str) -> bool {
    rule.split("::").zip(path).all(|(wanted, segment)| wanted == segment) && rule.split("::").count() > path.len()
}

/// The offences against the borders in one file, given by its path below `host/src`. Lines of
/// [`ROOMS`] that the file needs are added to `used`.
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

/// The offence of a path that names a room which its own room may not name, if it is one.
fn border(room: &str, named: &Named, used: &mut BTreeSet<(String, String)>) -> Option<String> {
    let [first, path @ ..] = &named.path[..] else { return None };
    if first != "crate" || path.first().is_none_or(|target| target == room) {
        return None;
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return Some(format!("the room `{room}` is not known. Add it to ROOMS, and to host/ARCHITECTURE.md"));
    };
    // A room may be imported by name for one allowed item. The items used are checked where they
    // are used.
    let fits = |rule: &&&str| below(path, rule) || named.import && !named.glob && above(path, rule);
    if let Some(rule) = allowed.iter().find(fits) {
        used.insert((room.to_owned(), (*rule).to_owned()));
        return None;
    }
    Some(format!(
        "`{room}` may not name `{}`. Let the caller pass in what is needed, or move it to a room that both may name; \
         otherwise add a line to ROOMS in tests/suite/tidy/borders.rs and give the reason in host/ARCHITECTURE.md",
        named.path.join("::")
    ))
}

/// The offence of a path that names a crate outside the rooms that may use it, if it is one.
fn dependency(room: &str, named: &Named) -> Option<String> {
    let (name, rooms, why) = CRATES.iter().find(|(name, _, _)| named.path[0] == *name)?;
    (!rooms.contains(&room)).then(|| {
        format!("`{room}` may not name the crate `{name}`: {why}. Move the code there, or pass its result in as a type of `model`")
    })
}

/// The offence of a path that names a function outside the rooms that may use it, if it is one.
fn deed(room: &str, named: &Named) -> Option<String> {
    let (deed, _, why) =
        DEEDS.iter().find(|(deed, rooms, _)| below(&named.path, deed) && !named.test && !rooms.contains(&room))?;
    Some(format!("`{room}` may not use `{deed}`: {why}"))
}

/// The offence of a path in a pure module that names something impure, if it is one.
fn impurity(module: &[String], named: &Named) -> Option<String> {
    let pure = PURE.iter().find(|pure| below(module, pure))?;
    let what = IMPURE.iter().find(|impure| below(&named.path, impure))?;
    (!named.test)
        .then(|| format!("`{pure}` is pure and may not name `{what}`. Let the caller do this, and pass the result in"))
}
