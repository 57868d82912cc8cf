//! A store that was restored into another cluster. Hosts reject it until it is re-anchored; then
//! every processor and lane continues exactly where it stopped.

mod appended_since;

use std::{collections::BTreeMap, process::Command};

use sandmill::{
    app::Ended,
    db::{
        Db, Session,
        embedded::{Embedded, Options},
        migrate,
    },
    model::{
        cursor::{Progress, Snapshot},
        ids::TenantId,
    },
    source::native::Native,
    store::anchor::{AnchorError, HISTORY, RENUMBERED, ReanchorError, check, reanchor},
};
use sandmill_client::{Append, NewEvent, append};
use sandmill_tests::{
    BEGIN, Database, database,
    follower::{Follower, assert_each_once, assert_streams_in_order, ids},
    host::{catch_up, plugins, sandmill, stderr, stdout},
    ledger::{assert_plane_log, assert_scripted_log},
    until,
};

async fn migrated(server: &Embedded) -> Database {
    let address = server.address();
    let db = Db::parse(&address).unwrap();
    migrate::migrate(&mut db.connect("test").await.unwrap()).await.unwrap();
    Database { db, address }
}

async fn use_up_xids(database: &Database, xids: u32) {
    let sql = format!("do $$ begin for i in 1..{xids} loop perform pg_current_xact_id(); commit; end loop; end $$");
    let session = database.db.connect("test").await.unwrap();
    session.batch_execute("set synchronous_commit = off").await.unwrap();
    session.batch_execute(&sql).await.unwrap();
}

/// Dumps a database and restores it on another server, with the tools of the server's installation.
async fn restore(from: &Database, server: &Embedded) -> Database {
    let session = from.db.connect("test").await.unwrap();
    let sql = "select setting from pg_config where name = 'BINDIR'";
    let programs: String = session.query_one(sql, &[]).await.unwrap().get(0);
    server.create_database("restored", None).await.unwrap();
    let address = server.address_of("restored");
    let dump = tempfile::NamedTempFile::new().unwrap();
    let run = |program: &str, arguments: &[&str], address: &str| {
        let mut command = Command::new(format!("{programs}/{program}"));
        let output = command.args(arguments).arg(dump.path()).args(["-d", address]).output().unwrap();
        assert!(output.status.success(), "{program}: {}", stderr(&output));
    };
    run("pg_dump", &["-f"], &from.address);
    run("psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f"], &address);
    Database { db: Db::parse(&address).unwrap(), address }
}

async fn append_to(session: &Session, tenant: &str, stream: &str, count: usize) -> Vec<String> {
    let events = (0..count).map(|_| NewEvent::new("Happened", "{}"));
    let appended = append(&**session, &Append::to(tenant, stream).events(events)).await.unwrap();
    appended.into_iter().map(|event| event.id).collect()
}

/// A store with processors that are named after their progress, and lanes behind one of them.
struct Store {
    database: Database,
    /// The unhandled events of each processor.
    rest: BTreeMap<String, Vec<String>>,
    /// The unhandled events of each lane up to its processor's cursor.
    lanes: BTreeMap<String, Vec<String>>,
}

/// The processor with lanes behind its cursor, and the progress of those lanes.
const AHEAD: &str = "at-a-boundary";
const BEHIND: [(&str, &str); 2] = [("acme", "inside-a-difference"), ("globex", "beside-an-open-transaction")];

impl Store {
    /// Appends events beside open transactions, and writes rows of processors and lanes at every
    /// kind of progress.
    async fn make(database: Database) -> Store {
        let source = Native::new(database.db.clone());
        let (writer, slow) = (database.db.connect("test").await.unwrap(), database.db.connect("test").await.unwrap());
        let nothing = Progress::at(Snapshot::nothing());
        let mut places = BTreeMap::from([("at-the-beginning".to_string(), nothing.clone())]);
        append_to(&writer, "acme", "a", 5).await;
        append_to(&writer, "globex", "a", 5).await;
        slow.batch_execute(BEGIN).await.unwrap();
        append_to(&slow, "acme", "slow", 2).await;
        append_to(&slow, "globex", "slow", 2).await;
        append_to(&writer, "acme", "b", 3).await;
        let mut follower = Follower::at(&source, &nothing).await;
        follower.page(4).await;
        places.insert("early-in-history".into(), follower.progress());
        follower.rest(100).await;
        places.insert("beside-an-open-transaction".into(), follower.progress());
        append_to(&writer, "globex", "b", 4).await;
        append_to(&writer, "acme", "a", 4).await;
        slow.batch_execute(&format!("commit; {BEGIN}")).await.unwrap();
        append_to(&slow, "acme", "never", 1).await;
        follower.page(6).await;
        assert!(!follower.progress().is_boundary());
        places.insert("inside-a-difference".into(), follower.progress());
        append_to(&writer, "initech", "a", 2).await;
        slow.batch_execute("rollback").await.unwrap();
        follower.rest(100).await;
        places.insert(AHEAD.into(), follower.progress());
        append_to(&writer, "acme", "b", 2).await;
        append_to(&writer, "globex", "c", 3).await;

        let mut store = Store { rest: BTreeMap::new(), lanes: BTreeMap::new(), database };
        for (name, progress) in &places {
            let sql = "with p as (insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
                                  values ($1, $1, '', '', '', 'tenant', 1) returning id),
                            g as (insert into sandmill.generations select id, 1, 'serving' from p returning *)
                       insert into sandmill.cursors (processor, generation, share, first_bucket, last_bucket, progress, fence)
                       select processor, generation, 0, 0, 15, $2::text, 'a token' from g";
            // Foreign keys are checked when the statement ends.
            writer.execute(sql, &[name, &progress.to_string()]).await.unwrap();
        }
        for (tenant, place) in BEHIND {
            let sql =
                "insert into sandmill.lane_checkpoints (processor, generation, bucket, tenant, lane_key, progress, state, reason)
                       values ($1, 1, 3, $2, $2, $3::text, 'blocked', 'for a test')";
            writer.execute(sql, &[&AHEAD, &tenant, &places[place].to_string()]).await.unwrap();
        }
        (store.rest, store.lanes) = store.unhandled().await;
        assert_eq!(store.lanes.values().map(Vec::len).collect::<Vec<_>>(), [4, 6]);
        store
    }

    /// The unhandled events according to the rows in the database.
    async fn unhandled(&self) -> (BTreeMap<String, Vec<String>>, BTreeMap<String, Vec<String>>) {
        let source = Native::new(self.database.db.clone());
        let session = self.database.db.connect("test").await.unwrap();
        let (mut rest, mut lanes) = (BTreeMap::new(), BTreeMap::new());
        let sql = "select processor, progress::text from sandmill.cursors";
        for row in session.query(sql, &[]).await.unwrap() {
            let progress: Progress = row.get::<_, &str>(1).parse().unwrap();
            let events = Follower::at(&source, &progress).await.rest(7).await;
            assert_streams_in_order(&events);
            rest.insert(row.get(0), sorted(ids(&events)));
        }
        let sql = "select e.tenant, e.progress::text, c.progress::text from sandmill.lane_checkpoints e
                   join sandmill.cursors c using (processor, generation)";
        for row in session.query(sql, &[]).await.unwrap() {
            let (from, to) = (row.get::<_, &str>(1).parse().unwrap(), row.get::<_, &str>(2).parse().unwrap());
            let tenant = TenantId::parse(row.get(0)).unwrap();
            let mut follower = Follower::from_the_beginning(&source).await;
            let events = follower.tenants_part(&tenant, &from, &to, 2).await;
            assert_streams_in_order(&events);
            lanes.insert(tenant.to_string(), sorted(ids(&events)));
        }
        (rest, lanes)
    }

    /// Asserts that the unhandled events are those of `original` and the events appended `since`.
    async fn assert_same(&self, original: &Store, since: &[String]) {
        let (rest, lanes) = self.unhandled().await;
        let expected = |ids: &Vec<String>| sorted([ids, since].concat());
        assert_eq!(rest, original.rest.iter().map(|(name, ids)| (name.clone(), expected(ids))).collect());
        assert_eq!(lanes, original.lanes);
    }
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

/// Restores a store of a cluster that has used up `old` xids in one that has used up `new` xids.
async fn every_progress_survives(old: u32, new: u32) {
    let (one, two) =
        (Embedded::start(Options::default()).await.unwrap(), Embedded::start(Options::default()).await.unwrap());
    let origin = migrated(&one).await;
    use_up_xids(&origin, old).await;
    let original = Store::make(origin).await;
    let other = migrated(&two).await;
    use_up_xids(&other, new).await;
    let database = restore(&original.database, &two).await;
    let store = Store { database, rest: BTreeMap::new(), lanes: BTreeMap::new() };
    let db = &store.database.db;
    let mut session = db.connect("test").await.unwrap();

    let error = check(&session).await.unwrap_err();
    assert!(matches!(error, AnchorError::OtherCluster { .. }), "{error}");
    assert!(error.to_string().contains("sandmill migrate --reanchor"), "{error}");

    // A transaction that begins before the re-anchoring and appends after it.
    let unrelated = db.connect("test").await.unwrap();
    unrelated.batch_execute(&format!("{BEGIN}; select pg_current_xact_id()")).await.unwrap();
    let done = reanchor(&mut session, None, "ann").await.unwrap();
    assert_eq!((done.events, done.checkpoints), (32, 4));
    check(&session).await.unwrap();
    store.assert_same(&original, &[]).await;
    let fences = "select count(distinct fence), count(*) filter (where fence = 'a token') from sandmill.cursors";
    let row = session.query_one(fences, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (5, 0));

    let mut since = append_to(&session, "acme", "a", 2).await;
    let mut follower = Follower::at(&Native::new(db.clone()), &session_progress(&session, AHEAD).await).await;
    let before = follower.rest(3).await;
    since.extend(append_to(&unrelated, "acme", "c", 2).await);
    unrelated.batch_execute("commit").await.unwrap();
    let after = follower.rest(3).await;
    let expected = [&original.rest[AHEAD][..], &since].concat();
    assert_each_once(&[before, after].concat(), &expected);
    store.assert_same(&original, &since).await;

    // A second re-anchoring changes nothing.
    reanchor(&mut session, None, "ann").await.unwrap();
    store.assert_same(&original, &since).await;
}

async fn session_progress(session: &Session, processor: &str) -> Progress {
    let sql = "select progress::text from sandmill.cursors where processor = $1";
    session.query_one(sql, &[&processor]).await.unwrap().get::<_, &str>(0).parse().unwrap()
}

#[tokio::test]
async fn a_store_can_be_reanchored_in_a_cluster_with_lower_xids() {
    every_progress_survives(5_000, 0).await;
}

#[tokio::test]
async fn a_store_can_be_reanchored_in_a_cluster_with_higher_xids() {
    every_progress_survives(0, 5_000).await;
}

/// A column that re-anchoring does not know would keep xids of the former cluster.
#[tokio::test]
async fn reanchoring_knows_every_column_with_xids() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let sql = "select c.relname::text, a.attname::text
               from pg_attribute a
               join pg_class c on c.oid = a.attrelid
               join pg_type t on t.oid = a.atttypid
               where c.relnamespace = 'sandmill'::regnamespace and c.relkind in ('r', 'p')
                 and a.attnum > 0 and not a.attisdropped
                 and (t.oid = 'sandmill.progress'::regtype
                      or t.typname in ('xid', 'xid8', 'pg_snapshot', 'txid_snapshot'))
               order by 1, 2";
    let found = session.query(sql, &[]).await.unwrap();
    let found: Vec<(&str, &str)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut known = [&RENUMBERED[..], &HISTORY[..]].concat();
    known.sort_unstable();
    assert_eq!(found, known);
}

/// The same with hosts, documents, a blocked lane, and the command line.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_continues_in_another_cluster() {
    let (one, two) =
        (Embedded::start(Options::default()).await.unwrap(), Embedded::start(Options::default()).await.unwrap());
    let origin = migrated(&one).await;
    let writer = origin.db.connect("test").await.unwrap();
    let stop = Append::to("stuck", "s").event(NewEvent::new("Happened", r#"{"do":"stop"}"#));
    append(&*writer, &stop).await.unwrap();
    let flight =
        |tenant: &str| Append::to(tenant, "plane-1").events((0..30).map(|_| NewEvent::new("FlightFlown", "{}")));
    for tenant in ["acme", "globex"] {
        append(&*writer, &flight(tenant)).await.unwrap();
    }
    let ended = catch_up(&origin, &["scripted", "plane-log"], &["processor.page-events=20"]).await;
    assert!(matches!(ended, Ended::Blocked(ref lanes) if lanes.len() == 1), "{ended:?}");
    append(&*writer, &flight("acme")).await.unwrap();
    append(&*writer, &flight("stuck")).await.unwrap();

    let restored = restore(&origin, &two).await;
    let folder = plugins(&["scripted"]);
    let run = |arguments: &[&str]| sandmill(&restored.address).args(arguments).output().unwrap();
    let folder = folder.path().to_str().unwrap();
    let output = run(&["run", "--until-caught-up", "--plugins", folder]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("sandmill migrate --reanchor"), "{}", stderr(&output));
    let done = run(&["migrate", "--reanchor"]);
    assert!(stdout(&done).contains("re-anchored 121 events"), "{}{}", stdout(&done), stderr(&done));
    assert!(stdout(&run(&["migrate", "--reanchor"])).contains("nothing to re-anchor"));

    append(&*restored.db.connect("test").await.unwrap(), &flight("globex")).await.unwrap();
    let ended = catch_up(&restored, &["scripted", "plane-log"], &["processor.page-events=20"]).await;
    assert!(matches!(ended, Ended::Blocked(ref lanes) if lanes.len() == 1), "{ended:?}");
    assert_scripted_log(&restored, "e.tenant <> 'stuck'").await;
    assert_plane_log(&restored).await;
}

#[tokio::test]
async fn future_xids_are_rejected_and_a_working_host_prevents_reanchoring() {
    let database = database().await;
    let store = Store::make(database.clone()).await;
    let mut session = database.db.connect("test").await.unwrap();
    check(&session).await.unwrap();

    session.batch_execute("update sandmill.store set system_identifier = 1").await.unwrap();
    let lock = sandmill::cluster::host_lock::HostLock::acquire(&database.db, std::time::Duration::ZERO).await.unwrap();
    let error = reanchor(&mut session, None, "ann").await.unwrap_err();
    assert!(matches!(error, ReanchorError::Lock(_)), "{error}");
    drop(lock);
    until("the lock's session has ended", async || {
        let held = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";
        session.query_one(held, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    session
        .batch_execute(
            "update sandmill.store set system_identifier = (select system_identifier from pg_control_system())",
        )
        .await
        .unwrap();

    let future = "9000000000000000000";
    let sql = format!("update sandmill.cursors set progress = '1:1:|{future}:{future}:|5' where processor = '{AHEAD}'");
    session.batch_execute(&sql).await.unwrap();
    let error = check(&session).await.unwrap_err();
    assert!(matches!(&error, AnchorError::ProgressAhead { processor, .. } if processor == AHEAD), "{error}");
    session.batch_execute(&format!("delete from sandmill.processors where id = '{AHEAD}'")).await.unwrap();
    check(&session).await.unwrap();

    let sql = format!("update sandmill.events set xid = '{future}' where position = 3");
    session.batch_execute(&sql).await.unwrap();
    let error = check(&session).await.unwrap_err();
    assert!(matches!(error, AnchorError::EventAhead { position: 3, .. }), "{error}");
    // With this xid no processor has handled that event.
    reanchor(&mut session, None, "ann").await.unwrap();
    check(&session).await.unwrap();
    let (rest, _) = store.unhandled().await;
    assert_eq!(rest["inside-a-difference"].len(), store.rest["inside-a-difference"].len() + 1);
}
