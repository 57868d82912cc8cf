// The record of operators' changes: what is recorded, and that it is recorded with the change.

use std::process::Output;

use sandmill::db::Session;
use sandmill_tests::{
    Database, database,
    host::{Host, catch_up, eventually, sandmill, stderr, stdout},
};
use serde_json::{Value, json};

/// Runs a command as the operator `ann`.
async fn run(database: &Database, arguments: &[&str]) -> Output {
    let mut command = sandmill(&database.address);
    command.args(arguments).env("SANDMILL_OPERATOR", " ann \n");
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

async fn succeed(database: &Database, arguments: &[&str]) -> String {
    let output = run(database, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// The recorded changes that match a filter, newest first.
async fn recorded(database: &Database, filter: &[&str]) -> Vec<Value> {
    let printed = succeed(database, &[&["audit", "--json"], filter].concat()).await;
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The command, processor, tenant, lane key and details of each recorded change, the oldest first.
async fn changes(database: &Database) -> Vec<Value> {
    let mut records = recorded(database, &[]).await;
    records.reverse();
    let keys = ["command", "processor", "tenant", "key", "details"];
    records.iter().map(|record| keys.iter().map(|key| record[key].clone()).collect()).collect()
}

/// A database in which `scripted` has a blocked lane of tenant `acme`.
async fn with_blocked_lane() -> (Database, Session) {
    let database = database().await;
    database.append("acme", "s", &[json!({}), json!({"do": "stop"})]).await;
    database.append("globex", "s", &[json!({})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let session = database.db.connect("test").await.unwrap();
    (database, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_that_changes_something_is_recorded_once() {
    let (database, session) = with_blocked_lane().await;
    for arguments in [
        &["pause", "scripted"][..],
        // Nothing is left to change, so nothing is recorded.
        &["pause", "scripted"],
        &["pause", "scripted", "--tenant", "globex"],
        &["pause", "scripted", "--tenant", "globex", "--key", "globex"],
        &["resume", "scripted", "--tenant", "globex", "--key", "globex"],
        &["resume", "scripted"],
        &["resume", "scripted"],
    ] {
        succeed(&database, arguments).await;
    }
    let hold = "insert into sandmill.plugin_holds (plugin, digest, reason) values ('scripted', 'd', 'r'), ('acme/own', 'd', 'r')";
    session.batch_execute(hold).await.unwrap();
    for arguments in [
        &["plugins", "retry", "scripted"][..],
        &["plugins", "retry", "acme/own"],
        &["processors", "remove", "scripted", "--drop-documents", "--yes"],
    ] {
        succeed(&database, arguments).await;
    }
    assert_ne!(run(&database, &["plugins", "retry", "scripted"]).await.status.code(), Some(0));
    assert_ne!(run(&database, &["processors", "remove", "scripted", "--drop-documents"]).await.status.code(), Some(0));
    let removed =
        json!({"documents": "dropped", "deadLetters": 0, "parkedStreams": 0, "lanes": 1, "pauses": 0, "sheds": 0});
    assert_eq!(
        changes(&database).await,
        [
            json!(["pause", "scripted", null, null, {}]),
            json!(["pause", "scripted", "globex", null, {}]),
            json!(["pause", "scripted", "globex", "globex", {}]),
            json!(["resume", "scripted", "globex", "globex", {"pausesLifted": 1, "lanesResumed": 0}]),
            json!(["resume", "scripted", null, null, {"pausesLifted": 2, "lanesResumed": 1}]),
            json!(["plugins retry", "scripted", null, null, {"plugin": "scripted", "versions": 1}]),
            json!(["plugins retry", null, "acme", null, {"plugin": "acme/own", "versions": 1}]),
            json!(["processors remove", "scripted", null, null, removed]),
        ]
    );
    for record in recorded(&database, &[]).await {
        assert_eq!((&record["who"], &record["role"]), (&json!("ann"), &json!("sandmill")));
        assert!(record["at"].is_string() && record["id"].is_i64(), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_about_set_aside_events_are_recorded() {
    let database = database().await;
    let events = [("letters", "skip"), ("parked", "trap"), ("blocked", "stop")];
    for (tenant, deed) in events {
        database.append(tenant, "s", &[json!({}), json!({"do": deed, "code": "odd"})]).await;
    }
    catch_up(&database, &["scripted"], &["processors.scripted.failures.trap.then=park-stream"]).await;
    for arguments in [
        &["dead-letters", "retry", "scripted", "--tenant", "letters"][..],
        &["dead-letters", "discard", "scripted", "--tenant", "letters", "--yes"],
        &["parked", "drain", "scripted", "--tenant", "parked", "s"],
        &["parked", "discard", "scripted", "--tenant", "parked", "s"],
        &["skip", "scripted", "--tenant", "blocked"],
    ] {
        succeed(&database, arguments).await;
    }
    let letters = json!({"letters": 1, "position": null, "class": null});
    let stream = json!({"stream": "s", "all": false});
    assert_eq!(
        changes(&database).await,
        [
            json!(["dead-letters retry", "scripted", "letters", null, letters]),
            json!(["dead-letters discard", "scripted", "letters", null, letters]),
            json!(["parked drain", "scripted", "parked", null, stream]),
            json!(["parked discard", "scripted", "parked", null, stream]),
            json!(["skip", "scripted", "blocked", "blocked", {"position": 6, "class": "plugin:odd"}]),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_stores_settings_and_rights_are_recorded() {
    let (database, session) = with_blocked_lane().await;
    session.batch_execute("create role audited").await.unwrap();
    for _ in 0..2 {
        for arguments in [
            &["--ordering", "tenant"][..],
            &["--max-event-bytes", "100000"],
            &["--views-schema", "views"],
            &["--grant-append", "audited"],
            &["--grant-read", "audited", "--tenant", "acme"],
        ] {
            succeed(&database, &[&["migrate"], arguments].concat()).await;
        }
    }
    succeed(&database, &["migrate", "--revoke-append", "audited"]).await;
    session.batch_execute("update sandmill.store set system_identifier = system_identifier - 1").await.unwrap();
    succeed(&database, &["migrate", "--reanchor"]).await;
    let checkpoints = "select count(*) from (select progress::text from sandmill.cursors
                       union select progress::text from sandmill.lane_checkpoints) distinct_checkpoints";
    let checkpoints: i64 = session.query_one(checkpoints, &[]).await.unwrap().get(0);
    assert_eq!(
        changes(&database).await,
        [
            json!(["migrate --ordering", null, null, null, {"before": "stream", "now": "tenant"}]),
            json!(["migrate --max-event-bytes", null, null, null, {"before": 4_194_304, "now": 100_000}]),
            json!(["migrate --views-schema", null, null, null, {"before": "public", "now": "views"}]),
            json!(["migrate --grant-append", null, null, null, {"role": "audited"}]),
            json!(["migrate --grant-read", null, "acme", null, {"role": "audited"}]),
            json!(["migrate --revoke-append", null, null, null, {"role": "audited"}]),
            json!(["migrate --reanchor", null, null, null,
                {"events": 3, "checkpoints": checkpoints, "appendedFrom": null}]),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_change_comes_first_and_filters_select_changes() {
    let (database, session) = with_blocked_lane().await;
    for arguments in [
        &["pause", "scripted"][..],
        &["pause", "scripted", "--tenant", "globex"],
        &["pause", "scripted", "--tenant", "acme"],
        &["resume", "scripted", "--tenant", "acme"],
    ] {
        succeed(&database, arguments).await;
    }
    session.batch_execute("update sandmill.audit set at = at - interval '3 hours' where tenant = ''").await.unwrap();
    for (filter, expected) in [
        (&[][..], &[("resume", "acme"), ("pause", "acme"), ("pause", "globex"), ("pause", "")][..]),
        (&["--limit", "1"], &[("resume", "acme")]),
        (&["--tenant", "acme", "--limit", "0"], &[("resume", "acme"), ("pause", "acme")]),
        (&["--processor", "scripted", "--tenant", "globex"], &[("pause", "globex")]),
        (&["--processor", "other"], &[]),
        (&["--since", "2h"], &[("resume", "acme"), ("pause", "acme"), ("pause", "globex")]),
    ] {
        let found = recorded(&database, filter).await;
        let found: Vec<_> =
            found.iter().map(|one| (one["command"].as_str().unwrap(), one["tenant"].as_str().unwrap_or(""))).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let table = succeed(&database, &["audit", "--limit", "1"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["AT", "WHO", "ROLE", "COMMAND", "PROCESSOR", "TENANT", "KEY", "DETAILS"]);
    let details = r#"{"lanesResumed":1,"pausesLifted":1}"#;
    assert_eq!(lines[1][1..], ["ann", "sandmill", "resume", "scripted", "acme", "-", details], "{table}");
    assert_eq!(lines.len(), 2, "{table}");
    let empty = succeed(&database, &["audit", "--processor", "other"]).await;
    assert_eq!(empty, "no change is recorded\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_name_the_user_and_the_host_are_recorded() {
    let (database, _) = with_blocked_lane().await;
    let mut command = sandmill(&database.address);
    command.args(["pause", "scripted"]).env_remove("SANDMILL_OPERATOR").env_remove("SUDO_USER");
    assert!(tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap().status.success());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let who = recorded(&database, &[]).await[0]["who"].as_str().unwrap().to_owned();
    let (user, found) = who.rsplit_once('@').unwrap();
    assert!(!user.is_empty() && found == host.trim(), "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_recorded_is_not_made() {
    let (database, session) = with_blocked_lane().await;
    session
        .batch_execute(
            "insert into sandmill.plugin_holds (plugin, digest, reason) values ('scripted', 'd', 'r');
             insert into sandmill.pauses (processor, tenant, lane_key) values ('scripted', 'globex', '');
             create function public.fail() returns trigger language plpgsql as
             $$ begin raise exception 'nothing is recorded here'; end $$;
             create trigger fail before insert on sandmill.audit for each row execute function public.fail()",
        )
        .await
        .unwrap();
    let state = async || -> String {
        let sql = "select concat_ws(' ',
                     (select count(*) from sandmill.pauses), (select count(*) from sandmill.plugin_holds),
                     (select count(*) from sandmill.processors),
                     (select string_agg(state || resumed, ',') from sandmill.lane_checkpoints))";
        session.query_one(sql, &[]).await.unwrap().get(0)
    };
    let before = state().await;
    for arguments in [
        &["pause", "scripted"][..],
        &["resume", "scripted"],
        &["plugins", "retry", "scripted"],
        &["processors", "remove", "scripted", "--drop-documents", "--yes"],
    ] {
        let output = run(&database, arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains("nothing is recorded here"), "{arguments:?}: {}", stderr(&output));
        assert_eq!(state().await, before, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_kept_for_four_hundred_days() {
    let (database, session) = with_blocked_lane().await;
    session
        .batch_execute(
            "insert into sandmill.audit (who, command, processor, tenant, lane_key, details, at)
             select 'bob', 'pause', 'scripted', '', '', '{}', now() - make_interval(days => d, hours => 1)
             from generate_series(391, 520) d",
        )
        .await
        .unwrap();
    // Nine are young enough. Each change deletes a hundred of the others.
    for (command, left) in [("pause", 9 + 21 + 1), ("resume", 9 + 2)] {
        succeed(&database, &[command, "scripted"]).await;
        assert_eq!(recorded(&database, &["--limit", "0"]).await.len(), left, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_by_a_failure_policy_is_recorded() {
    let database = database().await;
    database.append("acme", "s", &[json!({"do": "trap"})]).await;
    let host = Host::start(&database, &["scripted"], &["processors.scripted.failures.trap.then=stop-processor"]);
    eventually("the processor is paused", async || database.status("scripted").await?.paused).await;
    host.stop().await;
    let records = recorded(&database, &[]).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["who"], "failure policy");
    assert_eq!(changes(&database).await, [json!(["pause", "scripted", null, null, {}])]);
}
