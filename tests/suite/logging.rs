//! Logging. A standard error that is full, closed or on a full disk loses lines but never stops
//! work. No text of a tenant or a plugin controls a terminal, forges a field or floods an operator.

mod json;
mod words;

use std::{
    io::{PipeReader, PipeWriter, Read},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill_tests::{
    Database, database,
    host::{component, eventually, eventually_or, plugins, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::json;

/// Appends events that log 4 MB: more than a pipe and the host's queue hold.
async fn append_loud_events(database: &Database) {
    for _ in 0..4 {
        let loud = json!({"do": "shout", "message": "x".repeat(1_000), "lines": 100});
        database.append("loud", "s", &vec![loud; 10]).await;
    }
    database.append("quiet", "s", &[json!({}), json!({})]).await;
}

/// `sandmill run` with high limits on logging.
fn run(database: &Database, folder: &std::path::Path) -> Command {
    let mut command = sandmill(&database.address);
    command.args(["run", "--plugins"]).arg(folder).env("SANDMILL_LOG", "info").stdout(Stdio::null());
    for setting in ["tenant-limits.log-kib-per-second=10240", "limits.log-lines=10000", "limits.cpu-ms=10000"] {
        command.args(["--set", setting]);
    }
    command
}

/// A host that is killed at the end of its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.spawn().unwrap())
    }

    /// Asks the host to stop, and returns its exit code.
    async fn end(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        eventually("the host ends in order", async || self.0.try_wait().unwrap()).await.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_log_nobody_reads_works_and_stops_in_order() {
    let database = database().await;
    append_loud_events(&database).await;
    let folder = plugins(&["scripted"]);
    let (mut reader, writer) = pipe();
    let host = Running::start(run(&database, folder.path()).stderr(writer));
    database.scripted_settles(&[]).await;
    assert_eq!(host.end().await, Some(0));
    assert_scripted_log(&database, EVERY_EVENT).await;
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(
        log.lines().next().is_some_and(|line| line.contains(" INFO ")),
        "the pipe holds the first lines: {log:.200}"
    );
}

/// The number of lost lines that a line of the log reports.
fn lost_as_text(line: &str) -> Option<usize> {
    line.contains(" lost, because standard error was not ").then_some(())?;
    line.split("WARN ").nth(1)?.split(' ').next()?.parse().ok()
}

fn lost_as_json(line: &str) -> Option<usize> {
    let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let (lost, _) = entry["message"].as_str()?.split_once(" log line")?;
    assert_eq!((&entry["level"], &entry["target"]), (&json!("WARN"), &json!("sandmill::telemetry")));
    lost.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_again_reports_how_many_lines_are_lost() {
    lines_are_lost_and_counted("text", lost_as_text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_log_that_is_read_again_reports_how_many_lines_are_lost() {
    lines_are_lost_and_counted("json", lost_as_json).await;
}

async fn lines_are_lost_and_counted(format: &str, reported_lost: fn(&str) -> Option<usize>) {
    let database = database().await;
    append_loud_events(&database).await;
    let folder = plugins(&["scripted"]);
    let (mut reader, writer) = pipe();
    let mut command = run(&database, folder.path());
    let host = Running::start(command.env("SANDMILL_LOG_FORMAT", format).stderr(writer));
    // The command holds an end of the pipe.
    drop(command);
    database.scripted_settles(&[]).await;
    let log = tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).map(|_| log)
    });
    // Later lines are read as well.
    database.append("last", "s", &[json!({"do": "shout", "message": "the last words", "lines": 1})]).await;
    let lost = eventually("the host reports what it lost", async || {
        let measures = database.status("scripted").await?.measures;
        Some(measures.log_lines_lost).filter(|lines| *lines > 2_000)
    })
    .await;
    let status = sandmill(&database.address).arg("status").output().unwrap();
    let note = format!("the host has dropped {lost} log lines, because its standard error was not read in time\n");
    assert!(stdout(&status).contains(&note), "{}", stdout(&status));
    assert_eq!(host.end().await, Some(0));
    let log = log.await.unwrap().unwrap();
    let lost: usize = log.lines().filter_map(reported_lost).sum();
    let shouted = log.lines().filter(|line| line.contains("xxxxxxxx")).count();
    // A few of the lost lines may be the host's own.
    assert!((4_000..4_020).contains(&(shouted + lost)), "each line is present or counted: {shouted} and {lost}");
    assert!(lost > 2_000 && log.contains("the last words"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_standard_error_fails_works_and_stops_in_order() {
    let folder = plugins(&["scripted"]);
    for broken in ["no reader", "full disk", "closed"] {
        let database = database().await;
        append_loud_events(&database).await;
        let mut command = run(&database, folder.path());
        match broken {
            "no reader" => _ = command.stderr(pipe().1),
            "full disk" => _ = command.stderr(std::fs::File::options().write(true).open("/dev/full").unwrap()),
            _ => {
                let host = std::mem::replace(&mut command, Command::new("sh"));
                command.args(["-c", "exec \"$@\" 2>&-", "sh"]).arg(host.get_program()).args(host.get_args());
                command.envs(host.get_envs().filter_map(|(name, value)| Some((name, value?))));
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
        }
        let mut host = Running::start(&mut command);
        eventually_or(broken, async || {
            assert_eq!(host.0.try_wait().unwrap(), None, "{broken}: the host has ended");
            let status = database.status("scripted").await;
            let settled = status.is_some_and(|status| status.lag_events == 0 && status.lanes_behind.is_empty());
            if settled { Ok(()) } else { Err(database.standing().await) }
        })
        .await;
        assert_eq!(host.end().await, Some(0), "{broken}");
        assert_scripted_log(&database, EVERY_EVENT).await;
    }
}

/// A command whose reader is gone ends quietly. One that cannot print its error keeps its exit
/// code.
#[tokio::test(flavor = "multi_thread")]
async fn commands_keep_their_exit_codes_when_the_reader_is_gone() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let scripted = component("scripted");
    let check = ["plugin", "check", scripted.to_str().unwrap()];
    for arguments in [&["status"][..], &["status", "--json"], &["events"], &["config", "print"], &check] {
        let output = sandmill(&database.address).args(arguments).stdout(pipe().1).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
    for arguments in [&["documents", "nothing"][..], &["tenants", "nobody"]] {
        let status = sandmill(&database.address).args(arguments).stderr(pipe().1).status().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = sandmill(&database.address).arg("status").stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("No space left on device"), "{}", stderr(&output));
}
