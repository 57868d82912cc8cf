// Both forms of the contract: one source, built in the plain and in the packed form, has the same
// effects, skips, stops and failures in both.

use std::sync::Arc;

use sandmill::{
    model::handler::{Failure, Handler},
    sandbox::{Limits, Plugin},
};
use sandmill_tests::{
    calls::{Kept, batch, load, sandbox, unhurried},
    handmade,
    host::component,
};
use serde_json::{Value, json};

/// The guest in each form, and its collection.
const FORMS: [(&str, &str); 2] = [("scripted", "scripted_log"), ("scripted-plain", "scripted_plain_log")];

/// The outcome of a call with these events, as text without the guest's own names. The documents
/// are those that earlier calls put.
async fn outcome(plugin: &Arc<Plugin>, documents: &Arc<Kept>, collection: &str, data: &[Value]) -> String {
    let answer = plugin.clone().handle(batch("acme", "lane", data), documents.clone()).await;
    let answer = answer.map_err(|failed| failed.failure);
    if let Ok(effects) = &answer {
        documents.keep(effects);
    }
    let text = match answer {
        Ok(effects) => format!("{effects:?}"),
        Err(Failure::Block(reason)) => format!("blocked: {reason}"),
        Err(other) => format!("{other:?}"),
    };
    text.replace(collection, "COLLECTION")
}

/// What scripts ask for, one call after the other.
fn scripts() -> Vec<Vec<Value>> {
    let ok = json!({});
    let mut scripts = vec![
        vec![ok.clone()],
        vec![ok.clone(), json!({"stream": "a"}), json!({"stream": "Körbchen 🧺", "pad": "ä€🧺\u{1}\\\""}), ok.clone()],
        vec![json!({"stream": "a", "do": "remove"}), json!({"stream": "a"}), json!({"stream": "b", "do": "remove"})],
        vec![json!({"stream": "a", "do": "remove"}), ok.clone()],
        vec![json!({"do": "count-batch"}), json!({"do": "setting"}), json!({"do": "log", "lines": 2})],
        vec![json!({"do": "read", "n": 1_000}), json!({"do": "write-to", "id": "ä"}), ok.clone()],
        vec![ok.clone(), json!({"do": "skip", "code": "odd", "message": "ä🧺"}), ok.clone(), json!([])],
        vec![json!({"do": "retry", "code": "c", "message": "m"})],
        vec![ok.clone(), json!({"do": "retry-after", "ms": 1_500, "code": "c", "message": "m"}), ok.clone()],
        vec![json!({"do": "skip"}), json!({"do": "stop", "code": "c", "message": "a\0b"}), json!({"do": "skip"})],
        (0..1_500).map(|stream| json!({"stream": format!("stream {stream}"), "pad": "x".repeat(200)})).collect(),
        (0..1_500).map(|stream| json!({"stream": format!("stream {stream}")})).collect(),
        vec![json!({"do": "giant", "mib": 1, "id": "1 MiB"}), json!({"do": "giant", "mib": 2, "id": "2 MiB"})],
    ];
    // Deeds for which a call fails.
    let deeds = [
        "read-foreign",
        "malformed-json",
        "not-object",
        "foreign-collection",
        "nul-collection",
        "empty-id",
        "long-id",
        "reserved-key",
        "nul",
        "surrogate",
        "deep",
        "halt-out-of-range",
        "skip-out-of-order",
    ];
    scripts.extend(deeds.map(|deed| vec![ok.clone(), json!({"do": deed})]));
    scripts.extend([
        vec![json!({"do": "giant", "mib": 6})],
        vec![json!({"do": "giant", "mib": 40})],
        vec![json!({"do": "read", "n": 20_001})],
        vec![json!({"do": "long-numbers", "n": 200})],
        (0..4_001).map(|stream| json!({"stream": stream.to_string()})).collect(),
    ]);
    scripts
}

#[tokio::test]
async fn both_forms_have_the_same_outcomes() {
    let limits = Limits { output_mib: 4, document_kib: 3_000, changes: 4_000, memory_mib: 32, ..unhurried() };
    let sandbox = sandbox(limits);
    let [packed, plain] = FORMS.map(|(name, _)| load(&sandbox, name));
    let [packed_documents, plain_documents] = [(); 2].map(|()| Arc::new(Kept::default()));
    for data in scripts() {
        let found = outcome(&packed, &packed_documents, FORMS[0].1, &data).await;
        let expected = outcome(&plain, &plain_documents, FORMS[1].1, &data).await;
        let shown = |text: &str| text.chars().take(400).collect::<String>();
        assert!(found == expected, "{:?}\npacked: {}\nplain:  {}", data.last(), shown(&found), shown(&expected));
    }
}

#[test]
fn the_rust_sdk_exports_the_packed_form_and_its_feature_the_plain_one() {
    let has = |name: &str, interface: &str| {
        let bytes = std::fs::read(component(name)).unwrap();
        let name = format!("sandmill:processor/{interface}@0.1.0");
        bytes.windows(name.len()).any(|window| window == name.as_bytes())
    };
    for interface in ["projector-packed", "documents-packed"] {
        assert!(has("scripted", interface) && !has("scripted-plain", interface), "{interface}");
    }
    for interface in ["projector", "documents"] {
        assert!(!has("scripted", interface) && has("scripted-plain", interface), "{interface}");
    }
}

#[tokio::test]
async fn of_a_component_with_both_forms_the_packed_one_is_called() {
    let sandbox = sandbox(unhurried());
    let plugin = Arc::new(sandbox.load(&handmade::both("(func $body unreachable)")).expect("it exports both"));
    let called = plugin.clone().handle(batch("acme", "lane", &[json!({})]), Arc::new(Kept::default())).await;
    assert!(called.is_ok(), "the plain form traps: {called:?}");
}
