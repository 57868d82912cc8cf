// Lanes behind the tail, which block, wait, are resumed, and rejoin it.

use std::time::{Duration, Instant};

use sandmill::app::Ended;
use sandmill_tests::{
    database,
    host::{Host, catch_up, eventually, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_scripted_log, documents},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_lane_waits_for_a_person_while_other_lanes_continue_and_then_catches_up() {
    let database = database().await;
    let host = Host::start(&database, &["scripted"], &["processor.page-events=7"]);
    // The lane stops again after it was resumed.
    let obstacle = json!({"do": "retry-until-attempt", "n": 1});
    database.append("a", "s", &[json!({}), json!({"do": "stop", "code": "first"}), json!({})]).await;
    database.scripted_settles(&["a blocked plugin:first"]).await;
    for _ in 0..10 {
        database.append("a", "t", &[json!({}), obstacle.clone()]).await;
        database.append("b", "s", &[json!({}), json!({})]).await;
    }
    database.scripted_settles(&["a blocked plugin:first"]).await;
    assert_scripted_log(&database, "e.tenant = 'b' or e.tenant = 'a' and e.stream = 's' and e.version = 1").await;

    // After a resume it stops at the same event again, and nothing is handled twice.
    assert_eq!(database.resume(Some("b")).await, 0);
    assert_eq!(database.resume(Some("a")).await, 1);
    eventually("the lane has retried", async || {
        let status = database.status("scripted").await?;
        let lane = status.lanes_behind.first()?;
        (lane.state == "blocked" && lane.attempts == 2).then_some(())
    })
    .await;
    host.stop().await;

    // Without the obstacle (the test changes the event's script in the log) it rejoins the tail.
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute(r#"update sandmill.events set data = '{}' where data->>'do' = 'stop'"#).await.unwrap();
    database.resume(None).await;
    let host = Host::start(&database, &["scripted"], &["processor.page-events=7"]);
    database.scripted_settles(&[]).await;
    database.append("a", "s", &[json!({})]).await;
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_asks_to_retry_is_retried_until_it_passes() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({"do": "retry-until-attempt", "n": 4}), json!({})]).await;
    database.append("b", "s", &[json!({"do": "retry-after", "ms": 1_000_000, "code": "later"})]).await;
    database.append("c", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&["b retrying plugin:later"]).await;
    // New events of a waiting lane wait with it.
    database.append("b", "s", &[json!({})]).await;
    database.append("c", "s", &[json!({})]).await;
    database.scripted_settles(&["b retrying plugin:later"]).await;
    host.stop().await;
    assert_scripted_log(&database, "e.tenant in ('a', 'c')").await;
}

/// Only the minimum time is checked, because load can lengthen it but not shorten it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_asks_to_retry_at_once_backs_off() {
    let database = database().await;
    let began = Instant::now();
    database.append("a", "s", &[json!({"do": "retry-after", "ms": 0, "code": "now"})]).await;
    database.append("b", "s", &[json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    // Pauses of 200, 400, 800 ms and so on, each shortened by at most a quarter.
    let least = |attempts: i32| (1..attempts).map(|n| Duration::from_millis(150 << (n - 1))).sum::<Duration>();
    let after_attempts = async |times: i32| {
        eventually("the lane has retried", async || {
            database.status("scripted").await?.lanes_behind.pop().filter(|lane| lane.attempts >= times)
        })
        .await
    };
    let lane = after_attempts(4).await;
    assert!(began.elapsed() >= least(lane.attempts), "{} attempts in {:?}", lane.attempts, began.elapsed());
    // The number of attempts survives the host, and so does the pause that follows from it.
    host.stop().await;
    let host = Host::start(&database, &["scripted"], &[]);
    let lane = after_attempts(lane.attempts + 1).await;
    assert_eq!(lane.state, "retrying");
    assert!(began.elapsed() >= least(lane.attempts), "{} attempts in {:?}", lane.attempts, began.elapsed());
    host.stop().await;
    assert_scripted_log(&database, "e.tenant = 'b'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_events_become_dead_letters_and_their_lane_continues() {
    let database = database().await;
    let skip = json!({"do": "skip", "code": "odd", "message": "not for me"});
    database.append("a", "s", &[json!({}), skip.clone(), json!({}), skip, json!({"do": "remove"}), json!({})]).await;
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(ended, Ended::CaughtUp { .. }), "{ended:?}");
    let session = database.db.connect("test").await.unwrap();
    let rows = session
        .query("select position, tenant, class, message, attempts from sandmill.dead_letters order by position", &[])
        .await
        .unwrap();
    let letters: Vec<(i64, &str, &str, &str, i32)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect();
    assert_eq!(letters, [(2, "a", "plugin:odd", "not for me", 1), (4, "a", "plugin:odd", "not for me", 1)]);
    let status = database.status("scripted").await.unwrap();
    let last = status.last_dead_letter.unwrap();
    assert_eq!((status.dead_letters, last.position, last.reason.as_str()), (2, 4, "plugin:odd: not for me"));
    // The fifth event removed the document, and the last one inserted it again.
    let documents = documents(&database, "scripted_log").await;
    assert_eq!(documents[&("a".into(), "s".into())]["count"], json!(1));
}

/// A reason quotes the guest, and is stored in the same commit as the results of other lanes.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_byte_in_a_reason_does_not_break_the_commit_of_other_lanes() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({"do": "nul-collection"}), json!({})]).await;
    database.append("b", "s", &[json!({}), json!({})]).await;
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(&ended, Ended::Blocked(lanes) if lanes.len() == 1), "{ended:?}");
    let status = database.status("scripted").await.unwrap();
    assert!(status.lanes_behind[0].reason.contains("`some\u{fffd}body`"), "{:?}", status.lanes_behind);
    assert_scripted_log(&database, "e.tenant = 'b' or e.version = 1").await;
}

/// The host ends in different ways. None of the lane's events is handled until it is resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_lane_stays_blocked_across_restarts() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({"do": "trap"}), json!({})]).await;
    database.append("b", "s", &[json!({})]).await;
    for _ in 0..2 {
        let ended = catch_up(&database, &["scripted"], &[]).await;
        assert!(matches!(&ended, Ended::Blocked(lanes) if lanes.len() == 1), "{ended:?}");
        database.append("a", "s", &[json!({})]).await;
        database.append("b", "s", &[json!({})]).await;
    }
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&["a blocked trap"]).await;
    host.abort().await;
    assert_scripted_log(&database, "e.tenant = 'b' or e.version = 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_names_blocked_lanes_and_resumes_them() {
    let database = database().await;
    database.append("acme", "s", &[json!({"do": "stop", "code": "closed", "message": "call Ann"})]).await;
    let folder = sandmill_tests::host::plugins(&["scripted"]);
    let address = database.address.clone();
    let outputs = tokio::task::spawn_blocking(move || {
        let mut run = sandmill(&address);
        run.args(["run", "--until-caught-up", "--plugins"]).arg(folder.path());
        let commands: [&[&str]; 6] = [
            &["status"],
            &["status", "--json"],
            &["resume", "scripted", "--tenant", "acme"],
            &["resume", "scripted"],
            &["resume", "nobody"],
            &["documents", "nothing"],
        ];
        let mut outputs = vec![run.output().unwrap()];
        outputs.extend(commands.iter().map(|arguments| sandmill(&address).args(*arguments).output().unwrap()));
        outputs
    })
    .await
    .unwrap();
    let [run, table, json, first, second, nobody, nothing] = &outputs[..] else { unreachable!() };
    assert_eq!(run.status.code(), Some(4), "{}", stderr(run));
    assert!(
        stderr(run).contains("blocked: processor scripted, tenant acme: plugin:closed: call Ann\n"),
        "{}",
        stderr(run)
    );
    assert!(stdout(table).contains("plugin:closed: call Ann"), "{}", stdout(table));
    let status: Value = serde_json::from_str(&stdout(json)).unwrap();
    let processor = &status["processors"][0];
    assert_eq!((&processor["id"], &processor["unreadEvents"]), (&json!("scripted"), &json!(0)));
    assert_eq!((&processor["lagEvents"], &processor["lagEventsAtLeast"]), (&json!(1), &json!(true)));
    let lane = &processor["lanesBehind"][0];
    assert_eq!((&lane["tenant"], &lane["key"], &lane["state"]), (&json!("acme"), &json!("acme"), &json!("blocked")));
    assert_eq!(stdout(first), "resumed 1 lane of scripted\n");
    assert_eq!(stdout(second), "no lane of scripted was blocked or paused\n");
    assert_eq!(
        stderr(nobody),
        "error: there is no processor `nobody`; the nearest is `scripted`; `sandmill processors list` lists all\n"
    );
    assert_eq!(stderr(nothing), "error: there is no collection `nothing`; existing collections: scripted_log\n");
}

/// A pause survives restarts, other lanes continue, and paused lanes catch up after a resume.
#[tokio::test(flavor = "multi_thread")]
async fn paused_tenants_and_processors_wait_until_they_are_resumed() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({})]).await;
    let host = Host::start(&database, &["scripted"], &["processor.page-events=3"]);
    database.scripted_settles(&[]).await;
    let cli = async |arguments: &'static [&'static str]| {
        let mut command = sandmill(&database.address);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(cli(&["pause", "scripted", "--tenant", "a"]).await, "paused tenant a of scripted\n");
    assert_eq!(cli(&["pause", "scripted", "--tenant", "a"]).await, "already paused: tenant a of scripted\n");
    // Until the host has noticed the pause, events of the tenant may still be handled.
    eventually("the tenant waits", async || {
        database.append("a", "s", &[json!({})]).await;
        (database.lanes_behind("scripted").await == ["a paused paused"]).then_some(())
    })
    .await;
    let session = database.db.connect("test").await.unwrap();
    let count =
        async || documents(&database, "scripted_log").await[&("a".to_string(), "s".to_string())]["count"].clone();
    let handled = count().await;
    for _ in 0..5 {
        database.append("a", "s", &[json!({})]).await;
        database.append("b", "s", &[json!({}), json!({})]).await;
    }
    database.scripted_settles(&["a paused paused"]).await;
    assert_eq!(count().await, handled);
    host.stop().await;
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(&ended, Ended::Blocked(lanes) if lanes.len() == 1), "{ended:?}");
    assert_eq!(count().await, handled);

    // The whole processor, in addition to the tenant.
    assert_eq!(cli(&["pause", "scripted"]).await, "paused scripted\n");
    database.append("b", "s", &[json!({})]).await;
    let ended = catch_up(&database, &["scripted"], &[]).await;
    assert!(matches!(&ended, Ended::Blocked(lanes) if lanes.iter().any(|lane| lane.lane.is_none())), "{ended:?}");
    assert!(database.status("scripted").await.unwrap().lag_events >= 1);
    assert!(cli(&["status"]).await.contains("scripted is paused by sandmill since "));

    let host = Host::start(&database, &["scripted"], &["processor.page-events=3"]);
    assert!(cli(&["resume", "scripted"]).await.starts_with("lifted 2 pauses and resumed 1 lane of scripted"));
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
    let pauses: i64 = session.query_one("select count(*) from sandmill.pauses", &[]).await.unwrap().get(0);
    assert_eq!(pauses, 0);
}

/// A batch that reads too much passes in parts. A single event that reads too much blocks its lane.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_reads_too_much_at_once_reads_in_parts() {
    let database = database().await;
    for (tenant, streams) in [("parts", ["a", "b"]), ("huge", ["a", "b"]), ("other", ["a", "b"])] {
        for stream in streams {
            database.append(tenant, stream, &[json!({})]).await;
        }
    }
    assert!(matches!(catch_up(&database, &["scripted"], &[]).await, Ended::CaughtUp { rejected: 0 }));
    let session = database.db.connect("test").await.unwrap();
    let pad = "update public.scripted_log
               set data = data || jsonb_build_object('pad', repeat('x', case _partition when 'parts' then 600000 when 'huge' then 1200000 else 6 end))";
    session.batch_execute(pad).await.unwrap();
    for tenant in ["parts", "huge", "other"] {
        // Both appends are in one transaction, and so in one batch.
        let append = "select * from unnest(array['a', 'b']) stream, sandmill.append($1, stream, '{Scripted}', '{\"{}\"}'::json[])";
        session.execute(append, &[&tenant]).await.unwrap();
    }
    let ended = catch_up(&database, &["scripted"], &["processor.read-mib=1"]).await;
    assert!(matches!(&ended, Ended::Blocked(lanes) if lanes.len() == 1), "{ended:?}");
    assert_eq!(database.lanes_behind("scripted").await, ["huge blocked document-unreadable"]);
    assert_scripted_log(&database, "e.tenant <> 'huge' or e.version = 1").await;
    // With a larger bound it passes.
    database.resume(None).await;
    catch_up(&database, &["scripted"], &["processor.read-mib=4"]).await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

/// The results exceed both the bound of a commit and the bound of uncommitted results.
#[tokio::test(flavor = "multi_thread")]
async fn large_results_of_many_lanes_are_committed_in_several_commits() {
    let database = database().await;
    let giant = json!({"do": "giant", "mib": 1});
    for round in 0..3 {
        for tenant in 0..6 {
            let events = if tenant % 2 == 0 { vec![giant.clone(), json!({})] } else { vec![json!({}); 20] };
            database.append(&format!("t{tenant}"), &format!("s{round}"), &events).await;
        }
    }
    let settings = ["processor.commit-mib=1", "processor.waiting-mib=1", "limits.document-kib=2048"];
    let ended = catch_up(&database, &["scripted"], &settings).await;
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
    let session = database.db.connect("test").await.unwrap();
    let giants =
        "with removed as (delete from public.scripted_log where _id = 'x' returning length(data->>'a') as length)
                  select count(*), min(length)::int8 from removed";
    let row = session.query_one(giants, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3, 1 << 20));
    assert_scripted_log(&database, EVERY_EVENT).await;
}
