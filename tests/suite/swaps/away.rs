// A plugins folder on a volume that is unmounted for a while. Its plugins return as they were.

use std::path::PathBuf;

use super::{retained::until_retained, *};

/// A plugins folder on a volume that can be unmounted.
struct Volume {
    above: tempfile::TempDir,
}

impl Volume {
    fn new() -> Volume {
        let above = tempfile::tempdir().unwrap();
        fs::create_dir(above.path().join("plugins")).unwrap();
        Volume { above }
    }

    fn folder(&self) -> PathBuf {
        self.above.path().join("plugins")
    }

    fn unmount(&self) {
        fs::rename(self.folder(), self.above.path().join("aside")).unwrap();
        fs::create_dir(self.folder()).unwrap();
    }

    fn mount(&self) {
        fs::remove_dir(self.folder()).unwrap();
        fs::rename(self.above.path().join("aside"), self.folder()).unwrap();
    }
}

/// A host whose second version was rolled back, so that the first one runs instead of the file.
async fn rolled_back(database: &Database, folder: &Path) -> Host {
    let host = first_version(database, folder, 1).await;
    until_retained(database, "scripted", 1).await;
    put(folder, GOOD[2]);
    until_event(database, "scripted", "swapped", 1).await;
    until_retained(database, "scripted", 2).await;
    command(database, &["rollback", "scripted"]).await.unwrap();
    until_event(database, "scripted", "rolled-back", 1).await;
    until_error(folder, "scripted", Some("this version was rolled back: manual rollback")).await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_an_empty_folder_keeps_what_a_later_start_needs() {
    let (database, volume) = (database().await, Volume::new());
    rolled_back(&database, &volume.folder()).await.stop().await;
    volume.unmount();
    let host = Host::start_in(&database, &volume.folder(), &[]);
    eventually("the plugin is gone", async || listed(&database, "scripted").await.is_none().then_some(())).await;
    host.stop().await;
    volume.mount();
    append(&database, "s", 1).await;
    let cache = tempfile::tempdir().unwrap();
    let cache = format!("compile.cache={}", cache.path().display());
    let host = Host::start_in(&database, &volume.folder(), &[&cache]);
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    until_error(&volume.folder(), "scripted", Some("this version was rolled back: manual rollback")).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_returns_while_the_host_runs_restores_what_ran() {
    let (database, volume) = (database().await, Volume::new());
    let host = rolled_back(&database, &volume.folder()).await;
    volume.unmount();
    until_event(&database, "scripted", "stopped", 1).await;
    append(&database, "s", 1).await;
    eventually("the plugin is gone", async || listed(&database, "scripted").await.is_none().then_some(())).await;
    volume.mount();
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    until_error(&volume.folder(), "scripted", Some("this version was rolled back: manual rollback")).await;
    // The version can be retried and rolled back again.
    command(&database, &["retry", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "swapped", 2).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 2).await;
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

/// A removed plugin does not return when another file takes its name.
#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_the_same_name_does_not_restore_a_removed_plugin() {
    let (database, volume) = (database().await, Volume::new());
    let host = first_version(&database, &volume.folder(), 1).await;
    until_retained(&database, "scripted", 1).await;
    fs::remove_file(volume.folder().join("scripted.wasm")).unwrap();
    until_event(&database, "scripted", "stopped", 1).await;
    fs::write(volume.folder().join("scripted.wasm"), "broken").unwrap();
    until_error(&volume.folder(), "scripted", Some("not a WebAssembly component")).await;
    append(&database, "s", 1).await;
    host.stop().await;
    let (config, never) = (host::config(&volume.folder(), &[]), std::future::pending);
    let none = app::run(&config, &database.db, Until::CaughtUp, never(), never()).await.unwrap_err();
    assert!(none.to_string().contains("can run"), "{none}");
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 1)]));
    // The next version can still be rolled back to what ran before.
    put(&volume.folder(), GOOD[2]);
    let host = Host::start_in(&database, &volume.folder(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1)]).await;
    until_retained(&database, "scripted", 2).await;
    command(&database, &["rollback", "scripted"]).await.unwrap();
    until_event(&database, "scripted", "rolled-back", 1).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_processor_leaves_no_stored_versions() {
    let (database, volume) = (database().await, Volume::new());
    let host = first_version(&database, &volume.folder(), 1).await;
    until_retained(&database, "scripted", 1).await;
    fs::remove_file(volume.folder().join("scripted.wasm")).unwrap();
    until_event(&database, "scripted", "stopped", 1).await;
    eventually("the plugin is gone", async || listed(&database, "scripted").await.is_none().then_some(())).await;
    host.stop().await;
    until_retained(&database, "scripted", 1).await;
    let mut remove = sandmill(&database.address);
    remove.args(["processors", "remove", "scripted", "--drop-documents", "--yes"]);
    let output = tokio::task::spawn_blocking(move || remove.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    until_retained(&database, "scripted", 0).await;
}
