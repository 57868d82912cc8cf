//! Commits that the event store refuses because of the streams that they append to.

use std::time::Duration;

use sandmill::{
    model::{handler::Reason, ids::LaneKey, reaction::AppendConflict},
    processor::{in_flight::LaneConflicts, policy::Verdict},
};

use super::world::World;

impl World {
    /// Refuses the commit under way, because some of its lanes append to busy streams.
    pub(super) fn refuse_busy(&mut self, random: u32) {
        let lanes = self.some_of_plan(random);
        if let Some(plan) = self.host.plan.take_if(|_| !lanes.is_empty()) {
            self.host.in_flight.deferred(plan, &lanes, self.now);
        }
    }

    /// Refuses the commit under way, because appends of some of its lanes conflict.
    pub(super) fn refuse_conflicts(&mut self, random: u32) {
        let lanes = self.some_of_plan(random);
        let Some(plan) = self.host.plan.take_if(|_| !lanes.is_empty()) else { return };
        let verdict = match random % 4 {
            0 | 1 => Verdict::Again { after: Duration::from_millis(2), counts: true },
            2 => Verdict::SetAside,
            _ => Verdict::Stop,
        };
        let conflicts = |lane: &LaneKey| {
            let handled =
                plan.results.iter().filter(|(key, _)| key == lane).flat_map(|(_, handled)| &handled.positions);
            let conflict = |cause: &i64| AppendConflict { cause: *cause, stream: "s".into(), expected: 1, actual: 2 };
            let conflicts = handled.take(1).map(conflict).collect();
            let reason = Reason::new("append-conflict", "by a test");
            LaneConflicts { lane: lane.clone(), conflicts, reason, verdict }
        };
        let lanes = lanes.iter().map(conflicts).collect();
        self.host.in_flight.conflicted(plan, lanes, self.now);
    }

    /// Some lanes of the commit under way that handled events.
    fn some_of_plan(&self, random: u32) -> Vec<LaneKey> {
        let results = self.host.plan.iter().flat_map(|plan| &plan.results);
        let lanes = results.filter(|(_, handled)| !handled.shed && !handled.positions.is_empty());
        let mut lanes: Vec<LaneKey> = lanes.map(|(lane, _)| lane.clone()).collect();
        lanes.dedup();
        lanes
            .into_iter()
            .enumerate()
            .filter(|(index, _)| random >> (2 + index % 16) & 1 == 1)
            .map(|(_, lane)| lane)
            .collect()
    }
}
