//! Concurrent writers, with an open transaction that holds an xid from before the first append: no
//! event is lost, repeated or reordered, and none waits for that transaction. A naive follower of
//! positions must lose events here; otherwise the test proves nothing.

use sandmill::{
    db::{Db, Session},
    source::native::Native,
};
use sandmill_tests::{
    BEGIN, database,
    follower::{Follower, assert_each_once, assert_streams_in_order},
    host::Host,
    ledger::{EVERY_EVENT, assert_plane_log, assert_scripted_log, until_folded},
    random::Random,
    writers::Writers,
};

const WRITERS: usize = 8;

/// Opens a transaction that stays open.
async fn hold_an_xid(db: &Db) -> Session {
    let session = db.connect("forgotten").await.unwrap();
    session.batch_execute(&format!("{BEGIN}; select pg_current_xact_id()")).await.unwrap();
    session
}

/// The naive follower, whose cursor is the highest position so far.
struct Naive {
    session: Session,
    last: i64,
    seen: Vec<String>,
}

impl Naive {
    async fn read(&mut self) {
        let sql = "select position, id from sandmill.events where position > $1 order by position limit 500";
        for row in self.session.query(sql, &[&self.last]).await.unwrap() {
            self.last = row.get(0);
            self.seen.push(row.get(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_every_event_once_while_a_naive_one_loses_some() {
    let mut random = Random::seeded();
    // A few rounds usually suffice: in each, hundreds of transactions commit in a
    // different order from the one in which they drew their positions.
    for _ in 0..5 {
        let database = database().await;
        let forgotten = hold_an_xid(&database.db).await;
        let mut follower = Follower::from_the_beginning(&Native::new(database.db.clone())).await;
        let mut naive = Naive { session: database.db.connect("naive").await.unwrap(), last: 0, seen: Vec::new() };
        let writers = Writers::start(&database.db, &mut random, WRITERS, 60);
        let mut seen = Vec::new();
        while !writers.have_ended() {
            seen.extend(follower.page(1 + random.below(40)).await);
            naive.read().await;
        }
        let live = seen.len();
        let committed = writers.join().await;
        seen.extend(follower.rest(40).await);
        naive.read().await;
        // The forgotten transaction is still open.
        assert_each_once(&seen, &committed);
        assert_streams_in_order(&seen);
        assert!(live > 0, "the follower saw nothing while the writers ran");
        drop(forgotten);
        let lost = committed.len() - naive.seen.len();
        println!("{} events; the naive follower lost {lost}", committed.len());
        if lost > 0 {
            return;
        }
    }
    panic!("the naive follower lost nothing, so these writers prove nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_folds_every_event_once() {
    let mut random = Random::seeded();
    let database = database().await;
    let forgotten = hold_an_xid(&database.db).await;
    // Pages smaller than differences.
    let host = Host::start(&database, &["scripted", "plane-log"], &["processor.page-events=20"]);
    let writers = Writers::start(&database.db, &mut random, WRITERS, 80);
    assert!(!writers.join().await.is_empty());
    until_folded(&database).await;
    host.stop().await;
    drop(forgotten);
    assert_scripted_log(&database, EVERY_EVENT).await;
    assert_plane_log(&database).await;
}
