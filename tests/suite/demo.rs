// `sandmill demo`, which handles all its events, shows documents, and ends in order.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill_tests::host::{plugins, root, sandmill, stderr, stdout};

/// A demo without a configured database.
fn demo(folder: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = sandmill("");
    command.env_remove("DATABASE_URL").args(["demo", "--plugins"]).arg(folder.path()).args(arguments);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// The last status line.
fn last_status_line(printed: &str) -> &str {
    printed.lines().rfind(|line| line.contains(" appended, ")).unwrap_or_else(|| panic!("no such line:\n{printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_of_the_demo_are_handled_and_documents_are_shown() {
    let folder = plugins(&["cart-summary", "plane-log", "route-performance"]);
    let mut command = demo(&folder, &["--seconds", "3", "--rate", "200", "--events"]);
    command.arg(root().join("example-plugins/data/flights-20000.ndjson.gz"));
    let demo = output(command).await;
    let printed = stdout(&demo);
    assert!(demo.status.success(), "{printed}\n{}", stderr(&demo));
    assert_eq!(stderr(&demo), "");
    assert!(!printed.contains('\x1b'), "escape codes in a pipe:\n{printed}");
    let line = last_status_line(&printed);
    for expected in [
        ": 600 appended, ",
        "cart-summary has handled 600 and is up to date",
        "plane-log has handled 20,000 and is up to date",
        "route-performance has handled 20,000 and is up to date",
        "busiest megamart ",
    ] {
        assert!(line.contains(expected), "{expected}: {line}");
    }
    assert!(printed.contains("The shop appended 600 events, and 20,000 were imported before: all are handled."));
    let has_document = |tenant: &str, data: &str| {
        printed.lines().any(|line| line.trim_start().starts_with(tenant) && line.contains(data))
    };
    assert!(has_document("megamart ", r#""status": ""#), "{printed}");
    assert!(has_document("corner-", r#""status": ""#), "{printed}");
    assert!(has_document("9E ", r#""arrivalDelay": "#), "{printed}");
    assert!(printed.contains(&format!(" dev --plugins {}", folder.path().display())), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_with_a_closed_shop_handles_the_imported_events() {
    let folder = plugins(&["plane-log"]);
    let mut command = demo(&folder, &["--seconds", "0", "--events"]);
    command.arg(root().join("example-plugins/data/flights-20000.ndjson.gz"));
    let demo = output(command).await;
    let printed = stdout(&demo);
    assert!(demo.status.success(), "{printed}\n{}", stderr(&demo));
    assert!(
        last_status_line(&printed).contains(": 0 appended, 0/s; plane-log has handled 20,000 and is up to date"),
        "{printed}"
    );
    assert!(!printed.contains("A shop with"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_ends_in_order() {
    let folder = plugins(&["cart-summary"]);
    let mut command = demo(&folder, &["--keep", "--rate", "50"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let watch = tokio::task::spawn_blocking(move || {
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut printed = String::new();
        while !printed.contains(" appended, ") {
            assert!(out.read_line(&mut printed).unwrap() > 0, "it ended without a signal:\n{printed}");
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        out.read_to_string(&mut printed).unwrap();
        (child.wait().unwrap(), printed)
    });
    let (status, printed) = watch.await.unwrap();
    assert_eq!(status.code(), Some(0), "{printed}");
    assert!(printed.contains("--database-url 'host="), "{printed}");
    assert!(last_status_line(&printed).contains(" and is up to date"), "{printed}");
    assert!(printed.contains(": all are handled."), "{printed}");
}
