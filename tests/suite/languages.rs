// One plugin in three languages: each makes the same documents of the same events. The components of JavaScript and Python are built by
// `make test-all`; where they were not, a test says that it is skipped, and fails only if TEST_ALL asks for all.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Output,
};

use sandmill_tests::{
    empty_database,
    host::{root, sandmill, stderr, stdout},
    random::Random,
};
use serde_json::{Value, json};

const PLUGINS: [(&str, &str); 3] =
    [("cart-summary", "plugins"), ("cart-summary-js", "plugins-js"), ("cart-summary-py", "plugins-py")];

/// Whether a test must not be skipped.
fn all_is_asked_for() -> bool {
    std::env::var_os("TEST_ALL").is_some()
}

/// The components that were built, and the names of those that were not.
fn components() -> Vec<PathBuf> {
    let mut there = Vec::new();
    for (name, target) in PLUGINS {
        let path = root().join(format!("target/plugins/{name}.wasm"));
        if path.is_file() {
            there.push(path);
        } else {
            assert!(!all_is_asked_for(), "{} is not there; `make {target}` builds it", path.display());
            println!("skipped for {name}, which was not built: `make {target}` does");
        }
    }
    there
}

fn run(arguments: &[&str], dir: &Path) -> Output {
    let mut command = sandmill("");
    command.env_remove("DATABASE_URL").env("SANDMILL_LOG", "off").arg("plugin").args(arguments).current_dir(dir);
    command.output().unwrap()
}

/// What a component makes of events: the indexes of what it skips, after its documents were compared with the expected ones.
fn test(component: &Path, events: &Path, expected: &Path, how: &str) -> Value {
    let [component, events, expected] = [component, events, expected].map(|path| path.to_str().unwrap());
    let output = run(&["test", component, "--events", events, how, expected, "--json"], &root());
    assert!(output.status.success(), "{component}: {}{}", stdout(&output), stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let first = report["skipped"]["first"].as_array().unwrap();
    let lines: Vec<&Value> = first.iter().map(|skipped| &skipped["line"]).collect();
    json!({"handled": report["handled"], "total": report["skipped"]["total"], "lines": lines})
}

#[test]
fn the_cases_of_cart_summary_hold_in_every_language() {
    let data = root().join("example-plugins/data");
    let outcomes: Vec<Value> = components()
        .iter()
        .map(|component| test(component, &data.join("carts.ndjson"), &data.join("carts.expected.ndjson"), "--expect"))
        .collect();
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    assert_eq!(outcomes[0]["total"], 13);
}

/// Events of all kinds, some of them wrong.
fn some_carts(random: &mut Random, events: usize) -> String {
    let mut text = String::new();
    for _ in 0..events {
        let (tenant, cart) = (["acme", "umbrella"][random.below(2)], random.below(40));
        let item = json!({"sku": "mug", "quantity": random.below(5), "price": random.below(100_000)});
        let (event_type, data) = match random.below(20) {
            0..12 => ("ItemAdded", item),
            12..17 => ("ItemRemoved", item),
            17 => ("CartCheckedOut", json!({})),
            18 => ("CartAbandoned", json!({})),
            _ => ("ItemAdded", json!({"quantity": 1, "price": "much"})),
        };
        let event = json!({"tenant": tenant, "stream": format!("cart-{cart}"), "type": event_type, "data": data});
        writeln!(text, "{event}").unwrap();
    }
    text
}

#[test]
fn every_language_makes_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    let (events, expected) = (folder.path().join("events.ndjson"), folder.path().join("expected.ndjson"));
    std::fs::write(&events, some_carts(&mut Random::seeded(), 1_500)).unwrap();
    let components = components();
    let first = test(&components[0], &events, &expected, "--write");
    for component in &components[1..] {
        assert_eq!(test(component, &events, &expected, "--expect"), first, "{}", component.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_runs_every_language_with_the_settings_it_begins_with() {
    let components = components();
    for component in components {
        let database = empty_database().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&component, folder.path().join("cart-summary.wasm")).unwrap();
        let address = database.address.clone();
        let documents = move || {
            let ran = |arguments: &[&str]| {
                let output = sandmill(&address).args(arguments).current_dir(root()).output().unwrap();
                assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
                stdout(&output)
            };
            ran(&["migrate"]);
            ran(&["import", "example-plugins/data/carts.ndjson"]);
            ran(&["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()]);
            ran(&["documents", "cart_summary"])
        };
        let documents = tokio::task::spawn_blocking(documents).await.unwrap();
        assert!(documents.lines().count() >= 84, "{}: {documents}", component.display());
        for cart in ["comes-and-goes", "Körbchen 🧺"] {
            assert!(documents.contains(cart), "{}: {documents}", component.display());
        }
    }
}

/// Takes node and python3, and a network the first time: only where all is asked for.
#[test]
fn a_script_that_was_begun_does_what_it_says() {
    if !all_is_asked_for() {
        println!("skipped: `make test-all` begins and builds a plugin in JavaScript and in Python");
        return;
    }
    // Below the checkout, whose tools they share.
    let folder = tempfile::tempdir_in(root().join("target/tmp")).unwrap();
    for language in ["js", "python"] {
        let succeeds = |arguments: &[&str], dir: &Path| {
            let output = run(arguments, dir);
            assert!(output.status.success(), "{language}, {arguments:?}: {}{}", stdout(&output), stderr(&output));
            stdout(&output)
        };
        succeeds(&["new", language, "--lang", language], folder.path());
        let dir = folder.path().join(language);
        let built = succeeds(&["build"], &dir);
        assert!(
            built.contains(&format!("target/plugins/{language}.wasm  ")) && built.contains("componentize-"),
            "{built}"
        );
        let component = format!("target/plugins/{language}.wasm");
        succeeds(&["test", &component, "--events", "events.ndjson", "--expect", "expected.ndjson"], &dir);

        // A mistake is told in the language's own words, and so is what goes wrong in a call.
        let (entry, broken) = if language == "js" { ("plugin.js", "const = 1;") } else { ("plugin.py", "def f(:") };
        let text = std::fs::read_to_string(dir.join(entry)).unwrap();
        std::fs::write(dir.join(entry), format!("{text}\n{broken}\n")).unwrap();
        let refused = stderr(&run(&["build"], &dir));
        assert!(refused.contains("Correct what its language says of it") && refused.contains(entry), "{refused}");
        let wrong = text.replace("bookings + 1", "nonsense + 1").replace("[\"bookings\"] + 1", "[\"nonsense\"]");
        std::fs::write(dir.join(entry), wrong).unwrap();
        succeeds(&["build"], &dir);
        let tested = run(&["test", &component, "--events", "events.ndjson"], &dir);
        assert!(!tested.status.success() && stdout(&tested).contains("nonsense"), "{}", stdout(&tested));
    }
}
