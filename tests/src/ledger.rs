//! The comparison of documents with the log, by hash chains.
//!
//! `plane-log` and `scripted` keep a hash chain over the ids of a stream's events: `chain_0` is 64
//! zeros, `chain_n` the lower-case hexadecimal SHA-256 of `chain_(n-1)` followed by the event's id.
//! The expected chain is computed here from the event table alone. The two differ if any event was
//! lost, repeated or reordered.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Database, host::eventually};

/// The condition that every event meets.
pub const EVERY_EVENT: &str = "true";

/// The hash chain of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The number of events.
    pub events: i64,
    /// The chain over the events' ids.
    pub chain: String,
}

impl Default for Chain {
    /// The chain before the first event.
    fn default() -> Self {
        Chain { events: 0, chain: "0".repeat(64) }
    }
}

impl Chain {
    /// Adds an event.
    pub fn push(&mut self, id: &str) {
        self.events += 1;
        let mut hash = Sha256::new();
        hash.update(&self.chain);
        hash.update(id);
        self.chain = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    }
}

/// The chain of every stream, by tenant and stream, over the events that meet a condition on `e`.
pub async fn chains(database: &Database, condition: &str) -> BTreeMap<(String, String), Chain> {
    let session = database.db.connect("ledger").await.expect("connect");
    let sql = format!(
        "select e.tenant, e.stream, e.id from sandmill.events e where {condition} order by e.tenant, e.stream, e.version"
    );
    let mut chains = BTreeMap::new();
    for row in session.query(&sql, &[]).await.expect("read the log") {
        let chain = chains.entry((row.get(0), row.get(1))).or_insert_with(Chain::default);
        chain.push(row.get(2));
    }
    chains
}

/// All documents of a collection, by tenant and id, without the host's keys.
pub async fn documents(database: &Database, collection: &str) -> BTreeMap<(String, String), Value> {
    let session = database.db.connect("ledger").await.expect("connect");
    let sql = format!("select _partition, _id, (data - '_id' - '_version')::text from public.{collection}");
    let rows = session.query(&sql, &[]).await.expect("read documents");
    rows.iter()
        .map(|row| ((row.get(0), row.get(1)), serde_json::from_str(row.get(2)).expect("a document is JSON")))
        .collect()
}

/// Waits until the documents of `scripted` and `plane-log` count as many events as the log has for
/// them.
pub async fn until_folded(database: &Database) {
    let session = database.db.connect("ledger").await.expect("connect");
    let sql = "select (select sum((data->>'count')::bigint) from public.scripted_log) is not distinct from
                      (select nullif(count(*), 0) from sandmill.events)
                  and (select sum((data->>'flown')::bigint + (data->>'cancelled')::bigint) from public.plane_log) is not distinct from
                      (select nullif(count(*), 0) from sandmill.events where type in ('FlightFlown', 'FlightCancelled'))";
    // The views do not exist before the first start of the host.
    eventually("every event is folded", async || {
        session.query_one(sql, &[]).await.ok()?.get::<_, bool>(0).then_some(())
    })
    .await;
}

/// Waits until each of these collections, of guests derived from `scripted`, counts as many events
/// as the log has.
pub async fn until_counted(database: &Database, collections: &[&str]) {
    let session = database.db.connect("ledger").await.expect("connect");
    for collection in collections {
        let sql = format!(
            "select (select coalesce(sum((data->>'count')::bigint), 0) from public.{collection}) = (select count(*) from sandmill.events)"
        );
        eventually(&format!("{collection} counts every event"), async || {
            session.query_one(&sql, &[]).await.ok()?.get::<_, bool>(0).then_some(())
        })
        .await;
    }
}

/// Asserts that `plane_log` agrees exactly with the log.
pub async fn assert_plane_log(database: &Database) {
    let expected: BTreeMap<(String, String), Chain> = chains(database, "e.type in ('FlightFlown', 'FlightCancelled')")
        .await
        .into_iter()
        .map(|((tenant, stream), chain)| {
            let plane = stream.strip_prefix("plane-").unwrap_or(&stream).to_string();
            ((tenant, plane), chain)
        })
        .collect();
    let found = documents(database, "plane_log").await;
    let found: BTreeMap<(String, String), Chain> = found
        .into_iter()
        .map(|(key, data)| {
            let events = data["flown"].as_i64().unwrap_or(0) + data["cancelled"].as_i64().unwrap_or(0);
            (key, Chain { events, chain: data["chain"].as_str().unwrap_or("").into() })
        })
        .collect();
    assert_same(&expected, &found);
}

/// Asserts that `scripted_log` agrees exactly with the events that meet a condition on `e`.
pub async fn assert_scripted_log(database: &Database, condition: &str) {
    assert_log(database, "scripted_log", condition).await;
}

/// Asserts that the collection of a guest derived from `scripted` agrees exactly with the events
/// that meet a condition on `e`.
pub async fn assert_log(database: &Database, collection: &str, condition: &str) {
    let expected = chains(database, condition).await;
    let found = documents(database, collection).await;
    let found = found
        .into_iter()
        .map(|(key, data)| {
            let events = data["count"].as_i64().unwrap_or(0);
            (key, Chain { events, chain: data["chain"].as_str().unwrap_or("").into() })
        })
        .collect();
    assert_same(&expected, &found);
}

fn assert_same(expected: &BTreeMap<(String, String), Chain>, found: &BTreeMap<(String, String), Chain>) {
    let differing: Vec<String> = expected
        .keys()
        .chain(found.keys())
        .filter(|&key| expected.get(key) != found.get(key))
        .take(5)
        .map(|key| format!("{key:?}: the log has {:?}, the document {:?}", expected.get(key), found.get(key)))
        .collect();
    assert!(differing.is_empty(), "documents differ from the log:\n{}", differing.join("\n"));
}
