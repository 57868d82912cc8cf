// A host that is killed. Documents and cursor stay consistent, no matter at which step it is
// killed.

use std::process::{Child, Stdio};

use sandmill_tests::{
    Database, database,
    host::{eventually, plugins, root, sandmill, stderr},
    ledger::assert_plane_log,
};

use crate::flights::{assert_routes, import, slice};

/// A setting for pages so small that the flights take many of them, even though a page is four
/// times as large for a processor that is behind.
const SMALL_PAGES: &str = "processor.page-events=60";

fn run(database: &Database, folder: &std::path::Path, failpoint: Option<&str>) -> std::process::Command {
    let mut command = sandmill(&database.address);
    command.args(["run", "--until-caught-up", "--set", SMALL_PAGES, "--plugins"]).arg(folder);
    if let Some(failpoint) = failpoint {
        command.env("SANDMILL_FAILPOINT", failpoint);
    }
    command
}

async fn wait(mut child: Child) -> std::process::ExitStatus {
    tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap()
}

async fn output(mut command: std::process::Command) -> std::process::Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// The progress of all processors, which changes with every committed page.
async fn cursors(database: &Database) -> Vec<String> {
    let session = database.db.connect("test").await.unwrap();
    let rows = session.query("select processor || ' ' || progress from sandmill.cursors order by 1", &[]).await;
    // Before the first start there are no processors, and on a fresh database no tables.
    rows.map(|rows| rows.iter().map(|row| row.get(0)).collect()).unwrap_or_default()
}

/// SIGKILL twenty times: fifteen times right after a page was committed, five times inside the
/// commit, with COMMIT unsent, sent, or answered but not yet noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_twenty_times_loses_and_repeats_no_event() {
    let database = database().await;
    import(&database, &slice()).await;
    let folder = plugins(&["route-performance", "plane-log"]);
    let inside = ["commit.written:2", "commit.sent:3", "commit.answered:2", "commit.sent:1", "commit.written:5"];
    let mut kills = 0;
    for round in 0..20 {
        let failpoint = (round % 4 == 3).then(|| inside[round / 4]);
        let before = cursors(&database).await;
        let mut command = run(&database, folder.path(), failpoint);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        if failpoint.is_none() {
            eventually("a page is committed", async || (cursors(&database).await != before).then_some(())).await;
            child.kill().unwrap();
        }
        let status = wait(child).await;
        if std::os::unix::process::ExitStatusExt::signal(&status) == Some(9) {
            kills += 1;
        } else {
            assert!(status.success(), "round {round}: {status}");
        }
    }
    assert_eq!(kills, 20, "every round had work left");
    let last = output(run(&database, folder.path(), None)).await;
    assert!(last.status.success(), "{}", stderr(&last));
    assert_routes(&database, &root().join("example-plugins/data/flights-20000.expected.json")).await;
    assert_plane_log(&database).await;
}

/// The kill comes at each step between the read of a page and its commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_moves_documents_and_cursor_together_or_not_at_all() {
    let database = database().await;
    import(&database, &slice()).await;
    let folder = plugins(&["plane-log"]);
    // Pages are read ahead of what is committed.
    for step in
        ["page.read:9", "lanes.run:3", "commit.begin:3", "commit.written:3", "commit.sent:3", "commit.answered:3"]
    {
        let output = output(run(&database, folder.path(), Some(step))).await;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&output.status),
            Some(9),
            "{step}: {}",
            stderr(&output)
        );
        assert_consistent(&database, step).await;
    }
    assert!(output(run(&database, folder.path(), None)).await.status.success());
    assert_plane_log(&database).await;
}

/// The kill comes while events are shed, or in the commit that counts them.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_shedding_leaves_every_event_either_handled_or_counted_as_shed() {
    let folder = plugins(&["plane-log"]);
    let shed =
        ["--set", "processors.plane-log.back-pressure=shed", "--set", "processors.plane-log.shed-after-events=500"];
    for step in ["shed.read:3", "commit.begin:1", "commit.written:1", "commit.sent:1", "commit.answered:1"] {
        let database = database().await;
        import(&database, &slice()).await;
        let mut command = run(&database, folder.path(), Some(step));
        command.args(shed);
        let killed = output(command).await;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&killed.status),
            Some(9),
            "{step}: {}",
            stderr(&killed)
        );
        let (passed, counted) = passed_and_counted(&database).await;
        assert_eq!(passed, counted, "after a kill at {step}");
        let mut command = run(&database, folder.path(), None);
        command.args(shed);
        let done = output(command).await;
        assert!(done.status.success(), "{step}: {}", stderr(&done));
        let (passed, counted) = passed_and_counted(&database).await;
        let status = database.status("plane-log").await.unwrap();
        let session = database.db.connect("test").await.unwrap();
        let all: i64 = session.query_one("select count(*) from sandmill.events", &[]).await.unwrap().get(0);
        assert_eq!((passed, counted, status.shed), (all, all, all), "{step}: everything was shed");
    }
}

/// Asserts that documents count exactly the events that the cursor has passed, or the row of a lane
/// that was left behind.
async fn assert_consistent(database: &Database, step: &str) {
    let (passed, counted) = passed_and_counted(database).await;
    assert_eq!(passed, counted, "after a kill at {step}");
    assert!(passed > 0, "{step}: nothing was committed before");
}

/// The number of events that the cursor or a lane's row has passed, and the number that documents
/// count or that were shed.
async fn passed_and_counted(database: &Database) -> (i64, i64) {
    let session = database.db.connect("test").await.unwrap();
    let row = session
        .query_one(
            "with lanes as (select tenant, coalesce(x.progress, c.progress)::text as progress
                            from (select distinct tenant from sandmill.events) t
                              cross join (select progress from sandmill.cursors) c
                              left join sandmill.lane_checkpoints x using (tenant)),
                  passed as (select tenant, split_part(progress, '|', 1)::pg_snapshot a,
                               coalesce(nullif(split_part(progress, '|', 2), ''), split_part(progress, '|', 1))::pg_snapshot b,
                               coalesce(nullif(split_part(progress, '|', 3), ''), '-1')::bigint last
                             from lanes)
             select (select count(*) from sandmill.events e join passed p using (tenant)
                     where pg_visible_in_snapshot(e.xid, p.a) or pg_visible_in_snapshot(e.xid, p.b) and e.position <= p.last),
                    (select coalesce(sum((data->>'flown')::int + (data->>'cancelled')::int), 0) from public.plane_log)
                      + (select coalesce(sum(events), 0)::bigint from sandmill.sheds)",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}
