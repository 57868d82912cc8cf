//! Limits of tenants: usage is summed over hosts, a tenant over its rate waits with a reason, and
//! lanes that the settings pause continue where they stopped.

use sandmill::{app::Ended, tenants::rates::THROTTLED};
use sandmill_tests::{
    Database, database,
    host::{Host, catch_up, eventually, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::{Value, json};

/// The tenants in the output of `sandmill tenants --json`.
fn tenants(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let output = sandmill(&database.address).args(["tenants", "--json"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    report["tenants"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_of_tenants_is_reported_and_summed_over_hosts() {
    let database = database().await;
    for stream in ["s", "t"] {
        database.append("acme", stream, &vec![json!({}); 10]).await;
    }
    database.append("globex", "s", &[json!({}), json!({"do": "trap"}), json!({})]).await;
    let names =
        |tenants: &[Value]| tenants.iter().map(|t| t["tenant"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    let output = sandmill(&database.address).arg("tenants").output().unwrap();
    assert!(stdout(&output).contains("acme"), "tenants are found by their events: {}", stdout(&output));

    assert!(matches!(catch_up(&database, &["scripted"], &[]).await, Ended::Blocked(_)));
    database.append("acme", "s", &[json!({})]).await;
    assert!(matches!(catch_up(&database, &["scripted"], &[]).await, Ended::Blocked(_)));
    let listed = tenants(&database, &["--by", "name"]);
    assert_eq!(names(&listed), ["acme", "globex"]);
    let [acme, globex] = &listed[..] else { unreachable!() };
    assert_eq!((acme["events"].as_i64(), acme["documents"].as_i64()), (Some(21), Some(3)), "{acme}");
    assert!(acme["cpuSeconds"].as_f64().unwrap() > 0.0 && acme["bytes"].as_i64().unwrap() > 0, "{acme}");
    assert_eq!((&acme["lagEvents"], &acme["failures"], &acme["lastError"]), (&json!(0), &json!(0), &Value::Null));
    assert_eq!((&globex["events"], &globex["lagEvents"], &globex["lanesBehind"]), (&json!(1), &json!(2), &json!(1)));
    let error = globex["lastError"].as_str().unwrap();
    assert!(error.starts_with("scripted: trap: "), "{error}");

    assert_eq!(names(&tenants(&database, &["--by", "error", "--limit", "1"])), ["globex"]);
    assert_eq!(names(&tenants(&database, &["acme"])), ["acme"]);
    let nobody = sandmill(&database.address).args(["tenants", "nobody"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    let error = stderr(&nobody);
    assert!(error.contains("tenant nobody has no events") && error.contains("--by name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_rate_waits_with_a_reason_and_loses_no_event() {
    let database = database().await;
    // One document per stream. All events of a round arrive at once, so that the next round finds
    // the tenant over its rate even on a slow machine.
    let host = Host::start(&database, &["scripted"], &["tenants.slow.documents-per-second=1"]);
    let session = database.db.connect("test").await.unwrap();
    let append = "select sandmill.append($1, $2 || '-' || stream, array['Scripted'], array['{}']::json[])
                  from generate_series(1, $3) stream";
    let mut round = 0;
    let mut append = async || {
        round += 1;
        for (tenant, streams) in [("slow", 20), ("quick", 1)] {
            session.query(append, &[&tenant, &format!("s{round}"), &streams]).await.unwrap();
        }
        round
    };
    eventually("the slow tenant is held back", async || {
        append().await;
        let status = database.status("scripted").await?;
        let lane = status.lanes_behind.into_iter().find(|lane| lane.reason.starts_with(THROTTLED))?;
        let why = "throttled: has used up its documents-per-second = 1 (tenants.slow or tenant-limits)";
        assert_eq!((lane.tenant.as_str(), lane.state.as_str(), lane.reason.as_str()), ("slow", "retrying", why));
        Some(())
    })
    .await;
    let rounds: i64 = append().await;
    eventually("the quick tenant has all of its documents", async || {
        let session = database.db.connect("test").await.ok()?;
        let count = "select count(*) from public.scripted_log where _partition = 'quick'";
        (session.query_one(count, &[]).await.ok()?.get::<_, i64>(0) == rounds).then_some(())
    })
    .await;
    host.stop().await;
    let throttled = tenants(&database, &["slow"])[0]["throttledSeconds"].as_f64().unwrap();
    assert!(throttled > 0.0);
    // Without a rate, the wait that it demanded is void. The test need not wait for its end.
    session
        .execute("update sandmill.lane_checkpoints set next_at = now() where state = 'retrying'", &[])
        .await
        .unwrap();
    let ended = catch_up(&database, &["scripted"], &["tenants.slow.documents-per-second=0"]).await;
    assert!(matches!(ended, Ended::CaughtUp { .. }), "{ended:?}");
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_paused_by_the_settings_continues_where_it_stopped() {
    let database = database().await;
    let append = async || {
        for tenant in ["paused", "elsewhere", "free"] {
            database.append(tenant, "s", &[json!({}), json!({})]).await;
        }
    };
    append().await;
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { .. }), "{ended:?}");
    append().await;
    let settings = ["tenants.paused.paused=true", "tenants.elsewhere.processors=other"];
    let Ended::Blocked(lanes) = catch_up(&database, &["scripted"], &settings).await else { panic!("no lane waits") };
    let mut reasons: Vec<_> = lanes.iter().map(|lane| lane.reason.to_string()).collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "not-allowed: tenants.elsewhere.processors in the settings does not list scripted",
            "paused: by the settings: tenants.paused.paused"
        ]
    );
    assert_scripted_log(&database, "e.tenant = 'free' or e.version <= 2").await;
    // A change of the settings is enough: nobody has to resume the lanes.
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { .. }), "{ended:?}");
    assert_scripted_log(&database, EVERY_EVENT).await;
}
