// Making plugins: a crate that was begun compiles, passes its test, becomes a component, and handles its own events.

use std::{
    path::Path,
    process::{Command, Output},
};

use sandmill_tests::{
    empty_database,
    host::{root, sandmill, stderr, stdout},
};

/// Cargo or `sandmill` on a crate that was begun. All of them share a target directory, so only the first test ever waits for serde, and
/// nothing is asked of a network that the workspace has not needed already.
fn at_work(command: &mut Command, dir: &Path) -> Output {
    let target = root().join("target/tmp/begun");
    command.current_dir(dir).env("CARGO_TARGET_DIR", target).env("CARGO_NET_OFFLINE", "true");
    // What the cargo that runs this test sets for its own packages is not for another crate.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, stdout(&output), stderr(&output));
    output
}

fn begin(dir: &Path, arguments: &[&str]) -> Output {
    sandmill("").args(["plugin", "new"]).args(arguments).current_dir(dir).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_was_begun_does_what_it_says() {
    let address = empty_database().await.address;
    let life = move || {
        let folder = tempfile::tempdir().unwrap();
        let begun = begin(folder.path(), &["door-watch"]);
        assert!(begun.status.success(), "{}", stderr(&begun));
        let told = stdout(&begun);
        assert!(
            told.starts_with("Made door-watch (sandmill-guest from ") && told.contains("\n  cd door-watch\n"),
            "{told}"
        );

        let dir = folder.path().join("door-watch");
        let tested = stdout(&at_work(Command::new("cargo").arg("test"), &dir));
        assert!(tested.contains("test result: ok. 1 passed"), "{tested}");
        let formatted = Command::new("cargo").args(["fmt", "--check"]).current_dir(&dir).output().unwrap();
        assert!(formatted.status.success(), "{}", stdout(&formatted));

        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let built = stdout(&at_work(sandmill("").args(["plugin", "build", "-o", "../plugins"]), &dir));
        assert!(built.starts_with("../plugins/door-watch.wasm  ") && built.contains(" KiB  ("), "{built}");

        at_work(sandmill(&address).arg("migrate"), &dir);
        at_work(sandmill(&address).args(["import", "events.ndjson"]), &dir);
        at_work(sandmill(&address).args(["run", "--until-caught-up", "--plugins", "../plugins"]), &dir);
        let documents = stdout(&at_work(sandmill(&address).args(["documents", "door_watch"]), &dir));
        let documents: Vec<&str> = documents.lines().collect();
        let expected = [
            r#"acme      account-1  v1  {"balance": 380, "bookings": 2}"#,
            r#"acme      account-2  v1  {"balance": 70, "bookings": 1}"#,
            r#"umbrella  account-1  v1  {"balance": 9900, "bookings": 1}"#,
        ];
        assert_eq!(documents, expected);
    };
    tokio::task::spawn_blocking(life).await.unwrap();
}

#[test]
fn what_cannot_be_begun_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], message: &str| {
        let output = begin(folder.path(), arguments);
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
