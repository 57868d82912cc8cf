//! Tests of the pool with a simulated server: its bound, its fairness, and lost connections.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use futures_util::FutureExt;

use super::*;

/// A server that counts its connections and bounds their number.
struct Server {
    open: AtomicUsize,
    opened: AtomicUsize,
    room: AtomicUsize,
}

struct Fake {
    server: Arc<Server>,
    serial: usize,
    name: String,
    lost: Arc<AtomicBool>,
}

#[derive(Debug, PartialEq, Eq)]
enum FakeError {
    NoRoom,
    Lost,
}

impl PooledConnection for Fake {
    type Error = FakeError;

    fn is_closed(&self) -> bool {
        false
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), FakeError>> {
        self.name = purpose.into();
        let lost = self.lost.load(SeqCst);
        Box::pin(async move { if lost { Err(FakeError::Lost) } else { Ok(()) } })
    }

    fn is_refusal(error: &FakeError) -> bool {
        *error == FakeError::NoRoom
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, SeqCst);
    }
}

fn pool(max: usize, room: usize) -> (Arc<Server>, Arc<Pool<Fake>>) {
    let server = Arc::new(Server { open: AtomicUsize::new(0), opened: AtomicUsize::new(0), room: room.into() });
    let pool = Pool::new(max, {
        let server = server.clone();
        move |purpose| {
            let server = server.clone();
            Box::pin(async move {
                tokio::task::yield_now().await;
                if server.open.load(SeqCst) >= server.room.load(SeqCst) {
                    return Err(FakeError::NoRoom);
                }
                server.open.fetch_add(1, SeqCst);
                let serial = server.opened.fetch_add(1, SeqCst);
                Ok(Fake { server, serial, name: purpose.to_string(), lost: Arc::default() })
            })
        }
    });
    (server, pool)
}

fn borrower(purpose: &str, groups: &[&str]) -> Borrower {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    Borrower { purpose: purpose.into(), processor: Some(purpose.into()), groups }
}

/// The lease, if it is granted at once.
async fn at_once(pool: &Arc<Pool<Fake>>, borrower: &Borrower) -> Option<Lease<Fake>> {
    for _ in 0..3 {
        let mut lend = std::pin::pin!(pool.lend(borrower));
        for _ in 0..3 {
            if let Some(lease) = lend.as_mut().now_or_never() {
                return lease.ok();
            }
        }
    }
    None
}

#[tokio::test]
async fn a_single_borrower_uses_one_connection() {
    let (server, pool) = pool(8, 8);
    for _ in 0..5 {
        let lease = pool.lend(&borrower("commit a", &["a"])).await.ok().unwrap();
        assert_eq!((lease.serial, &*lease.name), (0, "commit a"));
        lease.give_back();
    }
    assert_eq!(server.open.load(SeqCst), 1);
}

#[tokio::test]
async fn the_bound_holds_and_waiting_borrowers_get_returned_connections() {
    let (server, pool) = pool(3, 99);
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for number in 0..50 {
        let (pool, server, done) = (pool.clone(), server.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let name = format!("commit p{number}");
                let lease = pool.lend(&borrower(&name, &[&name])).await.ok().unwrap();
                assert_eq!(lease.name, name);
                assert!(server.open.load(SeqCst) <= 3);
                tokio::task::yield_now().await;
                // Some of the work fails.
                if (number + round) % 7 > 0 {
                    lease.give_back();
                }
                done.fetch_add(1, SeqCst);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(done.load(SeqCst), 1_000);
    assert!(pool.state().group_slots.is_empty() && pool.waits(Duration::ZERO).is_empty());
}

#[tokio::test]
async fn a_lease_that_is_dropped_closes_its_connection() {
    let (server, pool) = pool(1, 1);
    let a = borrower("a", &[]);
    drop(pool.lend(&a).await.ok().unwrap());
    assert_eq!(server.open.load(SeqCst), 0);
    assert_eq!(pool.lend(&a).await.ok().unwrap().serial, 1);
}

#[tokio::test]
async fn a_group_holds_at_most_half_of_the_slots() {
    let (_, pool) = pool(4, 4);
    let of_acme = |name: &str| borrower(name, &["acme/"]);
    let one = at_once(&pool, &of_acme("a1")).await.unwrap();
    let _two = at_once(&pool, &of_acme("a2")).await.unwrap();
    let third = pool.clone();
    let third = tokio::spawn(async move { third.lend(&of_acme("a3")).await.map(|lease| lease.serial) });
    while pool.waits(Duration::ZERO).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(&*pool.waits(Duration::ZERO)[0].processor, "a3");
    let other = pool.lend(&borrower("b", &["b"])).await.ok().unwrap();
    other.give_back();
    one.give_back();
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_group_that_holds_fewest_slots_is_served_first() {
    let (_, pool) = pool(3, 3);
    let held = pool.lend(&borrower("a1", &["a"])).await.ok().unwrap();
    let others =
        [pool.lend(&borrower("c", &["c"])).await.ok().unwrap(), pool.lend(&borrower("d", &["d"])).await.ok().unwrap()];
    let (order, ordered) =
        (Arc::new(Mutex::new(Vec::new())), |order: &Mutex<Vec<String>>| order.lock().unwrap().clone());
    let mut tasks = Vec::new();
    for (name, group) in [("a2", "a"), ("b", "b")] {
        let (pool, order) = (pool.clone(), order.clone());
        let waiting = pool.waits(Duration::ZERO).len();
        tasks.push(tokio::spawn({
            let pool = pool.clone();
            async move {
                let lease = pool.lend(&borrower(name, &[group])).await.ok().unwrap();
                order.lock().unwrap().push(name.to_string());
                lease.give_back();
            }
        }));
        while pool.waits(Duration::ZERO).len() == waiting {
            tokio::task::yield_now().await;
        }
    }
    let [first, _second] = others;
    first.give_back();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ordered(&order), ["b", "a2"]);
    held.give_back();
}

#[tokio::test]
async fn a_pool_uses_the_connections_it_has_when_the_server_refuses_another() {
    let (server, pool) = pool(4, 2);
    let one = pool.lend(&borrower("a", &["a"])).await.ok().unwrap();
    let two = pool.lend(&borrower("b", &["b"])).await.ok().unwrap();
    let third = tokio::spawn({
        let pool = pool.clone();
        async move { pool.lend(&borrower("c", &["c"])).await.map(|lease| lease.serial) }
    });
    while pool.waits(Duration::ZERO).is_empty() {
        tokio::task::yield_now().await;
    }
    one.give_back();
    third.await.unwrap().unwrap();
    // The third borrower dropped its connection; the second one's is still there.
    drop(two);
    assert_eq!(server.open.load(SeqCst), 0);
    server.room.store(0, SeqCst);
    // Without any connection, each waiting borrower gets the server's error.
    let mut tasks = Vec::new();
    for number in 0..6 {
        let pool = pool.clone();
        let name = format!("p{number}");
        tasks.push(tokio::spawn(async move { pool.lend(&borrower(&name, &[&name])).await.err() }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), Some(FakeError::NoRoom));
    }
}

#[tokio::test]
async fn a_borrower_that_stops_waiting_holds_no_slot() {
    let (server, pool) = pool(1, 1);
    let held = pool.lend(&borrower("a", &["a"])).await.ok().unwrap();
    let impatient = tokio::spawn({
        let pool = pool.clone();
        async move { pool.lend(&borrower("b", &["b"])).await.map(|lease| lease.serial) }
    });
    while pool.waits(Duration::ZERO).is_empty() {
        tokio::task::yield_now().await;
    }
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    assert!(pool.waits(Duration::ZERO).is_empty());
    held.give_back();
    assert_eq!(pool.lend(&borrower("c", &["c"])).await.ok().unwrap().serial, 0, "it is the same connection");
    assert_eq!(server.opened.load(SeqCst), 1);
    assert!(pool.state().group_slots.is_empty());
}

#[tokio::test]
async fn a_connection_that_was_lost_while_idle_is_replaced_for_the_next_borrower() {
    let (server, pool) = pool(1, 1);
    let lease = pool.lend(&borrower("a", &["a"])).await.ok().unwrap();
    lease.lost.store(true, SeqCst);
    lease.give_back();
    let lease = pool.lend(&borrower("b", &["b"])).await.ok().unwrap();
    assert_eq!((lease.serial, &*lease.name), (1, "b"));
    assert_eq!(server.open.load(SeqCst), 1);
}
