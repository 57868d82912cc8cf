//! Operators' decisions about the processor: pauses, and resumed lanes. Pure.

use std::time::{Duration, Instant};

use super::{Command, Core, Now, Surroundings};
use crate::processor::{in_flight::Weighted, lane_checkpoints::ResumedLane, pauses::Pause};

/// Time between two reads of operators' decisions.
const DECISIONS_INTERVAL: Duration = Duration::from_millis(250);

/// Operators' decisions, as of the last read.
pub(super) struct Operators {
    /// Their pauses.
    pauses: Vec<Pause>,
    /// The number of changes of tenants' own processors that were applied.
    pub(super) replaced: u64,
    /// When their decisions were last read; none before the first time.
    read_at: Option<Instant>,
    /// Whether they may have decided something since then.
    pub(super) changed: bool,
    /// Whether a failure policy asks to pause the processor.
    pub(super) pause_requested: bool,
}

impl Operators {
    pub(super) fn new() -> Self {
        Operators { pauses: Vec::new(), replaced: 0, read_at: None, changed: true, pause_requested: false }
    }

    /// How long until their decisions are read again; none if nothing has changed.
    pub(super) fn due(&self, now: Now) -> Option<Duration> {
        let since = self.read_at.map_or(Duration::MAX, |read| now.since(read));
        self.changed.then(|| DECISIONS_INTERVAL.saturating_sub(since))
    }
}

impl<T: Weighted + Default> Core<T> {
    /// The pause, or the read of pauses, that must come before anything starts. Changes of tenants'
    /// own processors are not applied during a commit: it may write rows of lanes that waited when
    /// it began.
    pub(super) fn read_pauses(&mut self, host: &impl Surroundings) -> Option<Command<T>> {
        if self.operators.read_at.is_none() {
            return Some(Command::ReadDecisions);
        }
        // Before the commit that blocks the lane, so that a crash between the two leaves no
        // processor running that should be paused.
        if !self.commits.under_way && std::mem::take(&mut self.operators.pause_requested) {
            return Some(Command::Pause);
        }
        (!self.commits.under_way && host.has_other_replacements()).then_some(Command::ReadReplacements)
    }

    /// Applies operators' decisions.
    pub(super) fn decided(
        &mut self,
        pauses: Vec<Pause>,
        of_tenants: Vec<Pause>,
        replaced: u64,
        resumed: Vec<ResumedLane>,
        more: bool,
        now: Now,
    ) {
        (self.operators.read_at, self.operators.changed) = (Some(now.mono), more);
        self.operators.pauses = pauses;
        // A lane that was resumed may still be paused.
        self.replaced(of_tenants, replaced);
        for ResumedLane { lane, skip } in resumed {
            self.in_flight.resume(&lane, skip);
        }
        self.lane_reads.due = self.in_flight.next_due();
    }

    /// Applies all pauses, with the latest of settings and of tenants' own processors.
    pub(super) fn replaced(&mut self, of_tenants: Vec<Pause>, replaced: u64) {
        (self.state_changed, self.lane_reads.search, self.redeliveries.search) = (true, true, true);
        self.operators.replaced = replaced;
        self.in_flight.pause(self.operators.pauses.iter().cloned().chain(of_tenants).collect());
    }
}
