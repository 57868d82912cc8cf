//! What guests try on behalf of a tenant, and what becomes of them. Each deed has a tenant of its own, named after it.

use serde_json::{Value, json};

/// A tenant whose guest is hostile.
pub(super) struct Deed {
    pub(super) tenant: &'static str,
    /// Which guest it turns against the host.
    pub(super) guest: &'static str,
    pub(super) script: Value,
    pub(super) fate: Fate,
}

/// What becomes of its lane.
pub(super) enum Fate {
    /// It is blocked, for a reason that begins so.
    Blocked(&'static str),
    /// It goes on, as nothing was wrong or nothing came of it.
    GoesOn,
}

use Fate::{Blocked, GoesOn};

/// Deeds of components that compilers make.
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
        scripted("recurses", json!({"do": "recurse"}), Blocked("trap: wasm trap: out of bounds memory access")),
        scripted("gibibyte", json!({"do": "giant", "mib": 1024}), Blocked("memory-limit: asked for ")),
        scripted("large", json!({"do": "giant", "mib": 6}), Blocked("output-limit: passed more data to the host than")),
        scripted("nests", json!({"do": "deep"}), Blocked("json-depth-limit: document `x` of `scripted_log`: nested")),
        scripted("invalid-json", json!({"do": "malformed-json"}), Blocked("malformed-output: document `x` of ")),
        scripted("empty-id", json!({"do": "empty-id"}), Blocked("malformed-output: wrote a document with an id of 0 ")),
        scripted("foreign", json!({"do": "foreign-collection"}), Blocked("malformed-output: wrote to collection ")),
        scripted("spies", json!({"do": "read-foreign"}), Blocked("refused-call: read collection ")),
        scripted("traps", shout("trap", "traps"), Blocked("trap: wasm trap: wasm `unreachable` instruction executed")),
        // Ids that look like another tenant's name documents of one's own.
        scripted("poses", json!({"do": "write-to", "id": "quiet-1"}), GoesOn),
        scripted("poses-again", json!({"do": "write-to", "id": "quiet-1/s0"}), GoesOn),
        scripted("forges", forged(), GoesOn),
        scripted("floods", shout("shout", "floods"), GoesOn),
        // An instance that was good for so long is bad now; a fresh one is good again.
        scripted("traps-later", json!({"do": "trap-later", "n": 2}), GoesOn),
        wasi("sleeps", "sleep", GoesOn),
        wasi("sleeps-until", "sleep-until", Blocked("cpu-limit: computed for more than 200 ms")),
        wasi("polls-nothing", "poll-nothing", Blocked("refused-call: polled nothing")),
        wasi("hoards", "hoard", Blocked("handle-limit: held 10000 handles of WASI")),
        wasi("random", "random-bytes", Blocked("refused-call: asked for 1099511627776 random bytes")),
        wasi(
            "exits",
            "exit",
            Blocked("trap: ended its own program (wasi:cli/exit); the guest said: Trace:\n  SECRET-exits"),
        ),
        wasi("looks", "look", GoesOn),
        wasi("escapes", "escape", GoesOn),
        wasi("prints", "print", GoesOn),
    ]
}

/// What a tenant's events, logs and failures hold, and no other's may.
pub(super) fn secret(tenant: &str) -> String {
    format!("SECRET-{tenant};")
}

/// What a language's runtime prints, on several lines.
fn trace(tenant: &str) -> String {
    format!("Trace:\n  {}", secret(tenant))
}

/// A line that looks as if it were another tenant's.
fn forged() -> Value {
    let message = "so far\n2026-01-01T00:00:00.000000Z  INFO stolen processor=\"scripted\" tenant=\"quiet-1\"";
    json!({"do": "shout", "message": message, "lines": 1})
}

fn shout(deed: &str, tenant: &str) -> Value {
    // Many times the lines of a call, and the volume of a tenant, at a small part of a call's CPU
    // time on any machine.
    json!({"do": deed, "message": secret(tenant), "lines": 2_000})
}
