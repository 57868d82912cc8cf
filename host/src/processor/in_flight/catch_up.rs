//! Catch-up: the reads of the log by which lanes behind the cursor rejoin the tail. Pure.

use std::{sync::Arc, time::SystemTime};

use super::{
    InFlight, LaneWork, PageNumber, Skip, Weighted,
    lane::{Feed, FinishedWork},
};
use crate::{
    model::{
        cursor::Progress,
        ids::{LaneKey, TenantId},
    },
    processor::{
        attempts,
        gather::{Gather, GatherResult},
    },
};

/// A reading of the log that a lane behind the cursor should do.
#[derive(Clone, Debug)]
pub struct LaneReading {
    /// The lane.
    pub lane: LaneKey,
    /// Its progress.
    pub from: Progress,
    /// The cursor's progress. A reading that ends at or before this can be committed at any time.
    pub stored: Progress,
    /// The end of the last page dispatched. A reading that reaches this lets the lane rejoin.
    pub tail: Progress,
    /// Maximum number of events.
    pub limit: usize,
    /// Approximate maximum of their bytes.
    pub bytes: usize,
    /// Earlier attempts at the first event.
    pub attempts: u32,
    /// The event to set aside without a call, if there is one.
    pub skip: Option<Arc<Skip>>,
    page: PageNumber,
    cursor: PageNumber,
}

impl LaneReading {
    /// The steps of the reading.
    pub fn gather(&self) -> Gather {
        Gather::new(&self.from, &self.stored, &self.tail, self.limit, self.bytes)
    }

    /// The steps of a reading of everything up to the last page dispatched, for a caller that keeps
    /// no events.
    pub fn gather_all(&self) -> Gather {
        Gather::new(&self.from, &self.stored, &self.tail, usize::MAX, usize::MAX)
    }
}

impl<T: Weighted> InFlight<T> {
    /// The next reading of a lane behind the cursor, of at most `limit` events. Tenants that are
    /// throttled are passed over, because what their lanes read would be dropped.
    pub fn next_reading(
        &mut self,
        now: SystemTime,
        limit: usize,
        is_throttled: impl FnMut(&TenantId) -> bool,
    ) -> Option<LaneReading> {
        let (page, cursor, bytes) = (self.last_page(), self.cursor, self.bounds.lane_bytes);
        let (stored, tail) = (self.stored.clone(), self.tail().clone());
        let key = self.parked.next(now, is_throttled)?;
        let lane = self.unpark(&key)?;
        lane.reading = true;
        lane.feed = Feed::Attaching { since: page };
        let row = lane.row.as_ref()?;
        let limit = lane.max_events.unwrap_or(limit);
        Some(LaneReading {
            lane: key,
            from: row.progress.clone(),
            stored,
            tail,
            limit,
            bytes,
            attempts: row.attempts,
            skip: row.skip.clone(),
            page,
            cursor,
        })
    }

    /// When the next waiting lane is due; none if no lane waits for a time.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.parked.next_due()
    }

    /// Records what a lane read; or that it `shed` everything up to the last page dispatched, in
    /// which case there are no pieces.
    pub fn finish_reading(&mut self, reading: &LaneReading, result: GatherResult, shed: Option<T>)
    where
        T: Default,
    {
        let Some(lane) = self.lanes.get_mut(&reading.lane) else { return };
        lane.reading = false;
        if lane.stop.is_some() || lane.row.as_ref().is_some_and(|row| row.state.needs_attention()) {
            // It was paused during the reading, and its row may already say so.
            lane.feed = Feed::Detached;
            lane.drop_queue();
            self.park_or_remove(&reading.lane);
            return;
        }
        let attached = matches!(lane.feed, Feed::Attaching { .. });
        if attached && result.complete {
            lane.feed = Feed::Attached { since: reading.page };
        } else {
            lane.feed = Feed::Detached;
            lane.drop_queue();
            if result.complete {
                // Too much was queued for it during the reading. What it read past the cursor may
                // not be committed without the rest, so it reads again.
                self.park_or_remove(&reading.lane);
                return;
            }
        }
        let page = if result.complete { reading.page } else { reading.cursor };
        if let Some(results) = shed.filter(|_| result.complete) {
            self.uncommitted_bytes += results.weight();
            let end = Some(reading.tail.clone());
            lane.done.push_back(FinishedWork { page, end, first: None, events: 0, results, changes: None });
        }
        if result.pieces.is_empty() && !result.complete {
            let (end, results) = (Some(result.end), T::default());
            lane.done.push_back(FinishedWork { page, end, first: None, events: 0, results, changes: None });
        }
        for (index, (events, difference, end)) in result.pieces.into_iter().enumerate().rev() {
            let attempts = attempts::earlier(reading.attempts, index);
            let skip = reading.skip.clone();
            let work = LaneWork { page, difference, end, events, attempts, skip, parked: None, conflicts: None };
            lane.queued_bytes += work.weight();
            lane.queue.push_front(work);
        }
        self.startable.push_back(reading.lane.clone());
        self.park_or_remove(&reading.lane);
    }
}
