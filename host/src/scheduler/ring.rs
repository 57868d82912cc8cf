//! Deficit round robin in CPU time: over tenants, and over the classes of work of each. Pure.
//!
//! The ring holds a *flow* for each tenant and class that has work. Each round pays every flow a
//! quantum of CPU time, by weight and class. Flows with credit are served first come, first served,
//! a slice at a time. The next round begins when no flow has both credit and work. A slice is
//! debited when it begins and corrected by its measured cost when it ends. So a tenant may
//! overdraw, and then sits out as many rounds as it owes.
//!
//! Debt outlives an empty queue, credit does not: a flow without work leaves the ring at its next
//! visit unless it is in debt. So a tenant that returns without debt is served before all tenants
//! that have used up their credit. Yet no tenant gains more than a quantum per round by coming and
//! going. Every step is O(1), amortised over the time that is shared out.
//!
//! A task that continues after a whole slice is *long*. Only a bounded number of long tasks compute
//! at once; the other threads are for first slices. So a new task finds a thread, and cores are
//! left for the rest of the machine's work.

#[cfg(test)]
mod simulation;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;

use crate::model::ids::TenantId;

/// Approximate time that a task computes at once, in nanoseconds: the epoch's period. Also the
/// quantum of live work with weight 1.
const SLICE: i64 = 1_000_000;
/// The largest debt, in rounds, so that every tenant is served again within a bounded time.
const MAX_DEBT: i64 = 256;

/// The kind of work that a task belongs to, which decides its part of its tenant's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Events at the log's head, whose results are awaited.
    Live,
    /// Events behind the log's head, and lanes that read the log for themselves.
    CatchUp,
    /// A second set of documents that nobody reads yet.
    Rebuild,
}

impl Class {
    const ALL: [Class; 3] = [Class::Live, Class::CatchUp, Class::Rebuild];
}

/// The tasks of all tenants, and the order in which they are served.
#[derive(Debug)]
pub(super) struct Ring<T> {
    weights: BTreeMap<TenantId, u32>,
    /// The quantum of weight 1, by [`Class`], nanoseconds.
    quanta: [i64; 3],
    /// Tasks of one tenant that may compute at once.
    tenant_threads: usize,
    /// Long tasks that may compute at once.
    long_threads: usize,
    long_running: usize,
    tenants: Vec<Option<TenantFlows<T>>>,
    /// Free indices of `tenants`.
    free: Vec<usize>,
    index: HashMap<TenantId, usize, RandomState>,
    /// Every flow in the ring once, the next to be paid first.
    ring: VecDeque<FlowKey>,
    /// Flows with credit and work.
    ready: VecDeque<FlowKey>,
    /// Flows that had only long tasks while no more of these could compute.
    parked: Vec<FlowKey>,
    /// Queued tasks of tenants that may use one more thread, by [`Length`].
    servable: [usize; 2],
}

/// Whether a task has already computed for a whole slice without waiting for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Short,
    Long,
}

#[derive(Debug)]
struct TenantFlows<T> {
    id: TenantId,
    weight: i64,
    /// Tasks of all classes, by [`Length`].
    queued: [usize; 2],
    running: usize,
    /// By [`Class`].
    flows: [Flow<T>; 3],
}

/// A tenant's work in one class.
#[derive(Debug)]
struct Flow<T> {
    /// By [`Length`].
    tasks: [VecDeque<T>; 2],
    running: usize,
    /// Nanoseconds that it may still compute in this round; debt if negative.
    credit: i64,
    in_ring: bool,
    ready: bool,
    parked: bool,
}

impl<T> Flow<T> {
    fn new() -> Self {
        Flow {
            tasks: [VecDeque::new(), VecDeque::new()],
            running: 0,
            credit: 0,
            in_ring: false,
            ready: false,
            parked: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.iter().all(VecDeque::is_empty)
    }
}

#[derive(Clone, Copy, Debug)]
struct FlowKey {
    tenant: usize,
    class: Class,
}

/// A permit for a task to compute once. It is returned with the time that the task used.
#[derive(Debug)]
pub(super) struct Grant(FlowKey, Length);

impl Grant {
    pub(super) fn is_long(&self) -> bool {
        self.1 == Length::Long
    }

    pub(super) fn class(&self) -> Class {
        self.0.class
    }
}

impl<T> Ring<T> {
    /// An empty ring. A tenant without a weight has weight 1; both bounds are at least 1.
    pub(super) fn new(
        weights: BTreeMap<TenantId, u32>,
        classes: [u32; 3],
        tenant_threads: usize,
        long_threads: usize,
    ) -> Self {
        let live = i64::from(classes[Class::Live as usize].max(1));
        Ring {
            weights,
            quanta: classes.map(|class| (SLICE * i64::from(class) / live).max(1)),
            tenant_threads: tenant_threads.max(1),
            long_threads: long_threads.max(1),
            long_running: 0,
            tenants: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            ring: VecDeque::new(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            servable: [0; 2],
        }
    }

    /// Queues a task of a tenant.
    pub(super) fn push(&mut self, tenant: &TenantId, class: Class, length: Length, task: T) {
        let (key, tenant_threads) = (self.enter(tenant, class), self.tenant_threads);
        let Some((tenant, flow)) = self.flow(key) else { return };
        flow.tasks[length as usize].push_back(task);
        tenant.queued[length as usize] += 1;
        if *tenant.running < tenant_threads {
            self.servable[length as usize] += 1;
            self.mark_ready(key);
        }
    }

    /// The next task to compute. None if none is queued, or the bounds on threads exclude them all.
    pub(super) fn next(&mut self) -> Option<(Grant, T)> {
        if self.servable() == 0 {
            self.drop_idle_flows();
            return None;
        }
        loop {
            while let Some(key) = self.ready.pop_front() {
                if let Some((length, task)) = self.take(key) {
                    return Some((Grant(key, length), task));
                }
            }
            // A queued task has its flow in the ring, which is paid until it has credit.
            self.pay_next_flow()?;
        }
    }

    /// Takes back the grant of a task that has computed. If it has more to do, it is pushed again.
    pub(super) fn finish(&mut self, Grant(key, length): Grant, cpu: Duration) {
        let tenant_threads = self.tenant_threads;
        let Some((tenant, flow)) = self.flow(key) else { return };
        flow.running -= 1;
        flow.credit += SLICE;
        let freed = if *tenant.running == tenant_threads { *tenant.queued } else { [0; 2] };
        *tenant.running -= 1;
        self.servable = [self.servable[0] + freed[0], self.servable[1] + freed[1]];
        self.debit(key, cpu);
        if length == Length::Long {
            self.long_running -= 1;
            for key in std::mem::take(&mut self.parked) {
                if let Some((_, flow)) = self.flow(key) {
                    flow.parked = false;
                }
                self.mark_ready(key);
            }
        }
        for class in Class::ALL {
            self.mark_ready(FlowKey { class, ..key });
        }
    }

    /// Debits a tenant for time spent on its behalf elsewhere.
    pub(super) fn charge(&mut self, tenant: &TenantId, class: Class, time: Duration) {
        let key = self.enter(tenant, class);
        self.debit(key, time);
    }

    /// Number of tasks that the bounds on threads allow to be served now.
    pub(super) fn servable(&self) -> usize {
        let [short, long] = self.servable;
        short + if self.long_allowed() { long } else { 0 }
    }

    fn long_allowed(&self) -> bool {
        self.long_running < self.long_threads
    }

    /// Debt of a tenant in a class, in rounds.
    pub(super) fn debt(&self, tenant: &TenantId, class: Class) -> u32 {
        let known = self.index.get(tenant).and_then(|&slot| self.tenants.get(slot)?.as_ref());
        let rounds = known.map_or(0, |tenant| {
            let owed = -tenant.flows[class as usize].credit;
            owed / (self.quanta[class as usize] * tenant.weight)
        });
        rounds.try_into().unwrap_or(0)
    }

    /// Cancels a tenant's debt in a class.
    pub(super) fn forgive(&mut self, tenant: &TenantId, class: Class) {
        if let Some(&tenant) = self.index.get(tenant)
            && let Some((_, flow)) = self.flow(FlowKey { tenant, class })
        {
            flow.credit = flow.credit.max(0);
            self.mark_ready(FlowKey { tenant, class });
        }
    }

    /// Number of tenants with a flow in the ring.
    #[cfg(test)]
    fn tenants(&self) -> usize {
        self.index.len()
    }

    /// A flow, and the counts of its tenant.
    fn flow(&mut self, key: FlowKey) -> Option<(Counts<'_>, &mut Flow<T>)> {
        let TenantFlows { weight, queued, running, flows, .. } = self.tenants.get_mut(key.tenant)?.as_mut()?;
        let quantum = self.quanta[key.class as usize] * *weight;
        Some((Counts { queued, running, quantum }, &mut flows[key.class as usize]))
    }

    /// The key of a tenant's flow. The flow enters the ring with one quantum if it is not there.
    fn enter(&mut self, id: &TenantId, class: Class) -> FlowKey {
        let tenant = match self.index.get(id) {
            Some(&known) => known,
            None => {
                let weight = self.weights.get(id).copied().unwrap_or(1).max(1).into();
                let flows = Class::ALL.map(|_| Flow::new());
                let tenant = Some(TenantFlows { id: id.clone(), weight, queued: [0; 2], running: 0, flows });
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.tenants.push(None);
                    self.tenants.len() - 1
                });
                self.tenants[slot] = tenant;
                self.index.insert(id.clone(), slot);
                slot
            }
        };
        let key = FlowKey { tenant, class };
        if let Some((tenant, flow)) = self.flow(key)
            && !flow.in_ring
        {
            flow.in_ring = true;
            flow.credit = tenant.quantum;
            self.ring.push_back(key);
        }
        key
    }

    /// Marks a flow as ready if it has work, credit and a thread left.
    fn mark_ready(&mut self, key: FlowKey) {
        let tenant_threads = self.tenant_threads;
        let Some((tenant, flow)) = self.flow(key) else { return };
        let has_work = !flow.tasks[0].is_empty() || !flow.parked && !flow.tasks[1].is_empty();
        if !flow.ready && has_work && flow.credit > 0 && *tenant.running < tenant_threads {
            flow.ready = true;
            self.ready.push_back(key);
        }
    }

    /// Takes a task of a flow that was ready, if it still is. Short tasks go first.
    fn take(&mut self, key: FlowKey) -> Option<(Length, T)> {
        let (tenant_threads, long_allowed) = (self.tenant_threads, self.long_allowed());
        let (tenant, flow) = self.flow(key)?;
        flow.ready = false;
        if flow.credit <= 0 || *tenant.running >= tenant_threads {
            return None;
        }
        let [short, long] = &mut flow.tasks;
        let (length, task) = match short.pop_front() {
            Some(task) => (Length::Short, task),
            None if long_allowed => (Length::Long, long.pop_front()?),
            None if long.is_empty() => return None,
            None => {
                // Parked until a long task finishes. A short task that is pushed in the meantime is
                // served.
                flow.parked = true;
                self.parked.push(key);
                return None;
            }
        };
        flow.running += 1;
        flow.credit -= SLICE;
        tenant.queued[length as usize] -= 1;
        *tenant.running += 1;
        let blocked = if *tenant.running == tenant_threads { *tenant.queued } else { [0; 2] };
        self.servable[length as usize] -= 1;
        self.servable = [self.servable[0] - blocked[0], self.servable[1] - blocked[1]];
        self.long_running += usize::from(length == Length::Long);
        self.mark_ready(key);
        Some((length, task))
    }

    fn debit(&mut self, key: FlowKey, time: Duration) {
        let Some((tenant, flow)) = self.flow(key) else { return };
        let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        flow.credit = flow.credit.saturating_sub(nanos).max(-MAX_DEBT * tenant.quantum);
    }

    /// Pays the next flow its quantum for this round, or drops it if it has neither work nor debt.
    fn pay_next_flow(&mut self) -> Option<()> {
        let key = self.ring.pop_front()?;
        let (tenant, flow) = self.flow(key)?;
        let idle = flow.is_empty() && flow.running == 0;
        if idle && flow.credit >= 0 {
            flow.in_ring = false;
            self.drop_tenant(key.tenant);
        } else {
            // Unspent credit is not saved up.
            flow.credit = (flow.credit + tenant.quantum).min(tenant.quantum.max(flow.credit));
            self.ring.push_back(key);
            self.mark_ready(key);
        }
        Some(())
    }

    /// Drops flows at the front that have neither work nor debt. While no task waits, this passes
    /// over no tenant.
    fn drop_idle_flows(&mut self) {
        while let Some(&key) = self.ring.front()
            && let Some((_, flow)) = self.flow(key)
            && flow.is_empty()
            && flow.running == 0
            && flow.credit >= 0
        {
            flow.in_ring = false;
            self.ring.pop_front();
            self.drop_tenant(key.tenant);
        }
    }

    /// Drops a tenant that has no flow in the ring.
    fn drop_tenant(&mut self, slot: usize) {
        let in_ring = |tenant: &TenantFlows<T>| tenant.flows.iter().any(|flow| flow.in_ring);
        if let Some(tenant) = self.tenants[slot].take_if(|tenant| !in_ring(tenant)) {
            self.index.remove(&tenant.id);
            self.free.push(slot);
        }
    }
}

/// A tenant's counts over all classes, with the quantum of one of its flows.
struct Counts<'a> {
    queued: &'a mut [usize; 2],
    running: &'a mut usize,
    /// The flow's pay per round.
    quantum: i64,
}
