//! A bounded pool of connections that processors share.
//!
//! A borrower holds a connection (a [`Lease`]) for one piece of work, and gives it back after
//! success. Dropping a lease closes its connection, because the last statement may have left the
//! session in any state. So a lost connection ends exactly the work that used it.
//!
//! - **Bound.** A pool never has more connections than slots. If the server refuses another one,
//!   the pool uses those it has for a while; without any, it fails.
//! - **Home.** Each borrower tries one slot first, its home. That connection usually still has the
//!   statements that the borrower prepared.
//! - **Fairness.** A borrower belongs to groups (a tenant, for instance), and no group holds more
//!   than half of the slots. The waiting borrower whose group holds fewest slots is served first,
//!   then the one that has waited longest.
//! - **Cancellation.** A borrower that stops waiting leaves no entry in the queue and no slot in
//!   use.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::model::{handler::BoxFuture, ids::ProcessorId};

/// Time for which a pool opens no connection after the server refused one. 5 s: other clients
/// rarely close their connections sooner.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// A connection of a pool.
pub trait PooledConnection: Send + Sized + 'static {
    /// The error of opening or using it.
    type Error: Send;

    /// Whether it is known to be lost.
    fn is_closed(&self) -> bool;

    /// Sets the purpose that `pg_stat_activity` shows.
    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), Self::Error>>;

    /// Whether the server refused the connection because it has too many.
    fn is_refusal(error: &Self::Error) -> bool;
}

/// A borrower of connections.
#[derive(Clone, Debug)]
pub struct Borrower {
    /// Its purpose, as `pg_stat_activity` shows it.
    pub purpose: Arc<str>,
    /// The processor that is reported as waiting while this borrower waits; none for work of the
    /// host itself.
    pub processor: Option<Arc<str>>,
    /// Its groups. All members of a group together hold at most half of the slots. The first group
    /// decides when the borrower is served.
    pub groups: Vec<Arc<str>>,
}

impl Borrower {
    /// A borrower for one kind of a processor's work. All of a tenant's own processors are one
    /// group; each shared processor is a group of one.
    pub fn of(processor: &ProcessorId, purpose: &str) -> Self {
        let group = match processor.owner() {
            Some(tenant) => format!("{tenant}/").into(),
            None => processor.as_str().into(),
        };
        let purpose = format!("{purpose} {processor}").into();
        Borrower { purpose, processor: Some(processor.as_str().into()), groups: vec![group] }
    }

    /// A borrower for work of the host that belongs to no processor.
    pub fn host(purpose: &str) -> Self {
        Borrower { purpose: purpose.into(), processor: None, groups: Vec::new() }
    }

    /// Its home slot. The hash is not seeded, so the home is the same in each run.
    fn home(&self, slots: usize) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&*self.purpose);
        (hash % slots.max(1) as u64) as usize
    }
}

/// Opens a connection for a purpose.
type Open<T> = Box<dyn Fn(Arc<str>) -> BoxFuture<'static, Result<T, <T as PooledConnection>::Error>> + Send + Sync>;

/// A bounded number of connections of one kind.
pub struct Pool<T: PooledConnection> {
    open: Open<T>,
    state: Mutex<PoolState<T>>,
}

struct PoolState<T: PooledConnection> {
    slots: Vec<Slot<T>>,
    /// The number of slots that each group holds.
    group_slots: HashMap<Arc<str>, usize>,
    waiting: VecDeque<PoolWaiter<T>>,
    /// The time of the last refusal by the server.
    refused_at: Option<Instant>,
}

enum Slot<T> {
    Closed,
    Opening,
    Lent,
    /// The connection, and the purpose of its last lease.
    Idle(T, Arc<str>),
}

/// A borrower that waits for a lease.
struct PoolWaiter<T: PooledConnection> {
    borrower: Borrower,
    since: Instant,
    lease: oneshot::Sender<Lease<T>>,
}

/// A lent connection, or the right to open one. Dropping it closes the connection.
pub struct Lease<T: PooledConnection> {
    pool: Arc<Pool<T>>,
    number: usize,
    groups: Vec<Arc<str>>,
    purpose: Arc<str>,
    connection: Option<T>,
    /// Whether the slot was returned already.
    returned: bool,
}

/// A processor's wait for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionWait {
    /// The processor's id.
    pub processor: Arc<str>,
    /// The duration so far.
    pub waited: Duration,
}

impl<T: PooledConnection> Pool<T> {
    /// A pool of at most `max_connections` connections, but at least one. It opens them on demand.
    pub fn new(
        max_connections: usize,
        open: impl Fn(Arc<str>) -> BoxFuture<'static, Result<T, T::Error>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let slots = (0..max_connections.max(1)).map(|_| Slot::Closed).collect();
        let state = PoolState { slots, group_slots: HashMap::new(), waiting: VecDeque::new(), refused_at: None };
        Arc::new(Pool { open: Box::new(open), state: Mutex::new(state) })
    }

    /// Lends a connection as soon as one is free. Fails if the server refuses one and the pool has
    /// no other.
    pub async fn lend(self: &Arc<Self>, borrower: &Borrower) -> Result<Lease<T>, T::Error> {
        loop {
            let granted = self.state().request(self, borrower, Instant::now());
            let lease = match granted {
                Ok(lease) => lease,
                // The pool outlives its borrowers, so a lease is always sent.
                Err(wait) => match wait.await {
                    Ok(lease) => lease,
                    Err(_) => continue,
                },
            };
            match self.make_ready(lease, borrower).await {
                Err(error) if T::is_refusal(&error) && self.state().record_refusal(Instant::now()) => {}
                ready => return ready,
            }
        }
    }

    /// Opens the connection of a lease, if it has none, and names it for its borrower.
    async fn make_ready(&self, mut lease: Lease<T>, borrower: &Borrower) -> Result<Lease<T>, T::Error> {
        let same = lease.purpose == borrower.purpose;
        lease.purpose = borrower.purpose.clone();
        let usable = match &mut lease.connection {
            Some(connection) => same || connection.assign(&borrower.purpose).await.is_ok(),
            None => false,
        };
        if !usable {
            lease.connection = None;
            self.state().slots[lease.number] = Slot::Opening;
            lease.connection = Some((self.open)(borrower.purpose.clone()).await?);
            self.state().slots[lease.number] = Slot::Lent;
        }
        Ok(lease)
    }

    /// The processors that have waited for a connection for at least this time.
    pub fn waits(&self, least: Duration) -> Vec<ConnectionWait> {
        let state = self.state();
        let waiting = state.waiting.iter().filter(|waiter| !waiter.lease.is_closed());
        let wait = |waiter: &PoolWaiter<T>| {
            let processor = waiter.borrower.processor.clone()?;
            Some(ConnectionWait { processor, waited: waiter.since.elapsed() })
        };
        waiting.filter_map(wait).filter(|wait| wait.waited >= least).collect()
    }

    fn state(&self) -> MutexGuard<'_, PoolState<T>> {
        // No change of the state can be cut short by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: PooledConnection> PoolState<T> {
    /// Grants a lease at once, or queues the borrower and returns a receiver for its lease.
    fn request(
        &mut self,
        pool: &Arc<Pool<T>>,
        borrower: &Borrower,
        now: Instant,
    ) -> Result<Lease<T>, oneshot::Receiver<Lease<T>>> {
        if let Some(number) = self.slot_for(borrower, now) {
            return Ok(self.grant(pool, number, borrower));
        }
        let (lease, wait) = oneshot::channel();
        self.waiting.retain(|waiter| !waiter.lease.is_closed());
        self.waiting.push_back(PoolWaiter { borrower: borrower.clone(), since: now, lease });
        Err(wait)
    }

    /// The slot that a borrower may have now: its home, or else one with an idle connection. The
    /// last choice is a closed slot, if the pool may open another connection.
    fn slot_for(&mut self, borrower: &Borrower, now: Instant) -> Option<usize> {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Idle(connection, _) if connection.is_closed()) {
                *slot = Slot::Closed;
            }
        }
        let half = self.slots.len().div_ceil(2);
        let held = |group: &Arc<str>| self.group_slots.get(group).copied().unwrap_or(0);
        if borrower.groups.iter().any(|group| held(group) >= half) {
            return None;
        }
        let refused = self.refused_at.is_some_and(|refused| now.duration_since(refused) < REFUSED_FOR);
        // A pool without any connection must ask the server again.
        let may_open = !refused || !self.is_connected();
        let home = borrower.home(self.slots.len());
        let free = |number: &usize, open: bool| match &self.slots[*number] {
            Slot::Idle(..) => open,
            Slot::Closed => !open && may_open,
            Slot::Opening | Slot::Lent => false,
        };
        let all = || std::iter::once(home).chain((0..self.slots.len()).filter(|number| *number != home));
        if free(&home, true) || free(&home, false) {
            return Some(home);
        }
        all().find(|number| free(number, true)).or_else(|| all().find(|number| free(number, false)))
    }

    /// Lends a slot to a borrower, with its connection if it has one.
    fn grant(&mut self, pool: &Arc<Pool<T>>, number: usize, borrower: &Borrower) -> Lease<T> {
        for group in &borrower.groups {
            *self.group_slots.entry(group.clone()).or_default() += 1;
        }
        let (connection, purpose) = match std::mem::replace(&mut self.slots[number], Slot::Opening) {
            Slot::Idle(connection, purpose) => {
                self.slots[number] = Slot::Lent;
                (Some(connection), purpose)
            }
            Slot::Closed | Slot::Opening | Slot::Lent => (None, borrower.purpose.clone()),
        };
        let groups = borrower.groups.clone();
        Lease { pool: pool.clone(), number, groups, purpose, connection, returned: false }
    }

    /// Reclaims the slot of a lease, and keeps its connection if that is `good`.
    fn reclaim(&mut self, lease: &mut Lease<T>, good: bool) {
        lease.returned = true;
        for group in &lease.groups {
            if let Some(held) = self.group_slots.get_mut(group) {
                *held -= 1;
                if *held == 0 {
                    self.group_slots.remove(group);
                }
            }
        }
        self.slots[lease.number] = match lease.connection.take().filter(|_| good) {
            Some(connection) => Slot::Idle(connection, lease.purpose.clone()),
            None => Slot::Closed,
        };
    }

    /// Grants free slots to waiting borrowers.
    fn serve(&mut self, pool: &Arc<Pool<T>>, now: Instant) {
        self.waiting.retain(|waiter| !waiter.lease.is_closed());
        loop {
            let held = |waiter: &PoolWaiter<T>| {
                let group = waiter.borrower.groups.first();
                group.and_then(|group| self.group_slots.get(group)).copied().unwrap_or(0)
            };
            let mut order: Vec<(usize, usize)> = self.waiting.iter().map(held).zip(0..).collect();
            order.sort_unstable();
            let next = order.into_iter().find_map(|(_, index)| {
                let borrower = self.waiting[index].borrower.clone();
                Some((index, self.slot_for(&borrower, now)?))
            });
            let Some((index, number)) = next else { return };
            let Some(PoolWaiter { borrower, lease, .. }) = self.waiting.remove(index) else { return };
            let granted = self.grant(pool, number, &borrower);
            if let Err(mut unwanted) = lease.send(granted) {
                self.reclaim(&mut unwanted, true);
            }
        }
    }

    /// Records that the server refused a connection. Returns whether the pool has others to use.
    fn record_refusal(&mut self, now: Instant) -> bool {
        let others = self.is_connected();
        if others {
            self.refused_at = Some(now);
        }
        others
    }

    /// Whether there is any connection.
    fn is_connected(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Idle(..) | Slot::Lent))
    }
}

impl<T: PooledConnection> Lease<T> {
    /// Returns the connection to the pool after its last statement succeeded.
    pub fn give_back(mut self) {
        self.end(true);
    }

    fn end(&mut self, good: bool) {
        let pool = self.pool.clone();
        let mut state = pool.state();
        state.reclaim(self, good);
        state.serve(&pool, Instant::now());
    }
}

impl<T: PooledConnection> Deref for Lease<T> {
    type Target = T;

    #[expect(
        clippy::expect_used,
        reason = "a lease leaves the pool with its connection and keeps it until it is returned"
    )]
    fn deref(&self) -> &T {
        self.connection.as_ref().expect("a lent connection")
    }
}

impl<T: PooledConnection> DerefMut for Lease<T> {
    #[expect(clippy::expect_used, reason = "as above")]
    fn deref_mut(&mut self) -> &mut T {
        self.connection.as_mut().expect("a lent connection")
    }
}

impl<T: PooledConnection> Drop for Lease<T> {
    fn drop(&mut self) {
        if !self.returned {
            self.end(false);
        }
    }
}

#[cfg(test)]
mod tests;
