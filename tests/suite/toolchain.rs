//! New plugins: a created crate compiles, passes its test, becomes a component, and handles its own
//! events.

use std::{
    path::Path,
    process::{Command, Output},
};

use sandmill_tests::{
    empty_database,
    host::{root, sandmill, stderr, stdout},
};

/// Runs cargo or `sandmill` on a created crate. All runs share a target directory, so only the
/// first one compiles serde. The network is not used: the workspace has fetched all dependencies.
fn succeed(command: &mut Command, dir: &Path) -> Output {
    let target = root().join("target/tmp/begun");
    command.current_dir(dir).env("CARGO_TARGET_DIR", target).env("CARGO_NET_OFFLINE", "true");
    // The variables of the cargo that runs this test are not for another crate.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, stdout(&output), stderr(&output));
    output
}

fn create(dir: &Path, arguments: &[&str]) -> Output {
    sandmill("").args(["plugin", "new"]).args(arguments).current_dir(dir).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_plugin_compiles_and_handles_its_events() {
    let address = empty_database().await.address;
    let life = move || {
        let folder = tempfile::tempdir().unwrap();
        let created = create(folder.path(), &["door-watch"]);
        assert!(created.status.success(), "{}", stderr(&created));
        let printed = stdout(&created);
        assert!(
            printed.starts_with("Created door-watch (sandmill-guest from ") && printed.contains("\n  cd door-watch\n"),
            "{printed}"
        );

        let dir = folder.path().join("door-watch");
        let tested = stdout(&succeed(Command::new("cargo").arg("test"), &dir));
        assert!(tested.contains("test result: ok. 1 passed"), "{tested}");
        let formatted = Command::new("cargo").args(["fmt", "--check"]).current_dir(&dir).output().unwrap();
        assert!(formatted.status.success(), "{}", stdout(&formatted));

        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let built = stdout(&succeed(sandmill("").args(["plugin", "build", "-o", "../plugins"]), &dir));
        assert!(built.starts_with("../plugins/door-watch.wasm  ") && built.contains(" KiB  ("), "{built}");

        succeed(sandmill(&address).arg("migrate"), &dir);
        succeed(sandmill(&address).args(["import", "events.ndjson"]), &dir);
        succeed(sandmill(&address).args(["run", "--until-caught-up", "--plugins", "../plugins"]), &dir);
        let documents = stdout(&succeed(sandmill(&address).args(["documents", "door_watch"]), &dir));
        let documents: Vec<&str> = documents.lines().collect();
        let expected = [
            r#"acme      account-1  v1  {"balance": 380, "entries": 2}"#,
            r#"acme      account-2  v1  {"balance": 70, "entries": 1}"#,
            r#"umbrella  account-1  v1  {"balance": 9900, "entries": 1}"#,
        ];
        assert_eq!(documents, expected);
    };
    tokio::task::spawn_blocking(life).await.unwrap();
}

#[test]
fn an_invalid_new_plugin_is_rejected_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], message: &str| {
        let output = create(folder.path(), arguments);
        assert!(!output.status.success() && stderr(&output).contains(message), "{}", stderr(&output));
    };
    refused(
        &["Door"],
        "`Door` is not a valid processor id: 1 to 63 lowercase ASCII letters, digits or hyphens, beginning with a letter",
    );
    refused(&["match"], "`match` cannot be the name of a crate: it is a keyword of Rust. Use another one");
    refused(
        &["door", "--sdk", "."],
        ". does not contain the crate `sandmill-guest`. Name the folder guest-sdk/rust of a checkout",
    );
    std::fs::write(folder.path().join("mine"), "").unwrap();
    refused(&["door", "--dir", "."], ". is not empty. Name another folder with --dir.");
    refused(&["mine"], "mine is not a folder.");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made");
}
