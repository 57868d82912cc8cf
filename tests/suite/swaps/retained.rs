// Stored versions: a host that has never compiled a version can return to it.

use sandmill::plugins::history::components;

use super::*;

/// An empty compilation cache, as in a new container.
fn empty_cache() -> (tempfile::TempDir, String) {
    let cache = tempfile::tempdir().unwrap();
    let setting = format!("compile.cache={}", cache.path().display());
    (cache, setting)
}

/// Waits until this many versions of a plugin are stored; returns their digests, newest first.
pub(super) async fn until_retained(database: &Database, plugin: &str, versions: usize) -> Vec<String> {
    eventually(&format!("{versions} versions of {plugin} are stored"), async || {
        let session = database.db.connect("test").await.unwrap();
        let sql = "select digest from sandmill.retained_versions where plugin = $1 order by ran_at desc";
        let rows = session.query(sql, &[&plugin]).await.ok()?;
        let digests: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        (digests.len() == versions).then_some(digests)
    })
    .await
}

async fn until_components(database: &Database, components: i64) {
    eventually(&format!("{components} components are stored"), async || {
        let session = database.db.connect("test").await.unwrap();
        let row = session.query_one("select count(*) from sandmill.components", &[]).await.ok()?;
        (row.get::<_, i64>(0) == components).then_some(())
    })
    .await;
}

fn digest(bytes: &[u8]) -> String {
    sandmill::sandbox::examine::digest(bytes)
}

/// A version was rolled back before a new container starts, where nothing is compiled.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_plugin_runs_its_previous_version_in_a_new_container() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    until_retained(&database, "scripted", 1).await;
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    until_retained(&database, "scripted", 2).await;
    host.stop().await;
    let shown = command(&database, &["rollback", "scripted"]).await.unwrap();
    assert!(shown.contains("its bytes are in the database"), "{shown}");
    append(&database, "s", 1).await;
    let (_cache, cache) = empty_cache();
    let host = Host::start_in(&database, folder.path(), &[&cache]);
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    host.stop().await;
    // A broken file in another new container.
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    append(&database, "s", 1).await;
    let (_cache, cache) = empty_cache();
    let host = Host::start_in(&database, folder.path(), &[&cache]);
    until_versions(&database, "s", &[(GOOD[1], 3)]).await;
    until_error(folder.path(), "scripted", Some("not a WebAssembly component")).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A new container has neither the previous version in memory nor its compiled code.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_rolled_back_on_a_host_that_never_ran_the_previous_one() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    until_retained(&database, "scripted", 1).await;
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    host.stop().await;
    append(&database, "s", 1).await;
    let (_cache, cache) = empty_cache();
    let host = Host::start_in(&database, folder.path(), &[&cache]);
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1)]).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1), (GOOD[1], 1)]).await;
    until_error(folder.path(), "scripted", Some("this version was rolled back: manual rollback")).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_that_were_altered_are_rejected() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    until_retained(&database, "scripted", 1).await;
    host.stop().await;
    let session = database.db.connect("test").await.unwrap();
    let other = version("scripted", GOOD[9]);
    session.execute("update sandmill.components set bytes = $1", &[&other]).await.unwrap();
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    // They are rejected even though the compiled code of the true bytes is cached.
    let host = Host::start_in(&database, folder.path(), &[]);
    let why = "cannot run either: its stored bytes were altered";
    until_error(folder.path(), "scripted", Some(why)).await;
    eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    host.stop().await;
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 1)]));
}

/// Write access to the database does not suffice to run code without a key.
#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_need_a_signature_of_a_current_key() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (SecretKey::of(&[1; 32]), SecretKey::of(&[2; 32]));
    let keys = |key: &SecretKey| format!("rollout.public-keys={}", key.public());
    let bytes = version("scripted", GOOD[1]);
    put(folder.path(), GOOD[1]);
    place(folder.path(), "scripted.wasm.sig", ours.sign(&bytes).as_bytes());
    let host = Host::start_in(&database, folder.path(), &[&keys(&ours)]);
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    until_retained(&database, "scripted", 1).await;
    host.stop().await;
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    // The settings no longer name its key.
    let host = Host::start_in(&database, folder.path(), &[&keys(&theirs)]);
    let why = "cannot run either: no key in rollout.public-keys has signed these bytes";
    until_error(folder.path(), "scripted", Some(why)).await;
    eventually("nothing runs", async || listed(&database, "scripted").await.filter(|now| !now.runs())).await;
    host.stop().await;
    // Forged bytes with rows that claim everything a row can claim.
    let session = database.db.connect("test").await.unwrap();
    let other = version("scripted", GOOD[9]);
    let forged = "with c as (insert into sandmill.components (digest, bytes) values ($1, $2) returning digest),
                  r as (update sandmill.retained_versions set digest = (select digest from c) returning 1)
                  update sandmill.plugins set digest = (select digest from c) where (select count(*) from r) = 1";
    session.execute(forged, &[&digest(&other), &other]).await.unwrap();
    let host = Host::start_in(&database, folder.path(), &[&keys(&ours)]);
    until_error(folder.path(), "scripted", Some(why)).await;
    host.stop().await;
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 1)]));
}

/// The number of stored versions is bounded, and those of a removed plugin are deleted after 30
/// days.
#[tokio::test(flavor = "multi_thread")]
async fn versions_beyond_the_limit_and_of_removed_plugins_are_deleted() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version_with(&database, folder.path(), 1, &["rollout.retained-versions=2"]).await;
    until_retained(&database, "scripted", 1).await;
    for (number, mark) in [GOOD[2], GOOD[3]].into_iter().enumerate() {
        put(folder.path(), mark);
        until_event(&database, "scripted", "swapped", number + 1).await;
        let newest = digest(&version("scripted", mark));
        eventually("the newest version is stored", async || {
            let session = database.db.connect("test").await.unwrap();
            components::is_retained(&session, "scripted", &newest).await.unwrap().then_some(())
        })
        .await;
    }
    let expected = [GOOD[3], GOOD[2]].map(|mark| digest(&version("scripted", mark)));
    assert_eq!(until_retained(&database, "scripted", 2).await, expected);
    until_components(&database, 2).await;
    // Plugins share stored bytes, but each finds only versions that it ran itself.
    let session = database.db.connect("test").await.unwrap();
    let found = components::find(&session, "acme/scripted", &expected[0], 1 << 30).await.unwrap();
    assert!(found.is_none(), "only another plugin has run it");
    fs::remove_file(folder.path().join("scripted.wasm")).unwrap();
    until_event(&database, "scripted", "stopped", 1).await;
    host.stop().await;
    for (days, components) in [(29, 2), (31, 0)] {
        let gone = format!(
            "update sandmill.plugins set gone_since = now() - interval '{days} days' where plugin = 'scripted'"
        );
        session.batch_execute(&gone).await.unwrap();
        let host = Host::start_in(&database, folder.path(), &[]);
        place(folder.path(), "by-stream.wasm", &fs::read(component("scripted-by-stream")).unwrap());
        until_retained(&database, "by-stream", 1).await;
        until_components(&database, components + 1).await;
        host.stop().await;
    }
}

/// A tenant that adds and removes plugins leaves a bounded number of bytes: its newest versions.
#[tokio::test(flavor = "multi_thread")]
async fn the_stored_bytes_of_a_tenants_removed_plugins_are_bounded() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let host = first_version(&database, folder.path(), 1).await;
    until_retained(&database, "scripted", 1).await;
    host.stop().await;
    let session = database.db.connect("test").await.unwrap();
    let gone = "with c as (
                  insert into sandmill.components (digest, bytes)
                  select repeat(n::text, 64), convert_to(repeat('x', 100 << 20), 'UTF8') from generate_series(1, 4) n
                  returning digest
                ), p as (
                  insert into sandmill.plugins (plugin, digest, gone_since)
                  select owner || '/' || n, repeat(n::text, 64), now() - make_interval(hours => n)
                  from unnest(array['acme', 'globex']) owner, generate_series(1, 4) n where owner = 'acme' or n = 4
                  returning plugin, digest
                )
                select (select count(*) from c), (select count(*) from p)";
    session.batch_execute(gone).await.unwrap();
    let versions = "insert into sandmill.retained_versions (plugin, digest) select plugin, digest from sandmill.plugins where gone_since is not null";
    session.batch_execute(versions).await.unwrap();
    let (config, never) = (host::config(folder.path(), &[]), std::future::pending);
    app::run(&config, &database.db, Until::CaughtUp, never(), never()).await.unwrap();
    let rows = session.query("select plugin from sandmill.retained_versions order by 1", &[]).await.unwrap();
    let kept: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(kept, ["acme/1", "acme/2", "globex/4", "scripted"]);
}

/// Such a run stores what a later start needs, like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_until_caught_up_stores_the_versions_that_ran() {
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), GOOD[1]);
    append(&database, "s", 1).await;
    let (config, never) = (host::config(folder.path(), &[]), std::future::pending);
    let ended = app::run(&config, &database.db, Until::CaughtUp, never(), never()).await.unwrap();
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
    let retained = until_retained(&database, "scripted", 1).await;
    assert_eq!(retained, [digest(&version("scripted", GOOD[1]))]);
}
