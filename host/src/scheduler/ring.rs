//! Who computes next: deficit round robin in CPU time over tenants, then over what each of them has to do. Pure.
//!
//! A tenant that has something to do in a class has a seat in the ring. Each turn of the ring pays every seat a quantum of CPU time, by
//! weight and class; whoever has credit is served, first come, first served, a slice at a time, and the ring turns when nobody is left. A
//! slice is taken from the credit when it begins and set right by what it has really cost, so a tenant may overdraw and then sits
//! out as many turns as that is worth. Debt outlives an empty queue and credit does not: a seat without work is given up at its next visit,
//! unless there is debt. So a tenant that comes back without debt is served before all who have used up theirs, yet nobody can
//! have more than a quantum for each turn by coming and going. Every step is O(1) amortised over the time that is shared out.
//!
//! A task that goes on after a whole slice is *long*, and only so many long ones compute at once: the other threads are for first slices, so whoever
//! comes finds one, and so does whatever else the machine's cores are for.

#[cfg(test)]
mod simulation;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;

use crate::model::ids::TenantId;

/// How long a task computes at once, about: the epoch's period. It is what weight 1 is paid for live work in each turn, nanoseconds.
const SLICE: i64 = 1_000_000;
/// No debt is more than so many turns: whatever a tenant has cost, others go before it for a bounded time.
const LONGEST_DEBT: i64 = 256;

/// What a task is for, and so what part of its tenant's weight it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits for the events.
    Live,
    /// The events have waited already: what is behind the log's head, or reads the log for itself.
    CatchUp,
    /// A second set of documents, which nobody reads yet.
    Rebuild,
}

impl Class {
    const ALL: [Class; 3] = [Class::Live, Class::CatchUp, Class::Rebuild];
}

/// Tasks of tenants, and whose turn it is.
#[derive(Debug)]
pub(super) struct Ring<T> {
    weights: BTreeMap<TenantId, u32>,
    /// What weight 1 is paid in each turn, by [`Class`], nanoseconds.
    quanta: [i64; 3],
    /// Tasks of one tenant that may compute at once.
    at_once: usize,
    /// Long tasks that may compute at once, and those that do.
    long_at_once: usize,
    long_running: usize,
    tenants: Vec<Option<Tenant<T>>>,
    /// Free places in `tenants`.
    free: Vec<usize>,
    index: HashMap<TenantId, usize, RandomState>,
    /// Every seat once, the next to be paid first.
    ring: VecDeque<Seat>,
    /// Those with credit and something to do.
    ready: VecDeque<Seat>,
    /// Those that were ready, with long tasks only, when no more of these could compute.
    parked: Vec<Seat>,
    /// Tasks of tenants that may have one more thread, by [`Length`].
    waiting: [usize; 2],
}

/// Whether a task has had a whole slice without waiting for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Short,
    Long,
}

#[derive(Debug)]
struct Tenant<T> {
    id: TenantId,
    weight: i64,
    /// By [`Length`].
    queued: [usize; 2],
    running: usize,
    /// By [`Class`].
    flows: [Flow<T>; 3],
}

/// What a tenant does in a class.
#[derive(Debug)]
struct Flow<T> {
    /// By [`Length`].
    tasks: [VecDeque<T>; 2],
    running: usize,
    /// Nanoseconds it may still compute before it waits for the ring's next turn; debt if negative.
    credit: i64,
    seated: bool,
    ready: bool,
    parked: bool,
}

impl<T> Flow<T> {
    fn new() -> Self {
        Flow {
            tasks: [VecDeque::new(), VecDeque::new()],
            running: 0,
            credit: 0,
            seated: false,
            ready: false,
            parked: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.iter().all(VecDeque::is_empty)
    }
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    tenant: usize,
    class: Class,
}

/// A task's right to compute, to be given back with what it has used.
#[derive(Debug)]
pub(super) struct Turn(Seat, Length);

impl Turn {
    /// Whether the task had a whole slice already.
    pub(super) fn is_long(&self) -> bool {
        self.1 == Length::Long
    }
}

impl<T> Ring<T> {
    /// A ring in which tenants have these weights or 1, classes these parts of them, each tenant may have so many tasks computing at once, and so
    /// many of all may be long.
    pub(super) fn new(
        weights: BTreeMap<TenantId, u32>,
        classes: [u32; 3],
        at_once: usize,
        long_at_once: usize,
    ) -> Self {
        let live = i64::from(classes[Class::Live as usize].max(1));
        Ring {
            weights,
            quanta: classes.map(|class| (SLICE * i64::from(class) / live).max(1)),
            at_once: at_once.max(1),
            long_at_once: long_at_once.max(1),
            long_running: 0,
            tenants: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            ring: VecDeque::new(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            waiting: [0; 2],
        }
    }

    /// A tenant has something to compute.
    pub(super) fn push(&mut self, tenant: &TenantId, class: Class, length: Length, task: T) {
        let (seat, at_once) = (self.seat(tenant, class), self.at_once);
        let Some((tenant, flow)) = self.at(seat) else { return };
        flow.tasks[length as usize].push_back(task);
        tenant.queued[length as usize] += 1;
        if *tenant.running < at_once {
            self.waiting[length as usize] += 1;
            self.serve(seat);
        }
    }

    /// The next task to compute; none if there is none, or only of tenants that have all the threads they may.
    pub(super) fn next(&mut self) -> Option<(Turn, T)> {
        if self.waiting() == 0 {
            self.give_up_seats();
            return None;
        }
        loop {
            while let Some(seat) = self.ready.pop_front() {
                if let Some((length, task)) = self.take(seat) {
                    return Some((Turn(seat, length), task));
                }
            }
            // Whoever waits has a seat, and is paid until there is credit.
            self.pay_next()?;
        }
    }

    /// A task has computed for so long, and ended or will be pushed again.
    pub(super) fn ran(&mut self, Turn(seat, length): Turn, cpu: Duration) {
        let at_once = self.at_once;
        let Some((tenant, flow)) = self.at(seat) else { return };
        flow.running -= 1;
        flow.credit += SLICE;
        let freed = if *tenant.running == at_once { *tenant.queued } else { [0; 2] };
        *tenant.running -= 1;
        self.waiting = [self.waiting[0] + freed[0], self.waiting[1] + freed[1]];
        self.cost(seat, cpu);
        if length == Length::Long {
            self.long_running -= 1;
            for parked in std::mem::take(&mut self.parked) {
                if let Some((_, flow)) = self.at(parked) {
                    flow.parked = false;
                }
                self.serve(parked);
            }
        }
        for class in Class::ALL {
            self.serve(Seat { class, ..seat });
        }
    }

    /// A tenant has cost time elsewhere.
    pub(super) fn charge(&mut self, tenant: &TenantId, class: Class, time: Duration) {
        let seat = self.seat(tenant, class);
        self.cost(seat, time);
    }

    /// Tasks that may be served now.
    pub(super) fn waiting(&self) -> usize {
        let [short, long] = self.waiting;
        short + if self.may_be_long() { long } else { 0 }
    }

    fn may_be_long(&self) -> bool {
        self.long_running < self.long_at_once
    }

    /// What a tenant owes in a class, in turns of the ring.
    pub(super) fn debt(&self, tenant: &TenantId, class: Class) -> u32 {
        let known = self.index.get(tenant).and_then(|&place| self.tenants.get(place)?.as_ref());
        let turns = known.map_or(0, |tenant| {
            let owed = -tenant.flows[class as usize].credit;
            owed / (self.quanta[class as usize] * tenant.weight)
        });
        turns.try_into().unwrap_or(0)
    }

    /// Takes a tenant's debt in a class away.
    pub(super) fn forgive(&mut self, tenant: &TenantId, class: Class) {
        if let Some(&tenant) = self.index.get(tenant)
            && let Some((_, flow)) = self.at(Seat { tenant, class })
        {
            flow.credit = flow.credit.max(0);
            self.serve(Seat { tenant, class });
        }
    }

    /// Tenants of which anything is known.
    #[cfg(test)]
    fn known(&self) -> usize {
        self.index.len()
    }

    /// A flow, and what its tenant has in all classes.
    fn at(&mut self, seat: Seat) -> Option<(Counts<'_>, &mut Flow<T>)> {
        let Tenant { weight, queued, running, flows, .. } = self.tenants.get_mut(seat.tenant)?.as_mut()?;
        let quantum = self.quanta[seat.class as usize] * *weight;
        Some((Counts { queued, running, quantum }, &mut flows[seat.class as usize]))
    }

    /// The tenant's seat, which it is given with a quantum if it has none.
    fn seat(&mut self, id: &TenantId, class: Class) -> Seat {
        let tenant = match self.index.get(id) {
            Some(&known) => known,
            None => {
                let weight = self.weights.get(id).copied().unwrap_or(1).max(1).into();
                let flows = Class::ALL.map(|_| Flow::new());
                let tenant = Some(Tenant { id: id.clone(), weight, queued: [0; 2], running: 0, flows });
                let place = self.free.pop().unwrap_or_else(|| {
                    self.tenants.push(None);
                    self.tenants.len() - 1
                });
                self.tenants[place] = tenant;
                self.index.insert(id.clone(), place);
                place
            }
        };
        let seat = Seat { tenant, class };
        if let Some((tenant, flow)) = self.at(seat)
            && !flow.seated
        {
            flow.seated = true;
            flow.credit = tenant.quantum;
            self.ring.push_back(seat);
        }
        seat
    }

    /// Lets a flow be served if it has something to do, credit, and a thread left.
    fn serve(&mut self, seat: Seat) {
        let at_once = self.at_once;
        let Some((tenant, flow)) = self.at(seat) else { return };
        let something = !flow.tasks[0].is_empty() || !flow.parked && !flow.tasks[1].is_empty();
        if !flow.ready && something && flow.credit > 0 && *tenant.running < at_once {
            flow.ready = true;
            self.ready.push_back(seat);
        }
    }

    /// Takes a task of a flow that was ready, if it still is: a short one if there is one.
    fn take(&mut self, seat: Seat) -> Option<(Length, T)> {
        let (at_once, may_be_long) = (self.at_once, self.may_be_long());
        let (tenant, flow) = self.at(seat)?;
        flow.ready = false;
        if flow.credit <= 0 || *tenant.running >= at_once {
            return None;
        }
        let [short, long] = &mut flow.tasks;
        let (length, task) = match short.pop_front() {
            Some(task) => (Length::Short, task),
            None if may_be_long => (Length::Long, long.pop_front()?),
            None if long.is_empty() => return None,
            None => {
                // Until one of the long ones ends its turn; a short task that comes meanwhile is served.
                flow.parked = true;
                self.parked.push(seat);
                return None;
            }
        };
        flow.running += 1;
        flow.credit -= SLICE;
        tenant.queued[length as usize] -= 1;
        *tenant.running += 1;
        let held = if *tenant.running == at_once { *tenant.queued } else { [0; 2] };
        self.waiting[length as usize] -= 1;
        self.waiting = [self.waiting[0] - held[0], self.waiting[1] - held[1]];
        self.long_running += usize::from(length == Length::Long);
        self.serve(seat);
        Some((length, task))
    }

    fn cost(&mut self, seat: Seat, time: Duration) {
        let Some((tenant, flow)) = self.at(seat) else { return };
        let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        flow.credit = flow.credit.saturating_sub(nanos).max(-LONGEST_DEBT * tenant.quantum);
    }

    /// Pays the next seat its quantum for this turn, or takes it away from who has neither work nor debt.
    fn pay_next(&mut self) -> Option<()> {
        let seat = self.ring.pop_front()?;
        let (tenant, flow) = self.at(seat)?;
        let idle = flow.is_empty() && flow.running == 0;
        if idle && flow.credit >= 0 {
            flow.seated = false;
            self.forget(seat.tenant);
        } else {
            // What is not spent is not saved.
            flow.credit = (flow.credit + tenant.quantum).min(tenant.quantum.max(flow.credit));
            self.ring.push_back(seat);
            self.serve(seat);
        }
        Some(())
    }

    /// While nobody waits nobody is passed over, so who has no work and no debt need not wait for a turn to be forgotten.
    fn give_up_seats(&mut self) {
        while let Some(&seat) = self.ring.front()
            && let Some((_, flow)) = self.at(seat)
            && flow.is_empty()
            && flow.running == 0
            && flow.credit >= 0
        {
            flow.seated = false;
            self.ring.pop_front();
            self.forget(seat.tenant);
        }
    }

    /// Drops what is known of a tenant that has no seat.
    fn forget(&mut self, place: usize) {
        let seated = |tenant: &Tenant<T>| tenant.flows.iter().any(|flow| flow.seated);
        if let Some(tenant) = self.tenants[place].take_if(|tenant| !seated(tenant)) {
            self.index.remove(&tenant.id);
            self.free.push(place);
        }
    }
}

/// What a tenant has in all classes together, beside one of its flows.
struct Counts<'a> {
    queued: &'a mut [usize; 2],
    running: &'a mut usize,
    /// What the flow is paid each turn.
    quantum: i64,
}
