// The host as a process: the host lock, signals, fences, plugins that do not start, and settings.

mod standby;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill::app::Ended;
use sandmill_tests::{
    Database, database,
    host::{Host, catch_up, component, eventually, plugins, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::json;

async fn output(mut command: std::process::Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// The counts of all changes to all tables, as one string.
async fn footprint(database: &Database) -> String {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select coalesce(string_agg(schemaname || '.' || relname || ':' || n_tup_ins + n_tup_upd + n_tup_del, ' ' order by 1), '')
               from pg_stat_user_tables";
    session.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_waits_then_exits_without_a_change() {
    let database = sandmill_tests::empty_database().await;
    let holder =
        sandmill::cluster::host_lock::HostLock::acquire(&database.db, std::time::Duration::ZERO).await.unwrap();
    let folder = plugins(&["scripted"]);
    let mut command = sandmill(&database.address);
    command.args(["run", "--plugins"]).arg(folder.path());
    let second = output(command).await;
    assert_eq!(second.status.code(), Some(3), "{}", stderr(&second));
    let errors = stderr(&second);
    assert!(errors.starts_with("error: another host is running on this database (database session "), "{errors}");
    assert!(errors.contains("nothing was changed"), "{errors}");
    // Not even a schema.
    assert_eq!(footprint(&database).await, "");
    holder.ensure().await.unwrap();
    drop(holder);
    catch_up(&database, &["scripted"], &[]).await;
}

/// SIGTERM finishes and stores the work under way; a second one does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_a_second_one_aborts() {
    let database = database().await;
    database.append("acme", "s", &vec![json!({}); 50]).await;
    let folder = plugins(&["scripted"]);
    let mut command = sandmill(&database.address);
    command.args(["run", "--plugins"]).arg(folder.path()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    database.scripted_settles(&[]).await;
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_scripted_log(&database, EVERY_EVENT).await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 50);

    // A guest that never returns, with limits that allow it: draining waits for it until the second
    // signal.
    database.append("acme", "s", &[json!({"do": "log", "lines": 1}), json!({"do": "spin"})]).await;
    let (mut child, _log) = spinning(&database, folder.path()).await;
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).unwrap();
    // A second signal that arrives before the first is noticed counts as the first, so send more.
    let ended = eventually("the host is gone", async || {
        let _ = kill_process(pid, Signal::TERM);
        child.try_wait().unwrap()
    })
    .await;
    assert_eq!(ended.code(), Some(143), "the exit code of shells for an end by SIGTERM");
}

/// Starts a host whose guest logs a line and then computes without end. Returns after the line.
async fn spinning(database: &Database, folder: &Path) -> (Child, BufReader<ChildStderr>) {
    let mut command = sandmill(&database.address);
    command.env("SANDMILL_LOG", "sandmill::guest=info");
    command.args(["run", "--set", "limits.cpu-ms=3600000", "--set", "limits.wall-ms=3600000", "--plugins"]);
    let mut child = command.arg(folder).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        (line, log)
    });
    let (line, log) = reading.await.unwrap();
    assert!(line.contains("scripted"), "the guest has begun: {line}");
    (child, log)
}

/// One signal is enough if a call does not end: the call is dropped after a while without effects,
/// and the next host handles its events.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_end_is_dropped_and_its_events_are_handled_again() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    database.append("acme", "s", &[json!({"do": "log", "lines": 1}), json!({"do": "spin"})]).await;
    let (mut child, log) = spinning(&database, folder.path()).await;
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = eventually("the host is gone", async || child.try_wait().unwrap()).await;
    drop(log);
    assert_eq!(ended.code(), Some(0));
    let status = database.status("scripted").await.unwrap();
    assert_eq!((status.handled, status.lanes_behind.len()), (0, 0));
    let host = Host::start_in(&database, folder.path(), &["limits.cpu-ms=200"]);
    database.scripted_settles(&["acme retrying cpu-limit"]).await;
    host.stop().await;
    assert_eq!(database.status("scripted").await.unwrap().handled, 1);
}

/// A commit with an old fence changes nothing, and the next term starts from the committed
/// progress.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_fence_ends_only_the_term() {
    let database = database().await;
    let host = Host::start(&database, &["scripted"], &[]);
    let session = database.db.connect("test").await.unwrap();
    for round in 0..5 {
        database.append("acme", "s", &[json!({}), json!({})]).await;
        database.append("globex", "t", &[json!({})]).await;
        if round % 2 == 0 {
            session.execute("update sandmill.cursors set fence = 'somebody else'", &[]).await.unwrap();
        }
    }
    // If all events were handled before the last change of a fence, only the next commit notices
    // it.
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
    let fences = session.query("select fence from sandmill.cursors", &[]).await.unwrap();
    assert_eq!(fences.len(), 1, "the processor has one share");
    assert_ne!(fences[0].get::<_, &str>(0), "somebody else");
}

/// A document that another session wrote is not overwritten: the commit is rejected, and the next
/// term reads the document again.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_another_session_changed_is_read_again() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&[]).await;
    let session = database.db.connect("test").await.unwrap();
    let sql = r#"update public.scripted_log set data = data || '{"count": 41}', _version = _version + 1"#;
    session.execute(sql, &[]).await.unwrap();
    database.append("acme", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    let documents = sandmill_tests::ledger::documents(&database, "scripted_log").await;
    assert_eq!(documents[&("acme".into(), "s".into())]["count"], json!(42));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_cannot_start_are_reported_and_the_others_run() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let folder = plugins(&["scripted", "plane-log", "bad-descriptor"]);
    std::fs::copy(component("scripted"), folder.path().join("twin.wasm")).unwrap();
    std::fs::write(folder.path().join("empty.wasm"), "").unwrap();
    std::fs::File::create(folder.path().join("large.wasm")).unwrap().set_len(200 << 20).unwrap();
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("create table public.plane_log (mine int)").await.unwrap();
    let mut command = sandmill(&database.address);
    command.env("SANDMILL_LOG", "error").args(["run", "--until-caught-up", "--plugins"]).arg(folder.path());
    let run = output(command).await;
    let errors = stderr(&run);
    assert_eq!(run.status.code(), Some(1), "{errors}");
    assert_scripted_log(&database, EVERY_EVENT).await;
    for expected in [
        "twin.wasm",
        "claims the processor id scripted, which",
        "public.plane_log already exists, and Sandmill did not create it",
        "`describe` broke the contract",
        "the file is empty",
        "200 MiB large, more than the 64 MiB of limits.component-mib",
        "caught up, but 5 plugins were rejected",
    ] {
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_with_other_event_types_than_its_documents_is_rejected() {
    let database = database().await;
    database.append("acme", "s", &[json!({})]).await;
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
    let session = database.db.connect("test").await.unwrap();
    session
        .batch_execute("update sandmill.processors set read_model_version = 7, event_types = array['X', 'Y']")
        .await
        .unwrap();
    let folder = plugins(&["scripted"]);
    let mut command = sandmill(&database.address);
    command.args(["run", "--until-caught-up", "--plugins"]).arg(folder.path());
    let run = output(command).await;
    assert_eq!(run.status.code(), Some(1));
    let expected = "processor scripted was built with event types X, Y and read-model version 7, and this plugin has all event types and read-model version 1";
    assert!(stderr(&run).contains(expected), "{}", stderr(&run));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_event_types_is_stored_and_does_not_matter() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let stored = async || -> Vec<String> {
        session.query_one("select event_types from sandmill.processors", &[]).await.unwrap().get(0)
    };
    let ended = catch_up(&database, &["route-performance"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
    assert_eq!(stored().await, ["FlightFlown", "FlightCancelled"], "the order of the descriptor");
    let sorted = "update sandmill.processors set event_types = array['FlightCancelled', 'FlightFlown']";
    session.batch_execute(sorted).await.unwrap();
    let ended = catch_up(&database, &["route-performance"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn misuse_exits_with_2_and_the_remedy() {
    let database = database().await;
    let errors = async |arguments: &[&str], code: i32| {
        let mut command = sandmill(&database.address);
        command.args(arguments);
        let output = output(command).await;
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        stderr(&output)
    };
    let unknown = errors(&["status", "--set", "limits.cpu=1"], 2).await;
    assert_eq!(unknown, "error: --set limits.cpu=1: no such setting `limits.cpu`; the nearest is limits.cpu-ms\n");
    assert!(errors(&["run", "--plugins", "/nowhere"], 1).await.contains("read the plugins folder /nowhere"));
    assert!(
        errors(&["status", "--database-url", "nonsense nonsense"], 2)
            .await
            .contains("the database address is not valid")
    );
    assert!(errors(&["stat"], 2).await.contains("unrecognized subcommand"));
}

/// Followed events appear when their transactions commit, in any order.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_in_the_order_of_commits_not_of_positions() {
    let database = database().await;
    database.append("acme", "before", &[json!(1)]).await;
    let mut slow = database.db.connect("slow").await.unwrap();
    let transaction = slow.client_mut().transaction().await.unwrap();
    transaction
        .query("select * from sandmill.append('acme', 'slow', array['T'], array['2']::json[])", &[])
        .await
        .unwrap();
    database.append("acme", "quick", &[json!(3)]).await;
    let mut command = sandmill(&database.address);
    command.args(["events", "--follow", "--from", "1", "--limit", "3", "--json"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let next = |mut lines: std::io::Lines<_>| {
        tokio::task::spawn_blocking(move || {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            (line["stream"].as_str().unwrap().to_string(), lines)
        })
    };
    let (first, lines) = next(lines).await.unwrap();
    let (second, lines) = next(lines).await.unwrap();
    transaction.commit().await.unwrap();
    let (third, _) = next(lines).await.unwrap();
    assert_eq!([first, second, third], ["before", "quick", "slow"]);
    assert!(tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap().success());
}
