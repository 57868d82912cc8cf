// The commands for plugin authors that need no database: `plugin check` and `plugin test`.

mod check;
mod plugin_test;

use std::process::Output;

use sandmill_tests::host::{sandmill, stderr, stdout};

/// Runs `sandmill plugin` without a database.
fn plugin(arguments: &[&str]) -> Output {
    let mut command = sandmill("");
    command.env_remove("DATABASE_URL").env("SANDMILL_LOG", "off").arg("plugin").args(arguments);
    command.output().expect("run the command")
}

/// The exit code and the JSON report of `sandmill plugin`.
fn report(arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = plugin(&[arguments, &["--json"]].concat());
    let report = serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)));
    (output.status.code().expect("it ends by itself"), report)
}
