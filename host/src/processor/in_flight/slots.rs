//! Slots for running lanes: a bounded number, shared fairly by tenants. Pure.
//!
//! A tenant may have very many lanes with work at the same time. Without a bound it would take
//! every slot, and another tenant's only lane would wait outside the scheduler, which could not
//! help it. The bound is a dynamic threshold: a tenant may take one more slot while it holds fewer
//! than [`SHARE`] times the free ones. A single busy tenant gets two thirds of the slots, and each
//! of ten busy tenants gets two twenty-firsts. Some slots always stay free for the next tenant,
//! without any reservation. The method is from Choudhury and Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::model::ids::{LaneKey, TenantId};

/// Slots that a tenant may hold for each free one.
const SHARE: usize = 2;

/// The slots, and the lanes that wait for one.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    free: usize,
    /// Tenants with a running lane. A tenant with waiting lanes always has a running one, whose end
    /// admits the next.
    tenants: HashMap<TenantId, TenantSlots, RandomState>,
}

#[derive(Clone, Debug, Default)]
struct TenantSlots {
    running: usize,
    waiting: VecDeque<LaneKey>,
}

impl Slots {
    pub(super) fn new(slots: usize) -> Self {
        Slots { free: slots, tenants: HashMap::default() }
    }

    /// Whether no lane can start.
    pub(super) fn are_taken(&self) -> bool {
        self.free == 0
    }

    /// Whether a lane may start, given that a slot is free. If not, it waits until a lane of its
    /// tenant [ends](Self::end).
    pub(super) fn admit(&mut self, lane: &LaneKey) -> bool {
        match self.tenants.get_mut(&lane.tenant) {
            Some(held) if held.running >= SHARE * self.free => {
                held.waiting.push_back(lane.clone());
                false
            }
            _ => true,
        }
    }

    /// Whether a lane may start, given that a slot is free. Unlike [`admit`](Self::admit), it does
    /// not wait if not.
    pub(super) fn has_room_for(&self, lane: &LaneKey) -> bool {
        self.tenants.get(&lane.tenant).is_none_or(|held| held.running < SHARE * self.free)
    }

    /// Records that a lane starts.
    pub(super) fn take(&mut self, lane: &LaneKey) {
        self.free -= 1;
        self.tenants.entry(lane.tenant.clone()).or_default().running += 1;
    }

    /// Records that a lane has ended. Returns the lanes of its tenant that may start instead.
    pub(super) fn end(&mut self, lane: &LaneKey) -> Vec<LaneKey> {
        self.free += 1;
        if let Some(held) = self.tenants.get_mut(&lane.tenant) {
            held.running -= 1;
        }
        self.next(&lane.tenant)
    }

    /// Lanes of a tenant that waited and may start now, in order: as many as there is room for. The
    /// caller asks again when one of them has nothing to do after all.
    pub(super) fn next(&mut self, tenant: &TenantId) -> Vec<LaneKey> {
        let mut next = Vec::new();
        let Some(held) = self.tenants.get_mut(tenant) else { return next };
        while next.len() < self.free && held.running + next.len() < SHARE * (self.free - next.len()) {
            let Some(lane) = held.waiting.pop_front() else { break };
            next.push(lane);
        }
        if held.running == 0 && held.waiting.is_empty() {
            self.tenants.remove(tenant);
        }
        next
    }

    /// Forgets the lanes that wait.
    pub(super) fn forget_waiting(&mut self) {
        self.tenants.retain(|_, held| {
            held.waiting.clear();
            held.running > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(tenant: &str, number: usize) -> LaneKey {
        LaneKey { tenant: TenantId::parse(tenant).unwrap(), key: number.to_string().into() }
    }

    /// The slots with the start queue, as the tracker has it.
    struct TestQueue {
        slots: Slots,
        startable: VecDeque<LaneKey>,
        running: Vec<LaneKey>,
    }

    impl TestQueue {
        fn new(slots: usize) -> Self {
            TestQueue { slots: Slots::new(slots), startable: VecDeque::new(), running: Vec::new() }
        }

        /// Adds lanes of a tenant that have work. Returns the number of its lanes that run then.
        fn add(&mut self, tenant: &str, lanes: usize) -> usize {
            self.startable.extend((0..lanes).map(|number| lane(tenant, number)));
            self.start();
            self.running_of(tenant)
        }

        fn start(&mut self) {
            while !self.slots.are_taken() {
                let Some(lane) = self.startable.pop_front() else { return };
                if self.slots.admit(&lane) {
                    self.slots.take(&lane);
                    self.running.push(lane);
                }
            }
        }

        /// Ends the lane that has run longest.
        fn end(&mut self) -> LaneKey {
            let ended = self.running.remove(0);
            let next = self.slots.end(&ended);
            next.into_iter().rev().for_each(|lane| self.startable.push_front(lane));
            self.start();
            ended
        }

        fn running_of(&self, tenant: &str) -> usize {
            self.running.iter().filter(|lane| lane.tenant.as_str() == tenant).count()
        }
    }

    #[test]
    fn a_single_tenant_gets_most_slots_and_leaves_some_to_others() {
        let mut queue = TestQueue::new(64);
        assert_eq!(queue.add("busy", 1_000), 43);
        for number in 0..10 {
            assert_eq!(queue.add(&format!("quiet{number}"), 1), 1);
        }
        // The busy tenant gives back its slots as its lanes end, until it is within its share.
        for ended in 1..=20 {
            queue.end();
            assert_eq!(queue.running_of("busy"), 43 - ended.min(7), "after {ended}");
        }
    }

    #[test]
    fn many_busy_tenants_leave_slots_to_another() {
        let mut queue = TestQueue::new(64);
        let busy: Vec<String> = (0..10).map(|number| format!("busy{number}")).collect();
        for tenant in &busy {
            queue.add(tenant, 1_000);
        }
        // Tenants that came first hold more slots at first.
        for _ in 0..2_000 {
            queue.end();
        }
        let running: Vec<usize> = busy.iter().map(|tenant| queue.running_of(tenant)).collect();
        assert!(running.iter().all(|slots| (5..=7).contains(slots)), "{running:?}");
        assert_eq!(queue.add("quiet", 1), 1);
    }

    #[test]
    fn all_lanes_run_in_the_order_of_their_tenant() {
        let mut queue = TestQueue::new(5);
        for (tenant, lanes) in [("a", 50), ("b", 3), ("a", 0), ("c", 20)] {
            queue.add(tenant, lanes);
        }
        let mut ended = Vec::new();
        while !queue.running.is_empty() {
            ended.push(queue.end());
        }
        for (tenant, lanes) in [("a", 50), ("b", 3), ("c", 20)] {
            let of_tenant = ended.iter().filter(|lane| lane.tenant.as_str() == tenant);
            assert!(of_tenant.eq((0..lanes).map(|number| lane(tenant, number)).collect::<Vec<_>>().iter()));
        }
        assert!(queue.slots.tenants.is_empty());
    }

    #[test]
    fn the_next_lane_starts_if_the_first_has_nothing_to_do() {
        let mut slots = Slots::new(3);
        for number in 0..2 {
            assert!(slots.admit(&lane("t", number)));
            slots.take(&lane("t", number));
        }
        assert!(!slots.admit(&lane("t", 2)) && !slots.admit(&lane("t", 3)));
        assert_eq!(slots.end(&lane("t", 0)), [lane("t", 2)]);
        assert_eq!(slots.next(&lane("t", 2).tenant), [lane("t", 3)]);
        slots.forget_waiting();
        assert_eq!(slots.end(&lane("t", 1)), []);
        assert!(slots.tenants.is_empty());
    }
}
