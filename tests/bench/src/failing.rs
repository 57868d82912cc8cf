//! Failing tenants and their neighbours: a hundred tenants with equal backlogs, of which none or
//! ten fail. Each of the ten fails in a way of its own, in every tenth of its events. What is
//! measured is how long the other ninety take for their backlogs.
//!
//! The lanes of the ten stop, or their events become dead letters. In a fourth case the ten have no
//! events at all, so that the cost of failures can be told from that of sharing the machine.

use std::{path::Path, time::Instant};

use crate::{
    host::Process,
    report::{Report, median},
    world::{Database, World, until, view},
};

const PART: &str = "failing";
const PLUGIN: &str = "scripted";
const COLLECTION: &str = "scripted_log";
/// The tenants that never fail, and the events and streams of each tenant. The backlog takes some
/// ten seconds, so that what is measured is not the first second, in which all ten fail first.
const GOOD: usize = 90;
const EVENTS: i64 = 12_000;
const STREAMS: usize = 8;
/// A failing tenant's every tenth event fails.
const EVERY: i64 = 10;
/// The data of failing events, one for each failing tenant: classes of all families that a plugin
/// can bring about.
const FAILURES: [(&str, &str); 10] = [
    ("trap", r#"{"do": "trap", "message": "no such product"}"#),
    ("cpu-limit", r#"{"do": "spin"}"#),
    ("memory-limit", r#"{"do": "bomb"}"#),
    ("trap by recursion", r#"{"do": "recurse"}"#),
    ("output-limit", r#"{"do": "giant"}"#),
    ("malformed-output", r#"{"do": "malformed-json"}"#),
    ("json-depth-limit", r#"{"do": "deep"}"#),
    ("refused-call", r#"{"do": "read-foreign"}"#),
    ("plugin, stop", r#"{"do": "stop", "code": "closed", "message": "the account is closed"}"#),
    ("plugin, retry", r#"{"do": "retry", "code": "busy", "message": "try again"}"#),
];

/// A case: its name, the failing events' action, and whether the ten tenants fail or are absent.
const CASES: [(&str, Ten, &[&str]); 4] = [
    ("none of a hundred fails", Ten::Good, &[]),
    ("ten are absent", Ten::Absent, &[]),
    ("ten stop", Ten::Failing, &[]),
    ("ten set events aside", Ten::Failing, &["--set", "processors.scripted.failures.then=dead-letter"]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ten {
    Good,
    Absent,
    Failing,
}

/// Measures all cases in turns.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let folder = world.folder(PLUGIN)?;
    let mut databases = Vec::new();
    for (number, (name, ten, _)) in CASES.iter().enumerate() {
        databases.push(load(world, number, name, *ten).await?);
    }
    let binary = &world.binaries[0];
    let mut rates = vec![Vec::new(); CASES.len()];
    // The first round compiles, and is not measured.
    for round in 0..=world.rounds {
        for turn in 0..CASES.len() {
            // The order rotates, because each run is affected by the state that the previous one
            // left.
            let which = (turn + round) % CASES.len();
            let rate = run(binary, &databases[which], &folder, CASES[which].2).await?;
            if round > 0 {
                rates[which].push(rate);
            }
        }
    }
    for (rates, (name, ..)) in rates.iter().zip(CASES) {
        report.add(PART, format!("the ninety, while {name}"), "events/s", rates.clone());
    }
    for ((name, ..), case) in CASES.iter().zip(&rates).skip(1) {
        let aim = if name.starts_with("ten a") { "" } else { " (aim: at least 0.90)" };
        report.add(PART, format!("rate while {name} / none fails{aim}"), "×", vec![median(case) / median(&rates[0])]);
    }
    Ok(())
}

/// The rate at which the ninety tenants' events are handled, the host's start included.
async fn run(binary: &Path, database: &Database, folder: &Path, arguments: &[&str]) -> anyhow::Result<f64> {
    database.reset().await?;
    let handled = format!(
        "select coalesce(sum((data->>'count')::int), 0)::bigint from {} where _partition ^@ 'good-'",
        view(COLLECTION)
    );
    let expected = GOOD as i64 * EVENTS;
    let began = Instant::now();
    let host = Process::start(binary, database, folder, arguments)?;
    until("the collection exists", async || {
        let sql = "select to_regclass('public.scripted_log') is not null";
        Ok(database.session.query_one(sql, &[]).await?.get(0))
    })
    .await?;
    until("the good tenants' events are handled", async || {
        Ok(database.session.query_one(&handled, &[]).await?.get::<_, i64>(0) == expected)
    })
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    host.end().await?;
    eprintln!("{:.0} events/s", expected as f64 / seconds);
    Ok(expected as f64 / seconds)
}

/// Creates a database with the backlogs, in which the tenants' events alternate.
async fn load(world: &World, number: usize, name: &str, ten: Ten) -> anyhow::Result<Database> {
    let database = world.database(&format!("{PART}_{number}")).await?;
    eprintln!("making the events for: {name}");
    let failures: Vec<&str> = FAILURES.iter().map(|(_, data)| *data).collect();
    let tenants = if ten == Ten::Absent { GOOD } else { GOOD + FAILURES.len() };
    let every = if ten == Ten::Failing { EVERY } else { i64::MAX };
    let sql = format!(
        "insert into sandmill.events (tenant, stream, version, type, data)
         select case when tenant < {GOOD} then 'good-' else 'ten-' end || tenant, 's' || n % {STREAMS}, n / {STREAMS} + 1, 'Worked',
           case when tenant >= {GOOD} and n % {every} = {every} - 1 then ($1::text[])[tenant - {GOOD} + 1] else '{{}}' end::json
         from generate_series(0, {EVENTS} - 1) n, generate_series(0, {tenants} - 1) tenant
         order by n, tenant"
    );
    database.session.execute(&sql, &[&failures]).await?;
    database.session.batch_execute("vacuum analyze sandmill.events").await?;
    Ok(database)
}
