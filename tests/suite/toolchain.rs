//! New plugins: a created crate compiles, passes its test, becomes a component, and handles its own
//! events.

use std::{
    path::Path,
    process::{Command, Output},
    time::UNIX_EPOCH,
};

use sandmill_tests::{
    empty_database,
    host::{component, root, sandmill, script, stderr, stdout},
};

/// Runs cargo or `sandmill` on a created crate. All runs share target directories, so only the
/// first one compiles serde. The network is not used: the workspace has fetched all dependencies.
fn succeed(command: &mut Command, dir: &Path) -> Output {
    command.current_dir(dir).env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
    if command.get_program() == "cargo" {
        command.env("CARGO_TARGET_DIR", root().join("target/tmp/begun"));
    }
    // `plugin build` has a shared target directory in the user's cache.
    command.env("XDG_CACHE_HOME", root().join("target/tmp/cache"));
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

/// In one target directory, cargo takes a library that is newer than a crate's sources for its own.
#[test]
fn plugins_of_one_name_are_not_confused() {
    let folder = tempfile::tempdir().unwrap();
    let collections = ["first_doors", "other_doors"];
    let dirs = collections.map(|collection| {
        let dir = folder.path().join(collection).join("doors");
        std::fs::create_dir(dir.parent().unwrap()).unwrap();
        assert!(create(dir.parent().unwrap(), &["doors"]).status.success());
        let source = dir.join("src/lib.rs");
        let code = std::fs::read_to_string(&source).unwrap();
        let collection = format!("COLLECTION: &str = \"{collection}\"");
        std::fs::write(&source, code.replace("COLLECTION: &str = \"doors\"", &collection)).unwrap();
        for file in [&source, &dir.join("Cargo.toml")] {
            std::fs::File::options().append(true).open(file).unwrap().set_modified(UNIX_EPOCH).unwrap();
        }
        dir
    });
    let holds = |component: &[u8], text: &str| component.windows(text.len()).any(|part| part == text.as_bytes());
    let build = |dir: &Path, own: &str, other: &str| {
        let built = succeed(sandmill("").args(["plugin", "build"]), dir);
        assert!(stderr(&built).contains("cache/sandmill/target"), "{}", stderr(&built));
        let component = std::fs::read(dir.join("target/plugins/doors.wasm")).unwrap();
        assert!(holds(&component, own) && !holds(&component, other), "{} in another's folder", other);
    };
    let [first, other] = collections;
    build(&dirs[0], first, other);
    build(&dirs[1], other, first);
    build(&dirs[0], first, other);
    // A folder that takes another one's place is a different plugin, even if its files are older.
    std::fs::remove_dir_all(&dirs[0]).unwrap();
    std::fs::rename(&dirs[1], &dirs[0]).unwrap();
    build(&dirs[0], other, first);
}

/// A `PATH` on which node and npm are these scripts. `npm` records each of its runs in `installed`.
fn stubs(folder: &Path, npm: &str) -> String {
    let stubs = folder.join("stubs");
    std::fs::create_dir_all(&stubs).unwrap();
    script(&stubs.join("node"), "#!/bin/sh\n");
    script(&stubs.join("npm"), &format!("#!/bin/sh\necho run >> {}\n{npm}\n", folder.join("installed").display()));
    format!("{}:/usr/bin:/bin", stubs.display())
}

#[test]
fn plugins_in_javascript_share_an_installed_tool() {
    let folder = tempfile::tempdir().unwrap();
    // A tool that turns every script into the same component.
    let tool = "for argument; do [ \"$before\" = --output ] && to=$argument; before=$argument; done";
    let tool = format!("#!/bin/sh\n{tool}\ncp {} \"$to\"\n", component("scripted").display());
    let bin = "node_modules/.bin";
    let npm =
        format!("mkdir -p {bin}\ncat > {bin}/componentize-qjs <<'END'\n{tool}END\nchmod 755 {bin}/componentize-qjs");
    let (path, cache) = (stubs(folder.path(), &npm), folder.path().join("cache"));
    let plugins = ["doors", "rooms", "lifts"];
    for name in plugins {
        assert!(create(folder.path(), &[name, "--lang", "js"]).status.success());
    }
    std::thread::scope(|scope| {
        for name in plugins {
            let (dir, path, cache) = (folder.path().join(name), &path, &cache);
            scope.spawn(move || {
                let mut build = sandmill("");
                build.args(["plugin", "build"]).current_dir(&dir).env("PATH", path).env("XDG_CACHE_HOME", cache);
                let output = build.output().unwrap();
                assert!(output.status.success(), "{}", stderr(&output));
                assert!(dir.join(format!("target/plugins/{name}.wasm")).is_file());
            });
        }
    });
    assert_eq!(std::fs::read_to_string(folder.path().join("installed")).unwrap(), "run\n");
}

#[test]
fn a_missing_tool_is_explained_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    for language in ["js", "python"] {
        assert!(create(folder.path(), &[language, "--lang", language]).status.success());
    }
    let refused = |language: &str, path: &str, why: &str| {
        let mut build = sandmill("");
        build.args(["plugin", "build", language]).current_dir(&folder);
        let output = build.env("PATH", path).env("XDG_CACHE_HOME", folder.path().join("cache")).output().unwrap();
        let message = stderr(&output);
        assert!(!output.status.success() && message.contains(why), "{why}: {message}");
        assert!(message.contains("Run in the plugin's folder:"), "{message}");
    };
    refused("js", "/nowhere", "JavaScript plugins yet (node is not installed)");
    refused("python", "/nowhere", "Python plugins yet (python3 is not installed)");
    let offline = stubs(folder.path(), "echo 'npm error code EAI_AGAIN' >&2; exit 1");
    refused("js", &offline, "(the package registry cannot be reached; it is needed once)");
    refused("js", &stubs(folder.path(), "exit 0"), "the installer of componentize-qjs ");
}
