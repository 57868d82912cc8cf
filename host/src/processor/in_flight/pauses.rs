//! Pauses of the processor, of tenants and of lanes. Pure.
//!
//! A paused lane is left behind with the pause as its reason. When the pause ends, it reads the log
//! from its row onwards.

use std::sync::Arc;

use super::{
    InFlight, Skip, Weighted,
    lane::{Feed, Lane, LaneStop},
};
use crate::{
    model::{handler::Reason, ids::LaneKey},
    processor::{
        lane_checkpoints::{LaneRow, LaneState, RowState},
        pauses::Pause,
    },
    tenants::replacements::REPLACED,
};

impl<T: Weighted> InFlight<T> {
    /// Replaces the pauses that operators or settings requested. Work under way ends normally, and
    /// nothing more starts. A lane that waits without a pause continues: its row may have been
    /// written after the pause was lifted. Parked lanes are visited only if the pauses have
    /// changed.
    pub fn pause(&mut self, pauses: Vec<Pause>) {
        let changed = self.pauses.as_ref() != Some(&pauses);
        let mut affected: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        self.pauses = Some(pauses);
        for key in &affected {
            let paused = self.is_paused(key);
            let Some(lane) = self.lanes.get_mut(key).filter(|_| !paused) else { continue };
            lane.stop.take_if(|stop| matches!(stop.state, LaneState::Paused(_)));
            if let Some(row) = lane.row.as_mut().filter(|row| row.state == RowState::Paused) {
                row.state = RowState::CatchingUp;
            }
        }
        if changed {
            let waits = |row: &LaneRow| row.state == RowState::Paused;
            let differs = |key: &LaneKey, row: &LaneRow| self.is_paused(key) != waits(row);
            let parked =
                self.parked.iter().filter(|(key, lane)| lane.row.state != RowState::Blocked && differs(key, &lane.row));
            let differing: Vec<(LaneKey, bool)> = parked.map(|(key, lane)| (key.clone(), waits(&lane.row))).collect();
            for (key, waited) in differing {
                if waited {
                    self.parked.resume(&key, None);
                } else {
                    affected.push(key);
                }
            }
        }
        for key in &affected {
            self.apply_pause(key);
            self.park_or_remove(key);
        }
    }

    /// Why the whole processor is paused, if it is.
    pub fn paused(&self) -> Option<&Reason> {
        self.pauses().find(|pause| pause.covers_processor()).map(|pause| &pause.reason)
    }

    pub(super) fn pauses(&self) -> impl Iterator<Item = &Pause> {
        self.pauses.iter().flatten()
    }

    /// Whether a pause of its tenant or key covers a lane.
    pub(super) fn is_paused(&self, key: &LaneKey) -> bool {
        self.pauses().any(|pause| !pause.covers_processor() && pause.covers(key))
    }

    /// Why a lane is paused, if its tenant's own processor replaces this one.
    pub(super) fn replaced(&self, key: &LaneKey) -> Option<Reason> {
        let replacement = self.pauses().find(|pause| pause.reason.class == REPLACED && pause.covers(key));
        replacement.map(|pause| pause.reason.clone())
    }

    /// Stops a lane that is paused: it is left behind, with the pause as its reason.
    pub(super) fn apply_pause(&mut self, key: &LaneKey) {
        let Some(pause) = self.pauses().find(|pause| !pause.covers_processor() && pause.covers(key)) else { return };
        let (cursor, reason) = (self.cursor, pause.reason.clone());
        if self.parked.get(key).is_some_and(|lane| lane.row.state.needs_attention()) {
            return;
        }
        self.unpark(key);
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(cursor));
        let waits = |state: &LaneState| matches!(state, LaneState::Blocked(_) | LaneState::Paused(_));
        if lane.stop.as_ref().is_some_and(|stop| waits(&stop.state))
            || lane.row.as_ref().is_some_and(|row| row.state.needs_attention())
        {
            return;
        }
        lane.stop = Some(LaneStop {
            page: cursor,
            state: LaneState::Paused(reason),
            attempts: lane.row.as_ref().map_or(0, |row| row.attempts),
            event_position: None,
            skip: None,
        });
        lane.feed = Feed::Detached;
        lane.drop_queue();
    }

    /// Resumes a waiting lane, on request or because a new version runs, perhaps without the event
    /// before which it waits. It stays stopped while a pause covers it.
    pub fn resume(&mut self, key: &LaneKey, skip: Option<Arc<Skip>>) {
        self.parked.resume(key, skip.clone());
        if let Some(row) = self.lanes.get_mut(key).and_then(|lane| lane.row.as_mut()) {
            row.state = RowState::CatchingUp;
            row.skip = skip.or(row.skip.take());
        }
        self.apply_pause(key);
    }
}
