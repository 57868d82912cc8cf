//! A log of each plane, with a hash chain that reveals a lost, repeated or reordered event.
//!
//! The collection `plane_log` has one document per plane. Its id is the stream's id without the
//! prefix `plane-`, if it has that.
//!
//! - `flown`, `cancelled`: numbers of events
//! - `lastEvent`, `lastVersion`: id and stream version of the last event
//! - `chain`: a hash over the ids of all events, in order
//!
//! ```text
//! chain(0) = 64 times the digit 0
//! chain(n) = lower-case hex of SHA-256( ASCII bytes of chain(n-1), then UTF-8 bytes of the n-th event's id )
//! ```
//!
//! The chain can be computed from the events again. In SQL it is an aggregate over
//! `encode(sha256(convert_to(chain || event_id, 'UTF8')), 'hex')`, in the order of the stream's
//! versions.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const COLLECTION: &str = "plane_log";
const HEX: &[u8; 16] = b"0123456789abcdef";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    flown: u64,
    cancelled: u64,
    last_event: String,
    last_version: u64,
    chain: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { flown: 0, cancelled: 0, last_event: String::new(), last_version: 0, chain: "0".repeat(64) }
    }
}

struct PlaneLog;

impl Projector for PlaneLog {
    fn describe() -> Descriptor {
        descriptor!("plane-log").event_types(["FlightFlown", "FlightCancelled"]).collection(COLLECTION)
    }

    fn project(batch: &Batch) -> Result<Projection, Halt> {
        Ok(fold(batch, COLLECTION, |event| Ok((plane(event.stream_id()), ())), apply))
    }
}

export_projector!(PlaneLog);

fn plane(stream: &str) -> &str {
    match stream.strip_prefix("plane-") {
        Some(plane) if !plane.is_empty() => plane,
        _ => stream,
    }
}

fn apply(log: &mut Log, event: Event<'_>, (): ()) -> Result<(), Failure> {
    match event.event_type() {
        "FlightCancelled" => log.cancelled += 1,
        _ => log.flown += 1,
    }
    log.last_event.clear();
    log.last_event.push_str(event.id());
    log.last_version = event.stream_version();
    extend(&mut log.chain, event.id());
    Ok(())
}

/// Extends a chain by an event.
fn extend(chain: &mut String, event_id: &str) {
    let hash = Sha256::new().chain_update(&*chain).chain_update(event_id).finalize();
    chain.clear();
    for byte in hash {
        // From a table, because formatting would cost more than hashing.
        chain.push(char::from(HEX[usize::from(byte >> 4)]));
        chain.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{Lane, event};

    use super::*;

    #[test]
    fn each_plane_has_a_log() {
        let mut lane = Lane::<PlaneLog>::new("UA");
        lane.handle([
            event("FlightFlown", "{}").stream("plane-N1").id("a"),
            event("FlightCancelled", "{}").stream("glider").id("b"),
            event("FlightCancelled", "{}").stream("plane-N1").id("c"),
        ]);
        let chain = |ids: &[&str]| {
            let mut chain = Log::default().chain;
            ids.iter().for_each(|id| extend(&mut chain, id));
            chain
        };
        let log = |flown, cancelled, last, version, ids: &[&str]| {
            format!(
                r#"{{"flown":{flown},"cancelled":{cancelled},"lastEvent":"{last}","lastVersion":{version},"chain":"{}"}}"#,
                chain(ids)
            )
        };
        assert_eq!(lane.text(COLLECTION, "N1"), Some(log(1, 1, "c", 2, &["a", "c"]).as_str()));
        assert_eq!(lane.text(COLLECTION, "glider"), Some(log(0, 1, "b", 1, &["b"]).as_str()));
    }

    /// Expected values by `printf '%064d' 0 | cat - <(printf a) | sha256sum`, then again with `é`.
    #[test]
    fn the_chain_matches_its_documentation() {
        let mut chain = Log::default().chain;
        extend(&mut chain, "a");
        assert_eq!(chain, "798681f5061511d34f32f43ab175a3ee7007fecfdc844295e054315b0af2d23d");
        extend(&mut chain, "é");
        assert_eq!(chain, "981f5cb8bf50a8a5d3322ca91d05c20112eab61aa3d89011628e40512f042c6b");
    }

    #[test]
    fn a_stream_without_the_prefix_is_a_plane_of_that_name() {
        assert_eq!([plane("plane-N1"), plane("N1"), plane("plane-")], ["N1", "N1", "plane-"]);
    }
}
