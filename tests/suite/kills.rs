// A host that dies: whatever is killed, whenever, documents and cursor stay one.

use std::process::{Child, Stdio};

use sandmill_tests::{
    Database, database,
    host::{eventually, plugins, root, sandmill, stderr},
    ledger::assert_plane_log,
};

use crate::flights::{assert_routes, import, slice};

/// Pages small enough that a slice of flights takes many of them, also where they are four times as large for a processor that is behind.
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

/// What `status` would call handled, told by the cursor: it changes with every committed page.
async fn cursors(database: &Database) -> Vec<String> {
    let session = database.db.connect("test").await.unwrap();
    let rows = session
        .query("select processor || ' ' || progress from sandmill.cursors where bucket = 0 order by 1", &[])
        .await;
    // Before its first start there are no processors, and on a fresh database no tables.
    rows.map(|rows| rows.iter().map(|row| row.get(0)).collect()).unwrap_or_default()
}

/// Twenty times SIGKILL: fifteen from outside right after a page was committed, five inside the commit itself, with COMMIT unsent, on its way,
/// or answered and not yet noticed.
#[tokio::test(flavor = "multi_thread")]
async fn killed_twenty_times_and_nothing_is_lost_repeated_or_torn() {
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
    assert_eq!(kills, 20, "there was work left for every round");
    let last = output(run(&database, folder.path(), None)).await;
    assert!(last.status.success(), "{}", stderr(&last));
    assert_routes(&database, &root().join("example-plugins/data/flights-20000.expected.json")).await;
    assert_plane_log(&database).await;
}

/// Dying at each step between reading and commit leaves documents and cursor as they were, or moves both.
#[tokio::test(flavor = "multi_thread")]
async fn torn_nowhere() {
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

/// Events counted in the documents are exactly those that the cursor has passed, or for a lane that was left behind, its row.
async fn assert_consistent(database: &Database, step: &str) {
    let session = database.db.connect("test").await.unwrap();
    let row = session
        .query_one(
            "with lanes as (select tenant, coalesce(x.progress, c.progress)::text as progress
                            from (select distinct tenant from sandmill.events) t
                              cross join (select progress from sandmill.cursors where bucket = 0) c
                              left join sandmill.exceptions x using (tenant)),
                  passed as (select tenant, split_part(progress, '|', 1)::pg_snapshot a,
                               coalesce(nullif(split_part(progress, '|', 2), ''), split_part(progress, '|', 1))::pg_snapshot b,
                               coalesce(nullif(split_part(progress, '|', 3), ''), '-1')::bigint last
                             from lanes)
             select (select count(*) from sandmill.events e join passed p using (tenant)
                     where pg_visible_in_snapshot(e.xid, p.a) or pg_visible_in_snapshot(e.xid, p.b) and e.position <= p.last),
                    (select coalesce(sum((data->>'flown')::int + (data->>'cancelled')::int), 0) from public.plane_log)",
            &[],
        )
        .await
        .unwrap();
    let (passed, counted): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(passed, counted, "after dying at {step}");
    assert!(passed > 0, "{step}: something was committed before");
}
