// Each limit, reached: what is refused, under which name, and that it is counted.

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
    plugin.clone().handle(batch("t", "lane", data), Arc::new(NoDocuments)).await
}

/// Why a call was refused, in full.
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
async fn what_a_guest_asks_for_beyond_its_limits_is_refused_by_name_and_counted() {
    let limits = Limits {
        memory_mib: 16,
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
    assert_eq!(too_many, "changes-limit: answered with 21 changes where 20 are allowed (limits.changes)");
    assert_eq!(counted(&sandbox, "changes-limit"), 1);
}

#[tokio::test]
async fn a_document_may_nest_as_deep_as_it_is_told() {
    let sandbox = sandbox(Limits { json_depth: 1, instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    assert!(call(&plugin, "t", "lane", json!({})).await.is_ok());
    let deep = reason(call(&plugin, "t", "lane", json!({"do": "deep"})).await);
    let expected =
        "json-depth-limit: document `x` of `scripted_log`: nested deeper than 1 levels at byte 5 (limits.json-depth)";
    assert_eq!(deep, expected);
}

#[tokio::test]
async fn log_lines_are_dropped_and_cut_and_nothing_else_happens() {
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
async fn a_plugins_instances_share_its_memory_and_idle_ones_give_way() {
    let sandbox = sandbox(Limits { memory_mib: 16, plugin_memory_mib: 16, instances: 8, ..unhurried() });
    let (plugin, other) = (load(&sandbox, "scripted"), load(&sandbox, "scripted"));
    for tenant in ["a", "b", "c"] {
        call(&plugin, tenant, "lane", json!({})).await.unwrap();
        call(&other, tenant, "lane", json!({})).await.unwrap();
    }
    assert_eq!(sandbox.usage().idle, 6);
    // Alone it may have all of it, and the idle ones of the same plugin make room.
    assert_eq!(refused(&plugin, "d", json!({"do": "bomb"})).await, "memory-limit");
    assert_eq!(sandbox.usage().idle, 3, "the other plugin's are left alone");

    let documents = Arc::new(HeldDocuments::default());
    let mut held = plugin.clone().handle(batch("e", "lane", &[json!({})]), documents.clone());
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        () = documents.asked.notified() => {}
    }
    // What another call holds it will not hold for ever, so this one is tried again.
    match call(&plugin, "d", "lane", json!({"do": "bomb"})).await {
        Err(Failure::Retry(reason)) => assert_eq!(reason.class, "plugin-memory-limit"),
        other => panic!("{other:?}"),
    }
    assert!(call(&plugin, "d", "lane", json!({})).await.is_ok(), "there is room for an ordinary one");
    documents.answer.notify_one();
    assert!(held.await.is_ok());
    plugin.forget_all();
    other.forget(&tenant("a"));
    assert_eq!(sandbox.usage().live, 2);
    drop((plugin, other));
    assert_eq!((sandbox.usage().live, sandbox.usage().memory_bytes), (0, 0));
}

#[tokio::test]
async fn a_component_of_many_parts_has_room_and_takes_no_others() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    // As many core instances as Python's runtime has, and as many memories as JavaScript's.
    let plugin = Arc::new(sandbox.load(&handmade::with_instances(38, 2)).expect("it fits"));
    for tenant in ["a", "b", "c"] {
        assert!(call(&plugin, tenant, "lane", json!({})).await.is_ok(), "{tenant}");
    }
    assert_eq!(sandbox.usage().idle, 2);
    // Two of them leave no room for another's three memories: one gives way, so that a file can be asked what it is.
    sandbox.load(&handmade::with_instances(37, 2)).expect("there is room for one that is loaded");
    assert_eq!(sandbox.usage().idle, 1);
    let error = sandbox.load(&handmade::with_instances(38, 4)).err().expect("it has five memories").to_string();
    assert!(error.contains("5 Wasm linear memories"), "{error}");
}

/// Calls may hold so many memories that a file cannot be asked what it is. That says nothing of the
/// file, which may be another tenant's.
#[tokio::test]
async fn a_file_is_not_at_fault_while_calls_hold_the_memories_that_it_needs() {
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
    sandbox.load(&file).expect("idle ones give way");
}

#[tokio::test]
async fn tables_and_memories_are_bounded_from_the_start() {
    let sandbox = sandbox(Limits { memory_mib: 2, table_elements: 100, instances: 2, ..unhurried() });
    let refused = |fields: &str| sandbox.load(&handmade::plugin(fields)).err().expect("it is refused").to_string();
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
fn a_component_may_only_be_so_large() {
    let sandbox = sandbox(Limits { component_mib: 1, instances: 2, ..unhurried() });
    let mut large = handmade::plugin("");
    // A custom section that nobody reads: its number, its length in LEB128, its name's length, and nothing in it.
    large.extend([0, 0x81, 0x80, 0x40, 0]);
    large.resize(large.len() + (1 << 20), 0);
    let error = sandbox.load(&large).err().expect("it is refused").to_string();
    assert!(error.starts_with("2 MiB large, more than the 1 MiB of limits.component-mib\nMake "), "{error}");
    assert_eq!(counted(&sandbox, "component-limit"), 1);
    let larger = Sandbox::new(Limits { component_mib: 2, ..unhurried() }, sandmill_tests::host::compile()).unwrap();
    larger.load(&large).expect("it is a component all the same");
}

/// A guest that reads one document many times asks for more memory than there is; the host must not be the one that runs out of it.
#[tokio::test]
async fn documents_are_read_within_the_guests_memory() {
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
    let expected =
        "memory-limit: read 2001 MiB of documents in one call, more than the 64 MiB of its memory (limits.memory-mib)";
    assert_eq!(reason(answer), expected);
}

/// Names are held until they are answered, so there may be only so many.
#[tokio::test]
async fn documents_are_asked_for_in_bounded_numbers() {
    let sandbox = sandbox(Limits { reads: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let streams = |count: usize| -> Vec<Value> { (0..count).map(|n| json!({"stream": n.to_string()})).collect() };
    let answer = plugin.clone().handle(batch("t", "lane", &streams(3)), Arc::new(NoDocuments)).await;
    assert_eq!(reason(answer), "reads-limit: asked for 3 documents in one call, more than the 2 of limits.reads");
}

/// Waiting is free, computing is not, and on a loaded machine both stay so: it is the guest thread's own CPU clock that counts.
#[tokio::test(flavor = "multi_thread")]
async fn only_computing_counts_against_the_cpu_limit() {
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
