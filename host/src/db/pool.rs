//! A bounded pool of connections that processors share.
//!
//! A borrower holds a connection (a [`Lease`]) for one piece of work, and gives it back after
//! success. A lease that is dropped closes its connection, because its last statement may have left
//! the session in any state. So a lost connection ends exactly the work that used it.
//!
//! - **Bound.** A pool never has more connections than it has slots. If the server refuses another
//!   one, the pool uses those it has for a while; without any, it fails.
//! - **Home.** Each borrower tries one slot first, its home. There it usually finds the statements
//!   that it prepared last time.
//! - **Fairness.** A borrower belongs to groups (a tenant, for instance), and no group holds more
//!   than half of the slots. The waiting borrower whose group holds fewest comes first, then the
//!   one that has waited longest.
//! - **Cancellation.** A borrower that stops waiting leaves nothing behind.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::model::{handler::BoxFuture, ids::ProcessorId};

/// How long a pool opens no connection after the server refused one. Default 5 s: other clients'
/// connections rarely end sooner.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// A connection of a pool.
pub trait Connection: Send + Sized + 'static {
    /// The error of opening or using it.
    type Error: Send;

    /// Whether it is known to be lost.
    fn is_closed(&self) -> bool;

    /// Names its purpose for the next borrower, as `pg_stat_activity` shows it.
    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), Self::Error>>;

    /// Whether the server has no room for another connection now.
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
    /// Its groups. The members of each hold at most half of the slots together. The first group
    /// decides its turn.
    pub groups: Vec<Arc<str>>,
}

impl Borrower {
    /// One kind of a processor's work. All of a tenant's own processors are one group, and each
    /// shared processor is a group by itself.
    pub fn of(processor: &ProcessorId, purpose: &str) -> Self {
        let group = match processor.owner() {
            Some(tenant) => format!("{tenant}/").into(),
            None => processor.as_str().into(),
        };
        let purpose = format!("{purpose} {processor}").into();
        Borrower { purpose, processor: Some(processor.as_str().into()), groups: vec![group] }
    }

    /// Work of the host that belongs to no processor.
    pub fn host(purpose: &str) -> Self {
        Borrower { purpose: purpose.into(), processor: None, groups: Vec::new() }
    }

    /// Its home among so many slots. The hash is not seeded, so the home is the same in each run.
    fn home(&self, slots: usize) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&*self.purpose);
        (hash % slots.max(1) as u64) as usize
    }
}

/// Opens a connection for a purpose.
type Open<T> = Box<dyn Fn(Arc<str>) -> BoxFuture<'static, Result<T, <T as Connection>::Error>> + Send + Sync>;

/// A bounded number of connections of one kind.
pub struct Pool<T: Connection> {
    open: Open<T>,
    state: Mutex<State<T>>,
}

struct State<T: Connection> {
    slots: Vec<Slot<T>>,
    /// How many slots each group holds.
    held: HashMap<Arc<str>, usize>,
    waiting: VecDeque<Waiting<T>>,
    /// When the server refused one more connection.
    refused: Option<Instant>,
}

enum Slot<T> {
    Closed,
    Opening,
    Lent,
    /// The connection, and the purpose of its last lease.
    Idle(T, Arc<str>),
}

struct Waiting<T: Connection> {
    borrower: Borrower,
    since: Instant,
    lease: oneshot::Sender<Lease<T>>,
}

/// A lent connection, or the right to open one. Dropping it closes the connection.
pub struct Lease<T: Connection> {
    pool: Arc<Pool<T>>,
    number: usize,
    groups: Vec<Arc<str>>,
    purpose: Arc<str>,
    connection: Option<T>,
    /// Whether the slot was given back already.
    settled: bool,
}

/// A processor that waits for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its id.
    pub processor: Arc<str>,
    /// How long it has waited so far.
    pub waited: Duration,
}

impl<T: Connection> Pool<T> {
    /// A pool of at most `most` connections, at least one, none of which is open yet.
    pub fn new(
        most: usize,
        open: impl Fn(Arc<str>) -> BoxFuture<'static, Result<T, T::Error>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let slots = (0..most.max(1)).map(|_| Slot::Closed).collect();
        let state = State { slots, held: HashMap::new(), waiting: VecDeque::new(), refused: None };
        Arc::new(Pool { open: Box::new(open), state: Mutex::new(state) })
    }

    /// Lends a connection as soon as one is free. Fails if the server refuses it and the pool has
    /// no other.
    pub async fn lend(self: &Arc<Self>, borrower: &Borrower) -> Result<Lease<T>, T::Error> {
        loop {
            let granted = self.state().ask(self, borrower, Instant::now());
            let lease = match granted {
                Ok(lease) => lease,
                // The pool outlives its borrowers, so a lease is always sent.
                Err(wait) => match wait.await {
                    Ok(lease) => lease,
                    Err(_) => continue,
                },
            };
            match self.make_ready(lease, borrower).await {
                Err(error) if T::is_refusal(&error) && self.state().refused(Instant::now()) => {}
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

    /// Processors that have waited for a connection for this long or longer.
    pub fn waits(&self, least: Duration) -> Vec<Wait> {
        let state = self.state();
        let waiting = state.waiting.iter().filter(|one| !one.lease.is_closed());
        let wait = |one: &Waiting<T>| {
            let processor = one.borrower.processor.clone()?;
            Some(Wait { processor, waited: one.since.elapsed() })
        };
        waiting.filter_map(wait).filter(|wait| wait.waited >= least).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Each change of the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Connection> State<T> {
    /// Grants a lease at once, or queues the borrower and returns a receiver for its lease.
    fn ask(
        &mut self,
        pool: &Arc<Pool<T>>,
        borrower: &Borrower,
        now: Instant,
    ) -> Result<Lease<T>, oneshot::Receiver<Lease<T>>> {
        if let Some(number) = self.slot_for(borrower, now) {
            return Ok(self.grant(pool, number, borrower));
        }
        let (lease, wait) = oneshot::channel();
        self.waiting.retain(|one| !one.lease.is_closed());
        self.waiting.push_back(Waiting { borrower: borrower.clone(), since: now, lease });
        Err(wait)
    }

    /// The slot that a borrower may have now: its home, or else one with a connection, or else one
    /// where it may open one.
    fn slot_for(&mut self, borrower: &Borrower, now: Instant) -> Option<usize> {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Idle(connection, _) if connection.is_closed()) {
                *slot = Slot::Closed;
            }
        }
        let most = self.slots.len().div_ceil(2);
        let held = |group: &Arc<str>| self.held.get(group).copied().unwrap_or(0);
        if borrower.groups.iter().any(|group| held(group) >= most) {
            return None;
        }
        let refused = self.refused.is_some_and(|refused| now.duration_since(refused) < REFUSED_FOR);
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

    fn grant(&mut self, pool: &Arc<Pool<T>>, number: usize, borrower: &Borrower) -> Lease<T> {
        for group in &borrower.groups {
            *self.held.entry(group.clone()).or_default() += 1;
        }
        let (connection, purpose) = match std::mem::replace(&mut self.slots[number], Slot::Opening) {
            Slot::Idle(connection, purpose) => {
                self.slots[number] = Slot::Lent;
                (Some(connection), purpose)
            }
            Slot::Closed | Slot::Opening | Slot::Lent => (None, borrower.purpose.clone()),
        };
        let groups = borrower.groups.clone();
        Lease { pool: pool.clone(), number, groups, purpose, connection, settled: false }
    }

    /// Takes a slot back, and keeps its connection if that is `good`.
    fn take_back(&mut self, lease: &mut Lease<T>, good: bool) {
        lease.settled = true;
        for group in &lease.groups {
            if let Some(held) = self.held.get_mut(group) {
                *held -= 1;
                if *held == 0 {
                    self.held.remove(group);
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
        self.waiting.retain(|one| !one.lease.is_closed());
        loop {
            let held = |one: &Waiting<T>| {
                let group = one.borrower.groups.first();
                group.and_then(|group| self.held.get(group)).copied().unwrap_or(0)
            };
            let mut order: Vec<(usize, usize)> = self.waiting.iter().map(held).zip(0..).collect();
            order.sort_unstable();
            let next = order.into_iter().find_map(|(_, index)| {
                let borrower = self.waiting[index].borrower.clone();
                Some((index, self.slot_for(&borrower, now)?))
            });
            let Some((index, number)) = next else { return };
            let Some(Waiting { borrower, lease, .. }) = self.waiting.remove(index) else { return };
            let granted = self.grant(pool, number, &borrower);
            if let Err(mut unwanted) = lease.send(granted) {
                self.take_back(&mut unwanted, true);
            }
        }
    }

    /// Records that the server refused a connection. Returns whether the pool has others to use.
    fn refused(&mut self, now: Instant) -> bool {
        let others = self.is_connected();
        if others {
            self.refused = Some(now);
        }
        others
    }

    /// Whether there is any connection.
    fn is_connected(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Idle(..) | Slot::Lent))
    }
}

impl<T: Connection> Lease<T> {
    /// Gives the connection back, after its last statement succeeded.
    pub fn give_back(mut self) {
        self.settle(true);
    }

    fn settle(&mut self, good: bool) {
        let pool = self.pool.clone();
        let mut state = pool.state();
        state.take_back(self, good);
        state.serve(&pool, Instant::now());
    }
}

impl<T: Connection> Deref for Lease<T> {
    type Target = T;

    #[expect(
        clippy::expect_used,
        reason = "a lease leaves the pool with its connection and keeps it until it is settled"
    )]
    fn deref(&self) -> &T {
        self.connection.as_ref().expect("a lent connection")
    }
}

impl<T: Connection> DerefMut for Lease<T> {
    #[expect(clippy::expect_used, reason = "as above")]
    fn deref_mut(&mut self) -> &mut T {
        self.connection.as_mut().expect("a lent connection")
    }
}

impl<T: Connection> Drop for Lease<T> {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(false);
        }
    }
}

#[cfg(test)]
mod tests;
