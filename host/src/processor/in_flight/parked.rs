//! Parked lanes: lanes that are behind the cursor and idle. Pure.
//!
//! A lane is parked when it has neither work nor results, and no read under way. Only its row is
//! kept, without the reason, and no step of the tracker iterates over parked lanes. There may be
//! very many until they are resumed, so each costs some 200 bytes and no time. Lanes that need
//! attention are found by key, and lanes with a next attempt in the order of its time. Lanes that
//! are due take turns: first their tenants, then the lanes of each tenant.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::SystemTime,
};

use crate::{
    model::ids::{LaneKey, TenantId},
    processor::lane_checkpoints::{LaneRow, RowState, Skip},
};

/// All parked lanes of a processor.
#[derive(Clone, Debug, Default)]
pub(super) struct Parked {
    lanes: BTreeMap<LaneKey, ParkedLane>,
    /// Lanes that are due, by tenant.
    due: BTreeMap<TenantId, Due>,
    /// Lanes that wait for a time.
    later: BTreeSet<(SystemTime, LaneKey)>,
    /// The number of lanes that need attention.
    needing_attention: usize,
    /// The tenant whose turn was last. The next in order follows, so that none is passed over
    /// forever.
    last: Option<TenantId>,
}

/// What is kept of one parked lane.
#[derive(Clone, Debug)]
pub(super) struct ParkedLane {
    /// Its row, as the database has it.
    pub(super) row: LaneRow,
    /// Maximum number of events that it reads at once, after a commit of more was rejected.
    pub(super) max_events: Option<usize>,
}

/// Lanes of a tenant that are due.
#[derive(Clone, Debug, Default)]
struct Due {
    keys: BTreeSet<Arc<str>>,
    /// The lane whose turn was last, as for tenants.
    last: Option<Arc<str>>,
}

impl Parked {
    pub(super) fn insert(&mut self, key: LaneKey, lane: ParkedLane) {
        match lane.row.state {
            RowState::Blocked | RowState::Paused => self.needing_attention += 1,
            RowState::Retrying { at } => _ = self.later.insert((at, key.clone())),
            RowState::CatchingUp => self.is_due(&key),
        }
        self.lanes.insert(key, lane);
    }

    pub(super) fn remove(&mut self, key: &LaneKey) -> Option<ParkedLane> {
        let lane = self.lanes.remove(key)?;
        match lane.row.state {
            RowState::Blocked | RowState::Paused => self.needing_attention -= 1,
            RowState::Retrying { at } => {
                if !self.later.remove(&(at, key.clone())) {
                    self.is_due_no_more(key);
                }
            }
            RowState::CatchingUp => self.is_due_no_more(key),
        }
        Some(lane)
    }

    fn is_due(&mut self, key: &LaneKey) {
        self.due.entry(key.tenant.clone()).or_default().keys.insert(key.key.clone());
    }

    fn is_due_no_more(&mut self, key: &LaneKey) {
        if let Some(due) = self.due.get_mut(&key.tenant) {
            due.keys.remove(&key.key);
            if due.keys.is_empty() {
                self.due.remove(&key.tenant);
            }
        }
    }

    pub(super) fn get(&self, key: &LaneKey) -> Option<&ParkedLane> {
        self.lanes.get(key)
    }

    pub(super) fn contains(&self, key: &LaneKey) -> bool {
        self.lanes.contains_key(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&LaneKey, &ParkedLane)> {
        self.lanes.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// The number of lanes that need attention.
    pub(super) fn needing_attention(&self) -> usize {
        self.needing_attention
    }

    /// Makes a lane due, no matter what it waits for, perhaps without the event before which it
    /// waits.
    pub(super) fn resume(&mut self, key: &LaneKey, skip: Option<Arc<Skip>>) {
        if let Some(mut lane) = self.remove(key) {
            lane.row.state = RowState::CatchingUp;
            lane.row.skip = skip.or(lane.row.skip.take());
            self.insert(key.clone(), lane);
        }
    }

    /// The due lane whose turn it is to read. Tenants that are throttled are passed over.
    pub(super) fn next(&mut self, now: SystemTime, mut is_throttled: impl FnMut(&TenantId) -> bool) -> Option<LaneKey> {
        while let Some((_, key)) = self.later.first().filter(|(at, _)| *at <= now).cloned() {
            self.later.pop_first();
            self.is_due(&key);
        }
        let mut free = |tenant: &&TenantId| !is_throttled(tenant);
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.due.range::<TenantId, _>((after, Bound::Unbounded)).map(|(tenant, _)| tenant).find(&mut free);
        let tenant = later.or_else(|| self.due.keys().find(&mut free))?.clone();
        let due = self.due.get_mut(&tenant)?;
        let after = due.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let key = due.keys.range::<Arc<str>, _>((after, Bound::Unbounded)).next().or_else(|| due.keys.first())?.clone();
        due.last = Some(key.clone());
        self.last = Some(tenant.clone());
        Some(LaneKey { tenant, key })
    }

    /// When the next lane that waits for a time is due; none if no lane does.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Any lane that is due.
    pub(super) fn any_due(&self, now: SystemTime) -> Option<LaneKey> {
        let due = self
            .due
            .iter()
            .find_map(|(tenant, due)| Some(LaneKey { tenant: tenant.clone(), key: due.keys.first()?.clone() }));
        due.or_else(|| Some(self.later.first().filter(|(at, _)| *at <= now)?.1.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::cursor::{Progress, Snapshot};

    fn lane(tenant: &str, key: &str) -> LaneKey {
        LaneKey { tenant: TenantId::parse(tenant).unwrap(), key: key.into() }
    }

    fn parked(state: RowState) -> ParkedLane {
        let progress = Progress::at(Snapshot::nothing());
        ParkedLane { row: LaneRow { progress, state, attempts: 0, skip: None }, max_events: None }
    }

    /// Simulates a reading: the lane is removed, and inserted again when its reading ends.
    fn turn(lanes: &mut Parked, throttled: &str) -> Option<String> {
        let key = lanes.next(SystemTime::UNIX_EPOCH, |tenant| tenant.as_str() == throttled)?;
        let lane = lanes.remove(&key).unwrap();
        lanes.insert(key.clone(), lane);
        Some(format!("{}/{}", key.tenant, key.key))
    }

    #[test]
    fn tenants_take_turns_and_so_do_lanes_of_a_tenant() {
        let mut lanes = Parked::default();
        for key in 0..1_000 {
            lanes.insert(lane("many", &format!("{key:04}")), parked(RowState::CatchingUp));
        }
        lanes.insert(lane("one", "a"), parked(RowState::CatchingUp));
        let turns: Vec<_> = (0..5).map(|_| turn(&mut lanes, "nobody").unwrap()).collect();
        assert_eq!(turns, ["many/0000", "one/a", "many/0001", "one/a", "many/0002"]);
        assert_eq!(turn(&mut lanes, "one").unwrap(), "many/0003");
        assert_eq!(turn(&mut lanes, "many").unwrap(), "one/a");
    }

    #[test]
    fn a_lane_is_due_at_its_time_or_when_it_is_resumed() {
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lanes = Parked::default();
        lanes.insert(lane("t", "later"), parked(RowState::Retrying { at: at(2) }));
        lanes.insert(lane("t", "soon"), parked(RowState::Retrying { at: at(1) }));
        lanes.insert(lane("t", "blocked"), parked(RowState::Blocked));
        lanes.insert(lane("t", "paused"), parked(RowState::Paused));
        assert_eq!((lanes.len(), lanes.needing_attention(), lanes.next_due()), (4, 2, Some(at(1))));
        assert_eq!((lanes.next(start, |_| false), lanes.any_due(start)), (None, None));
        assert_eq!(lanes.next(at(1), |_| false), Some(lane("t", "soon")));
        assert_eq!((lanes.next_due(), lanes.any_due(at(1))), (Some(at(2)), Some(lane("t", "soon"))));
        lanes.remove(&lane("t", "soon"));
        lanes.resume(&lane("t", "blocked"), None);
        assert_eq!((lanes.needing_attention(), lanes.next(at(1), |_| false)), (1, Some(lane("t", "blocked"))));
        lanes.remove(&lane("t", "blocked"));
        lanes.remove(&lane("t", "later"));
        lanes.remove(&lane("t", "paused"));
        assert_eq!(
            (lanes.len(), lanes.needing_attention(), lanes.next_due(), lanes.any_due(at(9))),
            (0, 0, None, None)
        );
        assert!(lanes.due.is_empty() && lanes.later.is_empty(), "removed lanes leave nothing behind");
    }
}
