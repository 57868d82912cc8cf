//! Log lines of the loop about lanes, dead letters and shed events.

use std::time::{Duration, Instant};

use super::{Engine, WorkResults};
use crate::{
    model::{
        handler::{LogRoom, Reason},
        ids::LaneKey,
    },
    processor::{
        lane_checkpoints::{LaneCheckpoint, LaneState},
        outcome::DeadLetter,
    },
    tenants::replacements::REPLACED,
};

/// Approximate bytes of a log line about a stopped lane without names and reason: time, level,
/// position and remedy.
const LINE: usize = 150;
/// Time between two log lines about dead letters. A plugin may skip every event.
const DEAD_LETTER_LOG_INTERVAL: Duration = Duration::from_secs(1);

impl Engine<'_> {
    /// Logs the state of a lane once it is committed.
    pub(super) fn report_lane(&self, lane: &LaneKey, checkpoint: &LaneCheckpoint) {
        let (processor, position) = (self.id, checkpoint.event_position);
        if let LaneState::Blocked(reason) | LaneState::Retrying { reason, .. } = &checkpoint.state
            && !self.may_log(lane, checkpoint, reason)
        {
            return;
        }
        match &checkpoint.state {
            LaneState::Blocked(reason) => {
                tracing::warn!(%processor, %lane, position, %reason, "the lane is blocked; other lanes continue. To retry it: `sandmill resume {processor}`");
            }
            LaneState::Retrying { reason, .. } => {
                tracing::info!(%processor, %lane, position, %reason, attempts = checkpoint.attempts, "the lane will retry");
            }
            // The registry of plugins has logged the replacement once for the tenant.
            LaneState::Paused(reason) if reason.class == REPLACED => {
                tracing::debug!(%processor, %lane, %reason, "the lane is paused");
            }
            LaneState::Paused(reason) => tracing::info!(%processor, %lane, %reason, "the lane is paused"),
            LaneState::CatchingUp => tracing::debug!(%processor, %lane, "the lane is behind the cursor"),
        }
    }

    /// Whether the stop of a lane may be logged. Lines about a tenant's lanes count against its log
    /// volume. Lines that do not fit are dropped and counted, and a warning reports the count from
    /// time to time.
    fn may_log(&self, lane: &LaneKey, checkpoint: &LaneCheckpoint, reason: &Reason) -> bool {
        let shown = match checkpoint.state {
            LaneState::Blocked(_) => tracing::enabled!(tracing::Level::WARN),
            _ => tracing::enabled!(tracing::Level::INFO),
        };
        let bytes = LINE + self.id.as_str().len() + lane.key.len() + reason.class.len() + reason.message.len();
        // Lines that are filtered out use no volume.
        match shown.then(|| self.runner.code.current().handler.log_room(&lane.tenant, bytes)) {
            None => false,
            Some(LogRoom::Room) => true,
            Some(LogRoom::Full { dropped }) => {
                if let Some(dropped) = dropped {
                    let (processor, tenant) = (self.id, &lane.tenant);
                    tracing::warn!(
                        %processor, %tenant, dropped,
                        "log lines over tenant-limits.log-kib-per-second were dropped, perhaps some about lanes that stopped; `sandmill status` shows those lanes"
                    );
                }
                false
            }
        }
    }

    /// Logs dead letters, at most one line a second: their lanes continue, so nothing else would
    /// show them.
    pub(super) fn report_dead_letters(&mut self, results: &[(LaneKey, WorkResults)]) {
        let letters = results.iter().flat_map(|(_, results)| &results.outcome.dead_letters);
        let (pending, last) = &mut self.commits.dead_letter_lines;
        *pending += letters.clone().count();
        let Some(DeadLetter { lane, position, reason, .. }) = letters.last() else { return };
        if last.is_none_or(|last| last.elapsed() >= DEAD_LETTER_LOG_INTERVAL) {
            *last = Some(Instant::now());
            let (processor, events) = (self.id, std::mem::take(pending));
            tracing::warn!(%processor, %lane, position, %reason, events, "set events aside as dead letters; their lanes continue. To list them: `sandmill dead-letters list --processor {processor}`");
        }
    }

    /// Logs what a commit shed: the total, and the lane with the most events.
    pub(super) fn report_sheds(&self, results: &[(LaneKey, WorkResults)]) {
        let sheds = || results.iter().filter_map(|(lane, results)| Some((lane, results.outcome.shed.as_ref()?.events)));
        let Some((lane, most)) = sheds().max_by_key(|(_, events)| *events).filter(|(_, events)| *events > 0) else {
            return;
        };
        let (processor, events, lanes) = (self.id, sheds().map(|(_, events)| events).sum::<usize>(), sheds().count());
        tracing::warn!(%processor, events, lanes, %lane, most, "shed events and jumped to the head of the log, because too many were pending (back-pressure shed)");
    }
}
