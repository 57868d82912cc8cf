// Hostile guests: no matter what a guest tries, it harms only its own tenant. One host runs all
// hostile guests at once, beside quiet tenants.

mod components;
mod deeds;
mod packed;

use std::collections::BTreeMap;

use deeds::{Fate, secret};
use sandmill_tests::{
    Database, database,
    host::{Process, eventually_or, plugins},
    ledger::{Chain, chains, documents},
};
use serde_json::json;

/// Limits that are reached quickly.
const TIGHT: [&str; 7] = [
    "limits.cpu-ms=200",
    "limits.output-mib=4",
    "limits.wall-ms=60000",
    // One tenant is hostile in ten plugins at once.
    "tenant-limits.memory-mib=1024",
    "tenant-limits.log-kib-per-second=1",
    "limits.log-line-bytes=256",
    "processor.page-events=100",
];
/// Bound on the host's peak memory, MiB: above what the host needs itself, and far below the
/// several GiB that the guests ask for.
const PEAK_MIB: u64 = 512;

/// The blocked lanes by processor and tenant, with their reasons. While other lanes are still busy,
/// an error with the state of all.
async fn blocked(database: &Database, processors: &[&str]) -> Result<BTreeMap<(String, String), String>, String> {
    let mut blocked = BTreeMap::new();
    for processor in processors {
        let Some(status) = database.status(processor).await else {
            return Err(format!("{processor} has not begun\n{}", database.standing().await));
        };
        if status.unread_events > 0 || status.lanes_behind.iter().any(|lane| lane.state != "blocked") {
            return Err(format!("{processor} has not settled\n{}", database.standing().await));
        }
        let lanes = status.lanes_behind.into_iter();
        blocked.extend(lanes.map(|lane| ((processor.to_string(), lane.tenant), lane.reason)));
    }
    Ok(blocked)
}

async fn append_quietly(database: &Database) {
    for tenant in ["quiet-1", "quiet-2"] {
        for stream in ["s0", "s1"] {
            database.append(tenant, stream, &vec![json!({"do": "remember"}); 60]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_guest_harms_only_its_own_tenant() {
    let database = database().await;
    let folder = plugins(&["scripted", "hostile"]);
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(format!("{name}.wasm")), bytes).unwrap();
    let (deeds, made, rejected) = (deeds::all(), components::all(), components::rejected());
    made.iter().for_each(|component| write(component.id, &component.bytes));
    rejected.iter().for_each(|(name, bytes, _)| write(name, bytes));
    let mut expected = BTreeMap::new();
    for deed in &deeds {
        let mut script = deed.script.clone();
        script["pad"] = json!(secret(deed.tenant));
        database.append(deed.tenant, deed.tenant, &[json!({}), script.clone(), script, json!({})]).await;
        if let Fate::Blocked(reason) = deed.fate {
            expected.insert((deed.guest.to_string(), deed.tenant.to_string()), reason);
        }
    }
    database.append(components::TENANT, "s", &[json!({"pad": secret(components::TENANT)})]).await;
    for component in &made {
        if let Some(reason) = component.reason {
            expected.insert((component.id.to_string(), components::TENANT.to_string()), reason);
        }
    }
    append_quietly(&database).await;

    let processors: Vec<&str> = made.iter().map(|component| component.id).chain(["scripted", "hostile"]).collect();
    // A guest that computes or allocates without end would be tried again for minutes.
    let once = processors.iter().map(|id| format!("processors.{id}.failures.load.attempts=1"));
    let once: Vec<String> = once.collect();
    let settings: Vec<&str> = TIGHT.into_iter().chain(once.iter().map(String::as_str)).collect();
    let host = Process::start(&database, folder.path(), &settings);
    let found = eventually_or("the hostile lanes settle", async || blocked(&database, &processors).await).await;
    let (found_lanes, expected_lanes): (Vec<_>, Vec<_>) = (found.keys().collect(), expected.keys().collect());
    assert_eq!(found_lanes, expected_lanes, "hostile lanes are blocked and all others are caught up\n{found:#?}");
    for (lane, reason) in &expected {
        assert!(found[lane].starts_with(reason), "{lane:?}:\n  expected {reason}…\n  found    {}", found[lane]);
    }
    // The quiet tenants continue beside the blocked lanes.
    append_quietly(&database).await;
    eventually_or("the quiet lanes catch up", async || blocked(&database, &processors).await).await;
    let (peak, log) = (host.peak_mib(), host.log());
    drop(host);
    assert!(peak < PEAK_MIB, "{peak} MiB");
    for (name, _, problem) in &rejected {
        let logged = log.lines().any(|line| line.contains(&format!("{name}.wasm")) && line.contains(problem));
        assert!(logged, "{name}: {problem}\n{log}");
    }
    assert_quiet_documents_are_exact(&database).await;
    assert_ids_belong_to_their_tenant(&database).await;
    assert_wasi_reveals_nothing(&database).await;
    assert_secrets_are_kept(&database, &log, deeds.iter().map(|deed| deed.tenant).chain([components::TENANT])).await;
    assert_floods_are_dropped(&log);
}

async fn assert_quiet_documents_are_exact(database: &Database) {
    let expected = chains(database, "e.tenant like 'quiet%' or e.tenant = 'traps-later'").await;
    let documents = documents(database, "scripted_log").await;
    let is_quiet = |tenant: &str| tenant.starts_with("quiet") || tenant == "traps-later";
    let found: BTreeMap<_, _> = documents
        .into_iter()
        .filter(|((tenant, _), _)| is_quiet(tenant))
        .inspect(|((tenant, _), data)| {
            let saw = data["saw"].as_str().unwrap_or_default();
            assert!(saw.is_empty() || saw == tenant, "{tenant} saw {saw}");
        })
        .map(|(key, data)| {
            let events = data["count"].as_i64().unwrap_or(0);
            (key, Chain { events, chain: data["chain"].as_str().unwrap_or("").into() })
        })
        .collect();
    assert_eq!(expected, found);
}

async fn assert_ids_belong_to_their_tenant(database: &Database) {
    let documents = documents(database, "scripted_log").await;
    for (tenant, id) in [("poses", "quiet-1"), ("poses-again", "quiet-1/s0")] {
        assert_eq!(documents[&(tenant.into(), id.into())], json!({}), "the last of two writes in one batch wins");
        let owners: Vec<_> = documents.keys().filter(|(_, named)| named == id).collect();
        assert_eq!(owners.len(), 1, "{owners:?}");
    }
}

async fn assert_wasi_reveals_nothing(database: &Database) {
    let documents = documents(database, "hostile_log").await;
    let found = |tenant: &str| &documents[&(tenant.to_string(), tenant.to_string())];
    let constants = json!({
        "seconds": 0, "nanoseconds": 86_400_000_000_000_u64, "variables": 0, "folders": 0, "input": 0, "refusals": [],
        "random": 16_294_208_416_658_607_535_u64, "seed": [16_294_208_416_658_607_535_u64, 7_960_286_522_194_355_700_u64],
    });
    assert_eq!(found("looks"), &constants);
    let refusals = found("escapes")["refusals"].as_array().unwrap();
    let expected = ["access-denied", "access-denied", "access-denied"];
    assert_eq!(refusals.len(), expected.len());
    for (refusal, expected) in refusals.iter().zip(expected) {
        assert!(refusal.as_str().unwrap().contains(expected), "{refusals:?}");
    }
    assert_eq!(found("sleeps")["seconds"], json!(0));
}

/// Checks that a secret appears only in its tenant's own rows and log lines.
async fn assert_secrets_are_kept(database: &Database, log: &str, tenants: impl Iterator<Item = &'static str>) {
    let session = database.db.connect("test").await.unwrap();
    let rows = "select tenant, class || reason from sandmill.lane_checkpoints
                union all select tenant, class || message || backtrace || log_tail from sandmill.dead_letters
                union all select _partition, _id || data::text from public.scripted_log
                union all select _partition, _id || data::text from public.hostile_log";
    let rows = session.query(rows, &[]).await.unwrap();
    let mut seen = 0;
    for tenant in tenants {
        let secret = secret(tenant);
        for row in &rows {
            let (owner, text): (&str, &str) = (row.get(0), row.get(1));
            assert!(owner == tenant || !text.contains(&secret), "{owner} has {secret}: {text}");
            seen += u32::from(text.contains(&secret));
        }
        for entry in log.lines().filter(|entry| entry.contains(&secret)) {
            // Either a guest's own line or the host's about a blocked lane.
            let owned = [format!(" tenant=\"{tenant}\" "), format!(" lane=\"tenant {tenant}\" ")];
            assert!(owned.iter().any(|owned| entry.contains(owned)), "{entry}");
            seen += 1;
        }
    }
    let forged: Vec<&str> = log.lines().filter(|line| line.contains("stolen")).collect();
    assert_eq!(forged.len(), 2);
    let escaped = r#""so far\n2026-01-01T00:00:00.000000Z  INFO stolen processor=\"scripted\" tenant=\"quiet-1\"""#;
    for line in &forged {
        assert!(line.contains(" processor=\"scripted\" tenant=\"forges\" ") && line.ends_with(escaped), "{line}");
    }
    assert!(seen > 10, "secrets seen: {seen}");
}

/// Checks that a tenant's log volume is bounded, and that drops are reported now and then, not at
/// every call.
fn assert_floods_are_dropped(log: &str) {
    for tenant in ["floods", "logs-forever"] {
        let lines = |text: &str| {
            let field = format!("tenant=\"{tenant}\"");
            log.lines().filter(|line| line.contains(&field) && line.contains(text)).count()
        };
        assert!((1..2_000).contains(&lines(&secret(tenant))), "{tenant}: {}", lines(&secret(tenant)));
        assert!((1..5).contains(&lines("were dropped")), "{tenant}: {}", lines("were dropped"));
    }
}
