// A tenant's own plugin with the id of a shared one: it handles its tenant's events instead, from a
// point that the log shows, and the shared one continues from there when it is gone.

use sandmill_tests::{
    database,
    host::{Host, Process, eventually_or, version},
    ledger::{self, assert_log},
    random::Random,
};
use serde_json::json;

use super::*;

/// How many events of acme the shared processor and acme's own one have in their documents.
async fn counts(database: &Database) -> (i64, i64) {
    let count = async |view: &str| {
        let session = database.db.connect("test").await.unwrap();
        let sql = format!(
            "select coalesce(sum((data->>'count')::bigint), 0)::bigint from public.{view} where _partition = 'acme'"
        );
        // Until the processor has begun there is no such view.
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

async fn until_happened(database: &Database, event: &str, times: usize) {
    let sql = format!("select from sandmill.plugin_versions where plugin = 'acme/x' and event = '{event}'");
    eventually(&format!("acme/x was {event}"), async || (rows(database, &sql).await.len() == times).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_processor_replaces_the_shared_one_until_it_is_gone() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let append = async |tenant: &str, events: usize| database.append(tenant, "s", &vec![json!({}); events]).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    place(folder.path(), "scripted.wasm", &version("scripted", "V000001"));
    append("acme", 2).await;
    append("globex", 2).await;
    until_counts(&database, 2, 0).await;

    // A file that does not run replaces nothing.
    give(folder.path(), "acme", "x", b"no component");
    until_error(folder.path(), "acme/x", "").await;
    append("acme", 1).await;
    until_counts(&database, 3, 0).await;

    // It begins with the log, as any new processor. The shared one handles nothing of acme's that
    // is appended from now on.
    give(folder.path(), "acme", "x", &version("scripted", "V000002"));
    until_happened(&database, "started", 1).await;
    append("acme", 2).await;
    append("globex", 1).await;
    until_counts(&database, 3, 5).await;
    eventually("acme's lane waits", async || {
        let sql = "select state, class from sandmill.lane_checkpoints where processor = 'scripted'";
        (rows(&database, sql).await == ["(paused,replaced)"]).then_some(())
    })
    .await;
    // Nothing waits for it, and nobody has to do anything.
    assert_eq!(database.lanes_behind("scripted").await, Vec::<String>::new());
    let status = json(&database, &["status", "--json", "--check"]).await;
    assert_eq!(status["replaced"], json!([{"processor": "scripted", "tenant": "acme", "by": "acme/scripted"}]));
    let note = "acme/scripted handles the events of tenant acme instead of scripted";
    eventually("nothing is behind", async || {
        // Progress over events of no lane is stored late.
        let told = json(&database, &["explain", "--json"]).await;
        let found = told["findings"].as_array().unwrap();
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
        let told = run(&database, &[command]).await.unwrap();
        assert!(told.contains(&format!("{note}\n")), "{told}");
    }
    // Lanes that a person resumes still wait.
    run(&database, &["resume", "scripted", "--tenant", "acme"]).await.unwrap();

    // A swap and a file that is refused leave it in place.
    give(folder.path(), "acme", "x", &version("scripted", "V000003"));
    until_happened(&database, "swapped", 1).await;
    give(folder.path(), "acme", "x", b"no component");
    until_error(folder.path(), "acme/x", "").await;
    append("acme", 1).await;
    until_counts(&database, 3, 6).await;

    // The shared one continues where it stopped.
    fs::remove_file(folder.path().join("acme/x.wasm")).unwrap();
    until_counts(&database, 6, 6).await;
    append("acme", 1).await;
    until_counts(&database, 7, 6).await;
    assert_log(&database, "scripted_log", "true").await;

    // And so does acme's own.
    give(folder.path(), "acme", "x", &version("scripted", "V000002"));
    until_happened(&database, "started", 2).await;
    append("acme", 1).await;
    until_counts(&database, 7, 8).await;
    host.stop().await;
    assert_log(&database, "\"scripted_log@acme\"", "e.tenant = 'acme'").await;
    assert_log(&database, "scripted_log", "e.tenant <> 'acme' or e.version <= 7").await;
}

/// A tenant whose events the shared plugin cannot handle gets a plugin of its own. The lanes that
/// the shared one has blocked then need no person, and try again once it is alone.
#[tokio::test(flavor = "multi_thread")]
async fn blocked_lanes_of_the_shared_processor_wait_for_the_tenants_own_one() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "scripted.wasm", &version("scripted", "T000001"));
    let host = Host::start_in(&database, folder.path(), &["rollout.trial-seconds=0"]);
    database.append("acme", "s", &[json!({})]).await;
    database.append("globex", "s", &[json!({})]).await;
    database.settles("scripted", &["acme blocked trap", "globex blocked trap"]).await;
    give(folder.path(), "acme", "x", &version("scripted", "V000001"));
    database.settles("acme/scripted", &[]).await;
    database.settles("scripted", &["globex blocked trap"]).await;
    fs::remove_file(folder.path().join("acme/x.wasm")).unwrap();
    database.settles("scripted", &["acme blocked trap", "globex blocked trap"]).await;
    host.stop().await;
}

/// A start hands no events over to the shared processor: not while the file is compiled, and not if
/// the file is refused and the version that ran last runs in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_leaves_the_tenants_own_processor_in_place() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let append = async || database.append("acme", "s", &[json!({})]).await;
    let cache = tempfile::tempdir().unwrap();
    // Nothing is compiled already, so that the shared one begins long before.
    let cold = || {
        let _ = fs::remove_dir_all(cache.path());
        format!("compile.cache={}", cache.path().display())
    };
    append().await;
    place(folder.path(), "scripted.wasm", &version("scripted", "V000001"));
    give(folder.path(), "acme", "x", &version("scripted", "V000002"));
    let host = Host::start_in(&database, folder.path(), &[]);
    until_happened(&database, "started", 1).await;
    append().await;
    eventually("acme's own counts both", async || (counts(&database).await.1 == 2).then_some(())).await;
    host.stop().await;
    // At its first start each began when it was ready.
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

    // Once it is gone nothing is left to wait for.
    fs::remove_file(folder.path().join("acme/x.wasm")).unwrap();
    let caught_up =
        ["run", "--until-caught-up", "--set", "limits.cpu-ms=10000", "--set", "limits.wall-ms=120000", "--plugins"];
    let plugins = folder.path().display().to_string();
    run(&database, &[&caught_up[..], &[&plugins]].concat()).await.unwrap();
    assert_eq!(counts(&database).await, (4, 4));
    // And a run that ends when all is handled does not wait for lanes that are replaced.
    give(folder.path(), "acme", "x", &version("scripted", "V000002"));
    append().await;
    run(&database, &[&caught_up[..], &[&plugins]].concat()).await.unwrap();
    assert_eq!(counts(&database).await.1, 5);
    assert_log(&database, "\"scripted_log@acme\"", "e.tenant = 'acme'").await;
}

/// No matter what is killed while the tenant's own processor comes and goes, neither of the two
/// handles an event twice, and in the end both have handled all of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn kills_while_the_own_processor_comes_and_goes_lose_and_repeat_nothing() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::seeded();
    let file = folder.path().join("acme/x.wasm");
    let own = |mark: usize| give(folder.path(), "acme", "x", &version("scripted-by-stream", &format!("V{mark:06}")));
    let come_or_go = |random: &mut Random| match file.exists() {
        true => fs::remove_file(&file).unwrap(),
        false => own(random.below(3)),
    };
    place(folder.path(), "by-stream.wasm", &version("scripted-by-stream", "V000000"));
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
                come_or_go(&mut random);
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
            come_or_go(&mut random);
        }
    }
    own(4);
    let host = Process::start(&database, folder.path(), &[]);
    database.settles("acme/scripted-by-stream", &[]).await;
    assert_log(&database, "\"scripted_stream_log@acme\"", "e.tenant = 'acme'").await;
    fs::remove_file(&file).unwrap();
    ledger::until_counted(&database, &["scripted_stream_log"]).await;
    assert_eq!(host.end().await, Some(0));
    assert_log(&database, "scripted_stream_log", "true").await;
}
