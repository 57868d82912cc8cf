// A tenant's own plugin with the id of a shared one: it handles the tenant's events instead, and
// the shared one continues where it stopped once the own plugin is removed.

use sandmill_tests::{
    database,
    host::{GOOD, Host, Process, TRAPPING, eventually_or, version},
    ledger::{self, EVERY_EVENT, assert_log},
    random::Random,
};
use serde_json::json;

use super::*;

/// The numbers of acme's events in the documents of the shared processor and of acme's own.
async fn counts(database: &Database) -> (i64, i64) {
    let count = async |view: &str| {
        let session = database.db.connect("test").await.unwrap();
        let sql = format!(
            "select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.{view} where _partition = 'acme'"
        );
        // The view does not exist before the processor has started.
        session.query_one(&sql, &[]).await.map_or(0, |row| row.get(0))
    };
    (count("scripted_log").await, count("\"scripted_log@acme\"").await)
}

async fn until_counts(database: &Database, shared: i64, own: i64) {
    eventually_or(&format!("the shared processor counts {shared}, and acme's own {own}"), async || {
        let found = counts(database).await;
        let unread = database.status("scripted").await.map_or(0, |status| status.unread_events);
        if found == (shared, own) && unread == 0 {
            return Ok(());
        }
        Err(format!("{found:?}\n{}", database.standing().await))
    })
    .await;
}

async fn until_event(database: &Database, event: &str, times: usize) {
    let sql = format!("select from sandmill.plugin_versions where plugin = 'acme/x' and event = '{event}'");
    eventually(&format!("acme/x was {event}"), async || (rows(database, &sql).await.len() == times).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_processor_replaces_the_shared_one_until_it_is_removed() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let append = async |tenant: &str, events: usize| database.append(tenant, "s", &vec![json!({}); events]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    append("acme", 2).await;
    append("globex", 2).await;
    until_counts(&database, 2, 0).await;

    // A rejected file replaces nothing.
    give(folder.path(), "acme", "x", b"no component");
    until_error(folder.path(), "acme/x", "").await;
    append("acme", 1).await;
    until_counts(&database, 3, 0).await;

    // It starts at the beginning of the log, like any new processor. The shared one handles none of
    // acme's events that are appended from now on.
    give(folder.path(), "acme", "x", &version("scripted", GOOD[2]));
    until_event(&database, "started", 1).await;
    append("acme", 2).await;
    append("globex", 1).await;
    until_counts(&database, 3, 5).await;
    eventually("acme's lane waits", async || {
        let sql = "select state, class from sandmill.lane_checkpoints where processor = 'scripted'";
        (rows(&database, sql).await == ["(paused,replaced)"]).then_some(())
    })
    .await;
    // Nothing is behind, and no action is needed.
    assert_eq!(database.lanes_behind("scripted").await, Vec::<String>::new());
    let status = json(&database, &["status", "--json", "--check"]).await;
    assert_eq!(status["replaced"], json!([{"processor": "scripted", "tenant": "acme", "by": "acme/scripted"}]));
    let note = "acme/scripted handles the events of tenant acme instead of scripted";
    eventually("nothing is behind", async || {
        // Progress over events of no lane is stored with a delay.
        let shown = json(&database, &["explain", "--json"]).await;
        let found = shown["findings"].as_array().unwrap();
        let lag = json(&database, &["tenants", "acme", "--json"]).await["tenants"][0]["lagEvents"].as_i64()?;
        let found: Vec<_> = found.iter().map(|it| (it["gravity"].as_str(), it["what"].as_str())).collect();
        (found == [(Some("note"), Some(note))] && lag == 0).then_some(())
    })
    .await;
    assert_eq!(database.status("scripted").await.unwrap().lag_events, 0);
    let plugins = json(&database, &["plugins", "--json"]).await;
    let replaces: Vec<_> = plugins["plugins"].as_array().unwrap().iter().map(|it| it["replaces"].as_str()).collect();
    assert_eq!(replaces, [Some("scripted"), None]);
    for command in ["plugins", "status"] {
        let shown = run(&database, &[command]).await.unwrap();
        assert!(shown.contains(&format!("{note}\n")), "{shown}");
    }
    // Lanes that are resumed manually still wait.
    run(&database, &["resume", "scripted", "--tenant", "acme"]).await.unwrap();

    // Acme's own processor stays in place after a swap and after a rejected file.
    give(folder.path(), "acme", "x", &version("scripted", GOOD[3]));
    until_event(&database, "swapped", 1).await;
    give(folder.path(), "acme", "x", b"no component");
    until_error(folder.path(), "acme/x", "").await;
    append("acme", 1).await;
    until_counts(&database, 3, 6).await;

    // The shared processor continues where it stopped.
    fs::remove_file(folder.path().join("acme/x.wasm")).unwrap();
    until_counts(&database, 6, 6).await;
    append("acme", 1).await;
    until_counts(&database, 7, 6).await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;

    // Acme's own processor continues where it stopped too.
    give(folder.path(), "acme", "x", &version("scripted", GOOD[2]));
    until_event(&database, "started", 2).await;
    append("acme", 1).await;
    until_counts(&database, 7, 8).await;
    host.stop().await;
    assert_log(&database, "\"scripted_log@acme\"", "e.tenant = 'acme'").await;
    assert_log(&database, "scripted_log", "e.tenant <> 'acme' or e.version <= 7").await;
}

/// A tenant whose events the shared plugin cannot handle gets its own plugin. Its blocked lanes of
/// the shared processor then need no attention, and are retried once the own plugin is removed.
#[tokio::test(flavor = "multi_thread")]
async fn blocked_lanes_of_the_shared_processor_wait_for_the_tenants_own_one() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "scripted.wasm", &version("scripted", TRAPPING[1]));
    let host = Host::start_in(&database, folder.path(), &["rollout.trial-seconds=0"]);
    database.append("acme", "s", &[json!({})]).await;
    database.append("globex", "s", &[json!({})]).await;
    database.settles("scripted", &["acme blocked trap", "globex blocked trap"]).await;
    give(folder.path(), "acme", "x", &version("scripted", GOOD[1]));
    database.settles("acme/scripted", &[]).await;
    database.settles("scripted", &["globex blocked trap"]).await;
    fs::remove_file(folder.path().join("acme/x.wasm")).unwrap();
    database.settles("scripted", &["acme blocked trap", "globex blocked trap"]).await;
    host.stop().await;
}

/// At a start the shared processor gets none of the tenant's events: neither while the tenant's
/// file is compiled, nor if it is rejected and the version that ran last runs in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_leaves_the_tenants_own_processor_in_place() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let append = async || database.append("acme", "s", &[json!({})]).await;
    let cache = tempfile::tempdir().unwrap();
    // An empty cache, so that the shared processor starts long before acme's.
    let cold = || {
        let _ = fs::remove_dir_all(cache.path());
        format!("compile.cache={}", cache.path().display())
    };
    append().await;
    place(folder.path(), "scripted.wasm", &version("scripted", GOOD[1]));
    give(folder.path(), "acme", "x", &version("scripted", GOOD[2]));
    let host = Host::start_in(&database, folder.path(), &[]);
    until_event(&database, "started", 1).await;
    append().await;
    eventually("acme's own counts both", async || (counts(&database).await.1 == 2).then_some(())).await;
    host.stop().await;
    // At their first start the two began independently.
    let (shared, _) = counts(&database).await;
    assert!(shared <= 1, "{shared}");

    append().await;
    let host = Host::start_in(&database, folder.path(), &[&cold()]);
    until_counts(&database, shared, 3).await;
    let stored = "select from sandmill.retained_versions where plugin = 'acme/x'";
    eventually("its bytes are stored", async || (!rows(&database, stored).await.is_empty()).then_some(())).await;
    host.stop().await;
    append().await;
    give(folder.path(), "acme", "x", b"no component");
    let host = Host::start_in(&database, folder.path(), &[&cold()]);
    until_counts(&database, shared, 4).await;
    host.stop().await;

    // Once it is removed, the shared processor handles all events.
    fs::remove_file(folder.path().join("acme/x.wasm")).unwrap();
    let caught_up =
        ["run", "--until-caught-up", "--set", "limits.cpu-ms=10000", "--set", "limits.wall-ms=120000", "--plugins"];
    let plugins = folder.path().display().to_string();
    run(&database, &[&caught_up[..], &[&plugins]].concat()).await.unwrap();
    assert_eq!(counts(&database).await, (4, 4));
    // A run until caught up does not wait for replaced lanes.
    give(folder.path(), "acme", "x", &version("scripted", GOOD[2]));
    append().await;
    run(&database, &[&caught_up[..], &[&plugins]].concat()).await.unwrap();
    assert_eq!(counts(&database).await.1, 5);
    assert_log(&database, "\"scripted_log@acme\"", "e.tenant = 'acme'").await;
}

/// The host is killed while the tenant's own file is added and removed. Neither processor handles
/// an event twice, and in the end both have handled all of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn kills_while_the_own_plugin_is_added_and_removed_lose_and_repeat_nothing() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::seeded();
    let file = folder.path().join("acme/x.wasm");
    let own = |mark: usize| give(folder.path(), "acme", "x", &version("scripted-by-stream", &format!("V{mark:06}")));
    let add_or_remove = |random: &mut Random| match file.exists() {
        true => fs::remove_file(&file).unwrap(),
        false => own(random.below(3)),
    };
    place(folder.path(), "by-stream.wasm", &version("scripted-by-stream", GOOD[0]));
    let handled = async || {
        let session = database.db.connect("test").await.unwrap();
        let sql = "select coalesce(sum(handled), 0)::bigint from sandmill.cursors";
        session.query_one(sql, &[]).await.map_or(0, |row| row.get::<_, i64>(0))
    };
    for _ in 0..8 {
        let host = Process::start(&database, folder.path(), &[]);
        for _ in 0..2 {
            let before = handled().await;
            if random.percent(70) {
                add_or_remove(&mut random);
            }
            for stream in 0..5 {
                database.append("acme", &format!("s{stream}"), &vec![json!({}); 1 + random.below(20)]).await;
            }
            database.append("globex", "s", &[json!({})]).await;
            eventually("something was handled", async || (handled().await > before).then_some(())).await;
        }
        // Dropping it kills it.
        drop(host);
        if random.percent(50) {
            add_or_remove(&mut random);
        }
    }
    own(4);
    let host = Process::start(&database, folder.path(), &[]);
    database.settles("acme/scripted-by-stream", &[]).await;
    assert_log(&database, "\"scripted_stream_log@acme\"", "e.tenant = 'acme'").await;
    fs::remove_file(&file).unwrap();
    ledger::until_counted(&database, &["scripted_stream_log"]).await;
    assert_eq!(host.end().await, Some(0));
    assert_log(&database, "scripted_stream_log", EVERY_EVENT).await;
}
