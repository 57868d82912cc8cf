//! Ownership of processor ids and collections: no tenant gets those of another.

mod collections;
mod ids;
mod migration;
mod removal;
mod replacements;

use std::{fs, path::Path};

use sandmill_tests::{
    Database,
    host::{eventually, place, sandmill, stderr, stdout},
};
use serde_json::Value;

/// Puts a plugin's file into a tenant's folder.
fn give(folder: &Path, tenant: &str, name: &str, bytes: &[u8]) {
    let own = folder.join(tenant);
    fs::create_dir_all(&own).unwrap();
    place(&own, &format!("{name}.wasm"), bytes);
}

/// The rows of a query as text.
async fn rows(database: &Database, sql: &str) -> Vec<String> {
    let session = database.db.connect("test").await.unwrap();
    let sql = format!("select found::text from ({sql}) found");
    session.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The JSON output of a command.
async fn json(database: &Database, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(database, arguments).await.unwrap()).unwrap()
}

/// The output of a command, or its error output if it fails.
async fn run(database: &Database, arguments: &[&str]) -> Result<String, String> {
    let mut command = sandmill(&database.address);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    if output.status.success() { Ok(stdout(&output)) } else { Err(stderr(&output)) }
}

/// The number of events that a tenant's documents count, in all collections of this name.
async fn counted(database: &Database, collection: &str, tenant: &str) -> Option<i64> {
    let lines = run(database, &["documents", collection, "--tenant", tenant, "--json"]).await.ok()?;
    lines.lines().map(|line| serde_json::from_str::<Value>(line).ok()?["data"]["count"].as_i64()).sum()
}

/// Waits until a tenant's documents count this many events, and its processor has caught up.
async fn until_counted(database: &Database, collection: &str, processor: &str, events: i64) {
    let (tenant, _) = processor.split_once('/').unwrap();
    eventually(&format!("{processor} has handled {events} events"), async || {
        let behind = database.status(processor).await?.lag_events;
        (behind == 0 && counted(database, collection, tenant).await? == events).then_some(())
    })
    .await;
}

/// Waits until a plugin's error file contains a text.
async fn until_error(folder: &Path, plugin: &str, wanted: &str) -> String {
    let path = folder.join(format!("{plugin}.wasm.error"));
    eventually(&format!("{} contains {wanted}", path.display()), async || {
        fs::read_to_string(&path).ok().filter(|error| error.contains(wanted))
    })
    .await
}
