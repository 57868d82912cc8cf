// What a plugin's author is told without a database: whether a component runs, and what it makes of events.

mod check;
mod rehearsal;

use std::process::Output;

use sandmill_tests::host::{sandmill, stderr, stdout};

/// Runs `sandmill plugin` where there is no database.
fn plugin(arguments: &[&str]) -> Output {
    let mut command = sandmill("");
    command.env_remove("DATABASE_URL").env("SANDMILL_LOG", "off").arg("plugin").args(arguments);
    command.output().expect("run the command")
}

/// What it prints for machines, and how it ends.
fn report(arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = plugin(&[arguments, &["--json"]].concat());
    let report = serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)));
    (output.status.code().expect("it ends by itself"), report)
}
