//! Hostile deeds of guests, and the expected fate of their lanes. Each deed has its own tenant,
//! named after it.

use serde_json::{Value, json};

/// A tenant whose guest is hostile.
pub(super) struct Deed {
    pub(super) tenant: &'static str,
    /// The guest that performs the deed.
    pub(super) guest: &'static str,
    pub(super) script: Value,
    pub(super) fate: Fate,
}

/// The expected fate of a lane.
pub(super) enum Fate {
    /// It is blocked, with a reason that begins like this.
    Blocked(&'static str),
    /// It continues, as the deed is allowed or has no effect.
    Continues,
}

use Fate::{Blocked, Continues};

/// All deeds of the guests `scripted` and `hostile`.
pub(super) fn all() -> Vec<Deed> {
    let of =
        |guest: &'static str, tenant: &'static str, script: Value, fate: Fate| Deed { tenant, guest, script, fate };
    let scripted = |tenant, script, fate| of("scripted", tenant, script, fate);
    let wasi = |tenant, deed: &str, fate| of("hostile", tenant, json!({"wasi": deed, "text": trace(tenant)}), fate);
    vec![
        scripted("spins", json!({"do": "spin"}), Blocked("cpu-limit: computed for more than 200 ms")),
        scripted("reads-forever", json!({"do": "read-forever"}), Blocked("cpu-limit: computed for more than 200 ms")),
        scripted("logs-forever", shout("log-forever", "logs-forever"), Blocked("cpu-limit: computed for more")),
        scripted("allocates", json!({"do": "bomb"}), Blocked("memory-limit: asked for ")),
        scripted("recurses", json!({"do": "recurse"}), Blocked("trap: out of bounds memory access")),
        scripted("gibibyte", json!({"do": "giant", "mib": 1024}), Blocked("memory-limit: asked for ")),
        scripted("large", json!({"do": "giant", "mib": 6}), Blocked("output-limit: passed more data to the host than")),
        scripted("nests", json!({"do": "deep"}), Blocked("json-depth-limit: document `x` of `scripted_log`: nested")),
        scripted("invalid-json", json!({"do": "malformed-json"}), Blocked("malformed-output: document `x` of ")),
        scripted("empty-id", json!({"do": "empty-id"}), Blocked("malformed-output: wrote a document with an id of 0 ")),
        scripted("foreign", json!({"do": "foreign-collection"}), Blocked("malformed-output: wrote to collection ")),
        scripted("spies", json!({"do": "read-foreign"}), Blocked("refused-call: read collection ")),
        scripted("traps", shout("trap", "traps"), Blocked("trap: panicked at ")),
        // Ids that look like another tenant's still name the tenant's own documents.
        scripted("poses", json!({"do": "write-to", "id": "quiet-1"}), Continues),
        scripted("poses-again", json!({"do": "write-to", "id": "quiet-1/s0"}), Continues),
        scripted("forges", forged(), Continues),
        scripted("floods", shout("shout", "floods"), Continues),
        // A warm instance traps, and a fresh one handles the event.
        scripted("traps-later", json!({"do": "trap-later", "n": 2}), Continues),
        wasi("sleeps", "sleep", Continues),
        wasi("sleeps-until", "sleep-until", Blocked("cpu-limit: computed for more than 200 ms")),
        wasi("polls-nothing", "poll-nothing", Blocked("refused-call: polled an empty list")),
        wasi("hoards", "hoard", Blocked("handle-limit: held 1000 WASI handles")),
        wasi("random", "random-bytes", Blocked("refused-call: asked for 1099511627776 random bytes")),
        wasi("exits", "exit", Blocked("trap: Trace:\n  SECRET-exits; (the guest exited: wasi:cli/exit)")),
        wasi("looks", "look", Continues),
        wasi("escapes", "escape", Continues),
        wasi("prints", "print", Continues),
        wasi("prints-zeroes", "print-zeroes", Continues),
        wasi(
            "prints-much",
            "print-much",
            Blocked("malformed-output: gave the host data that it cannot use: Buffer too large for blocking-write"),
        ),
        wasi("releases", "release-early", Blocked("refused-call: released a WASI handle before the pollables")),
    ]
}

/// A text in a tenant's events, logs and failures that must not appear in another tenant's.
pub(super) fn secret(tenant: &str) -> String {
    format!("SECRET-{tenant};")
}

/// An error message of several lines, as a language's runtime prints it.
fn trace(tenant: &str) -> String {
    format!("Trace:\n  {}", secret(tenant))
}

/// A message that imitates a log line of another tenant.
fn forged() -> Value {
    let message = "so far\n2026-01-01T00:00:00.000000Z  INFO stolen processor=\"scripted\" tenant=\"quiet-1\"";
    json!({"do": "shout", "message": message, "lines": 1})
}

fn shout(deed: &str, tenant: &str) -> Value {
    // Many times the lines of a call and the volume of a tenant, for a small part of a call's CPU
    // time.
    json!({"do": deed, "message": secret(tenant), "lines": 2_000})
}
