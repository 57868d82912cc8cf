//! Limits of one tenant over all plugins (memory, concurrent calls), and failed calls by tenant.

use std::sync::Arc;

use futures_util::FutureExt;
use sandmill::{
    model::handler::{Failure, Handler},
    sandbox::{Limits, TenantLimits},
};
use sandmill_tests::calls::{HeldDocuments, batch, call, load, refused, sandbox, sandbox_for, tenant, unhurried};
use serde_json::json;

#[tokio::test]
async fn a_tenants_instances_of_all_plugins_share_its_memory() {
    let limits = Limits { memory_mib: 16, instances: 8, ..unhurried() };
    let sandbox = sandbox_for(limits, TenantLimits { memory_bytes: 16 << 20, ..TenantLimits::default() });
    let (plugin, other) = (load(&sandbox, "scripted"), load(&sandbox, "scripted"));
    for tenant in ["a", "b"] {
        call(&plugin, tenant, "lane", json!({})).await.unwrap();
        call(&other, tenant, "lane", json!({})).await.unwrap();
    }
    // A single call may use all of it: the tenant's idle instances are evicted, no others.
    assert_eq!(refused(&plugin, "a", json!({"do": "bomb"})).await, "memory-limit");
    assert_eq!(sandbox.usage().idle, 2);

    let documents = Arc::new(HeldDocuments::default());
    let mut held = other.clone().handle(batch("a", "lane", &[json!({})]), documents.clone());
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        () = documents.asked.notified() => {}
    }
    // Memory that another call of the tenant holds is released later, so this call is retried.
    // Other tenants have their own bound.
    match call(&plugin, "a", "lane", json!({"do": "bomb"})).await {
        Err(Failure::Retry(reason)) => assert_eq!(reason.class, "tenant-memory-limit"),
        other => panic!("{other:?}"),
    }
    assert_eq!(refused(&plugin, "b", json!({"do": "bomb"})).await, "memory-limit");
    documents.answer.notify_one();
    assert!(held.await.is_ok());
}

#[tokio::test]
async fn a_call_over_the_tenants_bound_waits_for_a_permit() {
    let sandbox =
        sandbox_for(Limits { instances: 8, ..unhurried() }, TenantLimits { calls: 2, ..TenantLimits::default() });
    let (plugin, other) = (load(&sandbox, "scripted"), load(&sandbox, "scripted"));
    let (a, b) = (tenant("a"), tenant("b"));
    let first = plugin.permit(&a).await;
    let _second = other.permit(&a).await;
    let mut third = plugin.permit(&a);
    assert!(third.as_mut().now_or_never().is_none(), "permits are shared over plugins");
    assert!(plugin.permit(&b).now_or_never().is_some(), "other tenants have their own permits");
    drop(first);
    third.await;
}

#[tokio::test]
async fn refusals_of_a_tenant_are_reported_once_with_the_last_reason() {
    let sandbox = sandbox(Limits { instances: 4, log_lines: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    refused(&plugin, "a", json!({"do": "nul"})).await;
    refused(&plugin, "a", json!({"do": "trap"})).await;
    call(&plugin, "b", "lane", json!({"do": "log", "lines": 5})).await.unwrap();
    call(&plugin, "c", "lane", json!({})).await.unwrap();
    let mut reported = sandbox.refusals_by_tenant();
    reported.sort_by(|(a, ..), (b, ..)| a.as_str().cmp(b.as_str()));
    let reported: Vec<_> = reported.iter().map(|(id, times, why)| (id.as_str(), *times, why.class.as_str())).collect();
    assert_eq!(reported, [("a", 2, "trap"), ("b", 3, "log-lines")]);
    assert_eq!(sandbox.refusals_by_tenant(), []);
}

/// A fresh instance handles the event on which a long-lived one traps.
#[tokio::test]
async fn an_instance_that_traps_after_a_thousand_events_is_replaced_by_a_fresh_one() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    let plugin = load(&sandbox, "scripted");
    let later = || json!({"do": "trap-later", "n": 1000, "stream": "s"});
    let events = |count: usize| vec![later(); count];
    let handle = async |count| {
        let documents = Arc::new(sandmill_tests::calls::NoDocuments);
        plugin.clone().handle(batch("a", "lane", &events(count)), documents).await.map_err(|failed| failed.failure)
    };
    assert!(handle(999).await.is_ok());
    assert!(handle(1).await.is_ok(), "the thousandth event of the instance is the first of the next one");
    assert_eq!((sandbox.usage().live, sandbox.refusals_by_tenant()), (1, Vec::new()));
    assert!(handle(998).await.is_ok(), "the next instance has seen one event before");
    // A batch of several events gets no second call here, since the caller halves it.
    assert!(matches!(handle(2).await, Err(Failure::Block(_))));
    assert_eq!(sandbox.usage().live, 0);
}
