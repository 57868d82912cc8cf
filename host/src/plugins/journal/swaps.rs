//! Figures of recent swaps, for their history entries.
//!
//! An entry is completed in two steps: when the version has handled its first event, and some
//! seconds later. The second step adds the number of lanes that use the version by then.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    db::{Error, Session},
    model::ids::ProcessorId,
    plugins::{
        history,
        registry::{Registry, SwapReport},
    },
    processor::code::TAKEOVER,
};

/// The entries of recent swaps that are not complete, by processor.
#[derive(Default)]
pub(super) struct SwapRecords(BTreeMap<ProcessorId, SwapRecord>);

/// The entry of a recent swap.
pub(in crate::plugins) struct SwapRecord {
    /// The id of the history entry.
    entry: i64,
    swapped_at: Instant,
    stage: RecordStage,
}

/// How far the entry of a swap is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordStage {
    /// Nothing but the swap.
    Swap,
    /// The first event that the version handled.
    FirstEvent,
    /// Also the lanes that use it.
    Complete,
}

impl RecordStage {
    /// The stage to be written once the version's first call began this long ago.
    fn after(first_call: Duration) -> Self {
        // Lanes that come later are not counted.
        if first_call > TAKEOVER { RecordStage::Complete } else { RecordStage::FirstEvent }
    }
}

impl SwapRecord {
    pub(super) fn new(entry: i64, swapped_at: Instant) -> Self {
        SwapRecord { entry, swapped_at, stage: RecordStage::Swap }
    }
}

impl SwapRecords {
    /// Adds the entry of a swap.
    pub(super) fn begin(&mut self, id: ProcessorId, record: SwapRecord) {
        self.0.insert(id, record);
    }

    /// Completes the entry of a version that was replaced.
    pub(super) async fn end(&mut self, session: &Session, id: &ProcessorId, swap: &SwapReport) -> Result<(), Error> {
        let Some(record) = self.0.remove(id) else { return Ok(()) };
        history::complete_swap(session, record.entry, record.swapped_at, &swap.stats).await
    }

    /// Writes what is known of recent swaps. Call this regularly.
    pub(super) async fn complete(&mut self, session: &Session, registry: &Registry) -> Result<(), Error> {
        let mut written = Ok(());
        self.0.retain(|id, _| registry.members().contains_key(id));
        for (id, record) in &mut self.0 {
            let stats = registry.members().get(id).map(|member| member.stats());
            let Some(stats) = stats.filter(|stats| stats.positions.is_some()) else { continue };
            let stage = RecordStage::after(stats.began.map_or(Duration::ZERO, |began| began.elapsed()));
            if stage != record.stage {
                let completed = history::complete_swap(session, record.entry, record.swapped_at, &stats).await;
                written = written.and(completed);
                record.stage = stage;
            }
        }
        self.0.retain(|_, record| record.stage != RecordStage::Complete);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_complete_once_no_more_lanes_are_counted() {
        assert_eq!(RecordStage::after(Duration::ZERO), RecordStage::FirstEvent);
        assert_eq!(RecordStage::after(TAKEOVER), RecordStage::FirstEvent);
        assert_eq!(RecordStage::after(TAKEOVER + Duration::from_nanos(1)), RecordStage::Complete);
    }
}
