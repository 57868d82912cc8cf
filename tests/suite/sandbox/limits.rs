// Each limit of the sandbox: a call or file that exceeds it fails with its class, and is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sandmill::{
    model::{
        effects::Effects,
        handler::{Failure, Handler},
    },
    sandbox::{Limits, LoadError, Plugin, Sandbox},
};
use sandmill_tests::{
    calls::{HeldDocuments, NoDocuments, SlowDocuments, batch, call, load, refused, sandbox, tenant, unhurried},
    handmade,
    host::component,
};
use serde_json::{Value, json};

/// One call with several events.
async fn call_with(plugin: &Arc<Plugin>, data: &[Value]) -> Result<Effects, Failure> {
    plugin.clone().handle(batch("t", "lane", data), Arc::new(NoDocuments)).await.map_err(|failed| failed.failure)
}

/// The full reason of a failed call.
fn reason(answer: Result<Effects, Failure>) -> String {
    match answer {
        Err(Failure::Block(reason) | Failure::Retry(reason)) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

fn counted(sandbox: &Sandbox, class: &str) -> u64 {
    sandbox.usage().refusals.get(class).copied().unwrap_or(0)
}

#[tokio::test]
async fn a_call_over_a_limit_is_refused_with_its_class_and_counted() {
    let limits = Limits {
        memory_mib: 32,
        cpu_ms: 200,
        output_mib: 4,
        changes: 20,
        document_kib: 64,
        instances: 2,
        ..unhurried()
    };
    let sandbox = sandbox(limits);
    let plugin = load(&sandbox, "scripted");
    for (deed, class) in [
        (json!({"do": "spin"}), "cpu-limit"),
        (json!({"do": "bomb"}), "memory-limit"),
        (json!({"do": "giant", "mib": 6}), "output-limit"),
        (json!({"do": "giant", "mib": 1}), "document-limit"),
        (json!({"do": "deep"}), "json-depth-limit"),
        (json!({"do": "nul"}), "malformed-output"),
        (json!({"do": "read-foreign"}), "refused-call"),
        (json!({"do": "trap"}), "trap"),
    ] {
        assert_eq!(refused(&plugin, "t", deed).await, class);
        assert_eq!(counted(&sandbox, class), 1, "{class}");
    }
    let streams = |count: u32| (0..count).map(|stream| json!({"stream": stream.to_string()})).collect::<Vec<_>>();
    assert_eq!(call_with(&plugin, &streams(20)).await.unwrap().changes.len(), 20);
    let too_many = reason(call_with(&plugin, &streams(21)).await);
    assert_eq!(too_many, "changes-limit: answered with 21 changes; 20 are allowed (limits.changes)");
    assert_eq!(counted(&sandbox, "changes-limit"), 1);
}

#[tokio::test]
async fn a_document_nested_deeper_than_the_limit_is_rejected() {
    let sandbox = sandbox(Limits { json_depth: 1, instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    assert!(call(&plugin, "t", "lane", json!({})).await.is_ok());
    let deep = reason(call(&plugin, "t", "lane", json!({"do": "deep"})).await);
    let expected =
        "json-depth-limit: document `x` of `scripted_log`: nested deeper than 1 levels at byte 5 (limits.json-depth)";
    assert_eq!(deep, expected);
}

#[tokio::test]
async fn log_lines_over_their_limits_are_dropped_or_cut_and_the_call_succeeds() {
    let sandbox = sandbox(Limits { log_lines: 3, log_line_bytes: 16, instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    for calls in 1..=2 {
        // `line 1 of 5` is short enough.
        assert!(call(&plugin, "t", "lane", json!({"do": "log", "lines": 5})).await.is_ok());
        assert_eq!((counted(&sandbox, "log-lines"), counted(&sandbox, "log-line-bytes")), (2 * calls, 0));
    }
    assert!(call(&plugin, "t", "lane", json!({"do": "log", "lines": 10_000})).await.is_ok());
    assert_eq!((counted(&sandbox, "log-lines"), counted(&sandbox, "log-line-bytes")), (4 + 9_997, 0));
    let long = json!({"do": "shout", "message": "seventeen letters", "lines": 4});
    assert!(call(&plugin, "t", "lane", long).await.is_ok());
    assert_eq!((counted(&sandbox, "log-lines"), counted(&sandbox, "log-line-bytes")), (4 + 9_997 + 1, 3));
}

#[tokio::test]
async fn a_plugins_instances_share_its_memory_and_idle_ones_are_evicted() {
    let sandbox = sandbox(Limits { memory_mib: 16, plugin_memory_mib: 16, instances: 8, ..unhurried() });
    let (plugin, other) = (load(&sandbox, "scripted"), load(&sandbox, "scripted"));
    for tenant in ["a", "b", "c"] {
        call(&plugin, tenant, "lane", json!({})).await.unwrap();
        call(&other, tenant, "lane", json!({})).await.unwrap();
    }
    assert_eq!(sandbox.usage().idle, 6);
    // A single call may use all of it: idle instances of the same plugin are evicted.
    assert_eq!(refused(&plugin, "d", json!({"do": "bomb"})).await, "memory-limit");
    assert_eq!(sandbox.usage().idle, 3, "the other plugin's instances stay");

    let documents = Arc::new(HeldDocuments::default());
    let mut held = plugin.clone().handle(batch("e", "lane", &[json!({})]), documents.clone());
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        () = documents.asked.notified() => {}
    }
    // Memory that another call holds is released later, so this one is retried.
    match call(&plugin, "d", "lane", json!({"do": "bomb"})).await {
        Err(Failure::Retry(reason)) => assert_eq!(reason.class, "plugin-memory-limit"),
        other => panic!("{other:?}"),
    }
    assert!(call(&plugin, "d", "lane", json!({})).await.is_ok(), "there is room for an ordinary call");
    documents.answer.notify_one();
    assert!(held.await.is_ok());
    plugin.forget_all();
    other.forget(&tenant("a"));
    assert_eq!(sandbox.usage().live, 2);
    drop((plugin, other));
    assert_eq!((sandbox.usage().live, sandbox.usage().memory_bytes), (0, 0));
}

#[tokio::test]
async fn a_component_of_many_parts_fits_and_takes_no_room_from_others() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    // As many core instances as Python's runtime has, and as many memories as JavaScript's.
    let plugin = Arc::new(sandbox.load(&handmade::with_instances(38, 2)).expect("it fits"));
    for tenant in ["a", "b", "c"] {
        assert!(call(&plugin, tenant, "lane", json!({})).await.is_ok(), "{tenant}");
    }
    assert_eq!(sandbox.usage().idle, 2);
    // Two idle instances leave no room for three more memories, so one is evicted for `describe`.
    sandbox.load(&handmade::with_instances(37, 2)).expect("there is room to load another");
    assert_eq!(sandbox.usage().idle, 1);
    let error = sandbox.load(&handmade::with_instances(38, 4)).err().expect("it has five memories").to_string();
    assert!(error.contains("5 Wasm linear memories"), "{error}");
}

/// Calls may hold so many memories that there is no room for `describe` of another file.
#[tokio::test]
async fn a_file_is_not_blamed_while_calls_hold_the_memories_that_it_needs() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let scripted = std::fs::read(component("scripted")).expect("read a component");
    let plugin = Arc::new(sandbox.load(&handmade::grown(scripted, 3, 3)).expect("it fits"));
    let documents = Arc::new(HeldDocuments::default());
    let mut held = plugin.clone().handle(batch("e", "lane", &[json!({})]), documents.clone());
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        () = documents.asked.notified() => {}
    }
    let file = handmade::with_instances(3, 3);
    let refused = sandbox.load(&file).err();
    assert!(matches!(refused, Some(LoadError::NoInstance(_))), "{refused:?}");
    documents.answer.notify_one();
    assert!(held.await.is_ok());
    sandbox.load(&file).expect("idle instances are evicted");
}

#[tokio::test]
async fn initial_and_grown_tables_and_memories_are_bounded() {
    let sandbox = sandbox(Limits { memory_mib: 2, table_elements: 100, instances: 2, ..unhurried() });
    let refused = |fields: &str| sandbox.load(&handmade::plugin(fields)).err().expect("it is rejected").to_string();
    assert_eq!(
        refused("(table 101 funcref)"),
        "begins with a table of 101 elements, more than the 100 of limits.table-elements\n\
         Link fewer functions whose addresses are taken, or raise the setting."
    );
    assert_eq!(
        refused(r#"(memory (export "memory") 33)"#),
        "begins with 3 MiB of memory, more than the 2 MiB of limits.memory-mib\n\
         Make its static data smaller, or raise the setting."
    );
    let grow = |elements: u32| {
        let body = format!(
            "(table 1 funcref) (func $body (if (i32.eq (table.grow (ref.null func) (i32.const {elements})) (i32.const -1)) (then unreachable)))"
        );
        Arc::new(sandbox.load(&handmade::plugin(&body)).expect("load it"))
    };
    assert!(call(&grow(99), "t", "lane", json!({})).await.is_ok());
    let too_long = reason(call(&grow(100), "t", "lane", json!({})).await);
    let expected = "table-limit: asked for a table of 101 elements, more than it may have (limits.table-elements)";
    assert_eq!(too_long, expected);
    assert_eq!((counted(&sandbox, "table-limit"), counted(&sandbox, "memory-limit")), (2, 1));
}

#[test]
fn a_component_file_over_its_size_limit_is_rejected() {
    let sandbox = sandbox(Limits { component_mib: 1, instances: 2, ..unhurried() });
    let mut large = handmade::plugin("");
    // An ignored custom section of 1 MiB: its number, its length in LEB128, an empty name.
    large.extend([0, 0x81, 0x80, 0x40, 0]);
    large.resize(large.len() + (1 << 20), 0);
    let error = sandbox.load(&large).err().expect("it is rejected").to_string();
    assert!(error.starts_with("2 MiB large, more than the 1 MiB of limits.component-mib\nMake "), "{error}");
    assert_eq!(counted(&sandbox, "component-limit"), 1);
    let larger = Sandbox::new(Limits { component_mib: 2, ..unhurried() }, sandmill_tests::host::compile()).unwrap();
    larger.load(&large).expect("load it with a higher limit");
}

/// A guest that reads one document many times must not exhaust the host's memory.
#[tokio::test]
async fn a_read_over_the_guests_memory_limit_is_refused() {
    use sandmill::model::{
        handler::{BoxFuture, Documents},
        ids::CollectionName,
    };
    struct Huge;
    impl Documents for Huge {
        fn get_many<'a>(
            &'a self,
            _: &'a CollectionName,
            ids: &'a [String],
        ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
            let document: Arc<str> = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1 << 20)).into();
            Box::pin(async move { Ok(vec![Some(document); ids.len()]) })
        }
    }
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let streams: Vec<Value> = (0..2_000).map(|stream| json!({"stream": stream.to_string()})).collect();
    let answer = plugin.handle(batch("t", "lane", &streams), Arc::new(Huge)).await;
    let answer = answer.map_err(|failed| failed.failure);
    let expected =
        "memory-limit: read 2001 MiB of documents in one call, more than the 64 MiB of its memory (limits.memory-mib)";
    assert_eq!(reason(answer), expected);
}

/// The host keeps the ids in memory until it answers.
#[tokio::test]
async fn a_read_of_too_many_documents_is_refused() {
    let sandbox = sandbox(Limits { reads: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let streams = |count: usize| -> Vec<Value> { (0..count).map(|n| json!({"stream": n.to_string()})).collect() };
    let answer = call_with(&plugin, &streams(3)).await;
    assert_eq!(reason(answer), "reads-limit: asked for 3 documents in one call, more than the 2 of limits.reads");
}

/// The limit is on the guest thread's own CPU clock, so a wait or a loaded machine does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_does_not_count_against_the_cpu_limit() {
    let sandbox = sandbox(Limits { cpu_ms: 200, instances: 8, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let cores = std::thread::available_parallelism().unwrap().get();
    for burning in [0, cores * 2] {
        let stop = Arc::new(AtomicBool::new(false));
        let burners: Vec<_> = (0..burning)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    while !stop.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            let slow = Arc::new(SlowDocuments(Duration::from_millis(300)));
            let waited = plugin.clone().handle(batch("acme", "lane", &[json!({})]), slow).await;
            assert_eq!(waited.expect("a guest that waits is not ended").changes.len(), 1);
            assert_eq!(refused(&plugin, "acme", json!({"do": "spin"})).await, "cpu-limit");
        }
        stop.store(true, Relaxed);
        burners.into_iter().for_each(|burner| burner.join().unwrap());
    }
}
