// Warm instances: kept for their own tenant, dropped after a failure, and bounded in number.

use std::sync::Arc;

use sandmill::{
    model::handler::{Failure, Handler},
    sandbox::{Limits, Plugin},
};
use sandmill_tests::{
    calls::{HeldDocuments, NoDocuments, batch, call, document, load, refused, sandbox, tenant, unhurried},
    handmade,
};
use serde_json::{Value, json};

/// The tenant that this call's instance remembered: `""` for a fresh one.
async fn saw(plugin: &Arc<Plugin>, tenant: &str) -> String {
    let effects = call(plugin, tenant, "lane", json!({"do": "remember"})).await.expect("remember");
    document(&effects)["saw"].as_str().expect("what it saw").to_string()
}

#[tokio::test]
async fn an_instance_is_kept_for_its_tenant_and_for_no_other() {
    let sandbox = sandbox(Limits { instances: 8, ..unhurried() });
    let (plugin, other) = (load(&sandbox, "scripted"), load(&sandbox, "scripted"));
    assert_eq!(saw(&plugin, "a").await, "");
    assert_eq!(saw(&plugin, "a").await, "a");
    assert_eq!(saw(&plugin, "b").await, "");
    assert_eq!(saw(&other, "a").await, "", "another plugin has its own instance, though of the same file");
    assert_eq!(saw(&plugin, "a").await, "a");
    let usage = sandbox.usage();
    assert_eq!((usage.live, usage.idle), (3, 3));
    assert!(usage.memory_bytes >= 3 << 16, "{usage:?}");
    drop(plugin);
    assert_eq!(sandbox.usage().live, 1, "instances of a dropped plugin are dropped");
    drop(other);
    assert_eq!((sandbox.usage().live, sandbox.usage().memory_bytes), (0, 0));
}

/// Many lanes of several tenants call concurrently with few instances.
#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_meets_another_tenants_instance() {
    let sandbox = sandbox(Limits { instances: 4, warm_instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let lanes = (0..9).map(|lane| {
        let plugin = plugin.clone();
        tokio::spawn(async move {
            let (mut warm, mut asked) = (0, 0);
            while asked < 200 {
                // Every lane calls for every tenant, each in its own order.
                let tenant = format!("tenant-{}", (lane * 7 + asked * (lane % 3 + 1)) % 5);
                match call(&plugin, &tenant, &format!("lane-{lane}"), json!({"do": "remember"})).await {
                    Ok(effects) => {
                        let saw = document(&effects)["saw"].clone();
                        assert!(saw == "" || saw == *tenant, "{tenant} met {saw}");
                        warm += usize::from(saw == *tenant);
                        asked += 1;
                    }
                    Err(Failure::Retry(reason)) if reason.class == "instances" => tokio::task::yield_now().await,
                    Err(other) => panic!("{other:?}"),
                }
            }
            warm
        })
    });
    let mut warm = 0;
    for lane in lanes.collect::<Vec<_>>() {
        warm += lane.await.expect("a lane's calls");
    }
    assert!(warm > 0, "none of 1800 calls met a warm instance");
    let usage = sandbox.usage();
    assert!(usage.idle <= 2 && usage.live == usage.idle, "{usage:?}");
}

#[tokio::test]
async fn an_isolated_clone_shares_no_instances() {
    let sandbox = sandbox(Limits { instances: 8, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    assert_eq!(saw(&plugin, "c").await, "");
    let isolated = plugin.clone().isolated_clone();
    let remember = batch("c", "c", &[json!({"do": "remember"})]);
    let effects = isolated.clone().handle(remember, Arc::new(NoDocuments)).await.unwrap();
    assert_eq!(document(&effects)["saw"], "", "the clone has a fresh instance");
    assert_eq!(saw(&plugin, "c").await, "c", "the original keeps its instance");
    drop(isolated);
    assert_eq!(sandbox.usage().live, 1, "the clone's instance is dropped with it");
}

#[tokio::test]
async fn an_instance_is_dropped_after_a_failure_or_a_halt() {
    let limits = Limits { cpu_ms: 200, memory_mib: 16, instances: 8, output_mib: 4, ..unhurried() };
    let sandbox = sandbox(limits);
    let plugin = load(&sandbox, "scripted");
    let after = async |deed: Value| {
        assert_eq!(saw(&plugin, "t").await, "", "before {deed}");
        assert_eq!(saw(&plugin, "t").await, "t", "before {deed}");
        let answer = call(&plugin, "t", "lane", deed.clone()).await;
        (answer, sandbox.usage().live)
    };
    let (answer, live) = after(json!({})).await;
    assert!(answer.is_ok() && live == 1, "{answer:?}");
    plugin.forget(&tenant("t"));
    for deed in ["trap", "spin", "bomb", "malformed-json", "halt-out-of-range", "read-foreign", "long-id"] {
        let (answer, live) = after(json!({"do": deed})).await;
        assert!(matches!(answer, Err(Failure::Block(_))), "{deed}: {answer:?}");
        assert_eq!(live, 0, "{deed}");
    }
    for deed in ["retry", "stop"] {
        let (answer, live) = after(json!({"do": deed})).await;
        assert!(answer.is_ok_and(|effects| effects.halted.is_some()), "{deed}");
        assert_eq!(live, 0, "{deed}");
    }
    // A skipped event is handled, so the instance is kept.
    let (answer, live) = after(json!({"do": "skip"})).await;
    assert!(answer.is_ok() && live == 1, "{answer:?}");

    assert_eq!(saw(&plugin, "other").await, "");
    plugin.forget(&tenant("t"));
    assert_eq!((saw(&plugin, "t").await, saw(&plugin, "other").await), (String::new(), "other".to_string()));
    plugin.forget_all();
    assert_eq!((saw(&plugin, "t").await, saw(&plugin, "other").await), (String::new(), String::new()));
}

/// Live batches often have one event, which must not fail for the state that earlier calls left.
#[tokio::test]
async fn an_event_that_fails_only_in_a_warm_instance_is_handled_by_a_fresh_one() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    for _ in 0..3 {
        let answer = call(&plugin, "t", "lane", json!({"do": "trap-later", "n": 2})).await;
        assert_eq!(answer.expect("a fresh instance handles it").changes.len(), 1);
    }
    assert!(sandbox.usage().refusals.is_empty(), "{:?}", sandbox.usage().refusals);
    // An event that also fails in the fresh instance counts as one failure.
    assert_eq!(refused(&plugin, "t", json!({"do": "trap"})).await, "trap");
    assert_eq!((sandbox.usage().refusals["trap"], sandbox.usage().live), (1, 0));
}

#[tokio::test]
async fn an_instance_is_dropped_with_its_call_or_after_it_if_forgotten_meanwhile() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let documents = Arc::new(HeldDocuments::default());
    let held = || plugin.clone().handle(batch("t", "lane", &[json!({"do": "remember"})]), documents.clone());

    // The call is dropped while it waits.
    let mut call = held();
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = documents.asked.notified() => assert_eq!(sandbox.usage().live, 1),
    }
    drop(call);
    assert_eq!((sandbox.usage().live, sandbox.usage().memory_bytes), (0, 0));
    assert_eq!(sandbox.usage().refusals["dropped-call"], 1);

    // The tenant is forgotten while the call waits, as after effects that could not be committed.
    let mut call = held();
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = documents.asked.notified() => plugin.forget(&tenant("t")),
    }
    assert_eq!(sandbox.usage().live, 1, "the call is under way");
    documents.answer.notify_one();
    assert!(call.await.is_ok());
    assert_eq!(sandbox.usage().live, 0);
}

#[tokio::test]
async fn idle_instances_are_evicted_and_calls_are_not() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    for tenant in ["a", "b", "c", "d"] {
        assert_eq!(saw(&plugin, tenant).await, "");
        assert!(sandbox.usage().live <= 2);
    }
    assert_eq!(saw(&plugin, "d").await, "d", "the last instance is still warm");
    let documents = [Arc::new(HeldDocuments::default()), Arc::new(HeldDocuments::default())];
    let mut calls =
        documents.clone().map(|documents| plugin.clone().handle(batch("e", "lane", &[json!({})]), documents));
    for (call, documents) in calls.iter_mut().zip(&documents) {
        tokio::select! {
            answer = call => panic!("{answer:?}"),
            () = documents.asked.notified() => {}
        }
    }
    assert_eq!(refused(&plugin, "a", json!({})).await, "instances");
    // `describe` has an instance in reserve.
    load(&sandbox, "scripted");
    drop(calls);
    assert_eq!(saw(&plugin, "a").await, "");
}

/// An instance with many memories needs more of the engine's pool than others, so idle instances
/// are evicted before the bound on their number is reached.
#[tokio::test]
async fn idle_instances_are_evicted_for_one_with_many_memories() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let mut bytes = handmade::plugin("");
    // A second module with a memory of one page, and three instances of it: each section has its
    // number, its length and its content.
    bytes.extend([1, 13, 0, b'a', b's', b'm', 1, 0, 0, 0, 5, 3, 1, 0, 1]);
    bytes.extend([2, 10, 3].into_iter().chain([0, 1, 0].repeat(3)));
    let plugin = Arc::new(sandbox.load(&bytes).expect("load it"));
    // The pool has a memory for each of the two instances and the one for `describe`, and four
    // more: enough for one instance of four memories, not for two.
    for tenant in ["a", "b", "c", "b"] {
        call(&plugin, tenant, "lane", json!({})).await.expect("an idle instance is evicted");
        assert_eq!(sandbox.usage().live, 1);
    }
    assert_eq!(sandbox.usage().max_live, 2);
}

#[tokio::test]
async fn an_instance_retires_after_50_to_200_calls() {
    let sandbox = sandbox(Limits { instances: 1, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let mut fresh = Vec::new();
    for number in 0..450 {
        if saw(&plugin, "t").await.is_empty() {
            fresh.push(number);
        }
    }
    let lives: Vec<i32> = fresh.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(lives.len() >= 2 && lives.iter().all(|life| (50..=200).contains(life)), "{fresh:?}");
}
